"""The emulator itself, and which kernels arm64 has; the kernels' own cases run with its compilers beside all others."""

import ctypes

import pytest
import torch

from kernels.native.compiler import find_compiler
from kernels.quantized_linear import cpu, int8
from tests.kernels.arm64.emulator import EmulatedCompiler, EmulatedLibrary, emulated_sets, missing

pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=missing()),
    pytest.mark.skipif(find_compiler() is None, reason="no C compiler"),
]

SOURCE = """
#include <stdint.h>
int64_t add(const int32_t *x, float factor, int32_t *sum, int64_t count, const float *nothing) {
    for (int64_t i = 0; i < count; i++) sum[i] += (int32_t)(factor * x[i]);
    return nothing ? -1 : ((uintptr_t)x & 63) / 4;
}
int64_t stop(void) { __builtin_trap(); }
"""


@pytest.fixture
def library(tmp_path) -> EmulatedLibrary:
    (tmp_path / "cpu.c").write_text(SOURCE)
    return EmulatedCompiler(find_compiler(tmp_path / "cache"), emulated_sets()["neon"]).load(tmp_path / "cpu.c")


def test_numbers_and_memory_go_there_and_come_back(library):
    library.add.argtypes = [ctypes.c_void_p, ctypes.c_float, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p]
    x, sums = torch.arange(20, dtype=torch.int32), torch.ones(20, dtype=torch.int32)
    x = x[(-x.data_ptr() // 4) % 16 + 3 :]  # 3 numbers behind a cache line's border
    assert library.add(x.data_ptr(), 2.0, sums.data_ptr(), 2, None) == 3
    assert sums.tolist() == [1 + 2 * x[0], 1 + 2 * x[1], *[1] * 18]


def test_what_ends_the_emulated_process_is_an_error_here(library):
    with pytest.raises(RuntimeError, match="stop: the emulated process ended"):
        library.stop()


def test_a_pointer_to_what_is_no_tensor_is_an_error(library):
    library.add.argtypes = [ctypes.c_void_p]
    with pytest.raises(ValueError, match="no tensor"):
        library.add(64)


@pytest.mark.parametrize("name", emulated_sets())
def test_every_arm64_has_all_kernels_of_quantized_weights(name):
    compiler = EmulatedCompiler(find_compiler(), emulated_sets()[name])
    assert int8.build(compiler) is not None
    assert cpu.build(compiler) is not None
