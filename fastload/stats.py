"""Where each batch's time went.

Runs in: consumer.
Takes: the stamps that come with each batch and the consumer's own waiting.
Gives: a frozen snapshot at any time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import heapq
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastload.errors import show
from fastload.messages import Loaded
from fastload.rows import STATIONS, Array, Rows, columns, durations

MOST_SLOWEST = 10
"""Slow samples that are remembered."""


@dataclass(frozen=True)
class Timing:
    """What one station took, in seconds: over the whole epoch, and a batch.

    The quantiles are over the newest 4,096 batches.
    """

    total_s: float = 0.0
    mean_s: float = 0.0
    p50_s: float = 0.0
    p95_s: float = 0.0
    p99_s: float = 0.0


@dataclass(frozen=True)
class Stations:
    """Every station on a batch's way.

    Attributes:
        sampler: The consumer draws the indices of one batch more and sends them.
        fetch: A worker gets the samples from the dataset.
        fetch_cpu: CPU time of that; what is missing to ``fetch`` was waiting.
        collate: A worker makes a batch of them.
        write: A worker copies into shared memory what was not collated there.
        hand_off: From the worker's last stamp, or from the moment the consumer asked if that was
            later, until the batch is the training loop's.
        reorder: A batch was ready and waited for one before it.
        pin: The batch is copied into page-locked memory.
        wait: The training loop was inside ``next``.
        busy: The training loop was elsewhere: its step.
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
    """What one worker did; -1 is the training process itself.

    Attributes:
        worker_id: Its number.
        batches: Batches of it that were delivered.
        samples: Samples in them.
        busy_s: Time it spent on them: fetch, collate and write.
        cpu_s: CPU time of that.
        peak_bytes: The most memory it had resident, with what it shares; 0 if not known.
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


@dataclass(frozen=True)
class SkippedSample:
    """A sample that could not be loaded: its index, or position in a stream, and the error."""

    index: Any
    error: str


@dataclass(frozen=True)
class Stats:
    """One epoch so far; times in seconds, sizes in bytes.

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
        stations: Each station's time.
        workers: Each worker's part.
        slowest: The slowest samples, where samples take long enough to be timed singly.
        choice: What ``num_workers="auto"`` chose and why; empty otherwise.
        errors: Samples that could not be loaded and were left out or replaced (``on_error``).
        skipped: The first thousand of them.
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
    stations: Stations
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
        """Values that ``json`` can write."""
        skipped = [{"index": show(each.index), "error": each.error} for each in self.skipped]
        plain = dataclasses.asdict(dataclasses.replace(self, skipped=()))
        derived = {"stall_share": self.stall_share, "samples_per_s": self.samples_per_s}
        return {**plain, **derived, "skipped": skipped}

    def scalars(self) -> dict[str, float]:
        """The figures that one watches over time, by flat names such as ``fetch_p95_s``."""
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
        for station in STATIONS:
            for name, value in dataclasses.asdict(getattr(self.stations, station)).items():
                plain[f"{station}_{name}"] = value
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


MOST_RECENT = 16
"""Epochs of a recording that are kept with every row, although nobody else has them any more."""


class Recording:
    """Every epoch that any loader begins in this process; of those that are over, the sums."""

    def __init__(self) -> None:
        self.is_over = False
        self._begun: list[weakref.ref[Counters]] = []  # replaced, never changed: threads read it
        self._recent: deque[Counters] = deque(maxlen=MOST_RECENT)
        self._ended: list[Stats] = []

    def begin(self, counters: Counters) -> None:
        """An epoch begins."""
        alive = [each for each in self._begun if each() is not None]
        self._begun = [*alive, weakref.ref(counters)]
        self._recent.append(counters)

    def end(self, counters: Counters) -> None:
        """Nobody has this epoch any more."""
        if self.is_over:
            return
        self._ended.append(dataclasses.replace(counters.snapshot(), slowest=(), skipped=()))

    def running(self) -> tuple[Counters, ...]:
        """The epochs that may be running, and the newest that are over."""
        found = [each() for each in self._begun]
        return tuple(each for each in found if each is not None)

    def snapshots(self) -> list[Stats]:
        """Of all epochs, up to now."""
        return [*self._ended, *(each.snapshot() for each in self.running())]


_recording: Recording | None = None


@contextlib.contextmanager
def recording() -> Iterator[Recording]:
    """Collect what every epoch counts that any loader begins in this process."""
    global _recording  # noqa: PLW0603
    before, _recording = _recording, Recording()
    try:
        yield _recording
    finally:
        _recording.is_over = True
        _recording = before


class Counters:
    """What is counted while batches pass; one iterator's own."""

    def __init__(self) -> None:
        self.describe_choice: Callable[[], str] = str
        self._started_ns = self._latest_ns = time.monotonic_ns()
        self._failed_ns = 0
        self._rows = Rows()
        self._slowest: list[tuple[int, str]] = []
        self._errors = 0
        self._skipped: list[SkippedSample] = []
        self._restarts = 0
        self._recording = _recording
        if _recording is not None:
            _recording.begin(self)

    def __del__(self) -> None:
        """Leave the sums with whoever records."""
        if getattr(self, "_recording", None) is not None:
            self._recording.end(self)  # type: ignore[union-attr]  # it is not None

    def failed(self, elapsed_ns: int) -> None:
        """The training loop waited this long and got an exception."""
        self._failed_ns += elapsed_ns

    def delivered(
        self, report: Loaded, worker_id: int, asked_ns: int, got_ns: int, requested_ns: int
    ) -> int:
        """A batch goes to the training loop; returns its number here."""
        samples, started, fetched, collated, written, fetch_cpu, cpu, slowest, slowest_ns, peak = (
            report.stamps
        )
        if slowest:
            self._note_slow(slowest_ns, slowest)
        self._latest_ns = left_ns = time.monotonic_ns()
        # fmt: off
        return self._rows.add((
            worker_id, samples, report.used_bytes, peak, started, fetched, collated, written,
            fetch_cpu, cpu, asked_ns, got_ns, left_ns, requested_ns - got_ns, 0,
        ))
        # fmt: on

    def pinned(self, number: int, elapsed_ns: int) -> None:
        """The batch of that number was copied into page-locked memory."""
        self._latest_ns += elapsed_ns
        self._rows.pinned(number, elapsed_ns)

    def loaded_inline(
        self, watch: Any, samples: int, asked_ns: int, drawn: tuple[int, int], pin_ns: int
    ) -> None:
        """A batch was loaded by the training loop itself; ``drawn`` is when it had its indices.

        ``drawn`` has two members: the moment, and the thread's CPU time at it.
        """
        if watch.slowest:
            self._note_slow(watch.slowest_ns, watch.slowest)
        self._latest_ns = left_ns = time.monotonic_ns()
        collated_ns = left_ns - pin_ns
        drawn_ns, drawn_cpu_ns = drawn
        fetch_cpu_ns = watch.fetch_cpu_ns - drawn_cpu_ns
        cpu_ns = fetch_cpu_ns + collated_ns - watch.fetched_ns  # collate hardly ever waits
        self._rows.add(
            (
                *(-1, samples, 0, 0, drawn_ns, watch.fetched_ns, collated_ns, collated_ns),
                *(fetch_cpu_ns, cpu_ns, asked_ns, asked_ns, left_ns, drawn_ns - asked_ns, pin_ns),
            )
        )

    @property
    def delivered_batches(self) -> int:
        """So far."""
        return self._rows.count

    @property
    def latest_ns(self) -> int:
        """When the newest batch was delivered, or the epoch began."""
        return self._latest_ns

    def rows(self) -> Array:
        """The newest rows, for whoever wants to know more than a snapshot says."""
        return self._rows.newest()

    def restarted(self) -> None:
        """A worker had died and was started again."""
        self._restarts += 1

    def skipped(self, samples: Iterable[SkippedSample]) -> int:
        """Samples could not be loaded; returns how many in all."""
        for sample in samples:
            self._errors += 1
            if self._errors <= MOST_SKIPPED_NAMED:
                self._skipped.append(sample)
        return self._errors

    def snapshot(self) -> Stats:
        """The epoch so far; takes about a millisecond."""
        rows, workers = self._rows.newest(), self._rows.sums_by_worker()
        total = {
            name: sum(sums[name] for sums in workers.values())
            for name in (*STATIONS, "batches", "samples", "shared_bytes", "cpu")
        }
        elapsed_ns = self._latest_ns - self._started_ns
        total["wait"] += self._failed_ns
        return Stats(
            batches=total["batches"],
            samples=total["samples"],
            elapsed_s=elapsed_ns / 1e9,
            wait_s=total["wait"] / 1e9,
            busy_s=total["busy"] / 1e9,
            fetch_s=total["fetch"] / 1e9,
            collate_s=total["collate"] / 1e9,
            write_s=total["write"] / 1e9,
            worker_cpu_s=total["cpu"] / 1e9,
            shared_bytes=total["shared_bytes"],
            largest_batch_bytes=int(columns(rows)["shared_bytes"].max(initial=0)),
            ready_batches=ready_batches(rows),
            stations=_stations(rows, total),
            workers=tuple(_worker(number, workers[number]) for number in sorted(workers)),
            slowest=tuple(
                SlowSample(index, elapsed_ns / 1e9)
                for elapsed_ns, index in sorted(self._slowest, reverse=True)
            ),
            choice=self.describe_choice(),
            errors=self._errors,
            skipped=tuple(self._skipped),
            worker_restarts=self._restarts,
        )

    def _note_slow(self, elapsed_ns: int, index: str) -> None:
        if len(self._slowest) < MOST_SLOWEST:
            heapq.heappush(self._slowest, (elapsed_ns, index))
        elif elapsed_ns > self._slowest[0][0]:
            heapq.heapreplace(self._slowest, (elapsed_ns, index))


def _stations(rows: Array, total: dict[str, int]) -> Stations:
    if not len(rows):
        return Stations()
    batches = total["batches"]
    took = durations(rows)
    took["busy"] = took["busy"][:-1] if len(rows) > 1 else took["busy"]
    return Stations(
        **{
            station: Timing(
                total[station] / 1e9,
                total[station] / batches / 1e9,
                *(np.quantile(took[station], (0.5, 0.95, 0.99)) / 1e9).tolist(),
            )
            for station in STATIONS
        }
    )


def _worker(number: int, sums: dict[str, int]) -> WorkerStats:
    return WorkerStats(
        number,
        sums["batches"],
        sums["samples"],
        (sums["fetch"] + sums["collate"] + sums["write"]) / 1e9,
        sums["cpu"] / 1e9,
        sums["peak_bytes"],
    )


def ready_batches(rows: Array) -> float:
    """How many of the delivered batches were written, and not taken, at each asking; the mean."""
    of = columns(rows)
    if not len(rows) or of["worker"][-1] < 0:
        return 0.0
    written = np.searchsorted(np.sort(of["written"]), of["asked"], side="right")
    return float(np.maximum(0, written - np.arange(len(rows))).mean())
