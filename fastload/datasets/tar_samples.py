"""Make samples of their places in shards.

Runs in: worker (consumer with ``num_workers=0``).
Takes: the shard and the place of a sample.
Gives: the sample: a dict, or a tuple of the fields that are wanted.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from fastload.datasets.tar_decoding import Decoder, FieldDecoder
from fastload.datasets.tar_files import FileMark, GzipSource, PlainSource, open_shard
from fastload.datasets.tar_format import read_content
from fastload.datasets.tar_grouping import FieldPlace, SamplePlace
from fastload.errors import CorruptDataError

_OPEN_SHARDS = 64
"""So many shards stay open in a thread, each with a descriptor."""

Source = PlainSource | GzipSource


class OpenShards:
    """The shards that are being read, those that were used last kept open.

    Each thread opens its own, because a packed shard has a position; so does each process, also
    one that was forked.
    """

    def __init__(self) -> None:
        self._of_thread = threading.local()

    def begin(self, path: str) -> Source:
        """Return a shard, opened to be read from its beginning: the file that is there now."""
        sources = self._sources()
        source = sources.get(path)
        if source is not None and not source.is_still(os.stat(path)):  # noqa: PTH116
            del sources[path]
        return self.get(path)

    def get(
        self, path: str, mark: FileMark | None = None, *, has_checksums: bool = False
    ) -> Source:
        """Return a shard, opened.

        Args:
            path: Of the shard.
            mark: The state that it must be in; None: any.
            has_checksums: What is read is compared with checksums, so that it need not be asked
                each time whether somebody has written to the open file.

        Raises:
            ValueError: It has changed.
        """
        sources = self._sources()
        source = sources.get(path)
        if source is None:
            source = open_shard(path)
            if mark is not None and source.mark != mark:
                raise _changed(path, mark, source.mark)
            sources[path] = source
            if len(sources) > _OPEN_SHARDS:
                sources.popitem(last=False)
        elif mark is not None and not (has_checksums or source.is_unchanged()):
            raise _changed(path, mark, FileMark.of(os.stat(path)))  # noqa: PTH116
        sources.move_to_end(path)
        return source

    def _sources(self) -> OrderedDict[str, Source]:
        """Return the shards that are open in this thread, those that were used last at the end."""
        mine: Any = self._of_thread
        if getattr(mine, "process", None) != os.getpid():
            mine.process, mine.sources = os.getpid(), OrderedDict()
        sources: OrderedDict[str, Source] = mine.sources
        return sources

    def __reduce__(self) -> tuple[type[OpenShards], tuple[()]]:
        return OpenShards, ()


def _changed(path: str, before: FileMark, now: FileMark) -> ValueError:
    return ValueError(
        f"{path} has changed since its index was read, or its headers: it had {before}, and now "
        f"has {now}. Make the dataset anew, and shards under a new name that is changed to the "
        f"right one when they are complete"
    )


class TarForm(NamedTuple):
    """What becomes of a sample.

    Attributes:
        decoder: Makes values of bytes.
        fields: For each wanted field the names it may have; None: all fields, as a dict.
        transform: Called with the sample; None: nothing is.
        verify: Whether checksums are compared.
    """

    decoder: FieldDecoder
    fields: tuple[tuple[str, ...], ...] | None
    transform: Callable[[Any], Any] | None
    verify: bool

    def wanted(self, path: str, place: SamplePlace) -> tuple[FieldPlace, ...]:
        """Return the fields of a sample that are read.

        Raises:
            ValueError: One that was asked for is not there.
        """
        if self.fields is None:
            return place.fields
        there = {field.name: field for field in place.fields}
        found = []
        for names in self.fields:
            name = next((name for name in names if name in there), None)
            if name is None:
                raise ValueError(
                    f"{path}: the sample {place.key!r} has no field {';'.join(names)!r}; it has "
                    f"{list(there)}"
                )
            found.append(there[name])
        return tuple(found)

    def is_wanted(self, name: str) -> bool:
        """Whether a field is read."""
        return self.fields is None or any(name in names for names in self.fields)

    def load(self, source: Source, place: SamplePlace) -> SamplePlace:
        """Return the same place with the bytes of its wanted fields.

        Raises:
            CorruptDataError: The shard is damaged there.
            ValueError: A field is not there.
        """
        # In the order of the archive: one that is packed is read forwards.
        wanted = sorted(set(self.wanted(source.path, place)), key=lambda field: field.offset)
        loaded = [
            field._replace(content=self.content(source, place.key, field)) for field in wanted
        ]
        return place._replace(fields=tuple(loaded))

    def make(self, source: Source, place: SamplePlace) -> Any:
        """Return the sample.

        Raises:
            CorruptDataError: The shard is damaged there, or a field is not what its name says.
            ValueError: A field is a pickle, which was not allowed.
        """
        path = source.path
        fields = self.wanted(path, place)
        values = [
            self.value(path, place.key, field, self.content(source, place.key, field))
            for field in fields
        ]
        sample: Any = tuple(values)
        if self.fields is None:
            sample = {"__key__": place.key, "__url__": path}
            sample.update(zip((field.name for field in fields), values, strict=True))
        return sample if self.transform is None else self.transform(sample)

    def value(self, path: str, key: str, field: FieldPlace, content: bytes) -> Any:
        """Return the value of a field.

        Raises:
            CorruptDataError: It is not what its name says.
            ValueError: It is a pickle, which was not allowed.
        """
        try:
            return self.decoder.decode(field.name, content, field_in_words(path, key, field))
        except CorruptDataError as error:
            error.path, error.offset = path, field.offset
            raise

    def content(self, source: Source, key: str, field: FieldPlace) -> bytes:
        """Return the bytes of a field.

        Raises:
            CorruptDataError: The shard is damaged there.
        """
        if field.content is not None:
            return field.content
        content = read_content(source, f"{key}.{field.name}", field.offset, field.size)
        if self.verify and field.crc is not None and zlib.crc32(content) != field.crc:
            where = field_in_words(source.path, key, field)
            raise CorruptDataError(
                f"{where} is damaged: its checksum is not that of the index. If the shard was "
                f"changed on purpose, run `fastload index {source.path}`",
                path=source.path,
                offset=field.offset,
            )
        return content


def make_form(
    decode: bool | Mapping[str, Decoder],
    fields: Sequence[str] | None,
    transform: Callable[[Any], Any] | None,
    *,
    allow_pickle: bool,
    verify: bool,
) -> TarForm:
    """Return what becomes of samples, of a dataset's arguments.

    Raises:
        TypeError: ``decode`` or ``fields`` is of a wrong type.
        ValueError: ``fields`` names nothing.
    """
    return TarForm(
        FieldDecoder(decode, allow_pickle=allow_pickle), _fields(fields), transform, verify
    )


def _fields(fields: Sequence[str] | None) -> tuple[tuple[str, ...], ...] | None:
    if fields is None:
        return None
    if isinstance(fields, str) or not all(isinstance(names, str) for names in fields):
        raise TypeError(f"fields is a sequence of names, but got {fields!r}; write [{fields!r}]")
    split = tuple(
        tuple(name.strip().lower().lstrip(".") for name in names.split(";")) for names in fields
    )
    if not split or not all(map(all, split)):
        raise ValueError(f"fields names what a sample holds, as in ['jpg;png', 'cls']: {fields!r}")
    return split


def field_in_words(path: str, key: str, field: FieldPlace) -> str:
    """Return shard, name and place of a field, for errors."""
    return f"{path}: the member {key}.{field.name} at offset {field.offset}"
