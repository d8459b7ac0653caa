"""An in-flight request: the state from which request migration continues a stream on another replica, exactly."""

from collections.abc import Sequence

import msgspec

from cluster.link import Link
from engine.types import GenerateRequest, RequestOutput

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
            start=chunk.start + known,
            tokens=chunk.tokens[known:],
            logprobs=chunk.logprobs[known:] if chunk.logprobs is not None else None,
            cached_tokens=self._cached_tokens,
            num_migrations=self.num_migrations,
            mixed_kernels=self._mixed_kernels,
        )

    def stop_choice(self, index: int) -> None:
        """Drops one choice, whose further tokens are ignored."""
        self._tokens[index] = None
