"""What map-style datasets on tables have in common: samples and batches of named columns.

Runs in: worker (consumer with ``num_workers=0``).
Takes: indices.
Gives: samples (dicts of tensors and Python objects), or a whole batch, one ``take`` a column.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fastload._memory.write import HEAP, Place
from fastload.collate.inplace import collate_column
from fastload.datasets.arrow_buffers import Bools, BufferRows, Ints
from fastload.datasets.arrow_columns import Column, RaggedValues, is_ragged, is_text
from fastload.datasets.nodes import Node, NotGatherableError, Parts, merge_tensors
from fastload.datasets.row_blocks import Block, group

Values = dict[str, Any]
Nulls = Literal["error", "mask"]
MASK_SUFFIX = "_valid"


class ColumnOptions:
    """What becomes of columns: nulls, transforms, batches, samples. Shared with the stream.

    Args:
        schema: Of the columns that are read.
        nulls: ``"error"`` or ``"mask"``.
        fill: Values in the place of nulls, by column.
        transform: Of a sample.
        batch_transform: Of the columns of a batch.

    Raises:
        ValueError: An option doesn't fit.
    """

    def __init__(
        self,
        schema: Any,
        nulls: Nulls,
        fill: Mapping[str, Any] | None,
        transform: Callable[[Values], Any] | None,
        batch_transform: Callable[[Values], Any] | None,
    ) -> None:
        if nulls not in {"error", "mask"}:
            raise ValueError(f"nulls is 'error' or 'mask', but got {nulls!r}")
        self.fill = dict(fill or {})
        unknown = [name for name in self.fill if name not in schema.names]
        if unknown:
            raise ValueError(f"fill names columns {unknown} that are not read: {schema.names}")
        lists = [name for name in self.fill if is_ragged(schema.field(name).type)]
        if lists:
            raise ValueError(
                f"fill has no value for lists, but names {lists}; with nulls='mask' null lists are "
                f"empty"
            )
        if transform is not None and batch_transform is not None:
            raise ValueError("transform and batch_transform exclude each other; give one of them")
        self.nulls = nulls
        self.transform = transform
        self.batch_transform = batch_transform
        self._text = frozenset(field.name for field in schema if is_text(field.type))

    def settle(
        self,
        name: str,
        values: Any,
        valid: Bools | None,
        count: int,
        number: Callable[[int], int],
    ) -> Values:
        """A column with its nulls as they were asked for.

        Args:
            name: Of the column.
            values: Its rows.
            valid: True where a row is not null; None: everywhere.
            count: How many rows.
            number: The number of a row in the dataset, by its position here; for errors.

        Raises:
            ValueError: It has nulls that nothing was asked for.
        """
        if name in self.fill:
            return {name: values if valid is None else _filled(values, valid, self.fill[name])}
        if self.nulls == "mask":
            mask = torch.ones(count, dtype=torch.bool)
            if valid is not None:
                values = _blank(values, valid)
                mask = torch.from_numpy(valid)
            return {name: values, name + MASK_SUFFIX: mask}
        if valid is not None:
            row = number(int(np.argmin(valid)))
            raise ValueError(
                f"column {name!r} is null in row {row}; pass fill={{{name!r}: value}} to replace "
                f"nulls, or nulls='mask' to get a column {name + MASK_SUFFIX!r} beside it"
            )
        return {name: values}

    def batch(self, columns: Values, place: Place) -> Any:
        """What the loader delivers of columns, with the default collate."""
        ready = {name: _as_ragged_tensor(values) for name, values in columns.items()}
        if self.batch_transform is not None:
            return self.batch_transform(ready)
        for name, values in ready.items():
            if type(values) is list and name not in self._text:
                ready[name] = collate_column(values, place)
        return ready

    def samples(self, columns: Values, count: int) -> list[Any]:
        """One sample a row."""
        if self.batch_transform is not None:
            return split(self.batch(columns, HEAP), count)
        rows = split(columns, count)
        return rows if self.transform is None else [self.transform(row) for row in rows]


class TableDataset(Dataset[Any]):
    """Rows of blocks of a table; subclasses say where the blocks are.

    Args:
        schema: Of the columns that are read.
        form: What becomes of them.
        lengths: BufferRows of each block.
    """

    def __init__(self, schema: Any, form: ColumnOptions, lengths: list[int]) -> None:
        self.schema = schema
        self._form = form
        self._ends = np.cumsum(lengths, dtype=np.int64)
        self._starts = self._ends - np.array(lengths, np.int64)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__getitem__" in vars(cls) and "__getitems__" not in vars(cls):
            cls.__getitems__ = None  # type: ignore[assignment,method-assign]  # loaders ask for it

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Any:
        return TableDataset.__getitems__(self, [index])[0]

    def __getitems__(self, indices: list[int]) -> list[Any]:
        length = len(self)
        for index in indices:
            if not -length <= index < length:
                raise IndexError(f"index {index} is out of range of {length} rows")
        rows = np.array(indices, np.int64) % max(length, 1)
        return self._form.samples(self.read(rows, HEAP), len(rows))

    def read(self, rows: Ints, place: Place) -> Values:
        """The columns of rows: tensors, ``RaggedValues`` ones, or lists of Python objects."""
        found = self._find(rows)
        columns: Values = {}
        for name in self.schema.names:
            parts = [(at, block.columns[name], where) for at, block, where in found]
            values, valid = _take(parts, len(rows), place)
            columns |= self._form.settle(name, values, valid, len(rows), lambda at: int(rows[at]))
        return columns

    def _find(self, rows: Ints) -> list[tuple[Ints, Block, BufferRows]]:
        """Which of the rows lie in which block, and where."""
        if len(self._ends) == 1:
            block = self._block(0)
            return [(rows, block, block.locate(rows))]
        found = []
        for number, at in group(np.searchsorted(self._ends, rows, side="right")):
            block = self._block(number)
            found.append((at, block, block.locate(rows[at] - self._starts[number])))
        return found

    def gather_node(self) -> Node | None:
        """How a loader reads batches, unless samples are changed one by one."""
        kind = type(self)
        is_as_here = (
            kind.__getitem__ is TableDataset.__getitem__
            and kind.__getitems__ is TableDataset.__getitems__
        )
        return _TableNode(self, self._form) if is_as_here and not self._form.transform else None

    def _block(self, number: int) -> Block:
        raise NotImplementedError


class _TableNode:
    """A dataset on a table, as it is gathered."""

    def __init__(self, dataset: TableDataset, form: ColumnOptions) -> None:
        self._dataset = dataset
        self._form = form
        self.length = len(dataset)

    @property
    def kind(self) -> Any:
        transform = self._form.batch_transform
        # Only what has no transform can be put together: its result may be anything.
        owner = None if transform is None else id(self)
        return _TableNode, owner, tuple((field.name, field.type) for field in self._dataset.schema)

    def gather(self, rows: Ints, place: Place) -> Any:
        if self._form.batch_transform is not None:
            place = HEAP  # it may keep what it sees, so it must not see the slot
        return self._form.batch(self._dataset.read(rows, place), place)

    def merge(self, parts: Parts, count: int, place: Place) -> Any:
        if self._form.batch_transform is not None:
            raise NotGatherableError
        merged: Values = {}
        for name, first in parts[0][1].items():
            pieces = [(at, batch[name]) for at, batch in parts]
            if type(first) is Tensor:
                merged[name] = merge_tensors(pieces, count, place)
            elif type(first) is list and all(type(row) in {str, bytes} for row in first):
                values: list[Any] = [None] * count
                for at, rows in pieces:
                    for position, row in zip(at.tolist(), rows, strict=True):
                        values[position] = row
                merged[name] = values
            else:
                raise NotGatherableError
        return merged


def split(columns: Any, count: int) -> list[Any]:
    """Columns as rows: dicts and tuples of columns become dicts and tuples of values."""
    if isinstance(columns, dict):
        parts = [split(values, count) for values in columns.values()]
        if not parts:
            return [{} for _ in range(count)]
        return [dict(zip(columns, row, strict=True)) for row in zip(*parts, strict=True)]
    if isinstance(columns, tuple) and not isinstance(columns, RaggedValues):
        return list(zip(*(split(values, count) for values in columns), strict=True))
    if isinstance(columns, RaggedValues):
        rows: list[Any] = [*columns.values.split(columns.lengths.tolist())]  # type: ignore[no-untyped-call]
    else:
        rows = list(columns.unbind(0) if isinstance(columns, Tensor) else columns)
    if len(rows) != count:
        raise ValueError(
            f"batch_transform returned a column of {len(rows)} rows for a batch of {count}; it "
            f"returns columns, in dicts and tuples, with as many rows as it was given"
        )
    return rows


def _take(
    parts: list[tuple[Ints, Column, Any]], count: int, place: Place
) -> tuple[Any, Bools | None]:
    if len(parts) == 1:
        _, column, rows = parts[0]
        return column.take(rows, place), column.valid(rows)
    taken = [(at, column.take(rows, HEAP), column.valid(rows)) for at, column, rows in parts]
    return merged(parts[0][1], taken, count, place)


def merged(
    column: Column, parts: list[tuple[Ints, Any, Bools | None]], count: int, place: Place
) -> tuple[Any, Bools | None]:
    """Rows of several blocks, each with where it goes, and which of them are not null."""
    valid = np.ones(count, np.bool_)
    for at, _, validity in parts:
        if validity is not None:
            valid[at] = validity
    values = column.merge([(at, values) for at, values, _ in parts], count, place)
    return values, None if valid.all() else valid


def _filled(values: Any, valid: Bools, fill: Any) -> Any:
    if isinstance(values, Tensor):
        values[torch.from_numpy(~valid)] = torch.as_tensor(fill).to(values.dtype)
        return values
    if isinstance(values, RaggedValues):
        return values  # null rows are empty
    return [value if is_valid else fill for value, is_valid in zip(values, valid, strict=True)]


def _blank(values: Any, valid: Bools) -> Any:
    """Zero where there is no value; lists are empty there, objects None."""
    return _filled(values, valid, 0) if isinstance(values, Tensor) else values


def _as_ragged_tensor(values: Any) -> Any:
    if not isinstance(values, RaggedValues):
        return values
    offsets = torch.from_numpy(np.concatenate(([0], values.lengths.cumsum())))
    return torch.nested.nested_tensor_from_jagged(values.values, offsets)
