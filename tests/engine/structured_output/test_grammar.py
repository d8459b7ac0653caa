"""Masks against a brute-force oracle: a token is allowed where its bytes can continue to something that matches."""

import random
import re

import numpy as np
import pytest
from llguidance import LLMatcher

from engine.structured_output.grammar import GrammarError, Matcher, TokenTable, Vocabulary
from engine.types import Fit, Grammar

END = 0
TOKENS = (
    b"<end>",
    b"a",
    b"b",
    b"ab",
    b"ba",
    b"abb",
    b"1",
    b"12",
    b"",
    b"{",
    b"}",
    b'"',
    b":",
    b",",
    b" ",
    b"\n",
    b'{"',
)
VOCAB_SIZE = 40  # more rows of logits than tokens, as real models have


@pytest.fixture(scope="module")
def table() -> TokenTable:
    return TokenTable(Vocabulary(TOKENS, special_ids=(END,), end_ids=(END,)), VOCAB_SIZE)


def allowed(matcher: Matcher) -> set[int]:
    bits = np.empty(-(-VOCAB_SIZE // 32), dtype=np.int32)
    matcher.fill(bits)
    return {token for token in range(VOCAB_SIZE) if bits[token // 32] >> (token % 32) & 1}


def regex(pattern: str) -> Grammar:
    return Grammar(LLMatcher.grammar_from_regex(pattern))


def test_masks_follow_a_regular_expression_exactly(table: TokenTable) -> None:
    # oracle: all texts of the language up to 6 letters, cut into prefixes
    pattern = "(ab|ba)+b?"
    language = [text for n in range(7) for text in map("".join, _words("ab", n)) if re.fullmatch(pattern, text)]
    prefixes = {text[:n] for text in language for n in range(len(text) + 1)}
    rng = random.Random(0)
    for _ in range(30):
        matcher, text = table.matcher(regex(pattern)), ""
        while len(text) <= 3:
            legal = allowed(matcher)
            expected = {
                id for id, token in enumerate(TOKENS) if token and id != END and text + token.decode() in prefixes
            }
            assert legal - {END} == expected
            assert (END in legal) == (text in language)
            token = rng.choice(sorted(legal - {END}))
            matcher.consume(token)
            text += TOKENS[token].decode()


def _words(letters: str, length: int) -> list[list[str]]:
    return [[]] if length == 0 else [[letter, *rest] for letter in letters for rest in _words(letters, length - 1)]


def test_a_matcher_that_starts_with_old_tokens_is_where_the_other_was(table: TokenTable) -> None:
    grammar = Grammar(LLMatcher.grammar_from_json_schema({"type": "object", "properties": {"a": {"type": "integer"}}}))
    one, output = table.matcher(grammar), []
    for token in (16, 1, 11, 12, 6):  # {" a " : 1
        assert token in allowed(one)
        one.consume(token)
        output.append(token)
        assert allowed(table.matcher(grammar, output)) == allowed(one)


def test_the_grammar_begins_after_the_thinking(table: TokenTable) -> None:
    grammar = Grammar(regex("12").text, begins_after=(3, 4))
    matcher = table.matcher(grammar)
    everything = set(range(VOCAB_SIZE)) - {END}  # it does not end in its thinking
    for token in (1, 3, 3):
        assert allowed(matcher) >= everything
        matcher.consume(token)
    matcher.consume(4)
    assert allowed(matcher) == {7}  # forced text is written in one way
    assert allowed(table.matcher(grammar, [1, 3, 4, 7])) == {END}


def test_an_answer_thinks_first_or_follows_the_grammar_at_once(table: TokenTable) -> None:
    grammar = Grammar(regex("12").text, begins_after=(2,), opens=(1,))
    assert allowed(table.matcher(grammar)) == {1, 7}
    assert allowed(table.matcher(grammar, [7])) == {END}
    going_on = {4, 5}  # a token in which the thinking ends ends with it
    assert allowed(table.matcher(grammar, [1])) == set(range(VOCAB_SIZE)) - {END} - going_on
    assert allowed(table.matcher(grammar, [1, 7, 9, 1, 2])) == {7}
    with pytest.raises(GrammarError):
        table.matcher(grammar, [9])


@pytest.mark.parametrize("ends", [(3, 4), (1, 1, 2), (4, 3, 1), (6,)])
def test_the_thinking_ends_with_its_text_however_it_is_cut_into_tokens(
    table: TokenTable, ends: tuple[int, ...]
) -> None:
    marker = b"".join(TOKENS[token] for token in ends)
    grammar = Grammar(regex("12").text, begins_after=ends)
    for seed in range(60):
        rng = random.Random(seed)
        matcher, said = table.matcher(grammar), b""
        while marker not in said and len(said) < 40:
            whole = {id for id, token in enumerate(TOKENS) if not (said + token).partition(marker)[2]}
            assert allowed(matcher) == {*whole, *range(len(TOKENS), VOCAB_SIZE)} - {END}
            token = rng.choice(sorted(whole & {1, 2, 3, 4, 5, 6, 7}))
            matcher.consume(token)
            said += TOKENS[token]
        assert marker not in said or allowed(matcher) == {7}


def test_a_marker_that_begins_like_the_grammar_is_told_from_it(table: TokenTable) -> None:
    grammar = Grammar(regex("ab*1").text, begins_after=(2,), opens=(1, 4))  # a, ba
    assert allowed(table.matcher(grammar)) == {1, 3, 5}
    assert allowed(table.matcher(grammar, [1])) == {2, 6, 4}
    assert allowed(table.matcher(grammar, [1, 2])) == {2, 6}
    assert END not in allowed(table.matcher(grammar, [1, 4]))
    assert allowed(table.matcher(grammar, [1, 4, 2])) == {1, 3, 5}
    apart = Grammar(regex("12").text, begins_after=(2,), opens=(1, 4))
    assert allowed(table.matcher(apart, [1])) == {4}


def test_blanks_may_come_before_the_thinking_where_the_grammar_lets_them(table: TokenTable) -> None:
    grammar = Grammar(regex(" *12").text, begins_after=(2,), opens=(1,))
    assert allowed(table.matcher(grammar, [14])) == {1, 6, 7, 14}
    assert allowed(table.matcher(grammar, [14, 14, 1, 2])) == {6, 7, 14}
    assert allowed(table.matcher(grammar, [14, 7])) == {END}


def test_an_answer_that_may_be_empty_may_end_in_its_thinking(table: TokenTable) -> None:
    grammar = Grammar(regex("(12)?").text, begins_after=(2,), opens=(1,))
    assert END in allowed(table.matcher(grammar, [1, 9])) & allowed(table.matcher(grammar))


@pytest.mark.parametrize("opens", [(), (9,), (9, 1)])
@pytest.mark.parametrize("ends", [(3,), (3, 4, 3)])
def test_thinking_or_not_an_answer_fits(table: TokenTable, opens: tuple[int, ...], ends: tuple[int, ...]) -> None:
    pattern = "a(ab|ba)*1"
    num_thinking = 0
    for seed in range(60):
        rng = random.Random(seed)
        budget = rng.randint(3 if opens else 3 + len(ends), 16)
        grammar = Grammar(regex(pattern).text, ends, Fit(budget), opens)
        matcher, output = table.matcher(grammar), list[int]()
        while not output or output[-1] != END:
            token = matcher.enforce_output_budget(rng.choice(sorted(allowed(matcher) & set(range(17)))))
            matcher.consume(token)
            output.append(token)
            assert allowed(table.matcher(grammar, output)) == allowed(matcher)
        assert len(output) <= budget
        thinks = tuple(output[: len(opens)]) == opens
        num_thinking += thinks
        text = b"".join(TOKENS[token] for token in output[len(opens) if thinks else 0 : -1])
        if thinks:
            text = text.partition(b"".join(TOKENS[token] for token in ends))[2]
        assert re.fullmatch(pattern, text.decode())
    assert num_thinking > 5


@pytest.mark.parametrize(
    "text",
    [
        "not a grammar",
        LLMatcher.grammar_from_regex("(unclosed"),
        LLMatcher.grammar_from_json_schema({"type": "nonsense"}),
        LLMatcher.grammar_from_json_schema({"$ref": "#/nowhere"}),
        LLMatcher.grammar_from_json_schema({"type": "integer", "minimum": 5, "maximum": 3}),
    ],
)
def test_what_does_not_compile_is_an_error(table: TokenTable, text: str) -> None:
    with pytest.raises(GrammarError) as caught:
        table.check(text)
    assert str(caught.value)


def test_a_grammar_seen_before_starts_anew(table: TokenTable) -> None:
    grammar = regex("ab*")
    first = table.matcher(grammar)
    first.consume(1)
    assert allowed(table.matcher(grammar)) == {1, 3, 5}
    assert allowed(first) == {0, 2}


def test_a_token_that_was_not_allowed_is_an_error(table: TokenTable) -> None:
    matcher = table.matcher(regex("a"))
    with pytest.raises(GrammarError):
        matcher.consume(2)
