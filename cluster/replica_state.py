"""Replica state and KV index: an ingress's view of one replica, from its reports and the requests sent since."""

from collections import Counter
from collections.abc import Sequence

from cluster.routing import Load
from engine.types import EngineOutputs, EngineStatus

__all__ = ["ReplicaState"]


class ReplicaState:
    """Exact but for reports in flight, and for requests that other ingresses have sent since.

    A block counts as cached there from the moment that a request that fills it is sent.
    """

    def __init__(self, status: EngineStatus, block_size: int, block_hashes: Sequence[bytes] = ()) -> None:
        self.status = status
        self.block_size = block_size
        self.block_hashes = set(block_hashes)  # of the blocks that are cached there
        self._unreported: dict[str, int] = {}  # requests that `status` does not count yet -> tokens to compute
        self._coming: dict[str, list[bytes]] = {}  # requests without an output yet -> blocks that they fill
        self._num_coming: Counter[bytes] = Counter()  # block hash -> how many of these requests fill it

    def on_submit(self, request_id: str, num_tokens: int, block_hashes: Sequence[bytes]) -> None:
        """Counts a submitted request, with its tokens to compute and its block hashes."""
        self._unreported[request_id] = num_tokens
        self._coming[request_id] = [name for name in block_hashes if name not in self.block_hashes]
        self._num_coming.update(self._coming[request_id])

    def on_stop(self, request_id: str) -> None:
        self._unreported.pop(request_id, None)
        self._arrived(request_id)

    def on_report(self, report: EngineOutputs) -> None:
        self.block_hashes.difference_update(report.removed_blocks)
        self.block_hashes.update(report.stored_blocks)
        self.status = report.status
        for request_id in report.accepted:
            self._unreported.pop(request_id, None)
        for rejection in report.rejected:
            self.on_stop(rejection.request_id)
        for chunk in report.chunks:
            self._arrived(chunk.request_id)

    def load(self, num_tokens: int, block_hashes: Sequence[bytes]) -> Load:
        """The replica's load for a request of `num_tokens` tokens with these block hashes."""
        held, coming = self.block_hashes, self._num_coming
        num_shared = next(
            (i for i, name in enumerate(block_hashes) if name not in held and name not in coming), len(block_hashes)
        )
        status = self.status
        return Load(
            num_uncached_tokens=max(1, num_tokens - num_shared * self.block_size),
            num_queued_tokens=status.num_prefill_tokens + sum(self._unreported.values()),
            num_requests=status.num_running + status.num_waiting + len(self._unreported),
        )

    def _arrived(self, request_id: str) -> None:
        """Drops a request's expected blocks: they are reported by now, or will not be stored."""
        for name in self._coming.pop(request_id, ()):
            self._num_coming[name] -= 1
            if not self._num_coming[name]:
                del self._num_coming[name]
