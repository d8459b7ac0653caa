"""Admission control: enforces a tenant's limits on an answer while it is generated."""

from contextlib import ExitStack

from serve_app.generation.choice import ChoiceDelta
from serve_app.generation.observer import UsageSource
from serve_app.tenants.tenant import Tenant

__all__ = ["Admission"]


class Admission:
    """A StreamObserver: counts the answer among the tenant's requests in flight, and charges its tokens."""

    def __init__(self, tenant: Tenant, num_requests: int = 1) -> None:
        """`num_requests`: as many as the answer has prompts."""
        self._tenant, self._num_requests = tenant, num_requests
        self._place = ExitStack()
        self._is_prompt_charged = False

    def on_start(self, output: UsageSource) -> None:
        """Raises Overloaded if the tenant has too many requests in flight."""
        self._place.enter_context(self._tenant.request_in_flight(self._num_requests))
        self._output = output

    def on_delta(self, delta: ChoiceDelta) -> None:
        if not self._is_prompt_charged:
            self._tenant.charge(self._output.usage().prompt_tokens)
            self._is_prompt_charged = True
        self._tenant.charge(len(delta.tokens))

    def on_end(self, *, is_complete: bool, error: Exception | None) -> None:
        self._place.close()
