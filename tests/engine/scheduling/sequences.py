"""Sequences for tests that drive the scheduler's classes without a model."""

from engine.cache.prefix_cache import BlockHashes, hash_blocks, root_hash
from engine.scheduling.sequence import Sequence
from engine.types import GenerateRequest, SamplingParams, TokenSpan

KEY = b"k"
ROOT = root_hash(KEY, "m", "")
BLOCK_SIZE = 4


def sequence(
    seq_id: int, prompt: list[int], max_tokens: int = 8, priority: int = 0, start: int = 0, tenant: str = ""
) -> Sequence:
    request = GenerateRequest(
        request_id=f"r{seq_id}",
        model="m",
        inputs=(TokenSpan(tuple(prompt)),),
        sampling=SamplingParams(max_tokens=max_tokens),
        priority=priority,
        tenant=tenant,
    )
    hashes = BlockHashes(ROOT, tuple(hash_blocks(KEY, ROOT, prompt, BLOCK_SIZE)))
    return Sequence(seq_id, request, 0, seq_id, hashes, start)
