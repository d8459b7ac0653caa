"""Authentication: who may use the API, by its key."""

from fastapi import Depends, Request
from fastapi.params import Depends as Dependency
from starlette.exceptions import HTTPException

from configs.schema import Access
from serve_app.tenants.key_store import KeyStore
from serve_app.tenants.tenant import Tenant

__all__ = ["Authenticator"]


class Authenticator:
    def __init__(self, keys: KeyStore) -> None:
        self._keys = keys

    def guard(self, access: Access) -> list[Dependency]:
        """The dependencies of a route that `api.access` shows."""
        return [Depends(self.check)] if access == "key" else []

    async def check(self, request: Request) -> None:
        """A dependency of routes."""
        self.tenant(request)

    def tenant(self, request: Request) -> Tenant:
        """Whose key the request bears; where there are no keys, that of anybody. Raises 401."""
        if self._keys.is_open:
            return self._keys.anybody
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        tenant = self._keys.find(key.strip()) if scheme.lower() == "bearer" else None
        if tenant is None:
            raise HTTPException(
                401, "no valid API key: send Authorization: Bearer KEY", headers={"WWW-Authenticate": "Bearer"}
            )
        return tenant
