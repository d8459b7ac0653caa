"""Structural tags: which texts they allow to the end, and which not."""

import string
from typing import Any

import numpy as np
import pytest

from engine.errors import RequestError
from engine.structured_output.grammar import GrammarError, TokenTable, Vocabulary
from engine.types import Grammar
from serve_app.grammar.structural_tag import structural_tag_grammar

TOKENS = (b"<end>", *(char.encode() for char in string.printable), b"</", b">{", b"}<", b"}</f>", b"<f>{")

NUMBER = {"type": "json_schema", "json_schema": {"type": "integer", "minimum": 0, "maximum": 99}}
ANY = {"type": "any_text"}
F = {"type": "tag", "begin": "<f>", "content": NUMBER, "end": "</f>"}
G = {"type": "tag", "begin": "<g>", "content": ANY, "end": ["</g>", "</G>"]}


def const(value: str) -> dict[str, Any]:
    return {"type": "const_string", "value": value}


def triggered(**more: Any) -> dict[str, Any]:
    tags = [{key: value for key, value in one.items() if key != "type"} for one in (F, G)]
    return {"type": "triggered_tags", "triggers": ["<f", "<g"], "tags": tags, **more}


def separated(**more: Any) -> dict[str, Any]:
    return {"type": "tags_with_separator", "tags": [F, G], "separator": ", ", **more}


FORMATS: list[tuple[dict[str, Any], list[str], list[str]]] = [
    (const("a b"), ["a b"], ["", "a", "a bc"]),
    (NUMBER, ["7", "42"], ["", "x", "100", "-1"]),
    ({"type": "regex", "pattern": "a/[bc]+"}, ["a/b", "a/cb"], ["a/", "b"]),
    ({"type": "grammar", "grammar": 'root ::= "x" root "y" | "z"'}, ["z", "xzy", "xxzyy"], ["xz", "xzyy"]),
    (ANY, ["", "anything", "<f>x"], []),
    ({"type": "sequence", "elements": [const("a"), NUMBER, const("!")]}, ["a3!"], ["a!", "3!", "a3"]),
    ({"type": "sequence", "elements": [const("a"), ANY]}, ["a", "a whatever"], ["b"]),
    ({"type": "or", "elements": [const("a"), F]}, ["a", "<f>1</f>"], ["b", "<f>a</f>", "a<f>1</f>"]),
    (F, ["<f>12</f>"], ["<f>12", "<f></f>", "x<f>1</f>"]),
    (G, ["<g></g>", "<g>a < b</G>"], ["<g>", "<g>a</g>b"]),
    ({**F, "content": {"type": "sequence", "elements": [const("n="), NUMBER]}}, ["<f>n=1</f>"], ["<f>1</f>"]),
    (
        {"type": "tag", "begin": "<o>", "content": triggered(), "end": "</o>"},
        ["<o></o>", "<o>text</o>", "<o>a<f>1</f>b<g>c</g></o>"],
        ["<o>a", "<o>a<f>x</f></o>", "<o><f>1</o>", "<o>a</o>b"],
    ),
    (
        triggered(),
        ["", "text", "<f>1</f>", "a<f>1</f>b<g>x</g> c", "a < b"],
        ["<f>x</f>", "a<f>1</f><f>", "a<f", "<fx>"],
    ),
    (triggered(at_least_one=True), ["<f>1</f>", "<g>x</g> and <f>2</f>"], ["", "text", "a<f>1</f>"]),
    (triggered(stop_after_first=True), ["text", "a<f>1</f>"], ["a<f>1</f>b", "<f>1</f><f>2</f>"]),
    (triggered(stop_after_first=True, at_least_one=True), ["<f>1</f>"], ["", "a<f>1</f>", "<f>1</f>b"]),
    (separated(), ["", "<f>1</f>", "<f>1</f>, <g>x</g>, <f>2</f>"], ["a", "<f>1</f> <f>2</f>", "<f>1</f>, "]),
    (separated(at_least_one=True), ["<f>1</f>"], ["", "<f>1</f>,"]),
    (separated(stop_after_first=True), ["", "<f>1</f>"], ["<f>1</f>, <f>2</f>"]),
]


@pytest.fixture(scope="module")
def table() -> TokenTable:
    return TokenTable(Vocabulary(TOKENS, special_ids=(0,), end_ids=(0,)), len(TOKENS))


def is_whole(table: TokenTable, grammar: str, text: str) -> bool:
    """Whether a model may write just this text, a character at a time, and end."""
    matcher = table.matcher(Grammar(grammar))
    try:
        for char in text.encode():
            matcher.consume(TOKENS.index(bytes([char])))
    except GrammarError:
        return False
    bits = np.empty(-(-len(TOKENS) // 32), dtype=np.int32)
    matcher.fill(bits)
    return bool(bits[0] & 1)


@pytest.mark.parametrize(("form", "whole", "others"), FORMATS)
def test_a_format_allows_its_texts_and_no_others(
    table: TokenTable, form: dict[str, Any], whole: list[str], others: list[str]
) -> None:
    grammar = structural_tag_grammar({"type": "structural_tag", "format": form}, "response_format")
    table.check(grammar)
    assert [text for text in whole if not is_whole(table, grammar, text)] == []
    assert [text for text in others if is_whole(table, grammar, text)] == []


def test_the_old_form_is_the_triggered_one(table: TokenTable) -> None:
    old = {"structures": [{"begin": "<f>", "schema": {"type": "integer"}, "end": "</f>"}], "triggers": ["<f"]}
    grammar = structural_tag_grammar(old, "response_format")
    assert is_whole(table, grammar, "a<f>12</f>b") and not is_whole(table, grammar, "a<f>x</f>")


@pytest.mark.parametrize(
    ("tag", "param"),
    [
        ({}, ""),
        ({"structures": [{"begin": "<f>"}]}, ".structures.0"),
        ({"structures": [{"begin": "<f>", "schema": {}}], "triggers": ["x"]}, ".structures.tags.0.begin"),
        ({"format": "x"}, ".format"),
        ({"format": {"type": "xml"}}, ".format.type"),
        ({"format": {"type": "const_string"}}, ".format.value"),
        ({"format": {"type": "sequence", "elements": []}}, ".format.elements"),
        ({"format": {"type": "sequence", "elements": [ANY, const("a")]}}, ".format.elements.0"),
        ({"format": {"type": "or", "elements": [const("a"), 3]}}, ".format.elements.1"),
        ({"format": {**F, "end": 3}}, ".format.end"),
        ({"format": {**F, "content": {"type": "regex"}}}, ".format.content.pattern"),
        ({"format": triggered(triggers=[""])}, ".format.triggers"),
        ({"format": triggered(triggers=["<x"])}, ".format.tags.0.begin"),
        ({"format": {"type": "grammar", "grammar": "root ::= ("}}, ".format.grammar"),
        ({"format": {"type": "json_schema", "json_schema": {"type": "x"}}}, ".format.json_schema"),
        ({"format": {"type": "tags_with_separator", "tags": [F]}}, ".format.separator"),
    ],
)
def test_a_wrong_tag_is_told_where_it_is_wrong(tag: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        structural_tag_grammar(tag, "response_format")
    assert caught.value.param == f"response_format{param}", str(caught.value)


def test_formats_in_each_other_have_a_limit() -> None:
    form: dict[str, Any] = const("a")
    for _ in range(100):
        form = {"type": "or", "elements": [form]}
    with pytest.raises(RequestError, match="formats in each other"):
        structural_tag_grammar({"format": form}, "response_format")
