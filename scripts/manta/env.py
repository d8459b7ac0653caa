"""`manta env`: this machine's facts as comments, and Ray's environment variables as a shell script."""

import argparse
from collections.abc import Iterator, Sequence

from scripts.manta.machine import facts
from scripts.manta.options import parse
from scripts.manta.ray_environment import Front, cluster_variables, exports, haproxy_program

__all__ = ["main", "script"]

DESCRIPTION = """\
Prints a shell script: this machine's facts as comments, and the environment that Ray and Serve need on every node of a
cluster, before `ray start`:

    eval "$(manta env)"

A variable that is set already keeps its value. `manta serve` sets its own environment, and needs none of this."""


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="manta env",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--front",
        choices=["haproxy", "proxy"],
        default="haproxy" if haproxy_program() else "proxy",
        help="what takes the connections: haproxy is faster, proxy is Ray's own (default here: %(default)s)",
    )
    print("\n".join(script(parse(parser, arguments).front)))


def script(front: Front) -> Iterator[str]:
    """The lines of the shell script."""
    for name, value in facts():
        yield f"# {name}: {value}"
    yield "mkdir -p -m 700 ~/.ray && mkdir -p -m 700 ~/.ray/tmp  # RAY_TMPDIR"
    yield from exports(cluster_variables(front))
