import json

import pytest
import torch

from scripts.bench.gpu.__main__ import main
from scripts.bench.gpu.cases import make_attention
from scripts.bench.gpu.peers import ATTENTION_PEERS

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
    assert engines == ["manta", "manta", "transformers static cache", *["transformers generate_batch"] * 2]


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
        expected = case.expected()
        assert ((work().double() - expected).norm() / expected.norm()).item() < 1e-5
