"""The engine against full recompute, on the toy executor."""

import itertools
import random
import time
from collections import defaultdict
from collections.abc import Sequence

import pytest

from configs.schema import CacheConfig, EngineConfig, SchedulerConfig
from engine.cache.cache_layout import CacheGroup
from engine.engine import Engine
from engine.errors import ContextTooLong, Overloaded, RequestError
from engine.types import GenerateRequest, RequestOutput, TokenSpan
from tests.engine.toy import VOCAB_SIZE, ToyConnector, ToyExecutor, ToyStateConnector, recompute, request


def make(
    sharing: bool = True,
    toy: ToyExecutor | None = None,
    overlap: bool = False,
    connectors: Sequence[ToyConnector] = (),
    **scheduler: int,
) -> Engine:
    config = SchedulerConfig(**scheduler)
    cache = CacheConfig(enable_prefix_caching=sharing, state_snapshot_interval=8)
    toy = toy or ToyExecutor()
    for connector in connectors:
        connector.toy = toy
    toy.async_scheduling = overlap
    toy.connector, toy.state_connector = (*connectors, None, None)[:2]
    return Engine(toy, "toy", EngineConfig(scheduler=config, cache=cache), b"k")


def run(engine: Engine) -> dict[tuple[str, int], list[RequestOutput]]:
    """Every chunk until nothing is left to do, by request and choice."""
    chunks: dict[tuple[str, int], list[RequestOutput]] = defaultdict(list)
    while engine.has_work:
        for chunk in engine.step():
            chunks[chunk.request_id, chunk.index].append(chunk)
        engine.check()
    return chunks


def assert_is(chunks: list[RequestOutput], asked: GenerateRequest, index: int = 0, skip: int = 0) -> None:
    """Asserts that the chunks are exactly one choice's answer, from its token `skip` on."""
    output, reason = recompute(asked, index)
    assert [token for chunk in chunks for token in chunk.tokens] == output[skip:]
    starts = itertools.accumulate((len(chunk.tokens) for chunk in chunks), initial=skip)
    assert [chunk.start for chunk in chunks] == list(starts)[:-1]
    assert [chunk.finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + [reason]


@pytest.mark.parametrize("overlap", [False, True])
def test_a_grammar_that_fails_ends_its_choice_after_the_tokens_it_has_told(overlap: bool) -> None:
    toy = ToyExecutor(num_blocks=12)  # a few sequences at a time: some are preempted while their token is sampled
    engine = make(toy=toy, overlap=overlap)
    asked = [request(f"r{i}", [i, 2], max_tokens=12, n=1 + i % 3, grammar_ends=i % 14, seed=i) for i in range(20)]
    for one in asked:
        engine.submit(one)
    chunks = run(engine)
    for one in asked:
        for index in range(one.n):
            assert_is(chunks[one.request_id, index], one, index)
    assert engine.status().num_preemptions > 10
    assert engine.scheduler.blocks.pool.num_free == toy.num_blocks


def test_one_request_in_three_lines() -> None:
    asked = request("a", [1, 2, 3])
    chunks = list(make().generate(asked))
    assert_is(chunks, asked)


@pytest.mark.parametrize(
    ("max_drafts", "overlap", "offloads", "recurrent"),
    [
        (0, False, False, False),
        (5, False, False, False),
        (0, True, False, False),
        (0, False, True, False),
        (0, True, True, False),
        (0, False, False, True),
        (0, True, False, True),
        (5, True, True, False),
        (5, True, False, True),
        (0, False, True, True),
        (0, True, True, True),
        (5, True, True, True),
    ],
)
@pytest.mark.parametrize("sharing", [True, False])
@pytest.mark.parametrize("budget", [3, 64, 512])
@pytest.mark.parametrize("block_size", [1, 4, 16])
def test_random_traffic_equals_full_recompute(
    block_size: int, budget: int, sharing: bool, max_drafts: int, overlap: bool, offloads: bool, recurrent: bool
) -> None:
    random_traffic(block_size, budget, sharing, max_drafts, overlap, offloads, recurrent)


@pytest.mark.parametrize(
    ("max_drafts", "overlap", "offloads", "recurrent"),
    [
        (0, False, False, False),
        (5, False, False, False),
        (0, True, False, False),
        (0, False, True, False),
        (5, True, False, True),
        (5, True, True, True),
    ],
)
@pytest.mark.parametrize("sharing", [True, False])
@pytest.mark.parametrize("budget", [3, 64])
@pytest.mark.parametrize("block_size", [1, 4])
def test_random_traffic_through_windows_equals_full_recompute(
    block_size: int, budget: int, sharing: bool, max_drafts: int, overlap: bool, offloads: bool, recurrent: bool
) -> None:
    groups = CacheGroup(), CacheGroup(window=5), CacheGroup(chunk=8), CacheGroup(window=1)
    random_traffic(block_size, budget, sharing, max_drafts, overlap, offloads, recurrent, groups)


def random_traffic(
    block_size: int,
    budget: int,
    sharing: bool,
    max_drafts: int,
    overlap: bool,
    offloads: bool,
    recurrent: bool,
    groups: tuple[CacheGroup, ...] = (CacheGroup(),),
) -> None:
    rng = random.Random(block_size * 1000 + budget + sharing)
    num_held = num_unknown = num_ahead = num_shared = 0
    kinds = (ToyConnector, ToyStateConnector) if recurrent else (ToyConnector,)
    connectors = [kind(random.Random(1)) for kind in kinds if offloads]  # of all three engines, one after the other
    for num_tokens in (48, 96, 4096):  # the smallest pool barely holds one sequence
        num_states = rng.choice([17, 18, 30]) if recurrent else 0
        num_blocks = sum(group.num_blocks(num_tokens, block_size, block_size) for group in groups)
        sizes = {"max_num_batched_tokens": budget, "max_num_seqs": rng.choice([1, 3, 16])}
        if recurrent and offloads:
            num_states = sizes["max_num_seqs"] + 2  # snapshots leave soon
        toy = ToyExecutor(num_blocks, block_size, num_states=num_states, cache_groups=groups)
        engine = make(
            sharing, toy, overlap, connectors, **sizes, num_speculative_tokens=max_drafts, prompt_lookup_min=1
        )
        system = [rng.randrange(VOCAB_SIZE) for _ in range(20)]
        asked: dict[str, GenerateRequest] = {}
        chunks: dict[tuple[str, int], list[RequestOutput]] = defaultdict(list)
        aborted: set[str] = set()
        while len(asked) < 25 or engine.has_work:
            if len(asked) < 25 and rng.random() < 0.4:
                name = f"r{len(asked)}"
                prompt = system[: rng.choice([0, 7, 16, 20])] + [
                    rng.randrange(VOCAB_SIZE) for _ in range(rng.randint(1, 12))
                ]
                asked[name] = request(
                    name,
                    prompt,
                    max_tokens=rng.randint(1, 15),
                    n=rng.choice([1, 1, 3]),
                    seed=rng.randrange(5),
                    stop_token_ids=(1, 2, 3),
                    min_tokens=rng.choice([0, 2]),
                )
                asked[name] = GenerateRequest(
                    **{**_fields(asked[name]), "priority": rng.choice([0, 0, 0, -1, 5]), "tenant": "ab"[len(asked) % 2]}
                )
                engine.submit(asked[name])
            if asked and rng.random() < 0.05:
                victim = rng.choice(list(asked))
                engine.abort(victim)
                aborted.add(victim)
            for chunk in engine.step():
                chunks[chunk.request_id, chunk.index].append(chunk)
            engine.check()
        for name, one in asked.items():
            for index in range(one.n):
                if name not in aborted:
                    assert_is(chunks[name, index], one, index)
        num_held += toy.num_held
        num_unknown += toy.num_unknown
        num_ahead += toy.num_drafted_ahead
        num_shared += toy.num_shared
        assert toy.widest <= budget
        assert engine.scheduler.blocks.pool.num_free == toy.num_blocks
        assert len(asked) > len(aborted)
    assert num_held > (3 if recurrent else 10) or budget == 3 or not max_drafts
    assert (num_unknown > 100) == overlap
    assert num_ahead > (3 if recurrent else 10) or budget == 3 or not (overlap and max_drafts)
    assert (num_shared > 0) == (recurrent and sharing)
    if sharing and block_size < 16:
        print([(one.num_loaded, one.num_gone) for one in connectors])
        assert all(one.num_loaded > 4 and one.num_gone > 0 for one in connectors)


def _fields(one: GenerateRequest) -> dict[str, object]:
    return {name: getattr(one, name) for name in one.__struct_fields__}


def test_every_chunk_says_how_long_its_sequence_waited() -> None:
    engine = make(max_num_seqs=1)
    for name in ("first", "second"):
        engine.submit(request(name, [1] * 10, max_tokens=5))
    time.sleep(0.05)
    chunks = run(engine)
    waited = {name: {chunk.queued_s for chunk in chunks[name, 0]} for name in ("first", "second")}
    assert len(waited["first"]) == len(waited["second"]) == 1
    assert 0.05 <= min(waited["first"]) < min(waited["second"]) < 10


def test_a_preempted_sequence_gives_the_same_tokens() -> None:
    toy = ToyExecutor(num_blocks=8, block_size=4)
    engine = make(toy=toy)
    asked = [request(f"r{i}", [i] * 10, max_tokens=20) for i in range(3)]
    for one in asked:
        engine.submit(one)
    chunks = run(engine)
    for one in asked:
        assert_is(chunks[one.request_id, 0], one)
    assert toy.num_computed > 3 * 29, "nothing was computed twice: the pool was not tight"
    assert engine.status().num_preemptions > 0 and engine.status().block_size == 4


def test_equal_prompts_are_computed_once_even_when_they_arrive_together() -> None:
    toy = ToyExecutor(num_blocks=256)
    engine = make(toy=toy)
    prompt = list(range(40))
    for i in range(10):
        engine.submit(request(f"r{i}", [*prompt, i], max_tokens=1))
    chunks = run(engine)
    assert toy.num_computed == 41 + 9 * 1
    assert [chunks[f"r{i}", 0][0].cached_tokens for i in range(10)] == [0] + [40] * 9


def test_what_is_kept_is_not_computed_again_by_another_engine() -> None:
    asked, connector = request("a", list(range(41)), max_tokens=10), ToyConnector()
    engine = make(connectors=[connector])
    engine.submit(asked)
    assert_is(run(engine)["a", 0], asked)
    moved, toy = GenerateRequest(**{**_fields(asked), "resume": (tuple(recompute(asked)[0][:5]),)}), ToyExecutor()
    engine = make(toy=toy, connectors=[connector])
    engine.submit(moved)
    assert engine.status().num_prefill_tokens == 2  # of 46 known tokens; the last block is not full
    chunks = run(engine)["a", 0]
    assert_is(chunks, asked, skip=5)
    assert chunks[0].cached_tokens == 41 and connector.num_loaded == 11
    assert toy.num_computed == 50 - 44
    assert engine.scheduler.blocks.take_kv_events()[0] != (), "the router is not told"


def test_what_is_kept_does_not_take_the_room_of_the_next_chunk() -> None:
    asked, connector = request("a", list(range(30)), max_tokens=2), ToyConnector()
    for num_blocks in (64, 8):
        engine = make(toy=ToyExecutor(num_blocks=num_blocks), connectors=[connector])
        engine.submit(asked)
        assert_is(run(engine)["a", 0], asked)
    assert connector.num_loaded == 7


def test_choices_share_the_blocks_of_their_prompt() -> None:
    toy = ToyExecutor(num_blocks=64)
    engine = make(toy=toy)
    asked = request("a", list(range(41)), max_tokens=3, n=4)
    engine.submit(asked)
    chunks = run(engine)
    for index in range(4):
        assert_is(chunks["a", index], asked, index)
    assert toy.num_computed == 41 + 3 * 1 + 4 * 2


def test_a_different_salt_or_key_shares_nothing() -> None:
    toy = ToyExecutor()
    engine = make(toy=toy)
    prompt = tuple(range(20))
    for i, salt in enumerate(["", "x", "x"]):
        one = GenerateRequest(
            request_id=str(i),
            model="toy",
            inputs=(TokenSpan(prompt),),
            cache_salt=salt,
            sampling=request("", [1], max_tokens=1).sampling,
        )
        engine.submit(one)
        run(engine)
    assert toy.num_computed == 20 + 20 + 4


def test_resume_continues_exactly_where_the_other_engine_stopped() -> None:
    asked = request("a", [5, 6, 7], max_tokens=12, n=3, seed=9)
    answers = [recompute(asked, index)[0] for index in range(3)]
    resumed = GenerateRequest(**{**_fields(asked), "resume": (tuple(answers[0][:5]), None, ())})
    engine = make()
    engine.submit(resumed)
    chunks = run(engine)
    assert_is(chunks["a", 0], asked, 0, skip=5)
    assert ("a", 1) not in chunks
    assert_is(chunks["a", 2], asked, 2)


def test_decodes_go_on_while_a_long_prompt_is_computed() -> None:
    engine = make(max_num_batched_tokens=8, toy=ToyExecutor(num_blocks=256))
    engine.submit(request("short", [1, 2], max_tokens=50))
    engine.step()
    engine.submit(request("long", list(range(40)), max_tokens=2))
    for _ in range(5):
        assert [chunk.request_id for chunk in engine.step()] == ["short"]


def test_better_priority_runs_first() -> None:
    engine = make(max_num_seqs=1)
    base = _fields(request("", [1, 2, 3], max_tokens=5))
    for name, priority in [("late", 5), ("normal", 0), ("urgent", -5)]:
        engine.submit(GenerateRequest(**{**base, "request_id": name, "priority": priority}))
        engine.step()
    order = []
    while engine.has_work:
        order += [chunk.request_id for chunk in engine.step() if chunk.finish_reason]
    assert order == ["urgent", "normal", "late"]


def test_abort_of_one_choice_leaves_the_others() -> None:
    engine = make()
    asked = request("a", [1, 2, 3], max_tokens=6, n=2)
    engine.submit(asked)
    engine.step()
    (ended,) = engine.abort("a", 0)
    assert (ended.index, ended.finish_reason) == (0, "abort")
    chunks = run(engine)
    assert ("a", 0) not in chunks
    assert chunks["a", 1][-1].finish_reason == "length"
    assert engine.abort("a") == []


def test_closing_the_generator_frees_the_blocks() -> None:
    engine = make(sharing=False)
    stream = engine.generate(request("a", list(range(20)), max_tokens=50))
    next(stream)
    assert engine.status().num_free_blocks < 64
    stream.close()
    assert engine.status().num_free_blocks == 64
    assert not engine.has_work


def test_full_queues_refuse_and_change_nothing() -> None:
    engine = make(max_queued_requests=1, max_num_seqs=1, max_queued_tokens=30)
    engine.submit(request("a", [1] * 25))
    with pytest.raises(Overloaded):
        engine.submit(request("b", [1] * 6))
    engine.submit(request("c", [1]))
    with pytest.raises(Overloaded):
        engine.submit(request("d", [1]))
    engine.check()
    assert set(key for key, _ in run(engine)) == {"a", "c"}


@pytest.mark.parametrize(
    ("one", "error", "param"),
    [
        (request("a", []), RequestError, "messages"),
        (request("a", [1] * 256), ContextTooLong, "messages"),
        (request("a", [VOCAB_SIZE]), RequestError, "prompt"),
        (request("a", [-1]), RequestError, "prompt"),
        (request("a", [1], n=0), RequestError, "n"),
        (request("a", [1], n=2**62), RequestError, "n"),
        (request("a", [1], max_tokens=0), RequestError, "max_tokens"),
        (request("used", [1]), RequestError, "request_id"),
    ],
)
def test_what_cannot_be_served_is_refused(one: GenerateRequest, error: type[RequestError], param: str) -> None:
    engine = make()
    engine.submit(request("used", [1]))
    with pytest.raises(error) as caught:
        engine.submit(one)
    assert caught.value.param == param
    assert engine.status().num_waiting == 1


def test_a_context_that_is_full_ends_with_length() -> None:
    engine = make(toy=ToyExecutor(num_blocks=2, block_size=4))
    chunks = list(engine.generate(request("a", [1, 2, 3], max_tokens=100)))
    assert len(chunks) == 5
    assert chunks[-1].finish_reason == "length"


def test_fail_ends_everybody_once() -> None:
    engine = make()
    engine.submit(request("a", [1, 2], n=2))
    engine.submit(request("b", [1, 2]))
    engine.step()
    ended = engine.fail("the device is gone")
    assert sorted((chunk.request_id, chunk.index) for chunk in ended) == [("a", 0), ("a", 1), ("b", 0)]
    assert all(chunk.finish_reason == "error" and chunk.error == "the device is gone" for chunk in ended)
    engine.check()
    assert engine.status().num_free_blocks == 64
