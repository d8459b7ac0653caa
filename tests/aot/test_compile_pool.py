"""The pool that compiles, whatever befalls its processes, and what an engine has it compile at its start."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from configs.schema import EngineConfig, SchedulerConfig
from engine.execution.load import _compile_ahead
from engine.execution.loaded_model import LoadedModel
from engine.parallel.tensor_parallel import TensorParallel
from kernels.compile_ahead import CompilePool, Variant, noted
from kernels.kernel_set import triton_kernels
from kernels.rms_norm import triton as rms_norm
from scripts.bench.gpu.random_model import TINY, RandomModel
from tests.aot.no_card import HOPPER, absent_card


@pytest.fixture
def absent(monkeypatch, tmp_path):
    """A card that is not there, and an empty cache."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    with absent_card():
        yield tmp_path
    rms_norm._add_rms_norm.device_caches.clear()  # or a launch would find it, and try to run


def kernels_in(folder):
    return len(list(folder.glob("*/*.cubin")))


STUCK, DEAD, WRONG = (Variant("tests.aot.odd_kernels", name, "{}") for name in ("stuck", "dead", "wrong"))


def test_a_compiler_that_hangs_is_given_up(absent):
    compilers = CompilePool(1)
    try:
        began_s = time.monotonic()
        told = compilers.compile(HOPPER, {STUCK}, timeout_s=1)
        assert time.monotonic() - began_s < 60
        assert told == ["stuck was not compiled: it took too long"]
        (told,) = compilers.compile(HOPPER, {WRONG})
        assert told == "wrong was not compiled: ValueError: no code"
    finally:
        compilers.close()


def test_a_compiler_that_dies_costs_no_other_kernel(absent):
    compilers = CompilePool(1)
    with noted() as variants:
        rms_norm.add_rms_norm(torch.randn(2, 64), torch.randn(2, 64), torch.randn(64), 1e-5)
    try:
        told = compilers.compile(HOPPER, {*variants, DEAD})
        assert [one.partition(" was ")[0] for one in told] == ["dead"] and "abruptly" in told[0]
        assert kernels_in(absent) == 1
        assert compilers.compile(HOPPER, variants) == []
    finally:
        compilers.close()


def test_compilers_end_with_who_asked_for_them(tmp_path):
    """Also where that was killed."""
    code = (
        "import time; from kernels.compile_ahead import CompilePool; from tests.aot.odd_kernels import pid\n"
        "if __name__ == '__main__':\n"
        "    pool = CompilePool(1); print(next(pool.map(pid, [0])), flush=True); time.sleep(60)\n"
    )
    script = tmp_path / "asks.py"
    script.write_text(code)
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()}
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    deadline_s = time.monotonic() + 60
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline_s, "a compiler outlived its engine"
        time.sleep(0.1)
    parent.stdout.close()


class Compilers:
    """Notes what it is given to compile."""

    def __init__(self, error=None):
        self.error, self.given, self.is_closed = error, set(), False

    def compile_noted(self, variants):
        self.given = set(variants)
        if self.error is not None:
            raise self.error

    def close(self):
        self.is_closed = True


def compiled_at_start(compilers, tp=None, kernels=None):
    cpu = torch.device("cpu")
    model = RandomModel(TINY, triton_kernels(), 64, torch.bfloat16, cpu)
    config = EngineConfig(scheduler=SchedulerConfig(max_num_seqs=8, max_num_batched_tokens=64))
    kernels, tp = kernels or triton_kernels(), tp or TensorParallel()
    _compile_ahead(compilers, config, LoadedModel(model.decoder, model.kv, kernels, 512, cpu, tp))


def test_an_engine_has_compiled_at_its_start_what_it_will_launch(absent):
    compilers = Compilers()
    compiled_at_start(compilers)
    assert {"_decode", "merge", "_ragged", "_qkv_rotary", "_best_of_row"} <= {
        variant.name for variant in compilers.given
    }
    assert compilers.is_closed


def test_an_engine_whose_kernels_cannot_be_compiled_ahead_starts_all_the_same(absent, caplog):
    compilers = Compilers(OSError("no more processes"))
    compiled_at_start(compilers)
    compiled_at_start(compilers, TensorParallel(0, 2, AloneGroup()))  # no rank waits for this one meanwhile
    assert caplog.text.count("as they are launched: OSError: no more processes") == 2
    assert compilers.is_closed


def test_a_rank_that_cannot_launch_does_not_leave_the_others_waiting(absent):
    def choose(*arguments):
        raise RuntimeError("out of memory")

    broken = replace(triton_kernels(), choose=choose)
    compiled_at_start(Compilers(), kernels=broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        compiled_at_start(Compilers(), TensorParallel(0, 2, AloneGroup()), broken)


class AloneGroup:
    """Sums of one rank."""

    name, in_order = "alone", True

    def all_reduce(self, x):
        pass

    def gather(self, x):
        return x[None]
