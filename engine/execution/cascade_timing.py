"""Times cascade attention: from how many sequences and shared tokens on it is faster on this device."""

import logging
import time
from collections.abc import Callable

import torch
from torch import Tensor

from engine.cache.kv_cache import KVCache
from engine.device.cuda_capture import Capture, CaptureError, Run
from engine.model.block_tables import BlockTables
from engine.model.cascade import CascadeThresholds, PrefixGroup
from engine.model.decoder import Decoder
from engine.model.forward_batch import ForwardBatch
from engine.scheduling.scheduler_output import ScheduledSequence, SchedulerOutput

__all__ = ["LEAST_CASE", "AttentionTimer", "measure_cascade_thresholds"]

log = logging.getLogger(__name__)

ROWS = (4, 8, 16, 32, 64)
TOKENS = (256, 512, 1024, 2048, 4096, 8192)
LEAST_CASE = CascadeThresholds(((ROWS[0], TOKENS[0]),))  # the smallest case that is timed
OWN_TOKENS = 128  # of each sequence, behind the shared prefix
LEAST_GAIN = 0.03  # below it is noise
REPEATS = 5

Times = Callable[[int, int], tuple[float, float] | None]


def measure_cascade_thresholds(
    times: Times, broadcast: Callable[[bool], bool] = lambda wins: wins
) -> CascadeThresholds:
    """Times few of all cases: what pays for some rows pays for more.

    times       takes rows and shared tokens, returns seconds without and with cascade attention; None: out of blocks
    broadcast   takes this rank's finding, returns the first rank's
    """
    steps: list[tuple[int, int]] = []
    for rows in ROWS:
        for tokens in TOKENS:
            if steps and tokens >= steps[-1][1]:
                break  # it pays for fewer rows with so many tokens
            found = times(rows, tokens)
            if found is None:
                break
            apart, together = found
            if broadcast(together < (1 - LEAST_GAIN) * apart):
                steps.append((rows, tokens))
                break
    return CascadeThresholds(tuple(steps))


class AttentionTimer:
    """Times the attention layers of a decoder on blocks with undefined contents."""

    def __init__(
        self, decoder: Decoder, kv: KVCache, max_model_len: int, max_rows: int, device: torch.device, capture: Capture
    ) -> None:
        self._decoder, self._kv, self._device, self._capture = decoder, kv, device, capture
        self._max_context_len, self._max_rows = max_model_len, max_rows

    def __call__(self, rows: int, tokens: int) -> tuple[float, float] | None:
        """Seconds of `rows` sequences that share `tokens`, without and with cascade attention."""
        block_size = self._kv.block_size
        num_shared, num_own = tokens // block_size, -(-(OWN_TOKENS + 1) // block_size)
        needed = num_shared + rows * num_own
        if rows > self._max_rows or needed > self._kv.num_blocks or tokens + OWN_TOKENS >= self._max_context_len:
            return None
        shared, own = tuple(range(num_shared)), range(num_shared, needed)
        cache_groups = self._kv.layout.groups
        sequences = tuple(
            ScheduledSequence(row, tokens + OWN_TOKENS, (0,), (blocks,) * len(cache_groups), True)
            for row in range(rows)
            for blocks in [(*shared, *own[row * num_own : (row + 1) * num_own])]
        )
        scheduled, group = SchedulerOutput(0, sequences), PrefixGroup(num_shared * block_size, tuple(range(rows)))
        tables = BlockTables.of(scheduled, block_size, cache_groups)
        apart, together = (
            ForwardBatch.from_scheduled(scheduled, tables, self._device, groups) for groups in ((), (group,))
        )
        return self._seconds(apart), self._seconds(together)

    def _seconds(self, batch: ForwardBatch) -> float:
        """The least of several runs."""

        def run() -> Tensor:
            return self._decoder.attend(batch, self._kv)

        try:
            run = self._capture(run)
        except CaptureError as error:
            log.warning("attention is timed without a CUDA graph: %s", error)
        run()
        return min(self._once(run) for _ in range(REPEATS))

    def _once(self, run: Run) -> float:
        if self._device.type != "cuda":
            began_s = time.perf_counter()
            run()
            return time.perf_counter() - began_s
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        run()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1000
