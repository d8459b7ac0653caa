"""`manta chat`: a chat in the terminal with any OpenAI-compatible server. Ctrl-C stops the answer, not the program."""

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

from scripts.manta.openai_client import Delta, Message, OpenAIClient, ServerError, api_key_of
from scripts.manta.options import parse

__all__ = ["Chat", "main"]

DESCRIPTION = """\
Chats with any OpenAI-compatible server.

    manta chat                                          asks for messages, until Ctrl-D
    manta chat "What is the capital of France?"         one answer, and ends
    manta chat --url https://HOST/v1 --api-key KEY --model NAME

Ctrl-C stops the answer that is being written; the chat goes on with what there is of it."""

COMMANDS = """\
/reset            forget the conversation; the system prompt stays
/system TEXT      set the system prompt, and forget the conversation
/model [NAME]     take another model, or list those of the server
/retry            answer the last message again
/quit             end, as Ctrl-D does
A message of several lines begins and ends with a line of three quotes: \"\"\""""

DIM, PLAIN = "\033[2m", "\033[0m"


def main(arguments: Sequence[str]) -> None:
    parser = _parser()
    options = parse(parser, arguments)
    client = OpenAIClient(options.url, api_key_of(options.api_key))
    fields = {name: value for name in FIELDS if (value := getattr(options, name)) is not None}
    try:
        model = options.model or next(iter(client.models()), "")
        chat = Chat(client, model, options.system, fields, sys.stdout)
        if options.prompt is not None:
            chat.answer(options.prompt)
            return
    except ServerError as error:
        sys.exit(f"manta chat: {error}")
    _talk(chat)


class Chat:
    """A conversation, and where its answers are written."""

    def __init__(
        self, client: OpenAIClient, model: str, system: str | None, fields: dict[str, Any], out: TextIO
    ) -> None:
        self._client = client
        self._fields = fields
        self._out = out
        self.model = model
        self.messages: list[Message] = [{"role": "system", "content": system}] if system else []

    def answer(self, text: str) -> None:
        """Sends a user's message and writes the streamed answer. Raises ServerError, and drops the message then.

        Ctrl-C ends the answer; what has been written of it stays in the conversation.
        """
        self.messages.append({"role": "user", "content": text})
        written: list[str] = []
        try:
            # closed at once, not when it is collected: the server must stop generating
            with contextlib.closing(self._client.stream(self.model, self.messages, **self._fields)) as deltas:
                self._write(deltas, written)
        except ServerError:
            if not written:
                self.messages.pop()
            raise
        except KeyboardInterrupt:
            self._say(" [stopped]\n")
        finally:
            if written:
                self.messages.append({"role": "assistant", "content": "".join(written)})

    def command(self, line: str) -> bool:
        """Runs a slash command. False ends the chat."""
        name, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        match name:
            case "/quit" | "/exit":
                return False
            case "/reset":
                self._forget()
            case "/system":
                self.messages = [{"role": "system", "content": rest}] if rest else []
            case "/model" if rest:
                self.model = rest
            case "/model":
                self._say(
                    "\n".join(f"{'*' if id_ == self.model else ' '} {id_}" for id_ in self._client.models()) + "\n"
                )
            case "/retry":
                self._retry()
            case _:
                self._say(f"{COMMANDS}\n")
        return True

    def _forget(self) -> None:
        self.messages = [message for message in self.messages if message["role"] == "system"]

    def _retry(self) -> None:
        while self.messages and self.messages[-1]["role"] == "assistant":
            self.messages.pop()
        if self.messages and self.messages[-1]["role"] == "user":
            self.answer(self.messages.pop()["content"])
        else:
            self._say("there is no message to answer again\n")

    def _write(self, deltas: Iterator[Delta], written: list[str]) -> None:
        """Writes deltas; reasoning is dim, and not part of the conversation."""
        began_s = time.monotonic()
        first_s = 0.0
        is_dim, usage = False, None
        for delta in deltas:
            if delta.content or delta.reasoning:
                first_s = first_s or time.monotonic() - began_s
            if bool(delta.reasoning) != is_dim and (delta.reasoning or delta.content):
                is_dim = bool(delta.reasoning)
                self._say((DIM if is_dim else f"{PLAIN}\n\n") if self._out.isatty() else "" if is_dim else "\n\n")
            self._say(delta.reasoning + delta.content)
            written += [delta.content] if delta.content else []
            usage = delta.usage or usage
            if delta.finish_reason == "length":
                self._say(" [max_tokens]")
        self._say("\n")
        if usage and self._out.isatty():
            took_s = time.monotonic() - began_s
            tokens = usage.get("completion_tokens", 0)
            self._say(f"{DIM}{tokens} tokens, first after {first_s:.2f} s, {tokens / took_s:.1f} tok/s{PLAIN}\n")

    def _say(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def _talk(chat: Chat) -> None:
    """Reads and answers messages until the input ends."""
    is_terminal = sys.stdin.isatty()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell had it ignored
    if is_terminal:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  # arrows and history at the prompt
        print(f"{chat.model}; /help lists commands, Ctrl-D ends", file=sys.stderr)
    read = (lambda: input("> ")) if is_terminal else input
    while True:
        try:
            line = _message(read)
        except KeyboardInterrupt:  # at the prompt: a new line
            print()
            continue
        except EOFError:
            return
        try:
            if line.startswith("/"):
                if not chat.command(line):
                    return
            elif line.strip():
                chat.answer(line)
        except ServerError as error:
            print(f"error: {error}", file=sys.stderr)


def _message(read: Callable[[], str]) -> str:
    """One line, or those between two lines of three quotes."""
    line = read()
    if line.strip() != '"""':
        return line
    lines = []
    while (line := read()).strip() != '"""':
        lines.append(line)
    return "\n".join(lines)


FIELDS = ("temperature", "top_p", "max_tokens", "seed")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="manta chat",
        description=DESCRIPTION,
        epilog=f"commands at the prompt:\n{COMMANDS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("prompt", nargs="?", metavar="MESSAGE", help="answer this one, and end")
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="base URL of the API (%(default)s)")
    parser.add_argument("--model", help="the server's first one by default")
    parser.add_argument("--api-key", metavar="KEY", help="OPENAI_API_KEY of the environment by default")
    parser.add_argument("--system", metavar="TEXT", help="system prompt")
    parser.add_argument("--temperature", type=float, metavar="X", help="the model's own by default")
    parser.add_argument("--top-p", type=float, metavar="X")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="of one answer")
    parser.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same answer")
    return parser
