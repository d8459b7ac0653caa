"""Fair queueing between tenants: dynamic queue thresholds, and start-time fair queueing over tokens.

`may_join` is the dynamic threshold of shared buffers (Choudhury and Hahne, "Dynamic Queue Length Thresholds for
Shared-Memory Packet Switches", 1998): a tenant may hold a multiple of the free places, so that a new one finds
room. `VirtualClock` is start-time fair queueing (Goyal, Vin and Cheng, 1996) over tokens, like the virtual token
counter of "Fairness in Serving Large Language Models" (Sheng et al., 2024); an idle tenant earns no credit.
"""

from engine.types import GenerateRequest

__all__ = ["VirtualClock", "expected_tokens", "may_join"]

SHARE_OF_FREE = 4
EXPECTED_TOKENS = 256  # of an answer, whose length is unknown at admission


def may_join(num_own: int, num_all: int, limit: int) -> bool:
    """Whether a tenant that holds `num_own` of `num_all` places may have one more: each gets 4/5 of what is left."""
    return num_all < limit and num_own < SHARE_OF_FREE * (limit - num_all)


def expected_tokens(request: GenerateRequest, *, is_first: bool) -> int:
    """The expected cost of one choice in tokens; the prompt counts for the first one."""
    width = request.beam.width if request.beam is not None else 1
    return width * min(request.sampling.max_tokens, EXPECTED_TOKENS) + (len(request.prompt) if is_first else 0)


class VirtualClock:
    """Gives each request a virtual start time in tokens; the earliest is served first.

    One tenant alone is served in the order of arrival.
    """

    def __init__(self) -> None:
        self._now = 0  # virtual start of the request served last
        self._next: dict[str, int] = {}  # tenant -> virtual end of its last request

    def start(self, tenant: str, cost: int) -> int:
        """The virtual start of a request that arrives now. `cost` in tokens."""
        start = max(self._now, self._next.get(tenant, 0))
        self._next[tenant] = start + cost
        return start

    def served(self, start: int) -> None:
        """A request with this virtual start has begun."""
        if start > self._now:
            self._now = start
            self._next = {tenant: end for tenant, end in self._next.items() if end > start}
