from hypothesis import example, given, settings
from hypothesis import strategies as st

from serve_app.text.stop_strings import StopStringChecker


def run(stops, pieces, include=False):
    finder = StopStringChecker(stops, include=include)
    out = [finder.push(piece) for piece in pieces]
    return out + ([finder.flush()] if finder.matched is None else []), finder.matched


def oracle(stops, text):
    """(where the first stop string begins, which it is): the one that ends first, of those the longest."""
    ends = [(text.find(stop) + len(stop), -len(stop), stop) for stop in stops if stop in text]
    if not ends:
        return len(text), None
    end, _, stop = min(ends)
    return end - len(stop), stop


def cut(text, cuts):
    bounds = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[start:stop] for start, stop in zip(bounds, bounds[1:], strict=False)]


letters = st.text("abc", max_size=30)


@settings(max_examples=500, deadline=None)
@given(
    text=letters, stops=st.lists(st.text("abc", min_size=1, max_size=6), max_size=4), cuts=st.lists(st.integers(0, 30))
)
@example(text="aabaabaaab", stops=["aaab"], cuts=[1, 2, 3, 4, 5, 6, 7, 8, 9])
@example(text="xabc", stops=["abc", "b"], cuts=[])
def test_text_ends_where_the_first_stop_string_begins_however_it_is_cut(text, stops, cuts):
    begin, stop = oracle(stops, text)
    out, matched = run(stops, cut(text, cuts))
    assert "".join(out) == text[:begin]
    assert matched == stop
    out, matched = run(stops, cut(text, cuts), include=True)
    assert "".join(out) == text[: begin + len(stop or "")]


@settings(max_examples=200, deadline=None)
@given(text=letters, stop=st.text("abc", min_size=1, max_size=6))
def test_no_more_is_held_back_than_may_begin_a_stop_string(text, stop):
    finder = StopStringChecker([stop])
    said = ""
    for position, char in enumerate(text):
        said += finder.push(char)
        if finder.matched:
            break
        held = text[len(said) : position + 1]
        assert stop.startswith(held)


def test_a_stop_string_over_three_pieces_never_shows():
    assert run(["\nUser:"], ["Hi\n", "Us", "er: bye"]) == (["Hi", "", ""], "\nUser:")


def test_what_only_looked_like_a_stop_string_is_flushed():
    assert run(["\nUser:"], ["Hi\nUse"]) == (["Hi", "\nUse"], None)


def test_nothing_comes_after_a_match():
    finder = StopStringChecker(["x"])
    assert [finder.push("axb"), finder.push("c"), finder.matched] == ["a", "", "x"]
