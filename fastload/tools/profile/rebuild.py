"""Make a loader again with another number of workers.

Runs in: consumer.
Takes: a loader of either kind.
Gives: a new one over the same dataset and sampler.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch.utils.data

import fastload
from fastload.tools.profile.report import Setting


def kind_of(loader: Any) -> str:
    """Return whose class a loader is of: "fastload" or "torch"."""
    return "fastload" if isinstance(loader, fastload.DataLoader) else "torch"


def setting_of(loader: Any) -> Setting:
    """Return the number of workers and the prefetch factor that a loader was made with."""
    workers = int(loader.num_workers)
    return Setting(workers, int(loader.prefetch_factor or 2) if workers else 0)


def is_stream(loader: Any) -> bool:
    """Tell whether a dataset is iterable-style: more workers may then mean other samples."""
    return isinstance(loader.dataset, torch.utils.data.IterableDataset)


def rebuild(loader: Any, setting: Setting, kind: str, **changes: Any) -> Any:
    """Make a loader of ``kind`` over the same dataset, whose workers stay between epochs."""
    options: dict[str, Any] = {
        "dataset": loader.dataset,
        "collate_fn": loader.collate_fn,
        "pin_memory": loader.pin_memory,
        "timeout": loader.timeout if setting.num_workers else 0,
        "worker_init_fn": loader.worker_init_fn,
        "generator": loader.generator,
        "in_order": getattr(loader, "in_order", True),
        "num_workers": setting.num_workers,
    }
    if setting.num_workers:
        options |= {
            "prefetch_factor": setting.prefetch_factor,
            "persistent_workers": True,
            "multiprocessing_context": loader.multiprocessing_context,
        }
    if is_stream(loader):
        options |= {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
    elif loader.batch_sampler is not None:
        options["batch_sampler"] = loader.batch_sampler
    else:
        options |= {"batch_size": None, "sampler": loader.sampler}
    if kind == "fastload":
        options["memory_limit"] = getattr(loader, "memory_limit", None)
    make: Any = fastload.DataLoader if kind == "fastload" else torch.utils.data.DataLoader
    with many_workers_allowed():
        return make(**{**options, **changes})


@contextlib.contextmanager
def many_workers_allowed() -> Iterator[None]:
    """Silence torch's warning of more workers than cores: they are tried on purpose."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create .* worker processes")
        yield
