"""Cache salt: keeps the prefix caches and results of tenants apart."""

from hashlib import sha256

__all__ = ["namespace_of", "salt_within"]

MARK = "tenant:"


def namespace_of(name: str) -> str:
    """Of the tenant of this name."""
    return f"{MARK}{sha256(name.encode()).hexdigest()[:32]}:"


def salt_within(namespace: str, salt: str) -> str:
    """Only requests with the same share blocks and results: a client's own salt divides what its tenant has.

    namespace   the tenant's; "": that of all who share
    """
    if namespace:
        return namespace + salt
    return f"-{salt}" if salt.startswith(("-", MARK)) else salt  # nobody says the name of another's namespace
