"""Small batches of a dataset that lies in memory: the training loop gathers them itself.

Runs in: consumer.

To gather such a batch takes less of the training loop's time than to take it from a worker. So
nothing is gained by workers, whatever ``num_workers`` says; and nothing of the user's runs in them,
so nobody can tell. Order and random draws are those of a loader with workers: as many batches of
indices are drawn ahead.
"""

from __future__ import annotations

from typing import Any

from torch.utils.data import default_collate

from fastload._epoch import resume
from fastload._epoch.inline import InlineIterator
from fastload._epoch.loader import Loader
from fastload.datasets.gather import gatherer
from fastload.datasets.kinds import sample_bytes
from fastload.stats.counters import new_counters

LARGEST_BATCH_BYTES = 1 << 17
"""Up to this size, gathering takes the training loop no longer than taking it from a worker.

Shuffled rows of a TensorDataset, batches of 256, CPU time of the consumer here against with two
workers: 51 and 82 µs for 16 KiB, 76 and 78 for 128 KiB, 187 and 101 for 256 KiB.
"""


def needs_no_workers(loader: Loader) -> bool:
    """Whether a loader's batches are gathered here although it may have workers."""
    if loader.batch_size is None or loader.worker_init_fn is not None:
        return False
    if loader.collate_fn is not default_collate:
        return False
    size_bytes = sample_bytes(loader.dataset)
    return (
        size_bytes is not None
        and size_bytes * loader.batch_size <= LARGEST_BATCH_BYTES
        and gatherer(loader.dataset) is not None
    )


class InMemory:
    """The way of loaders with workers whose batches are cheaper to gather than to send."""

    def __init__(self, before: InMemoryIterator | None, *, is_kept: bool) -> None:
        """``before`` is the iterator whose workers would be kept, if there had been any."""
        self.began = resume.NEW_WORKERS if before is None else resume.KEPT_WORKERS
        self.is_kept = is_kept
        self._before = before

    def begin(self, loader: Loader) -> InMemoryIterator:
        """Make the epoch's iterator."""
        return InMemoryIterator(loader, self._before)


def offer(loader: Loader, before: Any) -> InMemory | None:
    """Possible for small batches of a dataset in memory; an epoch so begun goes on so."""
    if loader.num_workers == 0:
        return None
    is_next = isinstance(before, InMemoryIterator)
    if not is_next and (before is not None or not needs_no_workers(loader)):
        return None
    tuner = loader._live.tuner_of(loader)
    if tuner is not None:
        tuner.reason = "not used: to gather these batches takes less than to send them"
    return InMemory(before, is_kept=loader.persistent_workers)


class InMemoryIterator(InlineIterator):
    """Gathers small batches of a dataset in memory in the training process."""

    _is_live = False  # workers would have a dataset of their own

    def __init__(self, loader: Loader, before: InMemoryIterator | None) -> None:
        """Begin an epoch; ``before`` is the iterator whose workers would be kept."""
        self._draw_as_with_workers(loader, before)
        self._profile_name = "enumerate(DataLoader)#_MultiProcessingDataLoaderIter.__next__"
        self._start(loader, new_counters())
        self._start_sampler(loader)
        self._ahead = loader.prefetch_factor * loader.num_workers
        self._draws.fill(self._ahead)

    _workers: tuple[()] = ()

    def _shutdown_workers(self) -> None:
        """What trainers call of torch's iterator."""
