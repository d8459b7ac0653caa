"""Capture of a step on a CPU: its kernel calls are recorded once and replayed, as CUDA graphs are on a GPU.

While a step is captured, its tensors come from a pool that all captures share, as CUDA graphs share theirs: memory
that a tensor of the step has left serves the next one. What is no kernel, allocation or view cannot be captured.
"""
# mypy: disable-error-code="no-untyped-call"

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from engine.device.cuda_capture import CaptureError, Run
from kernels.native.recorder import CallRecorder, NativeFunction, Recording

__all__ = ["CpuCapture"]

ALIGNMENT = 64  # bytes
aten = torch.ops.aten


class CpuCapture:
    """Captures steps that share one memory pool: only one may run at a time."""

    def __init__(self, recorder: CallRecorder) -> None:
        self._recorder = recorder
        self._pool = _Pool()
        self._copies = _Copies(recorder)

    def __call__(self, run: Run) -> Run:
        """Records `run`, which computes it, too. Raises CaptureError."""
        return _Replay(self._record, run)

    def _record(self, run: Run) -> tuple[Recording, Tensor]:
        with self._recorder.recording() as recorded, _Allocations(self._pool, self._copies):
            out = run()
            return recorded(), out


class _Replay:
    """A recording for each number of threads, which the kernels are told."""

    def __init__(self, record: Callable[[Run], tuple[Recording, Tensor]], run: Run) -> None:
        self._record, self._run = record, run
        threads = torch.get_num_threads()
        self._recorded = {threads: record(run)}
        self._is_computed = True  # by recording it

    def __call__(self) -> Tensor:
        threads = torch.get_num_threads()
        if threads not in self._recorded:
            self._recorded[threads] = self._record(self._run)
            self._is_computed = True
        recording, out = self._recorded[threads]
        if not self._is_computed:
            recording.replay()
        self._is_computed = False
        return out


class _Pool:
    """Memory by size, in powers of two, so that steps of all numbers of rows share it. A piece is free again when no
    tensor looks at it any more.
    """

    def __init__(self) -> None:
        self._users: dict[int, list[tuple[np.ndarray, StorageWeakRef]]] = {}  # by size in bytes

    @property
    def num_pieces(self) -> int:
        return sum(map(len, self._users.values()))

    def take(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        num_bytes = shape.numel() * dtype.itemsize
        piece_bytes = 1 << max(num_bytes - 1, 0).bit_length()
        users = self._users.setdefault(piece_bytes, [])
        free = next((i for i, (_, user) in enumerate(users) if user.expired()), None)
        memory = _aligned(piece_bytes) if free is None else users.pop(free)[0]
        tensor = torch.from_numpy(memory)  # with a storage of its own
        users.append((memory, StorageWeakRef(tensor.untyped_storage())))
        return tensor[:num_bytes].view(dtype).view(shape)


def _aligned(num_bytes: int) -> np.ndarray:
    wide = np.empty(num_bytes + ALIGNMENT, np.uint8)
    skipped = -wide.ctypes.data % ALIGNMENT
    return wide[skipped : skipped + num_bytes]


class _Copies:
    """What torch does to memory beside our kernels, by calls that can be recorded."""

    def __init__(self, recorder: CallRecorder) -> None:
        libc = ctypes.CDLL(None)
        self._memset, self._memcpy = NativeFunction(libc.memset, recorder), NativeFunction(libc.memcpy, recorder)
        self._memset.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
        self._memcpy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
        self._memset.restype = self._memcpy.restype = None

    def clear(self, tensor: Tensor) -> None:
        self._memset(tensor.data_ptr(), 0, tensor.nbytes)

    def concatenate(self, parts: Sequence[Tensor], out: Tensor) -> None:
        """Along the last of two dimensions, as layers of mixed bits are."""
        for row in range(out.shape[0]):
            at = out[row].data_ptr()
            for part in parts:
                num_bytes = part.shape[1] * part.element_size()
                self._memcpy(at, part[row].data_ptr(), num_bytes)
                at += num_bytes


class _Allocations(TorchDispatchMode):
    """Takes new tensors from the pool, and lets views through."""

    def __init__(self, pool: _Pool, copies: _Copies) -> None:
        super().__init__()
        self._pool, self._copies = pool, copies

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing here is compiled by torch; to say that it must not be, torch imports its compiler, for seconds."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten.empty.memory_format:
            return self._pool.take(torch.Size(args[0]), kwargs.get("dtype") or torch.get_default_dtype())
        if func in (aten.empty_like.default, aten.zeros_like.default):
            tensor = self._pool.take(args[0].shape, kwargs.get("dtype") or args[0].dtype)
            if func is aten.zeros_like.default:
                self._copies.clear(tensor)
            return tensor
        if func is aten.cat.default and _are_columns(*args):
            parts: Sequence[Tensor] = args[0]
            width = sum(part.shape[1] for part in parts)
            tensor = self._pool.take(torch.Size((parts[0].shape[0], width)), parts[0].dtype)
            self._copies.concatenate(parts, tensor)
            return tensor
        out = None if func._schema.is_mutable else func(*args, **kwargs)
        if not isinstance(out, Tensor) or not _shares(out, args):
            raise CaptureError(f"{func} is no kernel call")
        return out


def _are_columns(parts: Sequence[Tensor], dim: int = 0) -> bool:
    return dim in (-1, 1) and all(part.dim() == 2 and part.is_contiguous() for part in parts)


def _shares(out: Tensor, args: Any) -> bool:
    place = out.untyped_storage().data_ptr()
    return any(isinstance(arg, Tensor) and arg.untyped_storage().data_ptr() == place for arg in args)
