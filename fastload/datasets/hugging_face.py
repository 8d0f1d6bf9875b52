"""Read a ``datasets.Dataset`` of Hugging Face a batch at a time.

Runs in: worker (consumer with ``num_workers=0``).
Takes: a dataset, then row numbers.
Gives: the batch that the default collate makes of what the dataset's ``__getitems__`` returns.

Nothing of the package ``datasets`` is imported here: whoever has such a dataset has imported it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from fastload._memory.write import HEAP, Place
from fastload._system.interruptions import own_suppressed
from fastload.datasets.arrow_buffers import BufferRows, Ints
from fastload.datasets.hugging_face_columns import FormattedColumn, formatted, formatted_indices
from fastload.datasets.nodes import Node, NotGatherableError, Parts

_FORMATTERS = {
    None: ("datasets.formatting.formatting", "PythonFormatter"),
    "numpy": ("datasets.formatting.np_formatter", "NumpyFormatter"),
    "torch": ("datasets.formatting.torch_formatter", "TorchFormatter"),
}

_ATTRIBUTES = {
    *("_data", "_indices", "_info", "_format_type"),
    *("_format_kwargs", "_format_columns", "_output_all_columns"),
}


class Form(NamedTuple):
    """How a dataset formats its rows.

    Attributes:
        style: ``"torch"``, ``"numpy"`` or None, as in ``with_format``.
        dtype: To what ``with_format("torch", dtype=...)`` casts; None: to the format's own.
        columns: The columns that are formatted so; None: all.
        has_others: Whether the others follow these, as Python's objects.
    """

    style: str | None
    dtype: torch.dtype | None
    columns: tuple[str, ...] | None
    has_others: bool


def identity(dataset: Any) -> Any:
    """Return what is equal as long as a dataset reads the same rows in the same format."""
    if not _ATTRIBUTES.issubset(dataset.__dict__):  # of a version that is not known here
        return dataset
    return (
        id(dataset._data),
        id(dataset._indices),
        dataset._format_type,
        dict(dataset._format_kwargs),
        None if dataset._format_columns is None else tuple(dataset._format_columns),
        dataset._output_all_columns,
        id(dataset._info.features),
    )


def node(dataset: Any) -> Node | None:
    """Make the node of a dataset; None: it must be read by its own methods."""
    with own_suppressed(Exception):  # another version of datasets may have other attributes
        made = _make(dataset)
        if made is not None and _reads_the_same(made, dataset):
            return made
    return None


def row_bytes(dataset: Any) -> int | None:
    """Return the bytes of a sample in memory; None if it lies elsewhere, or its length varies."""
    with own_suppressed(Exception):
        tables = [dataset._data] + ([] if dataset._indices is None else [dataset._indices])
        if any(type(table).__name__ != "InMemoryTable" for table in tables):
            return None
        made = _make(dataset)
        return None if made is None else made.row_bytes
    return None


def _make(dataset: Any) -> _FormattedTable | None:
    form = _form_of(dataset)
    if form is None or _must_be_decoded(dataset):
        return None
    table = dataset._data.table
    names = table.column_names
    chosen = [name for name in names if form.columns is None or name in form.columns]
    styles: dict[str, tuple[str | None, torch.dtype | None]]
    styles = dict.fromkeys(chosen, (form.style, form.dtype))
    if form.has_others:
        styles |= {name: (None, None) for name in names if name not in styles}
    if not styles or len(set(names)) < len(names):
        return None
    rows = _TableChunks(table.select(list(styles)))
    columns = {}
    for name, (style, dtype) in styles.items():
        column = formatted(table.schema.field(name).type, style, dtype, rows.chunks)
        if column is None:
            return None
        columns[name] = column
    rows.columns = list(columns.values())
    indices = None if dataset._indices is None else _Indices(dataset._indices.table)
    kind = tuple((table.schema.field(name).type, name, styles[name]) for name in columns)
    # What the signature knows by its id alone is kept, so that nothing else gets that id.
    kept = (dataset._data, dataset._indices, dataset._info.features)
    return _FormattedTable(rows, columns, indices, kind, kept)


def _form_of(dataset: Any) -> Form | None:
    """Return how rows are formatted; None if in a way that is not known here."""
    style, options = dataset._format_type, dict(dataset._format_kwargs)
    home = _FORMATTERS.get(style)
    if home is None:
        return None
    used = sys.modules["datasets.formatting"]._FORMAT_TYPES.get(style)
    if used is not getattr(sys.modules.get(home[0]), home[1], None):
        return None
    dtype = options.pop("dtype", None)
    is_known = dtype is None or (style == "torch" and isinstance(dtype, torch.dtype))
    if options or not is_known:
        return None
    columns = dataset._format_columns
    return Form(
        style,
        dtype,
        None if columns is None else tuple(columns),
        columns is not None and bool(dataset._output_all_columns),
    )


def _must_be_decoded(dataset: Any) -> bool:
    """Whether a column holds what must be decoded first, such as images and audio."""
    features = dataset._info.features
    return features is not None and any(features._column_requires_decoding.values())


class _TableChunks:
    """The rows of a table, of any number of record batches, wherever they lie."""

    def __init__(self, table: Any) -> None:
        self._batches = [batch for batch in table.to_batches() if batch.num_rows]
        self.chunks = len(self._batches)
        lengths = np.array([batch.num_rows for batch in self._batches], np.int64)
        self._ends = lengths.cumsum()
        self._starts = self._ends - lengths
        self._is_attached = np.zeros(self.chunks, np.bool_)
        self._is_readable = np.ones(self.chunks, np.bool_)
        self.length = int(lengths.sum())
        self.columns: Sequence[FormattedColumn] = ()

    def locate(self, rows: Ints) -> BufferRows:
        """Return where rows lie, with their chunks attached.

        Raises:
            NotGatherableError: One of them lies in a chunk that can't be read here.
        """
        chunks: Any = 0
        if self.chunks > 1:
            chunks = np.searchsorted(self._ends, rows, side="right")
        attached = self._is_attached[chunks]
        if not attached.all():
            for chunk in np.unique(np.atleast_1d(chunks)[~np.atleast_1d(attached)]).tolist():
                self._attach(chunk)
        if not self._is_readable[chunks].all():
            raise NotGatherableError
        return BufferRows(rows if self.chunks == 1 else rows - self._starts[chunks], chunks)

    def _attach(self, chunk: int) -> None:
        arrays = self._batches[chunk].columns
        pairs = zip(self.columns, arrays, strict=True)
        try:
            attached = [column.attach(chunk, array) for column, array in pairs]
            self._is_readable[chunk] = all(attached)
        except ValueError:  # it does not lie at a multiple of its elements' size
            self._is_readable[chunk] = False
        self._is_attached[chunk] = True


class _Indices:
    """The row numbers that ``select`` and ``shuffle`` leave beside a table."""

    def __init__(self, table: Any) -> None:
        self._rows = _TableChunks(table)
        self.length = self._rows.length
        self._numbers = formatted_indices(self._rows.chunks)
        self._rows.columns = [self._numbers]

    def read(self, rows: Ints) -> Ints:
        """Return the numbers of rows of the table."""
        found: Tensor = self._numbers.take(self._rows.locate(rows), HEAP)
        return found.numpy()


class _FormattedTable:
    """The node of a dataset: columns of a table, each as its format gives it."""

    loads_samples = False

    def __init__(
        self,
        rows: _TableChunks,
        columns: dict[str, FormattedColumn],
        indices: _Indices | None,
        kind: Any,
        kept: Any,
    ) -> None:
        self._rows = rows
        self._columns = columns
        self._indices = indices
        self._kind = kind
        self._kept = kept
        self.length = rows.length if indices is None else indices.length

    @property
    def row_bytes(self) -> int | None:
        widths = [column.width for column in self._columns.values()]
        return None if None in widths else sum(width or 0 for width in widths)

    @property
    def kind(self) -> Any:
        return _FormattedTable, self._kind

    def gather(self, rows: Ints, place: Place) -> Any:
        if self._indices is not None:
            rows = self._indices.read(rows)
            if int(rows.view(np.uint64).max()) >= self._rows.length:
                raise NotGatherableError
        where = self._rows.locate(rows)
        columns = self._columns
        if any(column.valid(where) is not None for column in columns.values()):
            raise NotGatherableError
        return {name: column.take(where, place) for name, column in columns.items()}

    def merge(self, parts: Parts, count: int, place: Place) -> Any:
        return {
            name: column.merge([(at, batch[name]) for at, batch in parts], count, place)
            for name, column in self._columns.items()
        }


def _reads_the_same(made: _FormattedTable, dataset: Any) -> bool:
    """Whether some rows are the same in every bit as the dataset gives them."""
    if not made.length or made.length != len(dataset):
        return False
    was_compared = False
    for row in sorted({0, made.length // 2, made.length - 1}):
        try:
            found = made.gather(np.array([row], np.int64), HEAP)
        except NotGatherableError:
            continue
        if not _is_same(found, default_collate(dataset.__getitems__([row]))):
            return False
        was_compared = True
    return was_compared


def _is_same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        pairs = zip(one.values(), other.values(), strict=False)
        return list(one) == list(other) and all(_is_same(*pair) for pair in pairs)
    if isinstance(one, list):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(_is_same(*pair) for pair in pairs)
    if isinstance(one, Tensor):
        is_alike = (one.dtype, one.shape) == (other.dtype, other.shape)
        return is_alike and torch.equal(_bytes_of(one), _bytes_of(other))
    return bool(one == other)


def _bytes_of(tensor: Tensor) -> Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)
