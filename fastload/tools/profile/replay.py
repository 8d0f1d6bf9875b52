"""Predict a setting: replay the recorded batches through the rule by which loaders give out tasks.

Runs in: consumer.
Takes: what each recorded batch took, on one worker that had the machine to itself.
Gives: throughput, stall and CPU use at any number of workers and prefetch factor.

Task *k* goes to worker *k mod n*; ``prefetch_factor * n`` tasks are out at a time; batches are
taken in order. A worker begins task *k* once it was given (when batch *k - prefetch_factor * n* was
taken) and once it has ended the one before. Fitting a curve to throughput can't see a slow batch
that holds up those behind it; replaying sees it.

Where workers share a queue (``seed=``), the worker that is idle first takes the next task, which
may be a part of a batch; whoever ends the last part collates.

After it slept, the consumer waits for a core where more workers want one than there are.

CPU time stretches where processes want more cores than there are, until what is used fits; waiting
does not.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fastload.tools.profile.report import Schedule, Setting
from fastload.tools.profile.spread import Seconds, Work, make_work

LEAST_PART_S = 1e-3
"""Batches are cut into parts that are worth this much, if the loader chooses: see ``Cut``."""

LEAST_REPLAYED = 240
"""Batches of a replay; fewer recorded ones are repeated."""

MOST_REPLAYED = 2_000
"""Batches of a replay; of more recorded ones so many are drawn, or replaying takes seconds."""

MOST_DIVIDED = 500
"""The same where batches are divided into their samples."""

LONGEST_EPOCH = 240
"""In longer epochs, what their beginning takes is lost in the rest."""

WAKING_S = 0.75e-3
"""How long who wakes up waits for a core if others want them all: half a slice of Linux' scheduler.

Slices are 1.4 to 1.5 ms with two or three cores, and longer with more.
"""

MOST_STRETCH = 64.0
"""No more than this does CPU time stretch."""


@dataclass(frozen=True)
class Load:
    """What each batch costs, in seconds, and the machine on which it is loaded.

    Attributes:
        wait_s: Each batch's time in its worker that is no CPU time: ``(batches,)``.
        cpu_s: Each batch's CPU time in its worker, the hand-off's part included: ``(batches,)``.
        inline_s: The same without workers, CPU and waiting: ``(batches,)`` each, or None.
        take_s: CPU time of the consumer to take over a batch that is ready.
        take_wait_s: What it takes beyond that, such as asking the worker for descriptors.
        transit_s: From a worker's last stamp until the consumer has the report.
        step_s: The consumer's step.
        step_cpu_s: CPU time of that.
        samples: Samples per batch.
        cores: Cores that there are.
        contention: By how much more CPU time grows with each further busy core.
        others: Processes of other programs that want a core at any moment, on average.
        epoch_batches: Batches of an epoch; None if not known.
        is_slow: Which batches took far longer than most: ``(batches,)`` of bool.
        fetch_cpu_s: CPU time of a batch's samples, on average; the rest of ``cpu_s`` is for the
            batch as a whole.
        thread_cores: Cores that threads of one process can keep busy.
    """

    wait_s: Seconds
    cpu_s: Seconds
    inline_wait_s: Seconds
    inline_cpu_s: Seconds
    take_s: float
    transit_s: float
    step_s: float
    step_cpu_s: float
    samples: float
    cores: float
    contention: float = 0.0
    others: float = 0.0
    take_wait_s: float = 0.0
    is_slow: npt.NDArray[np.bool_] | None = None
    epoch_batches: int | None = None
    fetch_cpu_s: float = math.inf
    thread_cores: float = 1.0

    @property
    def samples_share(self) -> float:
        """Return the part of the CPU time, from 0 to 1, that samples take one by one."""
        whole = float(self.cpu_s.mean())
        return min(1.0, self.fetch_cpu_s / whole) if whole else 1.0

    def faster(self, *, wait: float = 1.0, cpu: float = 1.0, take: float = 1.0) -> Load:
        """Return the same load with parts that take this many times as long."""
        return replace(
            self,
            wait_s=self.wait_s * wait,
            cpu_s=self.cpu_s * cpu,
            inline_wait_s=self.inline_wait_s * wait,
            inline_cpu_s=self.inline_cpu_s * cpu,
            take_s=self.take_s * take,
            take_wait_s=self.take_wait_s * take,
            fetch_cpu_s=self.fetch_cpu_s * cpu,
        )

    def without_stragglers(self) -> Load:
        """Return the same load with slow batches that take what the others take on average."""
        if self.is_slow is None or self.is_slow.all():
            return self
        usual = float((self.wait_s + self.cpu_s)[~self.is_slow].mean())
        most = usual / np.maximum(self.wait_s + self.cpu_s, 1e-12)
        factor = np.where(self.is_slow, np.minimum(1.0, most), 1.0)
        return replace(self, wait_s=self.wait_s * factor, cpu_s=self.cpu_s * factor)


@dataclass(frozen=True)
class Outcome:
    """The figures that a replay gives; shares are from 0 to 1."""

    samples_per_s: float
    stall_share: float
    cpu_share: float


def replay(load: Load, setting: Setting, *, in_order: bool = True) -> Outcome:
    """Replay a load at a setting."""
    schedule, machine = setting.schedule, load.cores
    if setting.num_workers == 0:
        return _inline(load, schedule)
    if schedule.worker_method == "thread":
        load = _in_threads(load)
    busy_cores = min(float(setting.num_workers), load.cores)
    contention = 1 + load.contention * max(0.0, busy_cores - 1)
    work = _work(load, load.wait_s, load.cpu_s * contention, setting)
    batches = len(work.after_s)
    cpu_total = float(work.cpu_s.sum()) + batches * (load.take_s + load.step_cpu_s)
    cores = _cores_for_us(load, setting, float(work.cpu_s.mean()), float(work.wait_s.mean()))
    run = _in_order if in_order else _as_completed
    waking = _waking_s(load, setting, work)
    transit = load.transit_s + waking
    is_sleeping = load.step_cpu_s < load.step_s / 2

    def at(stretch: float) -> tuple[float, float]:
        step = load.step_s + (stretch - 1) * load.step_cpu_s + (waking if is_sleeping else 0.0)
        take = load.take_s * stretch + load.take_wait_s
        parts, after = work.at(stretch)
        if not load.epoch_batches or load.epoch_batches > LONGEST_EPOCH:
            return run(parts, after, setting, step, take, transit)
        slices = [
            slice(begin, begin + load.epoch_batches)
            for begin in range(0, batches, load.epoch_batches)
        ]
        epochs = [run(parts[each], after[each], setting, step, take, transit, 0) for each in slices]
        return sum(elapsed for elapsed, _ in epochs), sum(stalled for _, stalled in epochs)

    elapsed, stalled = _stretched(at, lambda elapsed: cpu_total > cores * elapsed)
    return Outcome(
        batches * load.samples / elapsed,
        stalled / elapsed,
        min(1.0, cpu_total / (machine * elapsed)),
    )


def _stretched(
    at: Callable[[float], tuple[float, float]], is_too_fast: Callable[[float], bool]
) -> tuple[float, float]:
    """Return what ``at`` gives for the least stretch at which its first figure is long enough."""
    low, high = 1.0, 1.0
    found = at(1.0)
    while is_too_fast(found[0] * 1.001) and high < MOST_STRETCH:
        low, high = high, high * 2
        found = at(high)
    for _ in range(7 if high > 1 else 0):
        middle = (low + high) / 2
        found = at(middle)
        low, high = (middle, high) if is_too_fast(found[0]) else (low, middle)
    return found


def _work(load: Load, wait_s: Seconds, cpu_s: Seconds, setting: Setting) -> Work:
    """Return what there is to do for each batch at a setting."""
    schedule, samples = setting.schedule, max(1, round(load.samples))
    parts = _parts(load, setting)
    is_divided = samples > 1 and (parts > 1 or schedule.concurrent_samples > 1)
    most = MOST_DIVIDED if is_divided else MOST_REPLAYED
    wait_s, cpu_s = _whole(load, wait_s, most), _whole(load, cpu_s, most)
    of_samples = cpu_s * load.samples_share
    after_s = cpu_s - of_samples
    return make_work(wait_s, of_samples, after_s, samples, parts, schedule.concurrent_samples)


def _parts(load: Load, setting: Setting) -> int:
    """Return into how many parts batches are cut, by the rule of ``fastload._epoch.cut``."""
    wanted = setting.schedule.workers_per_batch
    if wanted != "auto":
        return wanted if wanted <= setting.num_workers else 1
    worked_s = float((load.wait_s + load.cpu_s).mean())
    return max(1, min(2 * setting.num_workers, int(worked_s / LEAST_PART_S)))


def _in_threads(load: Load) -> Load:
    """Return the load of threads: nothing is handed over, and they compute on few cores.

    On one, if nothing is known: so it is with Python code, while C code that lets go of the
    interpreter is faster than predicted.
    """
    return replace(
        load,
        wait_s=load.inline_wait_s,
        cpu_s=load.inline_cpu_s,
        take_s=0.0,
        take_wait_s=0.0,
        transit_s=0.0,
        contention=0.0,
        cores=min(load.cores, load.thread_cores),
    )


def _waking_s(load: Load, setting: Setting, work: Work) -> float:
    """Return how long the consumer waits for a core when it wakes up, on average.

    Nothing while no more workers compute at a time than there are cores: the scheduler prefers who
    has slept.
    """
    cpu_s, wait_s = float(work.cpu_s.mean()), float(work.wait_s.mean())
    computing = setting.num_workers * cpu_s / max(cpu_s + wait_s, 1e-9)
    return WAKING_S * min(1.0, max(0.0, computing - load.cores))


def _cores_for_us(load: Load, setting: Setting, cpu_s: float, wait_s: float) -> float:
    """Return the cores that are left to us beside ``load.others``: all get a fair share.

    A process that wants less than its share leaves the rest to those that want more.
    """
    consumer_s = load.step_s + load.take_s + load.take_wait_s
    period_s = max((cpu_s + wait_s) / setting.num_workers, consumer_s, 1e-9)
    consumer_demand = min(1.0, (load.step_cpu_s + load.take_s) / period_s)
    worker_demand = cpu_s / max(cpu_s + wait_s, 1e-9)
    wanted = np.array([worker_demand] * setting.num_workers + [consumer_demand])
    low, high = 0.0, 1.0
    for _ in range(20):
        share = (low + high) / 2
        taken = np.minimum(wanted, share).sum() + load.others * share
        low, high = (share, high) if taken < load.cores else (low, share)
    return max(0.05, load.cores - load.others * high)


def _inline(load: Load, schedule: Schedule) -> Outcome:
    work = _work(load, load.inline_wait_s, load.inline_cpu_s, Setting(0, 0, schedule))
    cpu, wait = float(work.cpu_s.mean()), float(work.wait_s.mean())
    cpu *= max(1.0, (1 + load.others) / load.cores)
    wait += cpu
    period = wait + load.step_s
    used = (cpu + load.step_cpu_s) / (load.cores * period)
    return Outcome(load.samples / period, wait / period, min(1.0, used))


def _repeated(seconds: Seconds, most: int) -> Seconds:
    """Return enough batches and not too many, in the order in which they were recorded."""
    if len(seconds) > most:
        generator = np.random.default_rng(0)  # the same batches for waiting and for computing
        return seconds[np.sort(generator.choice(len(seconds), most, replace=False))]
    times = -(-LEAST_REPLAYED // len(seconds))
    return np.tile(seconds, times) if times > 1 else seconds


def _whole(load: Load, seconds: Seconds, most: int) -> Seconds:
    """Return enough batches, and whole epochs of them if epochs are short."""
    seconds = _repeated(seconds, most)
    epoch = load.epoch_batches
    if not epoch or epoch > LONGEST_EPOCH:
        return seconds
    epochs = -(-len(seconds) // epoch)
    return np.resize(seconds, epochs * epoch)


class _Dealt:
    """Workers of which each has tasks of its own: task *k* goes to worker *k mod n*."""

    def __init__(self, parts: Seconds, after: Seconds, workers: int) -> None:
        self._service = (parts.sum(axis=1) + after).tolist()
        self._free = [0.0] * workers

    def load(self, number: int, given: float) -> float:
        """Return when a batch has ended that was given out at a moment."""
        worker = number % len(self._free)
        ended: float = max(given, self._free[worker]) + self._service[number]
        self._free[worker] = ended
        return ended


class _Shared:
    """Workers that share a queue: the one that is idle first takes the next part of a batch."""

    def __init__(self, parts: Seconds, after: Seconds, workers: int) -> None:
        self._parts, self._after = parts.tolist(), after.tolist()
        self._free = [0.0] * workers

    def load(self, number: int, given: float) -> float:
        """Return when a batch has ended that was given out at a moment."""
        last = 0.0
        for seconds in self._parts[number]:
            last = max(last, max(given, self._free[0]) + seconds)
            heapq.heapreplace(self._free, max(given, self._free[0]) + seconds)
        ended: float = last + self._after[number]
        self._free[self._free.index(last)] = ended
        heapq.heapify(self._free)
        return ended


def _in_order(
    parts: Seconds,
    after: Seconds,
    setting: Setting,
    step: float,
    take: float,
    transit: float,
    begin: int | None = None,
) -> tuple[float, float]:
    """Return the seconds that all batches take, and those of them that the consumer stalls.

    Batches before number ``begin`` do not count: by default those until the queue is full. With 0,
    it is a whole epoch, from asking for its first batch to the end of its last step.
    """
    ahead = setting.num_workers * setting.prefetch_factor
    kind = _Shared if setting.schedule.is_shared else _Dealt
    workers = kind(parts, after, setting.num_workers)
    taken: list[float] = []
    stalled = before = 0.0
    for number in range(len(after)):
        given = taken[number - ahead] if number >= ahead else 0.0
        ended = workers.load(number, given)
        asked = before + step if number else 0.0
        before = max(asked, ended + transit) + take
        taken.append(before)
        if begin == 0 or number > min(ahead, len(after) - 2):
            stalled += before - asked
    if begin == 0:
        return taken[-1] + step, stalled
    begun = min(ahead, len(taken) - 2)
    whole = len(taken) / (len(taken) - 1 - begun)
    return (taken[-1] - taken[begun]) * whole, stalled * whole


def _as_completed(
    parts: Seconds,
    after: Seconds,
    setting: Setting,
    step: float,
    take: float,
    transit: float,
    begin: int | None = None,
) -> tuple[float, float]:
    """Do the same for ``in_order=False``: a worker with room gets the next task."""
    seconds = (parts.sum(axis=1) + after).tolist()
    room = setting.prefetch_factor
    free = [0.0] * setting.num_workers
    ready: list[tuple[float, int]] = []
    given = 0

    def give(worker: int, now: float) -> None:
        nonlocal given
        if given < len(seconds):
            free[worker] = max(now, free[worker]) + seconds[given]
            heapq.heappush(ready, (free[worker] + transit, worker))
            given += 1

    for _ in range(room):
        for worker in range(setting.num_workers):
            give(worker, 0.0)
    stalled = now = first = 0.0
    count = 0
    begun = min(setting.num_workers * room, len(seconds) - 2)
    while ready:
        ended, worker = heapq.heappop(ready)
        asked = now + step if count else 0.0
        now = max(asked, ended) + take
        if count == begun and begin is None:
            first = now
        elif count > begun or begin == 0:
            stalled += now - asked
        count += 1
        give(worker, now)
    if begin == 0:
        return now + step, stalled
    whole = count / (count - 1 - begun)
    return (now - first) * whole, stalled * whole
