"""Tokenizer of text that follows other text: sentencepiece's without the space that it adds before a text."""

import json
from typing import Any

from tokenizers import Tokenizer

__all__ = ["inner_tokenizer"]


def inner_tokenizer(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer itself if it adds no space."""
    steps = {"normalizer": tokenizer.normalizer, "pre_tokenizer": tokenizer.pre_tokenizer}
    states = {name: json.loads(step.__getstate__()) for name, step in steps.items() if step is not None}
    inner = {name: _without_space(state) for name, state in states.items()}
    if inner == states:
        return tokenizer
    return Tokenizer.from_str(json.dumps({**json.loads(tokenizer.to_str()), **inner}))


def _without_space(state: dict[str, Any]) -> dict[str, Any] | None:
    """A step, and those within it; None if it does nothing but add a space."""
    kind = state["type"]
    if kind == "Prepend":
        return None
    if kind == "Metaspace":
        return {**state, "prepend_scheme": "never"}
    if kind == "ByteLevel" and "add_prefix_space" in state:
        return {**state, "add_prefix_space": False}
    if kind == "Sequence":
        name = "normalizers" if "normalizers" in state else "pretokenizers"
        steps = [inner for step in state[name] if (inner := _without_space(step)) is not None]
        return {**state, name: steps}
    return state
