"""The GGUF file format: reads key-value metadata and the tensor index. The bytes of tensors stay on disk.

magic | version | num tensors | num pairs | pairs ... | tensor infos ... | padding | tensor data ...
"""

import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from engine.errors import ModelError

__all__ = ["TensorInfo", "read_index", "read_metadata"]

# value type -> struct format; 8 is a string, 9 an array
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9

# tensor type -> name, elements in a quantization block, bytes of a block
TENSOR_TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    30: ("BF16", 1, 2),
    39: ("MXFP4", 32, 17),
}


class TensorInfo(msgspec.Struct, frozen=True):
    name: str
    shape: tuple[int, ...]  # outermost first, as torch has it
    type: str  # a name in TENSOR_TYPES
    offset: int  # bytes from the start of the file
    num_bytes: int


def read_metadata(path: Path) -> dict[str, Any]:
    """All key-value pairs. Arrays are lists. Raises ModelError if the file is broken."""
    with _open(path) as cursor:
        return cursor.pairs()


def read_index(path: Path) -> tuple[dict[str, Any], list[TensorInfo]]:
    """Metadata and tensor index, in one pass. Raises ModelError for a broken file, an unknown type, or a tensor that
    does not lie inside the file.
    """
    with _open(path) as cursor:
        pairs = cursor.pairs()
        alignment = pairs.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise ModelError(f"{path}: general.alignment is {alignment!r}")
        infos = [cursor.tensor_info() for _ in range(cursor.num_tensors)]
        start = -(-cursor.at // alignment) * alignment
        return pairs, [_placed(path, info, start, cursor.size) for info in infos]


def _placed(path: Path, info: TensorInfo, start: int, size: int) -> TensorInfo:
    placed = msgspec.structs.replace(info, offset=start + info.offset)
    if placed.offset + placed.num_bytes > size:
        raise ModelError(f"{path}: the file is cut off, tensor {info.name} lies beyond its end")
    return placed


@contextmanager
def _open(path: Path) -> Iterator["_Cursor"]:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield _Cursor(data)
    except (_Broken, UnicodeDecodeError, struct.error) as error:
        raise ModelError(f"{path}: not a readable .gguf file: {error}") from error
    except (OSError, ValueError) as error:  # mmap refuses an empty file with ValueError
        raise ModelError(f"{path}: cannot be read: {error}") from error


class _Broken(Exception):
    pass


class _Cursor:
    """A read position. Every read is checked against the file's end."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.size = len(data)
        self.at = 0
        if self._take(4) != b"GGUF":
            raise _Broken("it does not begin with GGUF")
        version = self._scalar("I")
        if version not in (2, 3):
            raise _Broken(f"version {version} is not known (2 and 3 are)")
        self.num_tensors = self._count("Q", 24)
        self._num_pairs = self._count("Q", 13)

    def pairs(self) -> dict[str, Any]:
        return {self._string(): self._value(self._scalar("I")) for _ in range(self._num_pairs)}

    def tensor_info(self) -> TensorInfo:
        """The next tensor; its offset is still relative to the start of the data."""
        name = self._string()
        num_dims = self._scalar("I")
        if num_dims > 4:
            raise _Broken(f"tensor {name} has {num_dims} dimensions")
        shape = tuple(self._scalar("Q") for _ in range(num_dims))[::-1]
        type_id, offset = self._scalar("I"), self._scalar("Q")
        if type_id not in TENSOR_TYPES:
            known = ", ".join(known for known, _, _ in TENSOR_TYPES.values())
            raise _Broken(f"tensor {name} is of type {type_id}; read are {known}")
        type_name, block_len, block_bytes = TENSOR_TYPES[type_id]
        if (shape[-1] if shape else 1) % block_len:
            raise _Broken(f"tensor {name}: rows of {shape[-1]} are not whole blocks of {type_name}")
        return TensorInfo(name, shape, type_name, offset, prod(shape) // block_len * block_bytes)

    def _value(self, kind: int, depth: int = 0) -> Any:
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            return self._array(depth + 1)
        if kind not in SCALARS:
            raise _Broken(f"value type {kind} is not known")
        return self._scalar(SCALARS[kind])

    def _array(self, depth: int) -> list[Any]:
        kind = self._scalar("I")
        if kind == STRING:
            return self._strings(self._count("Q", 8))
        if kind in SCALARS:
            item = np.dtype(SCALARS[kind]).newbyteorder("<")
            count = self._count("Q", item.itemsize)
            values: list[Any] = np.frombuffer(self._take(count * item.itemsize), item).tolist()
            return values
        if depth > 4:
            raise _Broken("arrays are nested too deep")
        return [self._value(kind, depth) for _ in range(self._count("Q", 12))]

    def _strings(self, count: int) -> list[str]:
        # a vocabulary and its merges are half a million strings: local names, and no call per string
        data, size, at, unpack = self.data, self.size, self.at, struct.Struct("<Q").unpack_from
        strings = []
        for _ in range(count):
            start = at + 8
            at = start + unpack(data, at)[0]
            if at > size:
                raise _Broken("a string lies beyond its end")
            strings.append(data[start:at].decode())
        self.at = at
        return strings

    def _string(self) -> str:
        return self._take(self._count("Q", 1)).decode()

    def _scalar(self, kind: str) -> Any:
        return struct.unpack("<" + kind, self._take(struct.calcsize("<" + kind)))[0]

    def _count(self, kind: str, least_bytes: int) -> int:
        """A count of items that take at least `least_bytes` each, checked against the file's end."""
        count: int = self._scalar(kind)
        if count * least_bytes > self.size - self.at:
            raise _Broken("it is cut off, or a length is wrong")
        return count

    def _take(self, num_bytes: int) -> bytes:
        if num_bytes > self.size - self.at:
            raise _Broken("it is cut off")
        self.at += num_bytes
        return self.data[self.at - num_bytes : self.at]
