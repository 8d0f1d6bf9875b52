"""Divide recorded batches into samples: what parts of them take, and samples loaded at a time.

Runs in: consumer.
Takes: what each batch waited and computed.
Gives: what each part of each batch takes, however much CPU time stretches.

Only whole batches are recorded. How unevenly their samples wait follows from how unevenly batches
do: the variance of a sum is the sum of the variances. What a batch waited is kept to the second.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Seconds = npt.NDArray[np.float64]

SLOW = 4.0
"""A batch that takes this many times the median is held up by a straggler."""

PART_S = 1e-4
"""CPU time for each part of a batch that is cut: its samples are written and read."""

HANDING_S = 8e-6
"""CPU time for each sample that is given to a thread and taken back."""

LEAST_SHAPE, MOST_SHAPE = 0.02, 100.0
"""Of the distribution of samples' waiting: from a few that wait for all to all alike."""


@dataclass(frozen=True)
class Work:
    """What has to be done for each batch, in seconds.

    Attributes:
        parts_s: Of each part, until its samples are there: ``(batches, parts)``.
        parts_cpu_s: CPU time in that, which overlaps with nothing in its worker.
        shared: By how many that are loaded at a time CPU time in ``parts_s`` is divided.
        after_s: CPU time for the batch as a whole, such as collating: ``(batches,)``.
    """

    parts_s: Seconds
    parts_cpu_s: Seconds
    shared: int
    after_s: Seconds

    @property
    def cpu_s(self) -> Seconds:
        """Return the CPU time of each batch: ``(batches,)``."""
        whole: Seconds = self.parts_cpu_s.sum(axis=1) + self.after_s
        return whole

    @property
    def wait_s(self) -> Seconds:
        """Return how long workers wait for each batch, if CPU time does not stretch."""
        waiting: Seconds = (self.parts_s - self.parts_cpu_s).sum(axis=1)
        return waiting

    def at(self, stretch: float) -> tuple[Seconds, Seconds]:
        """Return parts and what follows them, where CPU time takes so many times as long."""
        longer = self.parts_s + (stretch - 1) * self.parts_cpu_s / self.shared
        return np.maximum(longer, self.parts_cpu_s * stretch), self.after_s * stretch


def make_work(
    wait_s: Seconds, fetch_cpu_s: Seconds, after_s: Seconds, samples: int, parts: int, most: int
) -> Work:
    """Cut each batch into parts, in each of which ``most`` samples load at a time.

    Args:
        wait_s: What each batch waits, one sample after the other: ``(batches,)``.
        fetch_cpu_s: CPU time of its samples.
        after_s: CPU time for the batch as a whole.
        samples: Of each batch.
        parts: Of each batch.
        most: Samples that a worker loads at a time.
    """
    parts, most = min(parts, samples), min(most, samples)
    if parts == most == 1:
        whole = (wait_s + fetch_cpu_s)[:, None]
        return Work(whole, fetch_cpu_s[:, None], 1, after_s)
    handing_s = HANDING_S if most > 1 else 0.0
    cpu_s = fetch_cpu_s[:, None] / samples + np.full(samples, handing_s)
    chunks = np.array_split(np.arange(samples), parts)
    waits_s = divide(wait_s, samples)
    cutting_s = PART_S if parts > 1 else 0.0
    parts_cpu_s = np.stack([cpu_s[:, chunk].sum(axis=1) + cutting_s for chunk in chunks], axis=1)
    spans = [at_a_time(waits_s[:, chunk] + cpu_s[:, chunk], most) for chunk in chunks]
    parts_s = np.maximum(np.stack(spans, axis=1) + cutting_s, parts_cpu_s)
    return Work(parts_s, parts_cpu_s, min(most, len(chunks[0])), after_s)


def divide(wait_s: Seconds, samples: int) -> Seconds:
    """Return what each sample waits: ``(batches, samples)``, whose sums are ``wait_s``.

    What a slow batch waits beyond the median is the waiting of one sample.
    """
    generator = np.random.default_rng(0)
    median = float(np.median(wait_s))
    usual = np.where(wait_s > SLOW * median, median, wait_s) if median else wait_s
    shape = usual.mean() ** 2 / max(samples * usual.var(), 1e-30)
    shape = float(np.clip(shape, LEAST_SHAPE, MOST_SHAPE))
    shares = generator.gamma(shape, size=(len(wait_s), samples)) + 1e-12
    waits_s: Seconds = shares * (usual / shares.sum(axis=1))[:, None]
    slowest = generator.integers(samples, size=len(wait_s))
    waits_s[np.arange(len(wait_s)), slowest] += wait_s - usual
    return waits_s


def at_a_time(samples_s: Seconds, most: int) -> Seconds:
    """Return how long samples take of which the next begins when any of ``most`` ends.

    Args:
        samples_s: What each takes: ``(batches, samples)``.
        most: How many load at a time.

    Returns:
        Seconds until the last has ended: ``(batches,)``.
    """
    if most == 1:
        return samples_s.sum(axis=1)  # type: ignore[no-any-return]  # NumPy's own types
    free = np.zeros((len(samples_s), min(most, samples_s.shape[1])))
    batches = np.arange(len(free))
    for each in samples_s.T:
        free[batches, free.argmin(axis=1)] += each
    longest: Seconds = free.max(axis=1)
    return longest
