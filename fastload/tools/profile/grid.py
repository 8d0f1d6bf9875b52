"""Predict every setting, run the best for real, recommend one that ran.

Runs in: consumer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import psutil

from fastload.tools.profile.contest import Contender, Showing, compete
from fastload.tools.profile.judge import find_costs
from fastload.tools.profile.load import Measured
from fastload.tools.profile.plan import Plan
from fastload.tools.profile.rebuild import is_stream, kind_of
from fastload.tools.profile.replay import Load, replay
from fastload.tools.profile.report import (
    LEAST_GAIN,
    Prediction,
    Schedule,
    Setting,
    Verification,
)
from fastload.tools.profile.schedules import find_schedules

NEAR_BEST = 0.97
"""A setting that reaches this part of the best throughput is as good."""

AS_GOOD = 0.999
"""Predictions that differ by less differ by rounding."""


def predict(plan: Plan, measured: Measured, load: Load) -> tuple[Prediction, ...]:
    """Replay the load at every setting that may be of use."""
    free_bytes = psutil.virtual_memory().available
    found = []
    for setting in _settings(plan, measured, load):
        outcome = replay(load, setting)
        memory = _memory_bytes(setting, measured)
        found.append(
            Prediction(
                setting,
                outcome.samples_per_s,
                outcome.stall_share,
                memory,
                outcome.cpu_share,
                memory < 0.8 * free_bytes,
            )
        )
    return tuple(found)


def _settings(plan: Plan, measured: Measured, load: Load) -> list[Setting]:
    """Return the grid; a stream keeps its workers, whose number may decide what it yields."""
    own, cores = measured.own.setting, math.ceil(plan.cores.usable)
    ahead = sorted({1, 2, 4, 8, own.prefetch_factor} - {0})
    if is_stream(plan.loader):
        numbers = [own.num_workers] if own.num_workers > 1 else [0, 1]
        numbers = [n for n in numbers if n == 0 or measured.alone is not None]
    else:
        cpu, wait = float(load.cpu_s.mean()), float(load.wait_s.mean())
        most = 2 * cores if cpu > wait else min(64, 8 * cores)
        if measured.alone is not None:  # starting them, by spawn perhaps, is no part of the budget
            in_time = plan.budget_s / max(measured.alone.startup_s, 1e-3)
            most = min(most, max(cores, int(in_time)))
        some = (*range(5), 6, 8, 12, 16, 24, 32, 48, 64)
        numbers = sorted({own.num_workers, *(n for n in some if n <= most)})
    usual = _points(numbers, ahead, own.schedule)
    if kind_of(plan.loader) == "torch":
        return usual
    is_handing_off = find_costs(measured).largest == "hand-off"
    others = find_schedules(plan.loader, own.schedule, load, is_handing_off=is_handing_off)
    factor = own.prefetch_factor or 2
    return usual + [
        setting
        for each in others
        for setting in _points(numbers, [factor], each)
        if setting.num_workers >= _least_workers(each, own.schedule)
    ]


def _points(numbers: list[int], ahead: list[int], schedule: Schedule) -> list[Setting]:
    return [
        Setting(workers, factor if workers else 0, schedule)
        for workers in numbers
        for factor in (ahead if workers else [0])
    ]


def _least_workers(schedule: Schedule, own: Schedule) -> int:
    """Return the number of workers with which a schedule is another one than the loader's own."""
    if schedule.workers_per_batch != own.workers_per_batch:
        return 2
    return 1 if schedule.worker_method != own.worker_method else 0


def _memory_bytes(setting: Setting, measured: Measured) -> int:
    worker_bytes = max(measured.own.worker_bytes, measured.clean.worker_bytes)
    if setting.schedule.worker_method == "thread":
        worker_bytes = 0
    in_flight = setting.num_workers * setting.prefetch_factor + 2
    return setting.num_workers * worker_bytes + in_flight * measured.batch_bytes


@dataclass(frozen=True)
class Verified:
    """Settings that were run for real, and what our class gains where the loader is torch's."""

    settings: tuple[Verification, ...]
    as_fastload: Showing | None


def verify(plan: Plan, measured: Measured, load: Load, grid: tuple[Prediction, ...]) -> Verified:
    """Run the loader's own setting, the smallest good one and the best one, in turn.

    And, of our loader, the best one with another schedule.
    """
    own, kind = measured.own.setting, kind_of(plan.loader)
    by_setting = {each.setting: each for each in grid}
    chosen = _chosen(grid, own, math.ceil(plan.cores.usable))
    contenders = [Contender(kind, each) for each in dict.fromkeys((own, *chosen))]
    ours = Contender("fastload", own)
    if kind != "fastload":
        contenders.append(ours)
    startup_s = max(measured.own.startup_s, measured.clean.startup_s)
    has_stragglers = load.is_slow is not None and bool(load.is_slow.any())
    showings = compete(plan, contenders, startup_s, has_stragglers=has_stragglers)
    as_fastload = showings.pop(ours, None) if kind != "fastload" else None
    first = showings.get(contenders[0], Showing((), (1.0,)))
    # What the loader itself gave before counts for it too.
    showings[contenders[0]] = Showing((measured.own, *first.trials), first.gains)
    before = by_setting[own].samples_per_s
    ran = [each for each in contenders if each in showings]
    return Verified(
        tuple(_verification(by_setting[each.setting], before, showings[each]) for each in ran),
        as_fastload,
    )


def _chosen(grid: tuple[Prediction, ...], own: Setting, most_workers: int) -> list[Setting]:
    """Return the settings to run: the best of another schedule first, if it may be a gain.

    Other schedules are there to need fewer workers: they are run with no more than as many as the
    loader has, or ``most_workers``.
    """
    possible = [each for each in grid if each.is_possible] or list(grid)
    usual = [each for each in possible if each.setting.schedule == own.schedule] or possible
    best = _smallest_good(usual, AS_GOOD)
    chosen = [_smallest_good(usual, NEAR_BEST), best]
    if len(set(chosen)) == 1 and len(usual) > 1:
        chosen.append(_smallest_good([p for p in usual if p.setting != best], AS_GOOD))
    before = next(each.samples_per_s for each in grid if each.setting == own)
    others = [
        each
        for each in possible
        if each.setting.schedule != own.schedule
        and each.setting.num_workers <= max(own.num_workers, most_workers)
        and each.samples_per_s >= LEAST_GAIN * before
    ]
    return [_smallest_good(others, NEAR_BEST), *chosen] if others else chosen


def _verification(predicted: Prediction, before: float, showing: Showing) -> Verification:
    return Verification(
        predicted.setting,
        predicted.samples_per_s,
        showing.samples_per_s,
        predicted.stall_share,
        showing.stall_share,
        sum(len(rows) for trial in showing.trials for rows in trial.epochs),
        predicted.samples_per_s / before,
        showing.gain,
        showing.least_gain,
    )


def _smallest_good(predictions: list[Prediction], part: float) -> Setting:
    best = max(each.samples_per_s for each in predictions)
    return min(each.setting for each in predictions if each.samples_per_s >= part * best)


def recommend(verified: tuple[Verification, ...]) -> Setting:
    """Return the smallest setting that is sure to be faster, else one sure to be no slower.

    The first is the loader's own setting, which therefore stays where nothing is sure.
    """
    faster = [each for each in verified if each.is_gain]
    if faster:
        best = max(each.gain for each in faster)
        return min(each.setting for each in faster if each.gain >= NEAR_BEST * best)
    return min(each.setting for each in verified if each.least_gain >= NEAR_BEST)
