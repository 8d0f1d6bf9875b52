"""A map-style dataset on Arrow IPC files or a table in memory.

Runs in: worker (consumer with ``num_workers=0``).
Takes: indices.
Gives: rows, read from the mapped files where they lie, so that all workers share their pages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from fastload.datasets.arrow_types import Decimals, convert
from fastload.datasets.files import Files, find_files, one_schema
from fastload.datasets.ipc import IpcFile
from fastload.datasets.row_blocks import Block, BlockCache, TableBlock
from fastload.datasets.tabular import ColumnOptions, Nulls, TableDataset, Values

SUFFIXES = (".arrow", ".feather", ".ipc", ".arrows")
CACHE_BYTES = 256 << 20


class ArrowDataset(TableDataset):
    """Rows of Arrow IPC files (from ``write_arrow``, Feather V2, Hugging Face) or of a table.

    Files are mapped: opening takes no time or memory, and all workers read the same pages, however
    they start. (Compressed files can't be mapped: their record batches are read one by one and
    kept, see ``cache_bytes``. A remote file is read into memory whole.) The dataset is pickled as
    its paths.

    A sample is a dict of columns. With the default collate a batch is a dict too, each column read
    with one operation. What a column becomes depends on its type alone (the guide to datasets has
    all types):

    ======================================  =================================================
    Arrow type                              in a batch
    ======================================  =================================================
    integers, floats, booleans              tensor ``(batch,)`` of the same dtype
    dates, times, timestamps, durations     tensor ``(batch,)`` of the integers Arrow stores
    decimals                                refused; a tensor with ``decimals="float64"``
    fixed-size lists of those (no bools)    tensor ``(batch, *shape)``, as fixed-shape tensors
    lists of those (no bools)               ragged tensor: ``torch.nested``, jagged
    structs                                 dict of columns
    strings, binaries                       list of str or bytes
    other lists, maps, anything else        list with the Python object of each row
    ======================================  =================================================

    With another ``collate_fn``, such as one that pads, samples are dicts with a tensor of its own
    for each list of numbers. Folders such as ``day=2025-01-01`` below the folder or in the pattern
    that is named are columns too.

    Args:
        source: Path, glob pattern, folder, URI, an iterable of those; a ``pyarrow.Table`` or
            ``RecordBatch``, a DataFrame of pandas or polars, or anything else that has
            ``__arrow_c_stream__``.
        columns: Names of the columns to read; None: all.
        filesystem: A file system of pyarrow's or fsspec's for the paths; None: the local disk.
        nulls: What a null is: ``"error"`` names column and row; ``"mask"`` adds a boolean column
            ``<name>_valid`` for each column, with 0, an empty list or None where it is False.
        fill: Values in the place of nulls, by column; these are no error and have no mask.
        transform: Called with each sample, a dict; what it returns is the sample.
        batch_transform: Called with the columns of a batch, a dict as in the table above; what it
            returns is the batch. It must return columns with as many rows, in dicts or tuples.
        verify: Compare checksums, or, in a file without them, validate each record batch, before
            it is first read in a process.
        cache_bytes: The most memory a process takes for record batches of compressed files that
            it has read; one is kept at least.
        decimals: ``"error"`` refuses columns of decimal numbers; ``"float64"`` reads them as the
            nearest floats.

    Raises:
        FileNotFoundError: No file was found.
        ValueError: Schemas differ, an option doesn't fit, or a column is of a type that can't be
            read.
        CorruptDataError: A file is damaged; here, or when its damaged part is read.

    Example:
        >>> table = pa.table({"x": [1.0, 2.0, 3.0], "name": ["a", "b", "c"]})
        >>> dataset = ArrowDataset(table)
        >>> len(dataset), dataset[1]
        (3, {'x': tensor(2., dtype=torch.float64), 'name': 'b'})
    """

    def __init__(
        self,
        source: Any,
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
        self._files = Files(None, ())
        self._tables: list[Any] = []
        self._opened: dict[str, IpcFile] = {}
        self._blocks: dict[int, Block] = {}
        self._cache = BlockCache(cache_bytes)
        self._verify = verify
        self._places: list[tuple[str, int | None]] = []
        table = None
        if hasattr(source, "__arrow_c_stream__") or isinstance(source, pa.RecordBatch):
            table = pa.table(source)
            schema = one_schema([("the table", table.schema)], columns)
        else:
            self._files = find_files(source, filesystem, SUFFIXES)
            files = [self._open(path) for path in self._files.paths]
            schema = one_schema([(file.path, file.schema) for file in files], columns)
            self._places = [(file.path, number) for file in files for number in file.blocks()]
            lengths = [n for file in files for n in file.block_lengths()]
        form = ColumnOptions(schema, nulls, fill, transform, batch_transform, decimals)
        if table is not None:
            self._tables = _in_one_piece(table, form.types)
            lengths = [each.num_rows for each in self._tables]
        super().__init__(schema, form, lengths)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_opened": {}, "_blocks": {}}

    def _open(self, path: str) -> IpcFile:
        if path not in self._opened:
            self._opened[path] = IpcFile(self._files, path, verify=self._verify)
        return self._opened[path]

    def _block(self, number: int) -> Block:
        if number in self._blocks:
            return self._blocks[number]
        block: Block
        if self._tables:
            block = TableBlock(self._tables[number], "the table")
        else:
            path, batch = self._places[number]
            file = self._open(path)
            types = self._form.types
            if batch is not None:
                return self._cache.get((path, batch), lambda: file.read(batch, types))
            block = file.mapped(types)
        self._blocks[number] = block
        return block


def _in_one_piece(table: Any, types: dict[str, Any]) -> list[Any]:
    """Return tables of one chunk a column: one, unless strings are too many for one chunk."""
    columns = [convert(table.column(name), kind) for name, kind in types.items()]
    converted = pa.table(columns, list(types)) if types else table.select([])
    combined = converted.combine_chunks()
    batches = [batch for batch in combined.to_batches() if batch.num_rows]
    if len(batches) < 2:
        return [combined]
    return [pa.Table.from_batches([batch]) for batch in batches]
