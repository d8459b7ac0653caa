"""The device: asynchronous copies between host and GPU, CUDA graph capture, and what stands for it on a CPU.

`transfer.py` copies small tensors; `cuda_capture.py` captures launches as a CUDA graph, `cpu_capture.py` the calls of
compiled kernels; `core_lending.py` shares a node's idle cores. None of them knows about models.
Tested in tests/engine/device, with a fake device where no GPU is.
"""
