"""Read a batch of a dataset that lies in memory with one index operation a field.

Runs in: worker (consumer with ``num_workers=0``).
Takes: a dataset of a kind that is known here and a list of indices.
Gives: what the default collate makes of those samples.

Only exact types are recognised, and only if all datasets inside are: a subclass may do anything in
its ``__getitem__``. Whatever is not plain (a negative index, one that is out of range, an index
that is no integer) is left to reading sample by sample, which then gives torch's result or error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, StackDataset, Subset, TensorDataset

from fastload._memory.layout import CARRIERS, Shape
from fastload._memory.write import HEAP, Place, is_plain
from fastload._wire.indices import Compact
from fastload.collate.inplace import TORCH_DTYPES, collates_as_torch, is_cpu_default
from fastload.datasets.arrays import ArrayDataset

RowNumbers = npt.NDArray[np.int64]
Parts = Sequence[tuple[RowNumbers, Any]]
"""Batches and the places of their rows in the batch that is made of them."""

INTEGERS = frozenset({int, np.int64})

_SELECTABLE = {
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
}


def carrier_of(dtype: torch.dtype) -> torch.dtype:
    """A dtype of the same size as which torch can select rows; not of all dtypes it can."""
    return dtype if dtype in _SELECTABLE else CARRIERS.get(dtype.itemsize, dtype)


class NotGatherableError(Exception):
    """These indices are to be read sample by sample."""


class Node(Protocol):
    """A dataset, or a field of one, as it is gathered."""

    length: int

    @property
    def kind(self) -> Any:
        """Equal for nodes whose batches can be put together."""

    def gather(self, rows: RowNumbers, place: Place) -> Any:
        """The batch of these rows, each at least 0 and below ``length``.

        Raises:
            NotGatherableError: They are to be read sample by sample.
        """

    def merge(self, parts: Parts, count: int, place: Place) -> Any:
        """One batch of ``count`` rows, of batches of nodes of this kind."""


class GathersItself(Protocol):
    """What a dataset of ours has to be gathered by a method of its own."""

    def gather_node(self) -> Node | None:
        """Its node; None: this one is to be read sample by sample."""


def gatherer(dataset: Any, *, is_live: bool = False) -> Callable[[Any, Place], Any] | None:
    """How to gather from this dataset, or None if it is to be read sample by sample.

    What it returns takes indices and a place, and may raise ``NotGatherableError``. ``is_live``
    says that the program may change what the dataset is made of meanwhile; a worker has a copy.
    """
    node = _node(dataset)
    if node is None:
        return None
    signature = _signature(dataset)

    def gather(indices: Any, place: Place) -> Any:
        nonlocal node, signature
        if is_live and _signature(dataset) != signature:
            node, signature = _node(dataset), _signature(dataset)
        if node is None or not collates_as_torch() or not is_cpu_default():
            raise NotGatherableError
        if type(indices) is Compact:
            return _gather_within(node, _numbers(indices), place)
        if type(indices) is not list:
            raise NotGatherableError
        return _gather_within(node, _rows(indices), place)

    return gather


def _node(dataset: Any) -> Node | None:
    kind = type(dataset)
    if kind in _FIELDS:
        is_as_known = getattr(kind, "__getitem__", None) is _READS[kind]
        return _FIELDS[kind](dataset) if is_as_known else None
    make = getattr(type(dataset), "gather_node", None)
    return None if make is None else make(dataset)


def _signature(dataset: Any) -> Any:
    """What a node was made of: another one says that it must be made anew."""
    kind = type(dataset)
    if kind is Tensor:
        return dataset.data_ptr(), dataset.shape, dataset.stride(), dataset.dtype
    if kind in (np.ndarray, np.memmap):
        return dataset.shape, dataset.strides, dataset.dtype
    if kind is Subset:
        return id(dataset.indices), _signature(dataset.dataset)
    if kind is TensorDataset:
        return tuple(map(_signature, dataset.tensors))
    if kind in (StackDataset, ArrayDataset, ConcatDataset):
        parts: Any = dataset.arrays if kind is ArrayDataset else dataset.datasets
        keys = tuple(parts) if isinstance(parts, dict) else None
        return keys, tuple(map(_signature, parts if keys is None else parts.values()))
    return id(dataset)


def _numbers(indices: Compact) -> RowNumbers:
    numbers = indices.numbers
    if isinstance(numbers, range):
        return np.arange(numbers.start, numbers.stop)
    return numbers.astype(np.int64)  # offsets are computed of them


def _rows(indices: list[Any]) -> RowNumbers:
    """Indices as an array; a bool among them would count as a mask."""
    kinds = list(map(type, indices))
    if not kinds or (kinds.count(int) != len(kinds) and not INTEGERS.issuperset(kinds)):
        raise NotGatherableError
    try:
        return np.array(indices, np.int64)
    except OverflowError:
        raise NotGatherableError from None


def _gather_within(node: Node, rows: RowNumbers, place: Place) -> Any:
    """What a node gathers, if it has all these rows."""
    _check(rows, node.length)
    return node.gather(rows, place)


def _check(rows: RowNumbers, length: int) -> None:
    """Negative rows count from the end and others raise, each dataset in its way."""
    if int(rows.view(np.uint64).max()) >= length:
        raise NotGatherableError


class _Field:
    """One tensor, of which a row is a sample."""

    def __init__(self, tensor: Tensor) -> None:
        self._dtype = tensor.dtype
        self._carrier = carrier_of(tensor.dtype)
        self._tensor = tensor.view(self._carrier)
        self.length = len(tensor)
        self._shape: Shape = tuple(tensor.shape[1:])

    @property
    def kind(self) -> Any:
        return _Field, self._dtype, self._shape

    def gather(self, rows: RowNumbers, place: Place) -> Tensor:
        numbers = torch.from_numpy(rows)
        if place is HEAP:
            found = torch.index_select(self._tensor, 0, numbers)
            return found if self._carrier is self._dtype else found.view(self._dtype)
        out = place.tensor((len(rows), *self._shape), self._dtype)
        torch.index_select(self._tensor, 0, numbers, out=out.view(self._carrier))
        return out

    def merge(self, parts: Parts, count: int, place: Place) -> Tensor:
        return merge_tensors(parts, count, place)


class _Fields:
    """A sample is a tuple or a dict of what several nodes give for the same row."""

    def __init__(self, nodes: list[Node], keys: list[Any] | None) -> None:
        self._nodes = nodes
        self._keys = keys
        self.length = min(node.length for node in nodes)

    @property
    def kind(self) -> Any:
        keys = None if self._keys is None else tuple(self._keys)
        return _Fields, keys, tuple(node.kind for node in self._nodes)

    def gather(self, rows: RowNumbers, place: Place) -> Any:
        return self._join([node.gather(rows, place) for node in self._nodes])

    def merge(self, parts: Parts, count: int, place: Place) -> Any:
        keys = range(len(self._nodes)) if self._keys is None else self._keys
        return self._join(
            [
                node.merge([(at, batch[key]) for at, batch in parts], count, place)
                for key, node in zip(keys, self._nodes, strict=True)
            ]
        )

    def _join(self, batches: list[Any]) -> Any:
        return batches if self._keys is None else dict(zip(self._keys, batches, strict=True))


class _Selection:
    """A ``Subset``: rows of another dataset."""

    def __init__(self, node: Node, indices: Any) -> None:
        self._node = node
        self._indices = indices
        self._is_array = isinstance(indices, np.ndarray | Tensor)
        self.length = len(indices)

    @property
    def kind(self) -> Any:
        return self._node.kind

    def gather(self, rows: RowNumbers, place: Place) -> Any:
        _check(rows, len(self._indices))
        if self._is_array:
            chosen = np.asarray(self._indices[rows]).astype(np.int64)
        else:
            chosen = _rows([self._indices[row] for row in rows.tolist()])
        return _gather_within(self._node, chosen, place)

    def merge(self, parts: Parts, count: int, place: Place) -> Any:
        return self._node.merge(parts, count, place)


class _Chain:
    """A ``ConcatDataset``: the rows of one dataset after those of another."""

    def __init__(self, nodes: list[Node], ends: list[int]) -> None:
        self._nodes = nodes
        self._ends = np.array(ends)
        self._starts = np.array([0, *ends[:-1]])
        self.length = ends[-1]

    @property
    def kind(self) -> Any:
        return self._nodes[0].kind

    def gather(self, rows: RowNumbers, place: Place) -> Any:
        numbers = np.searchsorted(self._ends, rows, side="right")
        rows = rows - self._starts[numbers]
        first = int(numbers[0])
        if (numbers == first).all():
            return _gather_within(self._nodes[first], rows, place)
        parts = []
        for number in np.unique(numbers).tolist():
            at = np.flatnonzero(numbers == number)
            parts.append((at, _gather_within(self._nodes[number], rows[at], HEAP)))
        return self._nodes[first].merge(parts, len(rows), place)

    def merge(self, parts: Parts, count: int, place: Place) -> Any:
        return self._nodes[0].merge(parts, count, place)


def merge_tensors(parts: Parts, count: int, place: Place) -> Tensor:
    """Tensors of equal dtype and row shape as one, each row where its part says."""
    first = parts[0][1]
    out = place.tensor((count, *first.shape[1:]), first.dtype)
    carrier = carrier_of(first.dtype)
    carried = out.view(carrier)
    for at, batch in parts:
        carried.index_copy_(0, torch.from_numpy(at), batch.view(carrier))
    return out


def _tensor_node(tensor: Tensor) -> Node | None:
    is_gatherable = (
        is_plain(tensor)
        # torch's stack keeps a row's memory format (channels last), index_select does not.
        and (tensor.dim() < 4 or tensor.is_contiguous())
        and tensor.dim() > 0
        and not tensor.requires_grad
        and not tensor.is_conj()
        and not tensor.is_neg()
    )
    return _Field(tensor) if is_gatherable else None


def _array_node(array: npt.NDArray[Any]) -> Node | None:
    """An array whose rows the default collate makes into a tensor of the same dtype."""
    if array.dtype not in TORCH_DTYPES or array.dtype.char == "Q" or array.size == 0:
        return None
    if array.ndim == 1 and array.dtype == np.uint64:  # of which torch refuses single numbers
        return None
    if array.ndim > 3 and not array.flags.c_contiguous:  # as with tensors
        return None
    if array.ndim == 0 or any(
        stride < 0 or stride % array.itemsize or not array.flags.aligned for stride in array.strides
    ):
        return None
    return _Field(viewed(array))


def viewed(array: npt.NDArray[Any]) -> Tensor:
    """An array as a tensor; nobody writes to it, so it may be a read-only one."""
    if not array.flags.writeable:
        array = np.asarray(_Writable(array))
    return torch.from_numpy(array.view(np.ndarray))


class _Writable:
    """Says of a read-only array that it is not, because torch warns of every one that is."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        address, _ = array.__array_interface__["data"]
        self.__array_interface__ = {**array.__array_interface__, "data": (address, False)}
        self._array = array


def _join(datasets: list[Any], keys: list[Any] | None) -> Node | None:
    nodes = [node for node in map(_node, datasets) if node is not None]
    return _Fields(nodes, keys) if nodes and len(nodes) == len(datasets) else None


def _stack_node(dataset: StackDataset[Any] | ArrayDataset) -> Node | None:
    parts: Any = dataset.arrays if isinstance(dataset, ArrayDataset) else dataset.datasets
    if isinstance(parts, dict):
        return _join(list(parts.values()), list(parts))
    return _join(list(parts), None)


_INDEX_DTYPES = {np.dtype(np.int64), np.dtype(np.int32)}


def _subset_node(dataset: Subset[Any]) -> Node | None:
    node = _node(dataset.dataset)
    indices: Any = dataset.indices
    if isinstance(indices, np.ndarray):
        is_known = indices.ndim == 1 and indices.dtype in _INDEX_DTYPES
    elif isinstance(indices, Tensor):
        is_known = indices.dim() == 1 and indices.dtype is torch.int64
    else:
        is_known = type(indices) in {list, tuple, range}
    return _Selection(node, indices) if node is not None and is_known else None


def _concat_node(dataset: ConcatDataset[Any]) -> Node | None:
    nodes = [node for node in map(_node, dataset.datasets) if node is not None]
    if len(nodes) < len(dataset.datasets) or len({node.kind for node in nodes}) != 1:
        return None
    return _Chain(nodes, dataset.cumulative_sizes)


_FIELDS: dict[type, Callable[[Any], Node | None]] = {
    Tensor: _tensor_node,
    np.ndarray: _array_node,
    np.memmap: _array_node,
    TensorDataset: lambda dataset: _join(list(dataset.tensors), None),
    ArrayDataset: _stack_node,
    StackDataset: _stack_node,
    Subset: _subset_node,
    ConcatDataset: _concat_node,
}

# A program may put others in their place.
_READS = {kind: getattr(kind, "__getitem__", None) for kind in _FIELDS}
