"""Adapter of the fields common to all generating routes of OpenAI's API: wire fields to GenerationOptions."""

from collections.abc import Sequence

from engine.errors import RequestError
from engine.types import BeamParams, RepetitionLimit
from serve_app.api.requests import AnswerFields, GenerationFields, PromptFields, RepetitionDetection, SamplingFields
from serve_app.openai.output_format import structured_output_of
from serve_app.request.options import Delivery, GenerationOptions, LengthLimits, Logprobs, Sampling

__all__ = ["generation_options", "length_limits"]


def generation_options(fields: GenerationFields, lengths: LengthLimits, logprobs: Logprobs) -> GenerationOptions:
    """Raises RequestError for contradictory fields."""
    return GenerationOptions(
        sampling=_sampling(fields),
        lengths=lengths,
        logprobs=logprobs,
        output=structured_output_of(fields),
        delivery=_delivery(fields),
        n=fields.n,
        stops=tuple(fields.stops),
        include_stop=fields.include_stop_str_in_output,
        skip_special=fields.skip_special_tokens,
        priority=fields.priority,
        cache_salt=fields.cache_salt or "",
    )


def length_limits(
    sampling: SamplingFields,
    prompt: PromptFields,
    *,
    max_tokens: int | None,
    field: str,
    prompt_field: str,
    reasoning_tokens: int = -1,
) -> LengthLimits:
    return LengthLimits(
        max_tokens=max_tokens,
        min_tokens=sampling.min_tokens,
        field=field,
        prompt_field=prompt_field,
        reasoning_tokens=reasoning_tokens,
        truncate_prompt=prompt.truncate_prompt_tokens,
        truncation_side=prompt.truncation_side,
    )


def _sampling(fields: SamplingFields) -> Sampling:
    beam = BeamParams(fields.n, fields.length_penalty, fields.early_stopping) if fields.use_beam_search else None
    return Sampling(
        temperature=fields.temperature,
        top_p=fields.top_p,
        top_k=fields.top_k,
        min_p=fields.min_p,
        presence_penalty=fields.presence_penalty,
        frequency_penalty=fields.frequency_penalty,
        repetition_penalty=fields.repetition_penalty,
        seed=fields.seed,
        ignore_eos=fields.ignore_eos,
        stop_token_ids=tuple(fields.stop_token_ids),
        logit_bias=fields.logit_bias,
        allowed_token_ids=_ids(fields.allowed_token_ids),
        bad_words=tuple(fields.bad_words),
        beam=beam,
        repetition=_repetition(fields.repetition_detection),
    )


def _ids(ids: Sequence[int] | None) -> tuple[int, ...] | None:
    return tuple(ids) if ids is not None else None


def _repetition(detection: RepetitionDetection | None) -> RepetitionLimit | None:
    if detection is None or detection.max_pattern_size == 0:
        return None
    return RepetitionLimit(max(1, detection.min_pattern_size), detection.max_pattern_size, detection.min_count)


def _delivery(fields: AnswerFields) -> Delivery:
    options = fields.stream_options
    if options is not None and not fields.stream:
        raise RequestError("stream_options: needs stream to be true", param="stream_options")
    return Delivery(
        stream=fields.stream,
        include_usage=options is not None and options.include_usage,
        continuous_usage=options is not None and options.continuous_usage_stats,
        interval=fields.stream_interval,
        token_ids=fields.return_token_ids,
        tokens_as_ids=fields.return_tokens_as_token_ids,
    )
