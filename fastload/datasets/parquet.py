"""A map-style dataset on Parquet files.

Runs in: worker (consumer with ``num_workers=0``).
Takes: indices.
Gives: rows, from row groups that are read whole and kept in a cache.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastload.datasets.arrow_types import Decimals
from fastload.datasets.row_blocks import Block, BlockCache, TableBlock
from fastload.datasets.row_groups import RowGroups
from fastload.datasets.tabular import ColumnOptions, Nulls, TableDataset, Values

CACHE_BYTES = 256 << 20
_PATIENCE = 8
"""All row groups may be read so often, on average, before a warning."""


class ParquetDataset(TableDataset):
    """Rows of Parquet files, by index.

    Parquet can't be read a row at a time: the row group of a row is read whole and kept. So order
    matters. Shuffle with ``fastload.BlockShuffleSampler(dataset, window=…)``, which draws row
    groups at random and rows within a few of them, or read with ``ParquetStream``. If data fits
    into memory or is to be read in any order, ``ArrowDataset`` is the faster choice.

    Samples and batches are those of ``ArrowDataset``. The dataset is pickled as its paths.

    Args:
        source: Path, glob pattern, folder, URI, or an iterable of those.
        columns: Names of the columns to read; None: all. Others are not touched.
        filesystem: The same as for ``ArrowDataset``.
        nulls: The same as for ``ArrowDataset``.
        fill: The same as for ``ArrowDataset``.
        transform: The same as for ``ArrowDataset``.
        batch_transform: The same as for ``ArrowDataset``.
        verify: Compare checksums: of whole columns in files of ``write_parquet``, of pages in
            others that have them.
        cache_bytes: The most memory a process takes for row groups that it has read; one is kept
            at least. It should hold the window of the sampler.
        decimals: The same as for ``ArrowDataset``.

    Raises:
        FileNotFoundError: No file was found.
        ValueError: Schemas differ, an option doesn't fit, or a column is of a type that can't be
            read.
        CorruptDataError: A file is damaged; here, or when its damaged part is read.

    Example:
        >>> from fastload.datasets import write_parquet
        >>> write_parquet({"x": [1, 2, 3]}, "/tmp/three.parquet", rows_per_group=2)
        >>> dataset = ParquetDataset("/tmp/three.parquet")
        >>> len(dataset), dataset.block_lengths, dataset[2]
        (3, [2, 1], {'x': tensor(3)})
    """

    def __init__(
        self,
        source: str | Path | Iterable[str | Path],
        columns: Sequence[str] | None = None,
        *,
        filesystem: Any = None,
        nulls: Nulls = "error",
        fill: Mapping[str, Any] | None = None,
        transform: Callable[[Values], Any] | None = None,
        batch_transform: Callable[[Values], Any] | None = None,
        verify: bool = True,
        cache_bytes: int = CACHE_BYTES,
        decimals: Decimals = "error",
    ) -> None:
        self._row_groups = RowGroups(source, columns, filesystem, verify=verify, decimals=decimals)
        self._cache = BlockCache(cache_bytes)
        self._reads = 0
        schema = self._row_groups.schema
        form = ColumnOptions(schema, nulls, fill, transform, batch_transform, decimals)
        super().__init__(schema, form, self.block_lengths)

    @property
    def block_lengths(self) -> list[int]:
        """Return the number of rows of each row group, in the order of the dataset's rows."""
        return [group.rows for group in self._row_groups.groups]

    def _block(self, number: int) -> Block:
        return self._cache.get(number, lambda: self._read(number))

    def _read(self, number: int) -> TableBlock:
        group = self._row_groups.groups[number]
        self._reads += 1
        if self._reads == _PATIENCE * len(self._row_groups.groups) + 64:
            warnings.warn(
                f"{self._reads} row groups were read in this process, of {len(self.block_lengths)} "
                f"that there are: the order of indices makes the cache of "
                f"{self._cache.limit_bytes >> 20} MiB drop them before they are used again. "
                f"Shuffle with BlockShuffleSampler(dataset, window=…), or raise cache_bytes",
                stacklevel=2,
            )
        return TableBlock(self._row_groups.read(group), str(group))
