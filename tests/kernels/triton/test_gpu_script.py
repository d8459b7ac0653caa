import argparse
import json
from importlib import import_module

import pytest
import torch

from kernels.embedding import triton as embedding
from kernels.kernel_set import triton_kernels
from kernels.launch import measured
from kernels.paged_attention import triton as attention
from kernels.rms_norm import triton as rms_norm
from kernels.sampling import filters_triton as filters
from kernels.sampling import reference
from scripts.bench.gpu.__main__ import run_part
from scripts.bench.gpu.cases import AttentionShape, make_attention
from scripts.bench.gpu.peers import ATTENTION_PEERS
from scripts.bench.gpu.tune import SEARCHES, tune
from scripts.bench.gpu.units import rows_of


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a part at tiny sizes in this process and returns its rows."""
    monkeypatch.setattr("sys.stdin", argparse.Namespace(readline=lambda: "{}"))

    def run(part, *, full=False, baseline=None, tune_ops=()):
        given = {"out": tmp_path, "part": part, "unit": None, "tiny": True, "full": full, "fault": None}
        run_part(argparse.Namespace(**given, baseline=baseline, tune_ops=list(tune_ops), carried=tmp_path))
        file = json.loads((tmp_path / f"{part}.json").read_text())
        assert file["kernels"] == "triton" and file["running"] is None
        return file["rows"]

    return run


def test_every_kernel_is_right_at_tiny_sizes(run):
    rows = run("check", full=True)
    names = {"paged_attention", "keep_top_p", "logprobs", "embedding", "linear of a row", "model, deterministic"}
    assert names <= {row["name"] for row in rows}
    assert all(row.get("ok", True) for row in rows if "dtype" in row and "failed" not in row)
    assert {row["name"] for row in rows if "failed" in row} <= {"peer, FlashInfer"}


def test_kernels_are_timed_beside_their_peers(run):
    rows = run("kernels", full=True, baseline=reference)
    peers = {row["name"]: row["peers"] for row in rows if row["name"] != "compile"}
    assert peers["decode attention"]["FlexAttention"]["median_us"] > 0
    assert set(peers["top-p"]) == {"torch's sort", "baseline"} and not peers["allow bits"]


def test_the_engine_is_timed(run, monkeypatch):
    for steps in ("WARM_STEPS", "PROFILED_STEPS"):  # an interpreted one takes a second
        monkeypatch.setattr(f"scripts.bench.gpu.engine.{steps}", 1)
    rows = run("engine")
    assert not any("failed" in row for row in rows)
    batch = ["forward in a graph", "manta", "profile"]
    ways = ["manta, no graphs", "manta, no async scheduling"]
    assert [row["engine"] for row in rows] == ["start", *batch, *batch, *ways, *ways, "manta, mixed lengths"]
    assert [row["tokens_a_step"] for row in rows if row["engine"] == "manta"] == [1.0, 2.0]  # all of them, each step
    assert [row["engine"] for row in run("four-bits")] == ["manta, 4 bits"] * 2


def test_mixers_are_right_and_timed(run):
    rows = run("mixers")
    assert {row["name"] for row in rows if row.get("ok")} >= {"latent attention", "gated delta rule", "index choice"}
    assert all(row.get("ok", True) for row in rows) and not any("failed" in row for row in rows)


def test_transformers_is_timed_on_the_same_loads(run):
    engines = [row["engine"] for row in run("peers")]
    assert engines == ["transformers static cache", *["transformers generate_batch"] * 3]


def test_launch_parameters_are_searched_for_what_the_kernels_ask_for(tmp_path):
    cpu = torch.device("cpu")
    tables = [measured(str(module.__file__), cpu) for module in (attention, filters)]
    try:
        found = tmp_path / "tables.json"
        rows = [row for work in tune(triton_kernels(), cpu, True, found) for row in rows_of(work)]
        ends = [row for row in rows if row["name"] == "tune"]
        asked = {search.module for search in SEARCHES} - {"linear.gemv_triton"}  # which a GPU alone launches
        assert {row["shape"].partition(":")[0] for row in ends} == asked
        assert all(row["tried"] == 2 for row in ends) and not any("why_not" in row for row in rows)
        assert sum(row["name"] == "tried" for row in rows) == 2 * len(ends)
        won = {row["shape"]: row["config"] for row in ends if row["config"] is not None}
        assert all(row["share_of_time"] <= 0.98 for row in ends if row["config"] is not None)
        (written,) = json.loads(found.read_text()).values() if won else ({},)
        assert won == {f"{module}: {case}": config for module in written for case, config in written[module].items()}
        in_use = {f"paged_attention.triton: {name}": config for name, config in tables[0].items()}
        assert in_use == {name: config for name, config in won.items() if name.startswith("paged_attention")}
    finally:  # they are the process's
        for search in SEARCHES:
            module = import_module(f"kernels.{search.module}")
            measured(str(module.__file__), cpu).clear()
            getattr(module.launch, "cache_clear", lambda: None)()


def test_the_script_searches_for_some_kernels_alone(run):
    rows = run("tune", full=True, tune_ops=("rms_norm", "embedding"))
    shapes = [row["shape"] for row in rows if row["name"] == "tune"]
    assert shapes == ["rms_norm.triton: M=96", "embedding.triton: M=96"]
    for module in (rms_norm, embedding):
        measured(str(module.__file__), torch.device("cpu")).clear()


def test_a_table_changes_a_launch():
    cpu = torch.device("cpu")
    table = measured(str(filters.__file__), cpu)
    written = filters.launch(5000, cpu)
    table["filters V=5000"] = {"CHUNK_V": 1024}
    try:
        assert filters.launch(5000, cpu) == {**written, "CHUNK_V": 1024}
        logits = torch.randn(2, 5000, generator=torch.Generator().manual_seed(0))
        top_p = torch.tensor([0.3, 0.9])
        assert torch.equal(filters.keep_top_p(logits, top_p), reference.keep_top_p(logits, top_p))
    finally:
        table.clear()


def test_a_baseline_without_kernels_is_refused(run):
    with pytest.raises(SystemExit, match="json has none of .*keep_top_p"):
        run("kernels", baseline=json)


@pytest.mark.parametrize("name", ATTENTION_PEERS)
@pytest.mark.parametrize("lens, counts", [([200] * 3, [1] * 3), ([256] * 2, [1] * 2), ([150], [150])])
def test_a_peer_computes_the_same_attention(name, lens, counts):
    if name == "FlashInfer":
        pytest.importorskip("flashinfer")
    shape = AttentionShape(lens, counts, (4, 2), 16)
    cases = [make_attention(shape, torch.float32, torch.device("cpu")) for _ in range(2)]
    for case, work in zip(cases, ATTENTION_PEERS[name](cases), strict=True):
        expected = case.expected()[0]
        assert ((work().double() - expected).norm() / expected.norm()).item() < 1e-5
