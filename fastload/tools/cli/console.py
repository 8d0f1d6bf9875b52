"""Where commands write: results to stdout, progress to stderr."""

import argparse
import io
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

_PIPE_WIDTH = 240


class NobodyReads(Exception):  # noqa: N818 - as the end of `| head`, no error of anybody's
    """What stdout leads to has been closed."""


class _Output(Console):
    def on_broken_pipe(self) -> None:
        # rich's own would end the program with an exit code that means something else here.
        raise NobodyReads


def make_output() -> Console:
    """Return the console for results; in a pipe it is wide enough for any of our tables.

    A letter that stdout's encoding lacks, as in the name of a file, is written as an escape.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
    return _Output(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)


def make_progress(*columns: Any) -> Progress:
    """Return a progress display on stderr, invisible where stderr is not a terminal."""
    return Progress(
        *columns,
        console=Console(stderr=True, highlight=False),
        transient=True,
        disable=not sys.stderr.isatty(),
    )


def warn(message: str) -> None:
    """Write a line to stderr."""
    print(message, file=sys.stderr, flush=True)


def result_file(text: str) -> Path:
    """Parse the argument of `--json`: a file that can be written, told before anything is run.

    Raises:
        argparse.ArgumentTypeError: its folder does not exist, or it is a folder itself.
    """
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"cannot write {text!r}: no such folder, or it is one")
    return path


def print_json(document: dict[str, Any]) -> None:
    """Print `document` to stdout, indented: nothing else may be printed there."""
    make_output().out(json.dumps(document, indent=2), highlight=False)


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write `document`, indented, with a newline at the end."""
    path.write_text(json.dumps(document, indent=2) + "\n")


def count(least: int) -> Any:
    """Return a parser of whole numbers that are at least `least`."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return int(text)

    return parse
