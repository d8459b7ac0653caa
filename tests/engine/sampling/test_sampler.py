import pytest
import torch

from engine.sampling.sampler import Sampler
from engine.scheduling.scheduler_output import NewSequence, ScheduledSequence, SchedulerOutput
from engine.types import SamplingParams
from kernels.kernel_set import load_kernels

CPU = torch.device("cpu")
KERNELS = load_kernels(CPU, torch.float32)
VOCAB = 50


def params(**changes) -> SamplingParams:
    return SamplingParams(max_tokens=100, **changes)


class Rows:
    """Sequences that are all in every step; `sample` gives each one a row of logits."""

    def __init__(self, *starts: NewSequence) -> None:
        self.sampler = Sampler(KERNELS, VOCAB, CPU)
        self.starts = starts
        self.sampler.update(SchedulerOutput(0, (), starts))
        self.result = None

    def sample(self, *rows: torch.Tensor) -> list[int]:
        sequences = tuple(ScheduledSequence(start.seq_id, 0, (1,), ((0,),), True) for start in self.starts)
        self.result = self.sampler.sample(SchedulerOutput(0, sequences), torch.stack(rows))
        return list(self.result.tokens)


def start(seq_id=0, seed=0, prompt=(1, 2), output=(), **changes) -> NewSequence:
    return NewSequence(seq_id, params(**changes), seed, tuple(prompt), tuple(output))


def falling() -> torch.Tensor:
    """Token 0 is the most likely one, then 1, 2, ..."""
    return torch.arange(VOCAB, 0, -1).float() / 10


def test_greedy_takes_the_largest():
    assert Rows(start(temperature=0.0)).sample(falling()) == [0]


def test_min_tokens_holds_back_stop_tokens_until_enough_came():
    rows = Rows(start(temperature=0.0, min_tokens=2, stop_token_ids=(0,)))
    assert [rows.sample(falling())[0] for _ in range(3)] == [1, 1, 0]


def test_a_resumed_sequence_counts_what_it_had():
    rows = Rows(start(temperature=0.0, min_tokens=2, stop_token_ids=(0,), output=(5, 6)))
    assert rows.sample(falling()) == [0]


def test_a_bad_word_is_banned_only_after_its_beginning():
    rows = Rows(start(temperature=0.0, bad_words=((0, 0, 1), (2,))))
    likely = [falling(), falling(), falling().roll(1)]
    likely[2][1] += 10  # token 1 is now by far the most likely one, but follows 0 0
    assert [rows.sample(row)[0] for row in likely] == [0, 0, 3]
    assert rows.sample(likely[2]) == [1]


def test_a_single_bad_word_is_always_banned():
    assert Rows(start(temperature=0.0, bad_words=((0,),))).sample(falling()) == [1]


def test_allowed_ids_and_bias_steer_the_choice():
    assert Rows(start(temperature=0.0, allowed_token_ids=(7, 9, 4000))).sample(falling()) == [7]
    assert Rows(start(temperature=0.0, logit_bias=((11, 50.0), (-3, 9.0)))).sample(falling()) == [11]


@pytest.mark.parametrize(
    "bans", [{"bad_words": ((7,), (9,))}, {"min_tokens": 3, "stop_token_ids": (7, 9)}], ids=["bad words", "min_tokens"]
)
def test_where_all_allowed_ids_are_banned_they_stay_allowed(bans):
    limited = start(0, temperature=0.0, allowed_token_ids=(7, 9), **bans)
    free = start(1, temperature=0.0, **bans)
    assert Rows(limited, free).sample(falling(), falling()) == [7, 0]
    assert Rows(start(allowed_token_ids=(7, 9), **bans)).sample(falling())[0] in (7, 9)


def test_frequency_and_presence_count_output_tokens_only():
    rows = Rows(start(temperature=0.0, prompt=(0, 0, 0), presence_penalty=0.15))
    assert [rows.sample(falling())[0] for _ in range(4)] == [0, 1, 0, 0]
    rows = Rows(start(temperature=0.0, prompt=(0, 0, 0), frequency_penalty=0.06))
    assert [rows.sample(falling())[0] for _ in range(4)] == [0, 0, 1, 0]


def test_repetition_counts_the_prompt_too():
    assert Rows(start(temperature=0.0, prompt=(0, 1), repetition_penalty=2.0)).sample(falling()) == [2]


def test_penalties_of_a_resumed_sequence_go_on():
    whole = Rows(start(temperature=0.0, frequency_penalty=0.4, repetition_penalty=1.1))
    tokens = [whole.sample(falling())[0] for _ in range(12)]
    resumed = Rows(start(temperature=0.0, frequency_penalty=0.4, repetition_penalty=1.1, output=tokens[:5]))
    assert [resumed.sample(falling())[0] for _ in range(7)] == tokens[5:]


MANY = [
    {},
    {"temperature": 0.0},
    {"temperature": 0.7, "top_p": 0.8},
    {"temperature": 1.7, "top_k": 5},
    {"min_p": 0.2},
    {"presence_penalty": 1.0, "frequency_penalty": 0.5, "repetition_penalty": 1.3},
    {"allowed_token_ids": (3, 4, 5)},
    {"logit_bias": ((9, 3.0),), "bad_words": ((9,), (8, 7))},
    {"min_tokens": 3, "stop_token_ids": (0, 1)},
    {"num_logprobs": 3},
]


def test_a_row_samples_the_same_alone_and_in_a_batch():
    starts = [start(i, seed=i * 7, **changes) for i, changes in enumerate(MANY)]
    logits = torch.randn(6, len(MANY), VOCAB, generator=torch.Generator().manual_seed(0)) * 2
    together = Rows(*starts)
    tokens = [together.sample(*step) for step in logits]
    for i, one in enumerate(starts):
        alone = Rows(one)
        assert [alone.sample(step[i])[0] for step in logits] == [step[i] for step in tokens]


def test_the_draw_depends_on_seed_and_position():
    flat = torch.zeros(VOCAB)
    first, again = Rows(start(seed=5)), Rows(start(seed=5))
    tokens = [first.sample(flat)[0] for _ in range(30)]
    assert [again.sample(flat)[0] for _ in range(30)] == tokens
    assert len(set(tokens)) > 10
    resumed = Rows(start(seed=5, output=tokens[:12]))
    assert [resumed.sample(flat)[0] for _ in range(18)] == tokens[12:]
    other = Rows(start(seed=6))
    assert [other.sample(flat)[0] for _ in range(30)] != tokens


def test_logprobs_are_raw_and_cut_to_what_was_asked():
    rows = Rows(
        start(0, temperature=0.0, num_logprobs=2, logit_bias=((5, 90.0),)),
        start(1, temperature=0.0),
        start(2, temperature=0.0, num_logprobs=0),
    )
    assert rows.sample(falling(), falling(), falling()) == [5, 0, 0]
    first, second, third = rows.result.logprobs
    expected = falling().log_softmax(-1)
    assert second is None
    assert (first.token, third.token, third.top) == (5, 0, ())
    assert first.logprob == pytest.approx(expected[5].item(), abs=1e-5)
    assert [token for token, _ in first.top] == [0, 1]
    assert [value for _, value in first.top] == pytest.approx(expected[:2].tolist(), abs=1e-5)


def test_named_tokens_are_told_besides():
    rows = Rows(
        start(0, temperature=0.0, num_logprobs=1, logprob_token_ids=(7, 0, 4000, 7)),
        start(1, temperature=0.0, logprob_token_ids=(7,)),
    )
    rows.sample(falling(), falling())
    first, second = rows.result.logprobs
    expected = falling().log_softmax(-1)
    assert second is None and first.top[0][0] == 0
    assert [token for token, _ in first.named] == [7, 0]
    assert [value for _, value in first.named] == pytest.approx(expected[[7, 0]].tolist(), abs=1e-5)


def test_impossible_tokens_have_a_floor():
    rows = Rows(start(temperature=0.0, num_logprobs=VOCAB))
    rows.sample(falling().masked_fill(torch.arange(VOCAB) > 3, -torch.inf))
    assert rows.result.logprobs[0].top[-1][1] == -9999.0


def test_ends_go_before_starts():
    sampler = Sampler(KERNELS, VOCAB, CPU)
    sampler.update(SchedulerOutput(0, (), (start(3, temperature=0.0),)))
    sampler.update(SchedulerOutput(1, (), (start(3, temperature=0.0, output=(4,)),), finished_ids=(3,)))
    scheduled = SchedulerOutput(1, (ScheduledSequence(3, 0, (1,), ((0,),), True),))
    assert sampler.sample(scheduled, falling()[None]).tokens == (0,)
    sampler.update(SchedulerOutput(2, (), (), finished_ids=(3, 99)))
    assert not sampler._states
