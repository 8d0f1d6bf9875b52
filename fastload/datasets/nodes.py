"""The nodes of a dataset in memory, each of which reads a batch with one index operation.

Runs in: worker (consumer with ``num_workers=0``).
Takes: row numbers.
Gives: the batch of those rows, in a slot or in ordinary memory.

A dataset is a tree of nodes: fields (one tensor or array each) at the leaves; above them tuples and
dicts of fields, selections of rows, and chains of datasets. ``fastload.datasets.kinds`` makes the
tree.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastload._memory.layout import CARRIERS, Shape
from fastload._memory.write import HEAP, Place
from fastload._system.interruptions import is_from_outside

RowNumbers = npt.NDArray[np.int64]
Parts = Sequence[tuple[RowNumbers, Any]]
"""Lists batches, each with the places of its rows in the batch that is made of them all."""

INTEGERS = frozenset({int, np.int64})

_SELECTABLE = {
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
}


def carrier_of(dtype: torch.dtype) -> torch.dtype:
    """Return a dtype of the same size whose rows torch can select; of some it can't."""
    return dtype if dtype in _SELECTABLE else CARRIERS.get(dtype.itemsize, dtype)


class NotGatherableError(Exception):
    """Raised for indices that must be read sample by sample."""


@contextlib.contextmanager
def left_to_samples() -> Iterator[None]:
    """Leave whatever fails to reading sample by sample, which gives the usual result or error.

    Raises:
        NotGatherableError: Something failed.
        Exception: From outside, such as of a signal handler: that is no failure.
    """
    try:
        yield
    except NotGatherableError:
        raise
    except Exception as error:
        if is_from_outside(error):
            raise
        raise NotGatherableError from error


class MakesBatches(Iterator[Any]):
    """An iterator of ours over samples, which the loader may ask for a whole batch of them.

    A base class, not a method that is looked up: iterators of the user's have methods of any name.
    """

    @abstractmethod
    def next_batch(self, count: int, place: Place) -> tuple[int, Any] | None:
        """Return up to so many samples as one batch, as the default collate makes it.

        Returns:
            How many they are, and the batch; None: they must be read one by one.
        """


class WritesItems(Iterator[Any]):
    """An iterator of ours over ready batches, which it may write where they will lie."""

    @abstractmethod
    def next_into(self, place: Place) -> Any:
        """Return the next item; tensors of a batch lie in ``place`` if they can."""


class Node(Protocol):
    """A dataset, or a field of one, that gathers whole batches."""

    length: int
    loads_samples: bool
    """Whether each sample is loaded from somewhere, which several threads could do at a time."""

    @property
    def kind(self) -> Any:
        """Return what is equal for nodes whose batches can be put together."""

    def gather(self, rows: RowNumbers, place: Place) -> Any:
        """Return the batch of these rows, each at least 0 and below ``length``.

        Raises:
            NotGatherableError: They must be read sample by sample.
        """

    def merge(self, parts: Parts, count: int, place: Place) -> Any:
        """Make one batch of ``count`` rows of batches of nodes of this kind."""


def row_numbers(indices: list[Any]) -> RowNumbers:
    """Return a list of indices as an array.

    Raises:
        NotGatherableError: There are none, or one of them is not an integer (a bool would count
            as a mask).
    """
    kinds = list(map(type, indices))
    if not kinds or (kinds.count(int) != len(kinds) and not INTEGERS.issuperset(kinds)):
        raise NotGatherableError
    try:
        return np.array(indices, np.int64)
    except OverflowError:
        raise NotGatherableError from None


def gather_within(node: Node, rows: RowNumbers, place: Place) -> Any:
    """Gather rows from a node that has them all.

    Raises:
        NotGatherableError: The rows must be read sample by sample.
    """
    _check(rows, node.length)
    return node.gather(rows, place)


def _check(rows: RowNumbers, length: int) -> None:
    """Leave negative rows and those out of range to the dataset, sample by sample."""
    if int(rows.view(np.uint64).max()) >= length:
        raise NotGatherableError


class Field:
    """A node for one tensor, of which a row is a sample.

    Args:
        tensor: Its memory is read as it is when a batch is made.
        is_there: Says whether that memory still belongs to the dataset; None: as long as the
            tensor's storage is large enough.
    """

    loads_samples = False

    def __init__(self, tensor: Tensor, is_there: Callable[[], bool] | None = None) -> None:
        self._dtype = tensor.dtype
        self._carrier = carrier_of(tensor.dtype)
        self._tensor = tensor.view(self._carrier)
        self.length = len(tensor)
        self._shape: Shape = tuple(tensor.shape[1:])
        self._storage = tensor.untyped_storage()
        self._needed_bytes = end_in_storage(tensor)
        self._is_there = is_there

    @property
    def kind(self) -> Any:
        """Return what ``Node.kind`` says."""
        return Field, self._dtype, self._shape

    def gather(self, rows: RowNumbers, place: Place) -> Tensor:
        """Do what ``Node.gather`` says."""
        # The dataset's owner may have freed the memory meanwhile: nothing may be read there then.
        is_there = self._is_there
        if self._storage.nbytes() < self._needed_bytes or not (is_there is None or is_there()):
            raise NotGatherableError
        numbers = torch.from_numpy(rows)
        if place is HEAP:
            found = torch.index_select(self._tensor, 0, numbers)
            return found if self._carrier is self._dtype else found.view(self._dtype)
        out = place.tensor((len(rows), *self._shape), self._dtype)
        torch.index_select(self._tensor, 0, numbers, out=out.view(self._carrier))
        return out

    def merge(self, parts: Parts, count: int, place: Place) -> Tensor:
        """Do what ``Node.merge`` says."""
        return merge_tensors(parts, count, place)


class Fields:
    """A node whose sample is a tuple or a dict of what several nodes give for the same row."""

    def __init__(self, nodes: list[Node], keys: list[Any] | None) -> None:
        self._nodes = nodes
        self._keys = keys
        self.length = min(node.length for node in nodes)
        self.loads_samples = any(node.loads_samples for node in nodes)

    @property
    def kind(self) -> Any:
        """Return what ``Node.kind`` says."""
        keys = None if self._keys is None else tuple(self._keys)
        return Fields, keys, tuple(node.kind for node in self._nodes)

    def gather(self, rows: RowNumbers, place: Place) -> Any:
        """Do what ``Node.gather`` says."""
        return self._join([node.gather(rows, place) for node in self._nodes])

    def merge(self, parts: Parts, count: int, place: Place) -> Any:
        """Do what ``Node.merge`` says."""
        keys = range(len(self._nodes)) if self._keys is None else self._keys
        return self._join(
            [
                node.merge([(at, batch[key]) for at, batch in parts], count, place)
                for key, node in zip(keys, self._nodes, strict=True)
            ]
        )

    def _join(self, batches: list[Any]) -> Any:
        return batches if self._keys is None else dict(zip(self._keys, batches, strict=True))


class Selection:
    """A node for a ``Subset``: rows of another dataset."""

    def __init__(self, node: Node, indices: Any) -> None:
        self._node = node
        self._indices = indices
        self._is_array = isinstance(indices, np.ndarray | Tensor)
        self.length = len(indices)
        self.loads_samples = node.loads_samples

    @property
    def kind(self) -> Any:
        """Return what ``Node.kind`` says."""
        return self._node.kind

    def gather(self, rows: RowNumbers, place: Place) -> Any:
        """Do what ``Node.gather`` says."""
        _check(rows, len(self._indices))
        if self._is_array:
            chosen = np.asarray(self._indices[rows]).astype(np.int64)
        else:
            chosen = row_numbers([self._indices[row] for row in rows.tolist()])
        return gather_within(self._node, chosen, place)

    def merge(self, parts: Parts, count: int, place: Place) -> Any:
        """Do what ``Node.merge`` says."""
        return self._node.merge(parts, count, place)


class Chain:
    """A node for a ``ConcatDataset``: the rows of one dataset after those of another."""

    def __init__(self, nodes: list[Node], ends: list[int]) -> None:
        self._nodes = nodes
        self._ends = np.array(ends)
        self._starts = np.array([0, *ends[:-1]])
        self.length = ends[-1]
        self.loads_samples = any(node.loads_samples for node in nodes)

    @property
    def kind(self) -> Any:
        """Return what ``Node.kind`` says."""
        return self._nodes[0].kind

    def gather(self, rows: RowNumbers, place: Place) -> Any:
        """Do what ``Node.gather`` says."""
        numbers = np.searchsorted(self._ends, rows, side="right")
        rows = rows - self._starts[numbers]
        first = int(numbers[0])
        if (numbers == first).all():
            return gather_within(self._nodes[first], rows, place)
        parts = []
        for number in np.unique(numbers).tolist():
            at = np.flatnonzero(numbers == number)
            parts.append((at, gather_within(self._nodes[number], rows[at], HEAP)))
        return self._nodes[first].merge(parts, len(rows), place)

    def merge(self, parts: Parts, count: int, place: Place) -> Any:
        """Do what ``Node.merge`` says."""
        return self._nodes[0].merge(parts, count, place)


def merge_tensors(parts: Parts, count: int, place: Place) -> Tensor:
    """Join tensors of equal dtype and row shape, each row where its part says."""
    first = parts[0][1]
    out = place.tensor((count, *first.shape[1:]), first.dtype)
    carrier = carrier_of(first.dtype)
    carried = out.view(carrier)
    for at, batch in parts:
        carried.index_copy_(0, torch.from_numpy(at), batch.view(carrier))
    return out


def end_in_storage(tensor: Tensor) -> int:
    """Return how many bytes a tensor's storage must have for all of its elements to lie in it."""
    if not tensor.numel():
        return 0
    reach = zip(tensor.shape, tensor.stride(), strict=True)
    last = int(tensor.storage_offset()) + sum((size - 1) * stride for size, stride in reach)
    return (last + 1) * tensor.element_size()
