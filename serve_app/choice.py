"""One choice of an answer: tokens go in, text comes out. Streamed and whole answers are both made of this."""

import msgspec

from engine.types import TokenChunk, TokenLogprob
from serve_app.detokenizer import Detokenizer
from serve_app.stops import StopStrings
from serve_app.vocabulary import Vocabulary

__all__ = ["Choice", "Delta", "TextRules"]


class TextRules(msgspec.Struct, frozen=True, kw_only=True):
    """How the tokens of every choice become text."""

    stops: tuple[str, ...] = ()
    include_stop: bool = False  # a stop string or stop token is part of the text
    min_tokens: int = 0  # stop strings are not looked for in the first tokens
    stop_ids: frozenset[int] = frozenset()  # tokens that end the answer
    told_stop_ids: frozenset[int] = frozenset()  # those of them that the client named: told as stop_reason
    skip_special: bool = True
    starts_text: bool = True


class Delta(msgspec.Struct):
    """What one piece of the engine's answer adds to one choice."""

    index: int
    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    ended_here: bool = False  # a stop string was found: the engine does not know that this choice is over


class Choice:
    """The text state of one choice. After a finish reason, pieces that are still on their way change nothing."""

    __slots__ = ("_detokenizer", "_rules", "_stops", "finished", "index", "num_tokens")

    def __init__(self, index: int, rules: TextRules, vocabulary: Vocabulary) -> None:
        self.index = index
        self.num_tokens = 0  # of the answer, with the token or string that ended it
        self.finished = False
        self._rules = rules
        self._detokenizer = Detokenizer(vocabulary, skip_special=rules.skip_special, starts_text=rules.starts_text)
        self._stops = StopStrings(rules.stops, include=rules.include_stop)

    def push(self, chunk: TokenChunk) -> Delta:
        """What the chunk adds. Where a stop string ends in it, later tokens do not count."""
        text, tokens = "", chunk.tokens
        ends_in_token = chunk.finish_reason == "stop" and bool(tokens) and tokens[-1] in self._rules.stop_ids
        num_said = len(tokens) - (ends_in_token and not self._rules.include_stop)
        for position, token in enumerate(tokens):
            self.num_tokens += 1
            if position < num_said:
                text += self._say(token)
            if self._stops.matched is not None:
                return self._ended_by_string(chunk, text, position + 1)
        if chunk.finish_reason is not None:
            return self._ended_by_engine(chunk, text, tokens[-1] if ends_in_token else None)
        return Delta(self.index, text, tokens, chunk.logprobs or ())

    def _say(self, token: int) -> str:
        text = self._detokenizer.push((token,))
        if not text:
            return ""
        return text if self.num_tokens <= self._rules.min_tokens else self._stops.push(text)

    def _ended_by_string(self, chunk: TokenChunk, text: str, num_tokens: int) -> Delta:
        self.finished = True
        logprobs = (chunk.logprobs or ())[:num_tokens]
        tokens = chunk.tokens[:num_tokens]
        return Delta(self.index, text, tokens, logprobs, "stop", self._stops.matched, chunk.finish_reason is None)

    def _ended_by_engine(self, chunk: TokenChunk, text: str, stop_token: int | None) -> Delta:
        self.finished = True
        text += self._stops.push(self._detokenizer.flush())
        if self._stops.matched is None:
            text += self._stops.flush()
        told = stop_token if stop_token in self._rules.told_stop_ids else None
        return Delta(self.index, text, chunk.tokens, chunk.logprobs or (), chunk.finish_reason, told)
