"""Call a loader's collate function so that the batch lies where it is to lie.

Runs in: worker (consumer with ``num_workers=0``).
Takes: a loader's ``collate_fn``.
Gives: a function of samples and a place (a slot of the arena, or the heap). The default collate and
ours write into the place; what any other function returns is copied there afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils.data import default_collate, default_convert

from fastload._memory.write import HEAP, Place
from fastload._torch_private import collate_module as torch_collate
from fastload._torch_private import dispatch_modes, only_mode_is_cpu_device, tensor_modes
from fastload.collate.kernels import (
    TORCH_DTYPES,
    Kernels,
    Registry,
    collate_tensors_privately,
    read_registry,
)
from fastload.collate.placed import as_placed

__all__ = [
    "TORCH_DTYPES",
    "Collate",
    "Registry",
    "collate_column",
    "collate_in_place",
    "collates_as_torch",
    "convert",
    "is_cpu_default",
    "keep_results_private",
    "keeps_no_sample",
    "make_collate",
    "registry_for",
]

Collate = Callable[[Any, Place], Any]


def make_collate(collate_fn: Callable[[Any], Any]) -> Collate:
    """Return how a loader with this ``collate_fn`` collates: the default one and ours in place."""
    if collate_fn is default_collate:
        return collate_in_place
    placed = as_placed(collate_fn)
    if placed is not None:
        return placed.into
    if collate_fn is default_convert:
        return convert
    return lambda samples, _place: collate_fn(samples)


def keeps_no_sample(collate_fn: Callable[[Any], Any]) -> bool:
    """Whether nothing keeps a sample's memory once the batch is written.

    So it is with the default collate and ours, unless the user has added functions to torch's
    registry, to which the default one gives samples.
    """
    is_known = collate_fn is default_collate or as_placed(collate_fn) is not None
    return is_known and not read_registry().has_users_kernels


def convert(sample: Any, _place: Place) -> Any:
    """Turn arrays of a sample into tensors, as a loader does that makes no batches."""
    return default_convert(sample)  # type: ignore[no-untyped-call]


def collate_in_place(samples: Any, place: Place) -> Any:
    """Collate as torch's ``default_collate`` does, into ``place``.

    What lies there need not be a tensor: nobody must look at the batch before it is written.
    """
    if type(samples) is not list or dispatch_modes() or (place is HEAP and not is_cpu_default()):
        return default_collate(samples)
    return Kernels(place).collate(samples)


def collate_column(values: Any, place: Place) -> Any:
    """Collate a part of a batch, which other code of ours will look at, to tensors in any case."""
    return Kernels(place, must_be_tensor=True).collate(values)


def registry_for(place: Place) -> Registry:
    """Return torch's registry, as the user extended it, with our kernels for torch's own."""
    return Kernels(
        HEAP if read_registry().has_users_kernels else place, must_be_tensor=True
    ).kernels


def is_cpu_default() -> bool:
    """Return whether new tensors are real, and lie on the CPU unless somebody says otherwise."""
    return not tensor_modes() or only_mode_is_cpu_device()


def collates_as_torch() -> bool:
    """Return whether the default collate treats tensors, arrays and numbers in torch's way.

    A user may have registered something else for them in torch's registry.
    """
    return read_registry().collates_as_torch


def keep_results_private() -> None:
    """Let a ``default_collate`` inside the user's own code use ordinary memory, in a worker."""
    registry = torch_collate.default_collate_fn_map
    if registry.get(Tensor) is torch_collate.collate_tensor_fn:
        registry[Tensor] = collate_tensors_privately
