"""Between the host and an accelerator: copies that nobody waits for, and the capture of CUDA graphs.

`transfer.py` moves small tensors; `cuda_capture.py` records launches as a CUDA graph. Both know nothing of models.
Tested in tests/engine/device, with a fake device where no GPU is.
"""
