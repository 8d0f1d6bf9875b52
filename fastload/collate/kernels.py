"""Compute what the default collate gives straight into the place where the batch will lie.

Runs in: worker (consumer with ``num_workers=0``).
Takes: a list of samples and a place (a slot of the arena, or the heap).
Gives: what ``torch.utils.data.default_collate`` gives for these samples.

A *kernel* is the function that collates samples of one type; torch keeps them in a registry. Only
the kernels for tensors, arrays and numbers are ours, and the walk over Python's own containers,
which in torch's ``collate`` costs more than small batches do. Every other container is left to
torch's walk, with our kernels in a copy of torch's registry. So every type rule and error is
torch's, and a registry that the user extended keeps its entries. A kernel that does not see exactly
the case it is made for (equal shapes, one dtype, plain dense memory) leaves it to torch's. Code of
the user's (kernels, containers, reducers) gets tensors in private memory, never a reference to a
leaf: it might look at one, or keep it.
"""

from __future__ import annotations

import copy
import functools
import struct
import warnings
from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastload._memory.layout import Shape
from fastload._memory.reducers import is_registered
from fastload._memory.write import HEAP, Place, fill, is_plain
from fastload._torch_private import collate_module as torch_collate

Kernel = Callable[..., Any]
Registry = dict[Any, Kernel]

_shape = attrgetter("shape")
_dtype = attrgetter("dtype")

TORCH_DTYPES: dict[Any, torch.dtype] = {
    np.dtype(name): getattr(torch, name)
    for name in (
        *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
    )
}


class Kernels:
    """The kernels that fill ``place`` with one batch.

    Args:
        place: Where results lie.
        must_be_tensor: Whether anything but our own walk sees the results, so that no reference may
            stand for a tensor.
    """

    def __init__(self, place: Place, *, must_be_tensor: bool = False) -> None:
        self._place = place
        self._must_be_tensor = must_be_tensor
        self._on_heap = place is HEAP
        self._reading = read_registry()
        self._known = self._reading.kernels

    @property
    def kernels(self) -> Registry:
        """Return torch's registry with these kernels in the place of torch's own."""
        return {
            kind: getattr(self, self._reading.replaced[kernel])
            if kernel in self._reading.replaced
            else kernel
            for kind, kernel in self._reading.registry.items()
        }

    @functools.cached_property
    def registry(self) -> Registry:
        """Return a registry for torch's walk, of kernels whose results lie in private memory.

        The user's kernels and containers are called by that walk, and may keep a tensor.
        """
        return self.kernels if self._on_heap else Kernels(HEAP).kernels

    def _filled(self, shape: Shape, dtype: torch.dtype, content: bytes) -> Any:
        if self._must_be_tensor:
            return fill(self._place.tensor(shape, dtype), content)
        return self._place.filled(shape, dtype, content)

    def collate(self, batch: Sequence[Any]) -> Any:
        """Do as ``torch_collate.collate(batch, collate_fn_map=self.registry)`` does."""
        first = batch[0]
        kind = type(first)
        name = self._known.get(kind, "")
        if name == "":
            name = self._known[kind] = _name_of_kernel(first)
        if name is not None:
            return getattr(self, name)(batch)
        return torch_collate.collate(batch, collate_fn_map=self.registry)

    def sequences(self, batch: Sequence[Any]) -> Any:
        """Collate lists or tuples to a list of their columns."""
        size = len(batch[0])
        try:
            sizes = list(map(len, batch))
        except TypeError:
            sizes = []
        if sizes.count(size) != len(batch):
            return torch_collate.collate(batch, collate_fn_map=self.registry)  # it raises
        return [self.collate(column) for column in zip(*batch, strict=False)]

    def named_tuples(self, batch: Sequence[Any]) -> Any:
        """Collate named tuples to one of their columns."""
        if is_registered(type(batch[0])):
            return torch_collate.collate(batch, collate_fn_map=self.registry)
        return type(batch[0])(*map(self.collate, zip(*batch, strict=False)))

    def dicts(self, batch: Sequence[Any]) -> Any:
        """Collate dicts to one of their columns, by the keys of the first sample."""
        return {key: self.collate([sample[key] for sample in batch]) for key in batch[0]}

    def copied_dicts(self, batch: Sequence[Any]) -> Any:
        """Collate dicts to a copy of the first sample, with columns in place of its values."""
        if is_registered(type(batch[0])):
            return torch_collate.collate(batch, collate_fn_map=self.registry)
        clone = copy.copy(batch[0])
        clone.update(self.dicts(batch))
        return clone

    def tensors(self, batch: Sequence[Tensor], **_: Any) -> Any:
        """Stack tensors of equal shapes."""
        first = batch[0]
        if self._on_heap:
            kernel = torch_collate.default_collate_fn_map[Tensor]  # in a worker: the private one
            return kernel(list(batch), collate_fn_map=self.registry)
        if type(first) is not Tensor or not is_plain(first):
            return collate_tensors_privately(batch, collate_fn_map=self.registry)
        out = self._place.tensor((len(batch), *first.shape), first.dtype)
        found = torch.stack(tuple(batch), 0, out=out)  # a subclass among them gives another
        return found if self._must_be_tensor or found is not out else self._place.reference(out)

    def arrays(self, batch: Sequence[Any], **_: Any) -> Any:
        """Stack arrays of equal shapes to a tensor."""
        first = batch[0]
        # An array of exactly this type is not asked: np.ma takes ten milliseconds to import.
        if type(first) is not np.ndarray and isinstance(first, np.ma.MaskedArray):
            _warn_of_lost_mask()
        # NumPy's second name for uint64 is equal to the first, but torch refuses it.
        dtype = None if first.dtype.char == "Q" else TORCH_DTYPES.get(first.dtype)
        if (
            dtype is None
            or first.nbytes == 0
            or not _all_are(np.ndarray, map(type, batch))
            or not _all_are(first.shape, map(_shape, batch))
            or not _all_are(first.dtype, map(_dtype, batch))
        ):
            return torch_collate.collate_numpy_array_fn(batch, collate_fn_map=self.registry)
        shape = (len(batch), *first.shape)
        if first.nbytes <= JOIN_BYTES:
            try:
                content = b"".join(batch)
            except (BufferError, TypeError):  # a sample is not contiguous
                pass
            else:
                return self._filled(shape, dtype, content)
        keeps_format = self._on_heap and first.ndim > 2 and not first.flags.c_contiguous
        if keeps_format or not all(map(_is_viewable, batch)):
            return torch_collate.collate_numpy_array_fn(batch, collate_fn_map=self.registry)
        out = self._place.tensor(shape, dtype)
        np.stack(batch, out=out.numpy())
        return out if self._must_be_tensor else self._place.reference(out)

    def numpy_scalars(self, batch: Sequence[Any], **_: Any) -> Any:
        """Make a tensor of NumPy's numbers."""
        kinds = set(map(type, batch))
        dtype = TORCH_DTYPES.get(np.dtype(type(batch[0]))) if len(kinds) == 1 else None
        if dtype is None or dtype is torch.uint64:
            return torch_collate.collate_numpy_scalar_fn(batch, collate_fn_map=self.registry)
        return self._filled((len(batch),), dtype, np.array(batch).tobytes())

    def floats(self, batch: Sequence[Any], **_: Any) -> Any:
        """Make a float64 tensor of Python's floats."""
        if not _all_are(float, map(type, batch)):
            return torch_collate.collate_float_fn(batch, collate_fn_map=self.registry)
        return self._filled((len(batch),), torch.float64, _packing("d", len(batch)).pack(*batch))

    def ints(self, batch: Sequence[Any], **_: Any) -> Any:
        """Make an int64 tensor of Python's integers, or a bool one of its booleans."""
        count, kinds = len(batch), list(map(type, batch))
        if kinds.count(int) == count:
            try:
                content = _packing("q", count).pack(*batch)
            except struct.error:  # one is too large
                pass
            else:
                return self._filled((count,), torch.int64, content)
        elif kinds.count(bool) == count:
            return self._filled((count,), torch.bool, bytes(batch))
        return torch_collate.collate_int_fn(batch, collate_fn_map=self.registry)


def _all_are(value: Any, found: Iterable[Any]) -> bool:
    values = list(found)
    return values.count(value) == len(values)


@functools.lru_cache(maxsize=64)
def _packing(code: str, count: int) -> struct.Struct:
    """Return what writes so many numbers, three times as fast as ``array``."""
    return struct.Struct(f"={count}{code}")


def _name_of_kernel(sample: Any) -> str | None:
    """Name the method that collates samples of this type; None if torch's walk is to do it."""
    reading = read_registry()
    registry = reading.registry
    kind = type(sample)
    keys = [kind] if kind in registry else [key for key in registry if isinstance(sample, key)]
    if keys:
        return reading.replaced.get(registry[keys[0]])
    return "named_tuples" if _is_named_tuple(kind) else _WALKED.get(kind)


_Example = namedtuple("_Example", "field")  # noqa: PYI024  (what is made without typing)

_SEEN_BY_NO_PICKLER: Final = frozenset(
    {"__annotate__", "__annotate_func__", "__annotations__", "__annotations_cache__"}
    | {
        "__class_getitem__",
        "__dict__",
        "__doc__",
        "__firstlineno__",
        "__match_args__",
        "__module__",
    }
    | {"__orig_bases__", "__parameters__", "__repr__", "__slots__", "__static_attributes__"}
    | {"__str__", "__weakref__"}
)
"""Lists the special names of a class that change nothing of how objects are made and pickled."""


def _is_named_tuple(kind: type) -> bool:
    """Return whether ``collections.namedtuple`` made a class, and no code of a user's pickles it.

    A class derived from such a type counts as well, unless it has special methods of its own.
    """
    *derived, made, base, _ = (object, *kind.__mro__) if len(kind.__mro__) < 3 else kind.__mro__
    if base is not tuple or type(kind) is not type or "_fields" not in vars(made):
        return False
    new, arguments = vars(made).get("__new__"), vars(made).get("__getnewargs__")
    return (
        str(getattr(new, "__globals__", {}).get("__name__")).startswith("namedtuple_")
        and getattr(arguments, "__code__", None) is vars(_Example)["__getnewargs__"].__code__
        and _special_names(made) <= _SEEN_BY_NO_PICKLER | _special_names(_Example)
        and all(_special_names(each) <= _SEEN_BY_NO_PICKLER for each in derived)
    )


def _special_names(kind: type) -> set[str]:
    return {name for name in vars(kind) if name.startswith("__")}


def runs_no_users_code(sample: Any) -> bool:
    """Return whether samples like this one are collated and pickled without code of a user's."""
    kind = type(sample)
    if kind in _WALKED or _is_named_tuple(kind):
        if is_registered(kind):
            return False
        children = tuple(sample.values() if isinstance(sample, dict) else sample)
        if children and type(children[0]) in (int, float):  # a sequence of numbers
            return True
        return all(map(runs_no_users_code, children))
    return kind in (str, bytes) or not isinstance(sample, Mapping | Sequence)


class RegistrySnapshot:
    """What torch's registry says, as long as it stays as it was.

    Attributes:
        registry: A copy of it.
        kernels: What ``_name_of_kernel`` said of types that were met.
        replaced: Those kernels of torch's that ours can replace, and by which method.
    """

    def __init__(self) -> None:
        self.registry = dict(torch_collate.default_collate_fn_map)
        self.kernels: dict[type, str | None] = {}
        self.replaced = dict(_REPLACED)
        if self.registry.get(Tensor) not in _REPLACED:
            # Torch's kernel for arrays makes tensors of them, for which the user has another.
            del self.replaced[torch_collate.collate_numpy_array_fn]

    @functools.cached_property
    def collates_as_torch(self) -> bool:
        """Return whether no kernel of the user's is for what can be gathered."""
        return Tensor in self.registry and all(
            kernel in _REPLACED or not any(issubclass(kind, key) for kind in _GATHERED)
            for key, kernel in self.registry.items()
        )

    @functools.cached_property
    def has_users_kernels(self) -> bool:
        """Return whether there is code of the user's that might keep what it gets."""
        torchs = {*_REPLACED, torch_collate.collate_str_fn}
        return not torchs.issuperset(self.registry.values())


def read_registry() -> RegistrySnapshot:
    """Return what torch's registry says now, read anew only if it has changed."""
    global _reading  # noqa: PLW0603  (replaced as a whole, so that threads agree)
    reading = _reading
    if reading.registry != torch_collate.default_collate_fn_map:
        reading = _reading = RegistrySnapshot()
    return reading


@functools.cache
def _warn_of_lost_mask() -> None:
    """Warn once in a process that masks are lost, of which torch's collate says nothing."""
    warnings.warn(
        "default_collate makes plain tensors of masked arrays, as torch's does: the masks are "
        "lost, and masked elements become ordinary numbers. Use array.filled(value) in the "
        "dataset, or return the mask as an array of its own.",
        UserWarning,
        stacklevel=2,
    )


JOIN_BYTES = 2048
"""For samples up to this size, joining the bytes of all beats ``np.stack``."""


def _is_viewable(array: npt.NDArray[Any]) -> bool:
    """Return whether torch can view an array: no step goes backwards or is a part of an element."""
    return all(stride >= 0 and stride % array.itemsize == 0 for stride in array.strides)


def collate_tensors_privately(
    batch: Sequence[Tensor], *, collate_fn_map: Registry | None = None
) -> Any:
    """Stack tensors as torch's kernel does in a worker, but into ordinary memory.

    torch's own makes a shared-memory file for each result, which our workers have no use for:
    what a user's collate function returns is copied into the slot.
    """
    first = batch[0]
    if first.layout is not torch.strided or first.is_nested:
        return torch_collate.collate_tensor_fn(list(batch), collate_fn_map=collate_fn_map)
    if first.is_quantized:  # an output would need the quantizer of the result
        return torch.stack(tuple(batch), 0)
    return torch.stack(tuple(batch), 0, out=first.new_empty((len(batch), *first.shape)))


_REPLACED: dict[Kernel, str] = {
    torch_collate.collate_tensor_fn: "tensors",
    collate_tensors_privately: "tensors",
    torch_collate.collate_numpy_array_fn: "arrays",
    torch_collate.collate_numpy_scalar_fn: "numpy_scalars",
    torch_collate.collate_float_fn: "floats",
    torch_collate.collate_int_fn: "ints",
}

_WALKED: dict[type, str] = {
    tuple: "sequences",
    list: "sequences",
    dict: "dicts",
    OrderedDict: "copied_dicts",
    defaultdict: "copied_dicts",
}
"""Lists containers that run no code of a user's, and the method that walks each."""

_GATHERED = (Tensor, np.ndarray, *(dtype.type for dtype in TORCH_DTYPES))
"""Lists the types of samples that can be gathered without being made."""

_reading = RegistrySnapshot()
