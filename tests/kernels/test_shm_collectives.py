"""Sums over shared memory: the same bits at every rank, for sizes around a piece, and no waiting for who is gone."""

import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from kernels.native.compiler import find_compiler
from kernels.shm_collectives.cpu import CAPACITY, ShmCollectives

COMPILER = find_compiler()
pytestmark = [pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")]


@pytest.fixture(params=[2, 3])
def ranks(request: pytest.FixtureRequest) -> Iterator[list[ShmCollectives]]:
    assert COMPILER is not None
    name = f"manta-test-{secrets.token_hex(6)}"
    ranks = [ShmCollectives(COMPILER, name, rank, request.param, 1.0) for rank in range(request.param)]
    ranks[0].unlink()
    yield ranks
    for rank in ranks:
        rank.abort()
        rank.close()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_ranks_get_the_sum_and_the_first_one_all_parts(ranks: list[ShmCollectives], dtype: torch.dtype) -> None:
    most = CAPACITY // dtype.itemsize
    with ThreadPoolExecutor(len(ranks)) as pool:
        for count in (1, 17, most - 1, most, most + 1, 2 * most + 33):
            parts = [torch.randn(count).to(dtype) for _ in ranks]
            expected = torch.stack(parts).float().sum(0).to(dtype)
            gathered = list(pool.map(lambda rank, x: rank.gather(x), ranks, parts))
            assert gathered[0] is not None and torch.equal(gathered[0], torch.stack(parts))
            assert gathered[1:] == [None] * (len(ranks) - 1)
            list(pool.map(lambda rank, x: rank.all_reduce(x), ranks, parts))
            torch.testing.assert_close(parts[0], expected)
            assert all(torch.equal(part, parts[0]) for part in parts)


def test_nobody_waits_for_a_rank_that_is_gone(ranks: list[ShmCollectives]) -> None:
    threading.Timer(0.1, ranks[-1].abort).start()
    with pytest.raises(RuntimeError, match="gone"):
        ranks[0].all_reduce(torch.ones(3))


def test_a_rank_that_does_not_come_is_an_error(ranks: list[ShmCollectives]) -> None:
    with pytest.raises(RuntimeError, match="does not answer"):
        ranks[0].all_reduce(torch.ones(3))
