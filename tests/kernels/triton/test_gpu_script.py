import json

from scripts.bench.gpu.__main__ import main


def test_the_script_for_a_card_runs_at_tiny_sizes(tmp_path):
    assert main(["--tiny", "--out", str(tmp_path)]) == 0
    parts = {path.stem.rpartition("_")[2]: json.loads(path.read_text()) for path in tmp_path.iterdir()}
    assert set(parts) == {"ceilings", "check", "kernels", "engine"}
    assert all(part["kernels"] == "triton" and part["ceilings"]["copy_gb_s"] > 0 for part in parts.values())
    assert all(row["ok"] for row in parts["check"]["rows"])
    assert all(parts[part]["rows"] for part in ("check", "kernels", "engine"))
