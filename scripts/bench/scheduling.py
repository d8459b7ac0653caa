"""What the host does for a decode step of many sequences: scheduling, and the step's tensors. No model runs.

python -m scripts.bench.scheduling --sequences 256 --context 2048
"""

import argparse
import time

import torch

from configs.schema import SchedulerConfig
from engine.cache.cache_layout import CacheGroup
from engine.cache.prefix_cache import BlockHashes
from engine.model.block_tables import BlockTables
from engine.model.forward_batch import ForwardBatch
from engine.scheduling.block_allocator import BlockAllocator
from engine.scheduling.scheduler import Scheduler
from engine.scheduling.scheduler_output import ModelOutput
from engine.scheduling.sequence import Sequence
from engine.types import GenerateRequest, SamplingParams, TokenSpan
from scripts.bench.record import percentiles, print_json

BLOCK_SIZE = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=256)
    parser.add_argument("--context", type=int, default=2048, help="tokens of each prompt")
    parser.add_argument("--windows", type=int, default=0, help="cache groups with a window of 1,024 tokens")
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    groups = (CacheGroup(), *[CacheGroup(window=1024)] * options.windows)
    print_json({**vars(options), **measure(options, groups)})


def measure(options: argparse.Namespace, groups: tuple[CacheGroup, ...]) -> dict[str, float]:
    """Milliseconds of a step, at the median."""
    width = -(-(options.context + options.steps) // BLOCK_SIZE) + 1
    blocks = BlockAllocator(options.sequences * width * len(groups), BLOCK_SIZE, b"key", groups=groups)
    config = SchedulerConfig(max_num_seqs=options.sequences, max_num_batched_tokens=10**9)
    scheduler = Scheduler(config, blocks, max_model_len=10**6)
    for seq_id in range(options.sequences):
        prompt = TokenSpan((seq_id + 1,) * options.context)
        request = GenerateRequest(
            request_id=str(seq_id), model="m", inputs=(prompt,), sampling=SamplingParams(max_tokens=10**6)
        )
        scheduler.add(Sequence(seq_id, request, 0, seq_id, BlockHashes(b"", ())))
    tables, device = BlockTables(BLOCK_SIZE, groups), torch.device("cpu")
    scheduling, tensors = [], []
    for step in range(options.steps + 1):
        began_s = time.perf_counter()
        scheduled = scheduler.schedule()
        scheduled_s = time.perf_counter()
        tables.update(scheduled)
        ForwardBatch.from_scheduled(scheduled, tables, device)
        made_s = time.perf_counter()
        scheduler.update_after_schedule(scheduled)
        scheduler.update_from_output(scheduled, ModelOutput((7,) * options.sequences))
        ended_s = time.perf_counter()
        if step:
            scheduling.append(scheduled_s - began_s + ended_s - made_s)
            tensors.append(made_s - scheduled_s)
    return {"scheduling_ms": percentiles(scheduling)["p50"], "tensors_ms": percentiles(tensors)["p50"]}


if __name__ == "__main__":
    main()
