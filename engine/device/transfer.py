"""Asynchronous copies between host and device, through pinned memory."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["HostCopy", "to_device"]


def to_device(values: Sequence[Any] | Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Queues the copy behind the device's work."""
    tensor = values if isinstance(values, Tensor) else torch.tensor(values, dtype=dtype)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(
        device, non_blocking=True
    )  # from pageable memory the host would wait for the whole queue


class HostCopy:
    """A copy to the host, queued at construction."""

    def __init__(self, tensor: Tensor) -> None:
        self._arrived = None
        self._here = tensor
        if tensor.device.type == "cuda":
            self._here = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._here.copy_(tensor, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def tolist(self) -> Any:
        """Waits for the copy, but for nothing that was queued later."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._here.tolist()
