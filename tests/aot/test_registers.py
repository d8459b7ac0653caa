import json

import pytest
import torch

pytest.importorskip("triton")

from scripts.bench.gpu.registers import RECORD, check_registers, compare_registers
from tests.aot.hopper import compile_hopper
from tests.aot.shipped import shipped

CASE = "choose of rows, 128256"


def test_what_is_compiled_here_is_as_recorded():
    recorded = json.loads(RECORD.read_text())["kernels"][CASE]
    row = compare_registers(CASE, compile_hopper(*shipped()[CASE]), recorded)
    assert row["ok"] and abs(row["more_than_recorded"]) <= 40  # as another release of Triton may take


@pytest.mark.parametrize("change", [{"spills": 2}, {"stack": 8}])
def test_a_kernel_that_spills_is_not_right(change):
    recorded = json.loads(RECORD.read_text())["kernels"][CASE]
    assert compare_registers(CASE, recorded, recorded)["ok"]
    assert not compare_registers(CASE, {**recorded, **change}, recorded)["ok"]


def test_a_kernel_without_a_record_is_not_right():
    recorded = json.loads(RECORD.read_text())["kernels"][CASE]
    assert not compare_registers("new", recorded, {})["ok"]


def test_only_hopper_is_compared():
    assert list(check_registers(torch.device("cpu"))) == []
