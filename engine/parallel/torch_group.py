"""Collectives of torch.distributed: NCCL between GPUs, gloo between CPUs of several nodes."""

import contextlib
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from torch import Tensor

__all__ = ["TorchGroup"]

# of a collective: ranks may be started one after the other, and one compiles kernels while another waits
GROUP_TIMEOUT_S = 300.0


class TorchGroup:
    """Ranks anywhere: NCCL between GPUs, gloo between CPUs of several nodes.

    NCCL_GRAPH_MIXING_SUPPORT stays as NCCL has it: without it no call may be made while a graph with calls is still
    under way, not even behind it on the same stream, and logits are gathered so.
    """

    in_order = False  # where a rank's part begins in a tensor follows from the tensor's size

    def __init__(self, address: str, rank: int, size: int, on_gpu: bool, dist: Any = torch.distributed) -> None:
        self._backend = "nccl" if on_gpu else "gloo"
        # of a GPU that it knows NCCL connects the ranks now, and not in the first step
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

    def sum(self, x: Tensor) -> None:
        self._dist.all_reduce(x)

    def gather(self, x: Tensor) -> Tensor | None:
        parts = [torch.empty_like(x) for _ in range(self._size)]
        self._dist.all_gather(parts, x.contiguous())
        return torch.stack(parts) if self._rank == 0 else None

    def give_up(self) -> None:
        """Whoever waits in a collective finds the connection closed. On a GPU it ends, and nobody is told."""
        if self._backend == "nccl":  # to destroy it waits for what the lost rank will never send
            with contextlib.suppress(Exception):
                self._dist.distributed_c10d._abort_process_group()
            return
        self.close()

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._dist.destroy_process_group()

    def forget_name(self) -> None:
        """A process group has none."""
