"""A part's result file, written anew with every row: whatever ends the process, what is known stays."""

import json
import os
from pathlib import Path
from typing import Any

from scripts.bench.gpu.units import Row

__all__ = ["ResultFile"]


class ResultFile:
    """Read by who goes on behind a process that died: its rows, and the unit that it was in."""

    def __init__(self, path: Path, about: dict[str, Any] | None = None) -> None:
        """`about` is what the rows were measured with; what an earlier process wrote stays."""
        self.path = path
        known = json.loads(path.read_text()) if path.exists() else {}
        self.rows: list[Row] = known.pop("rows", [])
        self.num_done: int = known.pop("num_done", 0)
        self.running: dict[str, Any] | None = known.pop("running", None)
        self._about = {**known, **(about or {})}

    def begin(self, name: str, shape: str) -> None:
        self.running = {"name": name, "shape": shape}
        self._write()

    def add(self, row: Row) -> None:
        self.rows.append(row)
        self._write()

    def end(self) -> None:
        """Of the unit that was begun."""
        self.num_done, self.running = self.num_done + 1, None
        self._write()

    def _write(self) -> None:
        known = {**self._about, "num_done": self.num_done, "running": self.running, "rows": self.rows}
        beside = self.path.with_suffix(".tmp")
        beside.write_text(json.dumps(known, indent=1) + "\n")
        os.replace(beside, self.path)
