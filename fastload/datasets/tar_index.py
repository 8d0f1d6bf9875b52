"""Know where each sample of a shard lies: by a file beside it, or by reading its headers once.

Runs in: where an index is made; the process that makes a dataset.
Takes: a shard.
Gives: its samples by number.

The file is NumPy's ``.npz``, whose parts have checksums. It says size and time of the shard, so an
index of another state of the shard is refused.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable, Iterable
from itertools import starmap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastload._system.interruptions import is_from_outside
from fastload.datasets.tar_files import INDEX_SUFFIX, FileMark, open_shard
from fastload.datasets.tar_format import read_content
from fastload.datasets.tar_grouping import FieldPlace, SamplePlace, read_samples
from fastload.datasets.whole_files import whole_file
from fastload.errors import CorruptDataError

_VERSION = 1
_ARRAYS = ("meta", "field_ends", "key_ends", "keys", "names", "offsets", "sizes", "crcs")


class ShardIndex(NamedTuple):
    """The samples of a shard, by number.

    Attributes:
        mark: The state of the shard it is of.
        names: The names of fields that occur.
        field_ends: For each sample the number of fields up to its end, int64 (samples + 1,).
        key_ends: For each sample the length of keys up to its end, int64 (samples + 1,).
        keys: All keys, as UTF-8, uint8.
        field_names: For each field the number of its name, uint32 (fields,).
        offsets: Where each field begins, int64 (fields,).
        sizes: Length of each field in bytes, int64 (fields,).
        crcs: The CRC-32 of each field, uint32 (fields,); empty if they are not known.
    """

    mark: FileMark
    names: list[str]
    field_ends: npt.NDArray[np.int64]
    key_ends: npt.NDArray[np.int64]
    keys: npt.NDArray[np.uint8]
    field_names: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    crcs: npt.NDArray[np.uint32]

    @property
    def samples(self) -> int:
        """Return the number of samples."""
        return len(self.field_ends) - 1

    def key(self, number: int) -> str:
        """Return the key of a sample."""
        first, end = self.key_ends[number : number + 2].tolist()
        return self.keys[first:end].tobytes().decode("utf-8", "surrogateescape")

    def sample(self, number: int) -> SamplePlace:
        """Return where a sample lies."""
        first, end = self.field_ends[number : number + 2].tolist()
        of = slice(first, end)
        crcs = self.crcs[of].tolist() if len(self.crcs) else [None] * (end - first)
        fields = zip(
            (self.names[name] for name in self.field_names[of].tolist()),
            self.offsets[of].tolist(),
            self.sizes[of].tolist(),
            crcs,
            strict=True,
        )
        return SamplePlace(self.key(number), tuple(starmap(FieldPlace, fields)))

    def has_places_of(self, other: ShardIndex) -> bool:
        """Whether both say the same of each sample, but for checksums."""
        return self.names == other.names and all(
            np.array_equal(getattr(self, name), getattr(other, name))
            for name in ("field_ends", "key_ends", "keys", "field_names", "offsets", "sizes")
        )


def index_path(shard: str) -> str:
    """Return where the index of a shard lies."""
    return shard + INDEX_SUFFIX


def build_index(
    shard: str, *, checksums: bool, advance: Callable[[int], object] = lambda _: None
) -> ShardIndex:
    """Read a shard and return its index.

    Args:
        shard: Path of the shard.
        checksums: Read all content too, and keep checksums; otherwise headers alone are read.
        advance: Is told how many bytes of the archive were read since the last call.

    Raises:
        CorruptDataError: The shard is damaged.
        ValueError: A member is sparse.
    """
    source = open_shard(shard)

    def make_place(name: str, offset: int, size: int) -> FieldPlace:
        crc = zlib.crc32(read_content(source, name, offset, size)) if checksums else None
        return FieldPlace(name, offset, size, crc)

    found = []
    done = 0
    for place in read_samples(source, make_place=make_place):
        found.append(place)
        end = place.fields[-1].offset + place.fields[-1].size
        advance(end - done)
        done = end
    return _pack(source.mark, found)


def _pack(mark: FileMark, places: list[SamplePlace]) -> ShardIndex:
    fields = [field for place in places for field in place.fields]
    names = sorted({field.name for field in fields})
    number_of = {name: number for number, name in enumerate(names)}
    keys = [place.key.encode("utf-8", "surrogateescape") for place in places]
    crcs = [] if any(field.crc is None for field in fields) else [field.crc for field in fields]
    return ShardIndex(
        mark,
        names,
        _ends(len(place.fields) for place in places),
        _ends(map(len, keys)),
        np.frombuffer(b"".join(keys), np.uint8),
        np.array([number_of[field.name] for field in fields], np.uint32),
        np.array([field.offset for field in fields], np.int64),
        np.array([field.size for field in fields], np.int64),
        np.array(crcs, np.uint32),
    )


def _ends(lengths: Iterable[int]) -> npt.NDArray[np.int64]:
    return np.cumsum([0, *lengths], dtype=np.int64)


def write_index(shard: str, index: ShardIndex) -> str:
    """Write an index beside its shard, whole or not at all; return its path."""
    meta = {"version": _VERSION, "names": index.names, **index.mark._asdict()}
    arrays = index._asdict()
    with whole_file(index_path(shard)) as part, open(part, "wb") as file:  # noqa: PTH123
        np.savez(
            file,
            allow_pickle=False,
            meta=np.frombuffer(json.dumps(meta).encode(), np.uint8),
            names=index.field_names,
            **{name: arrays[name] for name in _ARRAYS if name not in {"meta", "names"}},
        )
    return index_path(shard)


def load_index(shard: str, *, verify: bool = True) -> ShardIndex | None:
    """Return the index that lies beside a shard; None if there is none.

    Args:
        shard: Path of the shard.
        verify: Whether checksums of members will be compared when they are read. Then an index of
            another time is used if all headers of the shard are still where it says.

    Raises:
        ValueError: The shard has changed since the index was made.
        CorruptDataError: The index is damaged, or the shard's headers are.
    """
    path = index_path(shard)
    if not Path(path).exists():
        return None
    index = _read_index(path)
    mark = FileMark.of(Path(shard).stat())
    if mark == index.mark:
        return index
    is_same = mark.size == index.mark.size and verify and len(index.crcs) == len(index.sizes)
    if is_same and build_index(shard, checksums=False).has_places_of(index):
        return index._replace(mark=mark)
    raise ValueError(
        f"{path} is the index of another state of the shard: of {index.mark}, "
        f"but {shard} has {mark}. Make it again with `fastload index {shard}`"
    )


def _read_index(path: str) -> ShardIndex:
    try:
        with np.load(io.BytesIO(Path(path).read_bytes()), allow_pickle=False) as arrays:
            parts: dict[str, Any] = {name: arrays[name] for name in _ARRAYS}
        meta = json.loads(parts.pop("meta").tobytes())
        version, index = meta["version"], None
        if version == _VERSION:
            parts["field_names"] = parts.pop("names")
            index = ShardIndex(FileMark(meta["size"], meta["mtime_ns"]), meta["names"], **parts)
    except Exception as error:
        # Of a damaged zip file Python raises whatever there is.
        if is_from_outside(error) or isinstance(error, MemoryError):
            raise
        raise _damaged_index(path) from error
    if version != _VERSION:
        raise ValueError(
            f"{path} is an index of version {version}, but this fastload reads version {_VERSION}; "
            f"make it again with `fastload index`"
        )
    if index is None or not _is_whole(index):
        raise _damaged_index(path)
    return index


def _damaged_index(path: str) -> CorruptDataError:
    return CorruptDataError(
        f"{path} is damaged, or is no index; make it again with `fastload index`", path=path
    )


def _is_whole(index: ShardIndex) -> bool:
    """Whether the arrays of an index fit together."""
    fields = len(index.offsets)
    return (
        index.field_ends[0] == index.key_ends[0] == 0
        and len(index.field_ends) == len(index.key_ends)
        and int(index.field_ends[-1]) == len(index.sizes) == len(index.field_names) == fields
        and len(index.crcs) in {0, fields}
        and int(index.key_ends[-1]) == len(index.keys)
        and bool((np.diff(index.field_ends) > 0).all())
        and bool((np.diff(index.key_ends) >= 0).all())
        and int(index.field_names.max(initial=0)) < max(len(index.names), 1)
        and min(index.offsets.min(initial=0), index.sizes.min(initial=0)) >= 0
    )
