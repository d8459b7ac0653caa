"""Questions of a newcomer: grepping a word over the sources finds the file that answers.

A file is found by its first docstring line: that is what stands beside its name in a listing, and what an editor shows.
Among the files whose first line has the word, the one that answers comes first by how often it uses the word.
"""

import ast
import re
from pathlib import Path

import pytest

from tests.readme import ROOT

PACKAGES = ("serve_app", "cluster", "engine", "kernels", "configs", "scripts/manta")

# question -> the words to grep for, and the file that answers
QUESTIONS = {
    "Where is the next step scheduled?": ("continuous batching", "engine/scheduling/scheduler.py"),
    "Where are blocks evicted?": ("eviction", "engine/cache/block_pool.py"),
    "Where are equal prefixes found?": ("^the prefix cache", "engine/cache/prefix_cache.py"),
    "Where are draft tokens proposed?": ("speculative decoding", "engine/scheduling/ngram_proposer.py"),
    "Where would I add a sampler option?": ("^the sampler", "engine/sampling/sampler.py"),
    "Where is a grammar turned into a mask?": ("grammar masks", "engine/structured_output/grammar.py"),
    "What happens when a replica dies?": ("migrat", "cluster/client.py"),
    "How is a replica chosen?": ("routing policies", "cluster/routing.py"),
    "Where is a tool call parsed?": ("tool-call parser", "serve_app/tools/tool_call_parser.py"),
    "Where does reasoning end and the answer begin?": ("reasoning parser", "serve_app/text/reasoning_parser.py"),
    "Where does a stop string end an answer?": ("stop.string", "serve_app/text/stop_strings.py"),
    "Which HTTP status does an error get?": (
        "errors? (mapping|table|to HTTP)|HTTP status",
        "serve_app/transport/errors.py",
    ),
    "What can I set, in which unit?": ("configuration schema", "configs/schema.py"),
    "Which C or Triton kernel is used?": ("chooses kernels", "kernels/kernel_set.py"),
    "What does Ray read from its environment?": ("environment", "scripts/manta/ray_environment.py"),
}


def first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


def found_by(words: str) -> list[str]:
    """Files whose first docstring line has the words, those that use them most first."""
    pattern = re.compile(words, re.IGNORECASE)
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if path.name != "__init__.py"]
    fitting = [path for path in files if pattern.search(first_line(path))]
    ranked = sorted(fitting, key=lambda path: (-len(pattern.findall(path.read_text())), path))
    return [str(path.relative_to(ROOT)) for path in ranked]


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_word_of_the_field_leads_to_the_file_that_answers(question: str) -> None:
    words, file = QUESTIONS[question]
    found = found_by(words)
    assert found[:1] == [file], found
