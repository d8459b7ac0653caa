"""Frames: length-prefixed messages over a socket between processes of one ingress."""

import socket
import struct
from importlib import import_module
from typing import Any

import msgspec

__all__ = ["Answer", "Load", "Task", "function_at", "name_of", "receive", "send"]

MAX_FRAME_BYTES = 64 << 20
HEAD = struct.Struct("<I")


class Load(msgspec.Struct, frozen=True, array_like=True):
    """Loads shared data: calls a module's function, whose result later tasks get by its key."""

    key: str
    function: str  # module:function, takes the data
    data: bytes


class Task(msgspec.Struct, frozen=True, array_like=True):
    function: str  # module:function, takes the shared data and the task's, returns bytes
    key: str
    data: bytes


class Answer(msgspec.Struct, frozen=True, array_like=True):
    data: bytes = b""
    out_of_memory: bool = False
    error: str = ""  # an internal error


def name_of(function: Any) -> str:
    """The name of a function or class of a module, as in tasks."""
    return f"{function.__module__}:{function.__qualname__}"


def function_at(name: str) -> Any:
    module, _, function = name.partition(":")
    return getattr(import_module(module), function)


def send(peer: socket.socket, data: bytes) -> None:
    peer.sendall(HEAD.pack(len(data)) + data)


def receive(peer: socket.socket) -> bytes | None:
    """The next message; None if the peer has closed."""
    head = _exactly(peer, HEAD.size)
    if head is None:
        return None
    (size,) = HEAD.unpack(head)
    if size > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {size} bytes, at most {MAX_FRAME_BYTES}")
    return _exactly(peer, size)


def _exactly(peer: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        piece = peer.recv(min(1 << 20, size - len(data)))
        if not piece:
            return None
        data += piece
    return bytes(data)
