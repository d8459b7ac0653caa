"""The alerts: Prometheus takes them, each fires on what it is for, and has a runbook that names real config keys."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.metrics import CATALOGUE, MANTA
from scripts.config_table import config_keys
from scripts.dashboards.panels import BOARDS

ROOT = Path(__file__).parent.parent.parent
RULES = ROOT / "configs" / "alerts" / "manta.rules.yaml"
RUNBOOKS = ROOT / "cluster" / "runbooks"
# what Ray exports of itself, of Serve and of nodes; tests/cluster/test_deploy.py finds each of a running cluster's
RAYS = {
    "ray_node_cpu_utilization",
    "ray_node_gpus_utilization",
    "ray_node_gram_used",
    "ray_node_mem_used",
    "ray_serve_autoscaling_target_replicas",
    "ray_serve_deployment_replica_healthy",
    "ray_serve_deployment_replica_starts_total",
    "ray_serve_num_http_requests_total",
    "ray_serve_num_ongoing_http_requests",
    "ray_serve_replica_startup_latency_ms_count",
    "ray_serve_replica_startup_latency_ms_sum",
}
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian's prometheus)")


def alerts() -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def exported() -> set[str]:
    """Each name under which Ray exports a metric of the catalogue."""
    names = set(RAYS)
    for prefix, metrics in (("ray_vllm_", CATALOGUE), ("ray_manta_", MANTA)):
        for name, metric in metrics.items():
            suffixes = {"gauge": [""], "counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
            names |= {f"{prefix}{name}{suffix}" for suffix in suffixes[metric.kind]}
    return names


@needs_promtool
def test_prometheus_takes_the_rules() -> None:
    done = subprocess.run(["promtool", "check", "rules", RULES], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_each_alert_fires_on_what_it_is_for_and_on_nothing_near_it() -> None:
    tests = Path(__file__).parent / "alerts" / "manta.test.yaml"
    done = subprocess.run(["promtool", "test", "rules", tests], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_tests_where_it_fires_and_where_it_does_not() -> None:
    cases = yaml.safe_load((Path(__file__).parent / "alerts" / "manta.test.yaml").read_text())["tests"]
    checks = [check for case in cases for check in case["alert_rule_test"]]
    for alert in alerts():
        own = [bool(check["exp_alerts"]) for check in checks if check["alertname"] == alert["alert"]]
        assert set(own) == {True, False}, alert["alert"]


def test_each_alert_says_what_somebody_needs_to_know() -> None:
    for alert in alerts():
        assert alert["labels"]["severity"] in ("critical", "warning", "info"), alert["alert"]
        assert re.fullmatch(r"\d+m", alert["for"]), alert["alert"]
        assert alert["annotations"].keys() == {"summary", "description", "runbook_url"}, alert["alert"]
        assert alert["annotations"]["runbook_url"] == f"cluster/runbooks/{alert['alert']}.md"


def test_each_alert_has_a_runbook_and_each_runbook_an_alert() -> None:
    assert {path.stem for path in RUNBOOKS.iterdir()} == {alert["alert"] for alert in alerts()}


def test_runbooks_have_their_parts_and_name_config_keys_and_panels_that_exist() -> None:
    keys = {key.name for key in config_keys()}
    keys |= {key.removeprefix("models[].") for key in keys} | {key.rpartition(".")[0] for key in keys}
    panels = {panel.title.removesuffix(", so far") for board in BOARDS for row in board.rows.values() for panel in row}
    panels |= {"Actors", "Migrations", "Last step"}  # of Ray's dashboard, and of /status
    for path in RUNBOOKS.iterdir():
        text = path.read_text()
        assert text.startswith(f"# {path.stem}\n")
        assert [text.count(part) for part in ("**It means**", "**Look at**", "**Do**")] == [1, 1, 1], path.name
        named = set(re.findall(r"`((?:models\[\]|engine|api|ingress|wire)\.[\w.\[\]]+)[:`]", text))
        assert named and named <= keys, path.name
        seen = {" ".join(one.split()) for one in re.findall(r"(?<!\*)\*([A-Z][^*]+)\*(?!\*)", text)}
        assert seen <= panels, path.name


def test_what_alerts_and_dashboards_ask_for_is_in_the_catalogue() -> None:
    lines = [text for board in BOARDS for row in board.rows.values() for panel in row for text in panel.lines.values()]
    asked = set(re.findall(r"\bray_\w+", " ".join([*lines, *(alert["expr"] for alert in alerts())])))
    assert len(asked) > 20 and asked <= exported()
