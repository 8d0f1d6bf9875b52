"""Where commands write: results to stdout, progress and warnings to stderr."""

import argparse
import contextlib
import io
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import Progress
from rich.segment import Segment
from rich.text import Text

from fastload.tools.words import printable, rank_prefix

_PIPE_WIDTH = 240


class NobodyReads(Exception):  # noqa: N818 - as the end of `| head`, no error of anybody's
    """The pipe that stdout leads to has been closed."""


class CannotWrite(Exception):  # noqa: N818 - the state of a disk, not an error of ours
    """The result cannot be written: the disk is full, or a file may not be written."""

    def __init__(self, what: str, error: OSError) -> None:
        super().__init__(f"cannot write to {what}: {error.strerror or error}")


class _Stdout:
    """Writes to stdout and says of a failure that it was stdout that failed."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> None:
        """Write a text to stdout."""
        with stdout_errors():
            self._stream.write(text)

    def flush(self) -> None:
        """Write what the stream still holds."""
        with stdout_errors():
            self._stream.flush()


@contextlib.contextmanager
def stdout_errors() -> Any:
    """Turn the `OSError` of a write to stdout into `NobodyReads` or `CannotWrite`."""
    try:
        yield
    except BrokenPipeError:
        raise NobodyReads from None
    except OSError as error:
        raise CannotWrite("stdout", error) from None


class _Output(Console):
    """A console on which every character that is shown is printable and no string is markup."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)


def make_output() -> Console:
    """Return the console for results; in a pipe it is wide enough for any of our tables.

    Strings are shown as they are, never read as rich's markup or as names of emoji. A character
    that stdout's encoding lacks, as in the name of a file, is written as an escape.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
    return _Output(
        file=cast("IO[str]", _Stdout(sys.stdout)),
        width=None if sys.stdout.isatty() else _PIPE_WIDTH,
        highlight=False,
        markup=False,
        emoji=False,
    )


def make_progress(*columns: Any) -> Progress:
    """Return a progress display on stderr, invisible where stderr is not a terminal."""
    return Progress(
        *columns,
        console=Console(stderr=True, highlight=False, emoji=False),
        transient=True,
        disable=not sys.stderr.isatty(),
    )


def warn(message: str) -> None:
    """Write a message to stderr; under torchrun each of its lines names the rank.

    Where stderr cannot be written, nobody can be told: nothing happens.
    """
    prefix = rank_prefix()
    text = "\n".join(f"{prefix}{line}" for line in printable(message).split("\n"))
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def result_file(text: str) -> Path:
    """Parse the argument of `--json`: a file that can be written, told before anything is run.

    Raises:
        argparse.ArgumentTypeError: its folder does not exist, or it is a folder itself.
    """
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"cannot write {text!r}: no such folder, or it is one")
    return path


def existing_file(text: str) -> Path:
    """Parse the argument of an option that names a file to read.

    Raises:
        argparse.ArgumentTypeError: there is no such file.
    """
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"no such file: {text!r}")
    return path


def print_json(document: dict[str, Any]) -> None:
    """Print `document` to stdout, indented: nothing else may be printed there."""
    make_output().out(json.dumps(document, indent=2), highlight=False)


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write `document`, indented, with a newline at the end.

    Raises:
        CannotWrite: the file cannot be written.
    """
    with file_errors(path):
        path.write_text(json.dumps(document, indent=2) + "\n")


@contextlib.contextmanager
def file_errors(path: Path) -> Any:
    """Turn the `OSError` of writing a result file into `CannotWrite`, which names the file."""
    try:
        yield
    except OSError as error:
        raise CannotWrite(repr(str(path)), error) from None


def drop_stdout() -> None:
    """Point stdout nowhere: else the interpreter complains when it flushes stdout at its end."""
    with contextlib.suppress(OSError, ValueError):  # replaced by a stream without a descriptor
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def count(least: int) -> Any:
    """Return a parser of whole numbers that are at least `least`."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return int(text)

    return parse
