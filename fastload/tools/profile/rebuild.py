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
from fastload._arguments import arguments_for
from fastload.tools.profile.report import PLAIN, Schedule, Setting


def kind_of(loader: Any) -> str:
    """Return whose class a loader is of: "fastload" or "torch"."""
    return "fastload" if isinstance(loader, fastload.DataLoader) else "torch"


def setting_of(loader: Any) -> Setting:
    """Return the setting that a loader was made with."""
    workers = int(loader.num_workers)
    return Setting(workers, int(loader.prefetch_factor or 2) if workers else 0, _schedule(loader))


def _schedule(loader: Any) -> Schedule:
    if kind_of(loader) == "torch":
        return PLAIN
    return Schedule(
        is_shared=loader.worker_method == "process" and has_seed(loader) and not is_stream(loader),
        workers_per_batch=loader.workers_per_batch,
        concurrent_samples=loader.concurrent_samples,
        worker_method=loader.worker_method,
    )


def has_seed(loader: Any) -> bool:
    """Tell whether a loader was made with ``seed=``."""
    return getattr(loader, "_stream_seed", None) is not None


def loads_next_epoch(loader: Any) -> bool:
    """Tell whether trials begin the next epoch before this one has ended.

    With ``seed=``, an order that the loader makes itself, and workers that stay, as in all trials.
    """
    return has_seed(loader) and loader._own_order is not None and bool(loader.num_workers)


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
        options |= _of_schedule(setting)
    if kind_of(loader) == kind == "fastload":
        options |= _of_ours(loader)
        if has_seed(loader):
            options = _with_seed(loader, options)
    make: Any = fastload.DataLoader if kind == "fastload" else torch.utils.data.DataLoader
    with many_workers_allowed():
        return make(**{**options, **changes})


def _of_schedule(setting: Setting) -> dict[str, Any]:
    schedule = setting.schedule
    options: dict[str, Any] = {
        "worker_method": schedule.worker_method,
        "concurrent_samples": schedule.concurrent_samples,
        "workers_per_batch": schedule.workers_per_batch,
    }
    if schedule.worker_method == "thread":
        options["multiprocessing_context"] = None
    wanted = schedule.workers_per_batch
    if wanted != "auto" and wanted > setting.num_workers:
        options["workers_per_batch"] = 1  # so many do not load: the loader would refuse it
    return options


def _of_ours(loader: Any) -> dict[str, Any]:
    """Return what only our loader has and what does not depend on the setting."""
    return {name: getattr(loader, name) for name in ("memory_limit", "on_error", "max_errors")}


def _with_seed(loader: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Return options that say order and random numbers as the loader with ``seed=`` does."""
    names = ("batch_size", "shuffle", "sampler", "batch_sampler", "drop_last")
    kept = {name: value for name, value in options.items() if name not in names}
    order = {name: value for name, value in arguments_for(loader, {}).items() if name in names}
    of_seed = {name: getattr(loader, name) for name in ("num_replicas", "rank", "even", "redo")}
    return {**kept, **order, **of_seed, "seed": loader._stream_seed}


@contextlib.contextmanager
def many_workers_allowed() -> Iterator[None]:
    """Silence torch's warning of more workers than cores: they are tried on purpose."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create .* worker processes")
        yield
