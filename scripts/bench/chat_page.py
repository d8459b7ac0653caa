"""Frames of the chat page in Chromium while an answer is streamed to it: python -m scripts.bench.chat_page [--write].

A scripted engine behind the real server sends events of four characters at `--rate`. Measured in the page: the time
from one animation frame to the next, for an idle page and for answers that are paragraphs, one list and one block of
code; and the processor's time of the page's main thread for each frame, as DevTools count it: in all, and of it
scripts, style and layout. Unlike frames, it does not depend on what else the machine does.
"""

import argparse
import asyncio
import datetime
import json
import socket
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import uvicorn

from engine.types import GenerateRequest, RequestOutput
from scripts.bench.record import describe
from tests.browser import Browser, chromium
from tests.serve_app.scripted import ScriptedClient, build_app, config, says
from tests.serve_app.toy import toy_model

__all__ = ["main"]

ANSWERS = {  # how they begin, and the line of which they are
    "paragraphs": ("", "Some *words* of a paragraph that `is` not very long, and a [link](https://example.com).\n\n"),
    "one list": ("", "- **an item** of a list, with `code` in it\n"),
    "one block of code": ("```python\n", "    value = compute(12, 'text')  # what it is\n"),
}
EVENT_CHARACTERS = 4  # each of them a token of the toy model
IDLE_S = 5
LATE_MS = 25  # a frame and a half of 60 a second
KINDS = {"cpu": "TaskDuration", "script": "ScriptDuration", "style": "RecalcStyleDuration", "layout": "LayoutDuration"}
RESULTS = Path(__file__).parent / "results"
COUNT = """globalThis.frames = []; (function next(last) {
  requestAnimationFrame((now) => { if (last) frames.push(now - last); next(now); });
})()"""


class PacedClient(ScriptedClient):
    """Plays its script at `rate` outputs a second."""

    def __init__(self, script: list[RequestOutput], rate: float) -> None:
        super().__init__(script, max_model_len=10 * len(script) * EVENT_CHARACTERS)
        self._rate = rate

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput]:
        began = time.perf_counter()
        for number, output in enumerate(self.script):
            await asyncio.sleep(max(0.0, began + number / self._rate - time.perf_counter()))
            assert isinstance(output, RequestOutput)
            yield msgspec.structs.replace(output, request_id=request.request_id)


async def main(num_events: int, rate: float, names: list[str]) -> dict[str, Any]:
    rows: dict[str, dict[str, float]] = {}
    for name in names:
        start, line = ANSWERS[name]
        length = num_events * EVENT_CHARACTERS
        text = (start + line * (length // len(line) + 1))[:length]
        client = PacedClient(says(text, sizes=(EVENT_CHARACTERS,)), rate)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            async with chromium(Path(folder)) as browser, served(client) as url:
                await browser.open(url)
                await browser.until("document.getElementById('model')?.value === 'toy'")
                await browser.call("Performance.enable", timeDomain="threadTicks")
                await browser.evaluate(COUNT)
                if not rows:
                    before = await spent(browser)
                    await browser.evaluate("frames.length = 0")
                    await asyncio.sleep(IDLE_S)
                    rows["idle"] = await frames(browser, before)
                rows[name] = await answer(browser, num_events / rate)
    return {**describe(), "date": datetime.date.today().isoformat(), "events": num_events, "rate": rate, "rows": rows}


async def answer(browser: Browser, expected_s: float) -> dict[str, float]:
    await browser.evaluate(
        "document.getElementById('text').value = 'go'; frames.length = 0; document.getElementById('send').click()"
    )
    before = await spent(browser)
    await asyncio.sleep(expected_s - 1)
    found = await frames(browser, before)
    await browser.until("document.querySelector('.assistant .figures') !== null")
    return found


async def frames(browser: Browser, before: dict[str, float]) -> dict[str, float]:
    after, deltas = await spent(browser), await browser.evaluate("frames")
    cuts = statistics.quantiles(deltas, n=100)
    total = sum(deltas) / 1000
    return {
        "frames_per_s": round(len(deltas) / total, 1),
        "p50_ms": round(cuts[49], 1),
        "p99_ms": round(cuts[98], 1),
        "max_ms": round(max(deltas), 1),
        "late_percent": round(100 * sum(delta > LATE_MS for delta in deltas) / len(deltas), 1),
    } | {f"{kind}_ms": round(1000 * (after[kind] - before[kind]) / len(deltas), 2) for kind in KINDS}


async def spent(browser: Browser) -> dict[str, float]:
    """Seconds of the processor that the page's main thread has had."""
    metrics = {one["name"]: float(one["value"]) for one in (await browser.call("Performance.getMetrics"))["metrics"]}
    return {kind: metrics[name] for kind, name in KINDS.items()}


@asynccontextmanager
async def served(client: ScriptedClient) -> AsyncIterator[str]:
    app = build_app(client, config(), {"toy": toy_model()})
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
        running = asyncio.create_task(server.serve(sockets=[listener]))
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        server.should_exit = server.force_exit = True
        await running


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=8000)
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--answers", nargs="+", choices=list(ANSWERS), default=list(ANSWERS))
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    found = asyncio.run(main(arguments.events, arguments.rate, arguments.answers))
    print(json.dumps(found, indent=1))
    if arguments.write:
        path = RESULTS / f"{found['date']}_cpu_chat-page.json"
        path.write_text(json.dumps(found, indent=1) + "\n")
