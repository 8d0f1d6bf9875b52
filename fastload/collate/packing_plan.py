"""Plan which sequence goes into which row, and where.

Runs in: worker (consumer with ``num_workers=0``).
Takes: the lengths of sequences and the width of a row.
Gives: segments in the order in which they lie in the rows: sequences, and padding at row ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from fastload._memory.write import Place
from fastload.collate.ragged_rows import round_up
from fastload.collate.sequences import Sequences, carried, element_of

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PackingPlan:
    """Says which sequence goes where: segments in the order in which they lie in the rows.

    Attributes:
        rows: The number of rows.
        width: The length of each row.
        items: For each segment the position of its sample, -1 for padding.
        lengths: The length of each segment.
        starts: Where each segment begins in the flattened rows.
    """

    rows: int
    width: int
    items: Numbers
    lengths: Numbers
    starts: Numbers

    @classmethod
    def of(cls, lengths: list[int], max_length: int | None, multiple_of: int | None) -> PackingPlan:
        """Plan rows of ``max_length``; without it, one row of all sequences."""
        if max_length is None:
            width = round_up(sum(lengths), multiple_of)
            bins = [[item for item, length in enumerate(lengths) if length]]
        else:
            width = max_length
            bins = first_fit_decreasing(lengths, width) or [[]]
        items: list[int] = []
        sizes: list[int] = []
        for contained in bins:
            items += contained
            sizes += [lengths[item] for item in contained]
            rest = width - sum(lengths[item] for item in contained)
            if rest:
                items.append(-1)
                sizes.append(rest)
        ends = np.cumsum(np.asarray(sizes, np.int64))
        segments = np.asarray(sizes, np.int64)
        return cls(len(bins), width, np.asarray(items, np.int64), segments, ends - segments)

    def write(self, found: Sequences, value: complex, place: Place) -> Tensor:
        """Pack one field."""
        rows, dtype = found
        data = place.tensor((self.rows, self.width, *rows[0].shape[1:]), dtype)
        target = carried(data).reshape(-1, *rows[0].shape[1:])
        if (self.items < 0).any():
            target[...] = element_of(value, dtype)
        for item, start in zip(self.items.tolist(), self.starts.tolist(), strict=True):
            if item >= 0:
                row = rows[item]
                target[start : start + len(row)] = row
        return data


def first_fit_decreasing(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Assign items to as few bins as first-fit decreasing needs.

    Args:
        lengths: The length of each item, at most ``width``; items of length 0 are left out.
        width: What a bin holds.

    Returns:
        For each bin its items, longest first; equal ones in their order.
    """
    sizes = np.asarray(lengths)
    order = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)].tolist()
    room = np.full(max(len(order), 1), width)
    bins: list[list[int]] = []
    first_open = 0  # everything before it is full
    for item in order:
        size = lengths[item]
        while first_open < len(bins) and room[first_open] == 0:
            first_open += 1
        number = first_open + int((room[first_open:] >= size).argmax())
        if number == len(bins):
            bins.append([])
        bins[number].append(item)
        room[number] -= size
    return bins
