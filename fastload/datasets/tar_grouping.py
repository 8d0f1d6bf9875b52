"""Put the members of an archive together to samples, as WebDataset does.

Runs in: worker (consumer with ``num_workers=0``); where an index is made.
Takes: members in the order of the archive.
Gives: samples: a key and the places of its fields.

Members that follow one another and share their name up to the first dot of its last part are one
sample. The rule is that of webdataset's ``tar_file_iterator``, ``base_plus_ext`` and
``group_by_keys`` (https://github.com/webdataset/webdataset), so that samples are the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from fastload.datasets.tar_files import TarSource
from fastload.datasets.tar_format import read_members
from fastload.errors import CorruptDataError

_PARTS = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
_METADATA = re.compile(r"__[^/]*__($|/)")


class FieldPlace(NamedTuple):
    """Where a field of a sample lies in the unpacked archive.

    Attributes:
        name: What follows the first dot of the member's name, in lower case.
        offset: Where its content begins.
        size: Its length in bytes.
        crc: The CRC-32 of its content; None if it is not known.
        content: Its content, where that was read already.
    """

    name: str
    offset: int
    size: int
    crc: int | None = None
    content: bytes | None = None


class SamplePlace(NamedTuple):
    """Where a sample lies in its shard.

    Attributes:
        key: What its members' names have in common: folder and name up to the first dot.
        fields: Its fields, in the order of the archive.
    """

    key: str
    fields: tuple[FieldPlace, ...]


def read_samples(
    source: TarSource,
    counts: dict[str, int] | None = None,
    make_place: Callable[[str, int, int], FieldPlace] = FieldPlace,
) -> Iterator[SamplePlace]:
    """Yield the samples of an archive; each once it is known to be whole.

    Args:
        source: The archive.
        counts: Is told how many members were left out, by reason.
        make_place: Called with name, offset and size of each field when the archive has been read
            up to there: what is packed can only be read then.

    Raises:
        CorruptDataError: The archive is damaged, or has a field twice.
        ValueError: A member is sparse.
    """
    key: str | None = None
    fields: list[FieldPlace] = []
    for member in read_members(source, counts):
        parts = split_name(member.name)
        if parts is None:
            if counts is not None:
                counts["unnamed"] = counts.get("unnamed", 0) + 1
            continue
        if parts[0] != key:
            if key is not None:
                yield SamplePlace(key, tuple(fields))
            key, fields = parts[0], []
        field = parts[1].lower()
        if any(field == each.name for each in fields):
            raise CorruptDataError(
                f"{source.path}: the sample {key!r} has the field {field!r} twice, the second time "
                f"at offset {member.offset}; samples are members that follow one another and share "
                f"their name up to the first dot",
                path=source.path,
                offset=member.offset,
            )
        fields.append(make_place(field, member.offset, member.size))
    if key is not None:
        yield SamplePlace(key, tuple(fields))


def split_name(name: str) -> tuple[str, str] | None:
    """Return the key and the field's name in a member's name; None if it is left out.

    Example:
        >>> split_name("train/0001.seg.png"), split_name("__meta__/x.json"), split_name("README")
        (('train/0001', 'seg.png'), None, None)
    """
    if _METADATA.match(name):
        return None
    match = _PARTS.match(name)
    return (match[1], match[2]) if match else None
