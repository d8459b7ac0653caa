"""The rehearsal of the GPU script: its plans at tiny sizes, on the references, with parts that die, hang and raise."""

import argparse
import importlib.machinery
import importlib.util
import json
import time
from pathlib import Path

import pytest
import torch

from kernels.launch import table_name
from scripts.bench.gpu.__main__ import main, run_part
from scripts.bench.gpu.counters import slowest_kernel
from scripts.bench.gpu.plan import PLANS, PlanRun, Shard
from scripts.bench.gpu.result_file import ResultFile
from scripts.bench.gpu.tables import add_config, spread

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def outside_triton(monkeypatch):
    """Parts are processes of their own, and take the references there."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def result(out, part):
    return json.loads((out / f"{part}.json").read_text())


def outcomes(out):
    return {outcome["part"]: outcome for outcome in json.loads((out / "plan.json").read_text())["parts"]}


def test_a_part_that_is_killed_costs_one_unit_and_no_other_part(tmp_path, capsys):
    assert main(["--tiny", "--out", str(tmp_path), "--minutes", "5", "--fault", "engine:3:kill"]) == 2
    found = outcomes(tmp_path)
    assert list(found) == [part.name for part in PLANS["first"]]
    assert found["engine"]["deaths"] == ["profile 1: signal 9"]
    assert all(not outcome["deaths"] and not outcome["failed"] for name, outcome in found.items() if name != "engine")
    rows = result(tmp_path, "engine")["rows"]
    assert [row["name"] for row in rows if "failed" in row] == ["profile"]
    assert {row["unit"] for row in rows} >= {0, 1, 2, 3, 4, 11}  # those behind it, too
    assert {row["name"] for row in result(tmp_path, "start")["rows"]} == {"cold start", "warm start"}
    ceilings = next(row for row in result(tmp_path, "sanity")["rows"] if row["name"] == "ceilings")
    assert result(tmp_path, "kernels")["ceilings"]["copy_gb_s"] == ceilings["copy_gb_s"]
    printed = capsys.readouterr().out
    assert "profile batch 2" in printed and "FAILED engine" in printed
    print({name: outcome["took_s"] for name, outcome in found.items()})


def test_a_device_error_that_stays_ends_the_process_and_not_the_part(tmp_path):
    assert main(["--tiny", "--out", str(tmp_path), "--minutes", "5", "--plan", "second", "--fault", "cascade:1:sticky"])
    found = outcomes(tmp_path)
    assert list(found) == [part.name for part in PLANS["second"]]
    assert found["cascade"]["deaths"] == ["no unit: exit 3"]
    rows = result(tmp_path, "cascade")["rows"]
    assert [row["unit"] for row in rows] == [0, 1, 2, 3] and [row["unit"] for row in rows if "failed" in row] == [1]
    assert {row["name"] for row in result(tmp_path, "ncu")["rows"]} == {"ncu"}


def test_a_unit_that_raises_fails_alone(tmp_path):
    assert (
        main(["--tiny", "--out", str(tmp_path), "--minutes", "3", "--only", "sanity", "--fault", "sanity:1:raise"]) == 1
    )
    assert outcomes(tmp_path)["sanity"]["deaths"] == []
    failed = [row for row in result(tmp_path, "sanity")["rows"] if not row.get("ok", True)]
    assert [(row["unit"], row["failed"]) for row in failed] == [(1, "RuntimeError: a fault was asked for: raise")]


def test_a_part_that_hangs_goes_on_behind_the_unit(tmp_path):
    parts = [Shard("sanity", 60, unit_s=10)]
    began_s = time.monotonic()
    assert PlanRun(parts, tmp_path, 3, ["--tiny", "--fault", "sanity:1:hang"]).run() == 2
    assert time.monotonic() - began_s < 200
    assert outcomes(tmp_path)["sanity"]["deaths"] == ["first_launch : hung for 10 s"]
    assert [row["unit"] for row in result(tmp_path, "sanity")["rows"]] == [0, 1, 2]


def test_a_part_whose_time_ends_leaves_what_it_has_and_the_next_one_runs(tmp_path):
    parts = [Shard("sanity", 10, 60), Shard("memory", 20, 60)]
    assert PlanRun(parts, tmp_path, 1.0, ["--tiny", "--fault", "sanity:1:hang"]).run() == 2
    found = outcomes(tmp_path)
    assert found["sanity"]["deaths"] == ["first_launch : its time ended"] and not found["memory"]["deaths"]
    assert [row["unit"] for row in result(tmp_path, "sanity")["rows"]] == [0, 1]


def test_a_part_that_cannot_even_begin_is_recorded(tmp_path):
    parts = [Shard("no such part", 10, 60), Shard("sanity", 20, 60)]
    assert PlanRun(parts, tmp_path, 1, ["--tiny"]).run() == 1
    found = outcomes(tmp_path)
    assert found["no such part"]["deaths"][0] == "no unit: exit 2" and found["sanity"]["rows"] == 3
    assert "invalid choice" in "".join(found["no such part"]["log"])


def test_one_unit_can_be_run_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", argparse.Namespace(readline=lambda: "{}"))
    given = {"out": tmp_path, "part": "check", "unit": 1, "tiny": True, "full": False, "baseline": None, "fault": None}
    assert run_part(argparse.Namespace(**given, tune_ops=[], carried=tmp_path)) == 0
    assert [row["unit"] for row in result(tmp_path, "check")["rows"]] == [1]


def test_a_result_file_is_whole_after_every_row(tmp_path):
    written = ResultFile(tmp_path / "part.json", {"device": "none"})
    written.begin("first", "3 x 4")
    written.add({"unit": 0})
    read = ResultFile(tmp_path / "part.json")
    assert (read.num_done, read.running, read.rows) == (0, {"name": "first", "shape": "3 x 4"}, [{"unit": 0}])
    read.end()
    assert ResultFile(tmp_path / "part.json").num_done == 1
    assert result(tmp_path, "part")["device"] == "none"


def test_tables_are_spread_beside_the_kernels_and_keep_what_they_had(tmp_path):
    pytest.importorskip("triton")
    cpu, found, kernels = torch.device("cpu"), tmp_path / "tables.json", tmp_path / "kernels"
    name = table_name(cpu)
    assert name.startswith("cpu_triton-3.")
    add_config(found, "rms_norm.triton", "M=96", {"num_warps": 2}, cpu)
    assert spread(found, kernels) == [kernels / "rms_norm" / "tables" / name]
    add_config(found, "rms_norm.triton", "M=96", None, cpu)
    add_config(found, "rms_norm.triton", "M=64", {"num_warps": 1}, cpu)
    spread(found, kernels)
    table = json.loads((kernels / "rms_norm" / "tables" / name).read_text())
    assert table == {"M=96": {"num_warps": 2}, "M=64": {"num_warps": 1}}


def test_the_page_of_what_waits_has_the_command_to_paste():
    loader = importlib.machinery.SourceFileLoader("device_pack", str(ROOT / "scripts" / "device_pack"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("device_pack", loader))
    loader.exec_module(module)
    assert module.COMMAND in (ROOT / "scripts/bench/results/pending.md").read_text()


def test_it_needs_no_git_and_no_home(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setenv("MANTA_COMMIT", "abc1234")
    assert main(["--tiny", "--out", str(tmp_path), "--minutes", "3", "--only", "sanity"]) == 0
    found = result(tmp_path, "sanity")
    assert found["commit"] == "abc1234" and "git" in found["rows"][0]["missing"]


def test_a_case_that_is_wrong_is_run_alone_under_the_sanitizer(tmp_path, monkeypatch):
    tool = tmp_path / "bin" / "compute-sanitizer"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\necho "========= COMPUTE-SANITIZER"\nshift 2\nexec "$@"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=":")
    given = ["--tiny", "--out", str(tmp_path / "out"), "--minutes", "3", "--only", "check"]
    assert main([*given, "--fault", "check:1:raise"]) == 1
    sanitized = json.loads((tmp_path / "out" / "plan.json").read_text())["parts"][-1]
    assert sanitized == {"sanitizer": "check", "unit": 1, "found": ["========= COMPUTE-SANITIZER"]}
    assert not (tmp_path / "out" / "sanitizer").exists()


def test_counters_are_those_of_the_kernel_that_took_longest(tmp_path, monkeypatch):
    tool = tmp_path / "bin" / "ncu"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\necho "$5 $6"\nshift 8\nexec "$@"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=":")
    assert slowest_kernel(tmp_path) == "_ragged"
    kernels = [["gemm", 32, 900.0], ["_decode", 32, 400.0], ["_ragged", 1, 3.0]]
    profile = {"engine": "profile", "batch": 256, "busy_us": 1303.0, "wall_us": 1400.0, "kernels": kernels}
    (tmp_path / "engine.json").write_text(json.dumps({"rows": [profile]}))
    assert main(["--tiny", "--out", str(tmp_path), "--minutes", "3", "--only", "ncu"]) == 0
    (row,) = result(tmp_path, "ncu")["rows"]
    assert (row["shape"], row["lines"]) == ("_decode", ["-k regex:^_decode$", "launched _decode"])
