"""Profile a loader, from the first trial to the report.

Runs in: consumer.
Takes: a loader of either kind and what stands for the training step.
Gives: a ``Profile``.

    without workers ─┐
    with one         ├─▶ load ─▶ replay every setting ─▶ run the best for real ─▶ report
    its own setting ─┤
    as many as cores ┘
"""

from __future__ import annotations

import datetime as dt
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psutil

from fastload.bench.machine import describe_machine
from fastload.cores import Cores, find_cores
from fastload.profile.advice import Situation, make_fixes
from fastload.profile.judge import (
    find_culprit,
    make_breakdown,
    make_resources,
    make_verdict,
)
from fastload.profile.load import Consumer, Measured, make_load
from fastload.profile.rebuild import is_stream, kind_of, setting_of
from fastload.profile.replay import Load, replay
from fastload.profile.report import Place, Prediction, Profile, Setting, Verification
from fastload.profile.timeline import make_slowest, make_spans, make_workers
from fastload.profile.trials import Step, Trial, run_trial
from fastload.tree import has_wide_numbers, size_bytes

NEAR_BEST = 0.97
"""A setting that reaches this part of the best throughput is as good."""

MOST_CACHED, MOST_CACHED_BYTES = 16, 256 << 20
"""Batches that are kept to measure the consumer's step alone."""

BUSY_MACHINE = 0.5
"""Load per core, of others, above which figures are to be mistrusted."""


@dataclass
class Plan:
    """What is profiled, and how long each part may take.

    Attributes:
        loader: Of either kind; it is left alone.
        target: Its name, for the report.
        step: Is called with each batch; None if there is no consumer.
        step_words: What that is.
        budget_s: For everything.
        tell: Is told what happens next.
    """

    loader: Any
    target: str
    step: Step | None = None
    step_words: str = "none: batches are dropped"
    budget_s: float = 20.0
    tell: Callable[[str], None] = lambda _: None
    cores: Cores = field(default_factory=find_cores)

    def trial(self, setting: Setting, parts: float, step: Step | None, **options: Any) -> Trial:
        """Run one, for this many tenths of the budget."""
        kind = options.pop("kind", kind_of(self.loader))
        words = f"{setting.num_workers} workers, prefetch_factor {setting.prefetch_factor}"
        self.tell(f"{kind}: {words}" if setting.num_workers else f"{kind}: without workers")
        return run_trial(
            self.loader, setting, kind, step or _drop, parts * self.budget_s / 10, **options
        )


def profile(plan: Plan) -> Profile:
    """Run everything and say what was found.

    Raises:
        ValueError: The loader gives no batch.
        Exception: Whatever the dataset, the collate function or the step raises.
    """
    started_s = time.monotonic()
    load_before = os.getloadavg()[0]
    cache = _Cache()
    measured = _measure(plan, cache)
    own = measured.own
    load = make_load(measured, plan.cores.usable, load_before)
    culprit = find_culprit(measured, load, own.setting, has_step=plan.step is not None)
    grid = _predict(plan, measured, load)
    verified = _verify(plan, measured, grid)
    recommended = _recommend(grid, verified)
    situation = Situation(
        loader=plan.loader,
        load=load,
        culprit=culprit,
        setting=own.setting,
        samples_per_s=own.samples_per_s,
        step_s=measured.consumer.step_s,
        recommended=recommended,
        verified=verified,
        as_fastload=_as_fastload(plan, own.setting),
        startup_s=own.startup_s,
        epoch_batches=_epoch_batches(plan.loader),
        has_floats=cache.has_wide_numbers,
    )
    return Profile(
        target=plan.target,
        loader=kind_of(plan.loader),  # type: ignore[arg-type]  # one of the two
        created=dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
        place=_place(plan.cores, load_before),
        setting=own.setting,
        batch_size=own.samples_per_batch,
        batch_bytes=measured.batch_bytes,
        step=plan.step_words,
        budget_s=plan.budget_s,
        elapsed_s=time.monotonic() - started_s,
        verdict=make_verdict(measured, culprit, has_step=plan.step is not None),
        breakdown=make_breakdown(own),
        resources=make_resources(measured, load, plan.cores, culprit),
        what_if=grid,
        recommended=recommended,
        verified=verified,
        fixes=make_fixes(situation),
        spans=make_spans(own),
        workers=make_workers(own),
        slowest=make_slowest((measured.clean, own)),
        batches=sum(map(len, own.epochs)),
        warnings=_warnings(plan, own, load, load_before),
    )


def _measure(plan: Plan, cache: _Cache) -> Measured:
    setting = setting_of(plan.loader)
    inline = plan.trial(Setting(0, 0), 0.8, None, keep=cache.add)
    alone = None
    if not is_stream(plan.loader) or setting.num_workers == 1:
        alone = plan.trial(Setting(1, 2), 1.4, None)
    own = plan.trial(setting, 2.0, plan.step)
    crowd = math.ceil(plan.cores.usable)
    crowded: Trial | None = None
    if alone is not None and crowd > 1 and not is_stream(plan.loader):
        crowded = plan.trial(Setting(crowd, 2), 1.0, None)
    plan.tell("the step alone, on batches that were kept")
    consumer = cache.time_step(plan.step, plan.budget_s / 20)
    return Measured(inline, alone, crowded, own, consumer, cache.largest_bytes)


class _Cache:
    """A few batches that are kept, to learn what the consumer's step takes by itself."""

    def __init__(self) -> None:
        self._batches: list[Any] = []
        self._bytes = 0
        self.largest_bytes = 0
        self.has_wide_numbers = False

    def add(self, batch: Any) -> None:
        if len(self._batches) >= MOST_CACHED:
            return
        size = size_bytes(batch)
        self.largest_bytes = max(self.largest_bytes, size)
        self.has_wide_numbers |= has_wide_numbers(batch)
        if not self._batches or self._bytes + size <= MOST_CACHED_BYTES:
            self._batches.append(batch)
            self._bytes += size

    def time_step(self, step: Step | None, seconds: float) -> Consumer:
        if step is None:
            return Consumer(0.0, 0.0)
        step(self._batches[0])
        steps, began_s, cpu_began_s = 0, time.monotonic(), time.process_time()
        while steps < 3 or time.monotonic() - began_s < seconds:
            step(self._batches[steps % len(self._batches)])
            steps += 1
        cpu_s = time.process_time() - cpu_began_s
        return Consumer((time.monotonic() - began_s) / steps, cpu_s / steps)


def _drop(_batch: Any) -> None:
    """The consumer that does nothing."""


def _predict(plan: Plan, measured: Measured, load: Load) -> tuple[Prediction, ...]:
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


def _verify(
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


def _recommend(grid: tuple[Prediction, ...], verified: tuple[Verification, ...]) -> Setting:
    """The smallest of those that ran within 3 % of the fastest run: what ran counts."""
    if not verified:
        return _smallest_good(sorted(grid, key=lambda each: -each.samples_per_s))
    best = max(each.measured_samples_per_s for each in verified)
    return min(each.setting for each in verified if each.measured_samples_per_s >= NEAR_BEST * best)


def _as_fastload(plan: Plan, setting: Setting) -> float | None:
    if kind_of(plan.loader) == "fastload":
        return None
    return plan.trial(setting, 1.0, plan.step, kind="fastload").samples_per_s


def _epoch_batches(loader: Any) -> int | None:
    try:
        return len(loader)
    except TypeError:
        return None


def _place(cores: Cores, load: float) -> Place:
    machine = describe_machine()
    return Place(
        machine.system,
        machine.processor,
        cores.usable,
        load,
        machine.python,
        machine.torch,
        machine.fastload,
    )


def _warnings(plan: Plan, own: Trial, load: Load, load_before: float) -> tuple[str, ...]:
    found = []
    if load_before > BUSY_MACHINE * plan.cores.usable:
        found.append(
            f"other programs were using this machine (load {load_before:.1f} on "
            f"{plan.cores.usable:g} cores): mistrust these figures"
        )
    if load.others > 0.5:
        found.append(
            f"workers had to share the cores with {load.others:.1f} other processes on average; "
            f"predictions count on that to go on"
        )
    batches = sum(map(len, own.epochs))
    if batches < 30:
        found.append(f"only {batches} batches were measured: give a larger --budget")
    if own.elapsed_s and is_stream(plan.loader):
        found.append("a stream may yield other samples with another number of workers")
    return tuple(found)
