"""Request options that no API owns: sampling, length limits, log probabilities, delivery."""

from collections.abc import Mapping
from typing import Literal

import msgspec

from engine.types import BeamParams, RepetitionLimit
from serve_app.request.output_format import StructuredOutput

__all__ = ["Delivery", "GenerationOptions", "LengthLimits", "Logprobs", "Sampling"]


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How tokens are chosen. None: the model's own default."""

    temperature: float | None = None
    top_p: float | None = None  # 0: the most likely token
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float | None = None
    seed: int | None = None
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()
    logit_bias: Mapping[str, float] = msgspec.field(default_factory=dict)  # by token id, as the client writes it
    allowed_token_ids: tuple[int, ...] | None = None
    bad_words: tuple[str, ...] = ()
    beam: BeamParams | None = None
    repetition: RepetitionLimit | None = None


class LengthLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How many tokens of prompt, reasoning and answer, and which fields of the request say so."""

    max_tokens: int | None = None  # None: as many as the model's author says, else all the room there is
    min_tokens: int = 0
    field: str = "max_tokens"  # that says max_tokens
    prompt_field: str = "prompt"
    reasoning_tokens: int = -1  # -1: as many as the model likes
    truncate_prompt: int | None = None  # tokens of the prompt that are used; -1: as many as leave room for the answer
    truncation_side: Literal["left", "right"] = "left"  # where tokens are cut off


class Logprobs(msgspec.Struct, frozen=True, kw_only=True):
    """Which log probabilities are sent."""

    num_top: int | None = None  # most likely tokens at each position of the answer; None: no logprobs
    token_ids: tuple[int, ...] = ()  # at each position, and no others but the sampled one
    num_prompt: int | None = None  # at each position of the prompt; -1: the whole vocabulary
    num_echoed: int | None = None  # the same, of a prompt that comes back as a part of the answer


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """How the answer is sent."""

    stream: bool = False
    include_usage: bool = False  # in an event of its own, at a stream's end
    continuous_usage: bool = False  # in every event too, where include_usage is set
    interval: int = 1  # tokens per event
    token_ids: bool = False  # the prompt's and the answer's
    tokens_as_ids: bool = False  # logprobs name tokens as token_id:N


class GenerationOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What every request for an answer may say."""

    sampling: Sampling
    lengths: LengthLimits
    logprobs: Logprobs
    output: StructuredOutput
    delivery: Delivery
    n: int = 1
    stops: tuple[str, ...] = ()
    include_stop: bool = False  # a stop string or stop token is part of the text
    skip_special: bool = True  # special tokens are not
    priority: int = 0  # lower runs first
    cache_salt: str = ""
