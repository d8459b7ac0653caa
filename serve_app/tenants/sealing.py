"""Sealed text and data: encrypted with a tenant's key, for clients and stores that keep it for this server."""

import hmac
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["open_bytes", "open_sealed", "seal", "seal_bytes", "seal_key"]

MARK = b"\x01mnt"  # of our own sealed texts, with the version
NONCE_BYTES = 12
MAX_BYTES = 8_388_608  # of an opened text
MAX_DATA_BYTES = 268_435_456  # of opened data, which this server has sealed itself


def seal_key(secret: bytes, namespace: str) -> bytes:
    """The key of one tenant: no other tenant's requests can open what is sealed with it."""
    return hmac.digest(secret, b"sealed reasoning:" + namespace.encode(), "sha256")


def seal(text: str, key: bytes, place: str) -> str:
    """`place`: where it is sealed, unique; there, the same text is sealed to the same bytes."""
    return urlsafe_b64encode(seal_bytes(text.encode(), key, place)).decode()


def open_sealed(sealed: str, key: bytes) -> str | None:
    """None for what was not sealed with this key, also for signatures of other servers."""
    try:
        opened = open_bytes(urlsafe_b64decode(sealed.encode()), key, MAX_BYTES)
        return opened.decode() if opened is not None else None
    except ValueError:
        return None


def seal_bytes(data: bytes, key: bytes, place: str) -> bytes:
    """As `seal`: compressed and encrypted."""
    packed = zlib.compress(data, 1)
    # a synthetic nonce, as in SIV modes: no two data have the same one
    nonce = hmac.digest(key, place.encode() + b"\0" + packed, "sha256")[:NONCE_BYTES]
    return MARK + nonce + AESGCM(key).encrypt(nonce, packed, MARK)


def open_bytes(sealed: bytes, key: bytes, max_bytes: int = MAX_DATA_BYTES) -> bytes | None:
    """At most `max_bytes`. None for what was not sealed with this key."""
    if not sealed.startswith(MARK):
        return None
    nonce, data = sealed[len(MARK) : len(MARK) + NONCE_BYTES], sealed[len(MARK) + NONCE_BYTES :]
    try:
        return zlib.decompressobj().decompress(AESGCM(key).decrypt(nonce, data, MARK), max_bytes)
    except (ValueError, InvalidTag, zlib.error):
        return None
