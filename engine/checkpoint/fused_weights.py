"""Fused checkpoint tensors (qkv_proj, gate_up_proj), split into the matrices that are stacked in them."""

from torch import Tensor

from engine.arch.feed_forward_spec import DenseMlp, MoE
from engine.arch.layer_spec import LayerSpec
from engine.arch.mixer_spec import SelfAttention
from engine.arch.model_arch import ModelArch
from engine.checkpoint.layer_names import layer_index
from engine.checkpoint.matrix import Matrix
from engine.checkpoint.shard import Shard
from engine.checkpoint.tensor_source import TensorSource
from engine.errors import ModelError

__all__ = ["Unfused"]


class Unfused:
    """Splits `qkv_proj` and `gate_up_proj`, also of a shared expert; other tensors pass unchanged."""

    def __init__(self, source: TensorSource, arch: ModelArch) -> None:
        self._source = source
        self._places: dict[str, tuple[str, Shard]] = {}  # matrix -> its fused tensor, its rows there
        for name in source.names():
            index = layer_index(name)
            if index is None or index >= len(arch.layers) or "_proj." not in name:
                continue
            for stack, rows in _stacks(arch.layers[index]).items():
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


def _stacks(layer: LayerSpec) -> dict[str, dict[str, int]]:
    """A layer's fused matrices: the rows of what is stacked in each."""
    mixer, ffn = layer.mixer, layer.feed_forward
    stacks: dict[str, dict[str, int]] = {}
    if isinstance(mixer, SelfAttention):
        q_dim, kv_dim = mixer.num_heads * mixer.head_dim, mixer.num_kv_heads * mixer.head_dim
        stacks["self_attn.qkv_proj"] = {
            "self_attn.q_proj": q_dim,
            "self_attn.k_proj": kv_dim,
            "self_attn.v_proj": mixer.num_kv_heads * (mixer.v_dim or mixer.head_dim),
        }
    shared = ffn.shared if isinstance(ffn, MoE) else ffn  # a family with experts calls a dense layer so, too
    mlps = {"mlp": ffn, "mlp.shared_experts": shared}
    for at, mlp in mlps.items():
        if isinstance(mlp, DenseMlp):
            stacks[f"{at}.gate_up_proj"] = {f"{at}.gate_proj": mlp.dim, f"{at}.up_proj": mlp.dim}
    return stacks
