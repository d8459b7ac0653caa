"""Model registry: the served models by name and alias, with their context lengths."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from configs.schema import Config
from engine.errors import RequestError, Unavailable, UnknownModel
from engine.runtime.fleet_status import FleetStatus
from engine.types import EngineClient, EngineStatus
from serve_app.model.text_model import TextModel

__all__ = ["Registry", "ServedModel", "ShowFleet"]

ShowFleet = Callable[[str], Awaitable[FleetStatus]]

STATUS_TIMEOUT_S = 2.0


class ServedModel(msgspec.Struct, frozen=True):
    id: str  # a name or an alias
    name: str  # of the model
    created: int  # unix seconds
    max_model_len: int  # tokens, prompt and answer together


class Registry:
    def __init__(
        self,
        client: EngineClient,
        config: Config,
        models: Mapping[str, TextModel],
        created: int,
        fleet: ShowFleet | None = None,
    ) -> None:
        """`fleet`: the fleet status of a model; None: there is no cluster."""
        self._client = client
        self._fleet = fleet
        self._created = created  # unix seconds, sent as the models' `created`
        self._by_id = {id_: models[model.name] for model in config.models for id_ in (model.name, *model.aliases)}
        self._resting = {one.name for one in config.models if one.autoscaling and one.autoscaling.min_replicas == 0}
        self._context_lens: dict[str, int] = {}  # as reported by engines; constant while the model is served

    def resolve(self, id_: str) -> TextModel:
        """The model of an id. An empty id means the only model."""
        if not id_:
            models = {model.name: model for model in self._by_id.values()}
            if len(models) > 1:
                raise RequestError(f"model: missing; served are {', '.join(self._by_id)}", param="model")
            return next(iter(models.values()))
        if id_ not in self._by_id:
            raise UnknownModel(f"there is no model {id_[:256]!r}; served are {', '.join(self._by_id)}", param="model")
        return self._by_id[id_]

    def all(self) -> list[ServedModel]:
        return [self.find(id_) for id_ in self._by_id]

    def find(self, id_: str) -> ServedModel:
        """Raises UnknownModel."""
        model = self.resolve(id_)
        return ServedModel(id_, model.name, self._created, self._context_lens.get(model.name, model.max_model_len))

    async def context_len(self, model: TextModel) -> int:
        """The context length of the model and its engine in tokens, prompt and answer together."""
        if model.name not in self._context_lens:
            try:
                async with asyncio.timeout(STATUS_TIMEOUT_S):
                    reported = (await self._client.status(model.name)).max_model_len
            except Exception:  # `generate` will raise a dead engine's error
                return model.max_model_len
            self._context_lens[model.name] = min(reported, model.max_model_len)
        return self._context_lens[model.name]

    async def check_engines(self) -> None:
        """Raises if an engine does not answer within the deadline. A model that scales to zero may have none."""
        async with asyncio.timeout(STATUS_TIMEOUT_S):
            await asyncio.gather(*(self._check(name) for name in {model.name for model in self._by_id.values()}))

    async def statuses(self) -> list[EngineStatus]:
        """The statuses of all models that have an engine now."""

        async def ask(name: str) -> EngineStatus | None:
            try:
                async with asyncio.timeout(STATUS_TIMEOUT_S):
                    return await self._client.status(name)
            except Exception:  # no status without an answer
                return None

        found = await asyncio.gather(*(ask(name) for name in dict.fromkeys(m.name for m in self._by_id.values())))
        return [status for status in found if status is not None]

    async def fleet(self) -> list[FleetStatus]:
        """The fleet status of every model, also of one without an engine; empty where there is no cluster."""
        if self._fleet is None:
            return []
        return list(await asyncio.gather(*map(self._fleet, dict.fromkeys(m.name for m in self._by_id.values()))))

    async def _check(self, name: str) -> None:
        try:
            await self._client.status(name)
        except Unavailable:
            if name not in self._resting:
                raise
