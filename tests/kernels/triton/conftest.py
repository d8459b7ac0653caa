"""Runs in a process of its own: interpreted and compiled kernels cannot share one.

TRITON_INTERPRET=1 pytest tests/kernels/triton
"""

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore_glob = ["test_*.py"]
else:
    from scripts.bench.gpu.interpreter import mend_interpreter

    mend_interpreter()


@pytest.fixture
def filled_with_nan(monkeypatch):
    """What nobody writes is not a number."""

    def empty(*args, **options):
        return torch.full(*args, torch.nan, **options)

    monkeypatch.setattr("kernels.paged_attention.triton.torch.empty", empty)
    monkeypatch.setattr("kernels.paged_attention.triton.torch.empty_like", lambda x: torch.full_like(x, torch.nan))
