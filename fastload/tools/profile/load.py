"""Work out from the trials what each batch costs: the figures that a replay needs.

Runs in: consumer.
Takes: trials without workers, with one, and with as many as there are cores.
Gives: a ``Load``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastload._system.cores import affinity_cores
from fastload.stats.rows import columns
from fastload.tools.profile.replay import Load
from fastload.tools.profile.spread import SLOW, Seconds
from fastload.tools.profile.trials import Trial

LEAST_READY, READY_SHARE, LEAST_LEAD_S = 5, 0.5, 0.001
"""So many batches, and this part of all, ready so long before, tell what taking over one takes.

Where fewer are ready, they are those before which the consumer itself was held up.
"""

CONSUMER_BOUND = 0.9
"""Taking over takes at least this part of the time from batch to batch: it is the limit."""

NOISE = 0.1
"""Waiting for a core for less than this part of the CPU time tells nothing."""

BUSY = 0.5
"""Workers that compute for this part of the time compete with each other."""

IDLE = 0.1
"""If this part of the cores is idle, nobody waits for one for long."""


@dataclass(frozen=True)
class Consumer:
    """The consumer's step alone, on batches that were kept: seconds, and CPU time of it."""

    step_s: float
    step_cpu_s: float


@dataclass(frozen=True)
class Measured:
    """All trials from which the load is worked out, before anything is predicted."""

    inline: Trial
    alone: Trial | None
    crowded: Trial | None
    own: Trial
    consumer: Consumer
    batch_bytes: int

    @property
    def clean(self) -> Trial:
        """Return the trial in which no other worker disturbed the one that loaded."""
        return self.inline if self.alone is None else self.alone


def make_load(
    measured: Measured, cores: float, busy: float, epoch_batches: int | None = None
) -> Load:
    """Work out the load on this many cores, of which other programs kept ``busy`` before."""
    inline_wait, inline_cpu = _parts(measured.inline)
    consumer = measured.consumer
    common: dict[str, Any] = {
        "inline_wait_s": inline_wait,
        "inline_cpu_s": inline_cpu,
        "step_s": consumer.step_s,
        "step_cpu_s": consumer.step_cpu_s,
        "samples": measured.own.samples_per_batch,
        "epoch_batches": epoch_batches,
        "fetch_cpu_s": float(columns(measured.clean.rows)["fetch_cpu"].mean()) / 1e9,
    }
    alone = measured.alone
    if alone is None:
        slow = _is_slow(measured.inline)
        parts = inline_wait, inline_cpu
        return Load(*parts, take_s=0, transit_s=0, cores=cores, is_slow=slow, **common)
    wait, cpu, is_slow = _recorded(measured, alone)
    taking = find_taking(measured, alone)
    return Load(
        wait_s=wait,
        cpu_s=cpu + hand_off_in_worker_s(alone, taking),
        take_s=taking.cpu_s,
        take_wait_s=taking.wait_s,
        transit_s=_transit_s(alone, taking),
        cores=cores,
        contention=_contention(alone, measured.crowded),
        others=min(busy, max(_others(each, cores) for each in _with_workers(measured))),
        is_slow=is_slow,
        thread_cores=_thread_cores(measured.crowded, cores),
        **common,
    )


@dataclass(frozen=True)
class Taking:
    """What taking over a batch that is ready keeps the consumer from anything else, in seconds.

    Attributes:
        cpu_s: CPU time of the consumer, letting go of the batch included.
        wait_s: What it takes beyond that: torch's loader asks the worker for the descriptor of each
            tensor, which a thread of the worker sends when the one that loads lets it.
        inside_s: The part that is inside `next`, computing and waiting.
    """

    cpu_s: float
    wait_s: float = 0.0
    inside_s: float = 0.0

    @property
    def whole_s(self) -> float:
        """Return computing and waiting together."""
        return self.cpu_s + self.wait_s


def find_taking(measured: Measured, alone: Trial) -> Taking:
    """Measure what taking over a batch takes, on batches that were ready long before.

    Of others it cannot be told from waiting for them; then CPU time alone counts. The loader's own
    trial counts first: threads of a worker that sends compete with the thread that loads, as much
    as they will.
    """
    cpu_s = take_s(alone)
    between = alone.took("busy")  # there is no step: what is left is letting go of the batch
    letting_go_s = float(np.median(between)) if len(between) else 0.0
    for trial in (measured.own, measured.crowded, alone):
        if trial is None or not trial.setting.num_workers:
            continue
        of = columns(trial.rows)
        was_ready = (of["asked"] - of["written"]) / 1e9 >= max(trial.period_s, LEAST_LEAD_S)
        if was_ready.sum() < max(LEAST_READY, READY_SHARE * len(was_ready)):
            continue
        inside_s = float((of["left"] - of["asked"])[was_ready].mean()) / 1e9
        return Taking(cpu_s, max(0.0, inside_s + letting_go_s - cpu_s), inside_s)
    return Taking(cpu_s)


def take_s(alone: Trial) -> float:
    """Return the CPU time that the consumer takes to take over a batch."""
    return alone.consumer_cpu_s / max(1, sum(map(len, alone.epochs)))


def hand_off_in_worker_s(alone: Trial, taking: Taking) -> float:
    """Return how long sending a batch keeps a worker from its next one, behind its last stamp.

    Told in two ways, of which the smaller counts: what is left of the time from batch to batch
    (on a busy machine also waiting for a core), and of the worker's CPU time. Where taking over is
    what takes the time from batch to batch, nothing of it is left, and CPU time alone counts.
    """
    service = sum(alone.mean_s(stage) for stage in ("fetch", "collate", "write"))
    left_s = alone.period_s - max(service, taking.whole_s)
    batches = max(1, sum(map(len, alone.epochs)) - 1)
    computed_s = alone.workers_cpu_s / batches - float(columns(alone.rows)["cpu"].mean()) / 1e9
    if taking.whole_s > CONSUMER_BOUND * alone.period_s:
        return max(0.0, computed_s)
    return max(0.0, min(left_s, computed_s))


def _recorded(measured: Measured, alone: Trial) -> tuple[Seconds, Seconds, Any]:
    """Return waiting and computing of each recorded batch, and which of them are slow.

    One worker alone is what is predicted from. It sees few of the slow batches that come once in a
    while, and their number decides the throughput; so where there are any, those of the other
    trials count too, their CPU time as long as it is without other workers.
    """
    wait, cpu = _parts(alone)
    found = [(wait, cpu, _is_slow(alone))]
    others = [
        trial
        for trial in (measured.crowded, measured.own)
        if trial is not None
        and trial.setting.num_workers
        and trial.setting.schedule == alone.setting.schedule
    ]
    found += [(*_parts(trial), _is_slow(trial)) for trial in others]
    if not any(is_slow.any() for _, _, is_slow in found):
        return found[0]
    usual_s = float(cpu.mean())
    scaled = [
        (wait, cpu * (usual_s / max(float(cpu.mean()), 1e-12)), is_slow)
        for wait, cpu, is_slow in found
    ]
    waits, cpus, slow = zip(*scaled, strict=True)
    return np.concatenate(waits), np.concatenate(cpus), np.concatenate(slow)


def _parts(trial: Trial) -> tuple[Seconds, Seconds]:
    """Return what each batch waited and computed; waiting for a core is left out."""
    service = trial.took("fetch") + trial.took("collate") + trial.took("write")
    cpu = np.minimum(columns(trial.rows)["cpu"] / 1e9, service)
    wait = service - cpu
    return without_core_wait(wait, trial.core_wait_s), cpu


def without_core_wait(wait_s: Seconds, core_wait_s: float) -> Seconds:
    """Take the time that all batches together waited for a core out of what each waited.

    Which batch waited how long for a core is not recorded. As much is taken from each, but no more
    than it has, until all is taken: so no waiting for a core is left, and a batch that waited for
    a slow file keeps nearly all of that.
    """
    if core_wait_s >= float(wait_s.sum()):
        return np.zeros_like(wait_s)
    ascending = np.sort(wait_s)
    behind = len(ascending) - np.arange(len(ascending))
    taken = np.cumsum(ascending) + ascending * (behind - 1)  # if each gave at most that much
    number = int(np.searchsorted(taken, core_wait_s))
    before_s = float(ascending[:number].sum())
    level_s = (core_wait_s - before_s) / behind[number]
    left: Seconds = wait_s - np.minimum(wait_s, level_s)
    return left


def _is_slow(trial: Trial) -> Any:
    """Mark the batches that took far longer than the median, unless they waited for cores."""
    whole = trial.took("fetch") + trial.took("collate") + trial.took("write")
    is_slow = whole > SLOW * np.median(whole)
    excess_s = float((whole - np.median(whole))[is_slow].sum())
    return is_slow & (excess_s > 1.2 * trial.core_wait_per_batch_s * len(whole))


def _transit_s(alone: Trial, taking: Taking) -> float:
    of = columns(alone.rows)
    took_s = (
        float(np.median(np.maximum(0, of["got"] - np.maximum(of["asked"], of["written"])))) / 1e9
    )
    if np.array_equal(of["got"], of["left"]):  # torch's loader: taking over is inside of it
        return max(0.0, took_s - (taking.inside_s or taking.cpu_s))
    return took_s


def _with_workers(measured: Measured) -> list[Trial]:
    """Return the trials that tell of other programs: one worker alone leaves them a core."""
    return [each for each in (measured.alone, measured.crowded) if each is not None]


def _contention(alone: Trial, crowded: Trial | None) -> float:
    """Return by how much CPU time grows with each further busy core: caches, memory, locks.

    Workers that wait for most of the time keep no further core busy: if they take more CPU time in
    one trial than in another, it is for other reasons.
    """
    if crowded is None or crowded.setting.num_workers < 2:
        return 0.0
    wait, cpu = _parts(crowded)
    if cpu.sum() < BUSY * (wait + cpu).sum():
        return 0.0
    before, after = (float(columns(trial.rows)["cpu"].mean()) for trial in (alone, crowded))
    if before <= 0:
        return 0.0
    return float(np.clip((after / before - 1) / (crowded.setting.num_workers - 1), 0.0, 1.0))


def _thread_cores(crowded: Trial | None, cores: float) -> float:
    """Return how many cores threads of one process kept busy: the interpreter may allow only one.

    1 where workers were processes, so that nothing is known of threads.
    """
    if crowded is None or crowded.setting.schedule.worker_method != "thread":
        return 1.0
    computed_s = float(columns(crowded.rows)["cpu"].mean()) / 1e9
    return float(np.clip(computed_s / max(crowded.period_s, 1e-9), 1.0, max(1.0, cores)))


def _others(trial: Trial, cores: float) -> float:
    """Estimate how many processes of other programs want a core, by how long ours wait for one.

    The scheduler is fair: who gets a core for a part *s* of the time in which it wants one shares
    the cores with ``cores / s`` processes. A worker that computes little waits longer than that.
    Where cores are idle meanwhile, that is no sign of others: a worker that sleeps often waits a
    little each time it wakes up. Then others are what keeps the rest of the cores busy.
    """
    computed_s = float(columns(trial.rows)["cpu"].mean()) / 1e9
    waited_s = trial.core_wait_per_batch_s
    if waited_s <= NOISE * computed_s:
        return 0.0
    batches_per_s = 1 / trial.period_s if trial.period_s else 0.0
    ours = (computed_s + waited_s) * batches_per_s + trial.consumer_cpu_s / trial.elapsed_s
    found = max(0.0, cores * (computed_s + waited_s) / computed_s - ours)
    busy = _busy_beside(trial, cores)
    return found if busy is None else min(found, busy)


def _busy_beside(trial: Trial, cores: float) -> float | None:
    """Return how many cores other programs kept busy; None if hardly any core was idle.

    None too where a quota or other ranks leave us less than the cores: those are idle for us alone.
    """
    idle = trial.idle_cores
    if idle is None or idle < IDLE * cores or cores < affinity_cores() or not trial.elapsed_s:
        return None
    ours = (trial.workers_cpu_s + trial.consumer_cpu_s) / trial.elapsed_s
    return max(0.0, cores - idle - ours)
