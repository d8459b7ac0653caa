"""Tenant: the owner of one API key, its rate limits and its requests in flight."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from configs.schema import KeyLimits
from engine.errors import Overloaded, RequestError
from engine.scheduling.fair_queueing import may_join
from serve_app.tenants.cache_salt import namespace_of
from serve_app.tenants.token_bucket import TokenBucket

__all__ = ["InFlight", "OnRejection", "Tenant"]

OnRejection = Callable[[str, str], None]  # takes the key's name and the limit that has refused a request

RETRY_S = 1.0  # Retry-After when too many requests are in flight


class InFlight:
    """The requests in flight of all tenants of an ingress."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.count = 0


class Tenant:
    """Counts within one ingress, which enforces its share of the limits."""

    def __init__(
        self,
        name: str,
        in_flight: InFlight,
        num_ingresses: int,
        clock: Callable[[], float],
        seal_key: bytes = b"",
        on_rejection: OnRejection = lambda name, limit: None,
    ) -> None:
        """`name` is "" for the anonymous tenant of a server without keys."""
        self._on_rejection = on_rejection
        self.name = name
        self.seal_key = seal_key  # see sealing.py
        self.limits = KeyLimits()
        self.cache_namespace = ""  # see cache_salt.py
        self._all, self._num_own = in_flight, 0
        self._num_ingresses, self._clock = num_ingresses, clock
        self._requests: TokenBucket | None = None
        self._tokens: TokenBucket | None = None

    def configure(self, limits: KeyLimits, *, shares_cache: bool) -> None:
        """Sets the limits; requests in flight stay, and so does a bucket whose rate is unchanged."""
        if limits.requests_per_minute != self.limits.requests_per_minute:
            self._requests = self._bucket(limits.requests_per_minute)
        if limits.tokens_per_minute != self.limits.tokens_per_minute:
            self._tokens = self._bucket(limits.tokens_per_minute)
        self.limits = limits
        is_shared = shares_cache or not self.name
        self.cache_namespace = "" if is_shared else namespace_of(self.name)

    def begin_request(self) -> None:
        """Counts a request. Raises Overloaded that names the limit."""
        for bucket, limit, unit in (
            (self._requests, self.limits.requests_per_minute, "requests"),
            (self._tokens, self.limits.tokens_per_minute, "tokens"),
        ):
            if bucket is not None and bucket.wait_s > 0:
                self._on_rejection(self.name, f"{unit}_per_minute")
                raise Overloaded(f"rate limit of {self._shown}: {limit} {unit} per minute", bucket.wait_s)
        if self._requests is not None:
            self._requests.take(1)

    def add_requests(self, count: int) -> None:
        """Counts more requests: a request with several prompts is that many. Raises RequestError for more than a limit
        ever allows.
        """
        for limit, unit in (
            (self.limits.requests_per_minute, "requests per minute"),
            (self.limits.max_concurrent_requests, "concurrent requests"),
        ):
            if limit is not None and count + 1 > self._part_of(limit):
                raise RequestError(f"{count + 1} prompts are as many requests; limit of {self._shown}: {limit} {unit}")
        if self._requests is not None:
            self._requests.take(count)

    @contextmanager
    def request_in_flight(self, count: int = 1) -> Iterator[None]:
        """Counts a request in flight, or those of several prompts. Raises Overloaded that names the limit."""
        limit = self.limits.max_concurrent_requests
        if limit is not None and self._num_own + count > self._part_of(limit):
            self._on_rejection(self.name, "max_concurrent_requests")
            raise Overloaded(f"limit of {self._shown}: {limit} concurrent requests", RETRY_S)
        own, open_ = self._num_own + count - 1, self._all.count + count - 1
        if self.name and self._all.count and not may_join(own, open_, self._all.limit):
            self._on_rejection(self.name, "fair_share")
            raise Overloaded(
                f"{self._all.count} requests are open, {self._all.limit} may be, and {self._shown} has "
                f"{self._num_own} of them",
                RETRY_S,
            )
        self._num_own += count
        self._all.count += count
        try:
            yield
        finally:
            self._num_own -= count
            self._all.count -= count

    def charge(self, num_tokens: int) -> None:
        """Charges prompt and answer tokens."""
        if self._tokens is not None and num_tokens:
            self._tokens.take(num_tokens)

    def rate_limit_headers(self) -> dict[str, str]:
        """OpenAI's rate limit headers; empty without limits."""
        headers = {}
        for bucket, limit, unit in (
            (self._requests, self.limits.requests_per_minute, "requests"),
            (self._tokens, self.limits.tokens_per_minute, "tokens"),
        ):
            if bucket is not None:
                headers[f"x-ratelimit-limit-{unit}"] = str(limit)
                headers[f"x-ratelimit-remaining-{unit}"] = str(bucket.remaining)
                headers[f"x-ratelimit-reset-{unit}"] = f"{bucket.wait_s:.3g}s"
        return headers

    def check_priority(self, priority: int) -> None:
        """Raises RequestError for a priority below min_priority."""
        if priority < (least := self.limits.min_priority):
            raise RequestError(
                f"priority: must be at least {least} for {self._shown}, got {priority}; lower runs first",
                param="priority",
            )

    @property
    def _shown(self) -> str:
        return f"API key {self.name!r}" if self.name else "this server"

    def _part_of(self, limit: int) -> int:
        return -(-limit // self._num_ingresses)

    def _bucket(self, per_minute: int | None) -> TokenBucket | None:
        return TokenBucket(self._part_of(per_minute), self._clock) if per_minute is not None else None
