"""When a fetcher had its samples, and which of them took longest.

Runs in: worker (consumer with ``num_workers=0``).

One clock reading a batch, and two a sample where samples are slow enough not to notice.
"""

from __future__ import annotations

import sys
import time
from typing import Any, Final

from fastload.errors import show

SLOW_NS: Final = 50_000
"""From this mean on, samples are timed one by one: it costs 0.3 microseconds each."""


class Watch:
    """The clock of one fetcher, which is read after each batch.

    Attributes:
        fetched_ns: When the samples of the newest batch were there, not collated yet.
        fetch_cpu_ns: The thread's CPU time at that moment, and ``elsewhere_cpu_ns``.
        elsewhere_cpu_ns: CPU time that other threads took for the samples of that batch.
        slowest: Index of the slowest sample of that batch, as text; empty where nobody looked.
        slowest_ns: What it took.
    """

    def __init__(self) -> None:
        self.fetched_ns = 0
        self.fetch_cpu_ns = 0
        self.elsewhere_cpu_ns = 0
        self.slowest = ""
        self.slowest_ns = 0
        self._looks_closely = False

    def start(self, dataset: Any) -> Any:
        """Begin a batch; returns the dataset, with a clock where samples are slow."""
        self.begin()
        return _Clocked(dataset, self) if self._looks_closely else dataset

    def begin(self) -> None:
        """Begin a batch whose samples are not read through ``start``."""
        self.slowest = ""
        self.slowest_ns = 0
        self.elsewhere_cpu_ns = 0

    def saw(self, index: Any, elapsed_ns: int) -> None:
        """Note how long one sample took."""
        if elapsed_ns > self.slowest_ns:
            self.slowest_ns = elapsed_ns
            self.slowest = show(index)

    def fetched(self) -> None:
        """Note that the samples of the batch have been loaded."""
        self.fetch_cpu_ns = time.thread_time_ns() + self.elsewhere_cpu_ns
        self.fetched_ns = time.monotonic_ns()

    def note(self, samples: int, elapsed_ns: int) -> None:
        """Decide by how long a batch took whether samples of the next are timed singly."""
        self._looks_closely = elapsed_ns > samples * SLOW_NS


class _Clocked:
    """A dataset whose every access is timed."""

    __slots__ = ("_dataset", "_watch")

    def __init__(self, dataset: Any, watch: Watch) -> None:
        self._dataset = dataset
        self._watch = watch

    def __getitem__(self, index: Any) -> Any:
        started_ns = time.monotonic_ns()
        sample = self._dataset[index]
        elapsed_ns = time.monotonic_ns() - started_ns
        watch = self._watch
        if elapsed_ns > watch.slowest_ns:
            watch.slowest_ns = elapsed_ns
            watch.slowest = show(index)
        return sample


def peak_bytes() -> int:
    """The most memory that this process ever had resident, shared pages included; 0 if unknown."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
