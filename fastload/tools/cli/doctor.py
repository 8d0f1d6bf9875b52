"""`fastload doctor`: what this machine allows a loader to do, and what to change."""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from fastload.tools.bench.machine import describe_machine
from fastload.tools.cli.console import make_output, print_json
from fastload.tools.cli.exits import Exit
from fastload.tools.words import one_line

if TYPE_CHECKING:
    from fastload.tools.doctor import Finding

SCHEMA_VERSION = 1

_LONGEST = 2_000
"""Characters of a finding: an environment variable or a path may hold more."""

_STYLES = {"ok": "green", "warn": "yellow", "bad": "bold red"}


def add_parser(commands: Any) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "doctor",
        help="look for what slows or stops a loader on this machine",
        description="Look at cores, limits, shared memory, start methods, threads, CUDA and file "
        "systems. Each line has a verdict and, where one is needed, a cure. Exit code 1 if "
        "something is bad; warnings do not count.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "paths",
        type=_existing_path,
        nargs="*",
        default=[Path()],
        metavar="PATH",
        help="where the data lies (default: the current folder)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> Exit:
    """Examine the machine, show the findings, and return the verdict as an exit code."""
    from fastload.tools.doctor import examine, worst

    findings = examine(args.paths)
    verdict = worst(findings)
    if args.json:
        print_json(
            {
                "schema_version": SCHEMA_VERSION,
                "verdict": verdict,
                "machine": asdict(describe_machine()),
                "findings": [asdict(finding) for finding in findings],
            }
        )
    else:
        _show(findings)
    return Exit.BAD if verdict == "bad" else Exit.OK


def _show(findings: Sequence["Finding"]) -> None:
    output = make_output()
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        words = Text(one_line(finding.found, _LONGEST))
        if finding.cure:
            words.append("\n->", style="dim").append(f" {one_line(finding.cure, _LONGEST)}")
        verdict = Text(finding.verdict, style=_STYLES[finding.verdict])
        table.add_row(verdict, one_line(finding.name), words)
    output.print(table)
    numbers = Counter(finding.verdict for finding in findings)
    output.print(f"{numbers['ok']} ok, {numbers['warn']} to look at, {numbers['bad']} bad")


def _existing_path(text: str) -> Path:
    path = Path(text)
    try:
        path.stat()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot look at {text!r}: {error.strerror}") from None
    except ValueError as error:  # a zero byte
        raise argparse.ArgumentTypeError(f"cannot look at {text!r}: {error}") from None
    return path
