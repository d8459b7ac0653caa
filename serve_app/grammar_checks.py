"""Is a grammar good, before an engine is asked to follow it? Compiles it once, off the event loop."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from hashlib import sha256

from engine.errors import RequestError
from engine.grammar import GrammarError, TokenTable, Vocabulary
from serve_app.generation import Prepared
from serve_app.text_model import TextModel

__all__ = ["GrammarChecks"]

MAX_KNOWN = 4096  # grammars remembered: 32 bytes each


class GrammarChecks:
    def __init__(self, models: Mapping[str, TextModel]) -> None:
        self._tables = {name: _table(model) for name, model in models.items()}
        self._good: OrderedDict[tuple[str, bytes], None] = OrderedDict()  # the last used last

    async def check(self, prepared: Prepared) -> None:
        """Raises RequestError that names the field if the request's grammar does not compile within the limits."""
        grammar, constraint = prepared.request.grammar, prepared.rules.constraint
        if grammar is None or constraint is None:
            return
        model, field = prepared.request.model, constraint.field
        key = model, sha256(grammar.text.encode()).digest()
        if key not in self._good:
            try:
                await asyncio.to_thread(self._tables[model].check, grammar.text)
            except GrammarError as error:
                raise RequestError(f"{field}: {error}", param=field) from None
        self._good[key] = None
        self._good.move_to_end(key)
        if len(self._good) > MAX_KNOWN:
            self._good.popitem(last=False)


def _table(model: TextModel) -> TokenTable:
    words = model.vocabulary
    vocabulary = Vocabulary(words.all_bytes, tuple(sorted(words.special_ids)), model.eos_ids)
    return TokenTable(vocabulary, words.num_tokens, lambda data: list(model.encode(data.decode("utf-8", "replace"))))
