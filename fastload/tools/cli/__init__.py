"""The command `fastload`: one small file per sub-command.

Results go to stdout, progress and warnings to stderr. Each command's file has `add_parser`, which
declares its options, and a function that takes the parsed arguments and returns an exit code.
Nothing here imports torch before a command needs it.
"""

import argparse
import os
import sys
import traceback
from importlib.metadata import version

from fastload.tools.cli import bench, compare, doctor, env, profile, run, train
from fastload.tools.cli.console import NobodyReads
from fastload.tools.cli.exits import EnvironmentLacks, Exit

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: the arguments, without the program's name; by default those of this process.
    """
    _replace_closed_streams()
    try:
        code = _answer(argv)
        sys.stdout.flush()
    except (NobodyReads, BrokenPipeError):
        return _give_up_stdout()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
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
        print(f"fastload {args.command}: {lack}", file=sys.stderr)
        return Exit.ENVIRONMENT
    except NobodyReads:
        raise
    except Exception:  # noqa: BLE001 - the exit code tells it, whatever it was
        traceback.print_exc()
        return Exit.RAISED


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastload",
        description="Data loading for PyTorch: measure it, try it.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"fastload {version('fastload')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for command in (bench, compare, doctor, env, profile, run, train):
        command.add_parser(commands)
    return parser


def _replace_closed_streams() -> None:
    """Give a process that was started without stdout or stderr (`>&-`) ones that go nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115 - for the whole run


def _give_up_stdout() -> Exit:
    """Point stdout nowhere, or the interpreter complains when it flushes it at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return Exit.PIPE_CLOSED
