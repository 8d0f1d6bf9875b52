"""Plan a profile, and run the trials from which everything else is worked out.

Runs in: consumer.
Takes: a loader of either kind and what stands for the training step.
Gives: ``Measured``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from fastload._memory.leaves import has_wide_numbers, size_bytes
from fastload._system.cores import Cores, find_cores
from fastload.tools.profile.load import Consumer, Measured
from fastload.tools.profile.rebuild import is_stream, kind_of, setting_of
from fastload.tools.profile.report import Setting
from fastload.tools.profile.trials import Step, Trial, run_trial

STARTING_S = 4.0
"""Seconds beyond the budget in which workers may be started and ended."""

CONTEST_PARTS = 1.0
"""Tenths of the budget that running settings for real needs: trials before it leave them."""

MOST_CACHED, MOST_CACHED_BYTES = 16, 256 << 20
"""Batches that are kept to measure the consumer's step alone."""


@dataclass
class Plan:
    """What is profiled, and how long each part may take.

    Attributes:
        loader: Of either kind; it is left alone.
        target: Its name, for the report.
        step: Is called with each batch; None if there is no consumer.
        step_words: What that is.
        budget_s: For everything.
        limit_s: Beyond this nothing more is begun: by default a fifth more than the budget and some
            seconds for starting workers.
        tell: Is told what happens next.
        failed: Settings that could not be run, and why.
    """

    loader: Any
    target: str
    step: Step | None = None
    step_words: str = "none: batches are dropped"
    budget_s: float = 20.0
    tell: Callable[[str], None] = lambda _: None
    cores: Cores = field(default_factory=find_cores)
    limit_s: float = 0.0
    failed: dict[Setting, str] = field(default_factory=dict)
    _deadline_s: float = math.inf
    _extra_s: float = 0.0
    _start_s: float = 0.0

    def __post_init__(self) -> None:
        self.limit_s = self.limit_s or 1.2 * self.budget_s + STARTING_S
        self.begin()

    def begin(self) -> None:
        """Count the time of the profile from now on."""
        self._deadline_s = time.monotonic() + self.limit_s

    def fits(self, settings: Iterable[Setting], parts: float) -> bool:
        """Whether trials at these settings would end before the time is up.

        Starting a worker, and what a trial takes beyond its time, is expected to take the most
        that it took until now.
        """
        needed_s = sum(
            parts * self.budget_s / 10 + self._extra_s + self._start_s * each.num_workers
            for each in settings
        )
        return time.monotonic() + needed_s <= self._deadline_s

    def trial(self, setting: Setting, parts: float, step: Step | None, **options: Any) -> Trial:
        """Run a trial at a setting, for this many tenths of the budget."""
        kind = options.pop("kind", kind_of(self.loader))
        self.tell(f"{kind}: {setting.words}")
        seconds, began_s = parts * self.budget_s / 10, time.monotonic()
        options = {"deadline_s": self._deadline_s, **options}
        trial = run_trial(self.loader, setting, kind, step or _drop, seconds, **options)
        start_s = trial.startup_s if setting.num_workers else 0.0
        extra_s = time.monotonic() - began_s - seconds - start_s
        self._extra_s = max(self._extra_s, extra_s)
        self._start_s = max(self._start_s, start_s / max(1, setting.num_workers))
        return trial


def measure(plan: Plan, cache: Cache) -> Measured:
    """Run the loader without workers, with one, as it is, and with as many as cores."""
    setting = setting_of(plan.loader)
    # One sample after another, and batches as wholes: what else there is, is worked out from that.
    base = replace(setting.schedule, workers_per_batch=1, concurrent_samples=1)
    inline = plan.trial(Setting(0, 0, base), 0.8, None, keep=cache.add)
    alone = None
    if not is_stream(plan.loader) or setting.num_workers == 1:
        alone = plan.trial(Setting(1, 2, base), 1.4, None)
    own = plan.trial(setting, 1.6, plan.step)
    crowd = math.ceil(plan.cores.usable)
    crowded: Trial | None = None
    if alone is None or crowd == 1 or is_stream(plan.loader):
        crowded = None
    elif plan.fits([Setting(crowd, 2, base)], 1.0 + CONTEST_PARTS):
        crowded = plan.trial(Setting(crowd, 2, base), 1.0, None)
    plan.tell("the step alone, on batches that were kept")
    consumer = cache.time_step(plan.step, plan.budget_s / 20)
    return Measured(inline, alone, crowded, own, consumer, cache.largest_bytes)


class Cache:
    """A few batches that are kept, to learn what the consumer's step takes by itself."""

    def __init__(self) -> None:
        self._batches: list[Any] = []
        self._bytes = 0
        self.largest_bytes = 0
        self.has_wide_numbers = False

    def add(self, batch: Any) -> None:
        """Keep a batch, if there is room for it."""
        if len(self._batches) >= MOST_CACHED:
            return
        size = size_bytes(batch)
        self.largest_bytes = max(self.largest_bytes, size)
        self.has_wide_numbers |= has_wide_numbers(batch)
        if not self._batches or self._bytes + size <= MOST_CACHED_BYTES:
            self._batches.append(batch)
            self._bytes += size

    def time_step(self, step: Step | None, seconds: float) -> Consumer:
        """Run the step on what was kept."""
        if step is None:
            return Consumer(0.0, 0.0)
        step(self._batches[0])
        steps, began_s, cpu_began_s = 0, time.monotonic(), time.process_time()
        passed_s = 0.0
        while passed_s < seconds or (steps < 3 and passed_s < 3 * seconds):
            step(self._batches[steps % len(self._batches)])
            steps += 1
            passed_s = time.monotonic() - began_s
        cpu_s = time.process_time() - cpu_began_s
        return Consumer((time.monotonic() - began_s) / steps, cpu_s / steps)


def _drop(_batch: Any) -> None:
    """Do nothing with a batch."""
