"""Sealed text: what a model has thought, encrypted for a client that keeps it and sends it back."""

import hmac
import secrets
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["open_sealed", "seal", "seal_key"]

MARK = b"\x01mnt"  # of our own sealed texts, with the version
NONCE_BYTES = 12
MAX_BYTES = 8_388_608  # of an opened text


def seal_key(secret: bytes, namespace: str) -> bytes:
    """The key of one tenant: no other tenant's requests can open what is sealed with it."""
    return hmac.digest(secret, b"sealed reasoning:" + namespace.encode(), "sha256")


def seal(text: str, key: bytes) -> str:
    nonce = secrets.token_bytes(NONCE_BYTES)
    data = AESGCM(key).encrypt(nonce, zlib.compress(text.encode()), MARK)
    return urlsafe_b64encode(MARK + nonce + data).decode()


def open_sealed(sealed: str, key: bytes) -> str | None:
    """None for what was not sealed with this key, also for signatures of other servers."""
    try:
        data = urlsafe_b64decode(sealed.encode())
        if not data.startswith(MARK):
            return None
        nonce, data = data[len(MARK) : len(MARK) + NONCE_BYTES], data[len(MARK) + NONCE_BYTES :]
        return zlib.decompressobj().decompress(AESGCM(key).decrypt(nonce, data, MARK), MAX_BYTES).decode()
    except (ValueError, InvalidTag, zlib.error):
        return None
