"""Pack sequences one after another into rows, for attention kernels that keep them apart.

Runs in: worker (consumer with ``num_workers=0``).
Takes: samples: sequences, or dicts and tuples whose sequences are equally long within a sample.
Gives: rows without a gap but at their ends, and where each sequence begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastload._memory.write import Place
from fastload.collate.misfit import Misfit
from fastload.collate.packing_plan import PackingPlan
from fastload.collate.placed import PlacedCollate, function_of
from fastload.collate.ragged_rows import (
    Side,
    check_lengths,
    check_value,
    cut,
    equal_outside,
    refuse_unless,
)
from fastload.collate.sequences import (
    Column,
    Sequences,
    is_sequence,
    to_sequences,
)
from fastload.collate.walk import (
    FieldNames,
    checked,
    collate_plain,
    columns_of,
    known_fields,
    misfits_explained,
    rebuilt,
    sequences_only,
)
from fastload.errors import CollateError


class Packed(NamedTuple):
    """Sequences that were packed into rows, with what tells them apart.

    Attributes:
        data: ``(rows, width, *feature)``; for dicts and tuples a container of these.
        cu_seqlens: ``(segments + 1,)``, int32: where each segment of ``data.flatten(0, 1)``
            begins, and the end. A segment is a sequence, or the padding at the end of a row.
        max_seqlen: Length of the longest segment.
        position_ids: ``(rows, width)``, int64: position within the segment.
        sequence_ids: ``(rows, width)``, int64: position of the sample in the batch; -1 in padding.
    """

    data: Any
    cu_seqlens: Tensor
    max_seqlen: int
    position_ids: Tensor
    sequence_ids: Tensor


@dataclass(frozen=True)
class Pack(PlacedCollate):
    """Holds the settings of ``fastload.pack``; called with samples, it packs their sequences.

    Example:
        >>> from fastload import Pack
        >>> packed = Pack(max_length=4)([[1, 2, 3], [4, 5], [6]])
        >>> packed.data.tolist(), packed.cu_seqlens.tolist()
        ([[1, 2, 3, 6], [4, 5, 0, 0]], [0, 3, 4, 6, 8])

    Arguments, results and errors are those of ``fastload.pack``.
    """

    max_length: int | None = None
    value: complex | Mapping[Any, complex] = 0
    truncate: Side | None = None
    multiple_of: int | None = None
    fields: FieldNames = None

    def __post_init__(self) -> None:
        refuse_unless(
            self.truncate in {None, "left", "right"},
            f'truncate is "left", "right" or None, not {self.truncate!r}',
        )
        values = self.value.values() if isinstance(self.value, Mapping) else [self.value]
        for value in values:
            check_value(value)
        check_lengths(self.max_length, self.multiple_of, self.truncate)

    def collate(self, samples: Sequence[Any], place: Place) -> Packed:
        """Collate into ``place``."""
        samples = checked(samples)
        with misfits_explained(samples):
            if is_sequence(samples):
                found = self._cut(_converted(samples), samples)
                plan = PackingPlan.of(_lengths(found), self.max_length, self.multiple_of)
                value = 0 if isinstance(self.value, Mapping) else self.value
                return _indexed(plan.write(found, value, place), plan, place)
            return self._containers(samples, place)

    def _containers(self, samples: list[Any], place: Place) -> Packed:
        columns = columns_of(samples)
        if self.fields is None:
            names = {key for key, column in columns.items() if is_sequence(column)}
        else:
            names = known_fields(self.fields, columns)
        if not names:
            raise CollateError(f"samples have no field with sequences among {list(columns)}")
        ordered = [key for key in columns if key in names]
        found = {key: _converted(sequences_only(columns[key])) for key in ordered}
        for key in ordered[1:]:
            _refuse_unequal(ordered[0], key, found, columns[key])
        found = {key: self._cut(each, columns[key]) for key, each in found.items()}
        plan = PackingPlan.of(_lengths(found[ordered[0]]), self.max_length, self.multiple_of)
        data = {
            key: plan.write(found[key], self._value_of(key), place)
            if key in found
            else collate_plain(column, place, key)
            for key, column in columns.items()
        }
        return _indexed(rebuilt(samples[0], data), plan, place)

    def _cut(self, found: Sequences, column: Column) -> Sequences:
        if self.max_length is None:
            return found
        return Sequences(cut(found.rows, (0,), self.max_length, self.truncate, column), found.dtype)

    def _value_of(self, key: Any) -> complex:
        return self.value.get(key, 0) if isinstance(self.value, Mapping) else self.value


@function_of(Pack)
def pack(
    samples: Sequence[Any],
    max_length: int | None = None,
    *,
    value: complex | Mapping[Any, complex] = 0,
    truncate: Side | None = None,
    multiple_of: int | None = None,
    fields: FieldNames = None,
) -> Packed:
    """Pack sequences into rows, none split: ``DataLoader(..., collate_fn=fastload.pack)``.

    The longest sequences come first, each into the first row that has room (first-fit
    decreasing: at most 11/9 of the fewest possible rows, and one more; G. Dósa, 2007, *The tight
    bound of first fit decreasing bin-packing algorithm*). Attention must keep sequences apart: give
    ``cu_seqlens`` and ``max_seqlen`` to a kernel for variable lengths, such as
    ``flash_attn_varlen_func``, or compare ``sequence_ids`` for a mask.

    With settings: ``functools.partial(fastload.pack, max_length=2048)`` or
    ``fastload.Pack(max_length=2048)``.

    Args:
        samples: The samples of a batch: tensors, arrays or lists of numbers, or dicts or tuples
            in which all sequences of a sample are equally long. Other fields are collated by
            ``default_collate`` in the order of the samples, which ``sequence_ids`` refer to.
        max_length: Width of the rows. None: one row with all sequences, in order, unpadded.
        value: What to fill the ends of rows with; by field if it is a mapping, 0 for the others.
        truncate: Which side of a sequence longer than ``max_length`` is cut off; None: that is
            an error.
        multiple_of: Round the width up to a multiple of this.
        fields: Which top-level fields to pack; None: all sequences.

    Returns:
        ``Packed(data, cu_seqlens, max_seqlen, position_ids, sequence_ids)``.

    Raises:
        CollateError: A sequence is longer than ``max_length``, sequences of one sample differ in
            length, or samples can't be tensors. Names path, shapes and position.
        ValueError: Wrong settings.

    Example:
        >>> import fastload
        >>> packed = fastload.pack([[1, 2], [3, 4, 5]])
        >>> packed.data.tolist(), packed.cu_seqlens.tolist(), packed.position_ids.tolist()
        ([[1, 2, 3, 4, 5]], [0, 2, 5], [[0, 1, 0, 1, 2]])
    """
    packed: Packed = Pack(max_length, value, truncate, multiple_of, fields)(samples)
    return packed


def _indexed(data: Any, plan: PackingPlan, place: Place) -> Packed:
    """Return the data together with its indices, which follow from the plan."""
    shape = (plan.rows, plan.width)
    positions = place.tensor(shape, torch.int64)
    sequences = place.tensor(shape, torch.int64)
    begins = place.tensor((len(plan.items) + 1,), torch.int32)
    total = plan.rows * plan.width
    flat = positions.numpy().reshape(-1)
    np.subtract(np.arange(total), np.repeat(plan.starts, plan.lengths), out=flat)
    sequences.numpy().reshape(-1)[:] = np.repeat(plan.items, plan.lengths)
    begins.numpy()[:-1] = plan.starts
    begins.numpy()[-1] = total
    longest = int(plan.lengths.max(initial=0))
    return Packed(data, begins, longest, positions, sequences)


def _converted(column: Column) -> Sequences:
    found = to_sequences(column)
    equal_outside(found.rows, (0,), column)
    return found


def _lengths(found: Sequences) -> list[int]:
    return [len(row) for row in found.rows]


def _refuse_unequal(first: Any, key: Any, found: Mapping[Any, Sequences], column: Column) -> None:
    pairs = zip(found[first].rows, found[key].rows, strict=True)
    for position, (one, other) in enumerate(pairs):
        if len(one) != len(other):
            raise Misfit(
                position,
                column[position],
                f"length {len(other)}",
                f"but its field {first!r} has length {len(one)}",
                "What is packed together is equally long within a sample: say which fields that "
                "is with fields=, the others are left to the default collate.",
            )
