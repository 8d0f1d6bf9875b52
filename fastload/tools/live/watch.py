"""Show twice a second how loading goes, from a thread beside training.

Runs in: consumer.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console

from fastload.stats.counters import Counters
from fastload.tools.live.gauge import Gauge
from fastload.tools.live.line import in_words
from fastload.tools.live.terminal import BottomLine

INTERVAL_S = 0.5

PATIENCE_S = 1.0
"""A terminal that was stopped (Ctrl-S) must not keep the program from ending."""

_one_at_a_time = threading.Lock()


@contextlib.contextmanager
def watching(epochs: Callable[[], Sequence[Counters]]) -> Iterator[None]:
    """Show how loading goes while the block runs; nothing where stderr is not a terminal.

    Only one display is shown at a time: another one inside is silent. Of the ranks that a launcher
    starts on one machine only the first shows one: there is one last line of the terminal.

    Args:
        epochs: Gives the counters of every epoch that may be running.
    """
    descriptor = _terminal()
    if descriptor is None or not _one_at_a_time.acquire(blocking=False):
        yield
        return
    stop = threading.Event()
    thread = threading.Thread(
        target=_show, args=(Gauge(epochs), descriptor, stop), name="fastload-live", daemon=True
    )
    try:
        thread.start()
        yield
    finally:
        stop.set()
        thread.join(PATIENCE_S)
        _one_at_a_time.release()


def _show(gauge: Gauge, descriptor: int, stop: threading.Event) -> None:
    console = Console(stderr=True, highlight=False)  # of which nothing but captures is used
    bottom = BottomLine(descriptor)
    try:
        while not stop.wait(INTERVAL_S):
            width = max(1, os.get_terminal_size(descriptor).columns - 1)
            with console.capture() as painted:
                console.print(
                    in_words(gauge.read()), width=width, no_wrap=True, overflow="crop", end=""
                )
            bottom.show(painted.get())
    except OSError:
        pass  # the terminal is gone, the program goes on
    finally:
        bottom.close()


def _terminal() -> int | None:
    """The descriptor of stderr if it is a terminal that can move its cursor."""
    if os.name != "posix" or os.environ.get("TERM", "") in {"", "dumb", "unknown"}:
        return None
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return None
    try:
        descriptor = sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # closed, or replaced by a notebook
        return None
    return descriptor if os.isatty(descriptor) else None
