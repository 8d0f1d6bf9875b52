"""Make a batch of samples of tar shards at once: images are decoded where the batch will lie.

Runs in: worker (consumer with ``num_workers=0``).
Takes: where the samples of a batch lie.
Gives: what the default collate makes of them; images in channels-last memory, as ``ImageFolder``.

Whatever does not fit (images of different size, samples with different fields, any error) is left
to reading sample by sample, which gives the usual batch or the usual error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fastload._memory.write import Place
from fastload.collate.inplace import collate_in_place, collates_as_torch, is_cpu_default
from fastload.datasets.image_samples import decode_batch
from fastload.datasets.nodes import NotGatherableError, Parts, RowNumbers, left_to_samples
from fastload.datasets.tar_decoding import IMAGES
from fastload.datasets.tar_grouping import FieldPlace
from fastload.datasets.tar_samples import Source, TarForm, field_in_words
from fastload.datasets.tar_shards import Found, TarShards, Waiting


class NoImagesError(NotGatherableError):
    """Samples hold no image, so nothing is gained by making batches at once."""


def makes_batches(shards: TarShards) -> bool:
    """Whether nothing but our own functions makes samples."""
    return shards.form.transform is None and shards.form.decoder.is_usual


def gather_samples(shards: TarShards, found: Sequence[Found], place: Place) -> Any:
    """Return the batch of samples.

    Args:
        shards: Where they are.
        found: The samples, at least one.
        place: Where the batch is to lie.

    Raises:
        NotGatherableError: They must be read one by one.
    """
    if not found or not collates_as_torch() or not is_cpu_default():
        raise NotGatherableError
    waiting = [each for each in found if isinstance(each, Waiting)]
    if len(waiting) < len(found):
        raise NotGatherableError
    with left_to_samples():
        return _Batch(shards, waiting).make(place)


class _Batch:
    """The samples of a batch, of which the wanted fields are known.

    Args:
        shards: Where they are.
        waiting: The samples.

    Raises:
        NotGatherableError: They have different fields, or none of them is an image.
    """

    def __init__(self, shards: TarShards, waiting: list[Waiting]) -> None:
        self._form: TarForm = shards.form
        self._samples: list[tuple[Source, str, tuple[FieldPlace, ...]]] = []
        for shard, place in waiting:
            source = shards.source(shard)
            self._samples.append((source, place.key, self._form.wanted(source.path, place)))
        self._names = [field.name for field in self._samples[0][2]]
        self._images = [name for name in self._names if _is_image(name)]
        is_one_kind = all(
            [field.name for field in fields] == self._names for _, _, fields in self._samples
        )
        is_each_once = len(set(self._names)) == len(self._names)
        if not self._images:
            raise NoImagesError
        if not is_one_kind or not is_each_once:
            raise NotGatherableError

    def make(self, place: Place) -> Any:
        """Read, decode and collate."""
        files: dict[str, list[tuple[bytes, str]]] = {name: [] for name in self._images}
        others: list[dict[str, Any]] = []
        for source, key, fields in self._samples:
            values: dict[str, Any] = {"__key__": key, "__url__": source.path}
            for field in fields:
                content = self._form.content(source, key, field)
                if field.name in files:
                    name = field_in_words(source.path, key, field)
                    files[field.name].append((content, name))
                else:
                    values[field.name] = self._form.value(source.path, key, field, content)
            others.append(values)
        images = {name: decode_batch(each, None, place) for name, each in files.items()}
        if self._form.fields is None:
            columns = collate_in_place(others, place)
            names = ["__key__", "__url__", *self._names]
            return {name: images[name] if name in images else columns[name] for name in names}
        rest = [name for name in self._names if name not in images]
        rows = [tuple(values[name] for name in rest) for values in others]
        columns = dict(zip(rest, collate_in_place(rows, place) if rest else [], strict=True))
        return [images[name] if name in images else columns[name] for name in self._names]


def _is_image(name: str) -> bool:
    return name.rpartition(".")[2] in IMAGES


class SampleNode:
    """The node of samples of tar shards.

    Args:
        shards: Where they are.
        length: How many there are.
        find: Says where a sample lies, by its number.
    """

    loads_samples = True

    def __init__(self, shards: TarShards, length: int, find: Callable[[int], Found]) -> None:
        self._shards = shards
        self._find = find
        self.length = length

    @property
    def kind(self) -> Any:
        """Return what ``Node.kind`` says: batches of two datasets are never put together."""
        return SampleNode, id(self)

    def gather(self, rows: RowNumbers, place: Place) -> Any:
        """Do what ``Node.gather`` says."""
        return gather_samples(self._shards, list(map(self._find, rows.tolist())), place)

    def merge(self, parts: Parts, count: int, place: Place) -> Any:  # noqa: ARG002  (of a Node)
        """Do what ``Node.merge`` says: samples of several datasets are read one by one."""
        raise NotGatherableError


def sample_node(shards: TarShards, length: int, find: Callable[[int], Found]) -> SampleNode | None:
    """Return the node of samples; None if the user's functions make some, or no image is in them.

    Args:
        shards: Where they are.
        length: How many there are.
        find: Says where a sample lies, by its number.
    """
    if not length or not makes_batches(shards):
        return None
    first = find(0)
    if isinstance(first, Exception):
        return None
    names = [field.name for field in first.place.fields if shards.form.is_wanted(field.name)]
    return SampleNode(shards, length, find) if any(map(_is_image, names)) else None
