"""What keys and values of one sequence take, computed from cache specs: the table of engine/arch/README.md.

    python -m scripts.cache_memory

Beside ours: if every layer kept every token, and vLLM's hybrid KV cache manager, whose groups have as many layers as
the rarest kind (as many as the most frequent one, where that is less than half more) and pad the last group of a kind.
"""

from typing import NamedTuple

from engine.arch.feed_forward_spec import DenseMlp
from engine.arch.layer_spec import LayerSpec
from engine.arch.mixer_spec import LatentAttention, SelfAttention, ShortConv
from engine.arch.model_arch import ModelArch
from engine.arch.rope import Rope
from engine.cache.cache_layout import CacheGroup, CacheLayout
from engine.cache.cache_spec import page_spec

BLOCK_SIZE, ITEMSIZE = 16, 2
CONTEXTS = (4096, 32_768, 131_072)
NO_CACHE = ShortConv(dim=64, kernel_size=4)  # stands for layers with states


class Shape(NamedTuple):
    """Layers that repeat, as published."""

    name: str
    num_layers: int
    num_kv_heads: int
    head_dim: int
    every: int = 1  # each layer of this number sees all tokens
    window: int = 0
    chunk: int = 0


SHAPES = (
    Shape("Llama 3.1 8B", 32, 8, 128),
    Shape("Gemma 3 1B", 26, 1, 256, 6, window=512),
    Shape("Gemma 3 27B", 62, 16, 128, 6, window=1024),
    Shape("Gemma 3n E4B", 20, 2, 256, 5, window=512),  # 15 more layers read theirs
    Shape("gpt-oss 20B", 24, 8, 64, 2, window=128),
    Shape("gpt-oss 120B", 36, 8, 64, 2, window=128),
    Shape("Llama 4 Scout", 48, 8, 128, 4, chunk=8192),
    Shape("Qwen3-Next 80B", 48, 2, 256, 4),
)
ROPE = Rope(theta=10_000.0, dim=64)
DEEPSEEK = LatentAttention(num_heads=128, q_rank=1536, kv_rank=512, nope_dim=128, rope_dim=64, v_dim=128, rope=ROPE)


def main() -> None:
    """MiB of ours, of all that every layer would keep; and vLLM's at the longest context."""
    print("| model | 4,096 tokens | 32,768 | 131,072 | vLLM |\n|---|---|---|---|---|")
    for name, arch in models():
        cells = []
        for tokens in CONTEXTS:
            layout = CacheLayout.of(arch, BLOCK_SIZE, tokens)
            ours = layout.num_blocks(tokens) * layout.block_bytes(ITEMSIZE)
            cells.append(f"{_mib(ours)} of {_mib(_all(arch, tokens))}")
        print(f"| {name} | {' | '.join(cells)} | {_mib(_vllm(arch, CONTEXTS[-1]))} |")


def models() -> list[tuple[str, ModelArch]]:
    archs = [(shape.name, _arch(tuple(_mixer(shape, at) for at in range(shape.num_layers)))) for shape in SHAPES]
    return [*archs, ("DeepSeek V3", _arch((DEEPSEEK,) * 61))]


def _mixer(shape: Shape, at: int) -> SelfAttention | ShortConv:
    sees_all = at % shape.every == shape.every - 1
    if not sees_all and not shape.window and not shape.chunk:
        return NO_CACHE
    return SelfAttention(
        num_heads=shape.num_kv_heads,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        rope=None,
        sliding_window=0 if sees_all else shape.window,
        attention_chunk=0 if sees_all else shape.chunk,
    )


def _arch(mixers: tuple[SelfAttention | ShortConv | LatentAttention, ...]) -> ModelArch:
    layers = tuple(LayerSpec(mixer=mixer, feed_forward=DenseMlp(dim=64)) for mixer in mixers)
    return ModelArch(vocab_size=1, model_dim=1, layers=layers, max_model_len=max(CONTEXTS), norm_eps=1e-6)


def _kinds(arch: ModelArch) -> dict[CacheGroup, list[int]]:
    """Bytes of a token in each layer, by what the layer keeps."""
    kinds: dict[CacheGroup, list[int]] = {}
    for layer in arch.layers:
        spec = page_spec(layer.mixer)
        if spec is None:
            continue
        keeps = CacheGroup()
        if isinstance(layer.mixer, SelfAttention):
            keeps = CacheGroup(window=layer.mixer.sliding_window, chunk=layer.mixer.attention_chunk)
        kinds.setdefault(keeps, []).append(spec.num_elements(1) * ITEMSIZE)
    return kinds


def _all(arch: ModelArch, tokens: int) -> int:
    return sum(map(sum, _kinds(arch).values())) * tokens


def _vllm(arch: ModelArch, tokens: int) -> int:
    """All layers here have pages of one size."""
    kinds = _kinds(arch)
    least, most = (pick(map(len, kinds.values())) for pick in (min, max))
    size = most if most < 1.5 * least else least
    total = 0
    for keeps, layers in kinds.items():
        num_groups = -(-len(layers) // size)
        total += num_groups * size * layers[0] * keeps.num_blocks(tokens, 1, BLOCK_SIZE) * BLOCK_SIZE
    return total


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.0f}"


if __name__ == "__main__":
    main()
