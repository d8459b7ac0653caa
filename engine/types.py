"""The engine's types: token ids in, token ids out. Every value here also crosses processes."""

from collections.abc import AsyncGenerator
from typing import Literal, Protocol

import msgspec

__all__ = [
    "BeamParams",
    "EngineClient",
    "EngineStatus",
    "FinishReason",
    "Fit",
    "GenerateRequest",
    "Grammar",
    "MediaSpan",
    "OutputTrace",
    "Placement",
    "PromptLogprob",
    "Rejection",
    "RepetitionLimit",
    "RequestState",
    "SamplingParams",
    "StepAges",
    "EngineOutputs",
    "ReasoningBudget",
    "RequestOutput",
    "TokenLogprob",
    "TokenSpan",
]


FinishReason = Literal["stop", "length", "repetition", "abort", "grammar", "error"]


class ReasoningBudget(msgspec.Struct, frozen=True, array_like=True):
    """A limit of an answer's reasoning. Enforced by engine/structured_output/reasoning_budget.py."""

    budget: int  # tokens of reasoning after which it is ended
    ends: tuple[int, ...]  # the tokens that end it
    begins: tuple[int, ...] = ()  # the tokens that begin it; (): the answer begins inside


class RepetitionLimit(msgspec.Struct, frozen=True, array_like=True):
    """A pattern of `min_size` to `max_size` tokens that comes `min_count` times in a row ends the answer."""

    min_size: int  # at least 1
    max_size: int
    min_count: int  # at least 2


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How the next token is chosen. Every field has an "off" value, its default."""

    max_tokens: int  # new tokens per choice, at most
    min_tokens: int = 0  # new tokens before a token of stop_token_ids may be chosen
    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0
    top_k: int = 0  # 0 is off
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0  # 64 bit, signed; choice i of a request uses a seed derived from (seed, i)
    stop_token_ids: tuple[int, ...] = ()  # end-of-sequence ids too, unless the client ignores them
    logit_bias: tuple[tuple[int, float], ...] = ()
    allowed_token_ids: tuple[int, ...] | None = None
    bad_words: tuple[tuple[int, ...], ...] = ()  # token sequences that are banned: the last token, after the others
    num_logprobs: int | None = None  # None: no logprobs; k: the chosen token's and the k most likely ones'
    logprob_token_ids: tuple[int, ...] = ()  # tokens whose logprobs are returned too, if there are logprobs
    scores_filtered: bool = False  # logprobs are computed after bans, bias and penalties, not of the raw logits
    num_prompt_logprobs: int | None = None  # the same for the prompt's tokens, sent once, with choice 0
    thinking: ReasoningBudget | None = None
    repetition: RepetitionLimit | None = None


class Fit(msgspec.Struct, frozen=True, array_like=True):
    """The answer must satisfy its grammar within a budget. Enforced by engine/structured_output/output_budget.py."""

    budget: int  # tokens of the whole output, reasoning and the end token too
    plan: tuple[int, ...] = ()  # a short match, the end token last; (): the engine looks for one


class Grammar(msgspec.Struct, frozen=True, array_like=True):
    """The grammar of an answer, from some point on. Enforced by engine/structured_output/grammar.py."""

    text: str  # in llguidance's form
    begins_after: tuple[
        int, ...
    ] = ()  # token ids after whose first occurrence it applies (end of reasoning); (): at once
    fit: Fit | None = None  # None: the answer may be cut
    opens: tuple[int, ...] = ()  # of reasoning: an answer that does not begin so has none; (): any may have


class BeamParams(msgspec.Struct, frozen=True, array_like=True):
    """Beam search: the best n of `width` beams are the answer. Bans, bias and penalties apply; temperature, top-p,
    top-k, min-p and seed do not.
    """

    width: int
    length_penalty: float = 1.0  # scores are divided by length to this power
    early_stopping: bool = False  # end with the first `width` answers


class TokenSpan(msgspec.Struct, frozen=True, array_like=True, tag="tokens"):
    """Part of a prompt: token ids."""

    ids: tuple[int, ...]


class MediaSpan(msgspec.Struct, frozen=True, array_like=True, tag="media"):
    """Part of a prompt: an image, a sound or a video, by the digest under which its embeddings are kept."""

    digest: bytes
    num_tokens: int  # placeholder positions that its embeddings take


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One prompt, `n` answers.

    `resume` continues a request that another engine began: for each choice the tokens it has produced so far, or None
    for a choice that has finished. Those tokens are not sent again; everything that depends on position or history
    (seed, penalties, max_tokens, min_tokens) counts them.
    """

    request_id: str
    model: str
    inputs: tuple[TokenSpan | MediaSpan, ...]  # the prompt's parts, in order
    sampling: SamplingParams
    task: Literal["generate", "embed", "score"] = "generate"
    adapter: str = ""  # name of a LoRA adapter; "": the model itself
    grammar: Grammar | None = None
    beam: BeamParams | None = None  # n <= width; nothing is sent before the end, so a migrated search starts again
    n: int = 1
    priority: int = 0  # lower runs first
    cache_salt: str = ""  # only requests with the same salt share blocks
    tenant: str = ""  # queues are shared fairly between tenants
    session: str = ""  # session affinity: requests of one session go to one replica; engines ignore it
    resume: tuple[tuple[int, ...] | None, ...] = ()
    traceparent: str = ""  # W3C trace context of a request that is traced: its outputs have an OutputTrace

    @property
    def prompt(self) -> tuple[int, ...]:
        """The token ids of all inputs."""
        if len(self.inputs) == 1 and isinstance(self.inputs[0], TokenSpan):
            return self.inputs[0].ids
        return tuple(id_ for span in self.inputs if isinstance(span, TokenSpan) for id_ in span.ids)


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """Log probabilities at one position, of the raw logits (before bias, penalties, temperature and filters)."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()  # (token, logprob), most likely first
    named: tuple[tuple[int, float], ...] = ()  # the same of logprob_token_ids, in their order


class PromptLogprob(msgspec.Struct, frozen=True, array_like=True):
    """Log probabilities of one prompt token, given those before it. Raw logits, as above."""

    token: int
    logprob: float
    rank: int  # 1: no token was more likely
    top: tuple[tuple[int, float], ...] = ()


class Placement(msgspec.Struct, frozen=True, array_like=True):
    """How a request came to the replica that has it, for its trace. Times are of the ingress's monotonic clock."""

    replica_id: str
    began_s: float  # when a replica was looked for
    submitted_s: float
    accepted_s: float
    num_uncached_tokens: int  # that it had to compute there, as far as the router knew
    num_refused: int = 0  # replicas that had refused it, or were lost before they accepted it
    lost_id: str = ""  # the replica before it, which was lost or drained; "": none
    lost_why: str = ""
    is_planned: bool = False  # that one drained


class OutputTrace(msgspec.Struct, frozen=True, array_like=True):
    """What happened to a choice before an output, for its request's trace. Seconds since this engine's acceptance."""

    age_s: float  # when the output was made
    chunks: tuple[tuple[float, int], ...] = ()  # steps that computed tokens of the prompt, or again: time, tokens
    preemptions: tuple[float, ...] = ()
    placements: tuple[Placement, ...] = ()  # the cluster's; engines leave it empty


class RequestOutput(msgspec.Struct, frozen=True, array_like=True):
    """A piece of one choice's answer. The last piece of each choice, and only it, has a finish reason."""

    request_id: str
    index: int  # which choice
    start: int  # index of tokens[0] among the choice's output tokens
    tokens: tuple[int, ...]  # the end-of-sequence or stop token included
    finish_reason: FinishReason | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None  # one per token
    cached_tokens: int = 0  # prompt tokens that were found in the prefix cache
    prompt_logprobs: tuple[PromptLogprob, ...] | None = None  # with token 0 of choice 0: of all but the first token
    error: str | None = None  # the message, when finish_reason is error, or grammar (its matcher failed)
    num_migrations: int = 0  # migrations of the request up to now; engines leave it 0
    restored_tokens: int = 0  # of cached_tokens, those loaded from the host tier
    queued_s: float = 0.0  # from acceptance until it first had blocks
    mixed_kernels: bool = False  # after a migration, engines with other kernels go on: tokens may part at near ties
    trace: OutputTrace | None = None  # of a traced request, where there is something to say


class EngineStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The load and the limits of an engine."""

    model: str
    max_model_len: int  # tokens, prompt and answer together
    num_running: int  # sequences that hold blocks
    num_waiting: int  # sequences that do not
    num_waiting_tokens: int  # tokens that the waiting ones still have to compute
    num_blocks: int
    num_free_blocks: int  # blocks that no running sequence holds
    num_prefill_tokens: int = 0  # to compute before every sequence has its next token; shared prefixes counted once
    first_token_s: float = 0.0  # from acceptance to the first token, mean of the last half minute; 0: nothing came
    block_size: int = 0  # tokens in a block
    num_preemptions: int = 0  # preempted sequences since the engine started, as are the next four
    num_steps: int = 0
    num_generated_tokens: int = 0
    num_prompt_tokens: int = 0  # of the sequences that have begun
    num_cached_tokens: int = 0  # of these, found in the prefix cache
    num_states: int = 0  # slots for states of recurrent layers; 0: the model has none
    num_free_states: int = 0  # slots that no running sequence has, those of snapshots included
    num_snapshots: int = 0
    collective: str = ""  # backend of the ranks' all-reduce: shared memory, nccl or gloo; "": one rank
    kernels: str = ""  # what its numbers depend on, to the last bit: kernels, instruction set, dtype


class Rejection(msgspec.Struct, frozen=True, array_like=True):
    """A request that was not accepted. `kind` is the name of the error class in engine/errors.py."""

    request_id: str
    kind: str
    message: str
    param: str | None = None
    retry_after_s: float = 1.0


class RequestState(msgspec.Struct, frozen=True, array_like=True):
    """The state of a request. Only a running one has outputs to come."""

    request_id: str
    state: Literal[
        "running", "finished", "unknown"
    ]  # running: or waiting; a finished request may be unknown to the engine


class EngineOutputs(msgspec.Struct, frozen=True, array_like=True):
    """The report of one iteration of the engine's loop."""

    accepted: tuple[str, ...]  # request ids
    rejected: tuple[Rejection, ...]
    chunks: tuple[RequestOutput, ...]
    status: EngineStatus
    stored_blocks: tuple[bytes, ...] = ()  # block hashes that can be shared from now on (KV events)
    removed_blocks: tuple[bytes, ...] = ()  # block hashes that cannot any more; applied before `stored_blocks`
    states: tuple[RequestState, ...] = ()  # of the requests that were asked for, after `chunks`


class StepAges(msgspec.Struct, frozen=True, array_like=True):
    """How long ago an engine and its ranks have finished a step, in seconds. An engine without work has age 0."""

    engine_s: float
    limit_s: float  # an engine with a higher age hangs
    ranks_s: tuple[float, ...] = ()  # of the ranks from 1 on, the time without a heartbeat included


class EngineClient(Protocol):
    """The client interface of one engine or of a cluster of them (vLLM's EngineClient)."""

    def generate(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput]:
        """The answer's chunks. Closing the iterator aborts the request.

        The first `anext` returns only once the request has been accepted; before that it raises RequestError,
        Overloaded or Unavailable.
        """
        ...

    def stop_choice(self, request_id: str, index: int) -> None:
        """Stops one choice of a running request and frees its blocks.

        Outputs of that choice that are already on their way may still come. The iterator ends when every choice has
        finished or was stopped.
        """
        ...

    async def status(self, model: str) -> EngineStatus: ...
