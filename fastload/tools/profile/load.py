"""What the trials say about the load: the figures that a replay needs.

Runs in: consumer.
Takes: trials without workers, with one, and with as many as there are cores.
Gives: a ``Load``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastload.stats.rows import columns
from fastload.tools.profile.replay import Load, Seconds
from fastload.tools.profile.trials import Trial

SLOW = 4.0
"""A batch that takes this many times the median is held up by a straggler."""

NOISE = 0.1
"""Waiting for a core for less than this part of the CPU time tells nothing."""


@dataclass(frozen=True)
class Consumer:
    """The consumer's step alone, on batches that were kept: seconds, and CPU time of it."""

    step_s: float
    step_cpu_s: float


@dataclass(frozen=True)
class Measured:
    """Everything that was run to learn about the load, before anything is predicted."""

    inline: Trial
    alone: Trial | None
    crowded: Trial | None
    own: Trial
    consumer: Consumer
    batch_bytes: int

    @property
    def clean(self) -> Trial:
        """The trial in which nothing disturbed a worker."""
        return self.inline if self.alone is None else self.alone


def make_load(
    measured: Measured, cores: float, busy: float, epoch_batches: int | None = None
) -> Load:
    """The load, on this many cores, of which other programs kept ``busy`` before we began."""
    inline_wait, inline_cpu = _parts(measured.inline)
    consumer = measured.consumer
    common: dict[str, Any] = {
        "inline_wait_s": inline_wait,
        "inline_cpu_s": inline_cpu,
        "step_s": consumer.step_s,
        "step_cpu_s": consumer.step_cpu_s,
        "samples": measured.own.samples_per_batch,
        "epoch_batches": epoch_batches,
    }
    alone = measured.alone
    if alone is None:
        slow = _is_slow(measured.inline)
        parts = inline_wait, inline_cpu
        return Load(*parts, take_s=0, transit_s=0, cores=cores, is_slow=slow, **common)
    wait, cpu = _parts(alone)
    return Load(
        wait_s=wait,
        cpu_s=cpu + hand_off_in_worker_s(alone),
        take_s=take_s(alone),
        transit_s=_transit_s(alone),
        cores=cores,
        contention=_contention(alone, measured.crowded),
        others=min(busy, _others(alone, cores)),
        is_slow=_is_slow(alone),
        **common,
    )


def take_s(alone: Trial) -> float:
    """CPU time of the consumer to take over a batch."""
    return alone.consumer_cpu_s / max(1, sum(map(len, alone.epochs)))


def hand_off_in_worker_s(alone: Trial) -> float:
    """What keeps a worker from its next batch after its last stamp: sending this one.

    Told in two ways, of which the smaller counts: what is left of the time from batch to batch
    (on a busy machine also waiting for a core), and of the worker's CPU time.
    """
    service = sum(alone.mean_s(stage) for stage in ("fetch", "collate", "write"))
    left_s = alone.period_s - max(service, take_s(alone))
    batches = max(1, sum(map(len, alone.epochs)) - 1)
    computed_s = alone.workers_cpu_s / batches - float(columns(alone.rows)["cpu"].mean()) / 1e9
    return max(0.0, min(left_s, computed_s))


def _parts(trial: Trial) -> tuple[Seconds, Seconds]:
    """Waiting and computing of each batch; waiting for a core is left out."""
    service = trial.took("fetch") + trial.took("collate") + trial.took("write")
    cpu = np.minimum(columns(trial.rows)["cpu"] / 1e9, service)
    wait = service - cpu
    return np.maximum(0.0, wait - trial.core_wait_per_batch_s), cpu


def _is_slow(trial: Trial) -> Any:
    """By the whole time, unless waiting for a core explains what they took longer."""
    whole = trial.took("fetch") + trial.took("collate") + trial.took("write")
    is_slow = whole > SLOW * np.median(whole)
    excess_s = float((whole - np.median(whole))[is_slow].sum())
    return is_slow & (excess_s > 1.2 * trial.core_wait_per_batch_s * len(whole))


def _transit_s(alone: Trial) -> float:
    of = columns(alone.rows)
    return float(np.median(np.maximum(0, of["got"] - np.maximum(of["asked"], of["written"])))) / 1e9


def _contention(alone: Trial, crowded: Trial | None) -> float:
    """How much more CPU time a batch takes for each further busy core: caches, memory, locks."""
    if crowded is None or crowded.setting.num_workers < 2:
        return 0.0
    before, after = (float(columns(trial.rows)["cpu"].mean()) for trial in (alone, crowded))
    if before <= 0:
        return 0.0
    return float(np.clip((after / before - 1) / (crowded.setting.num_workers - 1), 0.0, 1.0))


def _others(trial: Trial, cores: float) -> float:
    """Processes of other programs that want a core, told by how long our workers wait for one.

    The scheduler is fair: who gets a core for a part *s* of the time in which it wants one shares
    the cores with ``cores / s`` processes. A worker that computes little waits longer than that.
    """
    computed_s = float(columns(trial.rows)["cpu"].mean()) / 1e9
    waited_s = trial.core_wait_per_batch_s
    if waited_s <= NOISE * computed_s:
        return 0.0
    batches_per_s = 1 / trial.period_s if trial.period_s else 0.0
    ours = (computed_s + waited_s) * batches_per_s + trial.consumer_cpu_s / trial.elapsed_s
    return max(0.0, cores * (computed_s + waited_s) / computed_s - ours)
