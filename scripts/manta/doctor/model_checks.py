"""Checks of a config and of the files of its models."""

from collections.abc import Iterator

from scripts.manta.doctor.facts import Facts, ModelFiles
from scripts.manta.doctor.finding import Finding, fault, ok, warning

__all__ = ["check_config", "check_models"]


def check_config(facts: Facts) -> Finding:
    config = facts.config
    if config is None:
        return ok("config", "none was named; `manta doctor MODEL|CONFIG` checks one")
    if config.error:
        return fault("config", config.error, f"correct {config.source}; `manta config KEY` explains a key")
    return ok("config", config.source)


def check_models(facts: Facts) -> Iterator[Finding]:
    for model in facts.models:
        yield _check_model(model)


def _check_model(model: ModelFiles) -> Finding:
    check = f"model {model.source}"
    if model.is_in_hub:
        return warning(check, model.error or "it is not in the hub's cache here", f"manta pull {model.source}")
    if model.error:
        return fault(check, model.error, "correct the name, or put the files there")
    broken = [f"{one.name}: {one.error}" for one in model.files if one.error]
    broken += [f"{one.name}: its SHA-256 is not that of the hub" for one in model.files if one.hash_is == "wrong"]
    if broken:
        return fault(check, "; ".join(broken), f"delete these files in {model.path}, and download or copy them again")
    if not model.has_tokenizer:
        return fault(check, f"{model.path} has no tokenizer", "copy tokenizer.json or tokenizer.model there")
    hashes = [one.hash_is for one in model.files]
    parts = [f"{len(model.files)} files, {model.num_bytes / 1e6:,.0f} MB, complete"]
    parts += [f"{number} with the hub's SHA-256"] if (number := hashes.count("right")) else []
    parts += [f"{number} too large to hash (--verify does)"] if (number := hashes.count("skipped")) else []
    return ok(check, f"{', '.join(parts)}, in {model.path}")
