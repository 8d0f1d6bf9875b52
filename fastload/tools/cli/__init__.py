"""The command `fastload`: one small file per sub-command.

Results go to stdout, progress and warnings to stderr. Each command's file has `add_parser`, which
declares its options, and a function that takes the parsed arguments and returns an exit code.
Nothing here imports torch before a command needs it.
"""

import argparse
import contextlib
import os
import sys
import traceback
from importlib.metadata import version
from typing import Any, NoReturn

from fastload.tools.cli import bench, compare, doctor, env, index, inspect, profile, run, train
from fastload.tools.cli.console import (
    CannotWrite,
    NobodyReads,
    drop_stdout,
    stdout_errors,
    warn,
)
from fastload.tools.cli.exits import EnvironmentLacks, Exit
from fastload.tools.words import printable

__all__ = ["main"]


class _Parser(argparse.ArgumentParser):
    """A parser whose messages hold printable characters only: a file's name may hold any."""

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))

    def _print_message(self, message: str, file: Any = None) -> None:
        """Write help and version; argparse itself takes no notice of a disk that is full."""
        if file is not sys.stdout or sys.stdout is None:
            super()._print_message(message, file)
            return
        with contextlib.suppress(NobodyReads), stdout_errors():
            sys.stdout.write(message)


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: the arguments, without the program's name; by default those of this process.
    """
    _replace_closed_streams()
    try:
        code = _answer(argv)
        with stdout_errors():
            sys.stdout.flush()
    except NobodyReads:
        drop_stdout()
        return Exit.PIPE_CLOSED
    except CannotWrite as error:
        drop_stdout()
        warn(f"fastload: {error}")
        return Exit.ENVIRONMENT
    except KeyboardInterrupt:
        warn("interrupted")
        return Exit.INTERRUPTED
    return code


def _answer(argv: list[str] | None) -> int:
    parser = _make_parser()
    try:
        args = parser.parse_args(argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else Exit.USAGE
    if args.command is None:
        parser.print_help(sys.stderr)
        return Exit.USAGE
    try:
        return int(args.run(args))
    except EnvironmentLacks as lack:
        warn(f"fastload {args.command}: {lack}")
        return Exit.ENVIRONMENT
    except (NobodyReads, CannotWrite):
        raise
    except Exception:  # noqa: BLE001 - the exit code tells it, whatever it was
        warn(traceback.format_exc().rstrip("\n"))
        return Exit.RAISED


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="fastload",
        description="Data loading for PyTorch: measure it, try it.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"fastload {version('fastload')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for command in (bench, compare, doctor, env, index, inspect, profile, run, train):
        command.add_parser(commands)
    return parser


def _replace_closed_streams() -> None:
    """Give a process that was started without stdout or stderr (`>&-`) ones that go nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115 - for the whole run
