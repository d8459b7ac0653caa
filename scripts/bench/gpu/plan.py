"""The plan: parts in the order that pays, each in a process with a time of its own.

A part that dies or hangs loses the unit that it was in, and goes on behind it in a new process. What a part does not
use of its time the later ones have. The process of the next part is started early, so that its imports cost nothing.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.bench.gpu.result_file import ResultFile

__all__ = ["PLANS", "Shard", "PlanRun"]

MOST_RESTARTS = 6
STEP_S = 0.2  # between looks at a part
LOG_LINES = 40
SANITIZER_S = 75
CEILINGS = "copy_gb_s", "bf16_tflop_s"


@dataclass(frozen=True)
class Shard:
    name: str
    weight_s: float  # of its time beside the others'
    unit_s: float  # without a row or a new unit for so long it hangs


PLANS = {
    "first": (
        Shard("sanity", 40, 40),
        Shard("check", 100, 45),
        Shard("engine", 110, 60),
        Shard("start", 50, 90),
        Shard("kernels", 90, 45),
        Shard("tune", 130, 45),
    ),
    "second": (
        Shard("memory", 20, 40),
        Shard("text", 70, 70),
        Shard("mixers", 40, 45),
        Shard("cascade", 50, 45),
        Shard("check-quantized", 40, 40),
        Shard("four-bits", 40, 45),
        Shard("more-kernels", 70, 45),
        Shard("ncu", 40, 100),
    ),
    "peers": (Shard("peers", 300, 200),),
}


class PlanRun:
    """Runs parts one after the other, and keeps `plan.json`: what became of each."""

    def __init__(self, parts: Sequence[Shard], out: Path, minutes: float, arguments: Sequence[str]) -> None:
        """`arguments` are the script's own, for every part."""
        self._parts = parts
        self._out = out
        self._end_s = time.monotonic() + minutes * 60
        self._arguments = list(arguments)
        self._ceilings: dict[str, float] = {}
        self._outcomes: list[dict[str, Any]] = []

    def run(self) -> int:
        """Returns how many rows or parts failed."""
        waiting = deque(self._parts)
        ready = self._start(waiting[0])
        failures = 0
        try:
            while waiting:
                part, process = waiting.popleft(), ready
                left_s = self._end_s - time.monotonic()
                share = part.weight_s / (part.weight_s + sum(other.weight_s for other in waiting))
                if waiting:
                    ready = self._start(waiting[0])
                failures += self._run(part, process, left_s * share)
        finally:
            ready.kill()
        return failures

    def _start(self, part: Shard) -> "_PartProcess":
        return _PartProcess(part, self._out, self._arguments)

    def _run(self, part: Shard, process: "_PartProcess", limit_s: float) -> int:
        began_s = time.monotonic()
        end_s = began_s + limit_s
        deaths: list[str] = []
        while True:
            death = process.go({"ceilings": self._ceilings}, end_s)
            if death:
                deaths.append(f"{process.lose_unit(death)}: {death}")
            log = process.log()
            if not death or time.monotonic() >= end_s or len(deaths) > MOST_RESTARTS:
                break
            process = self._start(part)
        result = ResultFile(process.path)
        failed = sum(not row.get("ok", True) for row in result.rows)
        for row in result.rows:
            self._ceilings |= {key: row[key] for key in CEILINGS if key in row}
        took_s = round(time.monotonic() - began_s, 1)
        outcome = {"part": part.name, "rows": len(result.rows), "failed": failed, "took_s": took_s, "deaths": deaths}
        self._note({**outcome, "limit_s": round(limit_s, 1), "log": log})
        if part.name == "tune" and "--tiny" not in self._arguments:
            self._use_tables()
        if failed and part.name == "check":
            self._note(self._sanitized(part, result))
        return failed + bool(deaths)

    def _note(self, outcome: dict[str, Any]) -> None:
        self._outcomes.append(outcome)
        (self._out / "plan.json").write_text(json.dumps({"parts": self._outcomes}, indent=1) + "\n")
        print("  ".join(f"{key}={value}" for key, value in outcome.items() if key != "log"), flush=True)

    def _use_tables(self) -> None:
        """Later parts launch with what was found."""
        tables = self._out / "tables.json"
        if tables.exists():
            subprocess.run([sys.executable, "-m", "scripts.bench.gpu.tables", str(tables)], timeout=60)

    def _sanitized(self, part: Shard, result: ResultFile) -> dict[str, Any]:
        """The first unit that was wrong once more, alone, where reads and writes out of bounds are seen."""
        tool = shutil.which("compute-sanitizer")
        number = next((row["unit"] for row in result.rows if not row.get("ok", True) and "unit" in row), None)
        left_s = min(SANITIZER_S, (self._end_s - time.monotonic()) / 4)
        if tool is None or number is None or left_s < 20:
            return {"sanitizer": "did not run", "unit": number}
        folder = self._out / "sanitizer"
        command = [tool, "--tool", "memcheck", *_command(part, folder, self._arguments), "--unit", str(number)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=left_s, input='{"ceilings": {}}\n')
            said = done.stdout + done.stderr
        except subprocess.TimeoutExpired as error:
            said = f"{error.stdout or b''!r} ended after {left_s:.0f} s"
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        lines = [line for line in said.splitlines() if line.startswith("=========")]
        return {"sanitizer": part.name, "unit": number, "found": lines[-LOG_LINES:] or said.splitlines()[-5:]}


class _PartProcess:
    """A part's own process, in a group of its own with whatever it starts."""

    def __init__(self, part: Shard, out: Path, arguments: Sequence[str]) -> None:
        self.path = out / f"{part.name}.json"
        self._part = part
        self._process = subprocess.Popen(
            _command(part, out, arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._lines: deque[str] = deque(maxlen=LOG_LINES)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def go(self, given: dict[str, Any], end_s: float) -> str:
        """Lets it work until its time ends. Returns why it died, or "" """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(given) + "\n")
            self._process.stdin.flush()
        except OSError:  # it is dead already
            pass
        seen, seen_s = -1, time.monotonic()
        while self._process.poll() is None:
            now_s = time.monotonic()
            written = self.path.stat().st_mtime_ns if self.path.exists() else 0
            if written != seen:
                seen, seen_s = written, now_s
            if now_s >= end_s:
                self.kill()
                return "its time ended"
            if now_s - seen_s > self._part.unit_s:
                self.kill()
                return f"hung for {self._part.unit_s:.0f} s"
            time.sleep(STEP_S)
        code = self._process.returncode
        self.kill()  # what it left running
        if code == 0:
            return ""
        return f"signal {-code}" if code < 0 else f"exit {code}"

    def lose_unit(self, why: str) -> str:
        """Counts the unit that it died in as done, and failed unless its own row says more. Returns its name."""
        result = ResultFile(self.path)
        if result.running is None:
            return "no unit"
        name, shape = result.running["name"], result.running["shape"]
        result.add({"unit": result.num_done, "name": name, "shape": shape, "ok": False, "failed": why})
        result.end()
        return f"{name} {shape}"

    def log(self) -> list[str]:
        return list(self._lines)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line.rstrip()[:300])

    def kill(self) -> None:
        """It and whatever it started; once more does nothing."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()
        self._reader.join()
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(OSError):  # what was never read
            self._process.stdin.close()
        self._process.stdout.close()


def _command(part: Shard, out: Path, arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "scripts.bench.gpu", "--out", str(out), *arguments, "--part", part.name]
