"""Encoded images in a list, or in a column of a table, as a map-style dataset.

Runs in: worker (consumer with ``num_workers=0``).
Takes: an index.
Gives: the image, decoded, with its label where there are labels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor

from fastload.datasets.image_decoding import Encoded
from fastload.datasets.image_samples import EncodedImages, Size, read_file

_ENDINGS = (".parquet", ".arrow", ".feather", ".ipc")
_NARROW_FLOATS = frozenset({"float32", "float16", "bfloat16"})


class ImageDataset(EncodedImages):
    """Encoded images: paths, bytes, or a column of a Parquet or Arrow file.

    An image is a path, the bytes of a file, or a mapping ``{"bytes": …, "path": …}`` as in Hugging
    Face's tables, of which ``path`` counts where ``bytes`` is None. Samples and batches are those
    of ``ImageFolder``; without labels a sample is the image alone.

    Args:
        images: A sequence of images; or a table with a column of them: the path or pattern of
            ``.parquet`` or ``.arrow`` files, or any object with ``__arrow_c_stream__`` (a table
            of pyarrow, a DataFrame of polars). Parquet is read a row group at a time, so shuffle
            it with ``fastload.BlockShuffleSampler(dataset, window=…)``.
        labels: A label for each image, or the name of the column of a table that holds them. Of a
            Series of pandas the first label is the first image's, whatever its index. Single
            numbers of NumPy and torch become Python's, except for floats of another dtype than
            float64, which batches keep.
        transform: The same as for ``ImageFolder``.
        target_transform: Called with each label.
        size: The same as for ``ImageFolder``.
        column: The name of the column of images in a table.
        root: The folder that relative paths in a table or a list are relative to.
        apply_exif_orientation: The same as for ``ImageFolder``.

    Raises:
        ValueError: There are not as many labels as images, a column is missing, or ``size`` is
            not positive.
        TypeError: An image is neither a path nor bytes nor a mapping; when it is read.
        CorruptDataError: An image is damaged; when it is read.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (64, 48)).save(file, "JPEG")
        >>> dataset = ImageDataset([file.getvalue()] * 2, labels=[0, 1], size=32)
        >>> image, label = dataset[1]
        >>> len(dataset), image.shape, label
        (2, torch.Size([3, 32, 32]), 1)
    """

    def __init__(
        self,
        images: Any,
        labels: Sequence[Any] | str | None = None,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        *,
        size: Size = None,
        column: str = "image",
        root: str | Path | None = None,
        apply_exif_orientation: bool = False,
    ) -> None:
        super().__init__(transform, target_transform, size, apply_exif_orientation)
        self.root = root
        table = _as_table(images, column)
        self.images: Any = _in_order(images) if table is None else _Column(table, column)
        if isinstance(labels, str):
            if table is None:
                raise ValueError(
                    f"labels={labels!r} names a column, but images are no table; give a sequence "
                    "with a label for each image"
                )
            labels = cast("Sequence[Any]", _Column(table, labels))
        self.labels: Any = _in_order(labels)
        if labels is not None and len(self.labels) != len(self.images):
            raise ValueError(
                f"there are {len(self.labels)} labels for {len(self.images)} images; give one "
                "for each"
            )
        self.has_labels = labels is not None

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        return f"ImageDataset({len(self)} images{', with labels' if self.has_labels else ''})"

    @property
    def block_lengths(self) -> list[int]:
        """The number of images of each row group, which ``BlockShuffleSampler`` asks for.

        Raises:
            AttributeError: Images do not come from Parquet files.
        """
        return list(self.images.rows.block_lengths)

    def _encoded(self, index: int) -> tuple[Encoded, str]:
        return self._content(self.images[index], f"image {index}")

    def _encoded_batch(self, indices: list[int]) -> list[tuple[Encoded, str]]:
        return [
            self._content(image, f"image {index}")
            for index, image in zip(indices, _take(self.images, indices), strict=True)
        ]

    def _content(self, image: Any, name: str) -> tuple[Encoded, str]:
        """Return the bytes of an image in whatever form it is kept, and what it is called."""
        if isinstance(image, Mapping):
            if image.get("bytes") is not None:
                return image["bytes"], image.get("path") or name
            image = image.get("path")
        if isinstance(image, bytes | bytearray | memoryview):
            return image, name
        if not isinstance(image, str | os.PathLike):
            raise TypeError(
                f"{name} is a {type(image).__name__}; expected a path, bytes, or a mapping with "
                "'bytes' or 'path'"
            )
        path = str(image if self.root is None else Path(self.root) / image)
        return read_file(path), path

    def _label(self, index: int) -> Any:
        return self._labels_batch([index])[0]

    def _labels_batch(self, indices: list[int]) -> list[Any]:
        return list(map(_as_label, _take(self.labels, indices)))


def _take(values: Any, indices: list[int]) -> list[Any]:
    """Return several items of a sequence; of a column, in one read."""
    if isinstance(values, _Column):
        return values.take(indices)
    return [values[index] for index in indices]


def _as_label(value: Any) -> Any:
    """Return a single number as Python's, unless batches of those would be of another dtype."""
    if not isinstance(value, Tensor | np.generic) or value.ndim:
        return value
    is_narrow = str(value.dtype).removeprefix("torch.") in _NARROW_FLOATS
    return value if is_narrow else value.item()


def _in_order(values: Any) -> Any:
    """Return a Series, of pandas or polars, as an array; a sequence as it is.

    pandas looks numbers up in the Series' index, which a selection or a shuffle of rows leaves with
    other numbers than 0, 1, 2.
    """
    if hasattr(values, "to_pylist"):  # of Arrow, whose items are objects of its own
        return values.to_pylist()
    return np.asarray(values) if _is_series(values) else values


def _is_series(values: Any) -> bool:
    return hasattr(values, "to_numpy") and len(getattr(values, "shape", ())) == 1


def _as_table(images: Any, column: str) -> Any:
    """Return a path, or a table of pyarrow; None: they are a sequence of images."""
    if isinstance(images, str | os.PathLike):
        return images
    has_columns = hasattr(images, "__arrow_c_stream__") or hasattr(images, "__arrow_c_array__")
    if not has_columns or _is_series(images):
        return None
    import pyarrow as pa

    if isinstance(images, pa.Array | pa.ChunkedArray):
        return pa.table({column: images})
    return pa.table(images)


class _Column:
    """A column of a table as a sequence.

    Args:
        source: A table, or the path of a file.
        column: The name of the column.
    """

    def __init__(self, source: Any, column: str) -> None:
        self._name = column
        self.rows = _open_rows(source, column)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.take([index])[0]

    def take(self, indices: list[int]) -> list[Any]:
        """Return several rows.

        Raises:
            ValueError: One of them is null.
        """
        rows = self.rows.__getitems__(indices)
        for index, row in zip(indices, rows, strict=True):
            if not bool(row[f"{self._name}_valid"]):
                raise ValueError(f"row {index} of column {self._name!r} is null")
        return [row[self._name] for row in rows]


def _open_rows(source: Any, column: str) -> Any:
    """Open a column so that its rows can be read by index; what is null is told beside it.

    Raises:
        ValueError: It is no table, or lacks the column.
    """
    from fastload.datasets.arrow import ArrowDataset
    from fastload.datasets.parquet import ParquetDataset

    if isinstance(source, str | os.PathLike):
        ending = Path(source).suffix.lower()
        if ending not in _ENDINGS:
            raise ValueError(
                f"a table of images is a {', '.join(_ENDINGS)} file, but got {source!s}; of "
                "images in a folder ImageFolder makes a dataset, of single files give a list"
            )
        if ending == ".parquet":
            return ParquetDataset(str(source), [column], nulls="mask")
    return ArrowDataset(source, [column], nulls="mask")
