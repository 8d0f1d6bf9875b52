"""Keep checksums of an Arrow or Parquet file inside the file, where other readers don't look.

Runs in: any process.

Both formats end with a footer, its size and a magic word, and find everything else by offsets in
the footer. So a table may lie just before the footer; every reader skips it::

    contents | table: JSON, TABLE_END | footer | size of footer | magic word

The table holds a CRC-32 of each extent (a record batch; a column of a row group) and of the footer.
The schema's metadata says that there is a table, so that a damaged table is not taken for none.
"""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any, NamedTuple

from fastload.errors import CorruptDataError

MARK = b"fastload.checksums"
"""A file that has a table has this key in its schema's metadata."""

ARROW = b"ARROW1"
PARQUET = b"PAR1"

_TABLE_END = struct.Struct("<IQI8s")
"""Holds the CRC-32 of the JSON, its size, the CRC-32 of all after the table, the magic word."""

_MAGIC = b"FASTLOAD"
_SIZE_BYTES = 4


class Extent(NamedTuple):
    """A stretch of a file and its CRC-32."""

    offset: int
    size_bytes: int
    crc: int


class Extents(NamedTuple):
    """What the table of a file says.

    Attributes:
        rows: The number of rows of each record batch or row group.
        extents: The extents of each, in the order of its columns; a record batch has one.
    """

    rows: tuple[int, ...]
    extents: tuple[tuple[Extent, ...], ...]


def add_table(path: str, magic: bytes, rows: list[int], spans: list[list[tuple[int, int]]]) -> None:
    """Put a table into a finished file.

    Args:
        path: The file.
        magic: ``ARROW`` or ``PARQUET``.
        rows: Rows of each record batch or row group.
        spans: Offset and size of the extents of each.
    """
    with open(path, "r+b") as file:  # noqa: PTH123  (a path is a string everywhere in pyarrow)
        extents = [[_extent(file, *span) for span in group] for group in spans]
        content = json.dumps({"rows": rows, "extents": extents}, separators=(",", ":")).encode()
        size = file.seek(0, 2)
        footer_at = _footer_offset(file, size, magic)
        file.seek(footer_at)
        footer = file.read()
        end = _TABLE_END.pack(zlib.crc32(content), len(content), zlib.crc32(footer), _MAGIC)
        file.seek(footer_at)
        file.write(content + end + footer)


def read_table(file: Any, magic: bytes, path: str) -> Extents | None:
    """Return the table of an open file whose footer is undamaged; None if it has no table.

    Args:
        file: Seekable and readable, such as a ``pyarrow.NativeFile``.
        magic: ``ARROW`` or ``PARQUET``.
        path: Named in errors.

    Raises:
        CorruptDataError: The file has no footer, or table or footer are damaged.
    """
    size = file.seek(0, 2)
    try:
        footer_at = _footer_offset(file, size, magic)
    except ValueError as error:
        raise CorruptDataError(f"{path}: {error}", path) from None
    if footer_at < _TABLE_END.size:
        return None
    file.seek(footer_at - _TABLE_END.size)
    crc, content_size, footer_crc, word = _TABLE_END.unpack(_read(file, _TABLE_END.size))
    if word != _MAGIC:
        return None
    content_at = footer_at - _TABLE_END.size - content_size
    if content_at < 0:
        raise _damaged(path, "the table of checksums")
    file.seek(content_at)
    content = _read(file, content_size)
    if zlib.crc32(content) != crc:
        raise _damaged(path, "the table of checksums")
    file.seek(footer_at)
    if zlib.crc32(_read(file, size - footer_at)) != footer_crc:
        raise _damaged(path, "the footer")
    table = json.loads(content)
    extents = tuple(tuple(Extent(*each) for each in group) for group in table["extents"])
    return Extents(tuple(table["rows"]), extents)


def expect_table(table: Extents | None, metadata: Any, path: str) -> None:
    """Refuse a file whose schema says that it has a table of checksums, but that has none.

    Raises:
        CorruptDataError: Table and schema disagree.
    """
    if table is None and metadata is not None and MARK in metadata:
        raise _damaged(path, "the table of checksums")


def is_intact(content: Any, extent: Extent) -> bool:
    """Return whether the bytes of an extent are those that were written."""
    return len(content) == extent.size_bytes and zlib.crc32(content) == extent.crc


def _extent(file: Any, offset: int, size_bytes: int) -> Extent:
    file.seek(offset)
    return Extent(offset, size_bytes, zlib.crc32(file.read(size_bytes)))


def _footer_offset(file: Any, size: int, magic: bytes) -> int:
    end_size = _SIZE_BYTES + len(magic)
    if size < len(magic) + end_size:
        raise ValueError(f"{size} bytes are too few for a file of this format; was it cut off?")
    file.seek(size - end_size)
    end = _read(file, end_size)
    offset = size - end_size - int.from_bytes(end[:_SIZE_BYTES], "little")
    if end[_SIZE_BYTES:] != magic or offset < len(magic):
        raise ValueError(
            f"the file ends with {end!r}, not with a footer's size and {magic!r}; was it cut off, "
            f"or is it of another format?"
        )
    return offset


def _read(file: Any, size_bytes: int) -> bytes:
    content: bytes = file.read(size_bytes)
    return content


def _damaged(path: str, what: str) -> CorruptDataError:
    return CorruptDataError(
        f"{path}: {what} is damaged: the bytes are not those that were written; get the file from "
        f"its source again",
        path,
    )
