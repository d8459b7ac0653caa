"""What all tests share. Nothing here starts anything that a test has not asked for."""

import gc
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.within import within

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One small Ray cluster of our own, for the whole session; it ends with the process at the latest."""
    import ray
    from ray import serve

    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S"] = "0.3"
    os.environ["RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S"] = "0.3"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    # unix socket paths are short: pytest's own folder is too deep for Ray's
    temp_dir = Path(f"/tmp/manta-{os.getpid()}")
    ray.init(
        address="local",
        num_cpus=8,
        include_dashboard=True,
        dashboard_port=18265,
        _temp_dir=str(temp_dir),
        log_to_driver=False,
        object_store_memory=100_000_000,
    )
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": 18000})
    yield
    try:
        within(60, serve.shutdown)
        within(60, ray.shutdown)
    finally:
        shutil.rmtree(temp_dir, ignore_errors=True)


def pytest_collection_finish() -> None:
    """What was imported stays: a full collection through all of it takes 0.3 s, which also tests of time would wait."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """What comes after the raylet's death fails at once: Ray itself would wait for ever."""
    if "ray_cluster" not in getattr(item, "fixturenames", ()) or "ray" not in sys.modules:
        return
    node = sys.modules["ray"]._private.worker._global_node
    dead = [name for name, _ in node.dead_processes()] if node is not None else []
    if "raylet" in dead:
        pytest.fail("the raylet of this session's cluster has died")
