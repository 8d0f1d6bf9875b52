"""Read the members of a tar archive, and believe nothing that does not add up.

Runs in: worker (consumer with ``num_workers=0``); where an index is made.
Takes: the bytes of an archive.
Gives: name, place and size of each regular member, or an error with the offset of what is wrong.

The formats are ustar (POSIX.1-1988), pax (POSIX.1-2001) and GNU tar's; see tar(5). Python's
``tarfile`` ends without an error at a header of zeros, at the end of a file that was cut behind a
member, and between two archives that were joined; here each of these is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

from fastload.datasets.tar_files import TarSource
from fastload.errors import CorruptDataError

BLOCK = 512
_ZEROS = bytes(BLOCK)
_REGULAR = frozenset(b"0\x007")
_WITHOUT_DATA = frozenset(b"123456")
_PAX, _SOLARIS_PAX, _GLOBAL, _LONG_NAME, _LONG_LINK, _SPARSE = b"xXgLKS"
_DESCRIBING = frozenset((_PAX, _SOLARIS_PAX, _GLOBAL, _LONG_NAME, _LONG_LINK))
_LONGEST_RECORD = 1 << 20
"""A header that only says more of the next one is never longer, unless it is damaged."""

_CHUNK_BYTES = 1 << 20
_OCTAL = re.compile(rb"[ \0]*([0-7]*)[ \0]*.*", re.DOTALL)
_PAX_RECORD = re.compile(rb"(\d{1,7}) ([^=]+)=")


class Member(NamedTuple):
    """A regular file in an archive.

    Attributes:
        name: Its name, as it is in the archive; bytes that are not UTF-8 are surrogates.
        offset: Where its content begins, in the unpacked archive.
        size: Its length in bytes.
    """

    name: str
    offset: int
    size: int


def read_members(source: TarSource, counts: dict[str, int] | None = None) -> Iterator[Member]:
    """Yield the regular members in their order; folders, links and devices are left out.

    Args:
        source: The archive.
        counts: Is told under ``"others"`` how many members were left out.

    Raises:
        CorruptDataError: The archive is damaged, cut, or several that were joined.
        ValueError: A member is sparse.
    """
    offset = 0
    # What extended headers say of the next member, and of all that follow.
    coming: dict[str, bytes] = {}
    common: dict[str, bytes] = {}
    while (block := _header(source, offset)) is not None:
        kind = block[156]
        if kind in _DESCRIBING:
            size = _number(source, offset, block[124:136])
            said = _description(source, offset, kind, size)
            (common if kind == _GLOBAL else coming).update(said)
        else:
            member, is_regular = _member(source, offset, block, {**common, **coming})
            size, coming = member.size, {}
            if is_regular:
                yield member
            elif counts is not None:
                counts["others"] = counts.get("others", 0) + 1
        offset += BLOCK + _padded(size)
    if coming:
        _damaged(source, offset, "it ends behind a header that describes another member")


def _member(
    source: TarSource, offset: int, block: bytes, said: dict[str, bytes]
) -> tuple[Member, bool]:
    """Return the member of a header, and whether it is a regular file.

    Args:
        source: The archive.
        offset: Of the header.
        block: The header.
        said: What extended headers say of the member, which goes before what its own header does.
    """
    kind, data = block[156], offset + BLOCK
    name = said["path"].rstrip(b"/") if "path" in said else _name(block)
    if kind == _SPARSE or any(key.startswith("GNU.sparse.") for key in said):
        name = said.get("GNU.sparse.name", name)
        raise ValueError(
            f"{source.path}: the member {_text(name)!r} at offset {offset} is a sparse file, "
            f"which is not read; make the archive without --sparse"
        )
    is_folder = kind == 0 and name.endswith(b"/")
    if kind in _WITHOUT_DATA or is_folder:
        size = 0
    elif "size" in said:
        size = _decimal(source, offset, said["size"])
    else:
        size = _number(source, offset, block[124:136])
    if source.size is not None and data + size > source.size:
        _damaged(
            source,
            offset,
            f"the member {_text(name)!r} has {size} bytes, but the file ends "
            f"{source.size - data} bytes behind its header",
        )
    return Member(_text(name), data, size), kind in _REGULAR and not is_folder


def _header(source: TarSource, offset: int) -> bytes | None:
    """Return the header at an offset; None at the end of the archive."""
    block = source.read(offset, BLOCK)
    if len(block) < BLOCK:
        _damaged(source, offset, "it is cut off: the mark of its end is missing")
    if block == _ZEROS:
        _check_end(source, offset + BLOCK)
        return None
    if not _has_sum(block):
        _damaged(source, offset, "the checksum of a header is wrong")
    return block


def _has_sum(block: bytes) -> bool:
    """Whether a header has the sum that it says; ancient programs added signed bytes."""
    match = _OCTAL.fullmatch(block[148:156])
    expected = int(match[1] or b"-1", 8) if match else -1
    total = sum(block) - sum(block[148:156]) + 8 * 32
    if total == expected:
        return True
    negative = sum(byte > 127 for byte in block) - sum(byte > 127 for byte in block[148:156])
    return total - 256 * negative == expected


def _check_end(source: TarSource, offset: int) -> None:
    """Refuse what lies behind the first block of zeros, unless it is zeros too."""
    while data := source.read(offset, _CHUNK_BYTES):
        if data.count(0) != len(data):
            at = offset + len(data) - len(data.lstrip(b"\0"))
            _damaged(
                source,
                at,
                "there is more behind the mark of its end: a header was overwritten with zeros, or "
                "archives were joined by cat (join them by tar --concatenate)",
            )
        offset += len(data)


def _description(source: TarSource, offset: int, kind: int, size: int) -> dict[str, bytes]:
    """Return what a header says that describes another member."""
    if size > _LONGEST_RECORD:
        _damaged(source, offset, f"a header that describes a member has {size} bytes")
    record = source.read(offset + BLOCK, size)
    if len(record) < size:
        _damaged(source, offset, "it is cut off within a header")
    if kind == _LONG_NAME:
        return {"path": record.split(b"\0", 1)[0]}
    return {} if kind == _LONG_LINK else _pax(source, offset, record)


def _pax(source: TarSource, offset: int, record: bytes) -> dict[str, bytes]:
    """Return what the records of an extended header say: lines of length, key and value."""
    found = {}
    at = 0
    while at < len(record) and record[at]:
        match = _PAX_RECORD.match(record, at)
        end = at + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(record) or record[end - 1] != 0x0A:
            _damaged(source, offset, "an extended header is not well-formed")
        found[_text(match[2])] = record[match.end() : end - 1]
        at = end
    return found


def _name(block: bytes) -> bytes:
    name = block[:100].split(b"\0", 1)[0]
    if block[257:263] == b"ustar\0" and (prefix := block[345:500].split(b"\0", 1)[0]):
        return prefix + b"/" + name
    return name


def _number(source: TarSource, offset: int, field: bytes) -> int:
    """Return the number in a field: octal digits, or binary where its first bit is set."""
    if field[0] & 0x80:
        if field[0] == 0x80:
            return int.from_bytes(field[1:], "big")
        _damaged(source, offset, "a header has a negative size")
    digits = field.strip(b" \0").split(b"\0", 1)[0]
    if digits and not re.fullmatch(rb"[0-7]+", digits):
        _damaged(source, offset, f"a header says a size of {field!r}")
    return int(digits or b"0", 8)


def _decimal(source: TarSource, offset: int, value: bytes) -> int:
    if not re.fullmatch(rb"\d{1,19}", value):
        _damaged(source, offset, f"an extended header says a size of {value[:40]!r}")
    return int(value)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _damaged(source: TarSource, offset: int, what: str) -> NoReturn:
    raise CorruptDataError(
        f"{source.path} is damaged at offset {offset}: {what}", path=source.path, offset=offset
    )


def read_content(source: TarSource, name: Any, offset: int, size: int) -> bytes:
    """Return the content of a member, all of it.

    Raises:
        CorruptDataError: The archive ends before.
    """
    content = source.read(offset, size)
    if len(content) < size:
        _damaged(
            source, offset, f"the member {name!r} has {size} bytes, but only {len(content)} follow"
        )
    return content
