"""What the nodes of a cluster answer, asked of a real one."""

import platform
from importlib import metadata
from pathlib import Path

import pytest

from scripts.manta.doctor.nodes import ask_nodes, cluster_address


@pytest.mark.ray
def test_a_node_says_its_versions_its_switches_and_its_time(ray_cluster: None) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    (node,), error = ask_nodes(address, ["RAY_AUTH_MODE", "NOT_SET"])
    assert not error and node.is_alive
    assert node.python == platform.python_version() and node.versions["ray"] == metadata.version("ray")
    assert node.environment == {"RAY_AUTH_MODE": "disabled"}
    assert abs(node.skew_s) <= node.skew_error_s + 0.01  # it is the same clock


def test_the_address_is_that_of_the_environment_else_what_ray_start_left(tmp_path: Path) -> None:
    assert cluster_address({}, tmp_path) == ""
    (tmp_path / "ray_current_cluster").write_text("127.0.0.1:6379\n")
    assert cluster_address({}, tmp_path) == "127.0.0.1:6379"
    assert cluster_address({"RAY_ADDRESS": "10.0.0.1:6379"}, tmp_path) == "10.0.0.1:6379"


def test_no_cluster_is_started_and_none_is_assumed(tmp_path: Path) -> None:
    assert {cluster_address({"RAY_ADDRESS": name}, tmp_path) for name in ("local", "auto", "")} == {""}


def test_the_reason_why_a_cluster_does_not_answer_is_reported() -> None:
    assert ask_nodes("nonsense", []) == ((), "ValueError: Invalid address format: nonsense")
