"""Exceptions from outside: what a signal handler raises in the middle of somebody else's code.

Runs in: consumer and worker.

A program may install a signal handler that raises: Python's own does for Ctrl-C, others do for
timeouts or because a cluster takes the machine away. Python calls handlers in the main thread,
between two bytecodes of whatever runs there: after a call has returned and before its result is
stored, when a function begins, when a loop jumps back. So the exception may come out of any line.
The program may catch it and ask the iterator for the next batch. Then the epoch goes on with
nothing lost, or ``LoadingInterrupted`` is raised; it never ends early as if it were over. Five
means keep this promise of ``docs/migrating.md``:

* *Look, work, take off.* What is to be loaded or delivered stays where it is until the step that
  uses it is done; a step that was interrupted is done again. Sampled indices are drawn by one call
  into C that also stores them (``fastload._epoch.draws``), since a value that is returned to Python
  may be dropped before it is stored.
* *The hand.* A finished batch is noted before the iterator lets go of it, and the note is deleted
  by the last statement before ``return``; between these two nothing can come.
* *The guard.* What can't be done again, because it changes several things or the state of a worker
  (a message that may have been written, a slot between two owners), is done inside ``with guard``.
  Only a clean exit clears the guard. If it is set when the next call begins, that call can't know
  what was done, and says so. The guard also tells ``close``, called by a signal handler, that the
  interrupted call will go on: the slots must not be reused.
* *Whose exception?* User code that is called here raises exceptions of its own, which belong to its
  batch. ``is_from_outside`` tells them apart, also where errors are passed over (``own_suppressed``
  in the place of ``contextlib.suppress``): a handler may raise a ``TimeoutError``, an ``OSError``.
* *The end of an object.* Python prints what is raised in the callback of a weak reference or in
  ``__del__``, and goes on. So what happens at the end of a batch or of a run is one call into C
  (``in_c``), and the rest is done by the next call.

What does not work: an exception that another thread sends (``PyThreadState_SetAsyncExc``) or that
a handler written in C raises leaves no trace of where it came from. Outside user code it is treated
as all others; inside user code it is taken for that code's own.

Python code runs at the end of a few objects all the same, and what a handler raises just then is
printed and lost: a large batch, or one that outlived its workers (``fastload._memory.slots``); an
epoch that ``fastload profile`` or a live display records; an iterator with workers that is dropped
in the middle of an epoch (``close`` ends them where exceptions are raised).
"""

from __future__ import annotations

import functools
import signal
import threading
from collections.abc import Callable, Iterable
from types import CodeType, TracebackType
from typing import Any


class Guard:
    """Set while something is half done; cleared only where that ended cleanly.

    May be entered again inside itself.

    Attributes:
        depth: How many steps are half done: they still run, further up the stack, or one of them
            was interrupted. A plain attribute, because it is looked at several times a batch.

    Guarantees:
        - after an exception that left a ``with`` block, ``depth`` stays above zero for ever;
        - an exception that hits the guard's own code leaves it set too: never cleared too early.

    A class of its own, not ``contextlib.contextmanager``: it is entered three times a batch, and a
    generator would take five times as long.
    """

    __slots__ = ("depth",)

    def __init__(self) -> None:
        self.depth = 0

    def __enter__(self) -> None:
        self.depth += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.depth -= 1


class own_suppressed:  # noqa: N801  (used like contextlib.suppress)
    """Passes over exceptions of these classes, unless a signal handler raised them."""

    __slots__ = ("_kinds",)

    def __init__(self, *kinds: type[Exception]) -> None:
        self._kinds = kinds

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        return isinstance(error, self._kinds) and not is_from_outside(error)


def in_c(function: Callable[..., object], *each: Iterable[Any]) -> Callable[[object], object]:
    """A callback for weak references, which calls a function of C with no code of Python's around.

    So no handler of a signal runs before it is done.

    Args:
        function: Written in C.
        each: Of each argument, what it is in one call after the other, as for ``map``; at their end
            nothing is called any more. Iterated in C, too: tuples, or of ``itertools``.
    """
    # `next(calls, reference)`: the reference is the default, for which there is no need.
    return functools.partial(next, map(function, *each))


NOTHING: Any = type(None)
"""Called without arguments it does nothing, in C; as a ``__del__`` it replaces torch's.

In a function of Python's the handler of a signal could run, and what a destructor raises is lost.
"""


def is_from_outside(error: BaseException) -> bool:
    """Whether an exception that came out of a call was raised by a signal handler.

    True for whatever passed through an installed handler, and for every KeyboardInterrupt: Python's
    own handler of Ctrl-C is written in C and leaves no frame.
    """
    if isinstance(error, KeyboardInterrupt):
        return True
    codes = _handlers()
    trace = error.__traceback__
    while codes and trace is not None:
        if trace.tb_frame.f_code in codes:
            return True
        trace = trace.tb_next
    return False


def has_hit_called_code(error: BaseException) -> bool:
    """Whether an exception from outside hit what the catching function had called.

    To be asked in an ``except`` clause. False: it hit the catching function itself, between two
    calls, and what it calls is as it was.
    """
    trace = error.__traceback__
    below = None if trace is None else trace.tb_next
    return below is not None and below.tb_frame.f_code not in _handlers()


def _handlers() -> set[CodeType]:
    """The code of all signal handlers that may run in this thread."""
    if threading.current_thread() is not threading.main_thread():
        return set()
    found = map(signal.getsignal, signal.valid_signals())
    return {code for handler in found if (code := _code_of(handler)) is not None}


def _code_of(handler: Any) -> CodeType | None:
    while isinstance(handler, functools.partial):
        handler = handler.func
    if not hasattr(handler, "__code__") and not hasattr(handler, "__func__"):
        handler = getattr(type(handler), "__call__", None)  # noqa: B004  (its code is wanted)
    code = getattr(getattr(handler, "__func__", handler), "__code__", None)
    return code if isinstance(code, CodeType) else None
