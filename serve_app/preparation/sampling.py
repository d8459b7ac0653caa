"""Sampling parameters of the engine: the client's options, with the model's defaults for unset ones."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

from engine.errors import RequestError
from engine.types import ReasoningBudget, SamplingParams
from serve_app.model.text_model import TextModel
from serve_app.request.options import GenerationOptions

__all__ = ["check_ids", "sampling_params"]

GREEDY = 1e-5  # lower temperatures are greedy
LEAST_TOP_P = 1e-9  # keeps only the most likely token, the meaning of 0
MAX_NAMED = 5  # wrong values in one error
COLDEST = 0.01  # the least other temperature, so that no logit overflows


def sampling_params(
    options: GenerationOptions,
    model: TextModel,
    *,
    max_tokens: int,
    seed: int,
    thinking: ReasoningBudget | None = None,
) -> SamplingParams:
    """`seed` is for a request without one: after migration an answer must continue exactly.

    max_tokens   the most that the answer may have
    """
    request, logprobs, defaults = options.sampling, options.logprobs, model.defaults
    num_tokens = model.vocabulary.num_tokens
    temperature = defaults.temperature if request.temperature is None else request.temperature
    top_k = defaults.top_k if request.top_k is None else request.top_k
    ends = request.stop_token_ids if request.ignore_eos else (*model.eos_ids, *request.stop_token_ids)
    check_ids("stop_token_ids", request.stop_token_ids, num_tokens)
    return SamplingParams(
        max_tokens=max_tokens,
        min_tokens=options.lengths.min_tokens,
        temperature=0.0 if temperature < GREEDY else max(temperature, COLDEST),
        top_p=defaults.top_p if request.top_p is None else max(request.top_p, LEAST_TOP_P),
        top_k=min(max(top_k, 0), num_tokens),
        min_p=defaults.min_p if request.min_p is None else request.min_p,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        repetition_penalty=(
            defaults.repetition_penalty if request.repetition_penalty is None else request.repetition_penalty
        ),
        seed=seed if request.seed is None else request.seed,
        stop_token_ids=tuple(dict.fromkeys(ends)),
        logit_bias=_logit_bias(request.logit_bias, num_tokens),
        allowed_token_ids=_allowed(request.allowed_token_ids, num_tokens),
        bad_words=_bad_words(request.bad_words, model),
        num_logprobs=logprobs.num_top,
        logprob_token_ids=_named(logprobs.token_ids, logprobs.num_top, num_tokens),
        num_prompt_logprobs=_prompt_logprobs(logprobs.num_prompt, logprobs.num_echoed, num_tokens),
        thinking=thinking,
        repetition=request.repetition,
    )


def _logit_bias(bias: Mapping[str, float], num_tokens: int) -> tuple[tuple[int, float], ...]:
    if wrong := [key for key in bias if not (key.isascii() and key.isdigit()) or len(key) > 18][:MAX_NAMED]:
        named = ", ".join(repr(key[:40]) for key in wrong)
        what = f"the key {named} is not a token id" if len(wrong) == 1 else f"the keys {named} are not token ids"
        raise RequestError(f"logit_bias: {what}", param="logit_bias")
    merged: dict[int, float] = {}  # "7" and "07" are one token
    for key, value in bias.items():
        merged[int(key)] = min(max(value, -100.0), 100.0)
    check_ids("logit_bias", merged, num_tokens)
    return tuple(merged.items())


def _allowed(ids: Sequence[int] | None, num_tokens: int) -> tuple[int, ...] | None:
    if ids is None:
        return None
    check_ids("allowed_token_ids", ids, num_tokens)
    return tuple(dict.fromkeys(ids))


def _bad_words(words: Iterable[str], model: TextModel) -> tuple[tuple[int, ...], ...]:
    """The tokens of each word at the beginning of a text and within one."""
    spellings = [spelling for word in words for spelling in (word, f" {word.lstrip()}")]
    return tuple(dict.fromkeys(tokens for spelling in spellings if (tokens := model.encode_inner(spelling))))


def _named(ids: Sequence[int], num_logprobs: int | None, num_tokens: int) -> tuple[int, ...]:
    if ids and num_logprobs is None:
        raise RequestError("logprob_token_ids: needs logprobs", param="logprob_token_ids")
    check_ids("logprob_token_ids", ids, num_tokens)
    return tuple(dict.fromkeys(ids))


def _prompt_logprobs(asked: int | None, needed: int | None, num_tokens: int) -> int | None:
    counts = [num_tokens if count < 0 else min(count, num_tokens) for count in (asked, needed) if count is not None]
    return max(counts, default=None)


def check_ids(field: str, ids: Iterable[int], num_tokens: int) -> None:
    """Raises RequestError that names the wrong ones, the first few of them."""
    wrong = list(islice((str(token) for token in ids if not 0 <= token < num_tokens), MAX_NAMED))
    if wrong:
        named = f"token {wrong[0]} is" if len(wrong) == 1 else f"tokens {', '.join(wrong)} are"
        raise RequestError(f"{field}: {named} out of vocabulary, which has {num_tokens} tokens", param=field)
