"""The key store: tenants by API key, from config, environment and a file that is reloaded."""

import logging
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from configs.keys import ApiKey, digest, keys_to_start_with, read_keys
from configs.load import ConfigError
from configs.schema import Config
from serve_app.tenants.sealing import seal_key
from serve_app.tenants.tenant import InFlight, OnRejection, Tenant

__all__ = ["KeyStore"]

logger = logging.getLogger(__name__)

LOOK_S = 1.0  # between two checks whether the file has changed


class KeyStore:
    """Keeps hashes only. An invalid change of the file is logged and ignored."""

    def __init__(
        self,
        config: Config,
        environment: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        secret: bytes = b"",
        on_rejection: OnRejection = lambda name, limit: None,
    ) -> None:
        """Raises ConfigError if keys cannot be read, or are required and missing.

        on_rejection   called for each request that the limits of a key refuse
        secret   shared by all ingresses, for reasoning that clients keep; b"": one that ends with this process
        """
        self.rejections: Counter[tuple[str, str]] = Counter()  # of requests, by the key's name and the limit
        self._tell_rejection = on_rejection
        self._secret = secret or secrets.token_bytes(32)
        self._api, self._environment, self._clock, self._now = config.api, environment, clock, now
        self._num_ingresses = config.ingress.num_replicas
        self._in_flight = InFlight(config.ingress.max_open_requests)
        self._file = Path(config.api.api_keys_file) if config.api.api_keys_file is not None else None
        self._keys: dict[str, ApiKey] = {}  # by the key's hash
        self._tenants: dict[str, Tenant] = {}  # by name
        self._seen, self._looked_s = self._state_of_file(), clock()
        self._use(keys_to_start_with(config.api, environment))
        self.is_open = (
            not self._keys and self._file is None
        )  # fixed at start: no change of a file removes authentication
        self.anybody = self._tenant("")
        self.anybody.configure(config.api.limits, shares_cache=True)

    def find(self, key: str) -> Tenant | None:
        """The tenant of a key; None for an unknown or expired one."""
        self._look()
        # by hash: the lookup's time reveals nothing about keys
        found = self._keys.get(digest(key))
        if found is None or (found.expires is not None and found.expires <= self._now()):
            return None
        return self._tenants[found.name]

    def _look(self) -> None:
        """Reloads the file if it has changed."""
        if self._file is None or self._clock() - self._looked_s < LOOK_S:
            return
        self._looked_s = self._clock()
        if (state := self._state_of_file()) == self._seen:
            return
        self._seen = state
        try:
            self._use(read_keys(self._api, self._environment))
        except ConfigError as error:
            logger.error("the API keys stay as they were: %s", error)
        else:
            logger.warning("read %d API keys again: %s", len(self._keys), ", ".join(sorted(self._tenants)))

    def _use(self, keys: tuple[ApiKey, ...]) -> None:
        self._keys = {key.sha256: key for key in keys}
        for key in keys:
            limits = key.limits if key.limits is not None else self._api.limits
            self._tenant(key.name).configure(limits, shares_cache=key.shares_cache)

    def _tenant(self, name: str) -> Tenant:
        if name not in self._tenants:
            key = seal_key(self._secret, name)
            self._tenants[name] = Tenant(
                name, self._in_flight, self._num_ingresses, self._clock, key, self._on_rejection
            )
        return self._tenants[name]

    def _on_rejection(self, name: str, limit: str) -> None:
        self.rejections[name, limit] += 1
        self._tell_rejection(name, limit)

    def _state_of_file(self) -> tuple[int, ...]:
        try:
            stat = self._file.stat() if self._file is not None else None
        except OSError:
            return ()
        return (stat.st_ino, stat.st_size, stat.st_mtime_ns) if stat is not None else ()
