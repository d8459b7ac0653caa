"""What all kinds of requests have in common: from a prompt's tokens and the wire's fields to the engine's request."""

import secrets

import msgspec

from engine.errors import RequestError
from engine.types import BeamParams, Fit, GenerateRequest, Grammar, ReasoningBudget, TokenSpan
from serve_app.api.requests import GenerationFields
from serve_app.generation.answer_parser import ParseRules
from serve_app.generation.choice import TextRules
from serve_app.generation.prompt import room_for_answer, truncated
from serve_app.generation.sampling import sampling_params
from serve_app.grammar.constraint import FIT, Constraint
from serve_app.model.text_model import TextModel
from serve_app.tenants.cache_salt import salt_within

__all__ = ["Fresh", "Prepared", "Wanted", "draw", "part_of", "prepare"]


class Fresh(msgspec.Struct, frozen=True):
    """What a request has besides its body."""

    request_id: str  # unique among all requests
    seed: int  # drawn for a request that names none
    session: str = ""  # that it belongs to; "": none
    tenant: str = ""  # whose it is, by name; "": anybody's
    cache_namespace: str = ""  # of the tenant (serve_app/tenants/cache_salt.py)


MAX_LOGPROBS = 2_000_000  # of all answers to a request: held until the last one ends, some 100 bytes each
MAX_PROMPT_LOGPROBS = 500_000  # come at once, in one frame


class Wanted(msgspec.Struct, frozen=True):
    """How long an answer the client wants, under which names it says so, and what it wants told besides."""

    max_tokens: int | None  # None: as many as the model's author says, else all the room there is
    field: str  # that says it
    prompt_field: str
    num_logprobs: int | None = None
    thinking_tokens: int = -1  # -1: as many as the model likes
    num_prompt_logprobs: int | None = None  # besides what the field of this name says
    num_prompts: int = 1  # that are answered together


class Prepared(msgspec.Struct, frozen=True):
    request: GenerateRequest
    rules: TextRules
    length_field: str = "max_tokens"  # that says how long the answer may be


def draw(request_id: str, session: str = "", tenant: str = "", cache_namespace: str = "") -> Fresh:
    """A client may use its id twice, the engine may not. Seeds are drawn here, so that a moved answer goes on."""
    return Fresh(f"{request_id}-{secrets.token_hex(8)}", secrets.randbits(63), session, tenant, cache_namespace)


def part_of(fresh: Fresh, part: int) -> Fresh:
    """The same for one of several prompts of a request."""
    request_id, seed = f"{fresh.request_id}-{part}", (fresh.seed + part) % 2**63
    return msgspec.structs.replace(fresh, request_id=request_id, seed=seed)


def prepare(
    fields: GenerationFields,
    prompt: tuple[int, ...],
    model: TextModel,
    fresh: Fresh,
    wanted: Wanted,
    max_model_len: int,
    *,
    starts_text: bool = True,
    parse: ParseRules | None = None,
    constraint: Constraint | None = None,
) -> Prepared:
    """Raises RequestError.

    max_model_len   tokens that the engine takes, prompt and answer together
    starts_text       the answer does not go on in the middle of a line of the prompt
    """
    if wanted.max_tokens is not None and fields.min_tokens > wanted.max_tokens:
        raise RequestError(
            f"min_tokens is {fields.min_tokens}, more than {wanted.field} ({wanted.max_tokens})", param="min_tokens"
        )
    if fields.use_beam_search and constraint is not None:
        raise RequestError("use_beam_search: cannot be held to a format or a tool", param="use_beam_search")
    if constraint is not None and constraint.fits:
        _check_fits(fields, model)
    prompt = truncated(prompt, fields, wanted.max_tokens, max_model_len)
    max_tokens = room_for_answer(len(prompt), wanted.max_tokens, wanted.field, max_model_len, wanted.prompt_field)
    if wanted.max_tokens is None and model.defaults.max_new_tokens is not None:
        max_tokens = min(max_tokens, max(model.defaults.max_new_tokens, fields.min_tokens))
    sampling = sampling_params(
        fields,
        model,
        max_tokens=max_tokens,
        num_logprobs=wanted.num_logprobs,
        seed=fresh.seed,
        thinking=_thinking_limit(wanted.thinking_tokens, parse, model) if wanted.thinking_tokens >= 0 else None,
        num_prompt_logprobs=wanted.num_prompt_logprobs,
    )
    _check_logprobs(fields, wanted, len(prompt), max_tokens, sampling.num_prompt_logprobs or 0)
    request = GenerateRequest(
        request_id=fresh.request_id,
        model=model.name,
        inputs=(TokenSpan(prompt),),
        sampling=sampling,
        grammar=_grammar(constraint, parse, model, max_tokens) if constraint is not None else None,
        beam=BeamParams(fields.n, fields.length_penalty, fields.early_stopping) if fields.use_beam_search else None,
        n=fields.n,
        priority=fields.priority,
        cache_salt=salt_within(fresh.cache_namespace, fields.cache_salt or ""),
        tenant=fresh.tenant,
        session=fresh.session,
    )
    rules = TextRules(
        stops=tuple(fields.stops),
        include_stop=fields.include_stop_str_in_output,
        min_tokens=fields.min_tokens,
        stop_ids=frozenset(sampling.stop_token_ids),
        told_stop_ids=frozenset(fields.stop_token_ids) - frozenset(model.eos_ids),
        skip_special=fields.skip_special_tokens,
        starts_text=starts_text,
        parse=parse,
        constraint=constraint,
    )
    return Prepared(request, rules, wanted.field)


def _ends_thinking(parse: ParseRules | None, model: TextModel) -> tuple[int, ...]:
    """The tokens after which the answer's content begins; none if it does at once."""
    if parse is None or parse.think is None or parse.place == "after" or parse.is_harmony:
        return ()  # of channels the grammar knows
    return model.encode(parse.think.closes)


def _opens_thinking(parse: ParseRules | None, model: TextModel) -> tuple[int, ...]:
    """The tokens with which an answer to this prompt may begin to think; none if it has begun, or never does."""
    if parse is None or parse.think is None or parse.place != "before" or parse.think.always or parse.is_harmony:
        return ()
    return model.encode(parse.think.opens)


def _thinking_limit(budget: int, parse: ParseRules | None, model: TextModel) -> ReasoningBudget | None:
    """None where the answer does not think."""
    if parse is None or parse.think is None or parse.place == "after":
        return None
    begins_inside = parse.place == "inside" or parse.think.always
    begins = () if begins_inside else model.encode(parse.think.opens)
    ends = model.encode(parse.think.closes)
    return ReasoningBudget(budget, ends, begins)


def _check_logprobs(
    fields: GenerationFields, wanted: Wanted, num_prompt: int, max_tokens: int, num_prompt_logprobs: int
) -> None:
    """Raises RequestError for more log probabilities than are worth the memory of everybody."""
    each = max(wanted.num_logprobs or 0, len(fields.logprob_token_ids))
    num_answers = fields.n * wanted.num_prompts
    if (entries := num_answers * max_tokens * each) > MAX_LOGPROBS:
        raise RequestError(
            f"{wanted.field}: {num_answers} answers of up to {max_tokens} tokens with {each} log probabilities each "
            f"are {entries} of them, at most {MAX_LOGPROBS} can be given",
            param=wanted.field,
        )
    if (entries := wanted.num_prompts * num_prompt * num_prompt_logprobs) > MAX_PROMPT_LOGPROBS:
        field = "prompt_logprobs" if fields.prompt_logprobs is not None else "logprobs"
        of_all = f" in each of {wanted.num_prompts}" if wanted.num_prompts > 1 else ""
        raise RequestError(
            f"{field}: {num_prompt_logprobs} for each of the prompt's {num_prompt} tokens{of_all} are {entries}, "
            f"at most {MAX_PROMPT_LOGPROBS} can be given",
            param=field,
        )


def _check_fits(fields: GenerationFields, model: TextModel) -> None:
    """Raises RequestError for what can end a document elsewhere than at its end, or not there."""
    others = set(fields.stop_token_ids) - set(model.eos_ids)
    wrong = {"ignore_eos": fields.ignore_eos, "min_tokens": fields.min_tokens > 0, "stop_token_ids": bool(others)}
    for field in (field for field, is_wrong in wrong.items() if is_wrong):
        raise RequestError(f"{field}: not together with {FIT}", param=field)


def _grammar(constraint: Constraint, parse: ParseRules | None, model: TextModel, max_tokens: int) -> Grammar:
    fit = Fit(max_tokens) if constraint.fits else None
    return Grammar(constraint.grammar, _ends_thinking(parse, model), fit, _opens_thinking(parse, model))
