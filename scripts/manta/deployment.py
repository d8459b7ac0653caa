"""The `serve deploy` document of a model or a config file, with command-line settings applied."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

import configs
from scripts.config_table import ConfigKey
from scripts.manta.machine import gpus
from scripts.manta.options import Settings

__all__ = ["QUICKSTART", "DeploymentError", "deployment_of", "effective", "is_config"]

QUICKSTART = Path(configs.__file__).parent / "quickstart.yaml"

Document = dict[str, Any]


class DeploymentError(Exception):
    """The message names the argument, what is wrong, and what is accepted."""


def deployment_of(source: str | None, settings: Settings) -> Document:
    """The document of a model or a config (None: the shipped quickstart), overridden by `settings`."""
    document = _read(Path(source or QUICKSTART)) if source is None or is_config(source) else _of_model(source)
    for key, value in settings:
        _set(document, key, value)
    return document


def is_config(source: str) -> bool:
    """Whether the first argument is a config file, not a model."""
    return source.endswith((".yaml", ".yml"))


def effective(document: Mapping[str, Any]) -> Document:
    """The document with every config key, defaults included, and API keys as hashes. Raises ConfigError."""
    from configs.keys import without_keys
    from configs.load import load_args

    applications = []
    for application in document["applications"]:
        config = load_args(application.get("args", {}))
        config = msgspec.structs.replace(config, api=without_keys(config.api))
        applications.append({**application, "args": msgspec.to_builtins(config)})
    return {**document, "applications": applications}


def _read(path: Path) -> Document:
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as error:
        raise DeploymentError(f"CONFIG: {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DeploymentError(f"CONFIG: {path}: must be YAML: {error}") from None
    if not isinstance(document, dict) or not document.get("applications"):
        raise DeploymentError(f"CONFIG: {path}: must have a list `applications`, as `serve deploy` takes it")
    return document


def _of_model(source: str) -> Document:
    """A document on loopback, with one replica on the whole machine."""
    model = {"served_model_name": _name_of(source), "model": source, "resources": _resources()}
    return {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": 8000},
        "applications": [
            {
                "name": "manta",
                "route_prefix": "/",
                "import_path": "serve_app.main:build",
                # Ctrl-C waits at most so long for open streams
                "args": {"ingress": {"drain_s": 5.0}, "wire": {"bind": "127.0.0.1"}, "models": [model]},
            }
        ],
    }


def _name_of(source: str) -> str:
    """The served model name: its hub id, or the name of its file or folder."""
    path = Path(source.removeprefix("package:")).expanduser()
    if source.startswith("package:") or source.endswith(".gguf"):
        return path.name.removesuffix(".gguf")
    if source.startswith((".", "/", "~")) or path.exists():
        return path.resolve().name
    return re.sub(r"@[\w./-]+", "", source)


def _resources() -> dict[str, float]:
    """The resources of a rank: a GPU if there is one, else all cores but one for HTTP and Ray."""
    return {"num_gpus": 1.0} if gpus() else {"num_cpus": float(max(1, (os.cpu_count() or 1) - 1))}


def _set(document: Document, key: ConfigKey, value: Any) -> None:
    (application, *others) = document["applications"]
    at = application.setdefault("args", {})
    if key.is_of_a_model:
        models = at.get("models") or []
        if others or len(models) != 1:
            raise DeploymentError(f"argument {key.name}: the config has several models; set it there")
        at = models[0]
    for part in key.path[:-1]:
        at[part] = at.get(part) or {}
        at = at[part]
    at[key.path[-1]] = list(value) if isinstance(value, tuple) else value
