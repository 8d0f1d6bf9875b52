"""The arena: one sparse shared file that the consumer and every worker of a pool map once.

Runs in: consumer and workers.
Takes: the number of slots, the stride (the most bytes a slot can hold) and the number of workers.
Gives: each slot as a NumPy array of bytes; and for each worker one flag a slot, which says whether
the worker may write there.

Pages cost nothing until they are touched, so the stride can be far larger than any batch.
"""

from __future__ import annotations

import errno
import mmap
import os
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from fastload._system.descriptors import Descriptor
from fastload._system.interruptions import is_from_outside, own_suppressed

Bytes = npt.NDArray[np.uint8]

SMALLEST_FAULT_IN_BYTES = 1 << 18
"""For fewer bytes than this, the call costs more than the page faults it saves."""

MADV_POPULATE_READ = 22
MADV_POPULATE_WRITE = 23


class Arena:
    """An arena is shared memory that is divided into slots of equal stride.

    Guarantees:
        - nothing of it has a name in a file system: it is gone with the last process that maps it;
        - no SIGBUS: its size can't change under a mapping (sealed where the kernel can), and where
          it lies in a file system, room is asked for before a page is touched;
        - it does not appear in core dumps.
    """

    def __init__(self, descriptor: int, slots: int, stride_bytes: int, workers: int) -> None:
        self.descriptor = descriptor
        self.slots = slots
        self.stride_bytes = stride_bytes
        self.workers = workers
        self._start = _whole_pages(workers * slots)
        mapping = mmap.mmap(descriptor, self._start + slots * stride_bytes)
        if hasattr(mmap, "MADV_DONTDUMP"):
            mapping.madvise(mmap.MADV_DONTDUMP)
        self._mapping = mapping
        self._flags = memoryview(mapping)
        self.bytes: Bytes = np.frombuffer(mapping, dtype=np.uint8, offset=self._start)
        self.address = int(self.bytes.ctypes.data)
        self._faulted_in = [0] * slots
        # In a file system that fills up, touching a page of a hole would be a SIGBUS.
        self.is_memory = _is_memory(descriptor)
        self._allocated = None if self.is_memory else [0] * slots

    @classmethod
    def create(cls, slots: int, stride_bytes: int, workers: int) -> Arena:
        """Make an arena, with a smaller stride than asked for if the system refuses that one.

        Raises:
            OSError: Not even slots of one page can be mapped.
        """
        stride_bytes &= -mmap.PAGESIZE
        if stride_bytes == 0:
            raise OSError(errno.ENOMEM, "a slot would be smaller than a page")
        descriptor = anonymous_file()
        try:
            while True:
                try:
                    head_bytes = _whole_pages(workers * slots)
                    os.ftruncate(descriptor, head_bytes + slots * stride_bytes)
                    if not _is_memory(descriptor):
                        allocate(descriptor, 0, head_bytes)
                    arena = cls(descriptor, slots, stride_bytes, workers)
                    break
                except (OSError, ValueError, OverflowError) as error:
                    # RLIMIT_AS, perhaps. With smaller slots more leaves go by pipe, no more.
                    if stride_bytes <= mmap.PAGESIZE or is_from_outside(error):
                        raise
                    stride_bytes = stride_bytes // 4 & -mmap.PAGESIZE
        except BaseException:
            os.close(descriptor)
            raise
        _seal(descriptor)
        return arena

    def flags(self, worker: int) -> memoryview:
        """Return a worker's flags, one byte a slot, which the consumer and that worker see."""
        return self._flags[worker * self.slots : (worker + 1) * self.slots]

    def slot(self, number: int) -> Bytes:
        """Return a new view of one slot; a lease lasts as long as this view lives."""
        start = number * self.stride_bytes
        return self.bytes[start : start + self.stride_bytes]

    def slot_of(self, address: int) -> int | None:
        """Return the slot in which an address lies, or None if it lies outside the arena."""
        offset = address - self.address
        return offset // self.stride_bytes if 0 <= offset < len(self.bytes) else None

    def has_room(self, number: int, end: int) -> bool:
        """Return whether a slot's first ``end`` bytes can be written.

        A memfd always has room. Any other file is given the blocks here, which its file system may
        refuse.
        """
        if self._allocated is None or end <= self._allocated[number]:
            return True
        start = self._allocated[number]
        try:
            allocate(self.descriptor, self._offset(number) + start, end - start)
        except OSError:
            return False
        self._allocated[number] = end
        return True

    def forget_room(self, number: int, begin: int = 0) -> None:
        """Have ``has_room`` ask again for a slot, whose pages the consumer may have given back.

        What lies before ``begin`` is somebody else's, who asks for it.
        """
        if self._allocated is not None and number >= 0:
            self._allocated[number] = begin

    def fault_in(self, number: int, end: int, *, to_write: bool) -> None:
        """Map a slot's first bytes into this process with one call instead of one fault a page.

        That is three times as fast for new pages, ten times for pages another process has written.
        It has no effect where the system does not know the call (Linux before 5.14).
        """
        start = self._faulted_in[number]
        if end - start < SMALLEST_FAULT_IN_BYTES or sys.platform != "linux":
            return
        end = min(_whole_pages(end), self.stride_bytes)
        self._faulted_in[number] = end
        advice = MADV_POPULATE_WRITE if to_write else MADV_POPULATE_READ
        with own_suppressed(OSError, ValueError):
            self._mapping.madvise(advice, self._offset(number) + start, end - start)

    def forget_faults(self) -> None:
        """Note, in a process that was just forked, that no page is mapped here yet."""
        self._faulted_in = [0] * self.slots

    def give_back_pages(self, number: int) -> None:
        """Return a slot's memory to the system; its content is lost, but the slot stays usable."""
        if hasattr(mmap, "MADV_REMOVE"):
            with own_suppressed(OSError):
                self._mapping.madvise(mmap.MADV_REMOVE, self._offset(number), self.stride_bytes)
        self._faulted_in[number] = 0

    def give_back_region(self, number: int, begin: int, end: int) -> None:
        """Return the memory of whole pages in a slot to the system; their content is lost."""
        if hasattr(mmap, "MADV_REMOVE"):
            with own_suppressed(OSError):
                self._mapping.madvise(mmap.MADV_REMOVE, self._offset(number) + begin, end - begin)

    def _offset(self, number: int) -> int:
        return self._start + number * self.stride_bytes

    def close_descriptor(self) -> None:
        """Close this process's descriptor; the mapping stays for as long as anything views it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __reduce__(self) -> tuple[Callable[..., Arena], tuple[Any, ...]]:
        return _attach, (
            Descriptor(self.descriptor),
            self.slots,
            self.stride_bytes,
            self.workers,
        )


def _attach(descriptor: Descriptor, slots: int, stride_bytes: int, workers: int) -> Arena:
    return Arena(descriptor.number, slots, stride_bytes, workers)


def _whole_pages(size_bytes: int) -> int:
    return -(-size_bytes // mmap.PAGESIZE) * mmap.PAGESIZE


def anonymous_file() -> int:
    """Open a file without a name: a memfd if the system has it, else an unlinked temporary file."""
    if hasattr(os, "memfd_create"):
        with own_suppressed(OSError):
            return os.memfd_create("fastload", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    descriptor, path = tempfile.mkstemp(prefix="fastload-")
    os.unlink(path)  # noqa: PTH108
    return descriptor


def write_at(descriptor: int, start: int, content: memoryview) -> None:
    """Write all of ``content`` into an anonymous file; a single call takes 2 GiB at most.

    Raises:
        OSError: There is no room for it; the text says in which file system.
    """
    done = 0
    try:
        while done < content.nbytes:
            done += os.pwrite(descriptor, content[done:], start + done)
    except OSError as error:
        raise _with_place(error, descriptor, content.nbytes) from error


def allocate(descriptor: int, start: int, size_bytes: int) -> None:
    """Reserve blocks for a part of a file, which may grow by that: touching them can't fail then.

    Raises:
        OSError: The file system has no room for them; the text says which.
    """
    if not hasattr(os, "posix_fallocate"):
        os.ftruncate(descriptor, max(os.fstat(descriptor).st_size, start + size_bytes))
        return
    try:
        os.posix_fallocate(descriptor, start, size_bytes)
    except OSError as error:
        raise _with_place(error, descriptor, size_bytes) from error


def _with_place(error: OSError, descriptor: int, size_bytes: int) -> OSError:
    """Return the same error, or, outside of memory, one that names the file system and the cure."""
    if _is_memory(descriptor):
        return error
    folder = tempfile.gettempdir()
    return OSError(
        error.errno,
        f"{os.strerror(error.errno or 0)}: {size_bytes} bytes of shared memory were to lie in the "
        f"file system of {folder}, because this system has no memfd_create. Make room there, or "
        f"set TMPDIR to a folder with more of it",
        folder,
    )


def _is_memory(descriptor: int) -> bool:
    """Return whether a file is a memfd, so that it lies in no file system that could be full."""
    with own_suppressed(OSError):
        return os.readlink(f"/proc/self/fd/{descriptor}").startswith("/memfd:")  # noqa: PTH115
    return False


def _seal(descriptor: int) -> None:
    if sys.platform == "linux":
        import fcntl

        with own_suppressed(OSError):
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
