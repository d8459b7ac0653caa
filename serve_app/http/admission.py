"""Holds a run against its tenant's limits."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import cast

from engine.types import EngineClient
from serve_app.generation.choice import Delta
from serve_app.generation.reply import Usage
from serve_app.http.answer import Run
from serve_app.tenants.tenant import Tenant

__all__ = ["Admitted"]


class Admitted:
    """The same run, which takes a place among its tenant's requests in flight and is charged for its tokens.

    `deltas` raises Overloaded before the first delta if there is no place.
    """

    def __init__(self, run: Run, tenant: Tenant) -> None:
        self._run, self._tenant = run, tenant

    async def deltas(self, client: EngineClient) -> AsyncIterator[Delta]:
        with self._tenant.request_in_flight():
            is_prompt_charged = False
            async with aclosing(cast("AsyncGenerator[Delta]", self._run.deltas(client))) as deltas:
                async for delta in deltas:
                    if not is_prompt_charged:
                        self._tenant.charge(self._run.usage().prompt_tokens)
                        is_prompt_charged = True
                    self._tenant.charge(len(delta.tokens))
                    yield delta

    def usage(self) -> Usage:
        return self._run.usage()

    def usage_of(self, index: int) -> Usage:
        return self._run.usage_of(index)
