"""GET /metrics: what has been answered, read back with Prometheus' own parser."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from engine.errors import Overloaded
from engine.types import RequestOutput
from serve_app.generation.choice import ChoiceDelta
from serve_app.generation.observer import observed
from serve_app.generation.usage import Usage
from serve_app.metrics.request_metrics import Metrics
from serve_app.text.message_delta import MessageDelta
from tests.serve_app.scripted import ScriptedClient, chat, says, serving

URL = "/v1/chat/completions"


async def scraped(http):
    """(name, sorted labels but the model's) -> value"""
    answer = await http.get("/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {}
    typed = {line.split()[2] for line in answer.text.splitlines() if line.startswith("# TYPE")}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("model_name") == "toy"
            assert (family.name if family.type == "histogram" else sample.name) in typed
            found[(sample.name, *labels.values())] = sample.value
    return found


async def test_tokens_and_endings_are_counted_for_streams_and_whole_answers():
    async with serving(ScriptedClient(says("hello", cached=3))) as http:
        whole = await http.post(URL, json=chat())
        await http.post(URL, json=chat(stream=True))
        await http.post(URL, json=chat(stop="l"))
        await http.post("/v1/completions", json={"prompt": "hi", "max_tokens": 9})
        found = await scraped(http)
    prompt = whole.json()["usage"]["prompt_tokens"]
    assert found[("vllm:prompt_tokens_total",)] == found[("vllm:prefix_cache_queries_total",)] == 3 * prompt + 2
    assert found[("vllm:generation_tokens_total",)] == 6 + 6 + 3 + 6
    assert found[("vllm:prefix_cache_hits_total",)] == 4 * 3
    assert found[("vllm:request_success_total", "stop")] == 4
    assert found[("vllm:num_requests_running",)] == 0 and found[("vllm:kv_cache_usage_perc",)] == 0


async def test_every_choice_has_a_first_token_an_end_and_a_length():
    chunks = [chunk for pair in zip(says("ab", index=0), says("cd", index=1), strict=True) for chunk in pair]
    async with serving(ScriptedClient(chunks)) as http:
        await http.post(URL, json=chat(n=2, temperature=1))
        found = await scraped(http)
    assert found[("vllm:time_to_first_token_seconds_count",)] == 2
    assert found[("vllm:inter_token_latency_seconds_count",)] == 4
    assert found[("vllm:e2e_request_latency_seconds_count",)] == found[("vllm:request_prompt_tokens_count",)] == 1
    assert found[("vllm:request_generation_tokens_count",)] == 2
    assert found[("vllm:request_generation_tokens_sum",)] == 6
    assert found[("vllm:request_generation_tokens_bucket", "1")] == 0
    assert found[("vllm:request_generation_tokens_bucket", "10")] == 2
    assert found[("vllm:request_generation_tokens_bucket", "+Inf")] == 2


class Output:
    """Two choices: so many tokens of each."""

    def __init__(self, *num_tokens):
        self.num_tokens = num_tokens

    def usage(self):
        return Usage(5, sum(self.num_tokens), 0)

    def usage_of(self, index):
        return Usage(5, self.num_tokens[index], 0)


def delta(index, reason=None, **fields):
    return ChoiceDelta(index, RequestOutput("r", index, 0, (7,)), MessageDelta(), (7,), finish_reason=reason, **fields)


def test_the_parts_of_a_choices_time_add_up():
    clock = {"now_s": 10}
    metrics = Metrics(lambda: clock["now_s"])
    observer = metrics.observer("toy")
    with observed([observer], Output(3, 2)):
        for at_s, index, reason in (
            (13, 0, None),
            (15, 1, None),
            (16, 0, None),
            (19, 0, "stop"),
            (21, 1, "length"),
        ):
            clock["now_s"] = at_s
            observer.on_delta(delta(index, reason, queued_s=1.0 + index))
    found = {}
    for line in metrics.text(()).splitlines():
        name, _, value = line.partition('{model_name="toy"} ')
        found[name.removeprefix("vllm:")] = value
    sums = {name: float(value) for name, value in found.items() if name.endswith("_sum")}
    assert sums["time_to_first_token_seconds_sum"] == 3 + 5
    assert sums["request_queue_time_seconds_sum"] == 1 + 2
    assert sums["request_prefill_time_seconds_sum"] == 2 + 3
    assert sums["request_decode_time_seconds_sum"] == 6 + 6
    assert sums["request_inference_time_seconds_sum"] == 8 + 9
    assert sums["inter_token_latency_seconds_sum"] == 3 + 3 + 6
    assert sums["request_time_per_output_token_seconds_sum"] == 6 / 2 + 6 / 1
    assert sums["e2e_request_latency_seconds_sum"] == 11


async def test_a_gateway_finds_the_size_of_a_block():
    async with serving(ScriptedClient(says("a"))) as http:
        found = await scraped(http)
    assert found[("vllm:cache_config_info", "16", "1")] == 1


def test_an_answer_whose_client_leaves_is_an_abort():
    metrics = Metrics()
    observer = metrics.observer("toy")
    with pytest.raises(GeneratorExit), observed([observer], Output(2, 1)):
        for index, reason in ((0, None), (1, None), (0, "length")):
            observer.on_delta(delta(index, reason))
        raise GeneratorExit
    assert 'vllm:request_success_total{model_name="toy",finished_reason="length"} 1' in metrics.text(())
    assert 'vllm:request_success_total{model_name="toy",finished_reason="abort"} 1' in metrics.text(())


async def test_what_is_refused_is_not_counted():
    async with serving(ScriptedClient([Overloaded("full", retry_after_s=1.0)])) as http:
        assert (await http.post(URL, json=chat())).status_code == 429
        found = await scraped(http)
    assert ("vllm:prompt_tokens_total",) not in found
    assert found[("vllm:e2e_request_latency_seconds_count",)] == 0


@pytest.mark.parametrize("name", ["a/b:c", 'q"\\x'])
def test_any_name_of_a_model_can_be_told(name):
    metrics = Metrics()
    metrics.observer(name)
    (family, *_) = text_string_to_metric_families(metrics.text(()))
    assert {sample.labels["model_name"] for sample in family.samples} == {name}
