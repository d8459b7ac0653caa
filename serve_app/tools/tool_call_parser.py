"""Tool-call parser: finds the calls in a streamed answer, and returns them as tool-call deltas."""

import string
from collections.abc import Callable, Mapping
from random import Random, SystemRandom
from typing import Any, Literal

from serve_app.text.markers import could_begin, split_at_marker
from serve_app.text.message_delta import MessageDelta, ToolCallDelta
from serve_app.tools.field_calls import FieldReader, PythonFields, QuotedReader, TaggedReader
from serve_app.tools.json_call import CallObject, JsonValue
from serve_app.tools.tool_call_format import QuotedFields, TaggedFields, ToolCallFormat

__all__ = ["ToolCallParser"]

MAX_NAME_CHARS = 1024  # a longer text is no name


class ToolCallParser:
    """The calls of one answer, the same for any split of its text.

    text ---opening marker---> between calls ---brace---> object ---its end---> between calls
      ^                           |    ^  \\---name------> name, separator, arguments --^
      \\------anything else--------/    \\----closing marker, opening marker

    Text that opens like a call but is none (no name, an unknown tool) is content: nothing is lost.

    tools      the schema of each tool's arguments
    max_calls  further calls are dropped
    """

    def __init__(
        self,
        format_: ToolCallFormat,
        tools: Mapping[str, Any],
        max_calls: int | None = None,
        random: Random | None = None,
    ) -> None:
        self._format = format_
        self._tools = tools
        self._max_calls = max_calls
        self._random = random or SystemRandom()
        self._buffer = ""  # unconsumed text, which may begin a marker
        self._raw = ""  # text since the opening of a possible call
        self._opened = False  # an opening marker came, and no call yet
        self._begun = False  # some text was returned
        self._state: Callable[[MessageDelta], bool] = self._in_text
        self._call: CallObject | None = None
        self._arguments: JsonValue | None = None
        self._fields: FieldReader | None = None
        self._in_list = False  # behind a call of a list: the next one needs no opening marker
        self._early = ""  # arguments before the name
        self._named = False  # the current call's name was returned
        self.num_calls = 0

    @property
    def is_complete(self) -> bool:
        """Whether there are calls, and all are complete."""
        return self.num_calls > 0 and not self._named

    def push(self, text: str) -> MessageDelta:
        self._buffer += text
        delta = MessageDelta()
        while self._buffer and self._state(delta):
            pass
        return delta

    def flush(self) -> MessageDelta:
        """Ends the answer. A call without a name so far is content."""
        is_rest_of_call = self._state == self._in_between and not self._opened
        delta = MessageDelta() if is_rest_of_call else MessageDelta(content=self._raw + self._buffer)
        self._raw = self._buffer = ""
        return delta

    # Each state consumes what it can of self._buffer, and returns False when it needs more.

    def _in_text(self, delta: MessageDelta) -> bool:
        if not self._begun:
            seen = self._buffer.lstrip()
            if self._format.bare and seen.startswith(self._format.bare):
                self._raw, self._buffer = self._buffer[: len(self._buffer) - len(seen)], seen
                self._opened = self._format.lists
                return self._enter(self._in_between)
        before, marker, rest = split_at_marker(self._buffer, self._format.opens)
        is_blank = not self._begun and not before.strip()  # blanks before the first call are dropped
        if marker is None and is_blank:
            return False
        self._buffer = rest
        if not is_blank:
            delta.content += before
            self._begun = True
        if marker is None:
            return False
        self._raw = before + marker if is_blank else marker
        self._opened = True
        return self._enter(self._in_between)

    def _in_between(self, delta: MessageDelta) -> bool:
        markers = (*self._format.opens, *self._format.closes)
        for marker in sorted(markers, key=len, reverse=True):
            if self._buffer.startswith(marker):
                self._buffer = self._buffer[len(marker) :]
                return self._pass_marker(marker)
        if could_begin(self._buffer, markers):
            return False
        first = self._buffer[0]
        if first in self._format.between:
            self._raw += first
            self._buffer = self._buffer[1:]
            return True
        if first == "{":
            self._call = CallObject()
            self._raw += first
            self._buffer = self._buffer[1:]
            return self._enter(self._in_object)
        if self._format.separators and (self._opened or self._in_list):
            return self._enter(self._in_name)
        return self._back_to_text(delta)

    def _pass_marker(self, marker: str) -> bool:
        self._in_list = False
        if marker in self._format.opens:
            self._raw = self._raw + marker if self._opened else marker
            self._opened = True
        elif self._opened:  # an opening and a closing marker without a call
            self._raw += marker
        else:
            self._raw = ""
        return True

    def _in_object(self, delta: MessageDelta) -> bool:
        call = self._call
        assert call is not None
        pieces = []
        for position, char in enumerate(self._buffer):
            piece = call.step(char)
            if self._named:
                pieces.append(piece)
            else:
                self._raw += char
                self._early += piece
                if call.broken or (call.name is not None and call.name not in self._tools):
                    self._buffer = self._buffer[position + 1 :]
                    return self._back_to_text(delta)
                if call.name is not None:
                    self._announce(delta, call.name)
            if call.done or call.broken:
                self._add_arguments(delta, "".join(pieces))
                self._buffer = self._buffer[position + 1 :]
                return self._end_call()
        self._add_arguments(delta, "".join(pieces))
        self._buffer = ""
        return False

    def _in_name(self, delta: MessageDelta) -> bool:
        before, marker, rest = split_at_marker(self._buffer, self._format.separators)
        if marker is None:
            is_name = not self._format.lists or any(name.startswith(self._buffer.strip()) for name in self._tools)
            return False if is_name and len(self._buffer) <= MAX_NAME_CHARS else self._back_to_text(delta)
        name = before.partition("[CALL_ID]")[0].strip().removeprefix("functions.").removeprefix("call:")
        name = name.partition(":")[0]
        fields = self._format.arguments
        is_field = isinstance(fields, TaggedFields) and marker in (fields.key, fields.ends)
        self._raw += before if is_field else before + marker
        self._buffer = marker + rest if is_field else rest
        if name not in self._tools:
            return self._back_to_text(delta)
        self._announce(delta, name)
        if fields == "json":
            return self._enter(self._in_arguments)
        self._fields = _field_reader(fields, self._tools[name])
        return self._enter(self._in_fields)

    def _in_fields(self, delta: MessageDelta) -> bool:
        assert self._fields is not None
        piece, rest = self._fields.push(self._buffer)
        self._add_arguments(delta, piece)
        self._buffer = rest or ""
        return self._end_call() if rest is not None else False

    def _in_arguments(self, delta: MessageDelta) -> bool:
        if self._arguments is None:
            self._buffer = self._buffer.lstrip()
            if not self._buffer:
                return False
            if self._buffer[0] not in "{[":  # no arguments
                self._add_arguments(delta, "{}")
                return self._end_call()
            self._arguments = JsonValue(self._buffer[0])
            self._add_arguments(delta, self._buffer[0])
            self._buffer = self._buffer[1:]
        for position, char in enumerate(self._buffer):
            if self._arguments.step(char):
                self._add_arguments(delta, self._buffer[: position + 1])
                self._buffer = self._buffer[position + 1 :]
                return self._end_call()
        self._add_arguments(delta, self._buffer)
        self._buffer = ""
        return False

    def _announce(self, delta: MessageDelta, name: str) -> None:
        self._named = self._begun = True
        self._opened = False
        self._in_list = self._format.lists
        self.num_calls += 1
        if self._keeps:
            delta.tool_calls += (ToolCallDelta(self.num_calls - 1, "", self._new_id(), name, len(delta.content)),)
        self._add_arguments(delta, self._early)
        self._raw = self._early = ""

    def _add_arguments(self, delta: MessageDelta, arguments: str) -> None:
        if arguments and self._keeps:
            delta.tool_calls += (ToolCallDelta(self.num_calls - 1, arguments, after=len(delta.content)),)

    @property
    def _keeps(self) -> bool:
        return self._max_calls is None or self.num_calls <= self._max_calls

    def _end_call(self) -> bool:
        self._call = self._arguments = self._fields = None
        self._named = False
        self._early = ""
        return self._enter(self._in_between)

    def _back_to_text(self, delta: MessageDelta) -> bool:
        """Returns the text of a call that is none as content, and continues in text."""
        delta.content += self._raw
        self._raw = self._early = ""
        self._begun = True
        self._opened = self._in_list = False
        self._call = self._arguments = None
        return self._enter(self._in_text)

    def _enter(self, state: Callable[[MessageDelta], bool]) -> bool:
        self._state = state
        return True

    def _new_id(self) -> str:
        if self._format.short_ids:
            return "".join(self._random.choices(string.ascii_letters + string.digits, k=9))
        return f"call_{self._random.getrandbits(96):024x}"


def _field_reader(fields: Literal["python"] | TaggedFields | QuotedFields, schema: Any) -> FieldReader:
    if fields == "python":
        return PythonFields()
    return TaggedReader(fields, schema) if isinstance(fields, TaggedFields) else QuotedReader(fields, schema)
