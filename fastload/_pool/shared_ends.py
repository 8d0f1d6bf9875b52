"""What all workers of a pool share a descriptor for: their lifeline and the file for their stacks.

Runs in: consumer.

A descriptor for each worker and purpose would soon reach the limit on open files. The kernel keeps
the offset of a file, and which process is signalled when a pipe closes, for each time that it was
*opened*. So the shared pipe and file are opened once more for each worker, through ``/proc``, and
that descriptor is closed here as soon as the worker has it. Where there is no ``/proc`` each worker
has a pipe and a file of its own.
"""

from __future__ import annotations

import os

from fastload._memory.arena import anonymous_file
from fastload._system import descriptors
from fastload._system.descriptors import CLOSED
from fastload._wire.stacks import REGION_BYTES, StackFile


class SharedEnds:
    """The consumer's ends of the lifeline and of the file for stacks, opened with the first worker.

    It also stands for the workers' life: what a forked worker may still read stays as it is until
    all that have the same ``SharedEnds`` are gone.
    """

    def __init__(self) -> None:
        self._lifeline = CLOSED
        self._stacks = CLOSED
        self._regions = 0

    def open_lifeline(self) -> tuple[int, int]:
        """Make a worker's read end, which the caller closes.

        Returns:
            The read end, and its write end if that is not the one that all workers share.

        Raises:
            OSError: No more files may be open.
        """
        if self._lifeline == CLOSED:
            read, write = os.pipe()
            self._lifeline = descriptors.own(write)
            return read, CLOSED
        shared = descriptors.reopened(self._lifeline, os.O_RDONLY)
        if shared is not None:
            return shared, CLOSED
        read, write = os.pipe()
        return read, descriptors.own(write)

    def open_stack_file(self) -> tuple[int, StackFile] | None:
        """Make a worker's descriptor for its stack, which the caller closes, and our view of it.

        Returns:
            Both; or None where there is no room for an anonymous file.
        """
        try:
            if self._stacks == CLOSED:
                self._stacks = descriptors.own(anonymous_file())
            start = self._regions * REGION_BYTES
            theirs = descriptors.reopened(self._stacks, os.O_RDWR)
            if theirs is not None:
                os.lseek(theirs, start, os.SEEK_SET)
                self._regions += 1
                return theirs, StackFile(self._stacks, start, is_shared=True)
        except OSError:
            return None
        return _own_stack_file()

    def cut_off(self) -> None:
        """Close the lifeline, which kills every worker that still runs."""
        lifeline, self._lifeline = self._lifeline, CLOSED
        descriptors.close(lifeline)

    def close(self) -> None:
        """Close both."""
        self.cut_off()
        stacks, self._stacks = self._stacks, CLOSED
        descriptors.close(stacks)


def _own_stack_file() -> tuple[int, StackFile] | None:
    ours = CLOSED
    try:
        ours = descriptors.own(anonymous_file())
        return os.dup(ours), StackFile(ours, 0, is_shared=False)
    except OSError:
        descriptors.close(ours)
        return None
