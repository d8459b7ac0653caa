"""Beam search over the scheduler: beams are sequences that fork, are rewound to the chosen token, or end."""

from collections.abc import Callable
from typing import NamedTuple

from engine.cache.prefix_cache import BlockHashes
from engine.scheduling.beam_group import BeamGroup, one_step_of
from engine.scheduling.scheduler import Scheduler
from engine.scheduling.sequence import Sequence
from engine.types import GenerateRequest, RequestOutput, TokenLogprob

__all__ = ["BeamScheduler", "BeamStep"]

NewSequenceId = Callable[[], int]


class BeamStep(NamedTuple):
    """The search's decision after all beams of a step were sampled."""

    forked: tuple[Sequence, ...] = ()  # new sequences in the scheduler
    ended: tuple[Sequence, ...] = ()  # sequences to remove
    outputs: tuple[RequestOutput, ...] = ()  # the answers, if the search is over


class BeamScheduler:
    """The running beam searches, by request id. A beam is no choice yet: its index is one that no choice has."""

    def __init__(self, scheduler: Scheduler, max_model_len: int, new_id: NewSequenceId) -> None:
        self._scheduler = scheduler
        self._max_model_len = max_model_len
        self._new_id = new_id
        self._requests: dict[str, BeamGroup] = {}

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._requests

    def start(self, request: GenerateRequest, hashes: BlockHashes, virtual_start: int) -> Sequence:
        """One sequence computes the prompt; the beams fork from it."""
        first = self._new_beam(one_step_of(request), hashes, virtual_start)
        room = self._max_model_len - len(request.prompt)
        self._requests[request.request_id] = BeamGroup(request, first.seq_id, room)
        self._scheduler.add(first)
        return first

    def end(self, request_id: str) -> None:
        self._requests.pop(request_id, None)

    def advance(self, seq: Sequence, logprob: TokenLogprob, beams: list[Sequence]) -> BeamStep:
        """Takes the continuations of one beam. After the last one of `beams`, all beams of the search, the next beams
        are chosen.
        """
        group = self._requests[seq.request.request_id]
        seq.is_paused = True
        group.search.add_continuations(seq.seq_id, logprob)
        if not group.search.is_ready:
            return BeamStep()
        forked, kept = self._choose(group, beams)
        if group.search.is_over:
            return BeamStep(forked, (*beams, *forked), tuple(group.chunks(seq.cached_tokens or 0)))
        return BeamStep(forked, tuple(beam for beam in beams if beam.seq_id not in kept))

    def _choose(self, group: BeamGroup, beams: list[Sequence]) -> tuple[tuple[Sequence, ...], set[int]]:
        """Forks and rewinds. Returns the new sequences, and the ids of the sequences that continue."""
        parents = {beam.seq_id: beam for beam in beams}
        kept: dict[int, int] = {}  # parent's sequence -> the token with which it continues
        forked: list[Sequence] = []
        next_ids = []
        for parent_id, token in group.search.choose():
            if parent_id not in kept:
                kept[parent_id] = token
                next_ids.append(parent_id)
                continue
            child = self._fork(parents[parent_id], token)
            forked.append(child)
            next_ids.append(child.seq_id)
        group.search.assign_sequences(next_ids)
        for beam in beams:
            if beam.seq_id in kept:
                self._scheduler.rewind(beam, kept[beam.seq_id])
        return tuple(forked), set(kept)

    def _fork(self, parent: Sequence, token: int) -> Sequence:
        hashes = BlockHashes(parent.root_hash, tuple(parent.block_hashes))
        child = self._new_beam(parent.request, hashes, parent.virtual_start)
        child.tokens = [*parent.tokens[:-1], token]
        child.cached_tokens = parent.cached_tokens
        self._scheduler.fork(parent, child)
        return child

    def _new_beam(self, request: GenerateRequest, hashes: BlockHashes, virtual_start: int) -> Sequence:
        seq_id = self._new_id()
        return Sequence(seq_id, request, -1 - seq_id, request.sampling.seed, hashes, virtual_start)
