"""A Chromium without a window, driven over its DevTools protocol: for tests of pages."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

__all__ = ["Browser", "chromium"]

OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --remote-debugging-port=0"
)
START_S, WAIT_S = 30, 20


class Browser:
    """One tab. `faults`: exceptions of the page's scripts, and what its Content-Security-Policy has refused."""

    def __init__(self, line: ClientConnection) -> None:
        self._line = line
        self._number = 0
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._session = ""
        self.faults: list[str] = []
        self._reader = asyncio.create_task(self._read())

    async def start(self) -> None:
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            await self.call(f"{domain}.enable")

    async def close(self) -> None:
        self._reader.cancel()

    async def call(self, method: str, **params: Any) -> Any:
        self._number += 1
        answer = self._calls[self._number] = asyncio.get_running_loop().create_future()
        message = {"id": self._number, "method": method, "params": params}
        await self._line.send(json.dumps(message | ({"sessionId": self._session} if self._session else {})))
        return await asyncio.wait_for(answer, WAIT_S)

    async def open(self, url: str) -> None:
        await self.call("Page.navigate", url=url)

    async def evaluate(self, script: str) -> Any:
        found = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        return found["result"].get("value")

    async def until(self, condition: str) -> None:
        """Returns when the condition holds."""
        async with asyncio.timeout(WAIT_S):
            while not await self.evaluate(condition):
                await asyncio.sleep(0.1)

    async def type(self, text: str) -> None:
        """Types into what has the focus; a tab leaves it."""
        await self.call("Input.insertText", text=text.rstrip("\t"))
        if text.endswith("\t"):
            for kind in ("rawKeyDown", "keyUp"):
                await self.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)

    async def screenshot(self, path: Path, width: int, height: int, *, is_dark: bool = False) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        await asyncio.sleep(1.2)  # until it is drawn anew
        picture = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(picture["data"]))

    async def _read(self) -> None:
        async for text in self._line:
            message = json.loads(text)
            match message.get("method"):
                case None:
                    answer = self._calls.pop(message["id"])
                    if "error" in message:
                        answer.set_exception(RuntimeError(message["error"]["message"]))
                    else:
                        answer.set_result(message["result"])
                case "Runtime.exceptionThrown":
                    self.faults.append(json.dumps(message["params"]["exceptionDetails"]))
                case "Log.entryAdded" if message["params"]["entry"]["source"] in ("security", "javascript"):
                    self.faults.append(message["params"]["entry"]["text"])


@asynccontextmanager
async def chromium(folder: Path) -> AsyncIterator[Browser]:
    """A browser whose files are in `folder`."""
    process = await asyncio.create_subprocess_exec(
        "chromium",
        *OPTIONS.split(),
        f"--user-data-dir={folder / 'browser'}",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(START_S):
            while "DevTools listening on " not in (line := (await process.stderr.readline()).decode()):
                assert line, "Chromium did not start"
        draining = asyncio.create_task(process.stderr.read())
        async with connect(line.split()[-1], max_size=None) as socket:
            browser = Browser(socket)
            await browser.start()
            yield browser
            await browser.close()
        draining.cancel()
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
