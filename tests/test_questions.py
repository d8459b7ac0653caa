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
    "Where is the next step scheduled?": ("scheduler|next step", "engine/scheduling/scheduler.py"),
    "Who holds which KV block?": ("KV block", "engine/cache/block_pool.py"),
    "Where would I add a sampler option?": ("sampling fields", "serve_app/generation/sampling.py"),
    "Where is the next token sampled?": ("next tokens", "engine/sampling/sampler.py"),
    "What happens when a replica dies?": ("outlive|lost", "cluster/client.py"),
    "How is a replica chosen?": ("which replica", "cluster/routing.py"),
    "Where is a tool call parsed?": ("tool calls", "serve_app/tools/parser.py"),
    "Where does a stop string end an answer?": ("stop string", "serve_app/text/stops.py"),
    "Which HTTP status does an error get?": ("errors to HTTP", "serve_app/http/errors.py"),
    "What can I set, in which unit?": ("unit and its default", "configs/schema.py"),
    "Which C or Triton kernel is used?": ("kernels", "kernels/kernel_set.py"),
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
    assert file in found[:3], found
