"""`fastload run`: run a program that knows only torch's DataLoader, unmodified, with ours."""

import argparse
import contextlib
import importlib.util
import os
import runpy
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastload.tools.cli.console import warn
from fastload.tools.cli.exits import Exit
from fastload.tools.words import counted

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
    with (
        _surroundings(program, arguments, is_module=args.m),
        recording() as epochs,
        patched() as names,
    ):
        problem = _missing_module(program) if args.m else _missing_file(program)
        if problem is not None:
            warn(f"fastload run: {problem}")
            return Exit.USAGE
        warn(f"fastload: replaced {', '.join(names)}{_ranks_beside()}")
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


def _missing_file(program: str) -> str | None:
    """Say why there is no program of that name, or return None if there is one."""
    if not os.path.exists(program):  # noqa: PTH110 - Path.exists raises where it may not look
        return f"no such file: {program}"
    if os.path.isdir(program) and not os.path.exists(Path(program, "__main__.py")):  # noqa: PTH110, PTH112
        return f"no __main__.py in the folder {program}"
    return None


def _missing_module(program: str) -> str | None:
    """Say why there is no module of that name to be run, or return None if there is one.

    Packages around it are imported for that, as `python -m` does. What one of them raises is the
    program's own exception: it comes again when the program is run.
    """
    missing = program
    try:
        spec = importlib.util.find_spec(program)
        if spec is not None and spec.submodule_search_locations is not None:
            missing = f"{program}.__main__ (it is a package)"
            spec = importlib.util.find_spec(f"{program}.__main__")
    except ModuleNotFoundError as error:
        spec, name = None, error.name or ""
        is_the_programs_own = not name or not f"{program}.".startswith(f"{name}.")
        if is_the_programs_own:
            return None
        missing = name
    except ValueError:  # such as an empty name
        spec = None
    except BaseException:  # noqa: BLE001 - of a package around the program
        return None
    return None if spec is not None else f"no module named {missing}"


@contextlib.contextmanager
def _surroundings(program: str, arguments: list[str], *, is_module: bool) -> Iterator[None]:
    """Arguments and path as Python gives them to a program; put back after it."""
    argv, path = sys.argv, sys.path
    folder = Path.cwd() if is_module else Path(program).resolve().parent
    # A folder or an archive is put there by runpy, and nothing else.
    first = [] if not is_module and _is_container(program) else [str(folder)]
    sys.argv = [program, *arguments]
    # The first entry is our own folder, or that of `python -m`; with python -P there is none.
    sys.path = path[:] if getattr(sys.flags, "safe_path", False) else [*first, *path[1:]]
    try:
        yield
    finally:
        sys.argv, sys.path = argv, path


def _is_container(program: str) -> bool:
    return os.path.isdir(program) or zipfile.is_zipfile(program)  # noqa: PTH112 - as above


def _run(program: str, *, is_module: bool) -> Exit | int:
    try:
        if is_module:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(program, run_name="__main__")
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or Exit.OK
        # The program's own words, as Python writes them.
        print(stop.code, file=sys.stderr, flush=True)
        return Exit.BAD
    except BaseException as error:  # noqa: BLE001 - the program's own, shown without our frames
        return _end_by(program, error)
    return Exit.OK


def _end_by(program: str, error: BaseException) -> Exit:
    """Show an exception as Python would at a program's end, also that of Ctrl-C."""
    trace, is_runpys = _below_runpy(error)
    if is_runpys and isinstance(error, ImportError | OSError):
        warn(f"fastload run: cannot run {program}: {error}")
        return Exit.USAGE
    error = error.with_traceback(trace)
    sys.excepthook(type(error), error, trace)  # the program may have its own
    return Exit.INTERRUPTED if isinstance(error, KeyboardInterrupt) else Exit.RAISED


def _below_runpy(error: BaseException) -> tuple[Any, bool]:
    """The part of the traceback that belongs to the program, and whether there is none.

    There is none where the program cannot be read or compiled: then runpy raises, or the compiler.
    """
    trace, below, has_begun = error.__traceback__, None, False
    while trace is not None:
        if "runpy" in trace.tb_frame.f_code.co_filename:
            below, has_begun = trace.tb_next, True
        trace = trace.tb_next
    if below is not None or not has_begun:
        return below, False
    return None, True


def _ranks_beside() -> str:
    """Say what this rank has, where several share the machine."""
    from fastload._system.cores import find_cores
    from fastload._system.memory_limits import default_limit_bytes
    from fastload.tools.doctor.finding import gibibytes

    cores = find_cores()
    if cores.ranks == 1:
        return ""
    return (
        f"; {cores.ranks} ranks share this machine (LOCAL_WORLD_SIZE): each has "
        f"{counted(round(cores.usable, 1), 'core')}, and {gibibytes(default_limit_bytes())} of "
        f"shared memory for a loader"
    )


def _summary(epochs: list[Any]) -> str:
    epochs = [epoch for epoch in epochs if epoch.batches]
    batches = sum(epoch.batches for epoch in epochs)
    samples = sum(epoch.samples for epoch in epochs)
    elapsed_s = sum(epoch.elapsed_s for epoch in epochs)
    if not batches or not elapsed_s:
        return "fastload: no batch was loaded"
    wait_s = sum(epoch.wait_s for epoch in epochs)
    return (
        f"fastload: {counted(batches, 'batch')}, {counted(samples, 'sample')} "
        f"in {counted(len(epochs), 'epoch')}; "
        f"{samples / elapsed_s:,.0f} samples/s; {wait_s / elapsed_s:.1%} of the time was spent "
        f"waiting for data"
    )
