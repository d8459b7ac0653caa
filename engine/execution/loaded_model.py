"""A loaded model: decoder, KV cache and kernels of one rank, before warm-up."""

from typing import NamedTuple

import torch

from engine.cache.kv_cache import KVCache
from engine.model.decoder import Decoder
from engine.parallel.tensor_parallel import TensorParallel
from kernels.kernel_set import KernelSet

__all__ = ["LoadedModel"]


class LoadedModel(NamedTuple):
    """What an executor runs. `tp` are the ranks that the decoder is divided over."""

    decoder: Decoder
    kv: KVCache
    kernels: KernelSet
    max_model_len: int  # tokens
    device: torch.device
    tp: TensorParallel = TensorParallel()
