"""An iterable dataset on Parquet files: row groups are dealt to ranks and workers, and read ahead.

Runs in: worker (consumer with ``num_workers=0``).
Takes: nothing but an epoch; it is iterated over.
Gives: samples, or ready batches of columns.

The order of a reader is a function of the seed, the epoch and the reader's share alone::

    row groups, shuffled → of my rank → of my worker → windows of at least buffer_rows rows
    → rows of each window, shuffled → batches, which may span windows

A position in it is a window and a row in its order, so another process can go on there without
reading what came before.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from fastload._memory.write import HEAP, Place
from fastload.datasets.arrow_types import Decimals
from fastload.datasets.epoch_stream import EpochStream
from fastload.datasets.nodes import WritesItems
from fastload.datasets.ranks_and_workers import StreamShare, this_share
from fastload.datasets.row_blocks import refuse_nulls
from fastload.datasets.row_groups import RowGroups
from fastload.datasets.tabular import ColumnOptions, Nulls, Values
from fastload.datasets.windows import Cutter, Piece, RowWindow, read, shuffled
from fastload.datasets.woven import WovenRows

BUFFER_ROWS = 65_536

CANONICAL_SHARDS = 16
"""So many shards take turns in a seeded stream; as many windows of rows are in memory."""

TURN_ROWS = 1024
"""A turn has so many rows; a batch of as many lies in one shard."""
_SAMPLES_AT_ONCE = 256
_VERSION = 1


class StreamPosition(NamedTuple):
    """Says where a reader stands in its order."""

    epoch: int
    window: int
    row: int


class ParquetStream(EpochStream):
    """Yields rows of Parquet files, one row group after another, at the speed of the file.

    Whole row groups are dealt to ranks and then to workers: every row is read once in an epoch, by
    one of them, whatever loader is used. The next row groups are read in a thread meanwhile.
    Samples and batches are those of ``ArrowDataset``.

    With ``batch_size=`` the stream makes the batches itself, which is many times faster than from
    single samples; give the loader ``batch_size=None`` then. Each worker ends with a batch of its
    own that may be short, unless ``drop_last``.

    Args:
        source: Path, glob pattern, folder, URI, or an iterable of those.
        columns: Names of the columns to read; None: all. Others are not touched.
        batch_size: Rows a batch; None: samples are yielded one by one.
        drop_last: Leave out a batch that is not full at the end of a worker's rows.
        shuffle: Read row groups in random order, and rows in random order within a buffer.
        buffer_rows: Row groups are read into the buffer until it has at least so many rows; it
            is emptied in random order, then filled anew. Memory holds two buffers, three while
            one is shuffled.
        seed: Chooses the random order together with the epoch.
        canonical_shards: With a loader that has ``seed=``: the row groups of an epoch are dealt to
            so many shards, which take turns. The order then depends on neither workers nor ranks.
        turn_rows: Rows of a turn. A row group is read by one worker if this divides the batch size,
            and batch size times workers times ranks divides ``canonical_shards * turn_rows``.
        filters: Only rows of which this is true: a ``pyarrow.compute.Expression``, or a list as
            ``pyarrow.parquet.read_table`` takes. Row groups are left out by their statistics.
        rank: The number of this process among ``world_size``; None: that of the process group if
            there is one, or torchrun's, when the stream is made.
        world_size: Number of processes that share the rows. Ranks get whole row groups, so their
            numbers of rows differ by a row group or more.
        filesystem: The same as for ``ArrowDataset``.
        nulls: The same as for ``ArrowDataset``.
        fill: The same as for ``ArrowDataset``.
        transform: The same as for ``ArrowDataset``.
        batch_transform: The same as for ``ArrowDataset``.
        verify: The same as for ``ParquetDataset``.
        decimals: The same as for ``ArrowDataset``.

    Raises:
        FileNotFoundError: No file was found.
        ValueError: Schemas differ, an option doesn't fit, or a column is of a type that can't be
            read.
        CorruptDataError: A file is damaged; here, or when its damaged part is read.

    Example:
        >>> from fastload.datasets import write_parquet
        >>> write_parquet({"x": [1, 2, 3]}, "/tmp/three.parquet")
        >>> [batch["x"].tolist() for batch in ParquetStream("/tmp/three.parquet", batch_size=2)]
        [[1, 2], [3]]
    """

    def __init__(
        self,
        source: str | Path | Iterable[str | Path],
        columns: Sequence[str] | None = None,
        *,
        batch_size: int | None = None,
        drop_last: bool = False,
        shuffle: bool = False,
        buffer_rows: int = BUFFER_ROWS,
        seed: int = 0,
        canonical_shards: int = CANONICAL_SHARDS,
        turn_rows: int = TURN_ROWS,
        filters: Any = None,
        rank: int | None = None,
        world_size: int | None = None,
        filesystem: Any = None,
        nulls: Nulls = "error",
        fill: Mapping[str, Any] | None = None,
        transform: Callable[[Values], Any] | None = None,
        batch_transform: Callable[[Values], Any] | None = None,
        verify: bool = True,
        decimals: Decimals = "error",
    ) -> None:
        for name, value in (
            ("batch_size", batch_size),
            ("buffer_rows", buffer_rows),
            ("canonical_shards", canonical_shards),
            ("turn_rows", turn_rows),
        ):
            if value is not None and value < 1:
                raise ValueError(f"{name} is at least 1, but got {value}")
        if seed < 0:
            raise ValueError(f"seed is at least 0, but got {seed}")
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.shuffle = shuffle
        self.buffer_rows = buffer_rows
        self.seed = seed
        self.canonical_shards = canonical_shards
        self.turn_rows = turn_rows
        super().__init__(rank, world_size)
        self._filters = _expression(filters)
        self._row_groups = RowGroups(source, columns, filesystem, verify=verify, decimals=decimals)
        self.schema = self._row_groups.schema
        self._form = ColumnOptions(self.schema, nulls, fill, transform, batch_transform, decimals)
        self._position: StreamPosition | None = None
        self._is_finished = False

    def __len__(self) -> int:
        """Return how many batches, or samples, this rank's only reader yields.

        Raises:
            TypeError: There are filters: the number is known only once all was read.
        """
        return self.count_batches()

    def count_batches(
        self, workers: int = 1, batch_size: int | None = None, *, drop_last: bool = False
    ) -> int:
        """Return exactly how many batches, or samples, this rank's workers yield in this epoch.

        Args:
            workers: How many read; ``fastload.DataLoader`` says so when asked for its length.
            batch_size: The size of the batches that a loader makes of what is yielded; None: it
                makes none.
            drop_last: Whether that loader leaves out short batches.

        Raises:
            TypeError: There are filters: the number is known only once all was read.
        """
        if self._filters is not None:
            raise TypeError("a ParquetStream with filters has no length before it was read")
        order = self._order(self.epoch)
        total = 0
        for worker in range(max(workers, 1)):
            share = StreamShare(self.rank, self.world_size, worker, max(workers, 1))
            yielded = sum(self._row_groups.groups[number].rows for number in share.of(order))
            yielded = _batches(yielded, self.batch_size, drop_last=self.drop_last)
            total += _batches(yielded, batch_size, drop_last=drop_last)
        return total

    def warn_of_loader(self, batch_size: int | None) -> None:
        """Warn of a loader that puts batches of this stream together once more."""
        if self.batch_size is None or batch_size is None:
            return
        warnings.warn(
            f"this ParquetStream makes batches of {self.batch_size} rows, and the loader puts "
            f"{batch_size} of them together: tensors get the shape ({batch_size}, "
            f"{self.batch_size}, ...), and what differs in shape is an error. Pass batch_size=None "
            f"to the loader to get the stream's batches, or leave out the stream's batch_size",
            stacklevel=3,
        )

    def __iter__(self) -> Iterator[Any]:
        share = this_share(self.rank, self.world_size)
        start = self._start(share)
        self._position, self._is_finished = start, False
        hand = _Hand()
        return _Reader(self._read(share, start, hand), hand)

    def state_dict(self) -> dict[str, Any]:
        """Return where the newest iterator in this process stands, as plain values.

        One that has ended leaves nothing to go on with: what is loaded then begins an epoch, that
        of ``set_epoch``, for any number of ranks and workers.
        """
        if self._loaded is not None:
            return dict(self._loaded)
        position = self._position or StreamPosition(self.epoch, 0, 0)
        share = this_share(self.rank, self.world_size)
        return {
            "version": _VERSION,
            **position._asdict(),
            "is_finished": self._is_finished,
            "share": list(share),
            "order": self._fingerprint(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next iterator go on where the state was taken; what came before is not read.

        Raises:
            ValueError: The state is of other files, or of another order.
        """
        self._take(state_dict, _VERSION)
        self._position, self._is_finished = None, bool(state_dict.get("is_finished"))

    def seeded_rows(self, epoch: int) -> WovenRows:
        """Return the rows of an epoch by their position in the stream of a loader with ``seed=``.

        Raises:
            ValueError: There are filters: the number of rows is known only once all were read.
        """
        if self._filters is not None:
            raise ValueError(
                "a ParquetStream with filters can't be read with seed=: the positions of its rows "
                "are known only once all were read. Filter in the program, or write the rows that "
                "are wanted to files of their own (fastload.datasets.write_parquet)."
            )
        return WovenRows(self, epoch)

    @property
    def seeded_length(self) -> int:
        """Return the number of rows of an epoch in the stream of a loader with ``seed=``."""
        return sum(group.rows for group in self._row_groups.groups)

    def seeded_identity(self) -> dict[str, Any]:
        """Return as plain values what, beside the epoch, ``seeded_rows`` follows from."""
        return {
            "stream": self._fingerprint(),
            "canonical_shards": self.canonical_shards,
            "turn_rows": self.turn_rows,
        }

    def _shards(self, epoch: int) -> list[list[list[int]]]:
        """Return the windows of each canonical shard: row groups that are read together."""
        order = self._order(epoch)
        number = max(1, min(self.canonical_shards, len(order)))
        least = self.buffer_rows // number if self.shuffle else 0
        return [self._cut_windows(order[shard::number], least) for shard in range(number)]

    def _cut_windows(self, numbers: list[int], least_rows: int) -> list[list[int]]:
        """Cut row groups into windows of at least so many rows each, but for the last."""
        windows: list[list[int]] = []
        rows = least_rows
        for number in numbers:
            if rows >= least_rows:
                windows.append([])
                rows = 0
            windows[-1].append(number)
            rows += self._row_groups.groups[number].rows
        return windows

    def _rows_of(self, numbers: list[int]) -> int:
        return sum(self._row_groups.groups[number].rows for number in numbers)

    def _start(self, share: StreamShare) -> StreamPosition:
        state, self._loaded = self._loaded, None
        if state is None:
            return StreamPosition(self.epoch, 0, 0)
        if state["share"] != list(share):
            raise ValueError(
                f"this state is of {StreamShare(*state['share'])}, but cannot be resumed in "
                f"{share}: rows are dealt to as many ranks and workers as there were"
            )
        return StreamPosition(state["epoch"], state["window"], state["row"])

    def _fingerprint(self) -> list[Any]:
        groups = self._row_groups.groups
        shuffled = [self.seed, self.buffer_rows] if self.shuffle else []
        filtered = [] if self._filters is None else [str(self._filters)]
        rows = sum(group.rows for group in groups)
        return [len(groups), rows, self._row_groups.checksum, *shuffled, *filtered]

    def _order(self, epoch: int) -> list[int]:
        groups = len(self._row_groups.groups)
        if not self.shuffle:
            return list(range(groups))
        order: list[int] = np.random.default_rng([self.seed, epoch]).permutation(groups).tolist()
        return order

    def _windows(self, share: StreamShare, epoch: int) -> list[list[int]]:
        least = self.buffer_rows if self.shuffle else 0
        return self._cut_windows(share.of(self._order(epoch)), least)

    def _read(self, share: StreamShare, start: StreamPosition, hand: _Hand) -> Iterator[Any]:
        windows = self._windows(share, start.epoch)
        cutter = Cutter(self.batch_size or _SAMPLES_AT_ONCE, spans_windows=bool(self.batch_size))
        for number, window in self._read_ahead(windows, start):
            first = start.row if number == start.window else 0
            for pieces, end in cutter.cut(window, first):
                for row, item in self._items(pieces, end, hand):
                    # Set before: whoever asks for the state while it has the item counts it.
                    self._position = StreamPosition(start.epoch, number, row)
                    yield item
        self._position = StreamPosition(start.epoch, len(windows), 0)
        if cutter.waiting and not self.drop_last:
            yield self._batch(cutter.waiting, hand)
        self._position, self._is_finished = None, True

    def _read_ahead(
        self, windows: list[list[int]], start: StreamPosition
    ) -> Iterator[tuple[int, RowWindow]]:
        """Yield each window, while the next one is read."""
        if start.window >= len(windows):
            return
        with ThreadPoolExecutor(1, thread_name_prefix="fastload-parquet") as thread:
            coming = thread.submit(self._fill, windows[start.window], start.epoch)
            for number in range(start.window, len(windows)):
                window = coming.result()
                if number + 1 < len(windows):
                    coming = thread.submit(self._fill, windows[number + 1], start.epoch)
                yield number, window

    def _fill(self, numbers: list[int], epoch: int) -> RowWindow:
        """Return the rows of some row groups as a window; without shuffling, of one."""
        tables, spans = [], []
        for group in (self._row_groups.groups[number] for number in numbers):
            if self._filters is None:
                table = self._row_groups.read(group)
            else:
                table = self._row_groups.read_filtered(group, self._filters)
            refuse_nulls(table, str(group))
            tables.append(table)
            spans.append(range(group.first, group.first + table.num_rows))
        if not self.shuffle:
            return RowWindow(tables[0], spans)
        # By its first row group, not by its place: a window has one order in whatever share it is.
        draw = np.random.default_rng([self.seed, epoch, numbers[0]])
        order = draw.permutation(sum(map(len, spans)))
        return RowWindow(shuffled(tables, order), spans, order)

    def _items(self, pieces: list[Piece], end: int, hand: _Hand) -> Iterator[tuple[int, Any]]:
        """Yield what is made of pieces that end at a row, each with the row that comes then."""
        if self.batch_size is not None:
            yield end, self._batch(pieces, hand)
            return
        (piece,) = pieces
        samples = self._form.samples(read(pieces, self._form, HEAP), piece.rows)
        yield from enumerate(samples, piece.first + 1)

    def _batch(self, pieces: list[Piece], hand: _Hand) -> Any:
        # A transform may keep what it sees, so it must not see the slot.
        place = hand.place if self._form.batch_transform is None else HEAP
        return self._form.batch(read(pieces, self._form, place))


class _Hand:
    """Hands the place for the next batch to the generator that makes it."""

    def __init__(self) -> None:
        self.place: Place = HEAP


class _Reader(WritesItems):
    """The iterator of a stream, which the loader may give the place for a batch."""

    def __init__(self, items: Iterator[Any], hand: _Hand) -> None:
        self._items = items
        self._hand = hand

    def __next__(self) -> Any:
        return next(self._items)

    def next_into(self, place: Place) -> Any:
        """Return the next item; tensors of a batch lie in ``place`` if they can."""
        self._hand.place = place
        try:
            return next(self._items)
        finally:
            self._hand.place = HEAP


def _batches(count: int, batch_size: int | None, *, drop_last: bool) -> int:
    if batch_size is None:
        return count
    return count // batch_size if drop_last else -(-count // batch_size)


def _expression(filters: Any) -> Any:
    if filters is None or isinstance(filters, pa.compute.Expression):
        return filters
    return pa.parquet.filters_to_expression(filters)
