"""Anthropic's client against the application on a real socket."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import uvicorn

from tests.serve_app.scripted import ScriptedClient, build_app, config
from tests.serve_app.toy import toy_model

__all__ = ["sdk"]


@asynccontextmanager
async def sdk(
    client: ScriptedClient, model: Any = None, api: Any = None, **options: Any
) -> AsyncIterator[anthropic.AsyncAnthropic]:
    app = build_app(client, config(api), {"toy": model or toy_model()})
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        running = asyncio.create_task(server.serve(sockets=[listener]))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with anthropic.AsyncAnthropic(**{"api_key": "EMPTY", "base_url": url, **options}) as public:
            yield public
        server.should_exit = True
        await running
