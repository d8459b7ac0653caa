"""From the wire to what the engine is asked."""

import pytest

from configs.schema import ApiConfig
from engine.errors import RequestError
from serve_app.api.requests import ChatRequest
from serve_app.api.validation import validate
from serve_app.chat.adapter import prepare_chat
from serve_app.model.text_model import SamplingDefaults
from serve_app.preparation.generate_request import RequestContext
from tests.serve_app.toy import toy_model

USER = [{"role": "user", "content": "hi"}]


def prepare(model=None, context_len=512, **fields):
    model = model or toy_model()
    chat = validate(ChatRequest, {"messages": USER, **fields})
    return prepare_chat(chat, model, ApiConfig(), RequestContext("r", 77, context_len)).parts[0]


def prompt_of(**fields):
    model = toy_model()
    return model.tokenizer.decode(list(prepare(model, **fields).request.prompt), skip_special_tokens=False)


def test_the_prompt_is_the_template_with_the_answers_beginning():
    assert prompt_of() == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_every_role_and_text_parts_are_taken_and_null_keys_of_the_sdk_too():
    messages = [
        {"role": "system", "content": "s", "name": None},
        {"role": "developer", "content": "d"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {
            "role": "assistant",
            "content": None,
            "refusal": None,
            "audio": None,
            "function_call": None,
            "annotations": [],
        },
        {"role": "tool", "content": "t", "tool_call_id": "1"},
    ]
    said = prompt_of(messages=messages)
    turns = [turn.split("<|im_end|>")[0] for turn in said.split("<|im_start|>")[1:-1]]
    assert turns == [
        "system\ns",
        "system\nd",
        "user\na\nb",
        "assistant\n",
        "user\n<tool_response>\nt\n</tool_response>",
    ]


def test_text_parts_may_bear_the_names_that_responses_give_them():
    parts = [{"type": kind, "text": kind} for kind in ("input_text", "output_text")]
    parts += [{"type": kind, kind: kind} for kind in ("refusal", "thinking")]
    assert "user\ninput_text\noutput_text\nrefusal\nthinking<" in prompt_of(
        messages=[{"role": "user", "content": parts}]
    )


def test_text_parts_may_be_texts_alone_or_without_a_type():
    parts = ["a", {"text": "b"}, {"type": None, "text": "c"}]
    assert "user\na\nb\nc<" in prompt_of(messages=[{"role": "user", "content": parts}])


def test_an_assistant_that_refused_has_said_so():
    refused = {"role": "assistant", "content": None, "refusal": "I will not."}
    assert "assistant\nI will not.<" in prompt_of(messages=[*USER, refused, *USER])


@pytest.mark.parametrize("choice", [{"function": {"name": "f"}}, {"type": "function", "function": {"name": "f"}}])
def test_what_does_not_say_its_type_is_a_function(choice):
    fields = {"tools": [{"function": {"name": "f"}}], "tool_choice": choice}
    assert prepare(**fields).request.grammar is not None


def test_without_max_tokens_the_answer_gets_all_the_room():
    request = prepare(context_len=300).request
    assert request.sampling.max_tokens == 300 - len(request.prompt)


def test_max_tokens_is_cut_to_the_room_left():
    assert prepare(context_len=100, max_tokens=100).request.sampling.max_tokens == 100 - len(prepare().request.prompt)
    assert prepare(max_tokens=3).request.sampling.max_tokens == 3
    assert prepare(max_tokens=3, max_completion_tokens=4).request.sampling.max_tokens == 4


def test_off_values_are_the_engines():
    sampling = prepare().request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (1.0, 1.0, 0, 0.0)
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) == (0.0, 0.0, 1.0)
    assert sampling.num_logprobs is None and sampling.logit_bias == ()
    assert sampling.stop_token_ids == (2,)


def test_the_models_defaults_fill_what_the_client_leaves_open():
    model = toy_model(defaults=SamplingDefaults(temperature=0.6, top_p=0.9, top_k=20, repetition_penalty=1.1))
    sampling = prepare(model).request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.repetition_penalty) == (0.6, 0.9, 20, 1.1)
    sampling = prepare(model, temperature=1, top_p=1, top_k=-1, repetition_penalty=1.0).request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.repetition_penalty) == (1.0, 1.0, 0, 1.0)


def test_the_models_author_says_how_long_answers_are_where_the_client_does_not():
    model = toy_model(defaults=SamplingDefaults(max_new_tokens=20))
    room = 512 - len(prepare().request.prompt)
    for fields, expected in (({}, 20), ({"max_tokens": 30}, 30), ({"max_tokens": 3}, 3), ({"min_tokens": 25}, 25)):
        assert prepare(model, **fields).request.sampling.max_tokens == expected
    model = toy_model(defaults=SamplingDefaults(max_new_tokens=10_000))
    assert prepare(model).request.sampling.max_tokens == room


@pytest.mark.parametrize(("asked", "got"), [(0, 0.0), (1e-6, 0.0), (1e-4, 0.01), (0.5, 0.5), (2, 2.0)])
def test_tiny_temperatures_are_greedy(asked, got):
    assert prepare(temperature=asked).request.sampling.temperature == got


def test_a_seed_is_drawn_where_none_is_given():
    assert prepare().request.sampling.seed == 77
    assert prepare(seed=-(2**63)).request.sampling.seed == -(2**63)


def test_greedy_takes_several_choices():
    request = prepare(temperature=0, n=3).request
    assert (request.n, request.sampling.temperature) == (3, 0.0)


def test_ignoring_the_end_leaves_the_clients_stop_tokens():
    assert prepare(ignore_eos=True, stop_token_ids=[7]).request.sampling.stop_token_ids == (7,)


def test_logit_bias_is_clamped():
    assert prepare(logit_bias={"7": 500, "8": -1.5}).request.sampling.logit_bias == ((7, 100.0), (8, -1.5))


def test_whole_floats_are_integers_and_null_is_absent():
    request = prepare(max_tokens=5.0, n=2.0, temperature=None, stop=None, stream_options=None).request
    assert (request.sampling.max_tokens, request.n) == (5, 2)


def test_unknown_fields_are_ignored():
    assert prepare(user="u", metadata={"a": "b"}, store=True, best_of=5, nonsense=[1]).request.n == 1


def test_logprobs_ask_for_the_chosen_token_or_more():
    assert prepare(logprobs=True).request.sampling.num_logprobs == 0
    assert prepare(logprobs=True, top_logprobs=5).request.sampling.num_logprobs == 5


def test_what_the_template_refuses_is_told():
    model = toy_model(template="{{ raise_exception('only users speak here') }}")
    with pytest.raises(RequestError, match="only users speak here"):
        prepare(model)


def test_truncate_prompt_tokens_of_minus_1_leaves_room_for_min_tokens():
    fields = {"messages": [{"role": "user", "content": "x" * 600}], "truncate_prompt_tokens": -1}
    request = prepare(min_tokens=100, **fields).request
    assert (len(request.prompt), request.sampling.min_tokens, request.sampling.max_tokens) == (412, 100, 100)
