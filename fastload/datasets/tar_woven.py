"""Read the samples of tar shards by position in a seeded stream, so that any worker can.

Runs in: worker (consumer with ``num_workers=0``).
Takes: the shards, an epoch, and positions in the stream of a loader with ``seed=``.
Gives: the samples at these positions.

As rows of Parquet files (``woven.py``): the shards of an epoch are dealt to a fixed number of
canonical shards, which take turns. A shard that is not packed is read at any place. Of the others a
buffer for each canonical shard is kept, unpacked.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.utils.data import Dataset

from fastload.datasets.tar_batches import SampleNode, sample_node
from fastload.datasets.tar_shards import Found, TarShards
from fastload.datasets.weave import Ints, Weave

_AT_ONCE = 1024
"""Rows of so many positions are found at a time: it takes hardly longer than of one."""


class WovenSamples(Dataset[Any]):
    """The samples of one epoch of a stream, by position.

    Args:
        shards: The shards.
        epoch: Number of the epoch.
        seed: Of the random order; None: as the shards were named.
        buffer_samples: Number of samples that are shuffled, over all canonical shards.
        canonical_shards: How many take turns.
        turn_samples: Samples of a turn.
    """

    batch_size: int | None = None

    def __init__(
        self,
        shards: TarShards,
        epoch: int,
        *,
        seed: int | None,
        buffer_samples: int,
        canonical_shards: int,
        turn_samples: int,
    ) -> None:
        order = shards.order(seed, epoch)
        number = max(1, min(canonical_shards, len(order)))
        counts = shards.counts()
        self._shards = shards
        self._key = None if seed is None else (seed, epoch)
        self._window = max(1, buffer_samples // number)
        # For each canonical shard, its shards and where their samples end.
        self._parts = [order[one::number] for one in range(number)]
        self._part_ends = [np.cumsum([counts[each] for each in part]) for part in self._parts]
        lengths = [sum(counts[each] for each in part) for part in self._parts]
        self._ends = np.cumsum(lengths)
        self._lengths = lengths
        self._weave = Weave(lengths, turn_samples)
        self._rows: dict[int, Ints] = {}
        self._orders: dict[int, tuple[int, Ints]] = {}
        self._unpacked: dict[int, tuple[int, dict[int, Found]]] = {}

    def __len__(self) -> int:
        return sum(self._lengths)

    def gather_node(self) -> SampleNode | None:
        """Return how a loader reads batches; None if samples are changed one by one."""
        return sample_node(self._shards, len(self), self._find)

    def __getitem__(self, position: int) -> Any:
        found = self._find(position)
        if isinstance(found, Exception):
            raise found
        return self._shards.make(found)

    def _find(self, position: int) -> Found:
        row = self._row(position)
        part = int(np.searchsorted(self._ends, row, side="right"))
        at = row - int(self._ends[part]) + self._lengths[part]
        if self._key is not None:
            window, inside = divmod(at, self._window)
            at = window * self._window + int(self._order(part, window)[inside])
        shard, sample = self._sample(part, at)
        if self._shards.is_gzip(shard):
            return self._from_buffer(part, at)
        return self._shards.place(shard, sample)

    def _row(self, position: int) -> int:
        """Return the row at a position, of those that are found together and kept."""
        block, inside = divmod(position, _AT_ONCE)
        rows = self._rows.get(block)
        if rows is None:
            first = block * _AT_ONCE
            rows = self._weave.rows(np.arange(first, min(first + _AT_ONCE, len(self))))
            if len(self._rows) > 3:
                self._rows.pop(next(iter(self._rows)))
            self._rows[block] = rows
        return int(rows[inside])

    def _order(self, part: int, window: int) -> Ints:
        """Return the order of the samples of a window; of each part the newest is kept."""
        assert self._key is not None
        kept = self._orders.get(part)
        if kept is None or kept[0] != window:
            first = window * self._window
            count = min(self._window, self._lengths[part] - first)
            draw = np.random.default_rng([*self._key, self._parts[part][0], window])
            kept = self._orders[part] = window, draw.permutation(count)
        return kept[1]

    def _sample(self, part: int, at: int) -> tuple[int, int]:
        """Return the shard and the number in it of a sample of a canonical shard."""
        ends = self._part_ends[part]
        number = int(np.searchsorted(ends, at, side="right"))
        before = int(ends[number - 1]) if number else 0
        return self._parts[part][number], at - before

    def _from_buffer(self, part: int, at: int) -> Found:
        """Return a sample of a packed shard, whose window is unpacked as a whole, forwards."""
        window = at // self._window
        kept = self._unpacked.get(part)
        if kept is None or kept[0] != window:
            self._unpacked.pop(part, None)  # or both would be in memory
            first = window * self._window
            numbers = range(first, min(first + self._window, self._lengths[part]))
            places = {each: self._shards.place(*self._sample(part, each)) for each in numbers}
            load = self._shards.loaded_if_packed
            kept = window, {each: load(place) for each, place in places.items()}
            self._unpacked[part] = kept
        return kept[1][at]
