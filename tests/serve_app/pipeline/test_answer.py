"""The one pipeline, asked by an API that is none of OpenAI's: an adapter and a renderer are all that it brings."""

import msgspec
import pytest
from fastapi import FastAPI, Request
from pydantic import BaseModel

from configs.schema import ApiConfig
from engine.errors import Overloaded
from serve_app.metrics.request_metrics import Metrics
from serve_app.model.registry import Registry
from serve_app.pipeline.answer import AnswerPipeline
from serve_app.pipeline.auth import Authenticator
from serve_app.pipeline.parser import RequestParser
from serve_app.pipeline.preparation import Preparation
from serve_app.pipeline.resumable import ResumableStreams
from serve_app.preparation.conversation import ConversationPreparer
from serve_app.preparation.generate_request import PreparedAnswer
from serve_app.preparation.grammar_validator import GrammarValidator
from serve_app.request.conversation import Conversation, Message
from serve_app.request.options import Delivery, GenerationOptions, LengthLimits, Logprobs, Sampling
from serve_app.request.output_format import StructuredOutput
from serve_app.result_cache.cache import ResultCache
from serve_app.resumption.records import StreamRecords
from serve_app.state.store import MemoryStore, StoreLimits
from serve_app.tenants.key_store import KeyStore
from serve_app.tools.tool_use import tool_use
from serve_app.transport.errors import install_error_handlers
from serve_app.transport.request_id import RequestIds
from tests.serve_app.scripted import WORKERS, ScriptedClient, config, says, talking_to
from tests.serve_app.toy import toy_model


class Asked(BaseModel):
    text: str
    stream: bool = False
    max_tokens: int | None = None


class PreparedPoem(PreparedAnswer, frozen=True, kw_only=True):
    title: str


def prepare_poem(asked, model, limits, context):
    options = GenerationOptions(
        sampling=Sampling(temperature=0.0),
        lengths=LengthLimits(max_tokens=asked.max_tokens, prompt_field="text"),
        logprobs=Logprobs(),
        output=StructuredOutput(),
        delivery=Delivery(stream=asked.stream),
    )
    conversation = Conversation(messages=(Message(role="user", content=asked.text),), options=options)
    prepared = ConversationPreparer(tool_use(conversation, limits), model, limits).prepare(conversation, context)
    return PreparedPoem(
        parts=(prepared.request,), delivery=options.delivery, num_choices=1, has_seed=False, title=asked.text.upper()
    )


class PoemRenderer:
    id_prefix = "poem-"
    keep_alive = b": still here\n\n"

    def stream(self, answer, metadata, vocabulary):
        return Lines(answer)

    def document(self, answer, metadata, vocabulary):
        return Lines(answer)


class Lines:
    """Writes both, streams and documents."""

    wants_usage = False

    def __init__(self, answer):
        self.text = f"{answer.title}: "

    def opening(self, usage):
        return self.text.encode()

    def delta(self, delta, usage):
        return delta.message.content.encode()

    def closing(self, usage):
        return b" (%d)" % usage.completion_tokens

    def fault(self, fault):
        return fault.message.encode()

    def add(self, delta):
        self.text += delta.message.content

    def body(self, usage):
        return self.text.encode() + self.closing(usage)


def serving_poems(client, api=None):
    settings, model = config(api), toy_model()
    models, keys = {"toy": model}, KeyStore(settings, environment={})
    registry, auth = Registry(client, settings, models, created=0), Authenticator(keys)
    records = StreamRecords(MemoryStore(StoreLimits.of_streams(settings.api.resume)), settings.api.resume)
    preparation = Preparation(settings.api, models, WORKERS, (__name__,))
    parser = RequestParser(settings.api, registry, auth, preparation, records)
    results, validator = ResultCache(settings.api, "id"), GrammarValidator(models, WORKERS)
    pipeline = AnswerPipeline(client, settings, validator, results, Metrics(), ResumableStreams(records))
    app = FastAPI()

    @app.post("/poem", response_model=None)
    async def write_poem(http: Request):
        return await pipeline.answer(await parser.parse(http, Asked, prepare_poem), PoemRenderer())

    install_error_handlers(app)
    app.add_middleware(RequestIds)
    return talking_to(app)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_api_is_an_adapter_and_a_renderer(stream):
    client = ScriptedClient(says("roses"))
    async with serving_poems(client) as http:
        answer = await http.post("/poem", json={"text": "red", "stream": stream})
    assert (answer.status_code, answer.text) == (200, "RED: roses (6)")
    assert answer.headers["content-type"].startswith("text/event-stream" if stream else "application/json")
    (asked,) = client.requests
    assert (
        toy_model().tokenizer.decode(list(asked.prompt), skip_special_tokens=False).startswith("<|im_start|>user\nred<")
    )


async def test_a_fault_names_that_apis_field_before_the_first_byte():
    async with serving_poems(ScriptedClient(says("x"))) as http:
        answer = await http.post("/poem", json={"text": "red", "max_tokens": 10_000, "stream": True})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "max_tokens"
    async with serving_poems(ScriptedClient([Overloaded("full", retry_after_s=1.0)])) as http:
        assert (await http.post("/poem", json={"text": "red", "stream": True})).status_code == 429


async def test_a_stream_that_fails_ends_in_that_apis_words():
    failing = [*says("ro", finish=None), RuntimeError("broken")]
    async with serving_poems(ScriptedClient(failing)) as http:
        answer = await http.post("/poem", json={"text": "red", "stream": True})
    assert answer.text == "RED: rointernal error; the server's log has the details"


async def test_the_result_cache_answers_any_api():
    client = ScriptedClient(says("roses"))
    async with serving_poems(client, msgspec.structs.replace(ApiConfig(), result_cache_bytes=10_000)) as http:
        answers = [await http.post("/poem", json={"text": "red"}) for _ in range(2)]
    assert [answer.headers["x-cache"] for answer in answers] == ["miss", "hit"]
    assert answers[0].text == answers[1].text and len(client.requests) == 1
