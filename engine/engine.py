"""The engine: requests in, token chunks out, one step at a time. Not thread safe; see async_engine.py."""

import itertools
import time
from collections import deque
from collections.abc import Iterator
from hashlib import blake2b
from typing import Protocol, runtime_checkable

from configs.schema import CacheConfig, SchedulerConfig
from engine.cache.kv_connector import KVConnector
from engine.cache.prefix_cache import hash_blocks, root_hash
from engine.errors import RequestError
from engine.parallel.worker_commands import RankHeartbeat
from engine.scheduling.admission_control import check_queue, validate
from engine.scheduling.beam_group import BeamRequest, one_step_of
from engine.scheduling.fair_queueing import expected_tokens
from engine.scheduling.scheduler import Scheduler
from engine.scheduling.scheduler_output import ModelOutput, SchedulerOutput
from engine.scheduling.sequence import Sequence
from engine.structured_output.repetition import ends_in_repetition
from engine.types import EngineStatus, GenerateRequest, PromptLogprob, RequestOutput, TokenLogprob

__all__ = ["Engine", "Executor", "AsyncExecutor"]

FIRST_TOKEN_WINDOW_S = 30.0


class Executor(Protocol):
    """Computes what a plan says. engine/execution/inline_executor.py has the real ones."""

    vocab_size: int
    max_model_len: int  # tokens
    block_size: int  # tokens
    num_blocks: int

    def execute_model(self, scheduled: SchedulerOutput) -> ModelOutput: ...

    def close(self) -> None: ...


@runtime_checkable
class GrammarCompiler(Protocol):
    """An executor that can compile a grammar ahead, in any thread."""

    def compile_grammar(self, text: str) -> None: ...


@runtime_checkable
class MultiRankExecutor(Protocol):
    """An executor over several ranks. Both calls in any thread."""

    def heartbeats(self) -> tuple[RankHeartbeat, ...]:
        """What was heard last of each rank from 1 on."""
        ...

    def lose(self) -> None:
        """A rank is given up: nobody waits for it any more, and every step fails."""
        ...


@runtime_checkable
class AsyncExecutor(Executor, Protocol):
    """One that can begin a step while it samples in the step before.

    In a plan, -1 stands for the token that the sequence samples there.
    """

    def launch_model(self, scheduled: SchedulerOutput) -> None: ...

    def sample_tokens(self) -> "PendingOutput":
        """Of the step that was begun last. Its result must be asked for before the next one is sampled."""
        ...


class PendingOutput(Protocol):
    def result(self) -> ModelOutput: ...


class Engine:
    """Owns one model's executor and everybody who waits for it.

    `cache_key` keys the names of prefix blocks; engines that share it give equal prefixes equal names.
    """

    def __init__(
        self,
        executor: Executor,
        model: str,
        scheduler: SchedulerConfig | None = None,
        cache: CacheConfig | None = None,
        cache_key: bytes = b"",
        collective: str = "",
        overlap: bool = False,
        connector: KVConnector | None = None,
    ) -> None:
        """collective   what the executor's ranks add up over, for the status
        overlap      plan each step while the one before is computed; the executor must be able to
        connector       of the executor's blocks; what it keeps needs not be computed again
        """
        self.executor = executor
        assert not overlap or isinstance(executor, AsyncExecutor)
        self._async_executor = executor if overlap and isinstance(executor, AsyncExecutor) else None
        self._begun: SchedulerOutput | None = None  # the step that was begun last, if it has not been sampled
        self._collective = collective
        self.model = model
        self.cache_key = cache_key
        self.enable_prefix_caching = (cache or CacheConfig()).enable_prefix_caching
        # one sequence must always be able to run alone
        self.max_model_len = min(executor.max_model_len, executor.num_blocks * executor.block_size)
        self.scheduler = Scheduler(
            config=scheduler or SchedulerConfig(),
            num_blocks=executor.num_blocks,
            block_size=executor.block_size,
            enable_prefix_caching=self.enable_prefix_caching,
            cache_key=cache_key,
            max_model_len=self.max_model_len,
            connector=connector,
        )
        self._choices: dict[str, dict[int, Sequence]] = {}  # request id -> choice -> sequence
        self._beams: dict[str, BeamRequest] = {}  # request id -> its search, while it goes on
        self._next_seq_id = 0
        self.step_tokens = 0  # of the step that is computed now, or was last
        self._first_tokens: deque[tuple[float, float]] = deque(maxlen=256)  # (when, after how long)

    @property
    def has_work(self) -> bool:
        return bool(self._choices)

    def rank_heartbeats(self) -> tuple[RankHeartbeat, ...]:
        """What was heard last of each rank from 1 on, in any thread."""
        return self.executor.heartbeats() if isinstance(self.executor, MultiRankExecutor) else ()

    def lose_ranks(self) -> None:
        """Ends the step that waits for a rank, in any thread. No other one can follow."""
        if isinstance(self.executor, MultiRankExecutor):
            self.executor.lose()

    def needs_preparing(self, request: GenerateRequest) -> bool:
        """Whether `prepare` does something for it."""
        return request.grammar is not None and isinstance(self.executor, GrammarCompiler)

    def prepare(self, request: GenerateRequest) -> None:
        """What of a request can take long before its first step, in any thread: its grammar is compiled."""
        if request.grammar is not None and isinstance(self.executor, GrammarCompiler):
            self.executor.compile_grammar(request.grammar.text)

    def submit(self, request: GenerateRequest) -> None:
        """Accepts a request, or raises RequestError, ContextTooLong or Overloaded and changes nothing."""
        validate(request, self.max_model_len, self.executor.vocab_size)
        if request.request_id in self._choices:
            raise RequestError("a request with this id is running", param="request_id")
        check_queue(request, self.scheduler)
        root = root_hash(self.cache_key, self.model, request.cache_salt)
        block_size = self.executor.block_size
        names = hash_blocks(self.cache_key, root, request.prompt, block_size) if self.enable_prefix_caching else []
        if request.beam is not None:
            self._begin_beams(request, root, names)
            return
        choices: dict[int, Sequence] = {}
        for index in range(request.n):
            if request.resume and request.resume[index] is None:
                continue
            seed = derived_seed(request.sampling.seed, index)
            resumed = request.resume[index] if request.resume else None
            if resumed and self.enable_prefix_caching:
                known = hash_blocks(self.cache_key, root, request.prompt + resumed, block_size)
            else:
                known = list(names)
            start = self.scheduler.clock.start(request.tenant, expected_tokens(request, is_first=not choices))
            seq = Sequence(self._next_seq_id, request, index, seed, root, known, start)
            self._next_seq_id += 1
            self.scheduler.add(seq)
            choices[index] = seq
        self._choices[request.request_id] = choices

    def abort(self, request_id: str, index: int | None = None) -> list[RequestOutput]:
        """Ends a request, or one of its choices, and frees what it held. Unknown ids do nothing."""
        choices = self._choices.get(request_id, {})
        ended = [seq for seq in choices.values() if index is None or seq.index == index]
        for seq in ended:
            self._forget(seq)
        return [_chunk(seq, (), "abort", None) for seq in ended]

    def is_running(self, request_id: str) -> bool:
        """Whether chunks of a request are still to come."""
        return request_id in self._choices

    def step(self) -> list[RequestOutput]:
        """Computes one step and returns what came out."""
        if self._async_executor is not None:
            return self._step_ahead(self._async_executor)
        scheduled = self.scheduler.schedule()
        if not scheduled.sequences:
            return []
        self.step_tokens = _num_tokens(scheduled)
        result = self.executor.execute_model(scheduled)
        self.scheduler.update_after_schedule(scheduled)
        return self._book(scheduled, result)

    def _step_ahead(self, executor: "AsyncExecutor") -> list[RequestOutput]:
        """The same, but the step after it has begun when this returns."""
        scheduled, self._begun = self._begun or self._begin(executor), None
        if scheduled is None:
            return []
        self.step_tokens = _num_tokens(scheduled)
        sampling = executor.sample_tokens()
        self.scheduler.update_after_schedule(scheduled)
        self._begun = self._begin(executor)
        return self._book(scheduled, sampling.result())

    def _begin(self, executor: "AsyncExecutor") -> SchedulerOutput | None:
        scheduled = self.scheduler.schedule()
        if not scheduled.sequences:
            return None
        executor.launch_model(scheduled)
        return scheduled

    def _book(self, scheduled: SchedulerOutput, result: ModelOutput) -> list[RequestOutput]:
        sampled = self.scheduler.update_from_output(scheduled, result)
        logprobs = iter(result.logprobs or (None,) * len(result.tokens))
        counts = result.counts or (1,) * len(sampled)
        failed = result.failed or (None,) * len(sampled)
        chunks = []
        for seq, count, error in zip(sampled, counts, failed, strict=True):
            told = list(itertools.islice(logprobs, count))
            if seq is None:
                continue  # it ended while this was computed
            beams = self._beams.get(seq.request.request_id)
            if error is not None:
                self._forget(seq)
                del seq.tokens[len(seq.tokens) - count :]  # it means nothing, and nobody is told of it
                chunks.append(_chunk(seq, (), "grammar", None, error))
            elif beams is not None:
                assert told[0] is not None
                chunks += self._advance_beams(beams, seq, told[0])
            else:
                chunks.append(self._tell(seq, count, told))
        return chunks

    def _tell(self, seq: Sequence, count: int, logprobs: list[TokenLogprob | None]) -> RequestOutput:
        """The last `count` tokens of a sequence, up to the one that ends it."""
        if seq.num_output == count:
            self._first_tokens.append((time.monotonic(), time.monotonic() - seq.accepted_s))
        reason = None
        for length in range(len(seq.tokens) - count + 1, len(seq.tokens) + 1):
            reason = self._finish_reason(seq, length)
            if reason is not None:
                count -= len(seq.tokens) - length
                del seq.tokens[length:]
                break
        known = tuple(one for one in logprobs[:count] if one is not None)
        chunk = _chunk(seq, tuple(seq.tokens[-count:]), reason, known or None)
        if reason is not None:
            self._forget(seq)
        return chunk

    def fail(self, message: str) -> list[RequestOutput]:
        """Ends every request with an error."""
        seqs = [seq for choices in self._choices.values() for seq in choices.values()]
        for seq in seqs:
            self._forget(seq)
        return [_chunk(seq, (), "error", None, error=message) for seq in seqs]

    def generate(self, request: GenerateRequest) -> Iterator[RequestOutput]:
        """The chunks of one request, computed while they are asked for. Closing the iterator aborts the request."""
        self.submit(request)
        try:
            while request.request_id in self._choices:
                for chunk in self.step():
                    if chunk.request_id == request.request_id:
                        yield chunk
        finally:
            self.abort(request.request_id)

    def status(self) -> EngineStatus:
        scheduler = self.scheduler
        return EngineStatus(
            model=self.model,
            max_model_len=self.max_model_len,
            num_running=len(scheduler.running),
            num_waiting=len(scheduler.waiting),
            num_waiting_tokens=scheduler.queue.num_tokens,
            num_prefill_tokens=scheduler.num_prefill_tokens,
            num_blocks=scheduler.blocks.pool.num_blocks,
            num_free_blocks=scheduler.blocks.pool.num_free,
            block_size=self.executor.block_size,
            num_preemptions=scheduler.num_preemptions,
            first_token_s=self._mean_first_token_s(),
            collective=self._collective,
        )

    def close(self) -> None:
        self.executor.close()

    def check(self) -> None:
        """Asserts everything that must hold between two steps."""
        self.scheduler.check()
        ours = {seq.seq_id for choices in self._choices.values() for seq in choices.values()}
        theirs = {seq.seq_id for seq in (*self.scheduler.waiting, *self.scheduler.running)}
        assert ours == theirs
        assert all(self._choices.values())

    def _begin_beams(self, request: GenerateRequest, root: bytes, names: list[bytes]) -> None:
        """One sequence computes the prompt; the beams fork from it."""
        start = self.scheduler.clock.start(request.tenant, expected_tokens(request, is_first=True))
        first = self._new_beam(one_step_of(request), root, names, start)
        room = self.max_model_len - len(request.prompt)
        self._beams[request.request_id] = BeamRequest(request, first.seq_id, room)
        self._choices[request.request_id] = {first.index: first}
        self.scheduler.add(first)

    def _new_beam(self, request: GenerateRequest, root: bytes, names: list[bytes], start: int) -> Sequence:
        # a beam is no choice yet: its index is one that no choice has
        seq_id, seed = self._next_seq_id, request.sampling.seed
        seq = Sequence(seq_id, request, -1 - seq_id, seed, root, list(names), start)
        self._next_seq_id += 1
        return seq

    def _advance_beams(self, beams: BeamRequest, seq: Sequence, logprob: TokenLogprob) -> list[RequestOutput]:
        """Books what may follow one beam. With the last of them the next beams are chosen."""
        search, request_id = beams.search, seq.request.request_id
        seq.is_paused = True
        search.tell(seq.seq_id, logprob)
        if not search.is_ready:
            return []
        choices = self._choices[request_id]
        parents = {one.seq_id: one for one in choices.values()}
        kept: dict[int, int] = {}  # parent's sequence -> the token with which it goes on itself
        next_ids = []
        for parent_id, token in search.choose():
            parent = parents[parent_id]
            if parent_id not in kept:
                kept[parent_id] = token
                next_ids.append(parent_id)
                continue
            child = self._new_beam(parent.request, parent.root_hash, parent.block_hashes, parent.virtual_start)
            child.tokens = [*parent.tokens[:-1], token]
            child.cached_tokens = parent.cached_tokens
            self.scheduler.fork(parent, child)
            choices[child.index] = child
            next_ids.append(child.seq_id)
        search.go_on(next_ids)
        for parent in parents.values():
            if parent.seq_id in kept:
                self.scheduler.rewind(parent, kept[parent.seq_id])
            elif not search.is_over:
                self._forget(parent)
        return self._finish_beams(beams, seq) if search.is_over else []

    def _finish_beams(self, beams: BeamRequest, seq: Sequence) -> list[RequestOutput]:
        for one in list(self._choices[beams.request.request_id].values()):
            self._forget(one)
        return beams.chunks(seq.cached_tokens or 0)

    def _mean_first_token_s(self) -> float:
        horizon_s = time.monotonic() - FIRST_TOKEN_WINDOW_S
        while self._first_tokens and self._first_tokens[0][0] < horizon_s:
            self._first_tokens.popleft()
        return sum(took_s for _, took_s in self._first_tokens) / max(1, len(self._first_tokens))

    def _finish_reason(self, seq: Sequence, length: int) -> str | None:
        """Whether a sequence ends with the first `length` of its tokens. Where there are more, nothing repeats."""
        sampling, num_output = seq.request.sampling, length - seq.prompt_len
        if seq.tokens[length - 1] in sampling.stop_token_ids and num_output > sampling.min_tokens:
            return "stop"
        if num_output >= sampling.max_tokens or length >= self.max_model_len:
            return "length"
        repetition = sampling.repetition
        if repetition is not None and num_output >= sampling.min_tokens:
            return "repetition" if ends_in_repetition(seq.tokens, seq.prompt_len, repetition) else None
        return None

    def _forget(self, seq: Sequence) -> None:
        self.scheduler.remove(seq)
        choices = self._choices[seq.request.request_id]
        del choices[seq.index]
        if not choices:
            del self._choices[seq.request.request_id]
            self._beams.pop(seq.request.request_id, None)


def _num_tokens(scheduled: SchedulerOutput) -> int:
    return sum(len(piece.tokens) for piece in scheduled.sequences)


def derived_seed(seed: int, index: int) -> int:
    """The seed of choice `index`: the request's own for the first, an independent one for each other."""
    if index == 0:
        return seed
    text = f"{seed}:{index}".encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little", signed=True)


def _chunk(
    seq: Sequence,
    tokens: tuple[int, ...],
    reason: str | None,
    logprobs: tuple[TokenLogprob, ...] | None,
    error: str | None = None,
) -> RequestOutput:
    return RequestOutput(
        request_id=seq.request.request_id,
        index=seq.index,
        start=seq.num_output - len(tokens),
        tokens=tokens,
        finish_reason=reason,
        logprobs=logprobs,
        cached_tokens=seq.cached_tokens or 0,
        prompt_logprobs=_prompt_logprobs(seq) if seq.num_output == len(tokens) == 1 else None,
        error=error,
        restored_tokens=seq.restored_tokens,
        queued_s=seq.queued_s,
    )


def _prompt_logprobs(seq: Sequence) -> tuple[PromptLogprob, ...] | None:
    is_wanted = seq.request.sampling.num_prompt_logprobs is not None and seq.index == 0
    return tuple(seq.scores) if is_wanted else None
