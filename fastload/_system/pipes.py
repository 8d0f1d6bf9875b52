"""Write to pipes without being killed by SIGPIPE.

Runs in: consumer and worker.
Takes: the write end of a pipe.
Gives: ``BrokenPipeError`` where nobody reads any more, whatever the program does at SIGPIPE.

Python ignores SIGPIPE, but command-line tools often set it to its default action, which ends the
process without a word. A worker may be gone at any moment, so every write to one could be that end.
The program's own handler is never changed: SIGPIPE is blocked in the writing thread, to which the
kernel sends it, and taken back. Where the program ignores SIGPIPE, a write costs 0.1 microseconds
more than ``os.write``, otherwise 2. A socket and ``MSG_NOSIGNAL`` would cost 1.3 in every program.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Any, Final

from fastload._system import signals

# The functions of ``signal`` make enums of their results, which takes ten times as long.
_signal: Final[Any] = sys.modules["_signal"]
_SIGPIPE: Final = int(signal.SIGPIPE)
_IGNORED: Final = _signal.SIG_IGN
_getsignal: Final = _signal.getsignal
_sigmask: Final = _signal.pthread_sigmask

_native_handler = False
"""Whether C code has put a handler over Python's; Python's table does not show it."""


def look_for_native_handler() -> None:
    """See whether C code handles SIGPIPE although Python believes that it is ignored."""
    global _native_handler  # noqa: PLW0603  (a property of the process)
    ignored = int(signal.SIG_IGN).to_bytes(ctypes.sizeof(ctypes.c_void_p), "little")
    _native_handler = signals.native_handler(_SIGPIPE) != ignored


def is_sigpipe_ignored() -> bool:
    """Whether a write to a pipe that nobody reads is an error and nothing else."""
    return _getsignal(_SIGPIPE) is _IGNORED and not _native_handler


def write(descriptor: int, content: bytes | memoryview) -> int:
    """Write as ``os.write`` does.

    Raises:
        BlockingIOError: The pipe is full and does not block.
        BrokenPipeError: Nobody reads the pipe any more.
    """
    if _getsignal(_SIGPIPE) is _IGNORED and not _native_handler:
        return os.write(descriptor, content)
    with sigpipe_blocked():
        return os.write(descriptor, content)


class sigpipe_blocked:  # noqa: N801  (a context manager; written as a generator it takes twice as long)
    """Let no SIGPIPE that this thread causes in the block reach the program."""

    def __enter__(self) -> None:
        self._before = _sigmask(signal.SIG_BLOCK, ())
        self._was_pending = _SIGPIPE in self._before and _SIGPIPE in signal.sigpending()
        _sigmask(signal.SIG_BLOCK, (_SIGPIPE,))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            # What is pending is ours: a thread that had not blocked the signal had none pending.
            if kind is not None and not self._was_pending and _SIGPIPE in _signal.sigpending():
                _take_pending()
        finally:
            _sigmask(signal.SIG_SETMASK, self._before)


def _take_pending() -> None:
    if hasattr(signal, "sigtimedwait"):
        signal.sigtimedwait({_SIGPIPE}, 0)
    else:  # macOS
        signal.sigwait({_SIGPIPE})
