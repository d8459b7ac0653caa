"""A frame: a sample as renderables of rich. Every text of the server is plain text, without control characters."""

from collections import Counter
from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from scripts.manta.plain_text import plain
from scripts.manta.top.rates import Rates, hit_rate_of, kv_use, rates_of
from scripts.manta.top.sample import EngineLoad, ModelSample, Sample

__all__ = ["frame_of", "gone_frame"]

MAX_NAME = 48
STYLES = {"running": "green", "starting": "yellow", "draining": "cyan", "unreachable": "bold red"}
MODEL_COLUMNS = (
    "model",
    "replicas",
    "running",
    "waiting",
    "KV use",
    "prefix hits",
    "tok/s",
    "first token",
    "migrations",
)
REPLICA_COLUMNS = ("replica", "state", "running", "waiting", "KV use", "prefix hits", "first token")


def frame_of(url: str, now: Sample, before: Sample | None) -> RenderableType:
    """`before` is the sample before, for rates."""
    requests = "" if now.open_requests is None else f"   {now.open_requests} open requests"
    parts: list[RenderableType] = [Text(f"{plain(url)}{requests}"), _models(now, before)]
    parts += [_replicas(model) for model in now.models if model.replicas]
    return Group(*parts)


def gone_frame(url: str, why: str, last: RenderableType | None) -> RenderableType:
    """The reason above the last frame."""
    head = Text(f"{plain(why)}; trying again", style="bold red")
    return Group(head, last) if last is not None else Group(Text(plain(url)), head)


def _models(now: Sample, before: Sample | None) -> Table:
    table = _table(MODEL_COLUMNS)
    for model in now.models:
        table.add_row(*_model_row(model, rates_of(model.model, now, before)))
    return table


def _model_row(model: ModelSample, rates: Rates) -> Iterator[Text]:
    yield _name(model.model)
    yield Text(_states(model))
    yield from _load(model.engine, rates.hit_rate)
    yield Text("-" if rates.tokens_s is None else f"{rates.tokens_s:,.1f}")
    yield Text(_first_token(model.engine))
    yield Text(_count(model.num_migrations))


def _replicas(model: ModelSample) -> Table:
    table = _table(REPLICA_COLUMNS)
    for replica in model.replicas:
        hit_rate = hit_rate_of(replica.engine) if replica.engine else None
        table.add_row(
            _name(replica.replica_id),
            Text(plain(replica.state)[:MAX_NAME], style=STYLES.get(replica.state, "")),
            *_load(replica.engine, hit_rate),
            Text(_first_token(replica.engine)),
        )
    return table


def _load(engine: EngineLoad | None, hit_rate: float | None) -> Iterator[Text]:
    """Running, waiting, KV use, prefix hits."""
    yield Text(_count(engine.num_running if engine else None))
    yield Text(_count(engine.num_waiting if engine else None))
    yield Text(_percent(kv_use(engine) if engine else None))
    yield Text(_percent(hit_rate))


def _states(model: ModelSample) -> str:
    """As 2 running, 1 starting (target 3)."""
    counts = Counter(plain(replica.state)[:MAX_NAME] for replica in model.replicas)
    text = ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))
    if not text:
        text = "none is up" if model.engine is None else "-"
    text += f" (target {model.target_replicas})" if model.target_replicas is not None else ""
    return text + (f", {model.num_unplaced} requests wait" if model.num_unplaced else "")


def _table(columns: tuple[str, ...]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        is_text = name in ("model", "replica", "replicas", "state")
        table.add_column(name, justify="left" if is_text else "right", no_wrap=not is_text, overflow="fold")
    return table


def _name(text: str) -> Text:
    shown = plain(text)
    return Text(shown if len(shown) <= MAX_NAME else f"{shown[: MAX_NAME - 1]}…")


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _first_token(engine: EngineLoad | None) -> str:
    return f"{engine.first_token_s:.2f} s" if engine and engine.first_token_s else "-"
