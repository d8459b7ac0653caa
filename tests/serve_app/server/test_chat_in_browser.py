"""The chat page in a real browser: what its stand-in for node cannot say of layout, focus and accessibility."""

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvicorn

from engine.types import RequestOutput
from tests.browser import Browser, chromium
from tests.readme import ROOT
from tests.serve_app.scripted import ScriptedClient, build_app, config, says
from tests.serve_app.toy import toy_model

AXE = Path(os.environ.get("MANTA_AXE_CORE", ROOT / "tests" / "node_modules" / "axe-core" / "axe.min.js"))
ANSWER = """\
# A heading

A [link](https://example.com) and `code`.

- an item
  1. another

> a quote

| a | b |
|---|--:|
| 1 | 2 |

```python
def f(x):  # a comment
    return "text", 1
```

$$
x
$$
"""
RULES = """
axe.run(document, { resultTypes: ["violations"] }).then(({ violations }) => violations.map(({ id, impact, nodes }) =>
  `${impact}: ${id}: ${nodes.slice(0, 3).map(({ html, failureSummary }) => html + failureSummary).join(" ")}`))
"""
needs_chromium = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
needs_axe = pytest.mark.skipif(
    not AXE.is_file(), reason="needs axe-core: npm install --prefix tests axe-core, or MANTA_AXE_CORE=.../axe.min.js"
)


@needs_chromium
async def test_arrow_keys_show_the_alternatives_of_each_token_within_the_page(tmp_path: Path):
    async with chromium(tmp_path) as browser, opened(browser, says("two\nlines", logprobs=True)):
        await ask(browser, "probabilities")
        await press(browser, "Token probabilities")
        await browser.evaluate("document.querySelector('[role=option]').focus()")
        for _ in range(4):
            await key(browser, "ArrowRight")
        focused = "document.activeElement"
        shown = f"document.getElementById({focused}.getAttribute('aria-describedby'))"
        assert await browser.evaluate(f"{focused}.textContent") == "l"
        assert "60.7 %" in await browser.evaluate(f"{shown}.textContent")
        box, frame = (f"{one}.getBoundingClientRect()" for one in (shown, "document.querySelector('main')"))
        assert await browser.evaluate(f"{box}.left >= {frame}.left && {box}.bottom <= {frame}.bottom")
        await key(browser, "Escape")
        assert await browser.evaluate("document.querySelector('[role=tooltip]').hidden")
        assert browser.faults == []


@needs_chromium
@needs_axe
@pytest.mark.parametrize(("width", "is_dark"), [(1280, False), (400, True)])
async def test_axe_finds_nothing_wrong_with_the_page(tmp_path: Path, width, is_dark):
    async with chromium(tmp_path) as browser, opened(browser, says(ANSWER, logprobs=True)):
        await look(browser, width, is_dark)
        await browser.evaluate(AXE.read_text())
        found = {"empty": await browser.evaluate(RULES)}
        await ask(browser, "probabilities")
        found["answer"] = await browser.evaluate(RULES)
        await press(browser, "Token probabilities")
        await browser.evaluate("document.querySelectorAll('[role=option]')[9].focus()")
        found["heat map"] = await browser.evaluate(RULES)
        for name in ("Settings", "Chats"):
            await press(browser, name)
            found[name] = await browser.evaluate(RULES)
            if width < 600:  # it covers the others
                await press(browser, name)
        assert found == dict.fromkeys(found, [])


@asynccontextmanager
async def opened(browser: Browser, script: list[RequestOutput]) -> AsyncIterator[None]:
    """The page of a server that gives one answer to all, open in the browser."""
    app = build_app(ScriptedClient(script, max_model_len=4096), config(), {"toy": toy_model()})
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
        running = asyncio.create_task(server.serve(sockets=[listener]))
        await browser.open(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        await browser.until("document.getElementById('model')?.value === 'toy'")
        yield
        server.should_exit = server.force_exit = True
        await running


async def look(browser: Browser, width: int, is_dark: bool) -> None:
    await browser.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
    await browser.call("Emulation.setEmulatedMedia", features=[scheme])


async def ask(browser: Browser, text: str) -> None:
    """Asks with probabilities, and waits for the whole answer."""
    await browser.evaluate("document.getElementsByName('logprobs')[0].click(); document.getElementById('text').focus()")
    await browser.type(text)
    await key(browser, "Enter")
    await browser.until("document.querySelector('.assistant .figures') !== null")


async def press(browser: Browser, name: str) -> None:
    await browser.evaluate(
        f"[...document.querySelectorAll('button')].find((one) => one.textContent === {name!r}).click()"
    )


async def key(browser: Browser, name: str) -> None:
    codes = {"Enter": 13, "Escape": 27, "ArrowRight": 39}
    for kind in ("rawKeyDown", "keyUp"):
        await browser.call("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=codes[name])
