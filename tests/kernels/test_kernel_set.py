import torch

from kernels.kernel_set import load_kernels


def test_a_gpu_gets_triton_kernels_and_they_import_without_one():
    assert load_kernels(torch.device("cuda"), torch.bfloat16).name == "triton"


def test_kernels_are_deterministic_on_a_gpu_where_that_is_asked_for():
    gpu = torch.device("cuda")
    assert not load_kernels(gpu, torch.bfloat16).deterministic
    kernels = load_kernels(gpu, torch.bfloat16, deterministic=True)
    assert kernels.deterministic and kernels.linear.__module__ == "kernels.linear.triton"
