"""Is a grammar good, before an engine is asked to follow it? Compiles it once, off the event loop."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from hashlib import sha256

import msgspec

from engine.errors import RequestError
from engine.form.grammar import GrammarError, TokenTable, Vocabulary
from engine.types import Fit, Grammar
from serve_app.generation.request import Prepared
from serve_app.grammar.constraint import FIT
from serve_app.grammar.holdable import in_clients_words
from serve_app.model.text_model import TextModel

__all__ = ["GrammarChecks"]

MAX_KNOWN = 4096  # grammars remembered: 32 bytes each, and a short end of those that must fit

Plan = tuple[int, ...]


class GrammarChecks:
    def __init__(self, models: Mapping[str, TextModel]) -> None:
        self._tables = {name: _table(model) for name, model in models.items()}
        self._good: OrderedDict[tuple[str, bytes, bool], Plan] = OrderedDict()  # the last used last

    async def check(self, prepared: Prepared) -> Prepared:
        """The same; where the answer must fit, with a short one. Raises RequestError that names the field if the
        request's grammar does not compile within the limits, or if the answer cannot fit.
        """
        grammar, constraint = prepared.request.grammar, prepared.rules.constraint
        if grammar is None or constraint is None:
            return prepared
        plan = await self._check(prepared.request.model, grammar, constraint.field)
        if grammar.fit is None:
            return prepared
        num_needed = len(plan) + (0 if grammar.opens else len(grammar.begins_after))
        if num_needed > grammar.fit.budget:
            raise RequestError(
                f"{prepared.length_field}: the shortest answer that was found needs {num_needed} tokens, its end "
                f"included, and there is room for {grammar.fit.budget}",
                param=prepared.length_field,
            )
        grammar = msgspec.structs.replace(grammar, fit=Fit(grammar.fit.budget, plan))
        return msgspec.structs.replace(prepared, request=msgspec.structs.replace(prepared.request, grammar=grammar))

    async def _check(self, model: str, grammar: Grammar, field: str) -> Plan:
        """A short end of a grammar that must fit, () for others."""
        key = model, sha256(grammar.text.encode()).digest(), grammar.fit is not None
        plan = self._good.get(key)
        if plan is None:
            table = self._tables[model]
            try:
                await asyncio.to_thread(table.check, grammar.text)
            except GrammarError as error:
                raise RequestError(f"{field}: {in_clients_words(str(error), field)}", param=field) from None
            try:
                plan = await asyncio.to_thread(table.short_end, grammar.text) if grammar.fit is not None else ()
            except GrammarError as error:
                raise RequestError(f"{FIT}: {error}", param=FIT) from None
        self._good[key] = plan
        self._good.move_to_end(key)
        if len(self._good) > MAX_KNOWN:
            self._good.popitem(last=False)
        return plan


def _table(model: TextModel) -> TokenTable:
    words = model.vocabulary
    vocabulary = Vocabulary(words.all_bytes, tuple(sorted(words.special_ids)), model.eos_ids)
    return TokenTable(vocabulary, words.num_tokens, lambda data: list(model.encode(data.decode("utf-8", "replace"))))
