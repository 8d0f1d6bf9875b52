"""What an epoch's batches depend on besides random numbers: written into a state, compared with it.

Runs in: consumer.
Takes: a loader.
Gives: its settings as plain values; and in what two sets of settings differ, in words.

A number of delivered batches means something only together with the settings that say which samples
come in which batch. What is compared: how the dataset is read, the size of batches, the samplers,
the number of ranks, and, of a stream, the number of workers that read it. What moves from epoch to
epoch, such as the epoch itself, is no setting. Neither is the rank: all ranks of a job take the
same steps, and trainers save the state of the first one for all of them.
"""

from __future__ import annotations

import inspect
import numbers
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, IterableDataset

from fastload._epoch.loader import Loader
from fastload._system.interruptions import own_suppressed
from fastload.samplers.epochs import EpochSampler, nested

_OPTIONS = (
    "num_replicas",
    "num_processes",
    "world_size",
    "seed",
    "shuffle",
    "batch_size",
    "drop_last",
    "buffer_rows",
    "num_samples",
    "replacement",
    "even",
    "even_batches",
    "split",
    "split_batches",
)
"""Attributes that say the order of samplers and streams, torch's, Accelerate's and others'."""

_CONTENTS = ("indices", "weights", "lengths", "block_lengths")
"""Attributes of torch's samplers and ours that hold a value for each sample."""

_LOOKED_AT = 64
"""Values of a long sequence that are looked at; with its length they tell two of them apart."""


def length_of(loader: Loader) -> int | None:
    """Number of samples; None for a stream, whose length may be an estimate, or of one epoch."""
    if isinstance(loader.dataset, IterableDataset):
        return None
    try:
        return len(loader.dataset)
    except (TypeError, NotImplementedError):
        return None


def keeps_order(loader: Loader) -> bool:
    """Whether batches come in the sampler's order."""
    return bool(loader.in_order or loader.num_workers == 0)


def workers_of(loader: Loader) -> int:
    """How many workers read the dataset in an epoch that begins now."""
    tuner = loader._live.tuner_of(loader)
    is_open = tuner is not None and not tuner.is_settled
    return int(tuner.choice.workers if is_open else loader.num_workers)


def settings_of(loader: Loader, workers: int) -> dict[str, Any]:
    """The settings of an epoch that so many workers read, as plain values."""
    samplers = nested(loader._index_sampler)
    is_stream = isinstance(loader.dataset, IterableDataset)
    options: dict[str, Any] = {}
    for sampler in samplers:
        # The size of the loader's own batches is the loader's setting.
        if not (type(sampler) is BatchSampler and loader.batch_size is not None):
            name = type(sampler).__name__
            options.update((f"{name}.{key}", value) for key, value in _sampler_options(sampler))
    return {
        "batch_size": loader.batch_size,
        "drop_last": bool(loader.drop_last),
        "sampler": " of ".join(type(sampler).__name__ for sampler in samplers),
        "sampler_options": options,
        "dataset_options": dict(_options(loader.dataset, _OPTIONS)) if is_stream else {},
        "num_workers": workers if is_stream else None,
    }


def differences(
    saved: dict[str, Any], here: dict[str, Any], *, is_replayed: bool
) -> list[tuple[str, Any, Any]]:
    """Name, saved value and value here of each setting that differs.

    ``is_replayed`` says that a stream is read again, so that its own options matter; otherwise it
    judges a state by itself.
    """
    found = [
        (name, saved[name], here[name])
        for name in ("batch_size", "drop_last", "sampler")
        if saved[name] != here[name]
    ]
    before, now = saved["num_workers"], here["num_workers"]
    if (before or 1) != (now or 1):  # one worker reads what the program itself would
        found.append(("num_workers", before, now))
    groups = {"sampler_options"} if saved["sampler"] == here["sampler"] else set()
    groups |= {"dataset_options"} if is_replayed else set()
    for group in sorted(groups):
        prefix = "dataset." if group == "dataset_options" else ""
        for name in saved[group].keys() | here[group].keys():
            pair = saved[group].get(name), here[group].get(name)
            if pair[0] != pair[1]:
                found.append((f"{prefix}{name}", *pair))
    return sorted(found)


def _sampler_options(sampler: Any) -> Iterator[tuple[str, Any]]:
    kind = type(sampler)
    if kind in (list, tuple, range, np.ndarray, torch.Tensor):
        yield "values", _digest(sampler)
        return
    names = list(_OPTIONS)
    if isinstance(sampler, EpochSampler):
        names += [name for name in inspect.signature(kind).parameters if name != "rank"]
    yield from _options(sampler, names)
    if kind.__module__.startswith(("torch.", "fastload.")):
        for name in _CONTENTS:
            if hasattr(sampler, name):
                yield name, _digest(getattr(sampler, name))
    elif not hasattr(sampler, "set_epoch"):  # others' length may be that of one epoch
        with own_suppressed(Exception):
            yield "length", len(sampler)


def _options(holder: Any, names: Any) -> Iterator[tuple[str, Any]]:
    for name in names:
        value = None
        with own_suppressed(Exception):  # attributes of the user's may be computed
            value = getattr(holder, name)
        if isinstance(value, bool | str):
            yield name, value
        elif isinstance(value, numbers.Integral):
            yield name, int(value)


def _digest(values: Any) -> str | None:
    """What tells one long sequence of numbers from another, in a few microseconds."""
    with own_suppressed(Exception):
        count = len(values)
        some = values[:: max(1, count // _LOOKED_AT)]
        some = some.tolist() if hasattr(some, "tolist") else list(some)
        return f"{count} values, checksum {zlib.crc32(repr(some).encode()):08x}"
    return None
