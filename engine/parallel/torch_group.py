"""Collectives of torch.distributed: NCCL between GPUs, gloo between CPUs of several nodes."""

import contextlib
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from torch import Tensor

__all__ = ["TorchGroup"]

# of a collective: ranks start one after the other, and one may compile kernels while another waits
GROUP_TIMEOUT_S = 300.0


class TorchGroup:
    """A torch.distributed process group: NCCL between GPUs, gloo between CPUs of several nodes.

    NCCL_GRAPH_MIXING_SUPPORT keeps NCCL's default: without it no call may be queued while a graph with calls still
    runs, not even behind it on the same stream, as the gather of logits is.
    """

    in_order = False  # a ring's chunk borders depend on the tensor's size

    def __init__(self, address: str, rank: int, size: int, on_gpu: bool, dist: Any = torch.distributed) -> None:
        self._backend = "nccl" if on_gpu else "gloo"
        # with a device_id NCCL connects the ranks now, not in the first step
        device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else None
        dist.init_process_group(
            self._backend,
            init_method=address,
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=GROUP_TIMEOUT_S),
            device_id=device,
        )
        self.name = self._backend
        self._rank, self._size, self._dist = rank, size, dist

    def all_reduce(self, x: Tensor) -> None:
        self._dist.all_reduce(x)

    def gather(self, x: Tensor) -> Tensor | None:
        parts = [torch.empty_like(x) for _ in range(self._size)]
        self._dist.all_gather(parts, x.contiguous())
        return torch.stack(parts) if self._rank == 0 else None

    def abort(self) -> None:
        """Collectives that wait raise on a CPU; on a GPU they end with undefined outputs and no error."""
        if self._backend == "nccl":  # destroying the group would wait for the lost rank
            with contextlib.suppress(Exception):
                self._dist.distributed_c10d._abort_process_group()
            return
        self.close()

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._dist.destroy_process_group()

    def unlink(self) -> None:
        """Does nothing: a process group has no name."""
