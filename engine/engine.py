"""The engine: requests in, outputs out, one step at a time. Not thread safe; see engine/runtime/async_engine.py.

scheduler.schedule() -> executor.execute_model() -> scheduler.update_from_output() -> RequestOutput
"""

import itertools
import time
from collections.abc import Iterator
from hashlib import blake2b

from configs.schema import EngineConfig
from engine.cache.cache_layout import longest_sequence
from engine.cache.prefix_cache import BlockHashes, hash_blocks, root_hash
from engine.errors import RequestError
from engine.execution.executor import AsyncExecutor, Executor, GrammarCompiler, MultiRankExecutor
from engine.parallel.worker_commands import RankHeartbeat
from engine.scheduling.admission_control import check_queue, validate
from engine.scheduling.beam_scheduler import BeamScheduler
from engine.scheduling.block_allocator import BlockAllocator
from engine.scheduling.fair_queueing import expected_tokens
from engine.scheduling.first_token_times import FirstTokenTimes
from engine.scheduling.scheduler import Scheduler
from engine.scheduling.scheduler_output import ModelOutput, SchedulerOutput
from engine.scheduling.sequence import Sequence
from engine.scheduling.sequence_states import SequenceStates
from engine.scheduling.stop_checker import finish_reason
from engine.types import EngineStatus, FinishReason, GenerateRequest, PromptLogprob, RequestOutput, TokenLogprob

__all__ = ["Engine", "derived_seed"]


class Engine:
    """Owns one model's executor and every request that it serves."""

    def __init__(
        self, executor: Executor, model: str, config: EngineConfig | None = None, cache_key: bytes = b""
    ) -> None:
        """`cache_key` keys the block hashes; engines that share it give equal prefixes equal hashes."""
        config = config or EngineConfig()
        self.executor = executor
        self.model = model
        self.cache_key = cache_key
        self.enable_prefix_caching = config.cache.enable_prefix_caching
        # a single sequence must always fit into the KV cache
        self.max_model_len = longest_sequence(
            executor.cache_groups, executor.num_blocks, executor.block_size, executor.max_model_len
        )
        states = None
        if executor.num_states:
            states = SequenceStates(
                executor.num_states,
                executor.block_size,
                config.cache.state_snapshot_interval,
                executor.state_connector,
            )
        blocks = BlockAllocator(
            executor.num_blocks,
            executor.block_size,
            cache_key if self.enable_prefix_caching else None,
            executor.connector,
            states,
            executor.cache_groups,
        )
        self.scheduler = Scheduler(config.scheduler, blocks, self.max_model_len)
        self.num_step_tokens = 0  # of the step that runs now, or ran last
        self._num_steps = self._num_generated_tokens = 0
        self._async_executor = executor if executor.async_scheduling and isinstance(executor, AsyncExecutor) else None
        self._launched: SchedulerOutput | None = None  # the step that is launched and not yet sampled
        self._seq_ids = itertools.count()
        self._beams = BeamScheduler(self.scheduler, self.max_model_len, self._seq_ids.__next__)
        self._choices: dict[str, dict[int, Sequence]] = {}  # request id -> choice -> sequence
        self._first_tokens = FirstTokenTimes()

    @property
    def has_work(self) -> bool:
        return bool(self._choices)

    # -- requests

    def submit(self, request: GenerateRequest) -> None:
        """Accepts a request, or raises RequestError, ContextTooLong or Overloaded and changes nothing."""
        validate(request, self.max_model_len, self.executor.vocab_size)
        if request.request_id in self._choices:
            raise RequestError("a request with this id is running", param="request_id")
        check_queue(request, self.scheduler)
        root = root_hash(self.cache_key, self.model, request.cache_salt, request.adapter)
        hashes = self._block_hashes(root, request.prompt)
        if request.beam is not None:
            start = self.scheduler.clock.start(request.tenant, expected_tokens(request, is_first=True))
            first = self._beams.start(request, hashes, start)
            self._choices[request.request_id] = {first.index: first}
            return
        choices: dict[int, Sequence] = {}
        for index in range(request.n):
            if request.resume and request.resume[index] is None:
                continue
            resumed = request.resume[index] if request.resume else None
            known = self._block_hashes(root, request.prompt + resumed) if resumed else hashes
            seed = derived_seed(request.sampling.seed, index)
            start = self.scheduler.clock.start(request.tenant, expected_tokens(request, is_first=not choices))
            seq = Sequence(next(self._seq_ids), request, index, seed, known, start)
            self.scheduler.add(seq)
            choices[index] = seq
        self._choices[request.request_id] = choices

    def abort(self, request_id: str, index: int | None = None) -> list[RequestOutput]:
        """Ends a request, or one of its choices, and frees its blocks. Unknown ids are ignored."""
        choices = self._choices.get(request_id, {})
        ended = [seq for seq in choices.values() if index is None or seq.index == index]
        for seq in ended:
            self._forget(seq)
        return [_output(seq, (), "abort", None) for seq in ended]

    def is_running(self, request_id: str) -> bool:
        """Whether outputs of a request are still to come."""
        return request_id in self._choices

    def fail(self, message: str) -> list[RequestOutput]:
        """Ends every request with an error."""
        seqs = [seq for choices in self._choices.values() for seq in choices.values()]
        for seq in seqs:
            self._forget(seq)
        return [_output(seq, (), "error", None, error=message) for seq in seqs]

    def generate(self, request: GenerateRequest) -> Iterator[RequestOutput]:
        """The outputs of one request, computed while they are asked for. Closing the iterator aborts the request."""
        self.submit(request)
        try:
            while request.request_id in self._choices:
                for output in self.step():
                    if output.request_id == request.request_id:
                        yield output
        finally:
            self.abort(request.request_id)

    # -- steps

    def step(self) -> list[RequestOutput]:
        """Computes one step and returns its outputs."""
        outputs = self._step()
        self._num_generated_tokens += sum(len(output.tokens) for output in outputs)
        if not self.has_work:
            self.executor.rest()
        return outputs

    def _step(self) -> list[RequestOutput]:
        if self._async_executor is not None:
            return self._step_async(self._async_executor)
        scheduled = self.scheduler.schedule()
        if not scheduled.sequences:
            return []
        self.num_step_tokens = scheduled.num_tokens
        output = self.executor.execute_model(scheduled)
        self.scheduler.update_after_schedule(scheduled)
        return self._process_output(scheduled, output)

    def _step_async(self, executor: AsyncExecutor) -> list[RequestOutput]:
        """The same with async scheduling: when this returns, the next step has been launched.

        It is launched before the tokens of this one are known, unless there are draft tokens among them: how many of
        these are right decides what it computes.
        """
        scheduled, self._launched = self._launched or self._launch(executor), None
        if scheduled is None:
            return []
        self.num_step_tokens = scheduled.num_tokens
        pending = executor.sample_tokens()
        self.scheduler.update_after_schedule(scheduled)
        if scheduled.has_drafts:
            outputs = self._process_output(scheduled, pending.result())
            self._launched = self._launch(executor)
            return outputs
        self._launched = self._launch(executor)
        return self._process_output(scheduled, pending.result())

    def _launch(self, executor: AsyncExecutor) -> SchedulerOutput | None:
        scheduled = self.scheduler.schedule()
        if not scheduled.sequences:
            return None
        executor.launch_model(scheduled)
        return scheduled

    def _process_output(self, scheduled: SchedulerOutput, output: ModelOutput) -> list[RequestOutput]:
        self._num_steps += 1
        sampled = self.scheduler.update_from_output(scheduled, output)
        logprobs = iter(output.logprobs or (None,) * len(output.tokens))
        counts = output.counts or (1,) * len(sampled)
        failed = output.failed or (None,) * len(sampled)
        outputs = []
        for seq, count, error in zip(sampled, counts, failed, strict=True):
            own = list(itertools.islice(logprobs, count))
            if seq is None:
                continue  # it ended while the step ran
            if error is not None:
                self._forget(seq)
                del seq.tokens[len(seq.tokens) - count :]  # undefined, and never sent
                outputs.append(_output(seq, (), "grammar", None, error))
            elif seq.request.request_id in self._beams:
                assert own[0] is not None
                outputs += self._advance_beam(seq, own[0])
            else:
                outputs.append(self._output_of(seq, count, own))
        return outputs

    def _output_of(self, seq: Sequence, count: int, logprobs: list[TokenLogprob | None]) -> RequestOutput:
        """The last `count` tokens of a sequence, up to the one that ends it."""
        if seq.num_output == count:
            self._first_tokens.add(time.monotonic() - seq.accepted_s)
        reason = None
        for length in range(len(seq.tokens) - count + 1, len(seq.tokens) + 1):
            reason = finish_reason(seq, length, self.max_model_len)
            if reason is not None:
                count -= len(seq.tokens) - length
                del seq.tokens[length:]
                break
        known = tuple(one for one in logprobs[:count] if one is not None)
        output = _output(seq, tuple(seq.tokens[-count:]), reason, known or None)
        if reason is not None:
            self._forget(seq)
        return output

    def _advance_beam(self, seq: Sequence, logprob: TokenLogprob) -> tuple[RequestOutput, ...]:
        choices = self._choices[seq.request.request_id]
        step = self._beams.advance(seq, logprob, list(choices.values()))
        choices.update({child.index: child for child in step.forked})
        for ended in step.ended:
            self._forget(ended)
        return step.outputs

    def _forget(self, seq: Sequence) -> None:
        self.scheduler.remove(seq)
        choices = self._choices[seq.request.request_id]
        del choices[seq.index]
        if not choices:
            del self._choices[seq.request.request_id]
            self._beams.end(seq.request.request_id)

    def _block_hashes(self, root: bytes, tokens: tuple[int, ...]) -> BlockHashes:
        if not self.enable_prefix_caching:
            return BlockHashes(root, ())
        return BlockHashes(root, tuple(hash_blocks(self.cache_key, root, tokens, self.executor.block_size)))

    # -- optional abilities of executors: grammars, several ranks

    def needs_preparing(self, request: GenerateRequest) -> bool:
        """Whether `prepare` has work to do for the request."""
        return request.grammar is not None and isinstance(self.executor, GrammarCompiler)

    def prepare(self, request: GenerateRequest) -> None:
        """Compiles a request's grammar ahead of its first step, in any thread."""
        if request.grammar is not None and isinstance(self.executor, GrammarCompiler):
            self.executor.compile_grammar(request.grammar.text)

    def rank_heartbeats(self) -> tuple[RankHeartbeat, ...]:
        """The last heartbeat of each rank from 1 on, in any thread."""
        return self.executor.heartbeats() if isinstance(self.executor, MultiRankExecutor) else ()

    def lose_ranks(self) -> None:
        """Aborts the step that waits for a rank, in any thread. Every later step fails."""
        if isinstance(self.executor, MultiRankExecutor):
            self.executor.lose()

    # -- state

    def status(self) -> EngineStatus:
        scheduler = self.scheduler
        states = scheduler.blocks.states.pool if scheduler.blocks.states is not None else None
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
            num_steps=self._num_steps,
            num_generated_tokens=self._num_generated_tokens,
            num_prompt_tokens=scheduler.num_prompt_tokens,
            num_cached_tokens=scheduler.num_cached_tokens,
            first_token_s=self._first_tokens.mean_s(),
            num_states=states.num_slots if states is not None else 0,
            num_free_states=states.num_free if states is not None else 0,
            num_snapshots=states.num_snapshots if states is not None else 0,
            collective=self.executor.collective,
            kernels=self.executor.kernels,
        )

    def close(self) -> None:
        self.executor.close()

    def check(self) -> None:
        """Asserts the invariants between two steps."""
        self.scheduler.check()
        ours = {seq.seq_id for choices in self._choices.values() for seq in choices.values()}
        theirs = {seq.seq_id for seq in (*self.scheduler.waiting, *self.scheduler.running)}
        assert ours == theirs
        assert all(self._choices.values())


def derived_seed(seed: int, index: int) -> int:
    """The seed of choice `index`: the request's own for the first, an independent one for each other."""
    if index == 0:
        return seed
    text = f"{seed}:{index}".encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little", signed=True)


def _output(
    seq: Sequence,
    tokens: tuple[int, ...],
    reason: FinishReason | None,
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
        trace=seq.trace.take() if seq.trace is not None else None,
    )


def _prompt_logprobs(seq: Sequence) -> tuple[PromptLogprob, ...] | None:
    is_wanted = seq.request.sampling.num_prompt_logprobs is not None and seq.index == 0
    return tuple(seq.scores) if is_wanted else None
