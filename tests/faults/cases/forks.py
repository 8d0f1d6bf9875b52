"""Run a function in a forked child, and say what it returned."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable

CHILD_LIMIT_S = 5


def in_a_child(function: Callable[[], str]) -> str:
    """The text that it gives or the exception that it raises there, or "hangs"."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            text = function()
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(write, (text or "nothing").encode())
        os._exit(0)
    os.close(write)
    readable, _, _ = select.select([read], [], [], CHILD_LIMIT_S)
    text = os.read(read, 1 << 16).decode() if readable else "hangs"
    os.close(read)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return text
