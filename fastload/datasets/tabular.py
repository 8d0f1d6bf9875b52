"""The base of map-style datasets on tables: samples and batches of named columns.

Runs in: worker (consumer with ``num_workers=0``).
Takes: indices.
Gives: samples (dicts of tensors and Python objects), or a whole batch, each column read at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fastload._memory.write import HEAP, Place
from fastload.datasets.arrow_buffers import Bools, BufferRows, Ints
from fastload.datasets.arrow_columns import Column, RaggedValues, merge_ragged
from fastload.datasets.arrow_objects import StructRows, merge_objects, merged
from fastload.datasets.arrow_types import Decimals, ragged, readable, refuse_unreadable
from fastload.datasets.nodes import Node, NotGatherableError, Parts, merge_tensors
from fastload.datasets.row_blocks import Block, group

Values = dict[str, Any]
Nulls = Literal["error", "mask"]
MASK_SUFFIX = "_valid"


class ColumnOptions:
    """What becomes of columns: nulls, transforms, batches, samples.

    Map-style datasets and the stream share it.

    Args:
        schema: The schema of the columns that are read.
        nulls: ``"error"`` or ``"mask"``.
        fill: Values in the place of nulls, by column.
        transform: Called with each sample.
        batch_transform: Called with the columns of a batch.
        decimals: ``"error"`` or ``"float64"``.

    Raises:
        ValueError: An option doesn't fit, or a column is of a type that can't be read.
    """

    def __init__(
        self,
        schema: Any,
        nulls: Nulls,
        fill: Mapping[str, Any] | None,
        transform: Callable[[Values], Any] | None,
        batch_transform: Callable[[Values], Any] | None,
        decimals: Decimals = "error",
    ) -> None:
        if nulls not in {"error", "mask"}:
            raise ValueError(f"nulls is 'error' or 'mask', but got {nulls!r}")
        self.fill = dict(fill or {})
        unknown = [name for name in self.fill if name not in schema.names]
        if unknown:
            raise ValueError(f"fill names columns {unknown} that are not read: {schema.names}")
        refuse_unreadable(schema, decimals, lambda name: nulls == "mask" or name in self.fill)
        self.types = {field.name: readable(field.type, decimals) for field in schema}
        lists = [name for name in self.fill if ragged(self.types[name]) is not None]
        if lists:
            raise ValueError(
                f"fill has no value for lists, but names {lists}; with nulls='mask' null lists are "
                f"empty"
            )
        for name, value in self.fill.items():
            if pa.types.is_struct(self.types[name]) and not isinstance(value, Mapping):
                raise ValueError(
                    f"fill of the struct {name!r} is a mapping of its fields to values, but got "
                    f"{value!r}"
                )
        if transform is not None and batch_transform is not None:
            raise ValueError("transform and batch_transform exclude each other; give one of them")
        self.nulls = nulls
        self.transform = transform
        self.batch_transform = batch_transform

    def settle(
        self,
        name: str,
        values: Any,
        valid: Bools | None,
        number: Callable[[int], int],
    ) -> Values:
        """Return a column, with its nulls as they were asked for.

        Args:
            name: The column's name.
            values: Its rows.
            valid: True where a row is not null; None: everywhere.
            number: The number of a row in the dataset, by its position here; for errors.

        Raises:
            ValueError: It has nulls that nothing was asked for.
        """
        settled: Values = {}
        self._settle(settled, (name,), (values, valid), self.fill, number)
        return settled

    def _settle(
        self,
        target: Values,
        path: tuple[str, ...],
        rows: tuple[Any, Bools | None],
        fill: Any,
        number: Callable[[int], int],
    ) -> None:
        """Put a column, or a field of a struct, into ``target`` under its own name."""
        name = path[-1]
        values, valid = rows
        is_filled = name in fill
        if valid is not None and not is_filled and self.nulls == "error":
            raise _null_error(path, number(int(np.argmin(valid))))
        if isinstance(values, StructRows):
            inner: Values = {}
            for field, (inner_values, inner_valid) in values.items():
                both = _both(valid, inner_valid)
                inner_fill = fill[name] if is_filled else {}
                self._settle(inner, (*path, field), (inner_values, both), inner_fill, number)
            target[name] = inner
        elif valid is None:
            target[name] = values
        else:
            target[name] = _filled(values, valid, fill[name] if is_filled else None)
        if self.nulls == "mask" and not is_filled:
            count = _count(values) if valid is None else len(valid)
            target[name + MASK_SUFFIX] = (
                torch.ones(count, dtype=torch.bool, device="cpu")
                if valid is None
                else torch.from_numpy(valid)
            )

    def batch(self, columns: Values) -> Any:
        """Return what the loader delivers of columns, with the default collate."""
        ready = {name: _as_ragged_tensor(values) for name, values in columns.items()}
        return ready if self.batch_transform is None else self.batch_transform(ready)

    def samples(self, columns: Values, count: int) -> list[Any]:
        """Return the samples of columns, one a row."""
        if self.batch_transform is not None:
            return split(self.batch(columns), count)
        rows = split(columns, count)
        return rows if self.transform is None else [self.transform(row) for row in rows]


class TableDataset(Dataset[Any]):
    """A map-style dataset of rows in blocks of a table; subclasses say where the blocks are.

    Args:
        schema: The schema of the columns that are read.
        form: What becomes of them.
        lengths: The number of rows of each block.
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
        """Return the columns of rows: tensors, ``RaggedValues``, or lists of Python objects."""
        found = self._find(rows)
        columns: Values = {}
        for name in self.schema.names:
            parts = [(at, block.columns[name], where) for at, block, where in found]
            values, valid = _take(parts, len(rows), place)
            columns |= self._form.settle(name, values, valid, lambda at: int(rows[at]))
        return columns

    def _find(self, rows: Ints) -> list[tuple[Ints, Block, BufferRows]]:
        """Return which of the rows lie in which block, and where."""
        if len(self._ends) == 1:
            block = self._block(0)
            return [(rows, block, block.locate(rows))]
        found = []
        for number, at in group(np.searchsorted(self._ends, rows, side="right")):
            block = self._block(number)
            found.append((at, block, block.locate(rows[at] - self._starts[number])))
        return found

    def gather_node(self) -> Node | None:
        """Return how a loader reads batches; None if samples are changed one by one."""
        kind = type(self)
        is_as_here = (
            kind.__getitem__ is TableDataset.__getitem__
            and kind.__getitems__ is TableDataset.__getitems__
        )
        return _TableNode(self, self._form) if is_as_here and not self._form.transform else None

    def _block(self, number: int) -> Block:
        raise NotImplementedError


class _TableNode:
    """The node of a dataset on a table."""

    loads_samples = False

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
        return self._form.batch(self._dataset.read(rows, place))

    def merge(self, parts: Parts, count: int, place: Place) -> Any:
        if self._form.batch_transform is not None:
            raise NotGatherableError
        return _merge_batches(parts, count, place)


def _merge_batches(parts: Parts, count: int, place: Place) -> Any:
    """Join columns of several batches; of structs, field by field."""
    first = parts[0][1]
    if isinstance(first, dict):
        return {
            name: _merge_batches([(at, batch[name]) for at, batch in parts], count, place)
            for name in first
        }
    if isinstance(first, list):
        return merge_objects(parts, count)
    if not first.is_nested:
        return merge_tensors(parts, count, place)
    lists = [
        (at, RaggedValues(batch.values(), batch.offsets().diff().numpy())) for at, batch in parts
    ]
    return _as_ragged_tensor(merge_ragged(lists, count, place))


def split(columns: Any, count: int) -> list[Any]:
    """Return columns as rows: dicts and tuples of columns become dicts and tuples of values.

    Raises:
        ValueError: A column has not ``count`` rows.
    """
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


def _null_error(path: tuple[str, ...], row: int) -> ValueError:
    name = ".".join(path)
    fill = "value"
    for field in reversed(path):
        fill = f"{{{field!r}: {fill}}}"
    return ValueError(
        f"column {name!r} is null in row {row}; pass fill={fill} to replace nulls, or nulls='mask' "
        f"to get a column {path[-1] + MASK_SUFFIX!r} beside it"
    )


def _both(valid: Bools | None, inner: Bools | None) -> Bools | None:
    if valid is None or inner is None:
        return inner if valid is None else valid
    return valid & inner


def _count(values: Any) -> int:
    """Return how many rows a column has."""
    if isinstance(values, RaggedValues):
        return len(values.lengths)
    if isinstance(values, StructRows):
        return max((_count(inner) for inner, _ in values.values()), default=0)
    return len(values)


def _filled(values: Any, valid: Bools, fill: Any) -> Any:
    """Return a column with ``fill`` in place of nulls; without it, zero, an empty list, or None."""
    if isinstance(values, Tensor):
        number = torch.as_tensor(0 if fill is None else fill, device="cpu")
        values[torch.from_numpy(~valid)] = number.to(values.dtype)
        return values
    if isinstance(values, RaggedValues):
        return values  # null rows are empty
    return [value if is_valid else fill for value, is_valid in zip(values, valid, strict=True)]


def _as_ragged_tensor(values: Any) -> Any:
    if isinstance(values, dict):
        return {name: _as_ragged_tensor(inner) for name, inner in values.items()}
    if not isinstance(values, RaggedValues):
        return values
    offsets = torch.from_numpy(np.concatenate(([0], values.lengths.cumsum())))
    return torch.nested.nested_tensor_from_jagged(values.values, offsets)
