"""Translates ECMA-262 regular expressions, JSON Schema's dialect, to the syntax of Rust's regex engine.

Clients write other dialects too: equivalent syntax of Python, Perl and .NET is translated as well. Rust's engine
compiles every result, but for its size limits.
"""

import re
from functools import lru_cache
from typing import NamedTuple

__all__ = ["PatternFault", "to_rust_regex", "look_aheads"]

LITERAL = set(r"\.+*?()|[]{}^$#&-~/")  # characters to escape
CLASSES = {*"dDwWsS"}
CONTROLS = {"n": r"\n", "r": r"\r", "t": r"\t", "f": r"\x0C", "v": r"\x0B", "a": r"\x07", "e": r"\x1B"}
ANCHORS = {"A": "^", "Z": "$", "z": "$"}
CATEGORIES = {
    *("L", "Lu", "Ll", "Lt", "LC", "Lm", "Lo", "M", "Mn", "Mc", "Me", "N", "Nd", "Nl", "No"),
    *("P", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "S", "Sm", "Sc", "Sk", "So", "Z", "Zs", "Zl", "Zp"),
    *("C", "Cc", "Cf", "Co", "Cn"),
    *("Letter", "Uppercase_Letter", "Lowercase_Letter", "Mark", "Number", "Decimal_Number", "Punctuation", "Symbol"),
    *("Separator", "Other", "Alphabetic", "Uppercase", "Lowercase", "White_Space", "Emoji", "ASCII", "Any"),
    *("Emoji_Presentation", "Extended_Pictographic", "ID_Start", "ID_Continue"),
}
SCRIPTS = {
    *("Latin", "Greek", "Cyrillic", "Armenian", "Hebrew", "Arabic", "Devanagari", "Bengali", "Thai", "Georgian"),
    *("Hangul", "Hiragana", "Katakana", "Han", "Tamil", "Telugu", "Ethiopic", "Khmer", "Mongolian", "Common"),
}
MAX_DEPTH = 100
MAX_PATTERN = 10_000  # characters
MAX_LOOKING = 1_000  # characters of a pattern with look-ahead
LOOK_AHEADS = ("(?=", "(?!")
TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL)
QUANTIFIER = re.compile(r"[*+?]|\{(\d+)(,(\d*))?\}")
PROPERTY = re.compile(r"\{\^?(?:(?:gc|General_Category|sc|Script|scx|Script_Extensions)=)?(\w+)\}")
GROUP = re.compile(r"\?(?::|P?<([A-Za-z_]\w*)>|([ims]+)(:|\)))")
POSIX = re.compile(r"\[:\^?(?:alnum|alpha|ascii|blank|cntrl|digit|graph|lower|print|punct|space|upper|word|xdigit):\]")


class PatternFault(ValueError):
    """The pattern is invalid or unsupported; the message says what."""

    is_invalid = False  # True: a pattern of no dialect


class _InvalidPattern(PatternFault):
    is_invalid = True


@lru_cache(1024)
def to_rust_regex(pattern: str) -> str:
    """An equivalent expression of Rust's dialect. Raises PatternFault."""
    if len(pattern) > MAX_PATTERN:
        raise PatternFault(f"more than {MAX_PATTERN} characters")
    reader = _Reader(pattern)
    found = reader.alternatives(0)
    if not reader.is_done:
        raise _InvalidPattern(f"a group is closed that is not open, at {reader.at + 1}")
    return found.text


class LookAheads(NamedTuple):
    """A pattern that begins with look-aheads, as expressions of whole texts: required ones and forbidden ones."""

    needed: tuple[str, ...]
    forbidden: tuple[str, ...]


def look_aheads(pattern: str) -> LookAheads | None:
    """The look-aheads of a pattern that begins with some, else None. Raises PatternFault."""
    if not pattern.startswith(tuple(f"^{opens}" for opens in LOOK_AHEADS)):
        return None
    if len(pattern) > MAX_LOOKING:
        raise PatternFault(f"look-around is not supported in more than {MAX_LOOKING} characters")
    needed: list[str] = []
    forbidden: list[str] = []
    at = 1
    while (opens := pattern[at : at + 3]) in LOOK_AHEADS:
        end = _end_of_group(pattern, at)
        (needed if opens == "(?=" else forbidden).append("|".join(_whole(pattern[at + 3 : end])))
        at = end + 1
    rest = _whole(pattern[at:])
    if len(rest) > 1:
        raise PatternFault("look-around is not supported within alternatives")
    return LookAheads((*needed, *rest), tuple(forbidden))


def _whole(pattern: str) -> list[str]:
    """Expressions of the whole texts in which a pattern's alternatives match at the beginning."""
    reader = _Reader(pattern, in_ascii=True)
    ways = reader.whole()
    if not reader.is_done:
        raise _InvalidPattern(f"a group is closed that is not open, at {reader.at + 1}")
    return ways


def _end_of_group(pattern: str, at: int) -> int:
    """The end of the group that opens at `at`."""
    depth = 0
    for token in TOKEN.finditer(pattern, at):
        depth += {"(": 1, ")": -1}.get(token[0], 0)
        if depth == 0:
            return token.start()
    raise _InvalidPattern(f"unclosed group, opened at {at + 1}")


class _Piece(NamedTuple):
    text: str
    begins: bool = False  # holds ^
    ends: bool = False  # holds $


class _Reader:
    def __init__(self, text: str, *, in_ascii: bool = False) -> None:
        """in_ascii   \\d and \\w are written as ASCII classes, for an engine in which they are Unicode's"""
        self._text = text
        self._in_ascii = in_ascii
        self.at = 0

    @property
    def is_done(self) -> bool:
        return self.at == len(self._text)

    def alternatives(self, depth: int) -> _Piece:
        if depth > MAX_DEPTH:
            raise PatternFault(f"more than {MAX_DEPTH} groups in each other")
        ways = [self._sequence(depth)]
        while self._next == "|":
            self._take()
            ways.append(self._sequence(depth))
        text = "|".join(way.text for way in ways)
        return _Piece(text, any(way.begins for way in ways), any(way.ends for way in ways))

    def whole(self) -> list[str]:
        """Each alternative as an expression of whole texts that begin with it, or equal it if it ends with $."""
        ways = [self._whole_way()]
        while self._next == "|":
            self._take()
            ways.append(self._whole_way())
        return ways

    def _whole_way(self) -> str:
        pieces = self._pieces(0)
        while pieces and pieces[0].text == "^":
            del pieces[0]
        is_all = bool(pieces) and pieces[-1].text == "$"
        while pieces and pieces[-1].text == "$":
            del pieces[-1]
        if any(piece.begins or piece.ends for piece in pieces):
            raise PatternFault("look-around is not supported beside ^ and $ within groups")
        text = "".join(piece.text for piece in pieces)
        return text if is_all else f"{text}(?s:.)*"

    def _sequence(self, depth: int) -> _Piece:
        pieces = self._pieces(depth)
        text = "".join(piece.text for piece in pieces)
        return _Piece(text, any(one.begins for one in pieces), any(one.ends for one in pieces))

    def _pieces(self, depth: int) -> list[_Piece]:
        pieces: list[_Piece] = []
        while self._next not in ("", "|", ")"):
            piece = self._atom(depth)
            count = self._quantifier(piece)
            pieces.append(piece._replace(text=piece.text + count))
        _check_anchors([(piece.begins, piece.text == "^") for piece in pieces])
        _check_anchors([(piece.ends, piece.text == "$") for piece in reversed(pieces)])
        return pieces

    @property
    def _next(self) -> str:
        return self._text[self.at : self.at + 1]

    def _take(self, size: int = 1) -> str:
        taken = self._text[self.at : self.at + size]
        self.at += size
        return taken

    def _atom(self, depth: int) -> _Piece:
        char = self._take()
        match char:
            case "(":
                return self._group(depth)
            case "[":
                return _Piece(self._class())
            case "\\":
                text = self._escape(in_class=False)
                return _Piece(text, text == "^", text == "$")
            case "*" | "+" | "?":
                raise _InvalidPattern(f"{char} has nothing to repeat, at {self.at}")
            case "^" | "$" | ".":
                return _Piece(char, char == "^", char == "$")
            case "{" if QUANTIFIER.match(self._text, self.at - 1):
                raise _InvalidPattern(f"{{ has nothing to repeat, at {self.at}")
        return _Piece(_literal(char))

    def _quantifier(self, piece: _Piece) -> str:
        found = QUANTIFIER.match(self._text, self.at)
        if found is None:
            return ""
        if piece.begins or piece.ends or not piece.text:
            raise PatternFault(f"{found[0]} has nothing to repeat, at {self.at + 1}")
        least, most = found[1], found[3]
        if max(len(least or ""), len(most or "")) > 6:
            raise PatternFault(f"{found[0]} counts too far")
        if least and most and int(least) > int(most):
            raise _InvalidPattern(f"{found[0]} counts downwards")
        self._take(len(found[0]))
        if self._next == "?":  # lazy: matches the same texts
            self._take()
        elif self._next == "+":
            raise PatternFault("possessive repetition")
        return found[0]

    def _group(self, depth: int) -> _Piece:
        start = self.at
        if self._text.startswith("?#", self.at):
            end = self._text.find(")", self.at)
            if end < 0:
                raise _InvalidPattern(f"unclosed group, opened at {start}")
            self.at = end + 1
            return _Piece("")
        opens = "("
        if self._next == "?":
            found = GROUP.match(self._text, self.at)
            if found is None:
                raise PatternFault(_unknown_group(self._text[self.at : self.at + 3]))
            self._take(len(found[0]))
            if found[3] == ")":
                return _Piece(f"(?{found[2]})")
            opens = f"(?{found[2]}:" if found[2] else "(?:"
        inner = self.alternatives(depth + 1)
        if self._take() != ")":
            raise _InvalidPattern(f"unclosed group, opened at {start}")
        return inner._replace(text=f"{opens}{inner.text})")

    def _class(self) -> str:
        start = self.at
        negated = self._next == "^" and bool(self._take())
        if self._next == "]":
            self._take()
            if not negated:
                raise PatternFault("[] matches nothing")
            return r"[\s\S]"
        pieces, previous = [], ""
        while self._next != "]":
            if self.is_done:
                raise _InvalidPattern(f"unclosed class, opened at {start}")
            if posix := POSIX.match(self._text, self.at):
                pieces.append(self._take(len(posix[0])))
                continue
            if self._next == "-" and previous and self._text[self.at + 1 : self.at + 2] not in ("]", ""):
                self._take()
                following = self._member()
                if _code(previous) is None or _code(following) is None:  # a class cannot bound a range
                    pieces += [r"\-", following]
                elif _known(previous) > _known(following):
                    raise _InvalidPattern(f"a range is out of order, at {self.at}")
                else:
                    pieces += ["-", following]
                previous = ""
                continue
            previous = self._member()
            pieces.append(previous)
        self._take()
        return f"[{'^' if negated else ''}{''.join(pieces)}]"

    def _member(self) -> str:
        char = self._take()
        return self._escape(in_class=True) if char == "\\" else _literal(char)

    def _escape(self, *, in_class: bool) -> str:
        char = self._take()
        if char == "":
            raise _InvalidPattern("ends with a backslash")
        if char in CLASSES:
            return self._known_class(char, in_class=in_class)
        if char in CONTROLS:
            return CONTROLS[char]
        if char == "b" and in_class:
            return r"\x08"
        if char in "bB":
            raise PatternFault(rf"word boundaries (\{char})")
        if char in ANCHORS and not in_class:
            return ANCHORS[char]
        if char in "xucpP0123456789k":
            return self._coded(char, in_class=in_class)
        if char.isascii() and char.isalpha():
            raise PatternFault(rf"an unknown escape, \{char}")
        return _literal(char)

    def _known_class(self, char: str, *, in_class: bool) -> str:
        if not self._in_ascii or char in "sS":
            return f"\\{char}"
        inner = "0-9" if char in "dD" else "0-9A-Za-z_"
        if in_class and char in "DW":
            raise PatternFault(rf"look-around is not supported beside \{char} in a class")
        return inner if in_class else f"[{'^' if char in 'DW' else ''}{inner}]"

    def _coded(self, kind: str, *, in_class: bool) -> str:
        if kind == "0" and not self._next.isdigit():
            return r"\x00"
        if kind in "0123456789k":
            raise PatternFault(rf"references to groups (\{kind})")
        if kind in "pP":
            return self._property(kind)
        if kind == "c":
            letter = self._take()
            if not (letter.isascii() and letter.isalpha()):
                raise PatternFault(r"\c without a letter")
            return rf"\x{ord(letter) % 32:02X}"
        return _coded_char(self._code(kind))

    def _property(self, kind: str) -> str:
        if self._next in CATEGORIES:
            return f"\\{kind}{self._take()}"
        found = PROPERTY.match(self._text, self.at)
        if found is None or found[1] not in CATEGORIES | SCRIPTS:
            raise PatternFault(rf"an unknown property of characters, \{kind}{self._text[self.at : self.at + 20]}")
        self._take(len(found[0]))
        negated = (kind == "P") != found[0].startswith("{^")
        return rf"\{'P' if negated else 'p'}{{{found[1]}}}"

    def _code(self, kind: str) -> int:
        found = re.compile(r"[0-9A-Fa-f]{2}" if kind == "x" else r"[0-9A-Fa-f]{4}").match(self._text, self.at)
        if found is not None:
            code = int(self._take(len(found[0])), 16)
            low = re.compile(r"\\u([Dd][C-Fc-f][0-9A-Fa-f]{2})").match(self._text, self.at)
            if 0xD800 <= code < 0xDC00 and low is not None:
                self._take(6)
                code = 0x10000 + (code - 0xD800 << 10) + int(low[1], 16) - 0xDC00
        elif found := re.compile(r"\{([0-9A-Fa-f]{1,6})\}").match(self._text, self.at):
            code = int(self._take(len(found[0]))[1:-1], 16)
        else:
            raise PatternFault(rf"\{kind} without a character's number")
        if 0xD800 <= code < 0xE000 or code > 0x10FFFF:
            raise PatternFault("half a surrogate pair, or no character")
        return code


def _check_anchors(pieces: list[tuple[bool, bool]]) -> None:
    """Anchors may only follow on others of their kind: ^ at the beginning, $ at the end."""
    is_within = False
    for holds, is_anchor in pieces:
        if holds and is_within:
            raise PatternFault("look-around is not supported, nor ^ and $ in the middle")
        is_within = is_within or not is_anchor


def _unknown_group(opens: str) -> str:
    if opens.startswith(("?=", "?!", "?<=", "?<!")):
        return "look-around is not supported"
    return f"an unknown kind of group, ({opens}"


def _literal(char: str) -> str:
    if char in "\n\r\t":
        return {"\n": r"\n", "\r": r"\r", "\t": r"\t"}[char]
    return f"\\{char}" if char in LITERAL else char


def _coded_char(code: int) -> str:
    return _literal(chr(code)) if 32 <= code < 127 else rf"\x{{{code:X}}}"


def _known(member: str) -> int:
    code = _code(member)
    assert code is not None
    return code


def _code(member: str) -> int | None:
    """The code point of a class member; None for one that means several."""
    if len(member) == 1:
        return ord(member)
    if len(member) > 2 and "-" in member:
        return None
    if member.startswith(r"\x"):
        return int(member[2:].strip("{}"), 16)
    controls = {r"\n": 10, r"\r": 13, r"\t": 9}
    if member in controls:
        return controls[member]
    return ord(member[1]) if len(member) == 2 and not member[1].isalnum() else None
