"""Know the kinds of dataset that lie in memory, and what each of them is made of.

Runs in: consumer and worker.
Takes: a dataset.
Gives: the node that gathers its batches, a signature that changes when what the node is made of
changes, and the bytes of a sample; None where a dataset is of no kind that is known here.

This is the only place that tells the kinds apart. A dataset of a class of our own may also have a
method ``gather_node()``, which makes its node, or returns None.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, StackDataset, Subset, TensorDataset

from fastload._memory.write import is_its_bytes
from fastload.collate.inplace import TORCH_DTYPES
from fastload.datasets.arrays import ArrayDataset
from fastload.datasets.nodes import Chain, Field, Fields, Node, Selection, end_in_storage


class Kind:
    """Says how datasets of one class lie in memory.

    Args:
        cls: The class. Datasets of a subclass are of another kind.
    """

    is_field = False
    """Says whether it is a single tensor or array, which nothing else is inside of."""

    def __init__(self, cls: Any) -> None:
        self._cls = cls
        self._one = cls.__getitem__
        self._many = getattr(cls, "__getitems__", None)

    def is_unchanged(self, dataset: Any) -> bool:
        """Return whether samples are read by the methods that the class had at its import."""
        cls = self._cls
        return (
            cls.__getitem__ is self._one
            and getattr(cls, "__getitems__", None) is self._many
            and (self.is_field or "__getitems__" not in dataset.__dict__)
        )

    def parts(self, dataset: Any) -> Sequence[Any]:
        """Return the datasets inside; a single tensor or array has none."""
        raise NotImplementedError

    def identity(self, dataset: Any) -> Any:
        """Return what is equal as long as the node of a dataset, without its parts, is right."""
        raise NotImplementedError

    def node(self, dataset: Any, parts: list[Node]) -> Node | None:
        """Make the node of the nodes of the parts; None: the dataset is read sample by sample."""
        raise NotImplementedError

    def sample_bytes(self, dataset: Any, parts: list[int]) -> int | None:
        """Return the bytes of a sample that lies ready in memory, given those of the parts."""
        raise NotImplementedError


class _Tensors(Kind):
    is_field = True

    def parts(self, _: Tensor) -> Sequence[Any]:
        return ()

    def identity(self, tensor: Tensor) -> Any:
        if tensor.layout is not torch.strided:
            return id(tensor)
        return (
            tensor.data_ptr(),
            tensor.shape,
            tensor.stride(),
            tensor.dtype,
            tensor.requires_grad,
            tensor.is_conj(),
            tensor.is_neg(),
        )

    def node(self, tensor: Tensor, _: list[Node]) -> Node | None:
        is_gatherable = (
            is_its_bytes(tensor)
            # torch's stack keeps a row's memory format (channels last), index_select does not.
            and (tensor.dim() < 4 or tensor.is_contiguous())
            and tensor.dim() > 0
            and not tensor.requires_grad
            and tensor.untyped_storage().nbytes() >= end_in_storage(tensor)
        )
        return Field(tensor) if is_gatherable else None

    def sample_bytes(self, tensor: Tensor, _: list[int]) -> int | None:
        if not is_its_bytes(tensor) or tensor.dim() == 0 or not len(tensor):
            return None
        if tensor.untyped_storage().filename is not None:  # mapped, by torch.load or from_file
            return None
        return tensor.nbytes // len(tensor)


class _Arrays(Kind):
    is_field = True

    def parts(self, _: npt.NDArray[Any]) -> Sequence[Any]:
        return ()

    def identity(self, array: npt.NDArray[Any]) -> Any:
        return id(array), array.shape, array.strides, array.dtype

    def node(self, array: npt.NDArray[Any], _: list[Node]) -> Node | None:
        if array.dtype not in TORCH_DTYPES or array.dtype.char == "Q" or array.size == 0:
            return None
        if array.ndim == 1 and array.dtype == np.uint64:  # of which torch refuses single numbers
            return None
        if array.ndim > 3 and not array.flags.c_contiguous:  # as with tensors
            return None
        if array.ndim == 0 or any(
            stride < 0 or stride % array.itemsize or not array.flags.aligned
            for stride in array.strides
        ):
            return None
        return Field(viewed(array), _stays_in_place(array))

    def sample_bytes(self, array: npt.NDArray[Any], _: list[int]) -> int | None:
        base: Any = array
        while isinstance(base, np.ndarray):
            if isinstance(base, np.memmap):
                return None
            base = base.base
        if isinstance(base, mmap.mmap) or array.ndim == 0 or not len(array):
            return None
        return array.nbytes // len(array)


def _stays_in_place(array: npt.NDArray[Any]) -> Callable[[], bool]:
    """Return a function that says whether an array still is where it was.

    ``ndarray.resize`` moves an array that owns its memory. The function also keeps the array alive,
    so that no other array gets its ``id``.
    """
    if not array.flags.owndata:
        return lambda: array is not None
    address = viewed(array).data_ptr()
    size = array.size
    from_numpy = torch.from_numpy  # of a read-only array it warns
    return lambda: (
        array.size == size
        and (from_numpy(array) if array.flags.writeable else viewed(array)).data_ptr() == address
    )


def viewed(array: npt.NDArray[Any]) -> Tensor:
    """Return an array as a tensor; nobody writes to it, so the array may be read-only."""
    if not array.flags.writeable:
        array = np.asarray(_Writable(array))
    return torch.from_numpy(array.view(np.ndarray))


class _Writable:
    """Says that a read-only array is writable, because torch warns of every one that is not."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        address, _ = array.__array_interface__["data"]
        self.__array_interface__ = {**array.__array_interface__, "data": (address, False)}
        self._array = array


class _Rows(Kind):
    """Datasets whose sample has a value of each part.

    Args:
        cls: The class.
        attribute: Where the parts are: a dict, or a sequence of them.
    """

    def __init__(self, cls: type, attribute: str) -> None:
        super().__init__(cls)
        self._attribute = attribute

    def parts(self, dataset: Any) -> Sequence[Any]:
        parts = getattr(dataset, self._attribute)
        return tuple(parts.values()) if isinstance(parts, dict) else tuple(parts)

    def identity(self, dataset: Any) -> Any:
        parts = getattr(dataset, self._attribute)
        return tuple(parts) if isinstance(parts, dict) else None

    def node(self, dataset: Any, parts: list[Node]) -> Node | None:
        keys = self.identity(dataset)
        return Fields(parts, None if keys is None else list(keys)) if parts else None

    def sample_bytes(self, _: Any, parts: list[int]) -> int | None:
        return sum(parts) if parts else None


class _Subsets(Kind):
    _DTYPES = frozenset({np.dtype(np.int64), np.dtype(np.int32)})

    def parts(self, dataset: Subset[Any]) -> Sequence[Any]:
        return (dataset.dataset,)

    def identity(self, dataset: Subset[Any]) -> Any:
        indices: Any = dataset.indices
        is_array = isinstance(indices, np.ndarray | Tensor)
        # The node keeps the indices, so nothing else gets their id; it reads a list as it is then.
        return id(indices), (indices.dtype, indices.shape) if is_array else None

    def node(self, dataset: Subset[Any], parts: list[Node]) -> Node | None:
        indices: Any = dataset.indices
        if isinstance(indices, np.ndarray):
            is_known = indices.ndim == 1 and indices.dtype in self._DTYPES
        elif isinstance(indices, Tensor):
            is_known = indices.dim() == 1 and indices.dtype is torch.int64
        else:
            is_known = type(indices) in {list, tuple, range}
        return Selection(parts[0], indices) if is_known else None

    def sample_bytes(self, _: Subset[Any], parts: list[int]) -> int | None:
        return parts[0]


class _Concats(Kind):
    def parts(self, dataset: ConcatDataset[Any]) -> Sequence[Any]:
        return dataset.datasets

    def identity(self, dataset: ConcatDataset[Any]) -> Any:
        return tuple(dataset.cumulative_sizes)

    def node(self, dataset: ConcatDataset[Any], parts: list[Node]) -> Node | None:
        ends = list(dataset.cumulative_sizes)
        if not parts or len(ends) != len(parts) or len({node.kind for node in parts}) != 1:
            return None
        return Chain(parts, ends)

    def sample_bytes(self, _: ConcatDataset[Any], parts: list[int]) -> int | None:
        return max(parts) if parts else None


class _MappedArrays(_Arrays):
    def sample_bytes(self, *_: Any) -> None:
        return None  # reading it may take long


_KINDS: dict[type, Kind] = {
    Tensor: _Tensors(Tensor),
    np.ndarray: _Arrays(np.ndarray),
    np.memmap: _MappedArrays(np.memmap),
    TensorDataset: _Rows(TensorDataset, "tensors"),
    StackDataset: _Rows(StackDataset, "datasets"),
    ArrayDataset: _Rows(ArrayDataset, "arrays"),
    Subset: _Subsets(Subset),
    ConcatDataset: _Concats(ConcatDataset),
}


class _HuggingFace(Kind):
    """Datasets of the package ``datasets``, of which nothing is imported until there is one."""

    def __init__(self, cls: Any) -> None:
        super().__init__(cls)
        self._inner = cls._getitem
        self._own = {"__getitem__", "__getitems__", "_getitem"}

    def is_unchanged(self, dataset: Any) -> bool:
        is_of_class = self._own.isdisjoint(dataset.__dict__)
        return super().is_unchanged(dataset) and is_of_class and self._cls._getitem is self._inner

    def parts(self, _: Any) -> Sequence[Any]:
        return ()

    def identity(self, dataset: Any) -> Any:
        from fastload.datasets import hugging_face

        return hugging_face.identity(dataset)

    def node(self, dataset: Any, _: list[Node]) -> Node | None:
        from fastload.datasets import hugging_face

        return hugging_face.node(dataset)

    def sample_bytes(self, dataset: Any, _: list[int]) -> int | None:
        from fastload.datasets import hugging_face

        return hugging_face.row_bytes(dataset)


def _known_kind(cls: type) -> Kind | None:
    kind = _KINDS.get(cls)
    if kind is None and (cls.__module__, cls.__name__) == ("datasets.arrow_dataset", "Dataset"):
        kind = _KINDS[cls] = _HuggingFace(cls)
    return kind


def _kind_of(dataset: Any) -> Kind | None:
    kind = _known_kind(type(dataset))
    return kind if kind is not None and kind.is_unchanged(dataset) else None


class _Unknown:
    """The signature of a dataset of no known kind, which is equal to that of itself alone."""

    __slots__ = ("_dataset", "_unchanged")

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Unknown) and other._dataset is self._dataset

    __hash__ = None  # type: ignore[assignment]


_ENDLESS = object()
"""Stands for the signature of a dataset that contains itself."""


def node_of(dataset: Any) -> Node | None:
    """Return the node of a dataset; None: it must be read sample by sample."""
    try:
        return _node(dataset)
    except RecursionError:  # it contains itself
        return None


def signature_of(dataset: Any) -> Any:
    """Return what the node of a dataset is made of; when it changes, a new node must be made."""
    try:
        return _signature(dataset)
    except RecursionError:
        return _ENDLESS


def sample_bytes(dataset: Any) -> int | None:
    """Return the bytes of one sample; of the largest, where they differ.

    None: a sample may have to be made, or read from a file, first.
    """
    try:
        return _sample_bytes(dataset)
    except RecursionError:
        return None


def _node(dataset: Any) -> Node | None:
    kind = _kind_of(dataset)
    if kind is None:
        make = getattr(type(dataset), "gather_node", None)
        return None if make is None else make(dataset)
    nodes = []
    for part in kind.parts(dataset):
        node = _node(part)
        if node is None:
            return None
        nodes.append(node)
    return kind.node(dataset, nodes)


def _signature(dataset: Any) -> Any:
    # Once a batch: benchmarks of small batches without workers see each microsecond.
    kind = _known_kind(type(dataset))
    if kind is None or not (kind.is_field or kind.is_unchanged(dataset)):
        return _Unknown(dataset)
    if kind.is_field:
        return kind.identity(dataset)
    return kind, kind.identity(dataset), [*map(_signature, kind.parts(dataset))]


def _sample_bytes(dataset: Any) -> int | None:
    kind = _kind_of(dataset)
    if kind is None:
        return None
    sizes = []
    for part in kind.parts(dataset):
        size = _sample_bytes(part)
        if size is None:
            return None
        sizes.append(size)
    return kind.sample_bytes(dataset, sizes)
