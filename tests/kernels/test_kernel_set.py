import torch

from kernels.kernel_set import load_kernels


def test_a_gpu_gets_triton_kernels_and_they_import_without_one():
    assert load_kernels(torch.device("cuda"), torch.bfloat16).name == "triton"
