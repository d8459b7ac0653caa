"""A sample: what a server's /status, /load and /metrics say at a moment. Any field may be missing."""

import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

import msgspec

__all__ = ["EngineLoad", "ModelSample", "ReplicaSample", "Sample", "ServerGoneError", "read_sample", "sample_of"]

TIMEOUT_S = 5.0
MAX_BYTES = 16 << 20
METRIC = re.compile(r'(?m)^vllm:(\w+)\{model_name="((?:[^"\\]|\\.)*)"[^}]*\} ([-+.\w]+)$')
ESCAPES = {r"\\": "\\", r"\"": '"', r"\n": "\n"}


class ServerGoneError(Exception):
    """There is no status, with the reason."""


class EngineLoad(msgspec.Struct, frozen=True, kw_only=True):
    """As ModelStatus of /status has it: of a replica, or of all of a model together."""

    num_running: int | None = None
    num_waiting: int | None = None
    num_blocks: int | None = None
    num_free_blocks: int | None = None
    first_token_s: float | None = None  # mean of the last half minute; 0: none
    num_generated_tokens: int | None = None  # since the engines have started, as the next two
    num_prompt_tokens: int | None = None
    num_cached_tokens: int | None = None


class ReplicaSample(msgspec.Struct, frozen=True, kw_only=True):
    replica_id: str
    state: str = ""
    engine: EngineLoad | None = None  # None: not connected


class _Autoscaling(msgspec.Struct, frozen=True):
    target_replicas: int | None = None


class _Fleet(msgspec.Struct, frozen=True):
    """As ModelFleet of /status has it."""

    replicas: tuple[ReplicaSample, ...] = ()
    num_migrations: int | None = None
    num_unplaced: int | None = None
    autoscaling: _Autoscaling | None = None


class ModelSample(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    engine: EngineLoad | None = None  # None: no replica is up
    replicas: tuple[ReplicaSample, ...] = ()
    num_migrations: int | None = None
    num_unplaced: int | None = None
    target_replicas: int | None = None  # of autoscaling


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    at_s: float  # monotonic
    models: tuple[ModelSample, ...]
    open_requests: int | None = None


def read_sample(url: str, api_key: str) -> Sample:
    """Asks a server, as http://127.0.0.1:8000. Raises ServerGoneError; without /load or /metrics it does without."""
    status = _json(_get(f"{url}/status", api_key))
    return sample_of(status, _optional(f"{url}/load", api_key), _optional(f"{url}/metrics", api_key), time.monotonic())


def sample_of(status: Any, load: bytes, metrics: bytes, at_s: float) -> Sample:
    """Raises ServerGoneError for a status that is none."""
    try:
        statuses = {str(one["model"]): one for one in status["data"]}
        fleets = {str(one["model"]): one for one in status.get("fleet") or ()}
        counted = _generated_tokens(metrics.decode("utf-8", "replace"))
        names = [*statuses, *(name for name in fleets if name not in statuses)]
        models = tuple(_model(name, statuses.get(name), fleets.get(name, {}), counted.get(name)) for name in names)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise ServerGoneError("/status is of another server than Manta's") from None
    return Sample(at_s=at_s, models=models, open_requests=_open_requests(load))


def _model(name: str, status: Mapping[str, Any] | None, fleet: Mapping[str, Any], counted: int | None) -> ModelSample:
    engine = msgspec.convert(status, EngineLoad) if status is not None else None
    if engine is not None and engine.num_generated_tokens is None:
        engine = msgspec.structs.replace(engine, num_generated_tokens=counted)
    found = msgspec.convert(fleet, _Fleet)
    return ModelSample(
        model=name,
        engine=engine,
        replicas=found.replicas,
        num_migrations=found.num_migrations,
        num_unplaced=found.num_unplaced,
        target_replicas=found.autoscaling.target_replicas if found.autoscaling else None,
    )


def _generated_tokens(metrics: str) -> dict[str, int]:
    """By model: what this ingress has counted, for servers whose /status counts nothing."""
    found = {}
    for name, model, value in METRIC.findall(metrics):
        if name == "generation_tokens_total":
            plain = re.sub(r"\\[\\\"n]", lambda escape: ESCAPES[escape[0]], model)
            found[plain] = int(float(value))
    return found


def _open_requests(load: bytes) -> int | None:
    try:
        return int(json.loads(load)["server_load"])
    except (ValueError, KeyError, TypeError):
        return None


def _optional(url: str, api_key: str) -> bytes:
    """Empty where the route is off, or needs another key."""
    try:
        return _get(url, api_key)
    except ServerGoneError:
        return b""


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        raise ServerGoneError("/status is no JSON") from None


def _get(url: str, api_key: str) -> bytes:
    headers = {"Authorization": f"Bearer {api_key}", "Accept": "application/json, text/plain"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S) as response:
            return bytes(response.read(MAX_BYTES))
    except urllib.error.HTTPError as error:
        error.close()
        hint = {401: ": it needs an API key (--api-key)", 404: ": api.access.status is off, or it is not Manta"}
        raise ServerGoneError(f"{url} answers {error.code}{hint.get(error.code, '')}") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ServerGoneError(f"{url} does not answer: {getattr(error, 'reason', error)}") from None
