"""Read-only bytes that several processes see at once, in one copy.

Runs in: any process.
Takes: chunks of bytes, once.
Gives: a read-only view of each chunk, here and in every process the object travels to.

A forked child inherits the mapping. A process that is being started gets the file's descriptor
(with multiprocessing's own start arguments, or in a shared pickle); so nothing is copied. Pickled
in any other way (``pickle.dumps``, a queue) the content goes along, because the file has no name.
"""

from __future__ import annotations

import mmap
import os
import pickle
import sys
import weakref
from collections.abc import Iterable, Sequence
from multiprocessing import context
from typing import Any

from fastload._memory.arena import anonymous_file, write_at
from fastload._memory.layout import aligned
from fastload._system.descriptors import Descriptor
from fastload._system.interruptions import own_suppressed

Span = tuple[int, int]


class SharedBytes:
    """Holds chunks of bytes in an anonymous file and gives a view of each.

    Guarantees:
        - no process can change them (the file is sealed where the kernel can);
        - one descriptor each, closed with the object;
        - nothing of it has a name: it is gone with the last process that holds it.
    """

    def __init__(self, descriptor: int, spans: Sequence[Span]) -> None:
        self.descriptor = descriptor
        self.spans = tuple(spans)
        size_bytes = max([end for _, end in self.spans], default=0) or 1
        # Private, as older kernels refuse a shared mapping of a file sealed against writes.
        mapping = mmap.mmap(descriptor, size_bytes, mmap.MAP_PRIVATE, mmap.PROT_READ)
        view = memoryview(mapping)
        self.chunks = tuple(view[start:end] for start, end in self.spans)
        self._closed = weakref.finalize(self, _close, descriptor)  # last: now the file is ours

    @classmethod
    def of(cls, chunks: Iterable[Any]) -> SharedBytes:
        """Copy chunks (anything with the buffer protocol) into a new file.

        Raises:
            OSError: There is no room for them.
        """
        descriptor = anonymous_file()
        try:
            spans, end = [], 0
            for chunk in chunks:
                start = aligned(end)
                content = memoryview(chunk).cast("B")
                write_at(descriptor, start, content)
                end = start + content.nbytes
                spans.append((start, end))
            os.ftruncate(descriptor, max(end, 1))
            _seal(descriptor)
            return cls(descriptor, spans)
        except BaseException:
            with own_suppressed(OSError):
                os.close(descriptor)
            raise

    @property
    def nbytes(self) -> int:
        """Return the bytes that all chunks take, once for all processes."""
        return sum(end - start for start, end in self.spans)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        if context.get_spawning_popen() is not None:
            return attach, (Descriptor(self.descriptor), self.spans)
        if protocol < 5:
            return _copied, tuple(map(bytes, self.chunks))
        return _copied, tuple(map(pickle.PickleBuffer, self.chunks))


def attach(descriptor: Descriptor, spans: Sequence[Span]) -> SharedBytes:
    """Return another process's chunks, given a descriptor that belongs to this process."""
    return SharedBytes(descriptor.number, spans)


def _copied(*chunks: Any) -> SharedBytes:
    return SharedBytes.of(chunks)


def _seal(descriptor: int) -> None:
    if sys.platform == "linux":
        import fcntl

        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        with own_suppressed(OSError):  # a temporary file, where there is no memfd
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)


def _close(descriptor: int) -> None:
    with own_suppressed(OSError):
        os.close(descriptor)
