"""Beam search over one request: which beams live on, and which answers are done. Pure; ids and floats only.

The usual rule (as in HF transformers): of all continuations of the live beams the best by summed log probability go
on; one that ends with a stop token becomes an answer, scored by sum / length ** length_penalty. It is over when there
are `width` answers and, unless `early_stopping`, no live beam can still beat the worst of them.
"""

from engine.types import BeamParams, FinishReason, TokenLogprob

__all__ = ["BeamAnswer", "BeamSearch"]


class BeamAnswer:
    def __init__(
        self, score: float, tokens: tuple[int, ...], logprobs: tuple[TokenLogprob, ...], reason: FinishReason
    ) -> None:
        self.score, self.tokens, self.logprobs, self.reason = score, tokens, logprobs, reason


class _Beam:
    def __init__(self, total: float, tokens: tuple[int, ...], logprobs: tuple[TokenLogprob, ...]) -> None:
        self.total, self.tokens, self.logprobs = total, tokens, logprobs


class BeamSearch:
    """`first` names the sequence that computes the prompt; from then on each live sequence is one beam."""

    def __init__(
        self, params: BeamParams, first: int, stop_ids: frozenset[int], min_tokens: int, max_tokens: int
    ) -> None:
        self._params = params
        self._stop_ids = stop_ids
        self._min_tokens, self._max_tokens = min_tokens, max_tokens
        self._live: dict[int, _Beam] = {first: _Beam(0.0, (), ())}
        self._told: dict[int, TokenLogprob] = {}
        self._answers: list[BeamAnswer] = []

    @property
    def is_ready(self) -> bool:
        """Every live beam has told what may follow it."""
        return len(self._told) == len(self._live)

    @property
    def is_over(self) -> bool:
        return not self._live

    @property
    def answers(self) -> list[BeamAnswer]:
        """The best first."""
        return sorted(self._answers, key=lambda answer: -answer.score)[: self._params.width]

    def tell(self, sequence: int, logprob: TokenLogprob) -> None:
        """What may follow a beam: in `top` at least `width` continuations that are no stop tokens."""
        self._told[sequence] = logprob

    def choose(self) -> list[tuple[int, int]]:
        """The beams to go on with, best first, each as (parent's sequence, token). Empty when the search is over."""
        candidates = [
            (beam.total + logprob, sequence, token)
            for sequence, beam in self._live.items()
            for token, logprob in self._told[sequence].top
        ]
        candidates.sort(key=lambda one: (-one[0], one[1], one[2]))
        chosen: list[tuple[_Beam, int, int]] = []
        for rank, (total, sequence, token) in enumerate(candidates):
            if len(chosen) == self._params.width:
                break
            child = self._child(sequence, token, total)
            if token in self._stop_ids and len(child.tokens) > self._min_tokens:
                if rank < self._params.width:
                    self._finish(child, "stop")
            elif token not in self._stop_ids:
                chosen.append((child, sequence, token))
        if chosen and len(chosen[0][0].tokens) >= self._max_tokens:
            for child, _, _ in chosen:
                self._finish(child, "length")
            chosen = []
        elif chosen and self._is_decided(chosen[0][0]):
            chosen = []
        self._told = {}
        self._live = {}
        self._next = [child for child, _, _ in chosen]
        return [(sequence, token) for _, sequence, token in chosen]

    def go_on(self, sequences: list[int]) -> None:
        """Names the sequences of the beams that `choose` returned, in its order."""
        self._live = dict(zip(sequences, self._next, strict=True))

    def _child(self, sequence: int, token: int, total: float) -> _Beam:
        parent, told = self._live[sequence], self._told[sequence]
        logprob = TokenLogprob(token, total - parent.total, told.top)
        return _Beam(total, (*parent.tokens, token), (*parent.logprobs, logprob))

    def _score(self, beam: _Beam) -> float:
        return beam.total / float(len(beam.tokens) ** self._params.length_penalty)

    def _finish(self, beam: _Beam, reason: FinishReason) -> None:
        self._answers.append(BeamAnswer(self._score(beam), beam.tokens, beam.logprobs, reason))
        self._answers = self.answers

    def _is_decided(self, best: _Beam) -> bool:
        if len(self._answers) < self._params.width:
            return False
        return self._params.early_stopping or self._score(best) <= self._answers[-1].score
