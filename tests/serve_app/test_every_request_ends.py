"""Random schemas and grammars through HTTP, the wire and the real sampler: every request ends in its tokens' time."""

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import msgspec
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cluster.client import ClusterClient
from cluster.replicas import Replicas
from cluster.server import WireServer
from engine.engine import Engine
from engine.scheduling.scheduler_output import ModelOutput, SchedulerOutput
from tests.cluster.local import SECRET, WIRE, _nobody_to_ask, new_router
from tests.serve_app.random_engine import RandomExecutor
from tests.serve_app.schemas import random_schema
from tests.serve_app.scripted import build_app, chat, config, events, talking_to
from tests.serve_app.toy import toy_model

MODEL = toy_model(max_model_len=4096)
LIMIT_S = 15.0  # 40 tokens take a tenth of a second
ENDS = {"stop", "length", "tool_calls"}


class FailingExecutor(RandomExecutor):
    """Every grammar fails with a chance at each token, as one does that llguidance stops."""

    def __init__(self, chance: float, rng: random.Random) -> None:
        super().__init__(MODEL)
        self._chance, self._rng = chance, rng
        self._held: set[int] = set()  # sequences with a grammar

    def execute_model(self, plan: SchedulerOutput) -> ModelOutput:
        self._held |= {start.seq_id for start in plan.new_sequences if start.grammar is not None}
        result = super().execute_model(plan)
        sampled = [piece.seq_id for piece in plan.sequences if piece.samples]
        failed = list(result.failed or [None] * len(sampled))
        for at, seq_id in enumerate(sampled):
            if seq_id in self._held and self._rng.random() < self._chance:
                failed[at] = "stopped by the test"
        return msgspec.structs.replace(result, failed=tuple(failed) if any(failed) else ())


@contextlib.asynccontextmanager
async def served(chance: float, seed: int) -> AsyncIterator[httpx2.AsyncClient]:
    """The whole application over one replica on a real socket."""
    executor = FailingExecutor(chance, random.Random(seed))
    server = WireServer(Engine(executor, MODEL.name, cache_key=SECRET), "replica", WIRE, SECRET)
    address = await server.start("127.0.0.1")

    async def discover() -> list[tuple[str, int]]:
        return [address]

    replicas = Replicas(discover, _nobody_to_ask, "ingress", SECRET, WIRE, new_router())
    client = ClusterClient({MODEL.name: replicas}, WIRE, 1000, cache_key=SECRET)
    client.start()
    try:
        async with talking_to(build_app(client, config(), {MODEL.name: MODEL})) as http:
            yield http
        assert client.num_open == 0
        async with asyncio.timeout(30):
            while server.num_open or server.engine_thread.status.num_running:
                await asyncio.sleep(0.01)
    finally:
        await client.close()
        await server.close()


@st.composite
def schemas(draw: st.DrawFn) -> dict[str, Any]:
    """Those that are promised, and with names, patterns and lengths that get into each other's way."""
    schema = random_schema(random.Random(draw(st.integers(0, 10_000))), depth=2)
    if draw(st.booleans()):
        names = draw(st.lists(st.sampled_from(["a", "ab", "b1", "id"]), unique=True, max_size=3))
        patterns = st.sampled_from(["^a$", "^a", "b", "^(a|id)$", "^[ab]+$", "^b[0-9]$"])
        values = st.sampled_from([True, {"type": "string", "maxLength": 3}, {"type": "integer"}, {"enum": ["x", 1]}])
        schema = {
            "type": "object",
            "properties": {name: draw(values) for name in names},
            "required": names[: draw(st.integers(0, 3))],
            "patternProperties": draw(st.dictionaries(patterns, values, max_size=2)),
            "additionalProperties": draw(st.sampled_from([False, True, schema])),
            "minProperties": draw(st.integers(0, 3)),
        }
    return schema


LITERALS = st.sampled_from(['"a"', '"bc"', '""', '"{"', "[a-c]", "[0-9]+", "[^x]*", '"x"?', "[a-z]{2,4}"])


@st.composite
def gbnf(draw: st.DrawFn) -> str:
    """A few rules that name each other in any order: some without a finite text, some with nothing to follow."""
    num_rules = draw(st.integers(1, 4))
    atoms = LITERALS | st.sampled_from([f"r{at}" for at in range(num_rules)])
    sequences = st.lists(atoms, min_size=1, max_size=3).map(" ".join)
    rules = [draw(st.lists(sequences, min_size=1, max_size=3).map(" | ".join)) for _ in range(num_rules)]
    return "\n".join([f"root ::= {rules[0]}", *(f"r{at} ::= {rule}" for at, rule in enumerate(rules))])


def tool(schema: dict[str, Any]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"v": schema}, "required": ["v"]}
    return {"tools": [{"type": "function", "function": {"name": "f", "parameters": parameters}}]}


FORMS = st.one_of(
    schemas().map(lambda schema: {"guided_json": schema}),
    schemas().map(lambda schema: {"structured_outputs": {"json": schema, "fit": True}}),
    schemas().map(lambda schema: {**tool(schema), "tool_choice": "required"}),
    gbnf().map(lambda text: {"guided_grammar": text}),
    st.from_regex(r"[a-c]([a-c]|\[ab\]|\(a\|b\)[+?]|\.\{1,3\}){0,6}", fullmatch=True).map(
        lambda one: {"guided_regex": one}
    ),
)


@given(
    forms=st.lists(FORMS, min_size=1, max_size=4),
    stream=st.booleans(),
    ignore_eos=st.booleans(),
    n=st.integers(1, 2),
    temperature=st.sampled_from([0.0, 1.0]),
    chance=st.sampled_from([0.0, 0.0, 0.03]),
    seed=st.integers(0, 99),
)
@settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
)
async def test_every_request_ends_within_its_tokens_time(
    forms: list[dict[str, Any]], stream: bool, ignore_eos: bool, n: int, temperature: float, chance: float, seed: int
) -> None:
    async def ask(http: httpx2.AsyncClient, form: dict[str, Any]) -> None:
        sampling = {"stream": stream, "n": n, "temperature": temperature, "seed": seed, "max_tokens": 40}
        fitted = form.get("structured_outputs", {}).get("fit")
        body = chat(**form, **sampling, **({} if fitted else {"ignore_eos": ignore_eos}))
        answer = await asyncio.wait_for(http.post("/v1/chat/completions", json=body), LIMIT_S)
        said = json.dumps(form)
        assert answer.status_code in (200, 400, 500), (answer.text, said)
        if not stream or answer.status_code != 200:
            whole = answer.json()
            choices = whole.get("choices", [])
        else:
            *told, done = events(answer.text)
            assert done == "[DONE]"
            whole = told[-1]
            choices = [choice for one in told for choice in one.get("choices", ()) if choice["finish_reason"]]
        if "error" in whole:  # 500: the check of the finished document is stricter than the grammar
            assert whole["error"]["code"] == 400 or "not satisfy" in whole["error"]["message"], (whole, said)
        else:
            assert len(choices) == n and {choice["finish_reason"] for choice in choices} <= ENDS, (answer.text, said)

    async with served(chance, seed) as http:
        await asyncio.gather(*(ask(http, form) for form in forms))
