"""`manta pull`: downloads a model from the Hugging Face Hub, with progress; resumes interrupted downloads."""

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from engine.checkpoint.source import ModelFiles, resolve
from engine.errors import ModelError
from scripts.manta.options import parse
from scripts.manta.resuming_hub import ResumingHub

__all__ = ["main"]

DESCRIPTION = """\
Downloads a model from the Hugging Face Hub into its cache (HF_HOME), where `manta serve` finds it. An interrupted
download goes on where it was. For gated models log in first, with `hf auth login`, or set HF_TOKEN.

    manta pull Qwen/Qwen3-0.6B              configuration, tokenizer and safetensors; never code
    manta pull org/name@COMMIT              as it was at a commit
    manta pull org/name-GGUF:Q4_K_M         one .gguf file, by its quantization"""


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="manta pull",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="MODEL", help="org/name, org/name@REVISION or org/name:QUANTIZATION")
    parser.add_argument(
        "--text-only", action="store_true", help="tokenizer and configuration alone, as an ingress needs"
    )
    options = parse(parser, arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    began_s = time.monotonic()
    try:
        files = resolve(options.model, ResumingHub(), weights=not options.text_only)
    except ModelError as error:
        sys.exit(f"manta pull: MODEL: {error}")
    print(f"{_size(files) / 1e6:,.1f} MB are there, after {time.monotonic() - began_s:.1f} s", file=sys.stderr)
    print(files.path)


def _size(files: ModelFiles) -> int:
    """The size of a model's files in bytes."""
    paths = [files.path] if files.kind == "gguf" else [path for path in Path(files.path).iterdir() if path.is_file()]
    return sum(path.stat().st_size for path in paths)
