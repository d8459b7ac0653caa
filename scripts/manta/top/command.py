"""`manta top`: shows a server's models and replicas, until Ctrl-C."""

import argparse
import sys
import threading
from collections.abc import Iterator, Sequence

from rich.console import Console, RenderableType
from rich.live import Live

from scripts.manta.openai_client import api_key_of
from scripts.manta.options import parse
from scripts.manta.top.frame import frame_of, gone_frame
from scripts.manta.top.sample import Sample, ServerGoneError, read_sample

__all__ = ["frames", "main"]

ONCE_WIDTH = 160  # of a frame that goes to a file

DESCRIPTION = """\
Shows what a running server does: its models, their replicas and states, sequences that run and wait, KV blocks in use,
prefix-cache hits, tokens per second, time to the first token, request migrations.

    manta top                                     until Ctrl-C
    manta top --once                              one frame as plain text
    manta top --url https://HOST --api-key KEY

Tokens per second need two looks: with --once they are a dash. A server that goes away is tried
again. Migrations are those of the ingress that answers."""


def main(arguments: Sequence[str]) -> None:
    options = parse(_parser(), arguments)
    url, key = options.url.rstrip("/").removesuffix("/v1"), api_key_of(options.api_key)
    if options.once:
        _print_once(url, key)
        return
    pause = threading.Event()
    with Live(console=Console(), screen=sys.stdout.isatty(), auto_refresh=False) as live:
        for frame in frames(url, key):
            live.update(frame, refresh=True)
            pause.wait(options.interval)


def frames(url: str, api_key: str) -> Iterator[RenderableType]:
    """A frame each time that one is asked for, also while the server is gone."""
    before: Sample | None = None
    last: RenderableType | None = None
    while True:
        try:
            now = read_sample(url, api_key)
        except ServerGoneError as error:
            before = None  # rates over the time without a server say nothing
            yield gone_frame(url, str(error), last)
            continue
        last = frame_of(url, now, before)
        before = now
        yield last


def _print_once(url: str, api_key: str) -> None:
    try:
        frame = frame_of(url, read_sample(url, api_key), None)
    except ServerGoneError as error:
        sys.exit(f"manta top: {error}")
    width = None if sys.stdout.isatty() else ONCE_WIDTH
    Console(file=sys.stdout, width=width, no_color=True, highlight=False, emoji=False).print(frame)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="manta top",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the server (%(default)s)")
    parser.add_argument("--api-key", metavar="KEY", help="OPENAI_API_KEY of the environment by default")
    parser.add_argument("--interval", type=_seconds, default=1.0, metavar="S", help="seconds between two frames (1)")
    parser.add_argument("--once", action="store_true", help="print one frame as plain text, and end")
    return parser


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 3600.0:
        raise argparse.ArgumentTypeError(f"must be from 0.1 to 3600 seconds, got {text!r}")
    return value
