"""Times work on a device: median and percentiles of repeated runs."""

import time
from collections.abc import Callable, Mapping, Sequence

import torch

__all__ = ["Work", "compare", "copies", "measure"]

REPEATS = 30  # of a graph; fewer where that takes long
MOST_MS = 400.0
CALLS = 16  # in one graph, at least: so many that the launch of the graph itself is nothing

Work = Callable[[], object]


def measure(works: Sequence[Work], device: torch.device) -> dict[str, float]:
    """Microseconds of one call. `works` do the same on other buffers, which exceed the cache together.

    On a GPU they are captured in a graph; work that cannot be captured raises.
    """
    if device.type != "cuda":
        return _percentiles([_wall_us(work) for work in works])
    calls = list(works) * -(-CALLS // len(works))
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for work in works:
            work()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        # all results are held: each call has memory of its own to write, which the cache does not keep for the next
        results = [work() for work in calls]
    del results
    for _ in range(3):
        graph.replay()
    torch.cuda.synchronize(device)
    began_s = time.perf_counter()
    graph.replay()
    torch.cuda.synchronize(device)
    once_ms = (time.perf_counter() - began_s) * 1000
    spans = []
    for _ in range(max(5, min(REPEATS, round(MOST_MS / once_ms)))):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        graph.replay()
        end.record()
        spans.append((begin, end))
    torch.cuda.synchronize(device)
    return _percentiles([begin.elapsed_time(end) * 1000 / len(calls) for begin, end in spans])


def compare(
    versions: Mapping[str, Callable[[], Sequence[Work]]], device: torch.device
) -> dict[str, dict[str, float] | str]:
    """Of each version its times, or why it has none. In turns and twice: what lies between a version's `median_us` and
    its `again_us` is noise.
    """
    times: dict[str, dict[str, float] | str] = {}
    for name, make in (*versions.items(), *versions.items()):
        before = times.get(name, {})
        if isinstance(before, str):
            continue
        try:
            timing = measure(make(), device)
        except Exception as error:  # as for want of memory, or of a peer
            times[name] = f"{type(error).__name__}: {error}".partition("\n")[0]
        else:
            times[name] = {**before, "again_us": timing["median_us"]} if before else timing
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return times


def copies(num_bytes: int, device: torch.device) -> int:
    """How many buffers of a size exceed the cache three times."""
    if device.type != "cuda":
        return 1
    kv_cache_memory_bytes = torch.cuda.get_device_properties(device).L2_cache_size
    return min(64, max(1, -(-3 * kv_cache_memory_bytes // max(1, num_bytes))))


def _wall_us(work: Work) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1e6


def _percentiles(times_us: list[float]) -> dict[str, float]:
    ordered = sorted(times_us)
    median, p10, p90 = (ordered[int(share * (len(ordered) - 1))] for share in (0.5, 0.1, 0.9))
    return {"median_us": round(median, 2), "p10_us": round(p10, 2), "p90_us": round(p90, 2)}
