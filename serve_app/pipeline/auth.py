"""Authentication by API key: the tenant of a request, and the guard of routes."""

from collections.abc import Iterator, Mapping

from fastapi import Depends, Request
from fastapi.params import Depends as Dependency
from starlette.exceptions import HTTPException

from configs.schema import Access
from serve_app.logs.request_record import record_of
from serve_app.tenants.key_store import KeyStore
from serve_app.tenants.tenant import Tenant

__all__ = ["Authenticator"]


class Authenticator:
    def __init__(self, keys: KeyStore) -> None:
        self._keys = keys

    @property
    def rejections(self) -> Mapping[tuple[str, str], int]:
        """Requests that limits have refused, by the key's name and the limit."""
        return self._keys.rejections

    def guard(self, access: Access) -> list[Dependency]:
        """The dependencies of a route with this `api.access`."""
        return [Depends(self.check)] if access == "key" else []

    async def check(self, request: Request) -> None:
        """A route dependency. Raises 401 without a valid key."""
        self.tenant(request)

    def tenant(self, request: Request) -> Tenant:
        """The tenant of the request's key; without any keys the anonymous one. Raises 401."""
        if self._keys.is_open:
            return self._keys.anybody
        tenants = (self._keys.find(key) for key in _keys_of(request))
        tenant = next((tenant for tenant in tenants if tenant is not None), None)
        if tenant is None:
            raise HTTPException(
                401, "no valid API key: send Authorization: Bearer KEY", headers={"WWW-Authenticate": "Bearer"}
            )
        if (record := record_of(request)) is not None:
            record.key = tenant.name
        return tenant


def _keys_of(request: Request) -> Iterator[str]:
    """The bearer token of OpenAI's clients, and the x-api-key of Anthropic's, some of which send both."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        yield key.strip()
    if key := request.headers.get("x-api-key", "").strip():
        yield key
