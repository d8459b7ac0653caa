"""Rates: what the counters of two samples say of the time between them."""

import msgspec

from scripts.manta.top.sample import EngineLoad, Sample

__all__ = ["Rates", "hit_rate_of", "kv_use", "rates_of"]


class Rates(msgspec.Struct, frozen=True):
    tokens_s: float | None = None  # generated tokens per second
    hit_rate: float | None = None  # share of prompt tokens in the prefix cache


def rates_of(model: str, now: Sample, before: Sample | None) -> Rates:
    """Since the sample before; the hit rate of all time where there is none, or no prompt since."""
    engine, earlier = _engine(model, now), _engine(model, before) if before is not None else None
    if engine is None:
        return Rates()
    if before is None or earlier is None:
        return Rates(None, hit_rate_of(engine))
    between_s = now.at_s - before.at_s
    generated = _since(engine.num_generated_tokens, earlier.num_generated_tokens)
    tokens_s = generated / between_s if generated is not None and between_s > 0 else None
    hit_rate = _share(engine, earlier)
    if hit_rate is None:
        hit_rate = hit_rate_of(engine)
    return Rates(tokens_s, hit_rate)


def hit_rate_of(engine: EngineLoad) -> float | None:
    """Since the engine has started."""
    return _share(engine, EngineLoad(num_prompt_tokens=0, num_cached_tokens=0))


def kv_use(engine: EngineLoad) -> float | None:
    """Share of the KV blocks that sequences hold."""
    if not engine.num_blocks or engine.num_free_blocks is None:
        return None
    return 1.0 - engine.num_free_blocks / engine.num_blocks


def _engine(model: str, sample: Sample) -> EngineLoad | None:
    return next((one.engine for one in sample.models if one.model == model), None)


def _share(now: EngineLoad, before: EngineLoad) -> float | None:
    cached = _since(now.num_cached_tokens, before.num_cached_tokens)
    prompt = _since(now.num_prompt_tokens, before.num_prompt_tokens)
    return cached / prompt if cached is not None and prompt else None


def _since(now: int | None, before: int | None) -> int | None:
    """None where a counter is missing, or has gone back: an engine has started again or left."""
    return now - before if now is not None and before is not None and now >= before else None
