"""Records the answers to 300 mixed requests, and compares two recordings, to prove that a change keeps every byte.

    python -m scripts.bench.replay record before.json --url http://127.0.0.1:8000
    python -m scripts.bench.replay compare before.json after.json

The requests are the same at every run: chats and completions, whole and streamed, greedy and seeded, with stops,
penalties, logprobs, several choices, beams, echo, formats, regular expressions, tools in all modes, and some that are
invalid. Every answer is recorded byte by byte, but for ids and times.
"""

import argparse
import http.client
import json
import random
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

__all__ = ["requests"]

COUNT = 300
WORDS = "rain river bread iron seven glass quiet market north letter copper garden".split()
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}, "days": {"type": "integer", "maximum": 9}},
            "required": ["city"],
        },
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 10}, "n": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "n"],
    "additionalProperties": False,
}
CHATS: tuple[dict[str, Any], ...] = (
    {"temperature": 0},
    {"temperature": 1.0, "top_p": 0.9},
    {"temperature": 0.7, "top_k": 20, "min_p": 0.05, "n": 2},
    {"temperature": 0, "stop": ["e", "\n"]},
    {"temperature": 0.8, "presence_penalty": 0.5, "frequency_penalty": 0.4, "repetition_penalty": 1.1},
    {"temperature": 0, "logprobs": True, "top_logprobs": 3},
    {"temperature": 1.2, "logit_bias": {"30": 4, "31": -100}},
    {"temperature": 0.9, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
    {"temperature": 0.9, "structured_outputs": {"regex": "[a-f]{3,6}-[0-9]{2}"}},
    {"temperature": 0.9, "structured_outputs": {"choice": ["red", "green", "blue"]}},
    {"temperature": 0.5, "tools": [TOOL], "tool_choice": "required"},
    {"temperature": 0.5, "tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "weather"}}},
    {"temperature": 0.5, "tools": [TOOL]},
    {"temperature": 0, "use_beam_search": True, "n": 2},
    {"temperature": 0.3, "min_tokens": 5, "ignore_eos": True},
    {"temperature": 0, "echo": True, "add_generation_prompt": True},
    {"temperature": -1},
    {"temperature": 0, "top_logprobs": 500, "logprobs": True},
    {"temperature": 0, "n": 0},
    {"temperature": 0, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": 3}}}},
)
COMPLETIONS: tuple[dict[str, Any], ...] = (
    {"temperature": 0},
    {"temperature": 1.0, "logprobs": 2},
    {"temperature": 0, "echo": True, "logprobs": 1},
    {"temperature": 0.8, "n": 3, "stop": "."},
    {"temperature": 0, "prompt_logprobs": 2},
    {"temperature": 0, "max_tokens": 0},
)


def requests() -> list[tuple[str, dict[str, Any]]]:
    """(path, body) of each request."""
    rng = random.Random(1)
    made: list[tuple[str, dict[str, Any]]] = []
    for number in range(COUNT):
        text = " ".join(rng.choices(WORDS, k=rng.randint(2, 40)))
        common = {"seed": number, "max_tokens": rng.choice((5, 20, 40)), "stream": rng.random() < 0.5}
        if number % 5 < 4:
            messages = [{"role": "user", "content": f"Say something of: {text}"}]
            if rng.random() < 0.3:
                messages.insert(0, {"role": "system", "content": "You are brief."})
            made.append(("/v1/chat/completions", {**common, "messages": messages, **CHATS[number % len(CHATS)]}))
        else:
            made.append(("/v1/completions", {**common, "prompt": text, **COMPLETIONS[number // 5 % len(COMPLETIONS)]}))
    return made


def _ask(url: str, path: str, body: dict[str, Any]) -> list[Any]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port or 80, timeout=120)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return [response.status, _plain(response.read().decode())]
    finally:
        connection.close()


def _plain(text: str) -> str:
    """The answer without ids and times, with the deltas of a stream joined by choice."""
    text = re.sub(r'"(id|created|request_id|system_fingerprint)": ?("[^"]*"|\d+)', r'"\1":0', text)
    return re.sub(r'"cached_tokens": ?\d+', '"cached_tokens":0', text)  # depends on what was asked before


def _same(one: list[Any], other: list[Any]) -> bool:
    return one == other or (one[0] == other[0] and _joined(one[1]) == _joined(other[1]) is not None)


def _joined(text: str) -> dict[int, str] | None:
    """A stream with each choice's texts joined: how tokens are split into events depends on the machine's load."""
    if not text.startswith("data: "):
        return None
    joined: dict[int, str] = {}
    for line in text.split("\n\n"):
        if line.startswith("data: {"):
            for choice in json.loads(line[6:]).get("choices", ()):
                delta = choice.get("delta") or {}
                piece = (delta.get("content") or "") + (choice.get("text") or "")
                calls = "".join(
                    (call.get("function") or {}).get("arguments") or "" for call in delta.get("tool_calls") or ()
                )
                joined[choice["index"]] = (
                    joined.get(choice["index"], "") + piece + calls + str(choice["finish_reason"] or "")
                )
    return joined


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    record = commands.add_parser("record")
    record.add_argument("file")
    record.add_argument("--url", default="http://127.0.0.1:8000")
    compare = commands.add_parser("compare")
    compare.add_argument("before")
    compare.add_argument("after")
    arguments = parser.parse_args()
    if arguments.command == "record":
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda one: _ask(arguments.url, *one), requests()))
        with open(arguments.file, "w") as file:
            json.dump(answers, file, indent=0)
        print(f"{len(answers)} answers, {sum(status == 200 for status, _ in answers)} of them 200")
        return
    before, after = (json.load(open(name)) for name in (arguments.before, arguments.after))
    equal = [one == other for one, other in zip(before, after, strict=True)]
    same = [_same(one, other) for one, other in zip(before, after, strict=True)]
    print(f"{sum(equal)} of {len(equal)} equal to the byte, {sum(same)} in what they say")
    for number, is_same in enumerate(same):
        if not is_same:
            print(f"{number}: {requests()[number]}\n  {before[number]}\n  {after[number]}")
    sys.exit(not all(same))


if __name__ == "__main__":
    main()
