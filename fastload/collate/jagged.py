"""Join sequences of different lengths into torch's jagged nested tensor, without padding.

Runs in: worker (consumer with ``num_workers=0``).
Takes: samples: sequences, or tuples and dicts with sequences among other things.
Gives: each field of sequences as one nested tensor, and all else as the default collate makes it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastload._memory.write import HEAP, Place
from fastload._torch_private import jagged
from fastload.collate.kernels import runs_no_users_code
from fastload.collate.placed import PlacedCollate, function_of
from fastload.collate.ragged_rows import check_dtype, equal_outside
from fastload.collate.sequences import Column, carried, to_sequences
from fastload.collate.walk import FieldNames, collate_fields

Parts = tuple[Tensor, Tensor, int, int]
"""Holds values, offsets, and the length of the shortest and of the longest sequence."""


@dataclass(frozen=True)
class Ragged(PlacedCollate):
    """Holds the settings of ``fastload.ragged``; called with samples, it joins their sequences.

    Example:
        >>> from fastload import Ragged
        >>> [tensor.tolist() for tensor in Ragged()([[1, 2], [3]]).unbind()]
        [[1, 2], [3]]

    Arguments, results and errors are those of ``fastload.ragged``.
    """

    dtype: torch.dtype | None = None
    fields: FieldNames = None

    def __post_init__(self) -> None:
        check_dtype(self.dtype)

    def collate(self, samples: Sequence[Any], place: Place) -> Any:
        """Collate into ``place``."""
        # A stand-in must be seen by no container of the user's, nor by what pickles one.
        is_hidden = place is not HEAP and len(samples) > 0 and runs_no_users_code(samples[0])
        join = _Nested if is_hidden else _nested_of
        kernel = functools.partial(self._column, join=join)
        return collate_fields(samples, place, kernel, fields=self.fields)

    def _column(self, column: Column, place: Place, *, join: Callable[[Parts], Any]) -> Any:
        rows, dtype = to_sequences(column, self.dtype)
        equal_outside(rows, (0,), column)
        lengths = [len(row) for row in rows]
        values = place.tensor((sum(lengths), *rows[0].shape[1:]), dtype)
        np.concatenate(rows, out=carried(values))
        offsets = place.tensor((len(rows) + 1,), torch.int64)
        offsets.numpy()[0] = 0
        np.cumsum(lengths, out=offsets.numpy()[1:])
        return join((values, offsets, min(lengths), max(lengths)))


@function_of(Ragged)
def ragged(
    samples: Sequence[Any], *, dtype: torch.dtype | None = None, fields: FieldNames = None
) -> Any:
    """Join sequences without padding: ``DataLoader(..., collate_fn=fastload.ragged)``.

    Samples are as for ``fastload.pad``; each field of sequences becomes a nested tensor with the
    layout ``torch.jagged``. From workers, its values and offsets travel in the slot.

    Args:
        samples: The samples of a batch.
        dtype: The result's dtype; None: that of the samples, promoted where they differ.
        fields: Which of the sample's own fields (keys of a dict, positions in a tuple) to join;
            the rest is collated by ``default_collate``. None: every sequence.

    Returns:
        In the place of each sequence a nested tensor ``(batch, jagged, *feature)``.

    Raises:
        CollateError: Samples differ in another dimension than the first, or can't be dense CPU
            tensors. Names path, shapes and position.

    Example:
        >>> import fastload
        >>> nested = fastload.ragged([[1, 2], [3]])
        >>> nested.values().tolist(), nested.offsets().tolist()
        ([1, 2, 3], [0, 2, 3])
    """
    return Ragged(dtype, fields)(samples)


def nested(values: Tensor, offsets: Tensor, shortest: int, longest: int) -> Tensor:
    """Make a nested tensor on these values.

    The lengths are given although torch could compute them: it does so each time somebody asks.
    """
    made: Tensor = jagged(values, offsets, shortest, longest)
    return made


def _nested_of(parts: Parts) -> Tensor:
    return nested(*parts)


class _Nested:
    """Stands for a nested tensor on its way to the consumer, who makes it.

    torch's own way of pickling one sends 5 kB beside the values, and making one to pickle it
    takes longer than to join the sequences.
    """

    __slots__ = ("_parts",)

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def __reduce__(self) -> tuple[Any, ...]:
        return nested, self._parts
