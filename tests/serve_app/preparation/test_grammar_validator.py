import pytest

from configs.schema import ApiConfig
from engine.errors import RequestError
from serve_app.api.requests import ChatRequest
from serve_app.chat.adapter import prepare_chat
from serve_app.preparation.generate_request import new_context
from serve_app.preparation.grammar_validator import GrammarValidator
from serve_app.workers.pool import LimitExceeded, WorkerPool
from tests.serve_app.toy import toy_model


class Slow(WorkerPool):
    async def run(self, function, key, data):
        raise LimitExceeded("it takes more than 4 s of a CPU")


async def test_of_several_schemas_that_take_too_long_the_largest_is_named():
    schemas = [{"properties": {f"p{n}": {} for n in range(count)}} for count in (1, 30, 2)]
    functions = [{"name": f"f{n}", "parameters": schema} for n, schema in enumerate(schemas)]
    tools = [{"type": "function", "function": function} for function in functions]
    body = {"messages": [{"role": "user", "content": "x"}], "tools": tools, "tool_choice": "required"}
    model = toy_model(max_model_len=4096)
    prepared = prepare_chat(ChatRequest.model_validate(body), model, ApiConfig(), new_context("x", 4096))
    with pytest.raises(RequestError, match=r"^tools: to compile it takes .* the largest schema is tools\.1\.function"):
        await GrammarValidator({model.name: model}, Slow()).check(prepared.parts[0])
