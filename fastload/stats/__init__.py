"""Where the time of an epoch went: what ``loader.stats()`` gives, and how it is counted.

Runs in: consumer.
Takes: the stamps that travel with each batch.
Gives: ``Stats``, a frozen record of the epoch so far.
"""

from fastload.stats.snapshot import SkippedSample, SlowSample, Stages, Stats, Timing, WorkerStats

__all__ = ["SkippedSample", "SlowSample", "Stages", "Stats", "Timing", "WorkerStats"]
