"""python -m tests.serve_app.responses.ingress URL: an ingress that keeps its state in this Redis, on a free port.

Its engine says a letter every 50 ms, eight of them; it prints its port.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator

import uvicorn

from configs.schema import ApiConfig
from engine.types import GenerateRequest, RequestOutput
from serve_app.app import build_app
from serve_app.tenants.key_store import KeyStore
from serve_app.workers.pool import WorkerPool
from tests.serve_app.scripted import ScriptedClient, config, says
from tests.serve_app.toy import toy_model

TEXT = "abcdefgh"


class SlowClient(ScriptedClient):
    async def generate(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput]:
        self.script = [item for piece in says(TEXT) for item in (piece, 0.05)]
        async for output in super().generate(request):
            yield output


async def main() -> None:
    settings, workers = config(ApiConfig(state_redis_url=sys.argv[1])), WorkerPool()
    keys = KeyStore(settings, {}, secret=b"of all ingresses")
    app = build_app(SlowClient(), settings, {"toy": toy_model()}, workers, keys)
    server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", 0, lifespan="off", access_log=False, log_config=None))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    print(server.servers[0].sockets[0].getsockname()[1], flush=True)
    try:
        await serving
    finally:
        workers.close()


if __name__ == "__main__":
    asyncio.run(main())
