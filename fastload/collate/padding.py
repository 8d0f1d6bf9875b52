"""Pad sequences of different lengths to one tensor.

Runs in: worker (consumer with ``num_workers=0``).
Takes: samples: sequences, or tuples and dicts with sequences among other things.
Gives: each sequence field as one padded tensor with the lengths, all else stacked as ever.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastload.collate.misfit import Misfit
from fastload.collate.placed import PlacedCollate, function_of
from fastload.collate.sequences import Column, Row, carried, fill_with, to_sequences
from fastload.collate.walk import FieldNames, collate_fields, refuse_unless
from fastload.memory.write import Place

Side = Literal["left", "right"]
Returns = Literal["lengths", "mask", "data"]


class Padded(NamedTuple):
    """Padded sequences and how long each is.

    Attributes:
        data: ``(batch, longest, *feature)``.
        lengths: ``(batch,)``, int64; ``(batch, dims)`` if several dimensions are padded.
    """

    data: Tensor
    lengths: Tensor


class Masked(NamedTuple):
    """Padded sequences and where their elements are.

    Attributes:
        data: ``(batch, longest, *feature)``.
        mask: ``(batch, longest)``, bool: True where a sequence is, False where padding is.
    """

    data: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Pad(PlacedCollate):
    """How to pad; called with samples, it does so.

    Example:
        >>> from fastload import Pad
        >>> Pad(value=-1, side="left")([[1, 2, 3], [4]]).data.tolist()
        [[1, 2, 3], [-1, -1, 4]]

    Args and what is returned: see ``fastload.pad``.
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
        check_lengths(self.max_length, self.multiple_of, self.truncate)
        refuse_unless(bool(self.dims), "dim names no dimension")

    @property
    def dims(self) -> tuple[int, ...]:
        """The dimensions that are padded."""
        return self.dim if isinstance(self.dim, tuple) else (self.dim,)

    def into(self, samples: Sequence[Any], place: Place) -> Any:
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
        target = carried(data)
        if any(min(each) < size for each, size in zip(lengths, longest, strict=True)):
            fill_with(target, self.value, dtype)
        if dims == (0,) and self.side == "right":
            for row, padded in zip(rows, target, strict=True):
                padded[: len(row)] = row
        else:
            for row, padded in zip(rows, target, strict=True):
                padded[self._region(row, dims, longest)] = row
        if self.returns == "data":
            return data
        if self.returns == "mask":
            return Masked(data, self._mask(lengths, longest, place))
        shape = [len(rows)] if isinstance(self.dim, int) else [len(rows), len(dims)]
        known = place.tensor(tuple(shape), torch.int64)
        known.numpy()[...] = lengths[0] if isinstance(self.dim, int) else np.transpose(lengths)
        return Padded(data, known)

    def _region(self, row: Row, dims: tuple[int, ...], longest: list[int]) -> tuple[slice, ...]:
        """Where a row goes in its padded place."""
        region = [slice(None)] * row.ndim
        for dim, size in zip(dims, longest, strict=True):
            start = size - row.shape[dim] if self.side == "left" else 0
            region[dim] = slice(start, start + row.shape[dim])
        return tuple(region)

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
        dtype: Of the result; None: that of the samples, promoted where they differ. A list of
            Python integers is int64, of Python floats torch's default dtype; lists that are all
            empty are int64.
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


def check_lengths(max_length: int | None, multiple_of: int | None, truncate: str | None) -> None:
    """Raise ValueError unless these go together."""
    for name, number in (("max_length", max_length), ("multiple_of", multiple_of)):
        refuse_unless(
            number is None or (isinstance(number, int) and number > 0),
            f"{name} is a positive integer or None, not {number!r}",
        )
    refuse_unless(
        truncate is None or max_length is not None,
        f"truncate={truncate!r} needs max_length, the length to cut to",
    )
    refuse_unless(
        max_length is None or multiple_of is None or max_length % multiple_of == 0,
        f"max_length={max_length} is not a multiple of multiple_of={multiple_of}: padded batches "
        f"would be longer than max_length",
    )


def round_up(length: int, multiple_of: int | None) -> int:
    """The next multiple."""
    return length if multiple_of is None else -(-length // multiple_of) * multiple_of


def equal_outside(rows: list[Row], dims: tuple[int, ...], column: Column) -> tuple[int, ...]:
    """The dimensions, counted from the front, once it is sure that rows differ in no other.

    Raises:
        Misfit: They do.
    """
    ndim = rows[0].ndim
    dims = tuple(dim % ndim for dim in dims)
    if dims == (0,) and len({row.shape[1:] for row in rows}) == 1:
        return dims
    differing = {
        dim for row in rows for dim in range(ndim) if row.shape[dim:][:1] != rows[0].shape[dim:][:1]
    }
    for position, row in enumerate(rows):
        fits = all(row.shape[d] == rows[0].shape[d] for d in range(ndim) if d not in dims)
        if row.ndim != ndim or not fits:
            remedy = f"Here only dimension {', '.join(map(str, dims))} may differ"
            if all(row.ndim == ndim for row in rows):
                remedy += f"; to pad what does: dim={as_dim(differing)}"
            expected = f"the one at position 0 has {rows[0].shape}"
            raise Misfit(
                position, column[position], f"shape {row.shape}", expected, f"{remedy}.", 0
            )
    return dims


def as_dim(dims: Collection[int]) -> int | tuple[int, ...]:
    """As the argument is written."""
    return next(iter(dims)) if len(dims) == 1 else tuple(sorted(dims))


def cut(
    rows: list[Row], dims: tuple[int, ...], most: int, side: str | None, column: Column
) -> list[Row]:
    """Shorten what is longer than allowed."""
    for position, row in enumerate(rows):
        longest = max(row.shape[dim] for dim in dims)
        if longest <= most:
            continue
        if side is None:
            raise Misfit(
                position,
                column[position],
                f"length {longest}",
                f"but max_length is {most}",
                'Pass truncate="right" to keep the beginning or truncate="left" to keep the end '
                "of such sequences, or leave them out in the sampler.",
            )
        region = [slice(None)] * row.ndim
        for dim in dims:
            region[dim] = slice(-most, None) if side == "left" else slice(most)
        rows[position] = row[tuple(region)]
    return rows
