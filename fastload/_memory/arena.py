"""The arena: one sparse shared file, mapped once by the consumer and once by each worker.

Runs in: consumer and workers.
Takes: a number of slots and a stride, the most bytes a slot can hold; a number of workers.
Gives: each slot as a NumPy array of bytes; for each worker a flag a slot: may it write there?

Pages cost nothing until they are touched, so the stride can be far larger than any batch.
"""

from __future__ import annotations

import contextlib
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

Bytes = npt.NDArray[np.uint8]

SMALLEST_FAULT_IN_BYTES = 1 << 18
"""Below this, a call costs more than the page faults it saves."""

MADV_POPULATE_READ = 22
MADV_POPULATE_WRITE = 23


class Arena:
    """Shared memory in slots of equal stride.

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
        """Make an arena; a smaller stride than asked for if the system refuses that one.

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
                except (OSError, ValueError, OverflowError):
                    if stride_bytes <= mmap.PAGESIZE:
                        raise
                    stride_bytes = stride_bytes // 4 & -mmap.PAGESIZE
        except BaseException:
            os.close(descriptor)
            raise
        _seal(descriptor)
        return arena

    def flags(self, worker: int) -> memoryview:
        """One byte a slot, seen by the consumer and by this worker."""
        return self._flags[worker * self.slots : (worker + 1) * self.slots]

    def slot(self, number: int) -> Bytes:
        """A new view of one slot; its life is what a lease follows."""
        start = number * self.stride_bytes
        return self.bytes[start : start + self.stride_bytes]

    def slot_of(self, address: int) -> int | None:
        """The slot in which an address lies, or None if it lies outside."""
        offset = address - self.address
        return offset // self.stride_bytes if 0 <= offset < len(self.bytes) else None

    def has_room(self, number: int, end: int) -> bool:
        """Whether a slot's first bytes can be written; asks the file system, where there is one."""
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
        """Ask the file system anew: the consumer may have given a slot's pages back since.

        What lies before ``begin`` is somebody else's, who asks for it.
        """
        if self._allocated is not None and number >= 0:
            self._allocated[number] = begin

    def fault_in(self, number: int, end: int, *, to_write: bool) -> None:
        """Map a slot's first bytes into this process in one call instead of a fault a page.

        Three times faster for pages that are new, ten times for pages another process has
        written. Without effect where the system does not know the call (Linux before 5.14).
        """
        start = self._faulted_in[number]
        if end - start < SMALLEST_FAULT_IN_BYTES or sys.platform != "linux":
            return
        end = min(_whole_pages(end), self.stride_bytes)
        self._faulted_in[number] = end
        advice = MADV_POPULATE_WRITE if to_write else MADV_POPULATE_READ
        with contextlib.suppress(OSError, ValueError):
            self._mapping.madvise(advice, self._offset(number) + start, end - start)

    def forget_faults(self) -> None:
        """In a process forked since the pages were mapped: they are not mapped here."""
        self._faulted_in = [0] * self.slots

    def give_back_pages(self, number: int) -> None:
        """Return a slot's memory to the system; its content is lost, the slot stays usable."""
        if hasattr(mmap, "MADV_REMOVE"):
            with contextlib.suppress(OSError):
                self._mapping.madvise(mmap.MADV_REMOVE, self._offset(number), self.stride_bytes)
        self._faulted_in[number] = 0

    def give_back_region(self, number: int, begin: int, end: int) -> None:
        """Return the memory of whole pages in a slot to the system; their content is lost."""
        if hasattr(mmap, "MADV_REMOVE"):
            with contextlib.suppress(OSError):
                self._mapping.madvise(mmap.MADV_REMOVE, self._offset(number) + begin, end - begin)

    def _offset(self, number: int) -> int:
        return self._start + number * self.stride_bytes

    def close_descriptor(self) -> None:
        """Close our descriptor; what is mapped stays mapped for as long as anything views it."""
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
    """A file without a name: in memory where the system can, else an unlinked temporary one."""
    if hasattr(os, "memfd_create"):
        with contextlib.suppress(OSError):
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
    """Have pages for a part of a file, which may grow by that, so that to touch them can't fail.

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
    """The same error, with the file system it came from and what to do."""
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
    """Whether a file lies in no file system that could be full: whether it is a memfd."""
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/self/fd/{descriptor}").startswith("/memfd:")  # noqa: PTH115
    return False


def _seal(descriptor: int) -> None:
    if sys.platform == "linux":
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
