"""The device: asynchronous copies between host and GPU, and CUDA graph capture.

`transfer.py` copies small tensors; `cuda_capture.py` captures launches as a CUDA graph. Neither knows about models.
Tested in tests/engine/device, with a fake device where no GPU is.
"""
