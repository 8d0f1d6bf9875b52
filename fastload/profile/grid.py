"""Predict every setting, run the best for real, recommend one that ran.

Runs in: consumer.
"""

from __future__ import annotations

import math

import psutil

from fastload.profile.load import Measured
from fastload.profile.plan import Plan
from fastload.profile.rebuild import is_stream
from fastload.profile.replay import Load, replay
from fastload.profile.report import Prediction, Setting, Verification

NEAR_BEST = 0.97
"""A setting that reaches this part of the best throughput is as good."""


def predict(plan: Plan, measured: Measured, load: Load) -> tuple[Prediction, ...]:
    """What replaying the load gives at every setting worth a thought."""
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
    """The grid; a stream keeps its number of workers, which may decide what it yields."""
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
    return [
        Setting(workers, factor if workers else 0)
        for workers in numbers
        for factor in (ahead if workers else [0])
    ]


def _memory_bytes(setting: Setting, measured: Measured) -> int:
    worker_bytes = max(measured.own.worker_bytes, measured.clean.worker_bytes)
    in_flight = setting.num_workers * setting.prefetch_factor + 2
    return setting.num_workers * worker_bytes + in_flight * measured.batch_bytes


def verify(
    plan: Plan, measured: Measured, grid: tuple[Prediction, ...]
) -> tuple[Verification, ...]:
    """Run the smallest good setting and the best one; the loader's own was run already."""
    own = measured.own
    ranked = sorted(
        (each for each in grid if each.is_possible), key=lambda each: -each.samples_per_s
    )
    chosen = [_smallest_good(ranked), *(each.setting for each in ranked[:1])]
    if len(ranked) > 1 and len(set(chosen)) == 1:
        chosen.append(ranked[1].setting)
    trials = {own.setting: own}
    for setting in dict.fromkeys(chosen):
        if setting not in trials:
            trials[setting] = plan.trial(setting, 1.4, plan.step)
    by_setting = {each.setting: each for each in grid}
    return tuple(
        Verification(
            setting,
            by_setting[setting].samples_per_s,
            trial.samples_per_s,
            by_setting[setting].stall_share,
            trial.stall_share,
            sum(map(len, trial.epochs)),
        )
        for setting, trial in trials.items()
        if setting in by_setting
    )


def _smallest_good(ranked: list[Prediction]) -> Setting:
    best = ranked[0].samples_per_s
    return min(each.setting for each in ranked if each.samples_per_s >= NEAR_BEST * best)


def recommend(grid: tuple[Prediction, ...], verified: tuple[Verification, ...]) -> Setting:
    """The smallest of those that ran within 3 % of the fastest run: what ran counts."""
    if not verified:
        return _smallest_good(sorted(grid, key=lambda each: -each.samples_per_s))
    best = max(each.measured_samples_per_s for each in verified)
    return min(each.setting for each in verified if each.measured_samples_per_s >= NEAR_BEST * best)
