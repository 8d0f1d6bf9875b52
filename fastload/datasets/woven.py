"""Read the rows of a ``ParquetStream`` by position, so that any worker can load any batch.

Runs in: worker (consumer with ``num_workers=0``).
Takes: a ``ParquetStream``, an epoch, and positions in the stream of a loader with ``seed=``.
Gives: the rows at these positions.

The row groups of an epoch are dealt to a fixed number of *canonical shards*, which take turns of a
fixed number of rows. So the order depends on neither workers nor ranks, and yet neighbours in the
stream come from few row groups. With ``canonical_shards`` C, ``turn_rows`` q and batches of B rows,
a row group is read by one worker if q divides B and ranks times workers times B divide q times C;
otherwise by several.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastload._memory.write import HEAP, Place
from fastload.datasets.arrow_buffers import Ints
from fastload.datasets.tabular import TableDataset
from fastload.datasets.weave import Weave
from fastload.datasets.windows import RowWindow

if TYPE_CHECKING:
    from fastload.datasets.stream import ParquetStream


class WovenRows(TableDataset):
    """The rows of one epoch of a stream, by position; they are read a window of a shard at a time.

    Of each shard the window that was read last is kept. Shards take turns, so of the windows of all
    shards together the one that was not used for the longest is the one that comes next.

    Args:
        stream: The stream, with its files, its order and its options.
        epoch: The number of the epoch.
    """

    def __init__(self, stream: ParquetStream, epoch: int) -> None:
        shards = stream._shards(epoch)
        rows_of = stream._rows_of
        self.batch_size = stream.batch_size
        self._stream = stream
        self._epoch = epoch
        self._windows = [window for shard in shards for window in shard]
        super().__init__(stream.schema, stream._form, [rows_of(window) for window in self._windows])
        self._weave = Weave([sum(map(rows_of, shard)) for shard in shards], stream.turn_rows)
        self._shard_of = [number for number, shard in enumerate(shards) for _ in shard]
        self._kept: dict[int, tuple[int, RowWindow]] = {}

    def batch(self, positions: Sequence[int], place: Place) -> Any:
        """Return the rows at positions as one batch, as the stream itself makes it."""
        if self._form.batch_transform is not None:
            place = HEAP  # it may keep what it sees, so it must not see the slot
        return self._form.batch(self.read(np.asarray(positions, np.int64), place))

    def _find(self, rows: Ints) -> list[Any]:
        return super()._find(self._weave.rows(np.asarray(rows, np.int64)))

    def _block(self, number: int) -> Any:
        shard = self._shard_of[number]
        kept = self._kept.get(shard)
        if kept is None or kept[0] != number:
            kept = number, self._stream._fill(self._windows[number], self._epoch)
            self._kept[shard] = kept
        return kept[1]
