import pytest

from serve_app.text.reasoning_parser import REASONING_FORMATS, ReasoningParser, find_reasoning_format

THINK = REASONING_FORMATS["think"]


def parse(text_pieces, position="before", format_=THINK, **options):
    parser = ReasoningParser(format_, position, **options)
    said = [*(parser.push(piece) for piece in text_pieces), parser.flush()]
    return "".join(one.reasoning for one in said), "".join(one.content for one in said)


def cuts_of(text):
    yield [text]
    yield list(text)
    for cut in range(len(text)):
        yield [text[:cut], text[cut:]]


@pytest.mark.parametrize(
    ("text", "position", "reasoning", "content"),
    [
        ("<think>a < b</think>\n\nyes", "before", "a < b", "\n\nyes"),
        ("\n <think>\nhm\n</think>yes", "before", "\nhm\n", "yes"),
        ("hm</think>yes", "inside", "hm", "yes"),
        ("just so", "before", "", "just so"),
        ("<thinly veiled", "before", "", "<thinly veiled"),
        ("a <think>b</think>", "before", "", "a <think>b</think>"),
        ("<think>never ends", "before", "never ends", ""),
        ("<think>cut </thi", "before", "cut </thi", ""),
        ("<thi", "before", "", "<thi"),
        ("<think></think>x</think>", "before", "", "x</think>"),
        ("", "before", "", ""),
        ("x <think>", "after", "", "x <think>"),
    ],
)
def test_thinking_and_answer_are_told_apart_however_the_text_is_cut(text, position, reasoning, content):
    for pieces in cuts_of(text):
        assert parse(pieces, position) == (reasoning, content), pieces
        kept = parse(pieces, position, keeps_markers=True)
        assert kept[0] + kept[1] == text and kept[1] == content, pieces


def test_a_model_that_always_thinks_needs_no_opening_marker():
    format_ = REASONING_FORMATS["deepseek_r1"]
    for text in ("hm</think>yes", "<think>hm</think>yes"):
        for pieces in cuts_of(text):
            assert parse(pieces, format_.position_after("user: hi\n"), format_) == ("hm", "yes"), pieces


@pytest.mark.parametrize(
    ("prompt", "position"),
    [
        ("assistant\n", "before"),
        ("assistant\n<think>\n", "inside"),
        ("assistant\n<think>\n\n</think>\n\n", "after"),
        ("<think>old</think> user: more\nassistant\n<think>", "inside"),
        ("user: what is <think>?\nassistant\n", "before"),
    ],
)
def test_a_prompt_may_open_the_thinking(prompt, position):
    assert THINK.position_after(prompt) == position


def test_gemma_4_thinks_in_a_channel():
    format_, prompt = REASONING_FORMATS["gemma4"], "<|turn>user\nhi<turn|>\n<|turn>model\n"
    for text in ("<|channel>thought\nhm<channel|>yes", "\nhm<channel|>yes"):
        start = prompt if text.startswith("<|channel>") else prompt + "<|channel>thought"
        for pieces in cuts_of(text):
            assert parse(pieces, format_.position_after(start), format_) == ("\nhm", "yes"), pieces
    assert format_.position_after(prompt + "<|channel>thought\n<channel|>") == "after"


def test_the_format_is_found_in_the_template():
    assert find_reasoning_format("'</longcat_think>' in content") is REASONING_FORMATS["longcat"]
    assert find_reasoning_format("'<|channel>thought\n' + x + '<channel|>'") is REASONING_FORMATS["gemma4"]
    assert find_reasoning_format("... '</think>' in content ...") is THINK
    assert find_reasoning_format("... after 'Here is my response:' for each query ...") is REASONING_FORMATS["granite"]
    assert find_reasoning_format("... <seed:think> ... </seed:think> ...") is REASONING_FORMATS["seed_oss"]
    assert find_reasoning_format("<|START_THINKING|>{{ x }}<|END_THINKING|>") is REASONING_FORMATS["cohere_command3"]
    assert find_reasoning_format("{{ messages }}") is None
