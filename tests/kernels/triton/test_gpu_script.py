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
from scripts.bench.gpu.__main__ import main
from scripts.bench.gpu.cases import make_attention
from scripts.bench.gpu.peers import ATTENTION_PEERS
from scripts.bench.gpu.tune import SEARCHES, tune

pytestmark = pytest.mark.timeout(180)  # a whole part of the script in one test


@pytest.fixture
def run(tmp_path):
    """Runs a part at tiny sizes and returns its rows."""

    def run(part, *arguments):
        assert main(["--tiny", "--out", str(tmp_path), "--only", part, *arguments]) == 0
        files = {path.stem.rpartition("_")[2]: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
        assert set(files) == {"ceilings", part}
        assert all(file["kernels"] == "triton" and file["ceilings"]["copy_gb_s"] > 0 for file in files.values())
        return files[part]["rows"]

    return run


def test_every_kernel_is_right_at_tiny_sizes(run):
    rows = run("check")
    assert {"paged_attention", "keep_top_p", "logprobs", "embedding"} <= {row["name"] for row in rows}
    assert all(row.get("ok", "failed" in row) for row in rows)
    assert {row["name"] for row in rows if "failed" in row} <= {"peer, FlashInfer"}


def test_kernels_are_timed_beside_their_peers(run):
    peers = {row["name"]: row["peers"] for row in run("kernels", "--baseline", "kernels.sampling.reference")}
    assert peers["decode attention"]["FlexAttention"]["median_us"] > 0
    assert set(peers["top-p"]) == {"torch's sort", "baseline"} and not peers["allow bits"]


def test_the_engine_is_timed_beside_transformers(run):
    rows = run("engine")
    assert not any("failed" in row for row in rows)
    engines = [row["engine"] for row in rows]
    ours = ["manta", "manta, no graphs", "manta, no overlap"]
    peers = ["transformers static cache", *["transformers generate_batch"] * 3]
    cascade = [
        f"manta, {way}" for way in ("cascade from (rows, tokens)", "cascade", "cascade, no graphs", "no cascade")
    ]
    others = ["manta, mixed lengths", "manta, 4 bits", "manta, 4 bits"]
    assert engines == [*ours, *ours, *cascade, *others, *peers]


def test_launch_parameters_are_searched_for_what_the_kernels_ask_for(tmp_path):
    cpu = torch.device("cpu")
    tables = [measured(str(module.__file__), cpu) for module in (attention, filters)]
    try:
        rows = list(tune(triton_kernels(), cpu, True, folder=tmp_path))
        assert {search.module for search in SEARCHES} == {row["shape"].partition(":")[0] for row in rows}
        assert all(row["tried"] == 2 and not row["last_failure"] for row in rows)
        won = {row["shape"]: row["config"] for row in rows if row["config"] is not None}
        written = [json.loads(path.read_text()) for path in tmp_path.glob("*/tables/cpu.json")]
        assert sorted(map(str, won.values())) == sorted(str(one) for table in written for one in table.values())
        assert all(row["share_of_time"] < 0.98 for row in rows if row["config"] is not None)
        found = {f"paged_attention.triton: {name}": config for name, config in tables[0].items()}
        assert found == {name: config for name, config in won.items() if name.startswith("paged_attention")}
    finally:  # they are the process's
        for search in SEARCHES:
            module = import_module(f"kernels.{search.module}")
            measured(str(module.__file__), cpu).clear()
            getattr(module.launch, "cache_clear", lambda: None)()


def test_the_script_searches_for_some_kernels_alone(tmp_path):
    assert main(["--tiny", "--out", str(tmp_path), "--only", "--tune", "rms_norm", "embedding"]) == 0
    (record,) = tmp_path.glob("*_tune.json")
    shapes = [row["shape"] for row in json.loads(record.read_text())["rows"]]
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


def test_a_baseline_without_kernels_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="json has none of .*keep_top_p"):
        main(["--tiny", "--out", str(tmp_path), "--baseline", "json"])


@pytest.mark.parametrize("name", ATTENTION_PEERS)
@pytest.mark.parametrize("lens, counts", [([200] * 3, [1] * 3), ([256] * 2, [1] * 2), ([150], [150])])
def test_a_peer_computes_the_same_attention(name, lens, counts):
    if name == "FlashInfer":
        pytest.importorskip("flashinfer")
    cases = [make_attention(lens, counts, (4, 2), 16, torch.float32, torch.device("cpu")) for _ in range(2)]
    for case, work in zip(cases, ATTENTION_PEERS[name](cases), strict=True):
        expected = case.expected()[0]
        assert ((work().double() - expected).norm() / expected.norm()).item() < 1e-5
