"""torch's default collate, computed straight into the place where the batch will lie.

Runs in: worker (consumer with ``num_workers=0``).
Takes: a list of samples and a place (a slot of the arena, or the heap).
Gives: what ``torch.utils.data.default_collate`` gives for these samples.

Only the kernels for tensors, arrays and numbers are ours, and the walk over Python's own
containers, which in torch's ``collate`` costs more than small batches do. Every other container is
left to torch's walk, with our kernels in a copy of torch's registry. So every type rule and error
is torch's, and a registry that the user extended keeps its entries. A kernel that does not see
exactly the case it is made for (equal shapes, one dtype, plain dense memory) leaves it to torch's.
Code of the user's (kernels, containers) gets private memory, because it might keep it.
"""

from __future__ import annotations

import copy
import functools
import struct
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import default_collate, default_convert

from fastload._memory.layout import Shape
from fastload._memory.write import HEAP, Place, fill, is_plain
from fastload._torch_private import collate_module as torch_collate
from fastload._torch_private import function_modes
from fastload.collate.placed import as_placed

Collate = Callable[[Any, Place], Any]
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


def make_collate(collate_fn: Callable[[Any], Any]) -> Collate:
    """How a loader with this ``collate_fn`` collates: the default one and ours in place."""
    if collate_fn is default_collate:
        return collate_in_place
    placed = as_placed(collate_fn)
    if placed is not None:
        return placed.into
    if collate_fn is default_convert:
        return convert
    return lambda samples, _place: collate_fn(samples)


def convert(sample: Any, _place: Place) -> Any:
    """What a loader does with a sample when it makes no batches: arrays become tensors."""
    return default_convert(sample)  # type: ignore[no-untyped-call]


def collate_in_place(samples: Any, place: Place) -> Any:
    """Collate as torch's ``default_collate`` does, into ``place``.

    What lies there need not be a tensor: nobody must look at the batch before it is written.
    """
    if type(samples) is not list or (place is HEAP and not is_cpu_default()):
        return default_collate(samples)
    return _Kernels(place).collate(samples)


def collate_column(values: Any, place: Place) -> Any:
    """The same for a part of a batch, which other code of ours will look at."""
    return _Kernels(place, must_be_tensor=True).collate(values)


def registry_for(place: Place) -> Registry:
    """Torch's registry, as the user may have extended it, with our kernels for torch's own."""
    return _Kernels(
        HEAP if _read_registry().has_users_kernels else place, must_be_tensor=True
    ).kernels


def is_cpu_default() -> bool:
    """Whether new tensors lie on the CPU here unless somebody says otherwise."""
    return function_modes() == 0 or torch.get_default_device().type == "cpu"


class _Kernels:
    """One per batch: the kernels that fill ``place``.

    Their results are tensors where anything but our own walk sees them (``must_be_tensor``).
    """

    def __init__(self, place: Place, *, must_be_tensor: bool = False) -> None:
        self._place = place
        self._must_be_tensor = must_be_tensor
        self._on_heap = place is HEAP
        self._reading = _read_registry()
        self._known = self._reading.kernels

    @property
    def kernels(self) -> Registry:
        """Torch's registry with these in the place of torch's own."""
        return {
            kind: getattr(self, self._reading.replaced[kernel])
            if kernel in self._reading.replaced
            else kernel
            for kind, kernel in self._reading.registry.items()
        }

    @functools.cached_property
    def registry(self) -> Registry:
        """For torch's walk, and so for the user's kernels and containers, which may keep a tensor.

        Their results lie in private memory.
        """
        return self.kernels if self._on_heap else _Kernels(HEAP).kernels

    def _filled(self, shape: Shape, dtype: torch.dtype, content: bytes) -> Any:
        if self._must_be_tensor:
            return fill(self._place.tensor(shape, dtype), content)
        return self._place.filled(shape, dtype, content)

    def collate(self, batch: Sequence[Any]) -> Any:
        """As ``torch_collate.collate(batch, collate_fn_map=self.registry)``."""
        first = batch[0]
        kind = type(first)
        name = self._known.get(kind, "")
        if name == "":
            name = self._known[kind] = _name_of_kernel(first)
        if name is not None:
            return getattr(self, name)(batch)
        return torch_collate.collate(batch, collate_fn_map=self.registry)

    def sequences(self, batch: Sequence[Any]) -> Any:
        size = len(batch[0])
        try:
            sizes = list(map(len, batch))
        except TypeError:
            sizes = []
        if sizes.count(size) != len(batch):
            return torch_collate.collate(batch, collate_fn_map=self.registry)  # it raises
        return [self.collate(column) for column in zip(*batch, strict=False)]

    def named_tuples(self, batch: Sequence[Any]) -> Any:
        return type(batch[0])(*map(self.collate, zip(*batch, strict=False)))

    def dicts(self, batch: Sequence[Any]) -> Any:
        return {key: self.collate([sample[key] for sample in batch]) for key in batch[0]}

    def copied_dicts(self, batch: Sequence[Any]) -> Any:
        clone = copy.copy(batch[0])
        clone.update(self.dicts(batch))
        return clone

    def tensors(self, batch: Sequence[Tensor], **_: Any) -> Any:
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
        kinds = set(map(type, batch))
        dtype = TORCH_DTYPES.get(np.dtype(type(batch[0]))) if len(kinds) == 1 else None
        if dtype is None or dtype is torch.uint64:
            return torch_collate.collate_numpy_scalar_fn(batch, collate_fn_map=self.registry)
        return self._filled((len(batch),), dtype, np.array(batch).tobytes())

    def floats(self, batch: Sequence[Any], **_: Any) -> Any:
        if not _all_are(float, map(type, batch)):
            return torch_collate.collate_float_fn(batch, collate_fn_map=self.registry)
        return self._filled((len(batch),), torch.float64, _packing("d", len(batch)).pack(*batch))

    def ints(self, batch: Sequence[Any], **_: Any) -> Any:
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
    """Writes so many numbers; three times as fast as ``array``."""
    return struct.Struct(f"={count}{code}")


def _name_of_kernel(sample: Any) -> str | None:
    """Which method collates samples of this type; None: torch's ``collate`` knows."""
    reading = _read_registry()
    registry = reading.registry
    kind = type(sample)
    keys = [kind] if kind in registry else [key for key in registry if isinstance(sample, key)]
    if keys:
        return reading.replaced.get(registry[keys[0]])
    return "named_tuples" if _is_named_tuple(kind) else _WALKED.get(kind)


def _is_named_tuple(kind: type) -> bool:
    """Whether it is made by ``collections.namedtuple`` and runs no code of a user's."""
    names: dict[str, Any] = getattr(kind.__new__, "__globals__", {})
    return (
        issubclass(kind, tuple)
        and str(names.get("__name__")).startswith("namedtuple_")
        and kind.__init__ is object.__init__
        and type(kind) is type
    )


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
        """Whether no kernel of the user's is for what can be gathered."""
        return Tensor in self.registry and all(
            kernel in _REPLACED or not any(issubclass(kind, key) for kind in _GATHERED)
            for key, kernel in self.registry.items()
        )

    @functools.cached_property
    def has_users_kernels(self) -> bool:
        """Whether there is code of the user's that might keep what it gets."""
        torchs = {*_REPLACED, torch_collate.collate_str_fn}
        return not torchs.issuperset(self.registry.values())


def _read_registry() -> RegistrySnapshot:
    global _reading  # noqa: PLW0603  (replaced as a whole, so that threads agree)
    reading = _reading
    if reading.registry != torch_collate.default_collate_fn_map:
        reading = _reading = RegistrySnapshot()
    return reading


@functools.cache
def _warn_of_lost_mask() -> None:
    """Once a process: torch's collate function, whose results these are, says nothing."""
    warnings.warn(
        "default_collate makes plain tensors of masked arrays, as torch's does: the masks are "
        "lost, and masked elements become ordinary numbers. Use array.filled(value) in the "
        "dataset, or return the mask as an array of its own.",
        UserWarning,
        stacklevel=2,
    )


JOIN_BYTES = 2048
"""Up to this size of a sample, joining the bytes of all beats ``np.stack``."""


def _is_viewable(array: npt.NDArray[Any]) -> bool:
    """Whether torch can view an array: no step backwards, none of a part of an element."""
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


def collates_as_torch() -> bool:
    """Whether the default collate still treats tensors, arrays and numbers in torch's way.

    A user may have registered something else for them in torch's registry.
    """
    return _read_registry().collates_as_torch


def keep_results_private() -> None:
    """In a worker: let a ``default_collate`` inside the user's own code use ordinary memory."""
    registry = torch_collate.default_collate_fn_map
    if registry.get(Tensor) is torch_collate.collate_tensor_fn:
        registry[Tensor] = collate_tensors_privately


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
"""Containers that run no code of a user's."""

_GATHERED = (Tensor, np.ndarray, *(dtype.type for dtype in TORCH_DTYPES))
"""Of what samples can be that are gathered without being made."""

_reading = RegistrySnapshot()
