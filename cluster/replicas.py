"""Replica discovery: one ingress's links to the replicas of one model."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from cluster.fleet_log import FleetLog
from cluster.link import Health, Link, connect
from cluster.router import Router
from cluster.wire import WireError
from configs.schema import WireConfig

__all__ = ["Discover", "Replicas"]

logger = logging.getLogger(__name__)

Discover = Callable[[], Awaitable[list[tuple[str, int]]]]  # the addresses where replicas listen now


class Replicas:
    """Keeps a link to every replica that `discover` returns. Lives on one event loop, from `start` to `close`."""

    def __init__(
        self,
        discover: Discover,
        wake: Callable[[], Awaitable[None]],
        ingress_id: str,
        secret: bytes,
        config: WireConfig,
        router: Router,
    ) -> None:
        """`wake` scales up from zero: it asks the control plane for a replica and may wait until there is one."""
        self.router = router
        self.log = FleetLog()
        self._discover = discover
        self._ingress_id = ingress_id
        self._secret = secret
        self._config = config
        self._links: dict[tuple[str, int], Link] = {}
        self._connecting: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self._wake = wake
        self._waking: asyncio.Future[None] | None = None
        self._look: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._look = asyncio.create_task(self._keep_looking())

    async def close(self) -> None:
        for task in [self._look, self._waking, *self._connecting.values()]:
            if task is not None:
                task.cancel()
        for link in list(self._links.values()):
            link.close("the ingress is closing")

    def wake(self) -> None:
        """Scales up from zero, with one call of `wake` at a time."""
        if self._waking is None or self._waking.done():
            self._waking = asyncio.ensure_future(self._wake())

    @property
    def up(self) -> list[Link]:
        """The replicas that may get new work."""
        return [link for link in self._links.values() if link.health is Health.UP]

    @property
    def alive(self) -> list[Link]:
        return [link for link in self._links.values() if link.health is not Health.DEAD]

    async def changed(self) -> None:
        """Returns when a replica was added, lost or reported, or after a heartbeat's time."""
        self._changed.clear()
        try:
            await asyncio.wait_for(self._changed.wait(), self._config.heartbeat_s)
        except TimeoutError:
            pass

    async def _keep_looking(self) -> None:
        while True:
            try:
                addresses = await self._discover()
            except Exception as error:  # the control plane may be down; connected replicas go on
                logger.info("cannot look for replicas now: %s", error)
                addresses = []
            for address in addresses:
                if address not in self._links and address not in self._connecting:
                    self._connecting[address] = asyncio.create_task(self._connect(address))
            # a request may wait for the first replica
            await asyncio.sleep(self._config.discover_s if self._links else min(0.1, self._config.discover_s))

    async def _connect(self, address: tuple[str, int]) -> None:
        try:
            link = await connect(*address, self._ingress_id, self._secret, self._config, self._on_change)
        except (WireError, OSError) as error:
            logger.info("cannot connect to the replica at %s:%d: %s", *address, error)
        else:
            self._links[address] = link
            self._changed.set()
        finally:
            del self._connecting[address]

    def _on_change(self, link: Link) -> None:
        if link.health is Health.DEAD:
            self._links = {address: other for address, other in self._links.items() if other is not link}
        self._changed.set()
