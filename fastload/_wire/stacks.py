"""Get the stack of a worker that crashed or hangs.

Runs in: worker (``arm``) and consumer (``StackFile``).
Takes: an anonymous file that both have open. All workers of a pool write to the same one, each from
an offset of its own.
Gives: what ``faulthandler`` wrote there, by itself at a crash, or when asked by a signal. It needs
no GIL, so it tells where C code is stuck too.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from pathlib import Path

from fastload._system import descriptors
from fastload._system.interruptions import is_from_outside, own_suppressed

ASK = getattr(signal, "SIGRTMAX", signal.SIGUSR2) - 3
"""The real-time signal that asks for the stack; hardly any program uses it."""

OUR_LOOP = str(Path(__file__).parents[1] / "_worker")
IDLE = f'{Path("concurrent", "futures", "thread.py")}", line'
READY = b"\n"
LONGEST_BYTES = 4096
"""What is shown of a worker's stacks, and how much is read for that: many threads may be idle."""

_READ_BYTES = 1 << 16
PATIENCE_S = 0.5
"""A worker may take so long to begin writing; one that is stopped never does."""

REGION_BYTES = 1 << 20
"""One worker may write so much of a file, of which nearly all stays a hole that takes no memory."""

_CHUNK_BYTES = 1 << 14

QUIET_S = 0.02
"""A dump has ended when nothing was added for so long."""


def arm(descriptor: int) -> None:
    """Write this process's stack to the file at a crash and whenever the consumer asks."""
    faulthandler.disable()  # where it was enabled, another handler may have taken its place since
    faulthandler.enable(file=descriptor, all_threads=True)
    if hasattr(faulthandler, "register"):
        faulthandler.register(ASK, file=descriptor, all_threads=True)
    with own_suppressed(OSError):  # RLIMIT_FSIZE may be small
        os.write(descriptor, READY)


def _of_the_user(dump: str) -> str:
    """Return a dump without idle threads, our own loop and below, and the list of modules."""
    threads = dump.partition("\nExtension modules")[0].strip().split("\n\n")
    return "\n\n".join(short for each in threads if (short := _of_one(each)))[:LONGEST_BYTES]


def _of_one(thread: str) -> str:
    """What is shown of one thread; nothing of one that waits for a sample to load."""
    frames = [line for line in thread.splitlines() if line.startswith("  File ")]
    if frames and IDLE in frames[0]:
        return ""
    lines, is_ours = [], False
    for line in thread.splitlines():
        is_ours = is_ours or f'"{OUR_LOOP}' in line
        if not is_ours:
            lines.append(line)
    return "\n".join(lines)


class StackFile:
    """The consumer's view of what one worker wrote.

    Args:
        descriptor: The file.
        start: Where in it the worker begins to write.
        is_shared: Whether other workers use the file too; if not, it is closed here.
    """

    def __init__(self, descriptor: int, start: int, *, is_shared: bool) -> None:
        self._descriptor = descriptor
        self._start = start
        self._is_shared = is_shared
        self._read = start + len(READY)

    @property
    def is_ready(self) -> bool:
        """Return whether the worker has set up how its stack is written."""
        return self._end() > self._start

    def written(self) -> str:
        """Return what the worker wrote since the last call; it may be nothing."""
        end = self._end()
        if end <= self._read:
            return ""
        text = os.pread(self._descriptor, min(_READ_BYTES, end - self._read), self._read)
        self._read = end
        return _of_the_user(text.decode(errors="replace"))

    def ask(self, pid: int) -> str:
        """Ask a live worker for its stack; return "" if it is not ready for that, or stopped."""
        end = self._end()
        is_ready = self._start < end < self._start + REGION_BYTES // 2
        if not hasattr(faulthandler, "register") or not is_ready:
            return ""
        self._read = end
        try:
            os.kill(pid, ASK)
        except OSError as error:
            if is_from_outside(error):
                raise
            return ""
        self._wait_for_the_dump(end)
        return self.written()

    def _wait_for_the_dump(self, end_before: int) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        end = end_before
        while time.monotonic() < deadline_s:
            time.sleep(QUIET_S)
            before, end = end, self._end()
            if end_before < end == before:
                return

    def _end(self) -> int:
        """Return where the worker's text ends now; behind it are zeros, or nothing."""
        end = max(self._start, self._read - len(READY))
        with own_suppressed(OSError):
            while chunk := os.pread(self._descriptor, _CHUNK_BYTES, end):
                text = chunk.partition(b"\0")[0]
                end += len(text)
                if len(text) < len(chunk):
                    break
        return end

    def close(self) -> None:
        """Close the file if it is this worker's alone."""
        descriptor, self._descriptor = self._descriptor, descriptors.CLOSED
        if not self._is_shared:
            descriptors.close(descriptor)
