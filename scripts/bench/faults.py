"""Streams under faults, on a running server: python -m scripts.bench.faults [--url ...].

Every kind of request is answered twice: undisturbed, and while a fault is injected into the replicas. The two answers
must be the same to the last token: text, tool calls, log probabilities, finish reasons and usage. Prints a table of the
longest gap that a client saw, one row per fault.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from tqdm import tqdm

from scripts.bench.record import print_json

__all__ = ["FAULTS", "KINDS", "Answer", "answer", "disturbed", "main", "replica_pids"]

CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 60}}, "required": ["city"]}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 20, "maxLength": 60},
        "tags": {
            "type": "array",
            "items": {"type": "string", "minLength": 8, "maxLength": 20},
            "minItems": 4,
            "maxItems": 6,
        },
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "tags", "age"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Weather of a city", "parameters": CITY}}
STORY = [{"role": "user", "content": "Tell a long story about a lighthouse."}]

# name -> what the request asks for beyond its messages; each answer takes about a second or two on two cores
KINDS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0, "max_tokens": 90},
    "seeded": {"temperature": 1.0, "seed": 11, "max_tokens": 90},
    "prefill": {"temperature": 0, "max_tokens": 12, "messages": [{"role": "user", "content": "stone light " * 900}]},
    "penalties": {"temperature": 0.8, "seed": 5, "frequency_penalty": 0.7, "repetition_penalty": 1.1, "max_tokens": 90},
    "n = 3": {"temperature": 1.0, "seed": 3, "n": 3, "max_tokens": 60},
    "logprobs": {"temperature": 0.7, "seed": 9, "logprobs": True, "top_logprobs": 3, "max_tokens": 60},
    "min_tokens": {"temperature": 1.0, "seed": 2, "min_tokens": 60, "max_tokens": 90},
    "stop": {"temperature": 0, "stop": ["lighthouse connector", "\n\n"], "max_tokens": 120},
    "schema": {
        "temperature": 1.2,
        "seed": 4,
        "max_tokens": 200,
        "response_format": {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON}},
    },
    "tool call": {"temperature": 1.0, "seed": 8, "tools": [TOOL], "tool_choice": "required", "max_tokens": 90},
}


class Answer:
    """One streamed answer, joined, with its timing."""

    def __init__(self) -> None:
        self.said: dict[int, dict[str, Any]] = {}
        self.usage: tuple[int, int] | None = None
        self.error: Any = None
        self.longest_gap_s = 0.0
        self.num_migrations = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Answer) and self._content() == other._content()

    def _content(self) -> Any:
        return self.said, self.usage, self.error

    def add(self, event: dict[str, Any]) -> None:
        self.error = event.get("error", self.error)
        if event.get("usage"):
            self.usage = event["usage"]["prompt_tokens"], event["usage"]["completion_tokens"]
            self.num_migrations = event["usage"].get("migrations", 0)
        for choice in event.get("choices", ()):
            said = self.said.setdefault(choice["index"], {"text": "", "calls": {}, "logprobs": [], "reason": None})
            delta = choice["delta"]
            said["text"] += delta.get("content") or ""
            said["logprobs"] += (choice.get("logprobs") or {}).get("content") or []
            said["reason"] = choice["finish_reason"] or said["reason"]
            for call in delta.get("tool_calls") or ():
                known = said["calls"].setdefault(call["index"], {"name": "", "arguments": ""})
                for key in known:
                    known[key] += call["function"].get(key) or ""


async def answer(session: aiohttp.ClientSession, url: str, kind: str) -> Answer:
    body = {"messages": STORY, "stream": True, "stream_options": {"include_usage": True}, **KINDS[kind]}
    answer = Answer()
    last_s = time.monotonic()
    try:
        async with session.post(f"{url}/chat/completions", json=body) as response:
            if response.status != 200:
                answer.error = response.status, await response.text()
                return answer
            async for line in response.content:
                now_s = time.monotonic()
                answer.longest_gap_s = max(answer.longest_gap_s, now_s - last_s)
                last_s = now_s
                if line.startswith(b"data: {"):
                    answer.add(json.loads(line[6:]))
    except (OSError, aiohttp.ClientError) as error:  # never expected
        answer.error = type(error).__name__, f"{error} after {time.monotonic() - last_s:.2f} s"
    return answer


async def disturbed(url: str, kinds: list[str], strike: Callable[[], None], after_s: float) -> list[Answer]:
    """The answers of all kinds at once, with a fault in their middle."""
    timeout = aiohttp.ClientTimeout(total=300)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        running = asyncio.gather(*(answer(session, url, kind) for kind in kinds))
        await asyncio.sleep(after_s)
        strike()
        return await running


def replica_pids(deployment: str) -> list[int]:
    """The processes of a deployment's replicas on this machine."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                command = (path / "cmdline").read_bytes().split(b"\0")[0].decode("utf-8", "replace")
            except OSError:
                continue
            if command.startswith("ray::ServeReplica") and deployment in command:
                found.append(int(path.name))
    return sorted(found)


def _pause(deployment: str) -> None:
    """Stops a replica's process for longer than wire.dead_s, then continues it."""
    pid = replica_pids(deployment)[0]
    os.kill(pid, signal.SIGSTOP)
    asyncio.get_running_loop().call_later(6.0, os.kill, pid, signal.SIGCONT)


def _kill_one(deployment: str) -> None:
    os.kill(replica_pids(deployment)[0], signal.SIGKILL)


def _kill_all(deployment: str) -> None:
    for pid in replica_pids(deployment):
        os.kill(pid, signal.SIGKILL)


def _kill_named(name: str) -> Callable[[str], None]:
    def kill(_: str) -> None:
        for path in Path("/proc").iterdir():
            if path.name.isdigit() and (path / "cmdline").read_bytes().startswith(name.encode()):
                os.kill(int(path.name), signal.SIGKILL)

    return kill


FAULTS: dict[str, Callable[[str], None]] = {
    "one replica killed": _kill_one,
    "one replica paused": _pause,
    "every replica killed": _kill_all,
    "controller killed": _kill_named("ray::ServeController"),
}


async def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    async with aiohttp.ClientSession() as session:
        expected = {kind: await answer(session, arguments.url, kind) for kind in tqdm(KINDS, file=sys.stderr)}
    rows = []
    for fault in arguments.faults:
        await _until_replicas(arguments.deployment, 2)
        answers = await disturbed(
            arguments.url, list(KINDS), partial(FAULTS[fault], arguments.deployment), arguments.after
        )
        gaps = {kind: round(one.longest_gap_s, 2) for kind, one in zip(KINDS, answers, strict=True)}
        wrong = [kind for kind, one in zip(KINDS, answers, strict=True) if one != expected[kind]]
        rows.append({"fault": fault, "exact": len(KINDS) - len(wrong), "of": len(KINDS), "wrong": wrong, "gap_s": gaps})
        rows[-1]["migrated"] = sum(one.num_migrations > 0 for one in answers)
        print(
            f"{fault:<22}{rows[-1]['exact']:>3} of {len(KINDS)} exact, {rows[-1]['migrated']} migrated, "
            f"longest silence {max(gaps.values()):.2f} s",
            *wrong,
        )
        await asyncio.sleep(8)
    return rows


async def _until_replicas(deployment: str, count: int) -> None:
    for _ in range(240):
        if len(replica_pids(deployment)) >= count:
            await asyncio.sleep(3)  # until the ingress has found them
            return
        await asyncio.sleep(0.5)
    raise SystemExit(f"{deployment} does not have {count} replicas on this machine")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.faults", description=__doc__.split("\n")[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--deployment", default="Replica-smollm2", help="part of the name of the replicas' deployment")
    parser.add_argument("--faults", nargs="*", choices=list(FAULTS), default=list(FAULTS))
    parser.add_argument("--after", type=float, default=1.5, help="seconds from the first request to the fault")
    arguments = parser.parse_args()
    rows = asyncio.run(measure(arguments))
    print_json({"benchmark": "faults", "rows": rows})
    sys.exit(any(row["wrong"] for row in rows))


if __name__ == "__main__":
    main()
