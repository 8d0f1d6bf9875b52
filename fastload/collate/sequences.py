"""Turn one ragged field of a batch into NumPy arrays, whatever its samples are.

Runs in: worker (consumer with ``num_workers=0``).
Takes: a column: one tensor, array or list of numbers of each sample.
Gives: a row for each sample, and the torch dtype that the rows stand for.

Rows are views where the samples are tensors or arrays. Dtypes that NumPy lacks (bfloat16, ...) are
carried as integers of the same size: padding moves values, it computes nothing.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from functools import reduce
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastload._memory.layout import CARRIERS
from fastload._memory.write import is_plain
from fastload._system.interruptions import is_from_outside
from fastload.collate.inplace import TORCH_DTYPES
from fastload.collate.misfit import DEEPEST, Misfit

Row = npt.NDArray[Any]
Column = Sequence[Any]

_dtype = attrgetter("dtype")

NUMPY_HAS = frozenset(TORCH_DTYPES.values())

TYPE_CODES = {
    torch.int8: "b",
    torch.uint8: "B",
    torch.int16: "h",
    torch.uint16: "H",
    torch.int32: "i",
    torch.uint32: "I",
    torch.int64: "q",
    torch.uint64: "Q",
    torch.float32: "f",
    torch.float64: "d",
}
"""With these codes ``struct`` and ``array`` convert lists strictly and much faster than torch."""


NUMBERS = (bool, int, float, complex, np.number, np.bool_)
"""A list of numbers is made of these types."""


class Sequences(NamedTuple):
    """A column that was converted.

    Attributes:
        rows: For each sample an array ``(length, *feature)``, all of one dtype.
        dtype: What the rows' elements are to torch.
    """

    rows: list[Row]
    dtype: torch.dtype


def is_sequence(column: Column, dims: tuple[int, ...] = (0,)) -> bool:
    """Return whether a column is ragged by its type: its first sample has these dimensions.

    Lengths don't matter, or the form of a batch would depend on chance. Lists of numbers (or of
    lists of numbers) are sequences; a column of empty lists is one.
    """
    first = column[0]
    if isinstance(first, Tensor | np.ndarray):
        return all(-first.ndim <= dim < first.ndim for dim in dims)
    if not isinstance(first, list):
        return False
    depth, innermost = _inside(column)
    is_number = innermost is None or isinstance(innermost, NUMBERS)
    return is_number and all(-depth <= dim < depth for dim in dims)


def is_text(column: Column) -> bool:
    """Return whether a column's samples are lists of strings, which no tensor can hold."""
    return isinstance(column[0], list) and isinstance(_inside(column)[1], str | bytes)


def to_sequences(column: Column, wanted: torch.dtype | None = None) -> Sequences:
    """Convert a column to arrays.

    Args:
        column: Tensors, arrays or lists; of several dtypes they are promoted as torch does.
        wanted: Convert to this dtype instead.

    Raises:
        Misfit: A sample can't be a tensor, or only a part of it (sparse, with a gradient, ...).
    """
    kinds = set(map(type, column))
    found: Sequences | None = None
    if kinds == {list}:
        found = _of_lists(column, wanted)
    elif kinds == {Tensor}:
        found = _of_tensors(column, wanted)
    elif kinds == {np.ndarray}:
        found = _of_arrays(column, wanted)
    return _one_by_one(column, wanted) if found is None else found


def carried(tensor: Tensor) -> Row:
    """Return a tensor as the array that carries its elements, in the same memory."""
    if tensor.dtype in NUMPY_HAS:
        return tensor.numpy()
    return tensor.view(CARRIERS[tensor.dtype.itemsize]).numpy()


def element_of(value: Any, dtype: torch.dtype) -> Any:
    """Return a value as an element of the array that carries a dtype.

    Raises:
        ValueError: The dtype has no such value: -1 in uint8, 0.5 in an integer.
    """
    try:
        element = torch.full((1,), value, dtype=dtype, device="cpu")
        fits = dtype.is_floating_point or dtype.is_complex or element.item() == value
    except (RuntimeError, OverflowError):
        fits = False
    if not fits:
        raise ValueError(
            f"value={value!r} can't be an element of {dtype}: choose another, or dtype="
        )
    return carried(element)[0]


def _inside(column: Column) -> tuple[int, Any]:
    """Return how deep the lists of a column are, and the first element inside, or None."""
    found: Any = next((sample for sample in column if isinstance(sample, list) and sample), None)
    depth = 0 if found else 1
    while isinstance(found, list | tuple) and depth < DEEPEST:
        depth, found = depth + 1, found[0] if found else None
    return depth, found


def _of_tensors(column: Column, wanted: torch.dtype | None) -> Sequences | None:
    dtypes = set(map(_dtype, column))
    dtype = dtypes.pop()
    if dtypes or wanted not in {None, dtype} or dtype not in NUMPY_HAS:
        return None
    try:
        return Sequences([tensor.numpy() for tensor in column], dtype)
    except (RuntimeError, TypeError):  # on another device, conjugated, with a gradient, ...
        return None


def _of_arrays(column: Column, wanted: torch.dtype | None) -> Sequences | None:
    dtypes = set(map(_dtype, column))
    dtype = TORCH_DTYPES.get(dtypes.pop())
    if dtypes or dtype is None or wanted not in {None, dtype}:
        return None
    return Sequences(list(column), dtype)


def _of_lists(column: Column, wanted: torch.dtype | None) -> Sequences | None:
    kinds = {type(sample[0]) for sample in column if sample}
    if not kinds <= {int, float}:
        return None
    if wanted is not None:
        dtypes = [wanted] if wanted in TYPE_CODES else []
    else:  # of lists that begin with an integer, one may go on with a fraction
        dtypes = [torch.get_default_dtype()]
        dtypes = [torch.int64, *dtypes] if kinds <= {int} else dtypes
    for dtype in dtypes:
        code = TYPE_CODES.get(dtype)
        try:
            if code is not None:
                return Sequences(_numbers(column, code), dtype)
        except TypeError:  # a fraction among integers, or no number at all
            continue
        except OverflowError:  # no other dtype may round what one of integers can't hold
            return None
    return None


def _numbers(column: Column, code: str) -> list[Row]:
    """Convert lists of numbers to arrays; ``struct`` takes 40 % of the time of ``array``.

    Raises:
        TypeError: An element is no number, or a fraction among integers.
        OverflowError: An element is beyond the type's range.
    """
    try:
        packed: list[Any] = [struct.Struct(f"{len(s)}{code}").pack(*s) for s in column]
    except struct.error:  # which does not tell the two apart
        packed = [array(code, s) for s in column]
    return [np.frombuffer(each, code) for each in packed]


def _one_by_one(column: Column, wanted: torch.dtype | None) -> Sequences:
    """Convert sample by sample; this knows every case, and which sample is at fault."""
    tensors: list[Tensor | None] = []
    for position, sample in enumerate(column):
        try:
            is_empty = isinstance(sample, list) and not sample
            tensors.append(None if is_empty else _to_tensor(sample, wanted))
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            if is_from_outside(error):
                raise
            remedy = "Sequences are dense tensors on the CPU, NumPy arrays or lists of numbers."
            expected = f"which can't be padded or packed: {error}"
            raise Misfit(position, sample, _describe(sample), expected, remedy) from error
    known = [tensor for tensor in tensors if tensor is not None]
    dtype = wanted or (reduce(torch.promote_types, map(_dtype, known)) if known else torch.int64)
    shape = (0, *known[0].shape[1:]) if known else (0,)
    rows = [
        carried(
            torch.empty(shape, dtype=dtype, device="cpu") if tensor is None else tensor.to(dtype)
        )
        for tensor in tensors
    ]
    return Sequences(rows, dtype)


def _to_tensor(sample: Any, wanted: torch.dtype | None) -> Tensor:
    if isinstance(sample, Tensor):
        if sample.requires_grad:
            raise ValueError("it requires a gradient, which no batch of a loader can have")
        if not is_plain(sample):
            raise ValueError(f"its layout is {sample.layout}, its device {sample.device}")
        return sample.as_subclass(Tensor).resolve_conj().resolve_neg()
    if isinstance(sample, np.ndarray):
        if sample.dtype not in TORCH_DTYPES:
            raise TypeError(f"torch has no dtype for NumPy's {sample.dtype!r}")
        return torch.tensor(np.ascontiguousarray(sample).reshape(sample.shape), device="cpu")
    if not isinstance(sample, list):
        raise TypeError("it is not a sequence of numbers")
    return torch.tensor(sample, dtype=wanted, device="cpu")


def _describe(sample: Any) -> str:
    if isinstance(sample, Tensor | np.ndarray):
        return f"{type(sample).__name__} of {sample.dtype} and shape {tuple(sample.shape)}"
    return f"type {type(sample).__name__}"
