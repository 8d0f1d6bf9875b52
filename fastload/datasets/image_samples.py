"""What datasets of encoded images share: samples, labels, and batches in one piece.

Runs in: worker (consumer with ``num_workers=0``).
Takes: an index, or the indices of a batch.
Gives: the image, decoded and transformed, with its label; or the batch, decoded where it will lie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from fastload._memory.write import Place
from fastload._system.warn import warn_program
from fastload.collate.inplace import collate_in_place
from fastload.datasets.image_decoding import (
    CURE,
    Encoded,
    decode_image,
    has_simplejpeg,
    image_size,
)
from fastload.datasets.nodes import (
    Node,
    NotGatherableError,
    Parts,
    RowNumbers,
    left_to_samples,
    merge_tensors,
)
from fastload.transforms.inputs import call_transform

Size = int | Sequence[int] | None

_CHANNELS = 3


def as_size(size: Size) -> tuple[int, int] | None:
    """Return height and width as a pair.

    Raises:
        ValueError: It is neither a positive number nor a pair of them.
    """
    if size is None:
        return None
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or not all(type(side) is int and side > 0 for side in pair):
        raise ValueError(f"size is a height and a width, or one number for both, but got {size!r}")
    return pair


def read_file(path: str) -> bytes:
    """Return the content of a file."""
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123  (Path.open takes 5 µs more)
        return file.read()


class EncodedImages(Dataset[Any]):
    """A map-style dataset of encoded images; subclasses say where they come from.

    Args:
        transform: Called with each image, in the form it takes (``fastload.transforms.inputs``).
        target_transform: Called with each label.
        size: Height and width to which images are resized when they are decoded.
        apply_exif_orientation: Turn photographs as their cameras were turned.

    Raises:
        ValueError: ``size`` is not positive.
    """

    def __init__(
        self,
        transform: Callable[[Any], Any] | None,
        target_transform: Callable[[Any], Any] | None,
        size: Size,
        apply_exif_orientation: bool,
    ) -> None:
        self.transform = transform
        self.target_transform = target_transform
        self.size = as_size(size)
        self.apply_exif_orientation = apply_exif_orientation
        if not has_simplejpeg():
            warn_program(
                "simplejpeg is not installed, so Pillow decodes JPEG files, which takes longer "
                f"and does not notice all damage: {CURE}"
            )

    has_labels = True
    """Whether a sample is a pair of an image and a label; else it is the image alone."""

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Any:
        image = self._image(index)
        if not self.has_labels:
            return image
        label = self._label(index)
        if self.target_transform is not None:
            label = self.target_transform(label)
        return image, label

    def gather_node(self) -> Node | None:
        """Return how a loader reads batches; None for a class derived from one of ours."""
        is_ours = type(self).__module__ in _HOMES
        return _ImageNode(self) if is_ours else None

    def _encoded(self, index: int) -> tuple[Encoded, str]:
        """Return an encoded image and what it is called in errors."""
        raise NotImplementedError

    def _label(self, index: int) -> Any:
        raise NotImplementedError

    def _encoded_batch(self, indices: list[int]) -> list[tuple[Encoded, str]]:
        """Return several encoded images, which may take less time together."""
        return [self._encoded(index) for index in indices]

    def _labels_batch(self, indices: list[int]) -> list[Any]:
        """Return several labels."""
        return [self._label(index) for index in indices]

    def _image(self, index: int) -> Any:
        encoded, name = self._encoded(index)
        pixels = decode_image(
            encoded,
            size=self.size,
            name=name,
            apply_exif_orientation=self.apply_exif_orientation,
        )
        if self.transform is None:
            return torch.from_numpy(pixels).permute(2, 0, 1)
        return call_transform(self.transform, pixels)

    def _is_plain(self) -> bool:
        """Return whether nothing but our decoder makes samples."""
        return self.transform is None and self.target_transform is None


_HOMES = frozenset({"fastload.datasets.image_folder", "fastload.datasets.image_dataset"})
_SAMPLE = EncodedImages.__getitem__


class _ImageNode:
    """The node of a dataset of encoded images."""

    loads_samples = True

    def __init__(self, dataset: EncodedImages) -> None:
        self._dataset = dataset
        self.length = len(dataset)

    @property
    def kind(self) -> Any:
        """Return what ``Node.kind`` says."""
        return _ImageNode, self._dataset.has_labels

    def gather(self, rows: RowNumbers, place: Place) -> Any:
        """Do what ``Node.gather`` says; whatever fails is left to reading sample by sample."""
        dataset = self._dataset
        if not dataset._is_plain() or type(dataset).__getitem__ is not _SAMPLE:
            raise NotGatherableError
        indices = rows.tolist()
        with left_to_samples():
            images = self._images(indices, place)
            columns = [(label,) for label in self._labels(indices)]
        if not columns:
            return images
        return [images, collate_in_place(columns, place)[0]]

    def _labels(self, indices: list[int]) -> list[Any]:
        """Return the labels of a batch; none where a sample is an image alone."""
        return self._dataset._labels_batch(indices) if self._dataset.has_labels else []

    def _images(self, indices: list[int], place: Place) -> Any:
        """Decode the images of a batch into it, if they are all of one size."""
        dataset = self._dataset
        files = dataset._encoded_batch(indices)
        return decode_batch(files, dataset.size, place, turns=dataset.apply_exif_orientation)

    def merge(self, parts: Parts, count: int, place: Place) -> Any:
        """Do what ``Node.merge`` says."""
        if not self._dataset.has_labels:
            return _merge_images(parts, count, place)
        images = [(at, batch[0]) for at, batch in parts]
        labels = [(at, batch[1]) for at, batch in parts]
        if not all(isinstance(batch, torch.Tensor) for _, batch in labels):
            raise NotGatherableError
        if len({(batch.dtype, batch.shape[1:]) for _, batch in labels}) != 1:
            raise NotGatherableError
        return [_merge_images(images, count, place), merge_tensors(labels, count, place)]


def decode_batch(
    files: Sequence[tuple[Encoded, str]],
    size: tuple[int, int] | None,
    place: Place,
    *,
    turns: bool = False,
) -> Any:
    """Decode images into one batch ``(count, 3, height, width)`` in channels-last memory.

    Args:
        files: Encoded images, and what they are called in errors.
        size: Height and width to which they are resized; None: as they are.
        place: Where the batch is to lie.
        turns: Whether the orientation in EXIF is applied.

    Raises:
        ValueError: Their sizes differ.
        CorruptDataError: One is damaged.
    """
    wanted = size
    if size is None:
        encoded, name = files[0]
        size = image_size(encoded, name=name, apply_exif_orientation=turns)
    images = _channels_last(len(files), *size, place)
    rows = images.permute(0, 2, 3, 1).numpy()
    for row, (encoded, name) in zip(rows, files, strict=True):
        # One of another size than the first does not fit.
        decode_image(encoded, size=wanted, out=row, name=name, apply_exif_orientation=turns)
    return place.reference(images)


def _channels_last(count: int, height: int, width: int, place: Place) -> torch.Tensor:
    """Make a batch of which the memory is that of ``(count, height, width, 3)``."""
    shape = (count, _CHANNELS, height, width)
    strides = (height * width * _CHANNELS, 1, width * _CHANNELS, _CHANNELS)
    return place.tensor(shape, torch.uint8, strides)


def _merge_images(parts: Parts, count: int, place: Place) -> Any:
    """Join batches of images of one size.

    Raises:
        NotGatherableError: Their sizes differ.
    """
    shapes = {tuple(batch.shape[1:]) for _, batch in parts}
    if len(shapes) != 1:
        raise NotGatherableError
    ((_, height, width),) = shapes
    out = _channels_last(count, height, width, place)
    for at, batch in parts:
        out.index_copy_(0, torch.from_numpy(at), batch)
    return place.reference(out)
