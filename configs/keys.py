"""API keys and their limits, from config, variable and file. A key is kept as its SHA-256 only."""

import os
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import yaml

from configs.load import ConfigError, convert
from configs.schema import ApiConfig, KeyLimits, Name

__all__ = ["ApiKey", "digest", "keys_to_start_with", "read_keys", "without_keys"]

HASHED = re.compile(r"sha256:([0-9a-f]{64})")


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    name: str  # in logs, metrics and rejections
    sha256: str  # of the key, in hexadecimal
    expires: datetime | None = None  # refused from then on
    limits: KeyLimits | None = None  # None: `api.limits`
    shares_cache: bool = False  # reuses prefixes and results of the other keys that share


class _Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key in a file."""

    name: Name
    key: str  # as the client sends it, or its "sha256:..."
    expires: Any = None  # a date or a time; without a zone UTC
    limits: KeyLimits | None = None
    shares_cache: bool = False


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    keys: tuple[_Entry, ...]


def digest(key: str) -> str:
    """The SHA-256 of a key, by which it is kept."""
    return sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def without_keys(api: ApiConfig) -> ApiConfig:
    """The same config with hashes in place of keys, to be stored and passed on. Raises ConfigError."""
    hashes = tuple(f"sha256:{_hashed(key, 'api.api_keys')}" for key in api.api_keys)
    return msgspec.structs.replace(api, api_keys=hashes)


def keys_to_start_with(api: ApiConfig, environment: Mapping[str, str] = os.environ) -> tuple[ApiKey, ...]:
    """As `read_keys`. Raises ConfigError also if keys are required and there are none."""
    keys = read_keys(api, environment)
    if api.require_api_keys and not keys:
        raise ConfigError(
            f"api.require_api_keys: there is no key. Set {api.api_keys_env} in the environment of every Ray node with "
            "an ingress, or api.api_keys_file"
        )
    return keys


def read_keys(api: ApiConfig, environment: Mapping[str, str] = os.environ) -> tuple[ApiKey, ...]:
    """The keys of the config, the environment and the file. Raises ConfigError that names the place, never a key."""
    keys = [_unnamed(key, "api.api_keys") for key in api.api_keys]
    keys += _of_environment(environment.get(api.api_keys_env, ""), api.api_keys_env)
    keys += _of_file(Path(api.api_keys_file)) if api.api_keys_file is not None else []
    _check_distinct(keys)
    return tuple(keys)


def _unnamed(key: str, where: str) -> ApiKey:
    hashed = _hashed(key, where)
    return ApiKey(name=f"key-{hashed[:8]}", sha256=hashed)


def _of_environment(text: str, where: str) -> Iterable[ApiKey]:
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, is_named, key = part.partition("=")
        yield ApiKey(name=name.strip(), sha256=_hashed(key.strip(), where)) if is_named else _unnamed(part, where)


def _of_file(path: Path) -> list[ApiKey]:
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"api.api_keys_file: {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"api.api_keys_file: {path} is not YAML{where}") from None
    try:
        entries = convert(document, _File).keys
        return [_key_of(entry, f"keys.{index}") for index, entry in enumerate(entries)]
    except ConfigError as error:
        raise ConfigError(f"api.api_keys_file: {path}: {error}") from None


def _key_of(entry: _Entry, where: str) -> ApiKey:
    return ApiKey(
        name=entry.name,
        sha256=_hashed(entry.key, f"{where}.key"),
        expires=_time_of(entry.expires, f"{where}.expires"),
        limits=entry.limits,
        shares_cache=entry.shares_cache,
    )


def _hashed(key: str, where: str) -> str:
    if found := HASHED.fullmatch(key):
        return found[1]
    if not key or key.startswith("sha256:"):
        raise ConfigError(f"{where}: must be a key, or sha256: and 64 hexadecimal digits")
    return digest(key)


def _time_of(value: object, where: str) -> datetime | None:
    """Parses an expiry, which YAML may have parsed to a date or a time already."""
    if value is None:
        return None
    try:
        time = datetime.fromisoformat(value.isoformat() if isinstance(value, date) else str(value))
    except ValueError:
        raise ConfigError(f"{where}: must be a date or time such as 2027-01-31 or 2027-01-31T12:00:00Z") from None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def _check_distinct(keys: Iterable[ApiKey]) -> None:
    names: dict[str, str] = {}
    digests: dict[str, str] = {}
    for key in keys:
        if names.setdefault(key.name, key.sha256) != key.sha256:
            raise ConfigError(f"api keys: two keys are named {key.name!r}")
        if digests.setdefault(key.sha256, key.name) != key.name:
            raise ConfigError(f"api keys: {key.name!r} and {digests[key.sha256]!r} are the same key")
