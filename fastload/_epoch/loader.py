"""What the engine reads of a loader: one list of it, with the types.

Runs in: consumer.

``fastload.DataLoader`` is such a loader; the engine lies below it and does not import it. What is
read is read when an epoch begins, so what was set after construction counts.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch

from fastload._loading.crew import Crew
from fastload._loading.dataset_state import DatasetState
from fastload._loading.on_error import OnError
from fastload._memory.reuse import ArenaUser
from fastload._seeded.steps import Even

WorkerMethod = Literal["process", "thread"]
"""What workers are."""

if TYPE_CHECKING:
    from fastload._epoch.cut import WorkersPerBatch
    from fastload._epoch.resume import EpochPosition, Remainder
    from fastload._epoch.seeded_pass import EpochClock


class Live(Protocol):
    """What is alive of a loader, as far as the engine reads it; ``LoaderState`` says more."""

    state: dict[str, Any] | None
    rest: Remainder | None
    dataset_state: DatasetState | None
    arena_user: ArenaUser
    epochs: EpochClock
    crew: Crew

    def tuner_of(self, loader: Loader) -> Any:
        """The ``Tuner`` that chooses the workers of an automatic loader; None for any other."""

    def add(self, iterator: Any, position: EpochPosition) -> Any:
        """Take note of the iterator of the epoch that begins, and return it."""

    def resuming(self, rest: Remainder | None) -> contextlib.AbstractContextManager[None]:
        """Iterators made inside give the rest of an epoch."""

    def take_dataset_state(self) -> DatasetState | None:
        """What the dataset goes on from in the epoch that begins; for that one only."""


class Loader(Protocol):
    """A loader as the engine sees it: torch's arguments and ours, and what torch derives of them.

    The private names are torch's, but for ``_live`` and ``_own_order``. They are read of the loader
    and not kept, because subclasses override some of them.
    """

    dataset: Any
    batch_size: int | None
    drop_last: bool
    sampler: Any
    batch_sampler: Any
    num_workers: int
    prefetch_factor: Any  # a number, if there are workers
    persistent_workers: bool
    timeout: float
    collate_fn: Any
    worker_init_fn: Any
    multiprocessing_context: Any
    generator: torch.Generator | None
    in_order: bool
    worker_method: WorkerMethod
    memory_limit: int | None
    max_worker_restarts: int
    on_error: OnError
    max_errors: int
    num_replicas: int | None
    rank: int | None
    even: Even
    redo: bool
    workers_per_batch: WorkersPerBatch
    concurrent_samples: int

    _stream_seed: int | None
    """The seed of the stream; None without ``seed=``."""

    _own_order: bool | None
    """What ``shuffle`` said, if the loader made its sampler itself; otherwise None."""

    @property
    def _live(self) -> Live:
        """What is alive of the loader."""

    _IterableDataset_len_called: Any  # torch's annotation says None
    """What ``len`` of a stream has said, if it was asked; torch warns if more comes."""

    @property
    def _index_sampler(self) -> Any:
        """What yields the indices of batches, or single ones with automatic batching off."""

    @property
    def _auto_collation(self) -> bool:
        """Whether samples are made into batches."""

    def _begin_again(self, iterator: Any) -> None:
        """Let an iterator of ours begin the next epoch itself."""

    def __len__(self) -> int:
        """Number of batches."""
