"""Pad sequences of different lengths to one tensor.

Runs in: worker (consumer with ``num_workers=0``).
Takes: samples: sequences, or tuples and dicts with sequences among other things.
Gives: each field of sequences as one padded tensor with the lengths, and all else as the default
collate makes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastload._memory.write import Place
from fastload.collate.placed import PlacedCollate, function_of
from fastload.collate.ragged_rows import (
    Side,
    check_dtype,
    check_lengths,
    check_value,
    cut,
    equal_outside,
    refuse_unless,
    round_up,
)
from fastload.collate.sequences import Column, Row, carried, element_of, to_sequences
from fastload.collate.walk import FieldNames, collate_fields

Returns = Literal["lengths", "mask", "data"]


LARGE_ROW_BYTES = 1 << 14
"""For padded rows of this size or more, filling gaps alone beats filling everything first."""


class Padded(NamedTuple):
    """Padded sequences, and how long each is.

    Attributes:
        data: ``(batch, longest, *feature)``.
        lengths: ``(batch,)``, int64; ``(batch, dims)`` if several dimensions are padded.
    """

    data: Tensor
    lengths: Tensor


class Masked(NamedTuple):
    """Padded sequences, and where their elements are.

    Attributes:
        data: ``(batch, longest, *feature)``.
        mask: ``(batch, longest)``, bool: True where a sequence is, False where padding is.
    """

    data: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Pad(PlacedCollate):
    """Holds the settings of ``fastload.pad``; called with samples, it pads their sequences.

    Example:
        >>> from fastload import Pad
        >>> Pad(value=-1, side="left")([[1, 2, 3], [4]]).data.tolist()
        [[1, 2, 3], [-1, -1, 4]]

    Arguments, results and errors are those of ``fastload.pad``.
    """

    value: complex = 0
    side: Side = "right"
    multiple_of: int | None = None
    max_length: int | None = None
    truncate: Side | None = None
    dim: int | tuple[int, ...] = 0
    dtype: torch.dtype | None = None
    returns: Returns = "lengths"
    fields: FieldNames = None

    def __post_init__(self) -> None:
        refuse_unless(
            self.side in {"left", "right"}, f'side is "left" or "right", not {self.side!r}'
        )
        refuse_unless(
            self.truncate in {None, "left", "right"},
            f'truncate is "left", "right" or None, not {self.truncate!r}',
        )
        refuse_unless(
            self.returns in {"lengths", "mask", "data"},
            f'returns is "lengths", "mask" or "data", not {self.returns!r}',
        )
        check_value(self.value)
        check_dtype(self.dtype)
        check_lengths(self.max_length, self.multiple_of, self.truncate)
        dims = self.dims
        refuse_unless(
            bool(dims) and len(set(dims)) == len(dims) and all(isinstance(d, int) for d in dims),
            f"dim is a dimension or a tuple of different ones, not {self.dim!r}",
        )

    @property
    def dims(self) -> tuple[int, ...]:
        """Return the dimensions that are padded."""
        return self.dim if isinstance(self.dim, tuple) else (self.dim,)

    def collate(self, samples: Sequence[Any], place: Place) -> Any:
        """Collate into ``place``."""
        return collate_fields(samples, place, self.column, fields=self.fields, dims=self.dims)

    def column(self, column: Column, place: Place) -> Padded | Masked | Tensor:
        """Pad one field.

        Raises:
            Misfit: A sample's shape is not that of the others, or longer than allowed.
        """
        rows, dtype = to_sequences(column, self.dtype)
        dims = equal_outside(rows, self.dims, column)
        if self.max_length is not None:
            rows = cut(rows, dims, self.max_length, self.truncate, column)
        lengths = [[row.shape[dim] for row in rows] for dim in dims]
        longest = [round_up(max(each), self.multiple_of) for each in lengths]
        shape = list(rows[0].shape)
        for dim, size in zip(dims, longest, strict=True):
            shape[dim] = size
        data = place.tensor((len(rows), *shape), dtype)
        is_short = any(min(each) < size for each, size in zip(lengths, longest, strict=True))
        element = element_of(self.value, dtype) if is_short else None
        self._write(rows, carried(data), element, dims, longest)
        if self.returns == "data":
            return data
        if self.returns == "mask":
            return Masked(data, self._mask(lengths, longest, place))
        return Padded(data, self._lengths(lengths, place))

    def _write(
        self, rows: list[Row], target: Row, element: Any, dims: tuple[int, ...], longest: list[int]
    ) -> None:
        """Copy the rows into ``target``, and ``element`` into the gaps unless it is None."""
        is_simple = dims == (0,) and self.side == "right"
        only_gaps = is_simple and target[0].nbytes >= LARGE_ROW_BYTES
        if element is not None and not only_gaps:
            target[...] = element
        if not is_simple:
            for row, padded in zip(rows, target, strict=True):
                padded[self._region(row, dims, longest)] = row
            return
        for row, padded in zip(rows, target, strict=True):
            padded[: len(row)] = row
            if only_gaps:
                padded[len(row) :] = element

    def _region(self, row: Row, dims: tuple[int, ...], longest: list[int]) -> tuple[slice, ...]:
        """Return where a row goes in its padded place."""
        region = [slice(None)] * row.ndim
        for dim, size in zip(dims, longest, strict=True):
            start = size - row.shape[dim] if self.side == "left" else 0
            region[dim] = slice(start, start + row.shape[dim])
        return tuple(region)

    def _lengths(self, lengths: list[list[int]], place: Place) -> Tensor:
        if isinstance(self.dim, int):
            known = place.tensor((len(lengths[0]),), torch.int64)
            known.numpy()[...] = lengths[0]
        else:
            known = place.tensor((len(lengths[0]), len(lengths)), torch.int64)
            known.numpy()[...] = np.transpose(lengths)
        return known

    def _mask(self, lengths: list[list[int]], longest: list[int], place: Place) -> Tensor:
        batch = len(lengths[0])
        mask = place.tensor((batch, *longest), torch.bool)
        array = mask.numpy()
        array[...] = True
        for axis, size in enumerate(longest):
            known = np.asarray(lengths[axis])[:, None]
            places = np.arange(size)
            valid = places >= size - known if self.side == "left" else places < known
            others = [size if other == axis else 1 for other in range(len(longest))]
            array &= valid.reshape(batch, *others)
        return mask


@function_of(Pad)
def pad(
    samples: Sequence[Any],
    *,
    value: complex = 0,
    side: Side = "right",
    multiple_of: int | None = None,
    max_length: int | None = None,
    truncate: Side | None = None,
    dim: int | tuple[int, ...] = 0,
    dtype: torch.dtype | None = None,
    returns: Returns = "lengths",
    fields: FieldNames = None,
) -> Any:
    """Pad sequences to the longest of the batch: ``DataLoader(..., collate_fn=fastload.pad)``.

    A sample is a sequence, or a tuple, dict, ... of sequences and other things, as
    ``default_collate`` takes them. Sequences are tensors and arrays with at least one dimension
    and lists of numbers; each such field is padded. Everything else is collated by
    ``default_collate``, but lists of strings stay lists. Whether a field is padded depends on its
    type, never on the lengths in a batch.

    With settings: ``functools.partial(fastload.pad, value=-1)``, or ``fastload.Pad(value=-1)``.

    Args:
        samples: The samples of a batch.
        value: What to pad with.
        side: Where padding goes.
        multiple_of: Round the padded length up to a multiple of this.
        max_length: No sequence may be longer. With ``multiple_of`` of the same size, every batch
            has this length.
        truncate: Which side of a sequence longer than ``max_length`` is cut off; None: that is
            an error.
        dim: The dimension in which samples differ, or several of them, such as ``(1, 2)`` for
            images ``(3, height, width)``. All others must be equal.
        dtype: The result's dtype; None: that of the samples, promoted where they differ. Lists of
            Python integers are int64, of Python floats torch's default dtype; lists that are
            all empty are int64.
        returns: What comes with the data: ``"lengths"``, a ``"mask"`` that is True where no
            padding is, or nothing (``"data"``).
        fields: Which of the sample's own fields (keys of a dict, positions in a tuple) to pad;
            the rest is collated by ``default_collate``. None: every sequence.

    Returns:
        In the place of each sequence: ``Padded(data, lengths)``, ``Masked(data, mask)`` or the
        data alone. ``data`` is ``(batch, longest, *feature)``, contiguous.

    Raises:
        CollateError: Samples differ in another dimension than ``dim``, one is longer than
            ``max_length``, or can't be a dense CPU tensor. Names path, shapes and position.
        ValueError: Wrong settings, or a ``value`` that the dtype can't hold.

    Example:
        >>> import fastload
        >>> data, lengths = fastload.pad([[5, 6, 7], [8]])
        >>> data.tolist(), lengths.tolist()
        ([[5, 6, 7], [8, 0, 0]], [3, 1])
    """
    settings = Pad(value, side, multiple_of, max_length, truncate, dim, dtype, returns, fields)
    return settings(samples)
