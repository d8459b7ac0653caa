"""Builds the engine's GenerateRequest from a prompt's tokens and the neutral options, for all kinds of requests."""

import secrets

import msgspec

from engine.errors import RequestError
from engine.types import Fit, GenerateRequest, Grammar, ReasoningBudget, TokenSpan
from serve_app.generation.choice import TextRules
from serve_app.generation.output_parser import ParseRules
from serve_app.grammar.constraint import Constraint
from serve_app.model.text_model import TextModel
from serve_app.preparation.prompt import max_answer_tokens, truncated
from serve_app.preparation.sampling import sampling_params
from serve_app.request.options import Delivery, GenerationOptions
from serve_app.request.output_format import FIT
from serve_app.tenants.cache_salt import salt_within

__all__ = ["Earlier", "PreparedAnswer", "PreparedRequest", "RequestContext", "new_context", "part_of", "prepare"]

MAX_LOGPROBS = 2_000_000  # of all answers to a request: kept until the last one ends, some 100 bytes each
MAX_PROMPT_LOGPROBS = 500_000  # sent in one frame


class Earlier(msgspec.Struct, frozen=True):
    """What a body continues or refers to (serve_app/responses)."""

    items: bytes = b""  # before the body's, as a JSON array
    references: bytes = b""  # items that the body names by their ids, as a JSON object by id

    @property
    def num_bytes(self) -> int:
        return len(self.items) + len(self.references)


class RequestContext(msgspec.Struct, frozen=True):
    """The data of a request besides its body."""

    request_id: str  # unique among all requests
    seed: int  # for a request without one
    max_model_len: int  # tokens that the engine takes, prompt and answer together
    session: str = ""  # for session affinity; "": none
    tenant: str = ""  # name of the tenant; "": anonymous
    cache_namespace: str = ""  # of the tenant (serve_app/tenants/cache_salt.py)
    num_parts: int = 1  # prompts of one answer
    seal_key: bytes = b""  # of the tenant, for reasoning that clients keep (serve_app/tenants/sealing.py)
    earlier: Earlier = Earlier()


class PreparedRequest(msgspec.Struct, frozen=True):
    request: GenerateRequest
    rules: TextRules
    length_field: str = "max_tokens"  # the client's field of the answer's length
    scores_only: bool = False  # generated tokens are not sent
    # of its preparation, for traces: name, begin and end by the monotonic clock, which all processes share
    steps: tuple[tuple[str, float, float], ...] = ()


class PreparedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The prepared requests of one answer. Each API adds its renderer's fields. Made in a worker process."""

    parts: tuple[PreparedRequest, ...]
    delivery: Delivery
    num_choices: int  # of each part
    has_seed: bool  # the client has set a seed

    @property
    def is_resumable(self) -> bool:
        """Whether the answer is a stream that can be one whose events are a function of the request."""
        return self.delivery.stream


def new_context(
    request_id: str,
    max_model_len: int,
    *,
    session: str = "",
    tenant: str = "",
    cache_namespace: str = "",
    seal_key: bytes = b"",
) -> RequestContext:
    """A context with an id that is unique also if the client repeats its own, and a seed that survives migration."""
    unique, seed = f"{request_id}-{secrets.token_hex(8)}", secrets.randbits(63)
    return RequestContext(unique, seed, max_model_len, session, tenant, cache_namespace, seal_key=seal_key)


def part_of(context: RequestContext, part: int, num_parts: int) -> RequestContext:
    """The context of one of several prompts of a request."""
    request_id, seed = f"{context.request_id}-{part}", (context.seed + part) % 2**63
    return msgspec.structs.replace(context, request_id=request_id, seed=seed, num_parts=num_parts)


def prepare(
    options: GenerationOptions,
    prompt: tuple[int, ...],
    model: TextModel,
    context: RequestContext,
    answer: TextRules,
) -> PreparedRequest:
    """Raises RequestError.

    answer   the text rules that do not follow from the options: output parser and constraint
    """
    lengths, constraint, parse = options.lengths, answer.constraint, answer.parse
    _check(options, model, constraint)
    prompt = truncated(prompt, lengths, context.max_model_len)
    max_tokens = max_answer_tokens(len(prompt), lengths, context.max_model_len)
    if lengths.max_tokens is None and model.defaults.max_new_tokens is not None:
        max_tokens = min(max_tokens, max(model.defaults.max_new_tokens, lengths.min_tokens))
    budget = lengths.reasoning_tokens
    sampling = sampling_params(
        options,
        model,
        max_tokens=max_tokens,
        seed=context.seed,
        thinking=_reasoning_limit(budget, parse, model) if budget >= 0 else None,
    )
    _check_logprobs(options, context.num_parts, len(prompt), max_tokens, sampling.num_prompt_logprobs or 0)
    request = GenerateRequest(
        request_id=context.request_id,
        model=model.name,
        inputs=(TokenSpan(prompt),),
        sampling=sampling,
        grammar=_grammar(constraint, parse, model, max_tokens) if constraint is not None else None,
        beam=options.sampling.beam,
        n=options.n,
        priority=options.priority,
        cache_salt=salt_within(context.cache_namespace, options.cache_salt),
        tenant=context.tenant,
        session=context.session,
    )
    rules = msgspec.structs.replace(
        answer,
        stops=options.stops,
        include_stop=options.include_stop,
        min_tokens=lengths.min_tokens,
        stop_ids=frozenset(sampling.stop_token_ids),
        reported_stop_ids=frozenset(options.sampling.stop_token_ids) - frozenset(model.eos_ids),
        skip_special=options.skip_special,
    )
    return PreparedRequest(request, rules, lengths.field)


def _check(options: GenerationOptions, model: TextModel, constraint: Constraint | None) -> None:
    lengths = options.lengths
    if lengths.max_tokens is not None and lengths.min_tokens > lengths.max_tokens:
        raise RequestError(
            f"min_tokens is {lengths.min_tokens}, more than {lengths.field} ({lengths.max_tokens})", param="min_tokens"
        )
    if options.sampling.beam is not None and constraint is not None:
        raise RequestError("use_beam_search: cannot be held to a format or a tool", param="use_beam_search")
    if constraint is not None and constraint.fits:
        _check_fits(options, model)


def _reasoning_ends(parse: ParseRules | None, model: TextModel) -> tuple[int, ...]:
    """The end marker of reasoning, before the answer's content; () if there is no reasoning."""
    if parse is None or parse.reasoning is None or parse.position == "after" or parse.is_harmony:
        return ()  # the grammar has the channels
    return model.encode_inner(parse.reasoning.closes)


def _reasoning_opens(parse: ParseRules | None, model: TextModel) -> tuple[int, ...]:
    """The start marker of reasoning in an answer to this prompt; () if the prompt has it, or there is none."""
    if (
        parse is None
        or parse.reasoning is None
        or parse.position != "before"
        or parse.reasoning.always
        or parse.is_harmony
    ):
        return ()
    return model.encode(parse.reasoning.opens)


def _reasoning_limit(budget: int, parse: ParseRules | None, model: TextModel) -> ReasoningBudget | None:
    """None for an answer without reasoning."""
    if parse is None or parse.reasoning is None or parse.position == "after":
        return None
    begins_inside = parse.position == "inside" or parse.reasoning.always
    begins = () if begins_inside else model.encode(parse.reasoning.opens)
    ends = model.encode_inner(parse.reasoning.closes)
    return ReasoningBudget(budget, ends, begins)


def _check_logprobs(
    options: GenerationOptions, num_parts: int, num_prompt: int, max_tokens: int, num_prompt_logprobs: int
) -> None:
    """Raises RequestError for more logprobs than fit into memory."""
    logprobs, field = options.logprobs, options.lengths.field
    each = max(logprobs.num_top or 0, len(logprobs.token_ids))
    num_answers = options.n * num_parts
    if (entries := num_answers * max_tokens * each) > MAX_LOGPROBS:
        raise RequestError(
            f"{field}: {num_answers} answers of up to {max_tokens} tokens with {each} log probabilities each "
            f"are {entries} of them, at most {MAX_LOGPROBS} can be given",
            param=field,
        )
    if (entries := num_parts * num_prompt * num_prompt_logprobs) > MAX_PROMPT_LOGPROBS:
        field = "prompt_logprobs" if logprobs.num_prompt is not None else "logprobs"
        of_all = f" in each of {num_parts}" if num_parts > 1 else ""
        raise RequestError(
            f"{field}: {num_prompt_logprobs} for each of the prompt's {num_prompt} tokens{of_all} are {entries}, "
            f"at most {MAX_PROMPT_LOGPROBS} can be given",
            param=field,
        )


def _check_fits(options: GenerationOptions, model: TextModel) -> None:
    """Raises RequestError for options that may end a document before its end, or prevent its end."""
    sampling = options.sampling
    others = set(sampling.stop_token_ids) - set(model.eos_ids)
    wrong = {
        "ignore_eos": sampling.ignore_eos,
        "min_tokens": options.lengths.min_tokens > 0,
        "stop_token_ids": bool(others),
    }
    for field in (field for field, is_wrong in wrong.items() if is_wrong):
        raise RequestError(f"{field}: not together with {FIT}", param=field)


def _grammar(constraint: Constraint, parse: ParseRules | None, model: TextModel, max_tokens: int) -> Grammar:
    fit = Fit(max_tokens) if constraint.fits else None
    return Grammar(constraint.grammar, _reasoning_ends(parse, model), fit, _reasoning_opens(parse, model))
