"""`fastload env`: what a bug report should say about the machine."""

import argparse
from typing import Any

from fastload.tools.bench.environment import describe_environment
from fastload.tools.cli.console import make_output, print_json
from fastload.tools.cli.exits import Exit
from fastload.tools.words import one_line

SCHEMA_VERSION = 1


def add_parser(commands: Any) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "env",
        help="print versions, machine and settings, for a bug report",
        description="Print versions, machine and settings, for a bug report. Neither names nor "
        "paths of yours are among them.",
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> Exit:
    """Print the environment, as text or as JSON."""
    sections = describe_environment()
    if args.json:
        print_json({"schema_version": SCHEMA_VERSION, **sections})
        return Exit.OK
    output = make_output()
    width = max(len(name) for section in sections.values() for name in section)
    for title, section in sections.items():
        output.print(title, style="bold")
        for name, value in section.items():
            words = "none" if value is None else str(value)
            output.print(f"  {name:<{width}}  {one_line(words)}", soft_wrap=True)
    return Exit.OK
