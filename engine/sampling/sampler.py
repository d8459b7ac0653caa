"""The sampler: from logits to next tokens, with everything that a sequence's choice depends on besides the logits."""

import itertools
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from engine.device.transfer import HostCopy, to_device
from engine.sampling.sampling_state import SamplingState
from engine.scheduling.scheduler_output import ModelOutput, SchedulerOutput
from engine.structured_output.grammar import TokenTable
from engine.types import PromptLogprob, TokenLogprob
from kernels.kernel_set import KernelSet
from kernels.penalties.reference import PenaltyEntries

__all__ = ["Sampler", "Sampling"]

ReadLogprobs = Callable[[], tuple[TokenLogprob | None, ...]]
ReadScores = Callable[[], tuple[PromptLogprob, ...]]

MIN_LOGPROB = -9999.0  # stands for minus infinity, which JSON does not have


class Sampler:
    """A pipeline of logits in fp32: grammar mask, allowed tokens, bans (bad words, min_tokens), bias, penalties,
    temperature, min-p, top-k, top-p, sampling; then the tokens that a reasoning or output budget forces.

    A stage is skipped when it is off for all rows. A row's token depends on that row alone.
    """

    def __init__(
        self, kernels: KernelSet, vocab_size: int, device: torch.device, table: TokenTable | None = None
    ) -> None:
        """`table` is needed for requests with structured output."""
        self._table = table
        self._kernels = kernels
        self._vocab_size = vocab_size
        self._device = device
        self._states: dict[int, SamplingState] = {}
        self._rows: tuple[SchedulerOutput | None, list[SamplingState]] = None, []  # of the step that is sampled

    def update(self, scheduled: SchedulerOutput) -> None:
        """Drops the sampling state of finished sequences and makes that of new ones."""
        for seq_id in scheduled.finished_ids:
            self._states.pop(seq_id, None)
        for start in scheduled.new_sequences:
            self._states[start.seq_id] = SamplingState(start, self._vocab_size, self._table)

    def compile_grammar(self, text: str) -> None:
        """Compiles a grammar ahead of the request's first step, in any thread. Errors are left to that step."""
        if self._table is not None:
            self._table.compiled(text)

    def has_grammar(self, scheduled: SchedulerOutput) -> bool:
        return any(state.matcher for state in self._sampling(scheduled))

    def grammar_bits(self, scheduled: SchedulerOutput) -> Tensor:
        """[R, ceil(V / 32)] int32, 1 means allowed. Can run while the model does."""
        states = self._sampling(scheduled)
        bits = np.full((len(states), -(-self._vocab_size // 32)), -1, dtype=np.int32)
        for state, row in zip(states, bits, strict=True):
            state.fill(row)
        return torch.from_numpy(bits)

    def warm_up(self) -> None:
        """Compiles the kernels of grammar masks; engine/execution/warm_up.py has everything else."""
        logits = torch.zeros((1, self._vocab_size), device=self._device)
        words = torch.zeros((1, -(-self._vocab_size // 32)), dtype=torch.int32, device=self._device)
        self._kernels.allow_bits(logits, words)

    def sample(self, scheduled: SchedulerOutput, logits_RV: Tensor, bits: Tensor | None = None) -> ModelOutput:
        """The tokens of each sequence that samples, in the step's order. `logits_RV` is not changed.

        A sequence's rows are its scored ones (prompt logprobs), then those that it samples from: one, and one after
        each draft token. A draft token is accepted if it is the token sampled before it.
        """
        return self.begin(scheduled, logits_RV, bits).result()

    @torch.inference_mode()
    def begin(self, scheduled: SchedulerOutput, logits_RV: Tensor, bits: Tensor | None = None) -> "Sampling":
        """Queues the same; the result may be read later, once, and before the next `begin`."""
        states = self._sampling(scheduled)
        scores: list[ReadScores] = []
        if any(piece.scored for piece in scheduled.sequences):
            scores, logits_RV = self._score(scheduled, logits_RV)
        if not states:
            return Sampling(scheduled, [], logits_RV.new_empty(0, dtype=torch.int64), _no_logprobs, scores, ())
        allowed_RV = logits_RV if bits is None else self._kernels.allow_bits(logits_RV, to_device(bits, self._device))
        is_limited = any(state.allowed is not None for state in states)
        if is_limited:
            limited_RV = self._limit(allowed_RV, states)
            allowed_RV = limited_RV if bits is None else _unless_empty(limited_RV, allowed_RV)
        filtered_RV = self._filter(allowed_RV, states)
        if bits is not None or is_limited:  # where bans leave nothing of what is allowed, that wins
            filtered_RV = _unless_empty(filtered_RV, allowed_RV)
        chosen_R = self._enforce_output_budgets(self._force(self._choose(filtered_RV, states), states), states)
        scored_RV = self._scored(logits_RV, filtered_RV, states)
        counts: tuple[int, ...] = ()
        own = [self._states[piece.seq_id] for piece in scheduled.sequences if piece.samples]
        if scheduled.has_drafts:
            counts, kept = _kept(scheduled, chosen_R.tolist())
            rows = self._ints(kept)
            chosen_R, scored_RV, states = chosen_R[rows], scored_RV[rows], [states[row] for row in kept]
        return Sampling(scheduled, own, chosen_R, self._logprobs(scored_RV, chosen_R, states), scores, counts)

    def _sampling(self, scheduled: SchedulerOutput) -> list[SamplingState]:
        """The sampling state of each row that is sampled from: behind draft tokens the one if they were right."""
        if self._rows[0] is not scheduled:
            rows: list[SamplingState] = []
            for piece in scheduled.sequences:
                if piece.samples:
                    rows.append(self._states[piece.seq_id])
                    for draft in piece.tokens[len(piece.tokens) - piece.num_draft_tokens :]:
                        rows.append(rows[-1].after(draft))
            self._rows = scheduled, rows
        return self._rows[1]

    def _limit(self, logits_RV: Tensor, states: list[SamplingState]) -> Tensor:
        limited = self._floats([state.allowed is not None for state in states]).bool()
        entries = self._entries(state.allowed or () for state in states)
        return self._kernels.allow_only(logits_RV, limited, *entries)

    def _filter(self, logits_RV: Tensor, states: list[SamplingState]) -> Tensor:
        kernels = self._kernels
        if any(forbidden := [state.forbidden() for state in states]):
            logits_RV = kernels.forbid(logits_RV, *self._entries(forbidden))
        if any(state.bias for state in states):
            bias = self._floats([value for state in states for value in state.bias.values()])
            logits_RV = kernels.add_bias(logits_RV, *self._entries(state.bias for state in states), bias)
        if any(state.penalized for state in states):
            logits_RV = self._penalize(logits_RV, states)
        return logits_RV

    def _penalize(self, logits_RV: Tensor, states: list[SamplingState]) -> Tensor:
        seen = [state.seen.arrays() for state in states]
        rows = np.repeat(np.arange(len(seen)), [len(tokens) for tokens, _ in seen])
        tokens_E, counts_E = (np.concatenate(parts) for parts in zip(*seen, strict=True))
        return self._kernels.penalties(
            logits_RV,
            PenaltyEntries(*(to_device(torch.from_numpy(part), self._device) for part in (rows, tokens_E, counts_E))),
            self._floats([state.params.presence_penalty for state in states]),
            self._floats([state.params.frequency_penalty for state in states]),
            self._floats([state.params.repetition_penalty for state in states]),
        )

    def _choose(self, logits_RV: Tensor, states: list[SamplingState]) -> Tensor:
        kernels, params = self._kernels, [state.params for state in states]
        greedy = [one.temperature == 0 for one in params]
        if all(greedy):
            return logits_RV.argmax(-1)
        if any(one.temperature not in (0, 1) for one in params):
            logits_RV = kernels.scale_temperature(logits_RV, self._floats([one.temperature for one in params]))
        if any(min_p := [0.0 if one.temperature == 0 else one.min_p for one in params]):
            logits_RV = kernels.keep_min_p(logits_RV, self._floats(min_p))
        if any(top_k := [0 if one.temperature == 0 else one.top_k for one in params]):
            logits_RV = kernels.keep_top_k(logits_RV, self._ints(top_k))
        top_p = [1.0 if one.temperature == 0 else one.top_p for one in params]
        if any(p < 1 for p in top_p):
            logits_RV = kernels.keep_top_p(logits_RV, self._floats(top_p))
        seeds = self._ints([state.seed for state in states])
        positions = self._ints([state.num_tokens for state in states])
        return kernels.choose(logits_RV, self._floats(greedy).bool(), seeds, positions)

    def _force(self, chosen_R: Tensor, states: list[SamplingState]) -> Tensor:
        """The sampled tokens, replaced where a reasoning budget forces one."""
        forced = [state.forced for state in states]
        if all(token is None for token in forced):
            return chosen_R
        tokens = [-1 if token is None else token for token in forced]
        return torch.where(self._ints(tokens) >= 0, self._ints(tokens), chosen_R)

    def _enforce_output_budgets(self, chosen_R: Tensor, states: list[SamplingState]) -> Tensor:
        """The sampled tokens, replaced where an answer could not be finished within its output budget."""
        if not any(state.is_fitted for state in states):
            return chosen_R
        tokens = [state.enforce_output_budget(token) for state, token in zip(states, chosen_R.tolist(), strict=True)]
        return self._ints(tokens)

    def _scored(self, logits_RV: Tensor, filtered_RV: Tensor, states: list[SamplingState]) -> Tensor:
        """The logits whose log probabilities are returned."""
        filtered = [state.params.scores_filtered for state in states]
        if not any(filtered):
            return logits_RV
        return torch.where(self._floats(filtered).bool()[:, None], filtered_RV, logits_RV)

    def _logprobs(self, logits_RV: Tensor, chosen_R: Tensor, states: list[SamplingState]) -> "ReadLogprobs":
        """Queues the computation of logprobs; the result reads them."""
        wanted = [(row, state.params.num_logprobs) for row, state in enumerate(states)]
        asked = [(row, count) for row, count in wanted if count is not None]
        if not asked:
            return _no_logprobs
        rows = self._ints([row for row, _ in asked])
        tokens = chosen_R[rows]
        chosen, top_ids, top_values = self._kernels.logprobs(logits_RV[rows], tokens, max(count for _, count in asked))
        columns = [HostCopy(one) for one in (tokens, chosen, top_ids, top_values)]
        named = [self._named(logits_RV[row], states[row]) for row, _ in asked]

        def read() -> tuple[TokenLogprob | None, ...]:
            out: list[TokenLogprob | None] = [None] * len(states)
            parts = (column.tolist() for column in columns)
            for (row, count), others, token, logprob, ids, values in zip(asked, named, *parts, strict=True):
                top = _clamped(ids[:count], values[:count])
                out[row] = TokenLogprob(token, max(logprob, MIN_LOGPROB), top, others())
            return tuple(out)

        return read

    def _score(self, scheduled: SchedulerOutput, logits_RV: Tensor) -> tuple[list[ReadScores], Tensor]:
        """The prompt logprobs, to be read later, and the logits of the rows that are sampled from."""
        scores: list[ReadScores] = []
        at = 0
        sampled: list[int] = []
        for piece in scheduled.sequences:
            stop = at + len(piece.scored)
            if piece.scored:
                most = self._states[piece.seq_id].params.num_prompt_logprobs or 0
                # copied: Triton compiles a kernel again for rows that begin at no multiple of 16 bytes
                scores.append(self._scores_of(logits_RV[at:stop].clone(), piece.scored, most))
            num_sampled = piece.samples * (1 + piece.num_draft_tokens)
            sampled += range(stop, stop + num_sampled)
            at = stop + num_sampled
        return scores, logits_RV[self._ints(sampled)]

    def _scores_of(self, logits_TV: Tensor, tokens: tuple[int, ...], most: int) -> ReadScores:
        tokens_T = self._ints(list(tokens))
        logprobs, top_ids, top_values = self._kernels.logprobs(logits_TV, tokens_T, most)
        ranks = (logits_TV > logits_TV.gather(-1, tokens_T[:, None])).sum(-1) + 1
        columns = [HostCopy(one) for one in (logprobs, ranks, top_ids, top_values)]

        def read() -> tuple[PromptLogprob, ...]:
            parts = (column.tolist() for column in columns)
            return tuple(
                PromptLogprob(token, max(logprob, MIN_LOGPROB), rank, _clamped(ids, values))
                for token, logprob, rank, ids, values in zip(tokens, *parts, strict=True)
            )

        return read

    def _named(self, logits_V: Tensor, state: SamplingState) -> Callable[[], tuple[tuple[int, float], ...]]:
        """The logprobs of logprob_token_ids, to be read later."""
        ids = list(state.named)
        if not ids:
            return tuple
        values = HostCopy(logits_V.log_softmax(-1)[self._ints(ids)])
        return lambda: _clamped(ids, values.tolist())

    def _entries(self, tokens_of_rows: Iterable[Iterable[int]]) -> tuple[Tensor, Tensor]:
        entries = [(row, token) for row, tokens in enumerate(tokens_of_rows) for token in tokens]
        return self._ints([row for row, _ in entries]), self._ints([token for _, token in entries])

    def _ints(self, values: list[int]) -> Tensor:
        return to_device(values, self._device, torch.int64)

    def _floats(self, values: list[float] | list[int] | list[bool]) -> Tensor:
        return to_device(values, self._device, torch.float32)


class Sampling:
    """The sampled tokens of one step, on their way to the host."""

    def __init__(
        self,
        scheduled: SchedulerOutput,
        states: list[SamplingState],
        tokens: Tensor,
        read_logprobs: "ReadLogprobs",
        read_scores: list[ReadScores],
        counts: tuple[int, ...],
    ) -> None:
        self.tokens = tokens  # [N] int64, on the device
        self.seq_ids = [piece.seq_id for piece in scheduled.sequences if piece.samples]
        self._copy = HostCopy(tokens)
        self._states, self._read_logprobs = states, read_logprobs  # a state for each sequence
        self._read_scores, self._counts = read_scores, counts

    def result(self) -> ModelOutput:
        """Waits for the tokens and appends them to the sampling states."""
        tokens = tuple(self._copy.tolist())
        logprobs = self._read_logprobs()
        scores = tuple(read() for read in self._read_scores)
        if not self._counts:
            for state, token in zip(self._states, tokens, strict=True):
                state.append(token)
            failed = tuple(state.failure for state in self._states)
            return ModelOutput(tokens, logprobs, failed if any(failed) else (), scores)
        kept: list[int] = []
        counts: list[int] = []
        failed = ()
        starts = itertools.accumulate(self._counts, initial=0)
        for state, start, count in zip(self._states, starts, self._counts, strict=False):
            num_valid = _append(state, tokens[start : start + count])
            counts.append(max(1, num_valid))
            kept += range(start, start + counts[-1])
            failed = *failed, None if num_valid else state.failure
        return ModelOutput(
            tuple(tokens[row] for row in kept),
            tuple(logprobs[row] for row in kept) if logprobs else (),
            failed if any(failed) else (),
            scores,
            tuple(counts),
        )


def _unless_empty(logits_RV: Tensor, otherwise_RV: Tensor) -> Tensor:
    """Of rows in which everything is forbidden the other ones."""
    return torch.where(logits_RV.isneginf().all(-1, keepdim=True), otherwise_RV, logits_RV)


def _append(state: SamplingState, tokens: Iterable[int]) -> int:
    """Appends tokens until the state's grammar fails. Returns how many are valid; a failure behind some of these shows
    in the next step, as it would without draft tokens."""
    num_valid = 0
    for token in tokens:
        state.append(token)
        if state.failure is not None:
            break
        num_valid += 1
    return num_valid


def _no_logprobs() -> tuple[TokenLogprob | None, ...]:
    return ()


def _kept(scheduled: SchedulerOutput, chosen: list[int]) -> tuple[tuple[int, ...], list[int]]:
    """How many tokens each sampling sequence gets, and the rows that they are sampled from."""
    counts: list[int] = []
    kept: list[int] = []
    first = 0
    for piece in (piece for piece in scheduled.sequences if piece.samples):
        drafts = piece.tokens[len(piece.tokens) - piece.num_draft_tokens :]
        right = (draft == token for draft, token in zip(drafts, chosen[first:], strict=False))
        counts.append(1 + sum(itertools.takewhile(bool, right)))
        kept += range(first, first + counts[-1])
        first += 1 + piece.num_draft_tokens
    return tuple(counts), kept


def _clamped(ids: list[int], values: list[float]) -> tuple[tuple[int, float], ...]:
    return tuple((id_, max(value, MIN_LOGPROB)) for id_, value in zip(ids, values, strict=True))
