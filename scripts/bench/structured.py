"""Structured output and tool calls of a running server at temperature 1.5: validity, and the cost of grammar masks.

    python -m scripts.bench.structured [--schemas 200] [--calls 500] [--url ...]

Documents: half of them streamed; every one that finishes must satisfy its schema. Calls: as many forced (required and
named in turn) as free, over 20 tools; every one that is not cut off must parse and satisfy its parameters. Before the
free ones stand turns with calls, and top_p is 0.6: a small model would not call by itself. Cost: the
same load of answers of one length with and without a JSON grammar, in turn, and the medians of the output tokens/s.
First token: one request at a time, with a schema that was seen before and without, in turn; the medians.

With --fit documents and forced calls ask for `structured_outputs.fit`: then all of them must finish.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import aiohttp
import jsonschema
from tqdm import tqdm

from scripts.bench.record import print_json
from tests.serve_app.schemas import random_schema, random_tools, turns_with_calls

__all__ = ["main"]

NUM_TOOLS = 20
# never at its end, so that every answer is as long as it may be
ENDLESS = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 24}, "size": {"type": "integer"}},
        "required": ["name", "size"],
        "additionalProperties": False,
    },
    "minItems": 1000,
}


class Answer:
    """The answer of one request, streamed or not."""

    def __init__(self) -> None:
        self.content = ""
        self.calls: list[dict[str, str]] = []
        self.reason = ""
        self.num_tokens = 0
        self.first_token_s = 0.0  # of a stream

    def add(self, part: dict[str, Any]) -> None:
        """Adds a whole message, or one event's delta."""
        self.content += part.get("content") or ""
        for call in part.get("tool_calls") or []:
            function = call["function"]
            if "name" in function:
                self.calls.append({"name": function["name"], "arguments": ""})
            self.calls[-1]["arguments"] += function.get("arguments", "")


async def ask(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> Answer:
    answer = Answer()
    began_s = time.perf_counter()
    async with session.post(f"{url}/chat/completions", json=body) as response:
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {await response.text()}")
        if not body.get("stream"):
            whole = await response.json()
            answer.add(whole["choices"][0]["message"])
            answer.reason = whole["choices"][0]["finish_reason"]
            answer.num_tokens = whole["usage"]["completion_tokens"]
            return answer
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise RuntimeError(event["error"]["message"])
            for choice in event["choices"]:
                if choice["delta"].get("content") and not answer.first_token_s:
                    answer.first_token_s = time.perf_counter() - began_s
                answer.add(choice["delta"])
                answer.reason = choice["finish_reason"] or answer.reason
    return answer


async def ask_all(url: str, name: str, bodies: Sequence[dict[str, Any]], concurrency: int) -> list[Answer]:
    """The answers to all bodies, `concurrency` at a time."""
    answers = [Answer()] * len(bodies)
    todo = iter(enumerate(bodies))
    progress = tqdm(total=len(bodies), desc=f"{name:>10}", file=sys.stderr, leave=False)

    async def client(session: aiohttp.ClientSession) -> None:
        for index, body in todo:
            answers[index] = await ask(session, url, body)
            progress.update()

    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(client(session) for _ in range(concurrency)))
    progress.close()
    return answers


def body(text: str, seed: int, max_tokens: int, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"messages": messages, "temperature": 1.5, "seed": seed, "max_tokens": max_tokens, **more}


def fitted(arguments: argparse.Namespace) -> dict[str, Any]:
    return {"structured_outputs": {"fit": True}} if arguments.fit else {}


def form(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


async def documents(arguments: argparse.Namespace) -> dict[str, Any]:
    schemas = [random_schema(random.Random(arguments.seed + index)) for index in range(arguments.schemas)]
    bodies = [
        body(
            "Tell me something.",
            index,
            arguments.max_tokens,
            response_format=form(schema),
            stream=index % 2 == 0,
            **fitted(arguments),
        )
        for index, schema in enumerate(schemas)
    ]
    answers = await ask_all(arguments.url, "documents", bodies, arguments.concurrency)
    finished = [(answer, schema) for answer, schema in zip(answers, schemas, strict=True) if answer.reason == "stop"]
    valid = sum(_is_valid(answer.content, schema) for answer, schema in finished)
    return {"load": "documents", "requests": len(bodies), "finished": len(finished), "valid": valid}


async def calls(arguments: argparse.Namespace, *, forced: bool) -> dict[str, Any]:
    tools = random_tools(random.Random(arguments.seed), NUM_TOOLS)
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
    names = list(schemas)
    bodies = []
    for index in range(arguments.calls):
        name = names[index % NUM_TOOLS]
        named = {"type": "function", "function": {"name": name}}
        choice = (named if index // NUM_TOOLS % 2 else "required") if forced else "auto"
        more = {"tools": tools, "tool_choice": choice, "parallel_tool_calls": not forced, "stream": index % 2 == 0}
        more |= fitted(arguments) if forced else {}
        asked = body(f"Call {name} now.", index, arguments.max_tokens, **more)
        if not forced:
            asked = {**asked, "messages": [*turns_with_calls(names[:3]), *asked["messages"]], "top_p": 0.6}
        bodies.append(asked)
    load = "forced" if forced else "free"
    answers = await ask_all(arguments.url, load, bodies, arguments.concurrency)
    finished = [answer for answer in answers if answer.reason != "length"]
    made = [call for answer in answers for call in _whole_calls(answer)]
    valid = sum(call["name"] in schemas and _is_valid(call["arguments"], schemas[call["name"]]) for call in made)
    row = {"load": load, "requests": len(bodies), "finished": len(finished), "calls": len(made), "valid": valid}
    return {**row, "without_call": sum(not answer.calls for answer in finished)}


def _whole_calls(answer: Answer) -> list[dict[str, str]]:
    """All calls but one that max_tokens cuts off."""
    return answer.calls[:-1] if answer.reason == "length" else answer.calls


def _is_valid(text: str, schema: dict[str, Any]) -> bool:
    try:
        jsonschema.validate(json.loads(text), schema)
    except (ValueError, jsonschema.ValidationError) as error:
        print(f"not valid: {text!r}: {error}", file=sys.stderr)
        return False
    return True


async def mask_cost(arguments: argparse.Namespace) -> dict[str, Any]:
    """Output tokens/s of equal loads, free and under a grammar."""
    speeds: dict[str, list[float]] = {"free": [], "grammar": []}
    for turn in range(arguments.turns + 1):
        for name, more in (("free", {"ignore_eos": True}), ("grammar", {"response_format": form(ENDLESS)})):
            bodies = [body(f"{turn}: list things.", i, 128, **more) for i in range(arguments.concurrency)]
            began_s = time.perf_counter()
            answers = await ask_all(arguments.url, name, bodies, arguments.concurrency)
            if turn:  # the first one warms up
                speeds[name].append(sum(answer.num_tokens for answer in answers) / (time.perf_counter() - began_s))
    free, grammar = (statistics.median(speeds[name]) for name in ("free", "grammar"))
    return {
        "free_tokens_per_s": round(free, 1),
        "grammar_tokens_per_s": round(grammar, 1),
        "cost_percent": round(100 * (1 - grammar / free), 1),
        "all_tokens_per_s": {name: [round(one, 1) for one in values] for name, values in speeds.items()},
    }


async def first_token(arguments: argparse.Namespace) -> dict[str, float]:
    """Milliseconds from a request to its first text, on an idle server."""
    seen: dict[str, list[float]] = {"free": [], "schema": []}
    for turn in range(41):
        for name, more in (("free", {}), ("schema", {"response_format": form(ENDLESS)})):
            asked = [body("List things.", turn, 4, stream=True, **more)]
            (answer,) = await ask_all(arguments.url, name, asked, 1)
            if turn:  # the first one compiles
                seen[name].append(answer.first_token_s * 1000)
    return {name: round(statistics.median(values), 2) for name, values in seen.items()}


async def measure(arguments: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, float]]:
    first = await first_token(arguments)
    cost = await mask_cost(arguments)
    rows = [await documents(arguments)] if arguments.schemas else []
    if arguments.calls:
        rows += [await calls(arguments, forced=True), await calls(arguments, forced=False)]
    return rows, cost, first


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.structured", description=__doc__.split("\n")[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--schemas", type=int, default=200)
    parser.add_argument("--calls", type=int, default=500, help="forced ones, and as many free ones")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--turns", type=int, default=5, help="of the mask's cost")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fit", action="store_true", help="documents and forced calls must finish within max_tokens")
    arguments = parser.parse_args()
    rows, cost, first = asyncio.run(measure(arguments))
    head = ("load", "requests", "finished", "calls", "valid")
    print(("{:>12}" * len(head)).format(*head))
    for row in rows:
        print(("{:>12}" * len(head)).format(*(row.get(column, "-") for column in head)))
    print(
        f"output tokens/s: {cost['free_tokens_per_s']} free, {cost['grammar_tokens_per_s']} under a grammar, "
        f"which costs {cost['cost_percent']} %"
    )
    print(f"first token: {first['free']} ms free, {first['schema']} ms with a known schema")
    result = {"rows": rows, "cost": cost, "first_token_ms": first}
    print_json({"benchmark": "structured", "arguments": vars(arguments), **result})


if __name__ == "__main__":
    main()
