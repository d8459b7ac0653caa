"""python -m tests.serve_app.hostile.server: an ingress on a free port, which it prints, with limited memory.

Its engine says one token to whoever asks, and one every 20 ms to whoever asks for ENDLESS of them.
"""

import asyncio
import resource
from collections.abc import AsyncGenerator

import uvicorn

from configs.schema import ApiConfig, Config, ModelConfig
from engine.types import EngineStatus, GenerateRequest, RequestOutput
from serve_app.app import build_app
from serve_app.tenants.key_store import KeyStore
from serve_app.workers.pool import WorkerPool
from tests.serve_app.toy import byte_tokens, toy_model

__all__ = ["ENDLESS"]

ENDLESS = 7_777  # max_tokens
MEMORY_BYTES = 4 << 30  # of address space: a thread's stack counts, most of it is never touched


class Engine:
    async def generate(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput]:
        if request.sampling.max_tokens != ENDLESS:
            for index in range(request.n):
                yield RequestOutput(request.request_id, index, 0, byte_tokens("1"), "length")
            return
        for start in range(ENDLESS):
            yield RequestOutput(request.request_id, 0, start, byte_tokens("x"))
            await asyncio.sleep(0.02)

    def stop_choice(self, request_id: str, index: int) -> None:
        """It stops by itself."""

    async def status(self, model: str) -> EngineStatus:
        counts = dict.fromkeys(("num_running", "num_waiting", "num_waiting_tokens", "num_blocks", "num_free_blocks"), 0)
        return EngineStatus(model=model, max_model_len=8192, block_size=16, **counts)


async def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    api = ApiConfig(trust_request_chat_template=True)
    config = Config(models=(ModelConfig(served_model_name="toy", model="unused"),), api=api)
    workers = WorkerPool()
    app = build_app(Engine(), config, {"toy": toy_model(max_model_len=8192)}, workers, KeyStore(config, {}))
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
