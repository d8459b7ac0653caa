"""An in-flight request: the state from which request migration continues a stream on another replica, exactly."""

from collections.abc import Sequence

import msgspec

from cluster.link import Link, ReplicaLost
from engine.types import GenerateRequest, OutputTrace, Placement, RequestOutput

__all__ = ["InFlightRequest"]


class InFlightRequest:
    """The tokens that the client has, by choice. From them any replica can continue the request."""

    def __init__(self, request: GenerateRequest) -> None:
        resumed = request.resume or ((),) * request.n
        self._request = request
        self._tokens: list[list[int] | None] = [None if tokens is None else list(tokens) for tokens in resumed]
        self._cached_tokens: int | None = None
        self._num_placements = 0
        self.num_migrations = 0  # replicas that were lost or drained after they had accepted it
        self._kernels: str | None = None  # of the replica that has it, or had it last
        self._mixed_kernels = False
        self.is_traced = bool(request.traceparent)
        self._lost = ("", "", False)  # the replica that was lost last, why, and whether that was planned
        self._placements: list[Placement] = []  # of a traced request, those that no output has told

    @property
    def is_over(self) -> bool:
        return all(tokens is None for tokens in self._tokens)

    @property
    def has_begun(self) -> bool:
        return self._cached_tokens is not None

    @property
    def model(self) -> str:
        return self._request.model

    def preferred(self, links: Sequence[Link]) -> Sequence[Link]:
        """Of these replicas, those that compute what the client has to the last bit; all if there are none."""
        if not self.has_begun:
            return links
        same = [link for link in links if link.replica_state.status.kernels == self._kernels]
        return same or links

    def on_placed(self, kernels: str) -> bool:
        """A replica with these kernels has it. True if others began it, for the first time."""
        is_first = self.has_begun and kernels != self._kernels and not self._mixed_kernels
        self._mixed_kernels |= is_first
        self._kernels = kernels
        return is_first

    def on_lost(self, replica_id: str, error: ReplicaLost) -> None:
        """The replica that had it is lost, or drains."""
        self.num_migrations += 1
        self._lost = replica_id, str(error), error.is_planned

    def add_placement(self, placement: Placement) -> None:
        """The next output tells it, with the replica that was lost before."""
        id_, why, is_planned = self._lost
        placed = msgspec.structs.replace(placement, lost_id=id_, lost_why=why, is_planned=is_planned)
        self._placements.append(placed)

    def take_placements(self) -> tuple[Placement, ...]:
        taken = tuple(self._placements)
        self._placements.clear()
        return taken

    def remaining(self) -> GenerateRequest:
        """The request for the tokens that the client does not have yet.

        Each call gives it a new id, so that late outputs of an earlier placement cannot be mistaken for this one's.
        """
        request, resume = self._request, tuple(None if tokens is None else tuple(tokens) for tokens in self._tokens)
        if self._num_placements:
            request = msgspec.structs.replace(request, request_id=f"{request.request_id}~{self._num_placements}")
        self._num_placements += 1
        return msgspec.structs.replace(request, resume=resume) if any(resume) or None in resume else request

    def record(self, chunk: RequestOutput) -> RequestOutput | None:
        """Records an output. Returns its new part, None if nothing is new.

        Raises ValueError for an output that begins after the known tokens: some were lost on the way.
        """
        tokens = self._tokens[chunk.index]
        if tokens is None:
            return None
        known = len(tokens) - chunk.start
        if known < 0:
            raise ValueError(f"a chunk begins at token {chunk.start}, {len(tokens)} are known")
        if known >= len(chunk.tokens) and chunk.finish_reason is None:
            return None
        if self._cached_tokens is None:
            self._cached_tokens = chunk.cached_tokens
        tokens += chunk.tokens[known:]
        if chunk.finish_reason is not None:
            self._tokens[chunk.index] = None
        return msgspec.structs.replace(
            chunk,
            request_id=self._request.request_id,
            start=chunk.start + known,
            tokens=chunk.tokens[known:],
            logprobs=chunk.logprobs[known:] if chunk.logprobs is not None else None,
            cached_tokens=self._cached_tokens,
            num_migrations=self.num_migrations,
            mixed_kernels=self._mixed_kernels,
            trace=self._trace(chunk) if self._placements else chunk.trace,
        )

    def _trace(self, chunk: RequestOutput) -> OutputTrace:
        trace = chunk.trace or OutputTrace(0.0)
        return msgspec.structs.replace(trace, placements=self.take_placements())

    def stop_choice(self, index: int) -> None:
        """Drops one choice, whose further tokens are ignored."""
        self._tokens[index] = None
