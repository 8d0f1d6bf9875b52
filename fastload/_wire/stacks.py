"""The stack of a worker that crashed or hangs, as its consumer sees it.

Runs in: worker (`arm`) and consumer (`StackFile`).
Takes: an anonymous file that both have open.
Gives: what ``faulthandler`` wrote there: by itself at a crash, or when asked by a signal. It needs
no GIL, so it tells where C code is stuck too.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from pathlib import Path

from fastload._system import descriptors

ASK = getattr(signal, "SIGRTMAX", signal.SIGUSR2) - 3
"""A real-time signal that hardly any program uses."""

OUR_LOOP = str(Path(__file__).parent)
READY = b"\n"
LONGEST_BYTES = 4096
PATIENCE_S = 0.5
"""How long a worker may take to begin writing; one that is stopped never does."""

QUIET_S = 0.02
"""A dump has ended when nothing was added for so long."""


def arm(descriptor: int) -> None:
    """Write this process's stack to the file at a crash and whenever the consumer asks."""
    faulthandler.disable()  # where it was enabled, another handler may have taken its place since
    faulthandler.enable(file=descriptor, all_threads=True)
    if hasattr(faulthandler, "register"):
        faulthandler.register(ASK, file=descriptor, all_threads=True)
    os.write(descriptor, READY)


def _of_the_user(dump: str) -> str:
    """A dump without the frames from our own loop downwards, and the list of modules."""
    lines, is_ours = [], False
    for line in dump.partition("\nExtension modules")[0].strip().splitlines():
        is_frame = line.startswith("  File ")
        is_ours = is_frame and (is_ours or f'"{OUR_LOOP}' in line)
        if not is_ours:
            lines.append(line)
    return "\n".join(lines)


class StackFile:
    """The consumer's end of one worker's file."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptors.own(descriptor)
        self._read = len(READY)

    def written(self) -> str:
        """What the worker wrote since the last call; it may have written nothing."""
        size = self._size()
        if size <= self._read:
            return ""
        text = os.pread(self._descriptor, LONGEST_BYTES, self._read)
        self._read = size
        return _of_the_user(text.decode(errors="replace"))

    def ask(self, pid: int) -> str:
        """Ask a live worker for its stack; empty if it is not ready for that, or is stopped."""
        size = self._size()
        if not hasattr(faulthandler, "register") or size < len(READY):
            return ""
        self._read = size
        try:
            os.kill(pid, ASK)
        except OSError:
            return ""
        self._wait_for_the_dump(size)
        return self.written()

    def _wait_for_the_dump(self, size_before: int) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        size = size_before
        while time.monotonic() < deadline_s:
            time.sleep(QUIET_S)
            before, size = size, self._size()
            if size_before < size == before:
                return

    def _size(self) -> int:
        try:
            return os.fstat(self._descriptor).st_size
        except OSError:
            return 0

    def close(self) -> None:
        """Close our end."""
        descriptor, self._descriptor = self._descriptor, descriptors.CLOSED
        descriptors.close(descriptor)
