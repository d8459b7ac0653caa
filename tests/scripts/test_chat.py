"""`manta chat` and `manta bench` against a server on a socket."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator

import msgspec
import pytest

from engine.errors import Overloaded
from engine.types import GenerateRequest, RequestOutput
from scripts.manta.chat import Chat
from scripts.manta.main import main
from scripts.manta.openai_client import OpenAIClient, ServerError
from tests.readme import ROOT
from tests.scripts.served import on_a_socket
from tests.serve_app.scripted import ScriptedClient, says


class Scripts(ScriptedClient):
    """Plays another script for each request, the last one for all that follow."""

    def __init__(self, *scripts: list[RequestOutput | Exception | float]) -> None:
        super().__init__(max_model_len=512)
        self.scripts = list(scripts)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput]:
        self.script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        async for chunk in super().generate(request):
            yield chunk


def test_an_answer_is_written_as_it_comes_and_stays_in_the_conversation() -> None:
    client = Scripts([*says("naïve 👩‍👩")], [*says("two")])
    out = io.StringIO()
    with on_a_socket(client) as url:
        chat = Chat(OpenAIClient(url, "EMPTY"), "toy", "be brief", {"temperature": 0.0}, out)
        chat.answer("hi")
        chat.answer("again")
        assert out.getvalue() == "naïve 👩‍👩\ntwo\n"
        roles = [(message["role"], message["content"]) for message in chat.messages]
        assert roles[:3] == [("system", "be brief"), ("user", "hi"), ("assistant", "naïve 👩‍👩")] and len(roles) == 5
        assert chat.command("/retry") and len(chat.messages) == 5
        assert chat.command("/reset") and [message["role"] for message in chat.messages] == ["system"]
        assert chat.command("/system") and not chat.messages
        chat.command("/model")
        assert out.getvalue().endswith("* toy\n  org/alias\n")
        chat.command("/what")
        assert "/retry" in out.getvalue()
        assert not chat.command("/quit")
    assert len(client.requests[1].prompt) > len(client.requests[0].prompt)


def test_a_refused_message_is_forgotten_and_the_reason_is_the_servers() -> None:
    with on_a_socket(Scripts([Overloaded("full", retry_after_s=1)])) as url:
        chat = Chat(OpenAIClient(url, "EMPTY"), "toy", None, {}, io.StringIO())
        with pytest.raises(ServerError, match="429: .*full"):
            chat.answer("hi")
        assert chat.messages == []
        chat.model = "other"
        with pytest.raises(ServerError, match="404: there is no model 'other'"):
            chat.answer("hi")


def test_where_no_server_is_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("chat", "bench"):
        with pytest.raises(SystemExit, match=rf"manta {command}: http://127\.0\.0\.1:1/v1 does not answer: .*refused"):
            main([command, "--url", "http://127.0.0.1:1/v1"])


def test_one_message_gets_one_answer(capsys: pytest.CaptureFixture[str]) -> None:
    with on_a_socket(Scripts([*says("Paris")])) as url:
        main(["chat", "--url", url, "capital?"])
    assert capsys.readouterr().out == "Paris\n"


def test_ctrl_c_ends_the_answer_and_not_the_program() -> None:
    client = Scripts([*says("half an", finish=None), 60.0], [*says("whole")])
    with on_a_socket(client) as url:
        chat = subprocess.Popen(
            [sys.executable, "-m", "scripts.manta", "chat", "--url", url],
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert chat.stdin is not None and chat.stdout is not None
        watchdog = threading.Timer(40, chat.kill)
        watchdog.start()
        chat.stdin.write(b"hi\n")
        chat.stdin.flush()
        assert chat.stdout.read(len("half an")) == b"half an"
        chat.send_signal(signal.SIGINT)
        assert chat.stdout.readline() == b" [stopped]\n"
        rest, _ = chat.communicate(b'"""\nand\nnow\n"""\n/quit\n')
        watchdog.cancel()
    assert chat.returncode == 0 and rest == b"whole\n"
    assert client.num_closed == 2  # the server has been told
    assert len(client.requests[1].prompt) > len(client.requests[0].prompt)  # what there was of the answer is in it


def test_bench_counts_what_the_server_has_sent(capsys: pytest.CaptureFixture[str]) -> None:
    script = [*says("abcdefgh", finish="length", eos=False)]
    script = [msgspec.structs.replace(chunk) for chunk in script]
    client = Scripts([*script])
    arguments = ["--concurrency", "1", "2", "--num-requests", "4", "--max-tokens", "8", "--prompt-words", "3"]
    with on_a_socket(client) as url:
        main(["bench", "--url", url, *arguments, "--json"])
        told = json.loads(capsys.readouterr().out)
        main(["bench", "--url", url, *arguments])
    assert [(row["concurrency"], row["num_requests"]) for row in told["rows"]] == [(1, 4), (2, 4)]
    assert all(row["output_tokens_per_s"] > 0 and row["ttft_ms"]["p50"] > 0 for row in told["rows"])
    assert "api_key" not in told["arguments"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == "concurrency requests prompt tokens tok/s TTFT p50 p99 gap p50 p99".split()
    assert [line.split()[:2] for line in lines[1:]] == [["1", "4"], ["2", "4"]]
