"""`manta doctor`: prints a line for each check, and what to do. Exit status 1 if there is a fault."""

import argparse
import sys
from collections.abc import Sequence

import msgspec

from scripts.manta.doctor.checks import findings_of
from scripts.manta.doctor.finding import Finding
from scripts.manta.doctor.gather import gather
from scripts.manta.options import parse

__all__ = ["main"]

DESCRIPTION = """\
Checks this machine, and the nodes of a Ray cluster that runs, before a start or when something is wrong.

    manta doctor                          the machine
    manta doctor ./folder                 and the files of a model: complete, not truncated, hashed
    manta doctor my.yaml                  and a config: its keys, its models, its memory

A line is ok, a warning or a fault, with what to do about it. The exit status is 1 if there is a fault. Nothing is
changed or downloaded."""

MARKS = {"ok": "ok     ", "warning": "warning", "fault": "FAULT  "}


def main(arguments: Sequence[str]) -> None:
    options = parse(_parser(), arguments)
    findings = findings_of(gather(options.source, front=options.front, port=options.port, verify=options.verify))
    num_faults = sum(one.level == "fault" for one in findings)
    if options.json:
        print(msgspec.json.format(msgspec.json.encode({"findings": findings, "num_faults": num_faults})).decode())
    else:
        print("\n".join(line for one in findings for line in _lines(one)))
        num_warnings = sum(one.level == "warning" for one in findings)
        print(f"\n{len(findings)} checks, {num_faults} faults, {num_warnings} warnings")
    if num_faults:
        sys.exit(1)


def _lines(finding: Finding) -> list[str]:
    lines = [f"{MARKS[finding.level]}  {finding.check}: {finding.found}"]
    return [*lines, f"         -> {finding.advice}"] if finding.advice else lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="manta doctor",
        usage="manta doctor [MODEL|CONFIG] [options]",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("source", nargs="?", metavar="MODEL|CONFIG", help="as of `manta serve`")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--port", type=int, metavar="N", help="that a start would take (the config's, else 8000)")
    parser.add_argument("--front", choices=["haproxy", "proxy"], help="what takes the connections on a cluster")
    parser.add_argument("--verify", action="store_true", help="hash files of any size, not up to 1 GiB of a model")
    return parser
