"""Loads a model: from its configuration to a warmed-up executor with KV cache, sampler and CUDA graphs.

On a CPU, torch and the compiled kernels share OpenMP's threads, which read their environment once, before torch is
imported, so before this module is. With more than one thread the process needs

    OMP_WAIT_POLICY=passive   threads sleep between loops; on shared cores spinning makes a step 20 times as long
    GOMP_SPINCOUNT=1000       spin for microseconds first: the next loop mostly follows at once, and wake-ups are slow
"""

import logging
import os
import time
from collections.abc import Callable
from functools import partial

import torch

from configs.schema import EngineConfig, ModelConfig
from engine.arch.feed_forward_spec import DenseMlp, MoE
from engine.arch.layer_spec import LayerSpec
from engine.arch.mixer_spec import SelfAttention
from engine.arch.model_arch import ModelArch
from engine.cache.cache_layout import CacheLayout
from engine.cache.kv_cache import KVCache
from engine.cache.kv_offload import KVOrigin, open_offloading_connectors
from engine.checkpoint.open import open_weights, read_arch
from engine.checkpoint.shard import shard_arch
from engine.checkpoint.source import resolve
from engine.checkpoint.weight_cache import WeightCache
from engine.device.core_lending import open_core_lending
from engine.device.cpu_capture import CpuCapture
from engine.device.cuda_capture import CudaMemory, Run, cuda_capture
from engine.errors import ModelError
from engine.execution.cascade_timing import LEAST_CASE, AttentionTimer, measure_cascade_thresholds
from engine.execution.cuda_graph_cache import MAX_GRAPHS, CudaGraphCache, graphs_budget
from engine.execution.cuda_graphs import CudaGraphs, LargestStep, UnpaddedGraphs
from engine.execution.inline_executor import InlineExecutor
from engine.execution.loaded_model import LoadedModel
from engine.execution.warm_up import Warmable, launch_all, warm_up
from engine.model.cascade import CascadeThresholds
from engine.model.decoder import Decoder
from engine.parallel.tensor_parallel import TensorParallel
from engine.sampling.sampler import Sampler
from engine.structured_output.grammar import TokenTable, Vocabulary
from kernels.compile_ahead import MAX_PROCESSES, CompilePool, noted, settle_keys
from kernels.kernel_set import KernelSet, load_kernels

__all__ = [
    "cache_bytes_of",
    "cascades",
    "check_deterministic",
    "device_of",
    "load_executor",
    "warm_up_or_explain",
]

MAX_RECORDED_ROWS = 64  # on a CPU; what Python does between kernels is little beside more rows
CPU_CACHE_BYTES = 1 << 30  # KV cache on a CPU, unless the config sets it

log = logging.getLogger(__name__)


def load_executor(
    model: ModelConfig,
    vocabulary: Vocabulary | None = None,
    encode: Callable[[bytes], list[int]] | None = None,
    tp: TensorParallel | None = None,
    all_reduce_min: Callable[[int], int] = lambda num_blocks: num_blocks,
    cache_key: bytes = b"",
) -> InlineExecutor:
    """Loads a model, or one rank's shard of it. Raises ModelError, which says what to change.

    vocabulary, encode   the tokenizer's, needed for structured output
    all_reduce_min       takes the KV blocks that this rank has memory for, returns the least of all ranks'
    cache_key            keys the host tier: engines with another key share no blocks
    """
    tp = tp or TensorParallel()
    clock = _Clock()
    config = model.engine
    if config.cache.block_size % 2:
        raise ModelError(f"engine.cache.block_size is {config.cache.block_size}, it must be even")
    device = device_of(config)
    dtype = torch.bfloat16 if config.dtype == "auto" else getattr(torch, config.dtype)
    if device.type == "cpu":
        torch.set_num_threads(config.num_threads or max(1, int(model.resources.num_cpus)))
    cache_dtype = torch.float8_e4m3fn if config.cache.kv_cache_dtype == "fp8" else dtype
    _check_cache_dtype(config, cache_dtype, device)
    compilers = CompilePool(_num_compilers(tp)) if device.type == "cuda" else None
    files = resolve(model.model)
    arch = read_arch(files)
    max_model_len = _max_context_len(config, arch)
    clock.lap("source")
    int8_activations = config.activation_quantization == "int8"
    # on a GPU weights are not kept packed, nor those of another dtype, which stay as they are
    cache = WeightCache(config.weight_cache_bytes if device.type == "cpu" and dtype == torch.bfloat16 else 0)
    kernels = load_kernels(device, dtype, bool(config.deterministic), cache_dtype, int8_activations, cache)
    if config.deterministic:
        check_deterministic(kernels, dtype, tp)
    if compilers is not None:
        compilers.begin_where_cold()  # its processes import torch while weights are read
    clock.lap("kernels")
    local_arch = shard_arch(arch, tp.size)
    keeps_ints = config.keep_quantized and kernels.quantized_linear is not None

    def build() -> Decoder:
        weights = open_weights(files, arch, dtype, device, keeps_ints, cache)
        return Decoder(arch, weights, kernels, max_model_len, tp)

    settings = f"{kernels.name}, {dtype}, keeps integers: {keeps_ints}, rank {tp.rank} of {tp.size}"
    decoder = cache.load(files, settings, build)
    clock.lap("weights")
    layout = CacheLayout.of(local_arch, config.cache.block_size, max_model_len)
    num_states = _num_states(config, arch)
    num_blocks = all_reduce_min(_num_blocks(config, layout, num_states, max_model_len, cache_dtype, device))
    kv = KVCache(layout, num_blocks, cache_dtype, device, num_states)
    origin = KVOrigin(model, files, arch, kernels.name, cache_key)
    connectors = open_offloading_connectors(origin, kv, tp.rank, tp.size)
    clock.lap("cache")
    loaded = LoadedModel(decoder, kv, kernels, max_model_len, device, tp)
    if compilers is not None:
        _compile_ahead(compilers, config, loaded)
        clock.lap("compiling")
    cascade = None
    if cascades(config, device) and _has_attention_alone(arch):
        cascade = _measured_thresholds(config, loaded)
        clock.lap("cascade")
        log.info("prefixes are read once from these rows and tokens on: %s", cascade.steps or "never")
    table = TokenTable(vocabulary, arch.vocab_size, encode) if vocabulary is not None else None
    sampler = Sampler(kernels, arch.vocab_size, device, table)
    graphs = _graphs(config, loaded, _graph_cache(config, loaded))
    executor = InlineExecutor(loaded, sampler, graphs, _async_scheduling(config, device), cascade, connectors)
    executor.kernels = _described(kernels, dtype, device, tp)
    if device.type == "cpu" and config.num_threads is None and kernels.deterministic and tp.group is None:
        executor.cores = open_core_lending(torch.get_num_threads())
    if device.type == "cuda":
        sampler.warm_up()
        warm_up_or_explain(executor, config)
        clock.lap("warm-up")
    log.info(
        "%s ready on %s in %s; %s kernels, %d blocks of %d tokens, context %d",
        model.name,
        device,
        clock,
        kernels.name,
        num_blocks,
        kv.block_size,
        max_model_len,
    )
    return executor


def _described(kernels: KernelSet, dtype: torch.dtype, device: torch.device, tp: TensorParallel) -> str:
    """What the numbers depend on: engines that say the same compute the same, to the last bit."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    parts = kernels.name, str(dtype).removeprefix("torch."), name, f"{tp.size} ranks" if tp.size > 1 else ""
    return ", ".join(filter(None, parts))


def cascades(config: EngineConfig, device: torch.device) -> bool:
    """Whether cascade attention is on. A row's bits then depend on its batch."""
    return config.cascade_attention == "auto" and device.type == "cuda" and not config.deterministic


def device_of(config: EngineConfig) -> torch.device:
    has_gpu = torch.cuda.is_available()
    if config.device == "cuda" and not has_gpu:
        raise ModelError("engine.device is cuda, but torch sees no GPU here; set it to cpu or auto")
    return torch.device("cuda" if has_gpu and config.device != "cpu" else "cpu")


def _async_scheduling(config: EngineConfig, device: torch.device) -> bool:
    return device.type == "cuda" if config.async_scheduling is None else config.async_scheduling


def _num_compilers(tp: TensorParallel) -> int:
    """The compile processes of this rank: others may be on the same machine."""
    return max(1, min(MAX_PROCESSES, (os.cpu_count() or 1) // tp.size))


def _compile_ahead(compilers: CompilePool, config: EngineConfig, loaded: LoadedModel) -> None:
    """Compiles the kernels of the warm-up, and of the timing of cascade attention before it (the same for any number
    of rows). A failure costs time and is raised again at the launch; with several ranks it is raised now, since the
    others may be inside a collective.
    """
    cascade = LEAST_CASE if cascades(config, loaded.device) and _has_attention_alone(loaded.decoder.arch) else None
    sampler = Sampler(loaded.kernels, loaded.decoder.arch.vocab_size, loaded.device)
    graphs = _graphs(config, loaded, CudaGraphCache(lambda run: run))
    executor = InlineExecutor(loaded, sampler, graphs, cascade=cascade)
    is_launching = True
    try:
        settle_keys()
        with noted() as variants:
            sampler.warm_up()
            launch_all(executor, config.scheduler)
        is_launching = False
        compilers.compile_noted(variants)
    except Exception as error:
        if is_launching and loaded.tp.group is not None:
            raise
        log.warning("kernels are compiled as they are launched: %s: %s", type(error).__name__, error)
    finally:
        executor.close()
        compilers.close()


def _graph_cache(config: EngineConfig, loaded: LoadedModel) -> CudaGraphCache | None:
    device, tp, recorder = loaded.device, loaded.tp, loaded.kernels.recorder
    if config.enforce_eager:
        return None
    if device.type != "cuda":
        # not what ranks meet in
        can = recorder is not None and tp.group is None and _is_kernels_alone(loaded.decoder.arch)
        return CudaGraphCache(CpuCapture(recorder)) if recorder is not None and can else None
    all_reduce_min = None if tp.group is None else partial(tp.all_reduce_min, most=MAX_GRAPHS, device=device)
    return CudaGraphCache(cuda_capture(device), CudaMemory(device), _graphs_bytes(config, device), all_reduce_min)


def _has_attention_alone(arch: ModelArch) -> bool:
    """Whether cascade attention can read shared prefixes once in all layers."""
    return all(isinstance(layer.mixer, SelfAttention) for layer in arch.layers)


def _is_kernels_alone(arch: ModelArch) -> bool:
    """Whether a step on a CPU is calls of compiled kernels and nothing else."""
    if arch.norm != "rms" or arch.normed_embedding or arch.per_layer_embedding is not None:
        return False
    return all(_is_layer_of_kernels(layer) for layer in arch.layers)


def _is_layer_of_kernels(layer: LayerSpec) -> bool:
    mixer, ffn = layer.mixer, layer.feed_forward
    if layer.norms.startswith("parallel") or layer.output_scale or not isinstance(mixer, SelfAttention):
        return False
    if layer.normed_residual is not None or layer.shortcut is not None or layer.laurel_rank:
        return False
    if isinstance(ffn, MoE):
        router = ffn.router
        scales = router.scales_inputs or router.norm or router.expert_scales or ffn.gates_shared
        if router.corrects_logits or router.scoring == "sparse_mixer":
            return False
        if scales or router.num_zero_experts or ffn.norms_apart or ffn.latent_dim:
            return False
        ffn = ffn.shared
    return (
        (ffn is None or isinstance(ffn, DenseMlp) and not ffn.sparsity)
        and mixer.query_scaling is None
        and not mixer.v_dim
        and not mixer.qkv_clip
        and mixer.qk_norm != "rotated"
        and not mixer.v_norm
        and not mixer.values_are_keys
        and mixer.gate is None
    )


def _graphs(config: EngineConfig, loaded: LoadedModel, cache: CudaGraphCache | None) -> CudaGraphs | None:
    if cache is None or config.enforce_eager:
        return None
    decoder, kv = loaded.decoder, loaded.kv
    on_gpu = loaded.device.type == "cuda"
    max_rows = config.scheduler.max_num_seqs * (1 + config.scheduler.num_speculative_tokens)
    kind = CudaGraphs if on_gpu else UnpaddedGraphs
    return kind(
        lambda batch: decoder.hidden(batch, kv),
        cache,
        LargestStep(
            max_rows if on_gpu else min(max_rows, MAX_RECORDED_ROWS),
            -(-loaded.max_model_len // kv.block_size),
            decoder.arch.is_recurrent,
            len(kv.layout.groups),
        ),
        block_size=kv.block_size,
        device=loaded.device,
    )


def _measured_thresholds(config: EngineConfig, loaded: LoadedModel) -> CascadeThresholds:
    """Rank 0's timing, broadcast to all: ranks must call their collectives alike."""
    decoder, kv, _, max_model_len, device, tp = loaded
    capture = cuda_capture(device) if not config.enforce_eager else _uncaptured
    times = AttentionTimer(decoder, kv, max_model_len, config.scheduler.max_num_seqs, device, capture)
    try:
        return measure_cascade_thresholds(
            times, lambda wins: bool(tp.broadcast(torch.tensor([wins], device=device).long()))
        )
    except RuntimeError as error:  # out of memory too
        raise ModelError(
            f"timing shared prefixes failed ({error}); set engine.cascade_attention to off to do without"
        ) from error


def _uncaptured(run: Run) -> Run:
    return run


def _check_cache_dtype(config: EngineConfig, cache_dtype: torch.dtype, device: torch.device) -> None:
    if cache_dtype != torch.float8_e4m3fn:
        return
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 9):
        raise ModelError("engine.cache.kv_cache_dtype is fp8, which this GPU cannot compute with; set it to auto")
    if device.type == "cpu" and config.deterministic:
        raise ModelError(
            "engine.deterministic cannot be held on a CPU with engine.cache.kv_cache_dtype fp8; set that to auto, or "
            "engine.deterministic to false"
        )


def warm_up_or_explain(executor: Warmable, config: EngineConfig) -> None:
    """Raises ModelError, which says what to change, if the largest step fails."""
    try:
        warm_up(executor, config.scheduler)
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # a rank that does not sample has not synchronized yet
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"the largest step does not fit beside weights and keys and values ({error}); lower "
            "engine.cache.gpu_memory_utilization, or engine.scheduler.max_num_batched_tokens or max_num_seqs"
        ) from error
    except RuntimeError as error:
        if config.enforce_eager:
            raise
        raise ModelError(
            f"a step failed before anybody asked for one ({error}); if it could not be recorded as a CUDA graph, set "
            "engine.enforce_eager to true"
        ) from error


def check_deterministic(kernels: KernelSet, dtype: torch.dtype, tp: TensorParallel) -> None:
    """Raises ModelError if the kernels or the all-reduce are not batch-invariant."""
    if tp.group is not None and tp.size > 2 and not tp.group.in_order:
        raise ModelError(
            f"engine.deterministic cannot be held over tensor_parallel_size {tp.size} on GPUs or several nodes; "
            "set it to false, or tensor_parallel_size to 2 or less"
        )
    if kernels.deterministic:
        return
    if dtype != torch.bfloat16:
        name = str(dtype).removeprefix("torch.")
        raise ModelError(
            f"engine.deterministic cannot be held on a CPU in {name}; set engine.dtype to bfloat16, or "
            "engine.deterministic to false"
        )
    raise ModelError(
        "engine.deterministic cannot be held on a CPU without a C compiler; install one (gcc, cc or clang), or set "
        "engine.deterministic to false"
    )


def _max_context_len(config: EngineConfig, arch: ModelArch) -> int:
    wanted = config.max_model_len or arch.max_model_len
    if wanted > arch.max_model_len:
        raise ModelError(f"engine.max_model_len is {wanted}, the model was made for {arch.max_model_len} tokens")
    return wanted


def _num_blocks(
    config: EngineConfig,
    layout: CacheLayout,
    num_states: int,
    max_model_len: int,
    cache_dtype: torch.dtype,
    device: torch.device,
) -> int:
    cache = config.cache
    least = layout.num_blocks(1)
    if cache.num_blocks is not None:
        if cache.num_blocks < least:
            raise ModelError(f"engine.cache.num_blocks is {cache.num_blocks}, a token of this model takes {least}")
        return cache.num_blocks
    block_bytes = layout.block_bytes(cache_dtype.itemsize)
    num_bytes = cache.kv_cache_memory_bytes
    if num_bytes is None:
        num_bytes = _free_gpu_bytes(config, device) if device.type == "cuda" else CPU_CACHE_BYTES
    if cache.kv_cache_memory_bytes is not None or device.type == "cuda":  # else states come on top
        state_bytes = layout.state_bytes(cache_dtype.itemsize)
        if num_states * state_bytes > num_bytes:
            raise ModelError(
                f"{max(0, num_bytes)} bytes are left for the cache, {num_states} recurrent states take {state_bytes} "
                "each; lower engine.scheduler.max_num_seqs or engine.cache.num_state_snapshots, or raise "
                "engine.cache.kv_cache_memory_bytes"
            )
        num_bytes -= num_states * state_bytes
    most = config.scheduler.max_num_seqs * layout.num_blocks(max_model_len, config.scheduler.max_num_batched_tokens)
    if not block_bytes:
        return most  # every layer has a state
    if num_bytes < least * block_bytes:
        raise ModelError(
            f"{max(0, num_bytes)} bytes are left for keys and values, one block takes {least * block_bytes}; raise "
            "engine.cache.kv_cache_memory_bytes, or on a GPU gpu_memory_utilization where others leave room for it"
        )
    return min(num_bytes // block_bytes, most)


def _num_states(config: EngineConfig, arch: ModelArch) -> int:
    """Slots for the states of running sequences, and for snapshots."""
    if not arch.is_recurrent:
        return 0
    snapshots = config.cache.num_state_snapshots
    return config.scheduler.max_num_seqs + (config.scheduler.max_num_seqs if snapshots is None else snapshots) + 1


def _free_gpu_bytes(config: EngineConfig, device: torch.device) -> int:
    torch.cuda.empty_cache()  # scratch memory of loading
    free, total = torch.cuda.mem_get_info(device)
    reserved = torch.cuda.memory_reserved(device)
    return cache_bytes_of(free, total, reserved, config.cache.gpu_memory_utilization, _graphs_bytes(config, device))


def _graphs_bytes(config: EngineConfig, device: torch.device) -> int:
    """The memory budget of CUDA graphs, which lie outside the caching allocator."""
    return graphs_budget(torch.cuda.mem_get_info(device)[1]) if not config.enforce_eager else 0


def cache_bytes_of(free: int, total: int, ours: int, fraction: float, set_aside: int = 0) -> int:
    """Bytes for the KV cache on a GPU, of which this process has `ours` already (weights) and `set_aside` for graphs.

    `fraction` (gpu_memory_utilization) bounds this process alone. Beside all processes of the GPU a tenth of it stays
    free, or 1 - fraction if that is less.
    """
    return int(min(total * fraction - ours, free - total * min(0.1, 1 - fraction))) - set_aside


class _Clock:
    """Times the phases of loading, for the log."""

    def __init__(self) -> None:
        self._last = self._first = time.perf_counter()
        self._laps: list[str] = []

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self._laps.append(f"{name} {now - self._last:.2f}")
        self._last = now

    def __str__(self) -> str:
        return f"{self._last - self._first:.2f} s ({', '.join(self._laps)})"
