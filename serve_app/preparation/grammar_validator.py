"""Grammar validator: compiles a request's grammar in a limited process before the engine gets it."""

from collections import OrderedDict
from collections.abc import Mapping
from hashlib import sha256

import msgspec

from engine.errors import RequestError
from engine.types import Fit, Grammar
from serve_app.grammar.constraint import Constraint
from serve_app.grammar.unsupported_keywords import explained
from serve_app.model.text_model import TextModel
from serve_app.preparation.generate_request import PreparedRequest
from serve_app.preparation.grammar_worker import Checked, FoundFault, GrammarToCheck, TableSource
from serve_app.request.output_format import FIT
from serve_app.workers import values
from serve_app.workers.pool import LimitExceeded, WorkerPool

__all__ = ["GrammarValidator"]

MAX_KNOWN = 4096  # grammars in the cache: 32 bytes each, and a short completion of those with `fit`
TASKS = "serve_app.preparation.grammar_worker"

Plan = tuple[int, ...]


class GrammarValidator:
    def __init__(self, models: Mapping[str, TextModel], workers: WorkerPool) -> None:
        self._workers = workers
        self._keys = {name: self._share(model) for name, model in models.items()}
        self._good: OrderedDict[tuple[str, bytes, bool], Plan] = OrderedDict()  # the least recently used first

    async def check(self, prepared: PreparedRequest) -> PreparedRequest:
        """The request, with a short completion if the answer must fit. Raises RequestError that names the field if
        the grammar does not compile within the limits, or if the answer cannot fit.
        """
        grammar, constraint = prepared.request.grammar, prepared.rules.constraint
        if grammar is None or constraint is None:
            return prepared
        try:
            plan = await self._check(prepared.request.model, grammar, constraint.field)
        except LimitExceeded as limit:
            raise _too_costly(constraint, limit) from None
        except RequestError as fault:
            raise await self._found(prepared, constraint, fault) from None
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
        """A short completion of a grammar with `fit`, () for others."""
        key = model, sha256(grammar.text.encode()).digest(), grammar.fit is not None
        plan = self._good.get(key)
        if plan is None:
            plan = await self._compiled(self._keys[model], GrammarToCheck(grammar.text, grammar.fit is not None), field)
        self._good[key] = plan
        self._good.move_to_end(key)
        if len(self._good) > MAX_KNOWN:
            self._good.popitem(last=False)
        return plan

    async def _found(self, prepared: PreparedRequest, constraint: Constraint, fault: RequestError) -> RequestError:
        """The error of one place of the schema, if the grammar's error comes from there."""
        if not constraint.sources or fault.param == FIT:
            return fault
        task, table = f"{TASKS}:find_fault", self._keys[prepared.request.model]
        try:
            answer = await self._workers.run(task, table, values.dumps(constraint.sources))
        except LimitExceeded:
            answer = msgspec.msgpack.encode(None)
        if found := msgspec.msgpack.decode(answer, type=FoundFault | None):
            message = explained(found.fault, found.keyword, found.field)
            return RequestError(f"{found.place}: {message}", param=found.field)
        message = str(fault).removeprefix(f"{constraint.field}: ")
        return RequestError(f"{constraint.field}: {explained(message, '', constraint.field)}", fault.param)

    async def _compiled(self, table: str, grammar: GrammarToCheck, field: str) -> Plan:
        """Raises RequestError and LimitExceeded."""
        answer = await self._workers.run(f"{TASKS}:check", table, msgspec.msgpack.encode(grammar))
        checked = msgspec.msgpack.decode(answer, type=Checked)
        if checked.fault:
            raise RequestError(f"{field}: {checked.fault}", param=field)
        if checked.cannot_fit:
            raise RequestError(f"{FIT}: {checked.cannot_fit}", param=FIT)
        return checked.plan

    def _share(self, model: TextModel) -> str:
        words = model.vocabulary
        source = TableSource(
            words.all_bytes,
            tuple(sorted(words.special_ids)),
            model.eos_ids,
            words.num_tokens,
            model.inner_tokenizer.to_str(),
        )
        data = msgspec.msgpack.encode(source)
        key = sha256(data).hexdigest()
        self._workers.share(key, f"{TASKS}:load_table", data)
        return key


def _too_costly(constraint: Constraint, limit: LimitExceeded) -> RequestError:
    """Names the largest of several schemas: most likely it is the cause."""
    field, largest = constraint.field, ""
    if len(constraint.sources) > 1:
        name, _ = max(constraint.sources, key=lambda source: len(repr(source[1])))
        largest = f"; the largest schema is {name}"
    return RequestError(f"{field}: to compile {limit}; make it smaller or simpler{largest}", param=field)
