"""The shards of a dataset, what is known of each, and in which order an epoch reads them.

Runs in: the process that makes the dataset; worker.
Takes: what the user named; an epoch.
Gives: the samples of a stretch of the epoch's line, one after another.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from fastload._system.interruptions import is_from_outside
from fastload.datasets.ranks_and_workers import StreamShare
from fastload.datasets.tar_files import FileMark, find_shards, is_gzip
from fastload.datasets.tar_format import read_content
from fastload.datasets.tar_grouping import FieldPlace, SamplePlace, read_samples
from fastload.datasets.tar_index import ShardIndex, build_index, index_path, load_index
from fastload.datasets.tar_samples import OpenShards, Source, TarForm
from fastload.errors import annotate

UseIndex = Literal["auto", "require", "ignore"]
INDEX_CHOICES = ("auto", "require", "ignore")


class Waiting(NamedTuple):
    """A sample that was found and is not made yet.

    Attributes:
        shard: Number of its shard.
        place: Where it lies.
    """

    shard: int
    place: SamplePlace


Found = Waiting | Exception
"""A sample, or why there is none."""


class TarShards:
    """The shards of a dataset.

    Args:
        urls: What the user named.
        form: What becomes of samples.
        index: Whether indices beside the shards are used.
        is_partly_fine: Whether indices of some shards alone are of use.

    Raises:
        FileNotFoundError: A shard is missing, or an index that is required.
        ValueError: An index is of another state of its shard.
        CorruptDataError: An index is damaged.
    """

    def __init__(
        self, urls: Any, form: TarForm, index: UseIndex, *, is_partly_fine: bool = False
    ) -> None:
        if index not in INDEX_CHOICES:
            raise ValueError(f"index is one of {INDEX_CHOICES}, but got {index!r}")
        self.paths = find_shards(urls)
        self.form = form
        self.open = OpenShards()
        self.identity = _identity(self.paths)
        """What tells these shards from others, wherever they lie: plain values, for states."""
        self._marks: dict[int, FileMark] = {}
        self._is_gzip = [is_gzip(path) for path in self.paths]
        self._indices: list[ShardIndex | None] = [None] * len(self.paths)
        if index != "ignore":
            self._indices = [load_index(path, verify=form.verify) for path in self.paths]
        self._counts: list[int] | None = None
        without = [path for path, one in zip(self.paths, self._indices, strict=True) if one is None]
        if without and index == "require":
            raise FileNotFoundError(
                f"{len(without)} of {len(self.paths)} shards have no index, as "
                f"{index_path(without[0])}; make them with `fastload index SHARD...`"
            )
        if without and len(without) < len(self.paths) and index == "auto" and not is_partly_fine:
            warnings.warn(
                f"{len(without)} of {len(self.paths)} shards have no index, as {without[0]}, so "
                f"the others' are of no use; make them with `fastload index SHARD...`",
                RuntimeWarning,
                stacklevel=3,
            )
        # From the beginning: that a loader with seed= reads headers must not change the order.
        self.is_indexed = not without
        """Whether it is known where each sample lies, without reading headers."""

    def is_gzip(self, number: int) -> bool:
        """Whether a shard can only be read forwards."""
        return self._is_gzip[number]

    def require_indices(self) -> list[ShardIndex]:
        """Return the index of each shard; headers are read, once, of shards that have none.

        Raises:
            CorruptDataError: A shard is damaged.
        """
        for number, path in enumerate(self.paths):
            if self._indices[number] is None:
                self._indices[number] = build_index(path, checksums=False)
        return [one for one in self._indices if one is not None]

    def counts(self) -> list[int]:
        """Return the number of samples of each shard."""
        if self._counts is None:
            self._counts = [one.samples for one in self.require_indices()]
        return self._counts

    def order(self, seed: int | None, epoch: int) -> list[int]:
        """Return the shards in the order of an epoch; without a seed, as they were named."""
        if seed is None:
            return list(range(len(self.paths)))
        order: list[int] = (
            np.random.default_rng([seed, epoch]).permutation(len(self.paths)).tolist()
        )
        return order

    def place(self, number: int, sample: int) -> Waiting:
        """Return where a sample of a shard lies."""
        index = self._indices[number] or self.require_indices()[number]
        return Waiting(number, index.sample(sample))

    def loaded_if_packed(self, found: Waiting) -> Found:
        """Return a sample with its bytes if its shard can only be read forwards, or an error."""
        if not self._is_gzip[found.shard]:
            return found
        try:
            return found._replace(place=self.form.load(self.source(found.shard), found.place))
        except Exception as error:
            if is_from_outside(error):
                raise
            return error  # raised when it is this sample's turn

    def make(self, found: Waiting) -> Any:
        """Return a sample, decoded.

        Raises:
            Exception: Whatever reading, decoding and the transform raise, with a note.
        """
        try:
            return self.form.make(self.source(found.shard), found.place)
        except Exception as error:
            if not is_from_outside(error):
                annotate(error, f"in sample {found.place.key!r} of {self.paths[found.shard]}")
            raise

    def stretch(self, share: StreamShare) -> tuple[int, int]:
        """Return the first sample of a reader in the epoch's line, and the one behind its last."""
        total = sum(self.counts())
        number = share.rank * share.workers + share.worker
        readers = share.world_size * share.workers
        return total * number // readers, total * (number + 1) // readers

    def read(self, order: list[int], share: StreamShare, skipped: int) -> Iterator[Found]:
        """Yield a reader's samples of an epoch, in the order of the line.

        With indices it gets an equal stretch of the line; without, every so many-th shard.

        Args:
            order: The shards in the order of the epoch.
            share: Which reader it is.
            skipped: So many of its first samples are left out.
        """
        if self.is_indexed:
            first, end = self.stretch(share)
            yield from self._read_stretch(order, first + skipped, end)
            return
        for number in share.of(order):
            for found in self._read_shard(number):
                if skipped:
                    skipped -= 1
                else:
                    yield found

    def _read_stretch(self, order: list[int], first: int, end: int) -> Iterator[Found]:
        begin, counts = 0, self.counts()
        for number in order:
            count = counts[number]
            for sample in range(max(first - begin, 0), min(end - begin, count)):
                yield self.loaded_if_packed(self.place(number, sample))
            begin += count
            if begin >= end:
                return

    def source(self, number: int) -> Source:
        """Return a shard, opened.

        Raises:
            ValueError: It has changed since its index was read, or its headers.
        """
        path, index = self.paths[number], self._indices[number]
        if index is None:
            return self.open.get(path, self._marks.get(number))
        has_checksums = self.form.verify and len(index.crcs) > 0
        return self.open.get(path, index.mark, has_checksums=has_checksums)

    def _read_shard(self, number: int) -> Iterator[Found]:
        """Yield the samples of a shard by its headers; an error ends the shard, not the epoch."""
        try:
            source = self.open.begin(self.paths[number])
            self._marks[number] = source.mark
            make_place = self._unpacking(source) if self._is_gzip[number] else FieldPlace
            for place in read_samples(source, make_place=make_place):
                yield Waiting(number, place)
        except Exception as error:
            if is_from_outside(error):
                raise
            yield error

    def _unpacking(self, source: Source) -> Callable[[str, int, int], FieldPlace]:
        """Return how to make places of a shard that is read forwards: with their content."""

        def make_place(name: str, offset: int, size: int) -> FieldPlace:
            is_wanted = self.form.is_wanted(name)
            content = read_content(source, name, offset, size) if is_wanted else None
            return FieldPlace(name, offset, size, content=content)

        return make_place


def _identity(paths: list[str]) -> list[Any]:
    """Return the number of shards, the name of the first, and a checksum of all names and sizes."""
    names = [Path(path).name for path in paths]
    sizes = [Path(path).stat().st_size for path in paths]
    checksum = zlib.crc32(repr((names, sizes)).encode())
    return [len(paths), names[0], checksum]
