"""Cache salt: isolates the prefix caches and results of tenants."""

from hashlib import sha256

__all__ = ["namespace_of", "salt_within"]

MARK = "tenant:"


def namespace_of(name: str) -> str:
    """The namespace of the tenant with this name."""
    return f"{MARK}{sha256(name.encode()).hexdigest()[:32]}:"


def salt_within(namespace: str, salt: str) -> str:
    """The salt of a request: only requests with equal ones share blocks and results.

    namespace   the tenant's; "": the common one of tenants with shares_cache
    salt        the client's, which subdivides the namespace
    """
    if namespace:
        return namespace + salt
    return f"-{salt}" if salt.startswith(("-", MARK)) else salt  # no salt can equal another namespace
