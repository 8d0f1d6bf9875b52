"""The arguments with which another loader like a given one is made.

Runs in: consumer.
Takes: a loader and the arguments that are to differ.
Gives: all arguments of the loader's class, for the other loader.

The arguments are read from the loader's attributes, as they are now: what was set after the
loader was made counts. Which samples come in which batch is said by arguments that exclude one
another; those that follow from others are left out.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch.utils.data
from torch.utils.data import IterableDataset

from fastload._epoch.loader import Loader
from fastload.collate import default_collate, default_convert

_ORDER = {"batch_size", "shuffle", "sampler", "batch_sampler", "drop_last"}
_OF_WORKERS = {
    "timeout": 0,
    "multiprocessing_context": None,
    "prefetch_factor": None,
    "persistent_workers": False,
}


def arguments_for(loader: Loader, changes: dict[str, Any]) -> dict[str, Any]:
    """The arguments that make a loader like this one but for ``changes``."""
    kept = {
        name: getattr(loader, name)
        for name in _parameters(type(loader)) - _ORDER
        if hasattr(loader, name)
    }
    if kept["collate_fn"] is (default_collate if loader._auto_collation else default_convert):
        del kept["collate_fn"]  # which of the two it is follows from batch_size
    if changes.get("num_workers") == 0:
        kept.update(_OF_WORKERS)
    return {**kept, **_order_of(loader, changes), **changes}


def _order_of(loader: Loader, changes: dict[str, Any]) -> dict[str, Any]:
    """Which samples, and how many a batch; without what ``changes`` say instead."""
    if changes.get("batch_sampler") is not None:
        return {}
    has_own_batches = loader.batch_size is None and loader.batch_sampler is not None
    if has_own_batches:
        return {} if "batch_sampler" in changes else {"batch_sampler": loader.batch_sampler}
    batches = {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
    is_stream = isinstance(changes.get("dataset", loader.dataset), IterableDataset)
    if is_stream or "sampler" in changes or "shuffle" in changes:
        return batches
    # Trainers put another sampler into a batch sampler that exists.
    sampler = getattr(loader.batch_sampler, "sampler", loader.sampler)
    if loader._own_order is not None and sampler is loader.sampler:
        return {**batches, "shuffle": loader._own_order}
    return {**batches, "sampler": sampler}


def _parameters(loader_class: type) -> set[str]:
    """Names of the arguments of a loader class; ``**kwargs`` are taken to reach torch's."""
    found: set[str] = set()
    for each in loader_class.__mro__:
        if "__init__" not in vars(each):
            continue
        parameters = inspect.signature(vars(each)["__init__"]).parameters.values()
        found |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if each is torch.utils.data.DataLoader or not any(
            p.kind is p.VAR_KEYWORD for p in parameters
        ):
            break
    return found - {"self"}
