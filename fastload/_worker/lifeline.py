"""A worker dies within milliseconds of its consumer, however that one ends.

Runs in: worker.
Takes: the read end of a pipe whose only write end is in the consumer.
Gives: SIGKILL to this process when that end closes, delivered by the kernel: also while the
worker spins, sleeps or holds the GIL in a C call.

``PR_SET_PDEATHSIG`` would be wrong: it fires when the *thread* that forked the worker ends.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import threading


def arm(descriptor: int) -> None:
    """Tie this process to the other end of the pipe; returns at once."""
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGKILL)
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_ASYNC)
        if _is_closed(descriptor):  # it closed before the signal was set up
            os.kill(os.getpid(), signal.SIGKILL)
    else:
        watchdog = threading.Thread(target=_die_when_closed, args=(descriptor,), daemon=True)
        watchdog.start()


def _is_closed(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLHUP)
    return bool(poll.poll(0))


def _die_when_closed(descriptor: int) -> None:
    while os.read(descriptor, 1):
        pass
    os.kill(os.getpid(), signal.SIGKILL)
