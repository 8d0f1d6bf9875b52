"""Check what padding, packing and joining share: settings of length, and rows that fit.

Runs in: worker (consumer with ``num_workers=0``).
Takes: the rows of a column, as arrays.
Gives: rows that differ in the ragged dimensions alone and are no longer than allowed.
"""

from __future__ import annotations

from collections.abc import Collection
from numbers import Number
from operator import attrgetter
from typing import Any, Literal

import numpy as np
import torch

from fastload.collate.misfit import Misfit
from fastload.collate.sequences import Column, Row

_ndim = attrgetter("ndim")

Side = Literal["left", "right"]


def refuse_unless(holds: bool, otherwise: str) -> None:
    """Raise ValueError with this text unless a setting is right."""
    if not holds:
        raise ValueError(otherwise)


def check_lengths(max_length: int | None, multiple_of: int | None, truncate: str | None) -> None:
    """Raise ValueError unless these go together."""
    given: dict[str, Any] = {"max_length": max_length, "multiple_of": multiple_of}
    for name, number in given.items():
        refuse_unless(
            number is None or (isinstance(number, int | np.integer) and bool(number > 0)),
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


def check_value(value: Any) -> None:
    """Raise ValueError unless a value is something to pad with."""
    refuse_unless(isinstance(value, Number), f"value is a number, not {value!r}")


def check_dtype(dtype: Any) -> None:
    """Raise ValueError unless this is a dtype of torch's, or None."""
    refuse_unless(
        dtype is None or isinstance(dtype, torch.dtype),
        f"dtype is a torch.dtype or None, not {dtype!r}",
    )


def round_up(length: int, multiple_of: int | None) -> int:
    """Return the next multiple of ``multiple_of`` from a length on; the length itself for None."""
    return length if multiple_of is None else -(-length // multiple_of) * multiple_of


def equal_outside(rows: list[Row], dims: tuple[int, ...], column: Column) -> tuple[int, ...]:
    """Return the dimensions, counted from the front, once it is sure that rows differ in no other.

    Raises:
        Misfit: The rows differ in another dimension.
    """
    ndim = rows[0].ndim
    dims = tuple(dim % ndim for dim in dims)
    if len(set(dims)) < len(dims):
        raise Misfit(0, column[0], f"shape {rows[0].shape}", "where dim names one twice", "")
    are_alike = set(map(_ndim, rows)) == {ndim}
    if are_alike and dims == (0,) and len({row.shape[1:] for row in rows}) == 1:
        return dims
    fixed = [dim for dim in range(ndim) if dim not in dims]
    expected = [rows[0].shape[dim] for dim in fixed]
    for position, row in enumerate(rows):
        if row.ndim != ndim or [row.shape[dim] for dim in fixed] != expected:
            remedy = f"Here only dimension {', '.join(map(str, dims))} may differ"
            if are_alike:
                differing = {d for d in range(ndim) if len({row.shape[d] for row in rows}) > 1}
                remedy += f"; fastload.Pad(dim={as_dim(differing)}) pads what does"
            shape = f"shape {row.shape}"
            expected_shape = f"the one at position 0 {rows[0].shape}"
            raise Misfit(position, column[position], shape, expected_shape, f"{remedy}.", 0)
    return dims


def as_dim(dims: Collection[int]) -> int | tuple[int, ...]:
    """Return dimensions as ``dim=`` takes them: a number if there is one, otherwise a tuple."""
    return next(iter(dims)) if len(dims) == 1 else tuple(sorted(dims))


def cut(
    rows: list[Row], dims: tuple[int, ...], most: int, side: str | None, column: Column
) -> list[Row]:
    """Shorten the rows that are longer than allowed.

    Raises:
        Misfit: There is one, and ``side`` is None.
    """
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
