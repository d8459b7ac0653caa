"""One choice of an answer: tokens in, deltas out, for streamed and whole answers alike.

token ids -> incremental detokenizer -> stop-string checker -> output parser (reasoning, tool calls) -> ChoiceDelta
"""

from random import Random
from typing import Literal

import msgspec

from engine.types import PromptLogprob, RequestOutput, TokenLogprob
from serve_app.generation.output_parser import OutputParser, ParseRules
from serve_app.grammar.constraint import Constraint
from serve_app.text.detokenizer import IncrementalDetokenizer
from serve_app.text.message_delta import MessageDelta
from serve_app.text.stop_strings import StopStringChecker
from serve_app.text.vocabulary import Vocabulary

__all__ = ["Choice", "ChoiceDelta", "FinishReason", "TextRules"]

FinishReason = Literal["stop", "length", "tool_calls", "repetition", "abort"]

# the engine's finish reason -> OpenAI's; "grammar" and "error" are raised before
FINISH_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "repetition": "repetition",
    "abort": "abort",
}


class TextRules(msgspec.Struct, frozen=True, kw_only=True):
    """The rules that turn the tokens of every choice into text."""

    stops: tuple[str, ...] = ()
    include_stop: bool = False  # a stop string or stop token is part of the text
    min_tokens: int = 0  # stop strings are ignored in the first tokens
    stop_ids: frozenset[int] = frozenset()  # tokens that end the answer
    reported_stop_ids: frozenset[int] = frozenset()  # the ones of the client: sent as stop_reason
    skip_special: bool = True
    starts_text: bool = True
    parse: ParseRules | None = None  # reasoning and tool calls; None: all is content
    constraint: Constraint | None = None  # structured output, which the content must satisfy


class ChoiceDelta(msgspec.Struct):
    """The part that one of the engine's outputs adds to one choice."""

    index: int
    chunk: RequestOutput  # that it is made of
    message: MessageDelta
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    ended_here: bool = False  # a stop string was found: the engine still has to stop this choice
    prompt_logprobs: tuple[PromptLogprob, ...] | None = None
    queued_s: float = 0.0  # how long the choice waited for its first step


class Choice:
    """The text state of one choice. Outputs after its finish reason are ignored."""

    __slots__ = (
        "_detokenizer",
        "_parser",
        "_rules",
        "_stops",
        "finished",
        "index",
        "num_reasoning_tokens",
        "num_tokens",
    )

    def __init__(self, index: int, rules: TextRules, vocabulary: Vocabulary, random: Random | None = None) -> None:
        """`random`: of the ids of tool calls."""
        self.index = index
        self.num_tokens = 0  # of the answer, its stop token or stop string included
        self.num_reasoning_tokens = 0
        self.finished = False
        self._rules = rules
        self._detokenizer = IncrementalDetokenizer(
            vocabulary, skip_special=rules.skip_special, starts_text=rules.starts_text
        )
        self._stops = StopStringChecker(rules.stops, include=rules.include_stop)
        self._parser = OutputParser(rules.parse, random) if rules.parse is not None else None

    def push(self, chunk: RequestOutput) -> ChoiceDelta:
        """The delta of an output. Tokens behind a stop string are dropped."""
        tokens = chunk.tokens
        ends_in_token = chunk.finish_reason == "stop" and bool(tokens) and tokens[-1] in self._rules.stop_ids
        num_shown = len(tokens) - (ends_in_token and not self._rules.include_stop)
        reason = FINISH_REASONS[chunk.finish_reason] if chunk.finish_reason is not None else None
        delta = ChoiceDelta(self.index, chunk, MessageDelta(), (), finish_reason=reason)
        delta.prompt_logprobs, delta.queued_s = chunk.prompt_logprobs, chunk.queued_s
        for position, token in enumerate(tokens):
            self._push_token(delta, chunk, position, token if position < num_shown else None)
            if self._stops.matched is not None:
                delta.finish_reason, delta.stop_reason = "stop", self._stops.matched
                delta.ended_here = chunk.finish_reason is None
                break
        if delta.finish_reason is not None:
            self._finish(delta, tokens[-1] if ends_in_token else None)
        return delta

    def _push_token(self, delta: ChoiceDelta, chunk: RequestOutput, position: int, shown: int | None) -> None:
        """Adds one token. `shown`: the token whose text is added; None for a stop token that is not part of it."""
        self.num_tokens += 1
        parser = self._parser
        was_reasoning, was_hidden = (parser.is_reasoning, parser.is_hidden) if parser is not None else (False, False)
        if shown is not None:
            self._add(delta.message, self._text(shown))
        if parser is not None and was_reasoning and parser.is_reasoning:
            self.num_reasoning_tokens += 1
        if was_hidden:  # hidden reasoning has no token ids either
            return
        delta.tokens += chunk.tokens[position : position + 1]
        if chunk.logprobs:
            delta.logprobs += chunk.logprobs[position : position + 1]

    def _text(self, token: int) -> str:
        text = self._detokenizer.push((token,))
        if not text:
            return ""
        return text if self.num_tokens <= self._rules.min_tokens else self._stops.push(text)

    def _add(self, message: MessageDelta, text: str) -> None:
        if self._parser is None:
            message.content += text
        elif text:
            message.add(self._parser.push(text))

    def _finish(self, delta: ChoiceDelta, stop_token: int | None) -> None:
        self.finished = True
        if self._stops.matched is None:
            self._add(delta.message, self._stops.push(self._detokenizer.flush()))
        if self._stops.matched is None:
            self._add(delta.message, self._stops.flush())
            if stop_token in self._rules.reported_stop_ids:
                delta.stop_reason = stop_token
        if self._parser is not None:
            delta.message.add(self._parser.flush())
            if delta.finish_reason == "stop" and self._parser.calls_tools:
                delta.finish_reason = "tool_calls"
