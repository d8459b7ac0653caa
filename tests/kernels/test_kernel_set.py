from pathlib import Path

import pytest
import torch

from kernels.kernel_set import load_kernels
from kernels.launch import prepare_cache
from kernels.native.compiler import find_compiler
from kernels.quantized_linear import int8


def test_a_gpu_gets_triton_kernels_and_they_import_without_one():
    assert load_kernels(torch.device("cuda"), torch.bfloat16).name == "triton"


@pytest.mark.skipif(find_compiler() is None, reason="no C compiler")
def test_kernels_are_deterministic_on_a_cpu_in_bfloat16_alone():
    """In float32 the library multiplies, and adds up as the CPU and the number of rows suggest."""
    cpu = torch.device("cpu")
    assert load_kernels(cpu, torch.bfloat16, deterministic=True).deterministic
    for dtype in (torch.float32, torch.float16):
        assert not load_kernels(cpu, dtype, deterministic=True).deterministic
    assert not load_kernels(cpu, torch.bfloat16, deterministic=True, cache_dtype=torch.float8_e4m3fn).deterministic


def test_kernels_are_deterministic_on_a_gpu_where_that_is_asked_for():
    gpu = torch.device("cuda")
    assert not load_kernels(gpu, torch.bfloat16).deterministic
    kernels = load_kernels(gpu, torch.bfloat16, deterministic=True)
    assert kernels.deterministic and kernels.linear.__module__ == "kernels.linear.triton"


@pytest.mark.skipif(find_compiler() is None, reason="no C compiler")
def test_int8_activations_are_opt_in_and_named():
    """In the name, which streams that move compare. With AMX nobody needs them."""
    cpu = torch.device("cpu")
    assert "int8" not in load_kernels(cpu, torch.bfloat16).name
    compiler = find_compiler()
    expected = int8.build(compiler) is not None and compiler.instructions.name != "amx"
    kernels = load_kernels(cpu, torch.bfloat16, int8_activations=True)
    assert kernels.name.endswith("int8 activations") is expected and kernels.deterministic
    assert not expected or kernels.quantized_linear.__module__ == "kernels.quantized_linear.int8"


def test_what_triton_compiles_finds_a_place_where_the_home_has_none(monkeypatch, tmp_path, caplog):
    knobs = pytest.importorskip("triton").knobs
    with knobs.cache.scope():
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
        prepare_cache()
        assert Path(knobs.cache.dir) == tmp_path / "triton" and not caplog.records
        (tmp_path / "file").touch()
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "file" / "triton"))
        prepare_cache()
        assert Path(knobs.cache.dir).is_dir()
        assert "compiled anew at each start" in caplog.text
        Path(knobs.cache.dir).rmdir()
