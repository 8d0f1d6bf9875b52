"""What one epoch did, as frozen records: the public ``Stats`` and its parts.

Runs in: consumer.
Gives: records that anyone may keep; nothing in them changes later.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from fastload.errors import show
from fastload.stats.rows import STAGES


@dataclass(frozen=True)
class Timing:
    """The time of one stage in seconds: over the whole epoch, and for each batch.

    The quantiles are over the newest 4,096 batches.
    """

    total_s: float = 0.0
    mean_s: float = 0.0
    p50_s: float = 0.0
    p95_s: float = 0.0
    p99_s: float = 0.0


@dataclass(frozen=True)
class Stages:
    """The time of every stage on a batch's way.

    Attributes:
        sampler: The training process draws the indices of one more batch and sends them.
        fetch: A worker gets the samples from the dataset.
        fetch_cpu: CPU time of fetching; the rest of ``fetch`` was spent waiting. With
            ``concurrent_samples`` that of all threads, which may be more than ``fetch``.
        collate: A worker makes a batch of the samples.
        write: A worker copies into shared memory what was not collated there.
        hand_off: From the worker's last stamp, or from the moment the consumer asked if that was
            later, until the batch is the training loop's.
        reorder: A batch was ready and waited for one that comes before it in the order.
        pin: The batch is copied into page-locked memory.
        wait: The training loop was inside ``next``.
        busy: The training loop was outside of ``next``: its training step.
    """

    sampler: Timing = Timing()
    fetch: Timing = Timing()
    fetch_cpu: Timing = Timing()
    collate: Timing = Timing()
    write: Timing = Timing()
    hand_off: Timing = Timing()
    reorder: Timing = Timing()
    pin: Timing = Timing()
    wait: Timing = Timing()
    busy: Timing = Timing()


@dataclass(frozen=True)
class WorkerStats:
    """What one worker did; number -1 is the training process itself.

    Attributes:
        worker_id: The worker's number.
        batches: Batches that it loaded and that were delivered.
        samples: Samples in them.
        busy_s: Time that it spent loading them: fetch, collate and write.
        cpu_s: CPU time of loading them.
        peak_bytes: Its largest resident memory, shared memory included; 0 if not known.
    """

    worker_id: int
    batches: int
    samples: int
    busy_s: float
    cpu_s: float
    peak_bytes: int


@dataclass(frozen=True)
class SlowSample:
    """A sample that took long: its index in the dataset, as text."""

    index: str
    elapsed_s: float


MOST_SKIPPED_NAMED = 1000
"""Number of skipped samples that are named; all are counted."""


@dataclass(frozen=True)
class SkippedSample:
    """A sample that could not be loaded: its index, or position in a stream, and the error."""

    index: Any
    error: str


@dataclass(frozen=True)
class Stats:
    """What one epoch did so far; times are in seconds, sizes in bytes.

    Attributes:
        batches: Batches delivered.
        samples: Samples in them; a stream's last batch counts as a full one.
        elapsed_s: Since the epoch began, up to the last delivery.
        wait_s: Time the training loop waited inside ``next``.
        busy_s: Time the training loop spent on its steps.
        fetch_s: Time spent in the dataset, added up over workers.
        collate_s: Time spent in collate, likewise.
        write_s: Time workers spent copying into shared memory, likewise.
        worker_cpu_s: CPU time of workers, added up.
        shared_bytes: Bytes that crossed in shared memory.
        largest_batch_bytes: The largest batch in shared memory, of the newest.
        ready_batches: Batches that were ready when the training loop asked for one, on average.
        stages: Each stage's time.
        workers: Each worker's part.
        slowest: The slowest samples, where samples take long enough to be timed singly.
        choice: What ``num_workers="auto"`` chose and why; empty otherwise.
        errors: Samples that could not be loaded and were left out or replaced (``on_error``).
        skipped: The first thousand of these samples.
        worker_restarts: Workers that died and were started again.
    """

    batches: int
    samples: int
    elapsed_s: float
    wait_s: float
    busy_s: float
    fetch_s: float
    collate_s: float
    write_s: float
    worker_cpu_s: float
    shared_bytes: int
    largest_batch_bytes: int
    ready_batches: float
    stages: Stages
    workers: tuple[WorkerStats, ...]
    slowest: tuple[SlowSample, ...]
    choice: str = ""
    errors: int = 0
    skipped: tuple[SkippedSample, ...] = ()
    worker_restarts: int = 0

    @property
    def stall_share(self) -> float:
        """Part of the time that the training loop spent waiting, from 0 to 1."""
        return self.wait_s / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def samples_per_s(self) -> float:
        """Samples delivered per second."""
        return self.samples / self.elapsed_s if self.elapsed_s else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values that ``json`` can write."""
        skipped = [{"index": show(each.index), "error": each.error} for each in self.skipped]
        plain = dataclasses.asdict(dataclasses.replace(self, skipped=()))
        derived = {"stall_share": self.stall_share, "samples_per_s": self.samples_per_s}
        return {**plain, **derived, "skipped": skipped}

    def scalars(self) -> dict[str, float]:
        """The figures that are worth plotting over time, by flat names such as ``fetch_p95_s``."""
        plain = {
            "batches": self.batches,
            "samples": self.samples,
            "stall_share": self.stall_share,
            "samples_per_s": self.samples_per_s,
            "ready_batches": self.ready_batches,
            "shared_bytes": self.shared_bytes,
            "workers": len(self.workers),
            "errors": self.errors,
            "worker_restarts": self.worker_restarts,
        }
        for stage in STAGES:
            for name, value in dataclasses.asdict(getattr(self.stages, stage)).items():
                plain[f"{stage}_{name}"] = value
        return {name: float(value) for name, value in plain.items()}

    def send(self, sink: Any, step: int | None = None, prefix: str = "fastload/") -> None:
        """Give the figures to a sink.

        Args:
            sink: A TensorBoard writer, or whatever has ``add_scalar(name, value, step)``; or a
                callable, which gets a dict of names and values.
            step: Number of the training step, for a writer.
            prefix: Goes before each name.

        Example:
            >>> import fastload
            >>> loader = fastload.DataLoader(list(range(6)), batch_size=4)
            >>> for batch in loader: pass
            >>> found = {}
            >>> loader.stats().send(found.update)
            >>> found["fastload/batches"]
            2.0
        """
        figures = {prefix + name: value for name, value in self.scalars().items()}
        if hasattr(sink, "add_scalar"):
            for name, value in figures.items():
                sink.add_scalar(name, value, step)
        else:
            sink(figures)

    def to_prometheus(self, **labels: str) -> str:
        """The figures in Prometheus' text format, for a file of its node exporter or a handler.

        Source: https://prometheus.io/docs/instrumenting/exposition_formats/
        """
        inside = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
        named = f"{{{inside}}}" if inside else ""
        lines = []
        for name, value in self.scalars().items():
            lines += [f"# TYPE fastload_{name} gauge", f"fastload_{name}{named} {value!r}"]
        return "\n".join(lines) + "\n"


def _escaped(value: str) -> str:
    return str(value).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
