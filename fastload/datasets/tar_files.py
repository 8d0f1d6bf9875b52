"""Find tar shards, and read bytes of one: at any place of a plain one, forwards in a gzip one.

Runs in: the process that makes the dataset (names); worker (bytes).
Takes: what the user named: paths, brace patterns, globs; then offsets in the archive.
Gives: paths in a fixed order; bytes, or an error that says where they end.
"""

from __future__ import annotations

import glob
import gzip
import os
import re
import weakref
import zlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from fastload.errors import CorruptDataError

INDEX_SUFFIX = ".index.npz"
_WILDCARDS = frozenset("*?[")
_GZIP = b"\x1f\x8b"
_CHUNK_BYTES = 1 << 22
"""What is read at a time of a gzip shard: a damaged size must not ask for all the memory."""

_BRACES = re.compile(r"\{([^{}]*)\}")
_NUMBERS = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?")
_LETTERS = re.compile(r"([A-Za-z])\.\.([A-Za-z])")


class FileMark(NamedTuple):
    """Tells one state of a file from another: its size in bytes and when it was changed."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileMark:
        """Return the state of a file."""
        return cls(status.st_size, status.st_mtime_ns)

    def __str__(self) -> str:
        return f"{self.size} bytes, changed at {np.datetime64(self.mtime_ns, 'ns')}"


class TarSource(Protocol):
    """The bytes of one archive, as they are once unpacked."""

    path: str
    size: int | None
    """Number of bytes; None if only reading tells."""
    mark: FileMark
    """The state in which the file was opened."""

    def read(self, offset: int, size: int) -> bytes:
        """Return the bytes at an offset; fewer if the archive ends before."""


class PlainSource:
    """An archive as it lies on the disk, read at any place.

    It has no position, so processes and threads may share it. Its descriptor is closed with it.

    Args:
        path: Of the file.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._close = weakref.finalize(self, os.close, self._descriptor)
        self._close.atexit = False
        self._status = os.fstat(self._descriptor)
        self.mark = FileMark.of(self._status)
        self.size: int | None = self.mark.size

    def is_unchanged(self) -> bool:
        """Whether nobody has written to the open file."""
        return FileMark.of(os.fstat(self._descriptor)) == self.mark

    def is_still(self, status: os.stat_result) -> bool:
        """Whether a file is the open one, and nobody has written to it."""
        return os.path.samestat(self._status, status) and self.mark == FileMark.of(status)

    def read(self, offset: int, size: int) -> bytes:
        """Return the bytes at an offset; fewer if the archive ends before."""
        data = os.pread(self._descriptor, size, offset)
        if len(data) == size or not data:
            return data
        parts = [data]  # the kernel gives 2 GiB at most, and may be interrupted
        while data and sum(map(len, parts)) < size:
            done = sum(map(len, parts))
            data = os.pread(self._descriptor, size - done, offset + done)
            parts.append(data)
        return b"".join(parts)


class GzipSource:
    """An archive packed by gzip. It is read forwards; what lies behind makes it begin anew.

    Args:
        path: Of the file.
    """

    size: int | None = None

    def __init__(self, path: str) -> None:
        self.path = path
        self._raw = open(path, "rb")  # noqa: SIM115, PTH123  (closed with the source)
        self._status = os.fstat(self._raw.fileno())
        self.mark = FileMark.of(self._status)
        self._unpacked = gzip.GzipFile(fileobj=self._raw)
        self._close = weakref.finalize(self, self._raw.close)
        self._close.atexit = False

    def is_unchanged(self) -> bool:
        """Whether nobody has written to the open file."""
        return FileMark.of(os.fstat(self._raw.fileno())) == self.mark

    def is_still(self, status: os.stat_result) -> bool:
        """Whether a file is the open one, and nobody has written to it."""
        return os.path.samestat(self._status, status) and self.mark == FileMark.of(status)

    def read(self, offset: int, size: int) -> bytes:
        """Return the bytes at an offset; fewer if the archive ends before.

        Raises:
            CorruptDataError: The file is cut, or is not what was packed.
        """
        try:
            self._unpacked.seek(offset)
            if size <= _CHUNK_BYTES:
                return self._unpacked.read(size)
            parts = []
            while size and (data := self._unpacked.read(min(size, _CHUNK_BYTES))):
                parts.append(data)
                size -= len(data)
            return b"".join(parts)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise CorruptDataError(
                f"{self.path}: its gzip data is damaged before offset {offset + size} of what is "
                f"packed in it: {error}",
                path=self.path,
                offset=offset,
            ) from error
        except BaseException:
            # A signal handler's: what was unpacked may be lost, and then all that follows is moved.
            self._raw.seek(0)
            self._unpacked = gzip.GzipFile(fileobj=self._raw)
            raise


def is_gzip(path: str) -> bool:
    """Whether a file begins as gzip's do, whatever its name."""
    with open(path, "rb") as file:  # noqa: PTH123
        return file.read(2) == _GZIP


def open_shard(path: str) -> PlainSource | GzipSource:
    """Open a shard to read from it."""
    return GzipSource(path) if is_gzip(path) else PlainSource(path)


def find_shards(urls: Any) -> list[str]:
    """Look up what the user named.

    Args:
        urls: A path, a pattern with braces (``shard-{000..099}.tar``) or wildcards, or an iterable
            of those. What wildcards match is sorted, all else stays in its order.

    Raises:
        FileNotFoundError: A file is missing, or nothing matches a pattern.
        TypeError: What the user named is no path.
        ValueError: A name is a URL or a command, which is not read.
    """
    found = [path for name in _names(urls) for path in _matching(name)]
    folders = [path for path in found if Path(path).is_dir()]
    if folders:
        raise FileNotFoundError(
            f"{folders[0]} is a folder; name the shards in it, as {Path(folders[0]) / '*.tar'}"
        )
    missing = [path for path in found if not Path(path).is_file()]
    if missing:
        raise FileNotFoundError(f"{len(missing)} of {len(found)} shards are missing: {missing[:5]}")
    if not found:
        raise FileNotFoundError("no shard was named")
    return found


def expand_braces(name: str) -> list[str]:
    """Return the names that a pattern stands for, as a shell does.

    ``{a,b}`` are alternatives, ``{08..11}`` numbers (with leading zeros if an end has them,
    ``{0..9..3}`` with a step), ``{a..c}`` letters. Braces of anything else stay as they are.

    Raises:
        ValueError: Braces are nested, or one has no other.

    Example:
        >>> expand_braces("{train,val}-{08..10}.tar")[2:4]
        ['train-10.tar', 'val-08.tar']
    """
    pieces = _BRACES.split(name)
    if any("{" in literal or "}" in literal for literal in pieces[::2]):
        raise ValueError(
            f"{name!r} has braces within braces, or one without its other; give a list of names"
        )
    choices = [_alternatives(piece) if at % 2 else [piece] for at, piece in enumerate(pieces)]
    return list(map("".join, product(*choices)))


def _alternatives(inside: str) -> list[str]:
    if match := _NUMBERS.fullmatch(inside):
        first, last, step = match.groups()
        padded = any(re.match(r"-?0\d", end) for end in (first, last))
        width = max(len(first), len(last)) if padded else 0
        return [f"{number:0{width}d}" for number in _range(int(first), int(last), int(step or 1))]
    if match := _LETTERS.fullmatch(inside):
        return [chr(code) for code in _range(ord(match[1]), ord(match[2]), 1)]
    return inside.split(",") if "," in inside else [f"{{{inside}}}"]


def _range(first: int, last: int, step: int) -> range:
    step = abs(step) or 1
    return range(first, last + 1, step) if first <= last else range(first, last - 1, -step)


def _names(urls: Any) -> Iterator[str]:
    if isinstance(urls, str | os.PathLike):
        urls = [urls]
    if not isinstance(urls, Iterable) or isinstance(urls, Mapping | bytes):
        raise TypeError(
            f"expected the path of a tar file, or an iterable of paths, but got a "
            f"{type(urls).__name__}"
        )
    for name in urls:
        if not isinstance(name, str | os.PathLike):
            raise TypeError(f"expected paths, but got {name!r}, a {type(name).__name__}")
        text = os.fspath(name)
        if text.startswith("file:"):
            text = text.removeprefix("file:").removeprefix("//")
        elif re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", text):
            raise ValueError(
                f"{text!r} is a URL or a command; tar shards are read from files. Copy the shards "
                f"to a disk, or mount the store"
            )
        # A file that has braces in its name is that file.
        yield from [text] if Path(text).exists() else expand_braces(text)


def _matching(name: str) -> list[str]:
    path = str(Path(name).expanduser())
    if Path(path).exists() or _WILDCARDS.isdisjoint(name):
        return [path]
    found = sorted(each for each in glob.glob(path) if not each.endswith(INDEX_SUFFIX))  # noqa: PTH207
    if not found:
        raise FileNotFoundError(f"no file matches {name!r}")
    return found
