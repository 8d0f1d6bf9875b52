"""torch's default collate, computed straight into the place where the batch will lie.

Runs in: worker (consumer with ``num_workers=0``).
Takes: a list of samples and a place (a slot of the arena, or the heap).
Gives: what ``torch.utils.data.default_collate`` gives for these samples.

The walk over dicts, lists and tuples is torch's own ``collate``; only the kernels for tensors,
arrays and numbers are ours, registered in a copy of torch's registry. So every type rule and
error is torch's, and a registry that the user extended keeps its entries. A kernel that does not
see exactly the case it is made for (equal shapes, one dtype, plain dense memory) leaves it to
torch's.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import default_collate, default_convert

from fastload.collate.placed import as_placed
from fastload.internals import collate_module as torch_collate
from fastload.memory.write import HEAP, Place, is_plain

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
    """Collate as torch's ``default_collate`` does, into ``place``."""
    return torch_collate.collate(samples, collate_fn_map=registry_for(place))


def registry_for(place: Place) -> Registry:
    """Torch's registry, as the user may have extended it, with our kernels for torch's own."""
    kernels = _Kernels(place)
    ours = {original: getattr(kernels, name) for original, name in _REPLACED.items()}
    return {
        kind: ours.get(kernel, kernel)
        for kind, kernel in torch_collate.default_collate_fn_map.items()
    }


class _Kernels:
    """One per batch: the kernels that fill ``place``."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._on_heap = place is HEAP

    def tensors(self, batch: Sequence[Tensor], *, collate_fn_map: Registry | None = None) -> Any:
        first = batch[0]
        if self._on_heap:
            kernel = torch_collate.default_collate_fn_map[Tensor]  # in a worker: the private one
            return kernel(list(batch), collate_fn_map=collate_fn_map)
        if type(first) is not Tensor or not is_plain(first):
            return collate_tensors_privately(batch, collate_fn_map=collate_fn_map)
        out = self._place.tensor((len(batch), *first.shape), first.dtype)
        return torch.stack(tuple(batch), 0, out=out)

    def arrays(self, batch: Sequence[Any], *, collate_fn_map: Registry | None = None) -> Any:
        first = batch[0]
        # An array of exactly this type is not asked: np.ma takes ten milliseconds to import.
        if type(first) is not np.ndarray and isinstance(first, np.ma.MaskedArray):
            _warn_of_lost_mask()
        # NumPy's second name for uint64 is equal to the first, but torch refuses it.
        dtype = None if first.dtype.char == "Q" else TORCH_DTYPES.get(first.dtype)
        if (
            dtype is None
            or first.nbytes == 0
            or set(map(type, batch)) != {np.ndarray}
            or len(set(map(_shape, batch))) != 1
            or any(sample_dtype != first.dtype for sample_dtype in map(_dtype, batch))
        ):
            return torch_collate.collate_numpy_array_fn(batch, collate_fn_map=collate_fn_map)
        shape = (len(batch), *first.shape)
        if first.nbytes <= JOIN_BYTES:
            with contextlib.suppress(BufferError, TypeError):  # a sample is not contiguous
                rows = b"".join(batch)
                out = self._place.tensor(shape, dtype)
                out.numpy().reshape(-1).view(np.uint8)[:] = np.frombuffer(rows, np.uint8)
                return out
        if not all(map(_is_viewable, batch)):
            return torch_collate.collate_numpy_array_fn(batch, collate_fn_map=collate_fn_map)
        out = self._place.tensor(shape, dtype)
        np.stack(batch, out=out.numpy())
        return out

    def numpy_scalars(self, batch: Sequence[Any], *, collate_fn_map: Registry | None = None) -> Any:
        kinds = set(map(type, batch))
        dtype = TORCH_DTYPES.get(np.dtype(type(batch[0]))) if len(kinds) == 1 else None
        if dtype is None or dtype is torch.uint64:
            return torch_collate.collate_numpy_scalar_fn(batch, collate_fn_map=collate_fn_map)
        return self._fill(batch, dtype)

    def floats(self, batch: Sequence[Any], *, collate_fn_map: Registry | None = None) -> Any:
        if set(map(type, batch)) != {float}:
            return torch_collate.collate_float_fn(batch, collate_fn_map=collate_fn_map)
        return self._fill(batch, torch.float64)

    def ints(self, batch: Sequence[Any], *, collate_fn_map: Registry | None = None) -> Any:
        kinds = set(map(type, batch))
        if kinds == {bool}:
            return self._fill(batch, torch.bool)
        if kinds != {int}:
            return torch_collate.collate_int_fn(batch, collate_fn_map=collate_fn_map)
        try:
            return self._fill(batch, torch.int64)
        except OverflowError:
            return torch_collate.collate_int_fn(batch, collate_fn_map=collate_fn_map)

    def _fill(self, batch: Sequence[Any], dtype: torch.dtype) -> Tensor:
        out = self._place.tensor((len(batch),), dtype)
        out.numpy()[:] = batch
        return out


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
    registry = torch_collate.default_collate_fn_map
    return Tensor in registry and all(
        kernel in _REPLACED or not any(issubclass(kind, key) for kind in _GATHERED)
        for key, kernel in registry.items()
    )


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

_GATHERED = (Tensor, np.ndarray, *(dtype.type for dtype in TORCH_DTYPES))
"""Of what samples can be that are gathered without being made."""
