"""An application on a socket of its own, in a thread: for clients that are no asyncio code, or other processes."""

import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from configs.schema import Config
from engine.types import EngineClient
from serve_app.app import build_app
from serve_app.model.text_model import TextModel
from serve_app.tenants.key_store import KeyStore
from serve_app.workers.pool import WorkerPool
from tests.serve_app.scripted import config
from tests.serve_app.toy import toy_model

__all__ = ["application", "on_a_socket"]


def application(client: EngineClient, config: Config, models: Mapping[str, TextModel], workers: WorkerPool) -> FastAPI:
    """The API in front of an engine client, with workers of its own."""
    return build_app(client, config, models, workers, KeyStore(config, environment={}))


@contextmanager
def on_a_socket(client: EngineClient) -> Iterator[str]:
    """The base URL of the API of a toy model; its end is the context's."""
    workers = WorkerPool()
    app = application(client, config(), {"toy": toy_model()}, workers)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        server.should_exit = True
        server.force_exit = True
        thread.join(10)
    workers.close()
