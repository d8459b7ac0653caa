"""The command `manta`: dispatches to its subcommands."""

import argparse
import difflib
import importlib
import sys
from collections.abc import Sequence
from importlib import metadata

__all__ = ["COMMANDS", "main"]

# name -> summary; each is a module of this package with a `main` that takes its arguments
COMMANDS = {
    "serve": "serve a model on this machine: a hub id, a folder, a .gguf file or a config",
    "chat": "chat in the terminal with any OpenAI-compatible server",
    "pull": "download a model from the Hugging Face Hub",
    "bench": "put load on a running server and print throughput and latency",
    "config": "print the effective config, or explain a key of it",
    "env": "print this machine's facts and what Ray needs in its environment",
    "doctor": "check this machine, a config, a model's files and a running cluster, and say what to do",
    "top": "show what a running server does, live: replicas, load, caches, tokens per second",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the subcommand that is the first of the arguments (None: those of the process)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    if not words or words[0] not in COMMANDS:
        _answer_without_command(parser, words)
    command = importlib.import_module(f"scripts.manta.{words[0]}")
    try:
        command.main(words[1:])
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `manta config | head`
        sys.stderr.close()


def _answer_without_command(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Handles arguments without a subcommand, and exits."""
    if words and not words[0].startswith("-"):
        near = difflib.get_close_matches(words[0], COMMANDS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        parser.error(f"command: there is no {words[0]!r}{hint} (known: {', '.join(COMMANDS)})")
    parser.parse_args(words)  # --help and --version; anything else is an error
    parser.print_help(sys.stderr)
    sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="manta",
        usage="manta COMMAND [arguments]",
        description="A chat-model serving cluster on Ray.",
        epilog=f"commands:\n{commands}\n\n`manta COMMAND --help` describes each.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"manta {_version()}")
    return parser


def _version() -> str:
    try:
        return metadata.version("manta-serve")
    except metadata.PackageNotFoundError:  # run from a checkout
        return "0.0.0"
