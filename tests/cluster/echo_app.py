"""A tiny ASGI app over an EngineClient, so that the cluster can be tested without serve_app."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from cluster.ranks import RankStarter
from configs.schema import Config, ModelConfig
from engine.engine import Engine
from engine.errors import MantaError
from engine.parallel.worker_commands import Rendezvous
from engine.types import EngineClient
from tests.engine.toy import ToyExecutor, request


def load_toy_engine(model: ModelConfig, cache_key: bytes, host: str, ranks: RankStarter) -> Engine:
    return Engine(ToyExecutor(num_blocks=512, step_s=0.003), model.name, model.engine, cache_key)


def load_slow_engine(model: ModelConfig, cache_key: bytes, host: str, ranks: RankStarter) -> Engine:
    """Its streams take long enough to be struck in their middle."""
    return Engine(ToyExecutor(num_blocks=512, step_s=0.01), model.name, model.engine, cache_key)


def build_echo_app(client: EngineClient, config: Config, secret: bytes) -> Any:
    async def app(
        scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[..., Awaitable[None]]
    ) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": message["type"] + ".complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        body = json.loads((await receive())["body"])
        started = False
        if "status" in body:
            data = msgspec.json.encode(await client.status(body["status"]))
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": data})
            return
        try:
            model = body.pop("model", "toy")
            async for chunk in client.generate(msgspec.structs.replace(request(**body), model=model)):
                if not started:
                    await send({"type": "http.response.start", "status": 200, "headers": []})
                    started = True
                line = json.dumps([chunk.index, list(chunk.tokens)]) + "\n"
                await send({"type": "http.response.body", "body": line.encode(), "more_body": True})
        except MantaError as error:
            if not started:
                await send({"type": "http.response.start", "status": 503, "headers": []})
            await send({"type": "http.response.body", "body": str(error).encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


def no_ranks(model: ModelConfig, rank: int, rendezvous: Rendezvous) -> None:
    raise AssertionError("a toy engine has one rank")
