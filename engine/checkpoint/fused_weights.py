"""Fused checkpoint tensors (qkv_proj, gate_up_proj), split into the matrices that are stacked in them."""

from torch import Tensor

from engine.checkpoint.arch import ModelArch
from engine.checkpoint.matrix import Matrix
from engine.checkpoint.shard import Shard
from engine.checkpoint.tensor_source import TensorSource
from engine.errors import ModelError

__all__ = ["Unfused"]


class Unfused:
    """Splits `self_attn.qkv_proj` and `mlp.gate_up_proj`; other tensors pass unchanged."""

    def __init__(self, source: TensorSource, arch: ModelArch) -> None:
        self._source = source
        self._places: dict[str, tuple[str, Shard]] = {}  # matrix -> its fused tensor, its rows there
        q_dim, kv_dim = arch.num_heads * arch.head_dim, arch.num_kv_heads * arch.head_dim
        stacks = {
            "self_attn.qkv_proj": {"self_attn.q_proj": q_dim, "self_attn.k_proj": kv_dim, "self_attn.v_proj": kv_dim},
            "mlp.gate_up_proj": {"mlp.gate_proj": arch.ffn_dim, "mlp.up_proj": arch.ffn_dim},
        }
        for name in source.names():
            for stack, rows in stacks.items():
                if name.endswith((f".{stack}.weight", f".{stack}.bias")):
                    self._split(name, stack, rows)

    def _split(self, name: str, stack: str, rows: dict[str, int]) -> None:
        start = 0
        for part, count in rows.items():
            self._places[name.replace(stack, part)] = name, Shard(0, start, start + count)
            start += count
        found = self._source.shape(name)
        if found[0] != start:
            raise ModelError(f"{name} has the shape {list(found)}, the model's config says {start} rows")

    def names(self) -> set[str]:
        return self._source.names() - {stack for stack, _ in self._places.values()} | set(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self._places:
            return self._source.shape(name)
        stack, rows = self._places[name]
        return (rows.stop - rows.start, *self._source.shape(stack)[1:])

    def read(self, name: str, part: Shard | None = None) -> Tensor:
        return self._source.read(*self._place(name, part))

    def read_matrix(self, name: str, part: Shard | None = None) -> Matrix:
        return self._source.read_matrix(*self._place(name, part))

    def _place(self, name: str, part: Shard | None) -> tuple[str, Shard | None]:
        if name not in self._places:
            return name, part
        stack, rows = self._places[name]
        assert part is None or part.dim == 0
        return stack, rows if part is None else Shard(0, rows.start + part.start, rows.start + part.stop)
