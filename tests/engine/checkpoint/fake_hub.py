"""A Hugging Face Hub of a few files on loopback, for its library in another process. It counts what it sends."""

import hashlib
import json
import os
import re
import struct
import threading
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

__all__ = ["COMMIT", "FakeHub", "environment_of", "gguf"]

COMMIT = "b968826d9c46dd6066d109eabc6255188de91218"


class FakeHub:
    """A context: a server of the models' files. All revisions are one commit; equal files are brought once."""

    def __init__(self, models: Mapping[str, Mapping[str, bytes]], sha256: bool = False) -> None:
        """sha256   files have that for a hash, as large ones have"""
        self.models = models
        self.hash = hashlib.sha256 if sha256 else hashlib.sha1
        self.sent: Counter[str] = Counter()  # bytes of each file
        self.stall_after: dict[str, int] = {}  # bytes of a file after which nothing more comes
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "FakeHub":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def environment_of(hub: FakeHub, home: Path) -> dict[str, str]:
    """For a process that shall know no other hub, and keep what it brings in `home`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    more = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    return {**kept, **more, "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


def gguf(data: bytes) -> bytes:
    """A .gguf file with one key and, where tensors would be, some data."""

    def string(text: bytes) -> bytes:
        return struct.pack("<Q", len(text)) + text

    pair = string(b"general.architecture") + struct.pack("<I", 8) + string(b"llama")
    return b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + pair + data


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        model = re.match(r"(?:/api/models)?/([\w.-]+/[\w.-]+)", path)
        if model is None or model[1] not in self.hub.models:
            self._json({"error": "Repository not found"}, 404)
        elif found := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(?:/revision/[^/]+)?", path):
            files = self.hub.models[found[1]]
            self._json({"id": found[1], "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]})
        elif found := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/tree/[^/]+", path):
            files = self.hub.models[found[1]]
            self._json(
                [
                    {"type": "file", "path": name, "size": len(data), "oid": self.hub.hash(data).hexdigest()}
                    for name, data in files.items()
                ]
            )
        elif found := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/[^/]+/(.+)", path):
            self._file(found[2], self.hub.models[found[1]][found[2]])
        else:
            self._json({"error": "there is no such page"}, 404)

    do_HEAD = do_GET

    def _file(self, name: str, data: bytes) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, end = (int(asked[1]), int(asked[2] or len(data) - 1) + 1) if asked else (0, len(data))
        end = min(end, len(data))
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        self.send_header("Content-Length", str(end - start))
        self.send_header("ETag", f'"{self.hub.hash(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self._send(name, data[start:end])

    def _send(self, name: str, data: bytes) -> None:
        limit = self.hub.stall_after.get(name, len(data))
        try:
            self.wfile.write(data[:limit])
            self.hub.sent[name] += len(data[:limit])
            if limit < len(data):
                threading.Event().wait(60)
        except OSError:
            self.close_connection = True

    def _json(self, value: object, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None: ...
