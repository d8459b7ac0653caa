"""Request options of all APIs: sampling, length limits, logprobs, delivery."""

from collections.abc import Mapping
from typing import Literal

import msgspec

from engine.types import BeamParams, RepetitionLimit
from serve_app.request.output_format import StructuredOutput

__all__ = ["Delivery", "GenerationOptions", "LengthLimits", "Logprobs", "Sampling"]


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """Sampling parameters. None: the model's own default."""

    temperature: float | None = None
    top_p: float | None = None  # 0: greedy
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float | None = None
    seed: int | None = None
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()
    logit_bias: Mapping[str, float] = msgspec.field(default_factory=dict)  # by token id, as the client's string
    allowed_token_ids: tuple[int, ...] | None = None
    bad_words: tuple[str, ...] = ()
    beam: BeamParams | None = None
    repetition: RepetitionLimit | None = None


class LengthLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of prompt, reasoning and answer in tokens, with the client's field names."""

    max_tokens: int | None = None  # None: the model's generation_config.json, else up to the context length
    min_tokens: int = 0
    field: str = "max_tokens"  # the client's field of max_tokens
    prompt_field: str = "prompt"
    reasoning_tokens: int = -1  # -1: no limit
    truncate_prompt: int | None = None  # tokens of the prompt that are kept; -1: as many as leave room for the answer
    truncation_side: Literal["left", "right"] = "left"  # where tokens are cut off


class Logprobs(msgspec.Struct, frozen=True, kw_only=True):
    """The logprobs that are sent."""

    num_top: int | None = None  # most likely tokens at each position of the answer; None: no logprobs
    token_ids: tuple[int, ...] = ()  # of these tokens and the sampled one, in place of the most likely ones
    num_prompt: int | None = None  # at each position of the prompt; -1: the whole vocabulary
    num_echoed: int | None = None  # the same, of an echoed prompt


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """How the answer is delivered."""

    stream: bool = False
    include_usage: bool = False  # in an event of its own at the end of a stream
    continuous_usage: bool = False  # in every event too, if include_usage is set
    interval: int = 1  # tokens per event
    token_ids: bool = False  # send the prompt's and the answer's token ids
    tokens_as_ids: bool = False  # logprobs name tokens as token_id:N


class GenerationOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of every generating request."""

    sampling: Sampling
    lengths: LengthLimits
    logprobs: Logprobs
    output: StructuredOutput
    delivery: Delivery
    n: int = 1
    stops: tuple[str, ...] = ()
    include_stop: bool = False  # a stop string or stop token is part of the text
    skip_special: bool = True  # special tokens are not part of the text
    priority: int = 0  # lower runs first
    cache_salt: str = ""
