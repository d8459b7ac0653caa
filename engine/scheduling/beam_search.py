"""Beam search over one request: chooses the live beams and the finished answers. Pure; ids and floats only.

As in HF transformers: of all continuations of the live beams the best by summed log probability are kept; one that ends
with a stop token becomes an answer, scored by sum / length ** length_penalty. The search is over when there are `width`
answers and, unless `early_stopping`, no live beam can still beat the worst of them.
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
    """`first` is the sequence that computes the prompt; from then on each live sequence is one beam."""

    def __init__(
        self, params: BeamParams, first: int, stop_ids: frozenset[int], min_tokens: int, max_tokens: int
    ) -> None:
        self._params = params
        self._stop_ids = stop_ids
        self._min_tokens, self._max_tokens = min_tokens, max_tokens
        self._live: dict[int, _Beam] = {first: _Beam(0.0, (), ())}
        self._continuations: dict[int, TokenLogprob] = {}
        self._answers: list[BeamAnswer] = []

    @property
    def is_ready(self) -> bool:
        """Whether the continuations of every live beam are known."""
        return len(self._continuations) == len(self._live)

    @property
    def is_over(self) -> bool:
        return not self._live

    @property
    def answers(self) -> list[BeamAnswer]:
        """The best first."""
        return sorted(self._answers, key=lambda answer: -answer.score)[: self._params.width]

    def add_continuations(self, sequence: int, logprob: TokenLogprob) -> None:
        """Adds a beam's continuations: `top` has at least `width` that are no stop tokens."""
        self._continuations[sequence] = logprob

    def choose(self) -> list[tuple[int, int]]:
        """The next beams, best first, each as (parent's sequence, token). Empty when the search is over."""
        candidates = [
            (beam.total + logprob, sequence, token)
            for sequence, beam in self._live.items()
            for token, logprob in self._continuations[sequence].top
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
        self._continuations = {}
        self._live = {}
        self._next = [child for child, _, _ in chosen]
        return [(sequence, token) for _, sequence, token in chosen]

    def assign_sequences(self, sequences: list[int]) -> None:
        """Sets the sequences of the beams that `choose` returned, in its order."""
        self._live = dict(zip(sequences, self._next, strict=True))

    def _child(self, sequence: int, token: int, total: float) -> _Beam:
        parent, told = self._live[sequence], self._continuations[sequence]
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
