"""`fastload run`: run a program that knows only torch's DataLoader, unmodified, with ours."""

import argparse
import contextlib
import runpy
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastload.tools.cli.console import warn
from fastload.tools.cli.exits import Exit

if TYPE_CHECKING:
    from fastload.stats.recording import Recording


def add_parser(commands: Any) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "run",
        help="run a program with fastload in the place of torch's DataLoader",
        usage="%(prog)s [-h] [-m] PROGRAM ...",
        description="Run a program unmodified, with fastload's DataLoader under torch's name, and "
        "print a summary of its loading at the end, to stderr.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--live",
        action="store_true",
        help="show how loading goes at the bottom of the terminal, while the program runs",
    )
    parser.add_argument("-m", action="store_true", help="PROGRAM is a module, as with python -m")
    # One argument for both: argparse would drop a "--" that follows the program.
    parser.add_argument(
        "program",
        nargs=argparse.REMAINDER,
        metavar="PROGRAM ...",
        help="a Python file, or with -m a module, and its own arguments",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> Exit | int:
    """Run the program; its exit code is ours."""
    from fastload.patching import patched
    from fastload.stats.recording import recording

    if not args.program:
        warn("fastload run: which program? Give a Python file, or -m and a module")
        return Exit.USAGE
    program, *arguments = args.program
    if not args.m and not Path(program).is_file():
        warn(f"fastload run: no such file: {program}")
        return Exit.USAGE
    with (
        _surroundings(program, arguments, is_module=args.m),
        recording() as epochs,
        patched() as names,
    ):
        warn(f"fastload: replaced {', '.join(names)}")
        try:
            with _display(args, epochs):
                return _run(program, is_module=args.m)
        finally:
            warn(_summary(epochs.snapshots()))


def _display(
    args: argparse.Namespace, epochs: "Recording"
) -> contextlib.AbstractContextManager[None]:
    if not args.live:
        return contextlib.nullcontext()
    from fastload.tools.live import watching

    return watching(epochs.running)


@contextlib.contextmanager
def _surroundings(program: str, arguments: list[str], *, is_module: bool) -> Iterator[None]:
    """Arguments and path as Python gives them to a program; put back after it."""
    argv, path = sys.argv, sys.path
    folder = Path.cwd() if is_module else Path(program).resolve().parent
    sys.argv = [program, *arguments]
    # The first entry is our own folder, or that of `python -m`; with python -P there is none.
    sys.path = path[:] if getattr(sys.flags, "safe_path", False) else [str(folder), *path[1:]]
    try:
        yield
    finally:
        sys.argv, sys.path = argv, path


def _run(program: str, *, is_module: bool) -> Exit | int:
    try:
        if is_module:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(program, run_name="__main__")
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or Exit.OK
        warn(str(stop.code))
        return Exit.BAD
    except Exception as error:  # noqa: BLE001 - the program's own, shown without our frames
        traceback.print_exception(type(error), error, _below_runpy(error))
        return Exit.RAISED
    return Exit.OK


def _below_runpy(error: BaseException) -> Any:
    """The part of the traceback that belongs to the program."""
    trace, below = error.__traceback__, error.__traceback__
    while trace is not None:
        if "runpy" in trace.tb_frame.f_code.co_filename:
            below = trace.tb_next
        trace = trace.tb_next
    return below or error.__traceback__


def _summary(epochs: list[Any]) -> str:
    epochs = [epoch for epoch in epochs if epoch.batches]
    batches = sum(epoch.batches for epoch in epochs)
    samples = sum(epoch.samples for epoch in epochs)
    elapsed_s = sum(epoch.elapsed_s for epoch in epochs)
    if not batches or not elapsed_s:
        return "fastload: no batch was loaded"
    wait_s = sum(epoch.wait_s for epoch in epochs)
    return (
        f"fastload: {batches:,} batches, {samples:,} samples in {len(epochs)} epochs; "
        f"{samples / elapsed_s:,.0f} samples/s; {wait_s / elapsed_s:.1%} of the time was spent "
        f"waiting for data"
    )
