"""A finding: what a check found, and what to do about it."""

from typing import Literal

import msgspec

from scripts.manta.plain_text import plain

__all__ = ["Finding", "Level", "fault", "ok", "warning"]

Level = Literal["ok", "warning", "fault"]


class Finding(msgspec.Struct, frozen=True):
    check: str
    level: Level
    found: str
    advice: str = ""  # what to do; "" if all is well


def ok(check: str, found: str) -> Finding:
    return Finding(check, "ok", plain(found))


def warning(check: str, found: str, advice: str) -> Finding:
    return Finding(check, "warning", plain(found), plain(advice))


def fault(check: str, found: str, advice: str) -> Finding:
    return Finding(check, "fault", plain(found), plain(advice))
