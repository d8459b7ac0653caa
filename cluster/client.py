"""The cluster client: routes each request to a replica, and migrates it to another one when that is lost."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import NamedTuple

from cluster.fleet_log import FleetLog
from cluster.in_flight import InFlightRequest
from cluster.link import Health, Link, ReplicaLost
from cluster.replica_store import ReplicaStore
from cluster.replicas import Replicas
from cluster.state_shard import StateLimits
from configs.schema import WireConfig
from engine.cache.prefix_cache import hash_blocks, root_hash
from engine.errors import EngineFailed, MantaError, Overloaded, RequestError, Unavailable, UnknownModel
from engine.runtime.fleet_status import MigrationReason
from engine.runtime.output_queue import OutputQueue
from engine.types import EngineStatus, GenerateRequest, Placement, RequestOutput

__all__ = ["ClusterClient", "FleetView"]

logger = logging.getLogger(__name__)

MAX_FAILURES = 3  # engines that may fail on one request without a token between: then it may be the cause


class _Placed(NamedTuple):
    """A request's placement: its replica, its output queue, and the id that it has there."""

    link: Link
    output_queue: OutputQueue
    request_id: str  # its id there

    def stop(self, index: int | None = None) -> None:
        self.link.stop(self.request_id, index)


class FleetView(NamedTuple):
    links: list[Link]
    log: FleetLog
    num_unplaced: int  # requests that wait for a replica


class ClusterClient:
    """Owns the in-flight requests of one ingress and its links to the replicas of each model."""

    def __init__(
        self,
        replicas: Mapping[str, Replicas],
        config: WireConfig,
        max_open_requests: int,
        cache_key: bytes,
        on_migration: Callable[[str, MigrationReason], None] = lambda model, reason: None,
        on_mixed_kernels: Callable[[str], None] = lambda model: None,
    ) -> None:
        """on_migration      called for every request migration: with the model and the reason
        on_mixed_kernels  called with the model where a stream went on on a replica with other kernels
        """
        self._replicas = replicas
        self._cache_key = cache_key  # the one that the engines' prefix caches have
        self._config = config
        self._max_open_requests = max_open_requests
        self._in_flight: dict[str, tuple[InFlightRequest, _Placed | None]] = {}
        self._on_migration, self._on_mixed_kernels = on_migration, on_mixed_kernels

    @property
    def num_open(self) -> int:
        return len(self._in_flight)

    def start(self) -> None:
        for replicas in self._replicas.values():
            replicas.start()

    async def close(self) -> None:
        for replicas in self._replicas.values():
            await replicas.close()

    def store(self, kind: str, limits: StateLimits) -> ReplicaStore:
        """What all replicas keep of a kind of state for all ingresses."""
        replicas = self._replicas.values()
        return ReplicaStore(lambda: [link for one in replicas for link in one.alive], kind, limits)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput]:
        replicas = self._replicas_of(request.model)
        if len(self._in_flight) >= self._max_open_requests:
            raise Overloaded(f"{len(self._in_flight)} requests are open, {self._max_open_requests} may be")
        if request.request_id in self._in_flight:
            raise RequestError("a request with this id is running", param="request_id")
        in_flight = InFlightRequest(request)
        num_failures = 0
        try:
            while not in_flight.is_over:
                placed = await self._place(replicas, in_flight, request.request_id)
                try:
                    while not in_flight.is_over:
                        chunk = await placed.output_queue.next()
                        if chunk.finish_reason == "error":
                            raise ReplicaLost(chunk.error or "the engine failed", "engine failed")
                        try:
                            fresh = in_flight.record(chunk)
                        except ValueError as error:  # tokens are missing: they are computed again
                            message = f"{placed.link.replica_id} left tokens out: {error}"
                            raise ReplicaLost(message, "request lost") from None
                        if fresh is not None:
                            num_failures = 0
                            yield fresh
                except ReplicaLost as error:
                    num_failures += not error.is_planned
                    if num_failures >= MAX_FAILURES:
                        raise EngineFailed(f"{MAX_FAILURES} engines failed under this request") from error
                    in_flight.on_lost(placed.link.replica_id, error)
                    replicas.log.on_migration(placed.link.replica_id, error.reason)
                    self._on_migration(request.model, error.reason)
                    logger.info(
                        "request %s migrates from replica %s: %s", request.request_id, placed.link.replica_id, error
                    )
                finally:
                    placed.stop()
        except MantaError as error:
            error.placements = in_flight.take_placements()
            raise
        finally:
            self._in_flight.pop(request.request_id, None)

    def stop_choice(self, request_id: str, index: int) -> None:
        in_flight, placed = self._in_flight.get(request_id, (None, None))
        if in_flight is not None:
            in_flight.stop_choice(index)
        if placed is not None:
            placed.stop(index)

    async def status(self, model: str) -> EngineStatus:
        """The summed status of a model's replicas. Raises Unavailable when there is none."""
        links = self._replicas_of(model).up
        if not links:
            raise Unavailable(f"no replica of {model!r} is up")
        statuses = [link.replica_state.status for link in links]
        return EngineStatus(
            model=model,
            max_model_len=min(status.max_model_len for status in statuses),
            num_running=sum(status.num_running for status in statuses),
            num_waiting=sum(status.num_waiting for status in statuses),
            num_waiting_tokens=sum(status.num_waiting_tokens for status in statuses),
            num_prefill_tokens=sum(status.num_prefill_tokens for status in statuses),
            num_blocks=sum(status.num_blocks for status in statuses),
            num_free_blocks=sum(status.num_free_blocks for status in statuses),
            block_size=statuses[0].block_size,
            num_preemptions=sum(status.num_preemptions for status in statuses),
            num_steps=sum(status.num_steps for status in statuses),
            num_generated_tokens=sum(status.num_generated_tokens for status in statuses),
            num_prompt_tokens=sum(status.num_prompt_tokens for status in statuses),
            num_cached_tokens=sum(status.num_cached_tokens for status in statuses),
            first_token_s=max(status.first_token_s for status in statuses),
            collective=", ".join(sorted({status.collective for status in statuses} - {""})),
            kernels="; ".join(sorted({status.kernels for status in statuses} - {""})),
        )

    def view(self, model: str) -> FleetView:
        """What this client sees of a model's replicas now."""
        replicas = self._replicas_of(model)
        waiting = (one.model == model and placed is None for one, placed in self._in_flight.values())
        return FleetView(replicas.alive, replicas.log, sum(waiting))

    def _replicas_of(self, model: str) -> Replicas:
        if model not in self._replicas:
            raise UnknownModel(f"the model {model!r} is not served", param="model")
        return self._replicas[model]

    def _block_hashes(self, request: GenerateRequest, block_size: int) -> list[bytes]:
        """The block hashes of the prompt's full blocks, the same on every replica."""
        root = root_hash(self._cache_key, request.model, request.cache_salt, request.adapter)
        return hash_blocks(self._cache_key, root, request.prompt, block_size)

    async def _place(self, replicas: Replicas, in_flight: InFlightRequest, request_id: str) -> _Placed:
        """Submits the remaining request to a replica that accepts it.

        A request that has begun waits until one does; a new one is refused once every replica has refused it.
        """
        self._in_flight[request_id] = (in_flight, None)
        began_s, num_refused = time.monotonic(), 0
        deadline_s = began_s + self._config.place_timeout_s
        rejected: dict[Link, Overloaded] = {}
        while time.monotonic() < deadline_s:
            links = in_flight.preferred([link for link in replicas.up if link not in rejected])
            if not links:
                if rejected and not in_flight.has_begun:
                    raise next(iter(rejected.values()))
                if not replicas.alive:
                    replicas.wake()
                await replicas.changed()
                rejected.clear()
                continue
            rest = in_flight.remaining()
            block_hashes = self._block_hashes(rest, links[0].replica_state.block_size)
            num_tokens = len(rest.prompt) + sum(len(tokens or ()) for tokens in rest.resume)
            loads = [link.replica_state.load(num_tokens, block_hashes) for link in links]
            index, reason = replicas.router.choose(rest.session, [link.replica_id for link in links], loads)
            link, submitted_s = links[index], time.monotonic()
            placed = _Placed(link, link.submit(rest, loads[index].num_uncached_tokens, block_hashes), rest.request_id)
            try:
                await self._accepted(link, placed.output_queue, replicas)
            except Overloaded as error:
                rejected[link] = error
                num_refused += 1
                placed.stop()
                continue
            except ReplicaLost:
                num_refused += 1
                placed.stop()
                continue
            except Unavailable:  # it has failed or drains, which its next frame says
                num_refused += 1
                placed.stop()
                await replicas.changed()
                continue
            except BaseException:
                placed.stop()
                raise
            self._in_flight[request_id] = (in_flight, placed)
            if in_flight.is_traced:
                times = began_s, submitted_s, time.monotonic()
                num_tokens = loads[index].num_uncached_tokens
                in_flight.add_placement(Placement(link.replica_id, *times, num_tokens, num_refused))
            replicas.log.on_routed(link.replica_id, reason)
            if in_flight.on_placed(link.replica_state.status.kernels):
                self._on_mixed_kernels(in_flight.model)
            return placed
        raise Unavailable(f"no replica could take the request within {self._config.place_timeout_s:g} s", 5.0)

    async def _accepted(self, link: Link, output_queue: OutputQueue, replicas: Replicas) -> None:
        """Returns once the replica has accepted. If its heartbeats stop first, raises so that another replica is tried,
        if there is one.
        """
        accepted = asyncio.ensure_future(output_queue.accepted())
        try:
            while not (await asyncio.wait({accepted}, timeout=self._config.heartbeat_s))[0]:
                if link.health is not Health.UP and replicas.up:
                    raise ReplicaLost("silent before it accepted", "silent")
            accepted.result()
        finally:
            accepted.cancel()
