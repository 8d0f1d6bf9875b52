"""The command `fastload`: one small file per sub-command.

Results go to stdout, progress and warnings to stderr. Each command's file has `add_parser`, which
declares its options, and a function that takes the parsed arguments and returns an exit code.
Nothing here imports torch before a command needs it.
"""

import argparse
import sys
import traceback
from importlib.metadata import version

from fastload.cli import bench, profile, run, train
from fastload.cli.exits import EnvironmentLacks, Exit

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: the arguments, without the program's name; by default those of this process.
    """
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
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return Exit.INTERRUPTED
    except EnvironmentLacks as lack:
        print(f"fastload {args.command}: {lack}", file=sys.stderr)
        return Exit.ENVIRONMENT
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
    for command in (bench, profile, run, train):
        command.add_parser(commands)
    return parser
