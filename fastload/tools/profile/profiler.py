"""Profile a loader: run trials, predict other settings, run the best ones, and report.

Runs in: consumer.
Takes: a loader of either kind and what stands for the training step.
Gives: a ``Profile``.

    without workers ─┐
    with one         ├─▶ load ─▶ replay every setting ─▶ run the best in turn ─▶ report
    its own setting ─┤
    as many as cores ┘
"""

from __future__ import annotations

import datetime as dt
import time
from typing import Any

from fastload._system.cores import Cores
from fastload.tools.bench.machine import describe_machine, load_average
from fastload.tools.profile.advice import make_fixes
from fastload.tools.profile.grid import predict, recommend, verify
from fastload.tools.profile.judge import (
    find_culprit,
    make_breakdown,
    make_resources,
    make_verdict,
    own_speed,
)
from fastload.tools.profile.load import make_load
from fastload.tools.profile.plan import Cache, Plan, measure
from fastload.tools.profile.rebuild import is_stream, kind_of, loads_next_epoch
from fastload.tools.profile.replay import Load
from fastload.tools.profile.report import MeasuredOn, Profile
from fastload.tools.profile.situation import Situation
from fastload.tools.profile.spans import make_slowest, make_spans, make_workers
from fastload.tools.profile.trials import Trial
from fastload.tools.words import counted

__all__ = ["Plan", "profile"]

BUSY_MACHINE = 0.5
"""Load per core, of others, above which figures are to be mistrusted."""


def profile(plan: Plan) -> Profile:
    """Profile the loader of a plan within the time of the plan.

    Raises:
        ValueError: The loader gives no batch.
        Exception: Whatever the dataset, the collate function or the step raises.
    """
    started_s = time.monotonic()
    plan.begin()
    load_before = load_average()
    cache = Cache()
    measured = measure(plan, cache)
    own = measured.own
    epoch_batches = _epoch_batches(plan.loader)
    counted_batches = None if loads_next_epoch(plan.loader) else epoch_batches
    load = make_load(measured, plan.cores.usable, load_before, counted_batches)
    grid = predict(plan, measured, load)
    verified = verify(plan, measured, load, grid)
    speed, has_step = own_speed(own, verified.settings[0]), plan.step is not None
    culprit = find_culprit(measured, load, own.setting, speed.stall_share, has_step=has_step)
    recommended = recommend(verified.settings)
    situation = Situation(
        loader=plan.loader,
        load=load,
        culprit=culprit,
        setting=own.setting,
        samples_per_s=speed.samples_per_s,
        headroom=speed.headroom if has_step else None,
        recommended=recommended,
        verified=verified.settings,
        failed=tuple(plan.failed),
        as_fastload=verified.as_fastload,
        startup_s=own.startup_s,
        epoch_batches=epoch_batches,
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
        verdict=make_verdict(speed, measured.consumer.step_s, culprit, has_step=has_step),
        breakdown=make_breakdown(own),
        resources=make_resources(measured, load, plan.cores, culprit, speed),
        what_if=grid,
        recommended=recommended,
        verified=verified.settings,
        fixes=make_fixes(situation),
        spans=make_spans(own),
        workers=make_workers(own),
        slowest=make_slowest((measured.clean, own)),
        batches=sum(map(len, own.epochs)),
        warnings=_warnings(plan, own, load, load_before),
    )


def _epoch_batches(loader: Any) -> int | None:
    try:
        return len(loader)
    except TypeError:
        return None


def _place(cores: Cores, load: float) -> MeasuredOn:
    machine = describe_machine()
    return MeasuredOn(
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
            f"{counted(plan.cores.usable, 'core')}): mistrust these figures"
        )
    if load.others > 0.5:
        found.append(
            f"workers had to share the cores with {load.others:.1f} other processes on average; "
            f"predictions count on that to go on"
        )
    batches = sum(map(len, own.epochs))
    if batches < 30:
        found.append(f"measured no more than {counted(batches, 'batch')}: give a larger --budget")
    found += [
        f"{setting.arguments} could not be run: {why}" for setting, why in plan.failed.items()
    ]
    if own.elapsed_s and is_stream(plan.loader):
        found.append("a stream may yield other samples with another number of workers")
    return tuple(found)
