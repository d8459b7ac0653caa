"""What the tests of workers have done there."""

import os
import signal
import time

__all__ = ["die", "eat", "fail", "load", "pid", "spin", "told"]


def load(data):
    return data.decode().upper()


def told(loaded, data):
    return f"{loaded} {data.decode()}".encode()


def pid(loaded, data):
    return str(os.getpid()).encode()


def spin(loaded, data):
    end_s = time.process_time() + float(data)
    while time.process_time() < end_s:
        pass
    return b"done"


def eat(loaded, data):
    return str(len(bytearray(int(data)))).encode()


def fail(loaded, data):
    raise ValueError("no")


def die(loaded, data):
    os.kill(os.getpid(), signal.SIGABRT)
