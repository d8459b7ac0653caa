"""`manta serve`: serves a model or a config on this machine."""

import argparse
from collections.abc import Sequence

from scripts.manta.deployment import QUICKSTART, DeploymentError, deployment_of
from scripts.manta.options import add_config_options, parse, settings_of
from scripts.manta.ray_environment import haproxy_program

__all__ = ["main"]

DESCRIPTION = """\
Serves a model on this machine, on loopback: starts Ray and Serve, and ends them on Ctrl-C.

    manta serve                                    the quickstart: SmolLM2-135M-Instruct
    manta serve Qwen/Qwen3-0.6B                    a model of the Hugging Face Hub; @REVISION pins a commit
    manta serve org/name-GGUF:Q4_K_M               one of the hub's .gguf files, by its quantization
    manta serve ./folder --num-replicas 2          a folder with config.json and safetensors
    manta serve model.gguf --port 8080
    manta serve configs/two_models.yaml            a config, as `serve deploy` takes it"""


def main(arguments: Sequence[str]) -> None:
    parser = _parser()
    options = parse(parser, arguments)
    try:
        document = deployment_of(options.source, settings_of(options))
    except DeploymentError as error:
        parser.error(str(error))
    http = document.get("http_options") or {}
    from scripts.manta.server import Settings, serve_until_stopped

    serve_until_stopped(
        Settings(
            document,
            origin=options.source or str(QUICKSTART),
            host=options.host or http.get("host", "127.0.0.1"),
            port=options.port or http.get("port", 8000),
            dashboard_port=options.dashboard_port,
            front=options.front,
        )
    )


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        nargs="?",
        metavar="MODEL|CONFIG",
        help="hub id (org/name, org/name@REVISION, org/name:QUANTIZATION), folder, .gguf file, package:NAME/FILE, or a "
        ".yaml config (default: the shipped quickstart.yaml)",
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="manta serve",
        usage="manta serve [MODEL|CONFIG] [options]",
        description=DESCRIPTION,
        epilog="Every key of the config is an option; `manta config KEY` explains one, `manta config MODEL [options]` "
        "prints what would be served.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_source(parser)
    parser.add_argument("--host", help="address to listen on (http_options.host of the config, else 127.0.0.1)")
    parser.add_argument("--port", type=_port, metavar="N", help="instead of http_options.port of the config (8000)")
    parser.add_argument("--dashboard-port", type=_port, metavar="N", default=8265, help="of Ray's dashboard (8265)")
    parser.add_argument(
        "--front",
        choices=["proxy", "haproxy"],
        default="haproxy" if haproxy_program() else "proxy",
        help="what takes the connections: haproxy is faster, proxy is Ray's own (default here: %(default)s)",
    )
    add_config_options(parser)
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"must be a port from 1 to 65535, got {text!r}")
    return int(text)
