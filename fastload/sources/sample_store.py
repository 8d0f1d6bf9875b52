"""Keep samples in files of a folder, which any number of processes fill and read at a time.

Runs in: worker (consumer with ``num_workers=0``).
Takes: the number of a sample, and its bytes.
Gives: the bytes again, as they lie in a mapped file.

Two kinds of file::

    index     32 bytes a sample: file, offset, size and CRC-32 of its bytes, CRC-32 of all that
    data-N    the bytes of samples, one after another; only the process that made it writes to it

A sample is there once its entry in the index is, which is written last: so whoever is killed leaves
at most some bytes that nothing refers to. Who loads sample *i* holds a lock of the system's on byte
*i* of the file ``locks``; the kernel takes it from a process that dies.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

from fastload.errors import CorruptDataError

_ENTRY = struct.Struct("<IIQQI")
"""Holds the data file's number, the CRC-32 of the bytes, their offset, size, a CRC-32 of these."""

_ENTRY_BYTES = 32
_STRIPES = 64


class SampleStore:
    """The samples in a folder, as one process reads and writes them.

    Args:
        folder: The folder, which is there.
        length: How many samples there may be.

    Raises:
        OSError: The folder can't be written to, or its disk is full.
    """

    def __init__(self, folder: Path, length: int) -> None:
        self.pid = os.getpid()
        self._folder = folder
        self._locks = [threading.Lock() for _ in range(_STRIPES)]
        self._writing = threading.Lock()
        self._index = _Descriptor(folder / "index", os.O_RDWR | os.O_CREAT)
        self._locked = _Descriptor(folder / "locks", os.O_RDWR | os.O_CREAT)
        with self._room():
            if os.fstat(self._index.number).st_size < length * _ENTRY_BYTES:
                os.posix_fallocate(self._index.number, 0, max(length, 1) * _ENTRY_BYTES)
        self._data: tuple[int, _Descriptor] | None = None
        self._end = 0
        self._maps: dict[int, mmap.mmap] = {}

    def get(self, number: int) -> memoryview | None:
        """Return the bytes of a sample; None if nobody has stored it yet.

        Raises:
            CorruptDataError: They are damaged.
        """
        entry = os.pread(self._index.number, _ENTRY.size, number * _ENTRY_BYTES)
        if len(entry) < _ENTRY.size or not any(entry):
            return None
        file, crc, offset, size, own_crc = _ENTRY.unpack(entry)
        path = self._path(file)
        if zlib.crc32(entry[: -struct.calcsize("I")]) != own_crc:
            raise self._damaged(self._folder / "index", number)
        content = self._mapped(file, offset + size)
        if content is None or zlib.crc32(found := content[offset : offset + size]) != crc:
            raise self._damaged(path, number)
        return found

    def put(self, number: int, content: bytes) -> None:
        """Store a sample; the caller holds its lock.

        Raises:
            OSError: It can't be written, as on a full disk.
        """
        with self._writing, self._room():
            file, descriptor = self._own_file()
            offset = self._end
            _write_all(descriptor.number, content, offset)
            self._end += len(content)
            entry = _ENTRY.pack(file, zlib.crc32(content), offset, len(content), 0)[:-4]
            entry += struct.pack("<I", zlib.crc32(entry))
            _write_all(self._index.number, entry, number * _ENTRY_BYTES)

    @contextlib.contextmanager
    def lock(self, number: int) -> Iterator[None]:
        """Let nobody else, in any process or thread, load this sample meanwhile."""
        with self._locks[number % _STRIPES]:
            self._set_lock(fcntl.F_WRLCK, number)
            try:
                yield
            finally:
                self._set_lock(fcntl.F_UNLCK, number)

    def _set_lock(self, kind: int, number: int) -> None:
        # A lock of the open file, not of the process: no other file that is closed takes it away.
        lock = struct.pack("hhqqi4x", kind, os.SEEK_SET, number, 1, 0)
        fcntl.fcntl(self._locked.number, fcntl.F_OFD_SETLKW, lock)

    def _own_file(self) -> tuple[int, _Descriptor]:
        """Return the file that this process writes to; nobody else ever does."""
        number = 0
        while self._data is None:
            number += 1
            with contextlib.suppress(FileExistsError):
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
                self._data = number, _Descriptor(self._path(number), flags)
        return self._data

    def _mapped(self, file: int, end: int) -> memoryview | None:
        """Return a file as bytes; None if it has fewer than ``end``."""
        content = self._maps.get(file)
        if content is None or len(content) < end:
            try:
                with self._path(file).open("rb") as opened:
                    size = os.fstat(opened.fileno()).st_size
                    if not end <= size:
                        return None
                    content = mmap.mmap(opened.fileno(), size, access=mmap.ACCESS_READ)
            except FileNotFoundError:
                return None
            self._maps[file] = content
        return memoryview(content)

    def _path(self, file: int) -> Path:
        return self._folder / f"data-{file}"

    def _damaged(self, path: Path, number: int) -> CorruptDataError:
        return CorruptDataError(
            f"{path} is damaged: sample {number} is not what was written there. Delete the folder "
            f"{self._folder}; the next epoch fills it again",
            str(path),
        )

    @contextlib.contextmanager
    def _room(self) -> Iterator[None]:
        """Say of a full disk what it is full of."""
        try:
            yield
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            raise OSError(
                error.errno,
                f"{os.strerror(error.errno)}: no more samples can be kept in {self._folder}. Make "
                f"room there and run again, which goes on with the samples that are kept; or give "
                f"Cached a folder on a larger disk",
            ) from error


class _Descriptor:
    """An open file, closed when nobody refers to it any more."""

    def __init__(self, path: Path, flags: int) -> None:
        self.number = os.open(path, flags | os.O_CLOEXEC, 0o666)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            os.close(self.number)


def _write_all(descriptor: int, content: bytes, offset: int) -> None:
    left = memoryview(content)
    while left:
        written = os.pwrite(descriptor, left, offset)
        left, offset = left[written:], offset + written
