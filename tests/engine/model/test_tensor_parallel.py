"""Several ranks in one process, a thread each, give the logits of one."""

import threading

import pytest
import torch

from engine.cache.cache_layout import CacheLayout
from engine.cache.kv_cache import KVCache
from engine.checkpoint.open import open_weights, read_arch
from engine.checkpoint.shard import shard_arch
from engine.checkpoint.source import resolve
from engine.model.block_tables import BlockTables
from engine.model.decoder import Decoder
from engine.model.forward_batch import ForwardBatch
from engine.parallel.tensor_parallel import TensorParallel
from engine.scheduling.scheduler_output import ScheduledSequence, SchedulerOutput
from kernels.kernel_set import load_kernels
from tests.engine.model.tiny import CPU, Runner, error, oracle

TOKENS = torch.randint(97, (40,), generator=torch.Generator().manual_seed(4)).tolist()


class Threads:
    """What ranks do together, where each is a thread."""

    name = "threads"
    in_order = True

    def __init__(self, size):
        self._tensors = [None] * size
        self._met = threading.Barrier(size)

    def of(self, rank):
        return _End(self, rank)

    def exchange(self, rank, x):
        self._tensors[rank] = x.clone()
        self._met.wait(20)
        everyone = list(self._tensors)
        self._met.wait(20)
        return everyone


class _End:
    name, in_order = "threads", True

    def __init__(self, threads, rank):
        self._threads, self._rank = threads, rank

    def all_reduce(self, x):
        x.copy_(torch.stack(self._threads.exchange(self._rank, x)).float().sum(0))

    def gather(self, x):
        everyone = self._threads.exchange(self._rank, x)
        return torch.stack(everyone) if self._rank == 0 else None


def logits_of_ranks(folder, size, pieces):
    """Rank 0's logits after each piece of TOKENS."""
    files = resolve(str(folder))
    arch = read_arch(files)
    kernels = load_kernels(CPU, torch.float32)
    threads = Threads(size)
    found, failed = [], []

    def run(rank):
        try:
            tp = TensorParallel(rank, size, threads.of(rank))
            decoder = Decoder(arch, open_weights(files, arch, torch.float32, CPU), kernels, 64, tp)
            layout = CacheLayout.of(shard_arch(arch, size), 4)
            num_groups = len(layout.groups)
            kv = KVCache(layout, 10 * num_groups, torch.float32, CPU, num_states=1)
            for start, stop in pieces:
                blocks = tuple(tuple(range(10 * g, 10 * g + -(-stop // 4))) for g in range(num_groups))
                piece = ScheduledSequence(0, start, tuple(TOKENS[start:stop]), blocks, True, state=0)
                scheduled = SchedulerOutput(0, (piece,))
                tables = BlockTables.of(scheduled, 4, layout.groups)
                out = decoder.forward(ForwardBatch.from_scheduled(scheduled, tables, CPU), kv)
                if rank == 0:
                    found.append(out)
        except BaseException as error:
            failed.append(error)
            threads._met.abort()

    workers = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failed:
        raise failed[0]
    return torch.cat(found)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("llama3", 2),
        ("phi3", 2),
        ("olmo2", 4),
        ("olmo3", 2),
        ("gemma2", 2),
        ("gemma3", 4),
        ("gemma3n", 2),
        ("gemma4", 2),
        ("gemma4", 4),
        ("gemma4 moe", 2),
        ("granite", 2),
        ("qwen3 moe", 2),
        ("mixtral", 4),
        ("gpt oss", 2),
        ("glm4", 2),
        ("llama4", 2),
        ("cohere2", 2),
        ("qwen2 moe", 2),
        ("minimax m2", 4),
        ("granite moe shared", 2),
        ("hunyuan", 2),
        ("apertus", 2),
        ("deepseek v2", 2),
        ("deepseek v3", 4),
        ("glm 5", 2),
        ("mistral4", 2),
        ("longcat flash", 2),
        ("minimax", 2),
        ("qwen3 next", 2),
        ("qwen3.5", 2),
        ("kimi linear", 2),
        ("ling 3", 2),
        ("lfm2", 2),
        ("lfm3", 2),
        ("laguna", 2),
        ("trinity", 2),
        ("granite swa", 2),
        ("granite hybrid dense", 2),
        ("nemotron h", 2),
        ("falcon h1", 2),
        ("mimo v2 flash", 4),
        ("phi", 2),
        ("gpt neox", 4),
        ("falcon", 2),
        ("falcon groups", 4),
        ("minicpm3", 2),
        ("nanochat", 2),
        ("kolibri", 2),
        ("a.x k1", 2),
        ("flint", 2),
        ("phi moe", 2),
    ],
)
def test_several_ranks_give_the_logits_of_one(name, size, tmp_path):
    oracle(name).save_pretrained(tmp_path)
    alone = Runner(tmp_path, max_model_len=64)
    expected = torch.cat([alone.step([(0, 0, TOKENS[:30])]), alone.step([(0, 30, TOKENS[30:])])])
    assert error(logits_of_ranks(tmp_path, size, [(0, 30), (30, 40)]), expected) < 1e-5
