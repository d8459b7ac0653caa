"""Before a card is asked for anything, its kernels lie compiled in Triton's cache, under the keys it asks for."""

from functools import partial
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from kernels.compile_ahead import MARKER, compile_variant, noted
from kernels.rms_norm import triton as rms_norm
from scripts.bench.gpu.compile_ahead import compile_ahead, pool
from scripts.bench.gpu.units import rows_of, unit
from tests.aot.no_card import HOPPER, absent_card


@pytest.fixture
def absent(monkeypatch, tmp_path):
    """A card that is not there, and an empty cache."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    with absent_card():
        yield tmp_path
    rms_norm._add_rms_norm.device_caches.clear()  # or a launch would find it, and try to run


def kernels_in(folder: Path) -> int:
    return len(list(folder.glob("*/*.cubin")))


def test_a_launch_finds_what_was_compiled_ahead(absent):
    x, residual, weight = torch.randn(2, 64).bfloat16(), torch.randn(2, 64), torch.randn(64)
    with noted() as variants:
        rms_norm.add_rms_norm(x, residual, weight, 1e-5)
        rms_norm.add_rms_norm(x[:1], residual[:1], weight, 1e-5)
    (variant,) = variants
    assert compile_variant(HOPPER, variant) == "" and kernels_in(absent) == 1
    launch = rms_norm.launch(64, torch.device("cpu"))
    arguments = (x, residual, weight, None, x, 1e-5, 1.0)
    rms_norm._add_rms_norm.warmup(*arguments, M=64, **launch, grid=(1,))
    assert kernels_in(absent) == 1
    rms_norm._add_rms_norm.warmup(*arguments, M=48, **launch, grid=(1,))
    assert kernels_in(absent) == 2


def test_what_does_not_compile_is_told(absent):
    with noted() as variants:
        rms_norm.add_rms_norm(torch.randn(2, 64), torch.randn(2, 64), torch.randn(64), 1e-5)
    (variant,) = variants
    told = compile_variant(HOPPER, variant._replace(data="{}"))
    assert told.startswith("_add_rms_norm was not compiled: KeyError")


def test_a_cpu_compiles_nothing():
    assert compile_ahead(partial(pytest.fail, "it was run"), torch.device("cpu")) == 0


def test_work_that_raises_is_left_to_where_it_is_launched(absent, capsys):
    assert compile_ahead(partial(int, "no number"), torch.device("cuda")) == 0
    assert "compiled as they are launched: ValueError" in capsys.readouterr().out


def test_processes_compile_what_is_launched(absent):
    """The whole way, in processes that know no card."""
    x, residual, weight = torch.randn(2, 64).bfloat16(), torch.randn(2, 64), torch.randn(64)
    try:
        assert compile_ahead(partial(rms_norm.add_rms_norm, x, residual, weight, 1e-5), torch.device("cuda")) == 1
        assert kernels_in(absent) == 1
        marker = list(absent.glob(f"{MARKER}*"))
        assert len(marker) == 1
        pool().close()
        assert compile_ahead(partial(rms_norm.add_rms_norm, x, residual, weight, 1e-5), torch.device("cuda")) == 1
        assert pool()._executor is None, "processes were started for what is there already"
    finally:
        pool().close()
        pool.cache_clear()


def test_a_row_that_raises_costs_no_other():
    def rows(shape):
        yield {"name": "good", "shape": shape, "ok": True}
        raise RuntimeError("out of shared memory\nand more")

    failed = {"name": "rows", "shape": "3 x 4", "ok": False, "failed": "RuntimeError: out of shared memory"}
    assert list(rows_of(unit(rows, "3 x 4"))) == [{"name": "good", "shape": "3 x 4", "ok": True}, failed]
