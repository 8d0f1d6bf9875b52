"""Judge how input-bound a loop is, what limits it, and which figures show that.

Runs in: consumer.
Takes: trials and the load they describe.
Gives: the parts of a report that judge.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastload._system.cores import Cores
from fastload.stats.rows import columns
from fastload.tools.profile.load import (
    Measured,
    find_taking,
    hand_off_in_worker_s,
    without_core_wait,
)
from fastload.tools.profile.replay import Load, replay
from fastload.tools.profile.report import (
    Bound,
    Culprit,
    InputVerdict,
    Resource,
    Setting,
    Share,
    Verification,
)
from fastload.tools.profile.spread import SLOW
from fastload.tools.profile.trials import Trial

# The thresholds of TensorFlow's input-pipeline analyzer.
MODERATE, HIGH = 0.05, 0.20

STRAGGLER_GAIN = 1.25
"""Stragglers are the culprit if batches without them would come this much faster."""

STRAGGLER_SHARE = 0.3
"""More slow batches than this are no stragglers: they are the load."""

EXHAUSTED = 0.9

WORDS: dict[Culprit, str] = {
    "fetch-cpu": "the CPU time of the dataset's __getitem__",
    "fetch-wait": "waiting inside the dataset's __getitem__: files, network, sleep",
    "collate": "the collate function",
    "hand-off": "handing batches from the workers to the training loop",
    "stragglers": "a few slow samples that hold up every batch behind them",
    "consumer": "the training step itself",
    "sampler": "the sampler",
}


@dataclass(frozen=True)
class Costs:
    """What a batch costs at each possible culprit, in seconds of the period that it adds to."""

    by_culprit: dict[Culprit, float]

    @property
    def largest(self) -> Culprit:
        """Return the culprit that costs most."""
        return max(self.by_culprit, key=lambda culprit: self.by_culprit[culprit])


def find_costs(measured: Measured) -> Costs:
    """Work out what each culprit costs at the loader's own number of workers."""
    clean, workers = measured.clean, max(1, measured.own.setting.num_workers)
    cpu = clean.mean_s("fetch_cpu")
    # All of it, as if none had been in the batches that do not count: rather too little waiting for
    # files than any waiting for a core among it.
    waiting = clean.mean_s("fetch") - cpu - clean.core_wait_s / len(clean.rows)
    at_a_time = min(clean.samples_per_batch, measured.own.setting.schedule.concurrent_samples)
    waiting /= max(1.0, at_a_time)
    collating, sending = _after_fetch(clean)
    taking = 0.0
    if measured.alone is not None:
        found = find_taking(measured, measured.alone)
        sending += hand_off_in_worker_s(measured.alone, found)
        taking = found.whole_s
    sampler = float(np.median(measured.inline.took("sampler")))
    return Costs(
        {
            "fetch-cpu": cpu / workers,
            "fetch-wait": max(0.0, waiting) / workers,
            "collate": collating / workers,
            "hand-off": sending / workers + max(0.0, taking - sampler),
            "sampler": sampler,
        }
    )


def _after_fetch(clean: Trial) -> tuple[float, float]:
    """Return what collating and writing a batch take: CPU time, or more where they wait.

    On a busy machine their elapsed time says little. CPU time is stamped for both together; their
    medians divide it.
    """
    of = columns(clean.rows)
    computing = float((of["cpu"] - of["fetch_cpu"]).mean()) / 1e9
    collate, write = (float(np.median(clean.took(stage))) for stage in ("collate", "write"))
    part = collate / (collate + write) if collate + write else 0.0
    waiting = clean.mean_s("collate") - clean.core_wait_s / len(clean.rows)
    return max(part * computing, waiting), (1 - part) * computing


@dataclass(frozen=True)
class OwnSpeed:
    """The loader at its own setting, over all its runs: what every figure of a report agrees with.

    Attributes:
        samples_per_s: With the consumer's step.
        stall_share: Part of the time that the consumer waited, rounded down to tenths of a per cent
            as it is shown.
        samples_per_batch: On average.
    """

    samples_per_s: float
    stall_share: float
    samples_per_batch: float

    @property
    def headroom(self) -> float:
        """Return how many times as fast the loop is if it never waits: nothing gives more."""
        return 1 / max(1e-3, 1 - self.stall_share)

    @property
    def step_s(self) -> float:
        """Return what the stall leaves of the time from batch to batch: the step."""
        period_s = self.samples_per_batch / self.samples_per_s if self.samples_per_s else 0.0
        return period_s * (1 - self.stall_share)


def own_speed(own: Trial, run: Verification) -> OwnSpeed:
    """Return the figures of the loader's own setting, as it was run for real."""
    stall_share = math.floor(run.measured_stall_share * 1_000) / 1_000
    return OwnSpeed(run.measured_samples_per_s, stall_share, own.samples_per_batch)


def find_culprit(
    measured: Measured, load: Load, setting: Setting, stall_share: float, *, has_step: bool
) -> Culprit:
    """Name what limits throughput at the loader's own setting."""
    if has_step and stall_share < MODERATE:
        return "consumer"
    return "stragglers" if _has_stragglers(load, setting) else find_costs(measured).largest


def _has_stragglers(load: Load, setting: Setting) -> bool:
    share = 0.0 if load.is_slow is None else float(load.is_slow.mean())
    if not 0 < share < STRAGGLER_SHARE:
        return False
    setting = setting if setting.num_workers else Setting(1, 2)
    now = replay(load, setting).samples_per_s
    return replay(load.without_stragglers(), setting).samples_per_s > STRAGGLER_GAIN * now


def make_verdict(
    speed: OwnSpeed, step_s: float, culprit: Culprit, *, has_step: bool
) -> InputVerdict:
    """Put the answer into words, with its numbers."""
    stall = speed.stall_share
    bound: Bound = "unknown"
    headroom: float | None = None
    rate = f"{speed.samples_per_s:,.0f} samples/s"
    if not has_step:
        sentence = (
            f"The loader gives {rate}; what limits it is {WORDS[culprit]}. "
            f"Give --step-ms or --train to learn whether that is enough."
        )
    else:
        bound = "not" if stall < MODERATE else "moderately" if stall <= HIGH else "highly"
        headroom = speed.headroom
        sentence = _sentence(bound, stall, headroom, rate, culprit)
    return InputVerdict(bound, culprit, sentence, stall, headroom, speed.samples_per_s, step_s)


def _sentence(bound: Bound, stall: float, headroom: float, rate: str, culprit: Culprit) -> str:
    if bound == "not":
        return (
            f"Not input-bound: the training loop waits {stall:.1%} of the time, at {rate}. "
            f"What limits it is {WORDS['consumer']}; stop tuning the loader."
        )
    # Rounded down: no reader computes less from the share that stands beside it.
    times = math.floor(headroom * 100) / 100
    return (
        f"{bound.capitalize()} input-bound: the training loop waits {stall:.1%} of the time, at "
        f"{rate}. What limits it is {WORDS[culprit]}. An ideal loader would make it "
        f"{times:.2f} times as fast."
    )


_EXPLAINED = (
    ("sampler", "consumer", "draw the indices of a batch, send them"),
    ("fetch, computing", "worker", "CPU time in the dataset"),
    ("fetch, waiting", "worker", "waiting in the dataset: files, network, locks"),
    ("waiting for a core", "worker", "ready to run, but every core was taken"),
    ("collate", "worker", "make a batch of samples"),
    ("write", "worker", "copy into shared memory what was not collated there"),
    ("hand-off", "consumer", "from the worker's end of a batch to the training loop"),
    ("reorder", "consumer", "ready, but a batch before it is not"),
    ("pin", "consumer", "copy into page-locked memory"),
    ("step", "consumer", "the training loop's own time"),
)


def make_breakdown(own: Trial) -> tuple[Share, ...]:
    """Divide a batch's time among the stages, at the loader's own setting."""
    took = {name: own.took(name) for name in ("sampler", "collate", "write", "hand_off", "pin")}
    fetch, cpu = own.took("fetch"), own.took("fetch_cpu")
    waiting = np.maximum(0.0, fetch - cpu)
    core_wait = np.zeros_like(waiting)
    if len(waiting):
        left = without_core_wait(waiting, own.core_wait_s)
        waiting, core_wait = left, waiting - left
    times = (
        *(took["sampler"], cpu, waiting, core_wait, took["collate"], took["write"]),
        *(took["hand_off"], own.took("reorder"), took["pin"], own.took("busy")),
    )
    whole = sum(map(_mean, times)) or 1.0
    return tuple(
        _share(stage, where, explanation, each, whole)
        for (stage, where, explanation), each in zip(_EXPLAINED, times, strict=True)
    )


def _share(stage: str, where: Any, explanation: str, seconds: Any, whole: float) -> Share:
    quantiles = np.quantile(seconds, (0.5, 0.95, 0.99)).tolist() if len(seconds) else (0, 0, 0)
    mean = _mean(seconds)
    return Share(stage, where, explanation, mean / whole, mean, *quantiles)


def _mean(seconds: Any) -> float:
    return float(seconds.mean()) if len(seconds) else 0.0


def make_resources(
    measured: Measured, load: Load, cores: Cores, culprit: Culprit, speed: OwnSpeed
) -> tuple[Resource, ...]:
    """Say of each resource how much of it is in use, and what shows that."""
    own = measured.own
    costs = find_costs(measured).by_culprit
    cost = sum(costs.values()) or 1.0
    batches = sum(map(len, own.epochs))
    used = own.consumer_cpu_s
    if own.setting.num_workers:
        used += float(_cpu_s(own)) * batches
    core_use = min(1.0, used / (own.elapsed_s * cores.usable)) if own.elapsed_s else 0.0
    busy = 1 - speed.stall_share
    taking, crossing = costs["hand-off"], measured.batch_bytes / 1e6
    whole_s = load.wait_s + load.cpu_s
    is_slow = np.zeros(len(whole_s), bool) if load.is_slow is None else load.is_slow
    tail = float(whole_s[is_slow].sum() / whole_s.sum()) if whole_s.sum() else 0.0
    per_second = own.read_bytes / own.elapsed_s / 1e6 if own.elapsed_s else 0.0
    wait_share = costs["fetch-wait"] / cost
    return (
        Resource(
            "cores",
            core_use,
            core_use > EXHAUSTED or (culprit in {"fetch-cpu", "collate"} and core_use > 0.8),
            f"{used / own.elapsed_s if own.elapsed_s else 0:.1f} of {cores.usable:g} in use "
            f"({cores}); {own.core_wait_per_batch_s * 1e3:.1f} ms a batch waiting for one",
        ),
        Resource(
            "I/O wait",
            wait_share,
            culprit == "fetch-wait",
            f"{wait_share:.0%} of what a batch costs is waiting in the dataset; "
            f"{per_second:.1f} MB/s read from storage",
        ),
        Resource(
            "hand-off",
            taking / cost,
            culprit == "hand-off",
            f"{taking * 1e3:.2f} ms a batch of {crossing:.1f} MB",
        ),
        Resource(
            "stragglers",
            tail,
            culprit == "stragglers",
            f"{is_slow.mean():.0%} of the batches take more than {SLOW:g} times the median, "
            f"{tail:.0%} of all time; the slowest {float(whole_s.max()) * 1e3:.0f} ms",
        ),
        Resource(
            "consumer",
            busy,
            culprit == "consumer",
            f"busy {busy:.1%} of the time: {speed.step_s * 1e3:.2f} ms a batch beside the workers, "
            f"{measured.consumer.step_s * 1e3:.2f} ms by itself",
        ),
    )


def _cpu_s(trial: Trial) -> float:
    return float(columns(trial.rows)["cpu"].mean()) / 1e9
