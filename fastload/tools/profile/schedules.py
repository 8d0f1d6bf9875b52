"""Find the options of fastload's scheduling that may help a load, and what stands against them.

Runs in: consumer.
Takes: a loader and its load.
Gives: schedules to predict and to try; reasons in words.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from torch.utils.data import Subset

from fastload._loading.concurrent import awaits_batches, awaits_samples
from fastload._seeded.undrawn import FirstDraws
from fastload.tools.profile.rebuild import has_seed, is_stream
from fastload.tools.profile.replay import Load
from fastload.tools.profile.report import Schedule
from fastload.tools.profile.spread import HANDING_S

MOST_AT_A_TIME = 64


def find_schedules(
    loader: Any, own: Schedule, load: Load, *, is_handing_off: bool
) -> list[Schedule]:
    """Return other schedules of our loader that may be faster than its own.

    Args:
        loader: Ours.
        own: Its schedule.
        load: Its load.
        is_handing_off: Whether handing batches over costs most.
    """
    found = []
    most = samples_at_a_time(load)
    if most > 1 and own.worker_method == "process" and why_one_at_a_time(loader) is None:
        found.append(replace(own, concurrent_samples=most))
    if own.is_shared and why_whole_batches(loader) is None:
        found.append(replace(own, workers_per_batch="auto"))
    if is_handing_off and may_use_threads(loader):
        found.append(replace(own, worker_method="thread", is_shared=False))
    return [each for each in dict.fromkeys(found) if each != own]


def samples_at_a_time(load: Load) -> int:
    """Return how many samples are to wait at a time for one to compute: a power of two, to 64.

    No more than a batch has, and 1 where samples compute for longer than they wait.
    """
    samples = max(1.0, load.samples)
    wait_s = float(load.wait_s.mean()) / samples
    cpu_s = float(load.cpu_s.mean()) * load.samples_share / samples
    ratio = min(wait_s / (cpu_s + HANDING_S), MOST_AT_A_TIME, samples)
    return int(2 ** round(math.log2(max(ratio, 1.0))))


def why_one_at_a_time(loader: Any) -> str | None:
    """Say why a loader's samples can't load at a time; None if nothing stands against it.

    The first sample is loaded once, to see what it draws; one that is awaited is not.
    """
    why = why_not_samples(loader)
    return why_random(loader) if why is None and not awaits_samples(loader.dataset) else why


def why_not_samples(loader: Any) -> str | None:
    """Say why a loader does not load several samples for a batch; None if it does."""
    dataset = loader.dataset
    if is_stream(loader):
        return f"{type(dataset).__name__} is iterable: its samples come one after another"
    if loader.batch_size is None and loader.batch_sampler is None:
        return "with batch_size=None there is one sample to load"
    if awaits_batches(dataset) or _loads_groups(dataset):
        return f"{type(dataset).__name__} loads a batch in one call of __getitems__"
    return None


def _loads_groups(dataset: Any) -> bool:
    """Tell whether a dataset has a ``__getitems__`` of its own, not only because it is a subset."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return bool(getattr(dataset, "__getitems__", None))


def why_random(loader: Any) -> str | None:
    """Load the first sample and say what it drew from; None if from nothing.

    None too for what has no first sample, or one that can't be loaded.
    """
    if is_stream(loader):
        return None
    batches = iter(loader.batch_sampler if loader.batch_sampler is not None else loader.sampler)
    first = next(batches, None)
    if not isinstance(first, list | tuple) or not first:
        return None
    try:
        check = FirstDraws(loader.dataset, 2, is_seeded=has_seed(loader), is_async=False)
        check.begin()
        loader.dataset[first[0]]
        check.end([first[0]])
    except ValueError as error:
        return str(error)
    except Exception:  # noqa: BLE001  (the trials meet it too, and it is no question of draws)
        return None
    return None


def why_whole_batches(loader: Any) -> str | None:
    """Say why a loader's batches can't be cut; None if they can, with a seed if it has none."""
    if is_stream(loader):
        return f"{type(loader.dataset).__name__} is iterable: its samples come one after another"
    if loader.batch_size is None and loader.batch_sampler is None:
        return "with batch_size=None a batch is one sample"
    if getattr(loader, "worker_method", "process") == "thread":
        return "threads load whole batches"
    if has_seed(loader):
        return None
    if loader.generator is not None or not getattr(loader, "in_order", True):
        return "seed= excludes generator= and in_order=False"
    return None


def may_use_threads(loader: Any) -> bool:
    """Whether nothing that a loader has excludes threads as workers."""
    return (
        not is_stream(loader)
        and not (awaits_samples(loader.dataset) or awaits_batches(loader.dataset))
        and loader.concurrent_samples == 1
        and loader.workers_per_batch in (1, "auto")
        and loader.max_worker_restarts == 0
    )
