"""What an ingress believes of one replica: what it last reported, and what was sent there since."""

from collections.abc import Sequence

from cluster.routing import Load
from engine.types import EngineStatus, StepReport

__all__ = ["Belief"]


class Belief:
    """Of the blocks it is exact, up to reports on their way; of the load also, but for what other ingresses sent."""

    def __init__(self, status: EngineStatus, block_size: int, names: Sequence[bytes] = ()) -> None:
        self.status = status
        self.block_size = block_size
        self.names = set(names)  # of the blocks that can be shared there
        self._unreported: dict[str, int] = {}  # requests that `status` does not count yet -> tokens to compute

    def sent(self, request_id: str, num_tokens: int) -> None:
        """A request is on its way there, with that many tokens to compute as far as is known."""
        self._unreported[request_id] = num_tokens

    def stopped(self, request_id: str) -> None:
        self._unreported.pop(request_id, None)

    def heard(self, report: StepReport) -> None:
        self.names.difference_update(report.forgotten)
        self.names.update(report.published)
        self.status = report.status
        for request_id in report.accepted:
            self._unreported.pop(request_id, None)
        for refusal in report.refused:
            self._unreported.pop(refusal.request_id, None)

    def load(self, num_tokens: int, names: Sequence[bytes]) -> Load:
        """How the replica looks to a request of `num_tokens` tokens whose full blocks have these names."""
        num_shared = next((i for i, name in enumerate(names) if name not in self.names), len(names))
        status = self.status
        return Load(
            num_uncached_tokens=max(1, num_tokens - num_shared * self.block_size),
            num_queued_tokens=status.num_prefill_tokens + sum(self._unreported.values()),
            num_requests=status.num_running + status.num_waiting + len(self._unreported),
        )
