"""What a run of the GPU script found, in a few lines, beside the goals and what others have published."""

import json
from pathlib import Path
from typing import Any

__all__ = ["print_table"]

# (engine's row, batch): tokens per second to reach; the floor of an H100 that copies 3.0 TB/s; and what others report
# for Llama-3.1-8B in bfloat16 on one H100, with their own prompts: issues and pull requests of their repositories
GOALS = {
    1: (165, 198, "SGLang 136, compiled 156 (sglang #1008)"),
    32: (3700, 4970, ""),
    256: (10500, 15600, "SGLang 10,815 at 128 x 128 (sglang #1008), vLLM 11,364 at some 384 tokens (vllm #11078)"),
}
PUBLISHED_KERNELS = {
    ("decode attention", "1 x 1024"): "FlashInfer 7.6 us, FA3 in float8 11.2 us (vllm #43232, another card)",
    ("decode attention", "256 x 1024"): "FlashInfer 80 to 88 % of copy",
    ("prefill attention", "1 x 8192"): "FA3 646 TFLOP/s (figure 5 of its paper, not causal); plain Triton 392 there",
}


def print_table(out: Path) -> None:
    """Of the files that are there; nothing of what is not."""
    engine, kernels = _rows(out, "engine"), _rows(out, "kernels")
    ceilings = next((row for row in _rows(out, "sanity") if row.get("name") == "ceilings"), {})
    if ceilings:
        print(f"copy {ceilings['copy_gb_s']} GB/s, bfloat16 product {ceilings['bf16_tflop_s']} TFLOP/s")
    for row in engine:
        if row.get("engine") == "manta" and row["batch"] in GOALS and row["context"] >= 1024:
            goal, floor, others = GOALS[row["batch"]]
            met = "met" if row["tok_s"] >= goal else "missed"
            print(
                f"decode batch {row['batch']:>3}: {row['tok_s']:>8} tok/s, goal {goal} {met}, floor {floor}; step "
                f"{row['step_ms']} ms, overhead {row.get('overhead')}; prefill {row['prefill_tok_s']} tok/s. {others}"
            )
    for row in engine:
        if row.get("engine") == "profile":
            print(f"profile batch {row['batch']}: {row['busy_us']} us of kernels in a step of {row['wall_us']} us")
            for name, calls, us in row["kernels"][:8]:
                print(f"    {us:>9.1f} us  {calls:>6} x  {name[:60]}")
    for row in kernels:
        if "median_us" in row:
            about = next((text for (name, shape), text in PUBLISHED_KERNELS.items() if _is(row, name, shape)), "")
            print(
                f"{row['name'][:34]:<34} {row['shape'][:34]:<34} {row['median_us']:>9} us {row['gb_s']:>8} GB/s "
                f"{row['tflop_s']:>8} TFLOP/s  share {row['share']}  {about}"
            )
    for path in sorted(out.glob("*.json")):
        for row in _rows(out, path.stem):
            if not row.get("ok", True):
                print(f"FAILED {path.stem}: " + "  ".join(f"{key}={value}" for key, value in row.items())[:300])


def _rows(out: Path, part: str) -> list[dict[str, Any]]:
    path = out / f"{part}.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text()).get("rows", []) if path.exists() else []
    return rows


def _is(row: dict[str, Any], name: str, shape: str) -> bool:
    return bool(row["name"] == name and row["shape"].startswith(f"{shape},"))
