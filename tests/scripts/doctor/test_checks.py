"""A machine, a config, a model and a cluster that are broken in one way each: the doctor names it, and what to do."""

import msgspec
import pytest

from scripts.manta.doctor.checks import findings_of
from scripts.manta.doctor.facts import Gpus, Haproxy, Listener, ModelFile, ModelFiles, Node
from tests.scripts.doctor.cases import CASES, NO_TOKEN, Case, folders, listening, nodes
from tests.scripts.doctor.healthy import FACTS, GIB, RAY, SWITCHES, broken, facts, finding


def test_of_a_healthy_machine_all_is_ok() -> None:
    assert broken(FACTS) == []
    assert all(one.found and not one.advice for one in findings_of(FACTS))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_is_broken_is_named_with_what_to_do_and_nothing_else_is(case: Case) -> None:
    part, changed, check, level, found, advice = case
    one = finding(facts(part, **changed))
    assert (one.check, one.level) == (check, level)
    assert found in one.found and advice in one.advice


def test_two_faults_are_both_found() -> None:
    both = msgspec.structs.replace(facts("host", compiler=None), config=facts("config", error="x: no such key").config)
    assert [one.check for one in broken(both)] == ["compiler", "config"]


def test_packed_weights_need_their_space() -> None:
    both = facts("host", **folders("packed weights", free_bytes=2 * GIB, total_bytes=100 * GIB))
    large = ModelFiles(source="a/b", path="/b", files=(ModelFile(name="model.safetensors", num_bytes=3 * GIB),))
    one = finding(msgspec.structs.replace(both, models=(large,)))
    assert (one.check, one.level) == ("disk", "warning") and "weight_cache_bytes" in one.advice


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
@pytest.mark.parametrize(
    ("program", "port", "mode", "is_open"),
    [
        ("ray::ServeReplica", 30000, "", False),  # the mode of this environment
        ("ray::ServeReplica", 30000, "token", False),
        ("ray::ServeReplica", 30000, "disabled", True),
        ("haproxy", 8404, "token", True),  # statistics
    ],
)
def test_what_listens_on_all_interfaces_without_a_key_or_token_is_a_warning(
    program: str, port: int, mode: str, is_open: bool, address: str
) -> None:
    one = Listener(address=address, port=port, program=program, pid=7, is_ours=True, auth_mode=mode)
    found = broken(facts("network", listeners=(one,)))
    assert [(one.check, one.level) for one in found] == [("listeners", "warning")] * is_open


@pytest.mark.parametrize(("address", "port"), [("10.0.0.9", 8000), ("127.0.0.1", 9999)])
def test_another_address_or_port_is_no_collision(address: str, port: int) -> None:
    assert broken(facts("network", **listening(address, port, "nginx"))) == []


def test_a_machine_without_a_cluster_needs_no_switches_and_no_token() -> None:
    alone = facts("ray", found={}, auth_mode="", token=NO_TOKEN, haproxy=Haproxy(is_on=False, program=None))
    assert broken(msgspec.structs.replace(alone, ray=msgspec.structs.replace(alone.ray, cluster="", nodes=()))) == []


def test_a_variable_of_other_programs_is_no_half_of_rays_environment() -> None:
    expected = {**SWITCHES, "OMP_WAIT_POLICY": "passive"}
    alone = facts("ray", found={"OMP_WAIT_POLICY": "active"}, expected=expected, auth_mode="", cluster="", nodes=())
    assert broken(alone) == []


def test_a_slow_answer_is_no_clock_skew() -> None:
    assert broken(facts("ray", **nodes(skew_s=3.0, skew_error_s=2.5))) == []


def test_what_is_not_known_on_a_system_is_no_fault() -> None:
    elsewhere = facts("host", shm=None, available_bytes=None, total_bytes=None, gpus=Gpus(num_devices=0, listed=()))
    assert broken(msgspec.structs.replace(elsewhere, network=facts("network", listeners=None).network)) == []


def test_names_that_others_chose_cannot_write_to_the_terminal() -> None:
    one = finding(facts("network", **listening("0.0.0.0", 8000, "\x1b[2Jok\nok       ports: fine\u202e")))
    assert "\x1b" not in one.found and "\n" not in one.found and "\u202e" not in one.found
    assert "\\x1b[2Jok\\nok" in one.found


def test_every_kind_of_check_is_broken_once() -> None:
    checks = {one.check for one in findings_of(FACTS)} - {"listeners"}  # which has a test of its own
    assert {case[2] for case in CASES.values()} == checks


def test_a_node_that_says_nothing_is_not_compared() -> None:
    silent = (*RAY.nodes, Node(address="10.0.0.3", is_alive=False))
    found = facts("ray", nodes=silent)
    assert [one.check for one in broken(found)] == ["nodes"]
