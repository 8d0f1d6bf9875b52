"""Advise options of fastload's scheduling: what waits at a time, what loads a batch.

Runs in: consumer.
Takes: everything that advice depends on.
Gives: fixes, each with a prediction where it was not run for real.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fastload.tools.profile.rebuild import has_seed, kind_of
from fastload.tools.profile.replay import LONGEST_EPOCH, Load, replay
from fastload.tools.profile.report import Fix, Schedule, Setting
from fastload.tools.profile.schedules import (
    samples_at_a_time,
    why_not_samples,
    why_one_at_a_time,
    why_random,
    why_whole_batches,
)
from fastload.tools.profile.situation import Situation

FIRST_BATCH_SHARE = 0.2
"""The first batch dominates if it takes this part of an epoch."""


def caveats(schedule: Schedule, own: Schedule) -> Iterator[str]:
    """Say what else changes with a schedule that is not the loader's own."""
    if schedule.concurrent_samples > max(1, own.concurrent_samples):
        yield (
            "the first sample drew no random numbers, nor may others; __getitem__ is called from "
            "several threads at a time, or awaited"
        )
    if schedule.workers_per_batch not in (1, own.workers_per_batch):
        yield "samples are pickled on their way to the worker that collates them"
    if schedule.worker_method == "thread" != own.worker_method:
        yield (
            "threads share the dataset and the random generators with the program, and a crash "
            "takes it with them"
        )


def at_a_time(situation: Situation) -> Fix | None:
    """Advise ``concurrent_samples=`` with as many workers as there are, if nothing is against it.

    Nothing where it was run for real: then what was measured decides.
    """
    setting = _at_a_time(situation)
    if setting is None or why_one_at_a_time(situation.loader) is not None:
        return None
    most = setting.schedule.concurrent_samples
    kind = type(situation.loader.dataset).__name__
    reason = f"{kind} is map-style and its first sample drew no random numbers, nor may others"
    return _concurrency_fix(
        situation, setting, f"Let each worker wait for {most} samples at a time", reason
    )


def at_a_time_without_draws(situation: Situation) -> Fix | None:
    """Advise the same of a dataset that draws random numbers, once it no longer does."""
    setting = _at_a_time(situation)
    if setting is None or why_not_samples(situation.loader) is not None:
        return None
    why = why_random(situation.loader)
    if why is None:
        return None
    title = "Make what is random a function of the index, and wait for several samples at a time"
    return _concurrency_fix(situation, setting, title, why)


def _at_a_time(situation: Situation) -> Setting | None:
    own, most = situation.setting, samples_at_a_time(situation.load)
    schedule = replace(own.schedule, concurrent_samples=most)
    if most <= own.schedule.concurrent_samples or own.schedule.worker_method == "thread":
        return None
    return None if situation.was_tried(schedule) else replace(own, schedule=schedule)


def _concurrency_fix(situation: Situation, setting: Setting, title: str, reason: str) -> Fix:
    before, after = _rates(situation.load, situation.setting, setting)
    return Fix(
        title,
        _code(situation, f"concurrent_samples={setting.schedule.concurrent_samples}"),
        after / before,
        "replayed",
        f"{reason}. Predicted with no more workers: {after:,.0f} samples/s, not {before:,.0f}",
    )


def parts(situation: Situation) -> Fix | None:
    """Advise ``workers_per_batch="auto"`` where stragglers or the first batch hold an epoch up."""
    own, loader = situation.setting, situation.loader
    if own.schedule.workers_per_batch != 1 or why_whole_batches(loader) is not None:
        return None
    schedule = replace(own.schedule, is_shared=True, workers_per_batch="auto")
    setting = own if own.num_workers > 1 else situation.recommended
    if setting.num_workers < 2 or situation.was_tried(schedule):
        return None
    is_first = _first_batch_dominates(situation)
    if situation.culprit != "stragglers" and not is_first:
        return None
    load = situation.load
    if is_first:
        load = replace(load, epoch_batches=situation.epoch_batches)
    before, after = _rates(load, setting, replace(setting, schedule=schedule))
    what = "the first batch comes sooner" if is_first else "a slow sample holds up less"
    reason = (
        f"several workers load a batch: {what}. Predicted: {after:,.0f} samples/s, "
        f"not {before:,.0f}"
    )
    if has_seed(loader):
        code = _code(situation, 'workers_per_batch="auto"')
        return Fix("Let several workers load a batch", code, after / before, "replayed", reason)
    return Fix(
        "Give seed=, and let several workers load a batch",
        _code(situation, 'seed=0, workers_per_batch="auto"'),
        after / before,
        "replayed",
        f"{reason}. It needs seed=, with which order and random numbers follow from the seed and "
        f"the place in the epoch: others than now, and the same with any number of workers",
    )


def _first_batch_dominates(situation: Situation) -> bool:
    """Tell whether short epochs begin by waiting for a batch for a good part of their time."""
    load, batches = situation.load, situation.epoch_batches
    is_ready = has_seed(situation.loader) and situation.loader.persistent_workers
    if is_ready or not batches or batches > LONGEST_EPOCH or not situation.samples_per_s:
        return False
    first_s = float((load.wait_s + load.cpu_s).mean())
    return first_s > FIRST_BATCH_SHARE * batches * load.samples / situation.samples_per_s


def _rates(load: Load, own: Setting, other: Setting) -> tuple[float, float]:
    return replay(load, own).samples_per_s, replay(load, other).samples_per_s


def _code(situation: Situation, arguments: str) -> str:
    is_ours = kind_of(situation.loader) == "fastload"
    return f"{'DataLoader' if is_ours else 'fastload.DataLoader'}(..., {arguments})"
