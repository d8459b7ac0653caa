"""Admission control: refuses invalid requests, and requests for which the engine's queues have no room."""

from engine.errors import ContextTooLong, Overloaded, RequestError
from engine.scheduling.fair_queueing import may_join
from engine.scheduling.scheduler import Scheduler
from engine.types import GenerateRequest, TokenSpan

__all__ = ["check_queue", "validate"]

MAX_BEAMS = 64
MAX_CHOICES = 4096  # of one request: all its sequences are made in one call, which delays every other request


def validate(request: GenerateRequest, max_model_len: int, vocab_size: int) -> None:
    """Raises RequestError or ContextTooLong, which name the field."""
    if request.task != "generate":
        raise RequestError(f"{request.task} is not served here, generate is", param="task")
    if request.adapter:
        raise RequestError(f"there is no adapter {request.adapter!r}, none is served", param="adapter")
    if not all(isinstance(span, TokenSpan) for span in request.inputs):
        raise RequestError("the model takes token ids alone, no media", param="inputs")
    num_tokens = len(request.prompt)
    if num_tokens == 0:
        raise RequestError("the prompt is empty", param="messages")
    if num_tokens >= max_model_len:
        raise ContextTooLong(
            f"This model's maximum context length is {max_model_len} tokens for prompt and answer together, "
            f"and the prompt has {num_tokens}: shorten it",
            param="messages",
        )
    if not all(0 <= token < vocab_size for token in request.prompt):
        raise RequestError(f"token ids must lie in [0, {vocab_size})", param="prompt")
    if request.n < 1 or request.sampling.max_tokens < 1:
        raise RequestError("n and max_tokens must be at least 1", param="n" if request.n < 1 else "max_tokens")
    if request.n > MAX_CHOICES:
        raise RequestError(f"n is at most {MAX_CHOICES}", param="n")
    if request.beam is not None and not request.n <= request.beam.width <= MAX_BEAMS:
        raise RequestError(f"n: a beam search has at most {MAX_BEAMS} beams, and at least n", param="n")
    if request.resume and len(request.resume) != request.n:
        raise RequestError("resume needs one entry for each choice", param="resume")
    if request.resume and all(tokens is None for tokens in request.resume):
        raise RequestError("nothing is left to resume", param="resume")
    for tokens in request.resume:
        if tokens and num_tokens + len(tokens) >= max_model_len:
            raise ContextTooLong("nothing can be added to a full context", param="resume")


def check_queue(request: GenerateRequest, scheduler: Scheduler) -> None:
    """Raises Overloaded when a queue is full; an empty queue takes anything."""
    config = scheduler.config
    free = config.max_num_seqs - len(scheduler.running)  # these start with the next step
    queued = max(0, len(scheduler.waiting) - free)
    # a request may have more choices than the queue holds: an empty queue takes it
    if scheduler.waiting and len(scheduler.waiting) + request.n > free + config.max_queued_requests:
        raise Overloaded(f"{queued} requests wait, {config.max_queued_requests} may")
    own = sum(seq.request.tenant == request.tenant for seq in scheduler.waiting) if request.tenant else 0
    if own and not may_join(own, queued, config.max_queued_requests):
        raise Overloaded(f"{queued} requests wait, {config.max_queued_requests} may, and {own} of them are your own")
    tokens = scheduler.queue.num_tokens
    if tokens and tokens + len(request.prompt) > config.max_queued_tokens:
        raise Overloaded(f"{tokens} prompt tokens wait, {config.max_queued_tokens} may")
