"""The DataLoader: torch's signature and our options, checked once; picks the way.

Runs in: consumer.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Iterable
from multiprocessing.context import BaseContext
from types import TracebackType
from typing import Any, Literal, TypeVar

import torch.utils.data
from torch.utils.data import Dataset, IterableDataset, Sampler
from typing_extensions import Self

from fastload import _arguments as rebuild
from fastload._autotune import numbers as auto
from fastload._epoch import resume
from fastload._epoch.in_memory import InMemoryIterator, needs_no_workers
from fastload._epoch.inline import InlineIterator
from fastload._loader_state import LoaderState
from fastload._loading.on_error import OnError
from fastload.integrations import lightning
from fastload.samplers.random import RandomSampler
from fastload.stats.snapshot import Stats

HAS_OWN_WORKERS = os.name == "posix"
"""Elsewhere workers are torch's own: Windows has no pipes that can be waited for in one call."""

if HAS_OWN_WORKERS:
    from fastload._autotune.segmented_epoch import AutoIterator
    from fastload._epoch.with_workers import WorkersIterator

T_co = TypeVar("T_co", covariant=True)


class DataLoader(torch.utils.data.DataLoader[T_co]):
    """A drop-in replacement for ``torch.utils.data.DataLoader``.

    Every argument of torch's, in torch's order and with torch's meaning and defaults; the same
    batches in the same order, with the same random numbers. Batches are ordinary tensors and stay
    valid for as long as anything refers to them.

    Args:
        dataset: Map-style (``__getitem__``) or iterable-style (``IterableDataset``).
        batch_size: Samples a batch; None turns automatic batching off.
        shuffle: Draw samples in random order each epoch.
        sampler: Which samples, in which order; excludes ``shuffle``.
        batch_sampler: Yields the indices of a whole batch; excludes ``batch_size``, ``shuffle``,
            ``sampler`` and ``drop_last``.
        num_workers: Worker processes; 0 loads in the calling process, and so does any number where
            the dataset lies in memory and batches are small, where sending them would take longer.
            "auto": chosen while the first epoch runs, so that the training loop does not wait;
            ``stats().choice`` says why.
        collate_fn: Makes a batch of a list of samples.
        pin_memory: Copy batches into page-locked memory where an accelerator is present.
        drop_last: Leave out a last batch that is not full.
        timeout: Seconds to wait for a batch from workers; 0 waits for ever.
        worker_init_fn: Called with the worker's number in each worker, after seeding.
        multiprocessing_context: ``"fork"``, ``"forkserver"``, ``"spawn"``, or a context object.
        generator: Source of the random order and of the workers' seeds.
        prefetch_factor: Batches loaded ahead by each worker; 2 with workers. "auto": chosen too.
        persistent_workers: Keep the workers from one epoch to the next.
        pin_memory_device: Deprecated by torch; without effect.
        in_order: Deliver in the sampler's order; False: as batches are ready.
        snapshot_every_n_steps: For programs written for torchdata's StatefulDataLoader; a state
            here is always exact.
        memory_limit: Bytes of shared memory the loader's workers may take. None: a quarter of
            what is free, in this machine and in its memory cgroup. What does not fit is sent
            through a pipe: slower, equal.
        max_worker_restarts: How many workers, in all, are started again when they die (killed,
            crashed) instead of raising ``WorkerDied``. What they had not delivered is loaded again:
            every sample once, in order, with other random draws than without the death. Streams
            only if the dataset has ``state_dict`` and ``load_state_dict``.
        on_error: What becomes of a sample whose loading raises: ``"raise"``; ``"skip"``: its batch
            is smaller, and left out if nothing is left of it; or ``on_error(error, index)``, called
            where the sample is loaded, that returns a sample to use instead, or None to leave it
            out. ``stats()`` counts and names them. Errors in ``collate_fn`` are always raised.
        max_errors: How many samples of an epoch may fail before ``TooManyErrors`` is raised.

    Raises:
        ValueError: As torch's, for arguments that exclude each other; or an option of ours that
            is out of range.

    Example:
        >>> loader = DataLoader(list(range(6)), batch_size=4)
        >>> [batch.tolist() for batch in loader]
        [[0, 1, 2, 3], [4, 5]]
    """

    _own_order: bool | None = None

    def __init__(
        self,
        dataset: Dataset[T_co],
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Sampler[Any] | Iterable[Any] | None = None,
        batch_sampler: Sampler[list[Any]] | Iterable[list[Any]] | None = None,
        num_workers: int | Literal["auto"] = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: BaseContext | str | None = None,
        generator: torch.Generator | None = None,
        *,
        prefetch_factor: int | Literal["auto"] | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
        snapshot_every_n_steps: int | None = 1,
        memory_limit: int | None = None,
        max_worker_restarts: int = 0,
        on_error: OnError = "raise",
        max_errors: int = 100,
    ) -> None:
        if memory_limit is not None and memory_limit < 0:
            raise ValueError(f"memory_limit is a number of bytes, but got {memory_limit!r}")
        if max_worker_restarts < 0 or max_errors < 0:
            raise ValueError(
                f"max_worker_restarts and max_errors count from 0, but got "
                f"{max_worker_restarts!r} and {max_errors!r}"
            )
        if on_error not in ("raise", "skip") and not callable(on_error):
            raise ValueError(
                f"on_error is 'raise', 'skip' or a function (error, index) -> sample or None, "
                f"but got {on_error!r}"
            )
        self.snapshot_every_n_steps = snapshot_every_n_steps
        self.memory_limit = memory_limit
        self.max_worker_restarts = max_worker_restarts
        self.on_error = on_error
        self.max_errors = max_errors
        self._own_order = bool(shuffle) if sampler is None and batch_sampler is None else None
        self._live = LoaderState()
        workers, prefetch = auto.resolve(num_workers, prefetch_factor)
        super().__init__(
            dataset,
            batch_size,
            shuffle,
            sampler,
            batch_sampler,
            workers,
            collate_fn,
            pin_memory,
            drop_last,
            timeout,
            worker_init_fn,
            multiprocessing_context,
            generator,
            prefetch_factor=prefetch,
            persistent_workers=persistent_workers,
            pin_memory_device=pin_memory_device,
            in_order=in_order,
        )
        if collate_fn is None and hasattr(type(dataset), "warn_of_loader"):
            dataset.warn_of_loader(self.batch_size)  # type: ignore[attr-defined]
        if sampler is None and type(self.sampler) is torch.utils.data.RandomSampler:
            # The one that torch made just now; ours draws the same and needs less memory.
            self.sampler.__class__ = RandomSampler

    def __iter__(self) -> Any:
        """Begin an epoch.

        With persistent workers, ``_iterator`` is the newest iterator and keeps them. An iterator
        that somebody still holds goes on beside the new one, on the same workers.
        """
        if not HAS_OWN_WORKERS:
            return super().__iter__()
        tuner = self._live.tuner_of(self)
        if self.num_workers > 0 and needs_no_workers(self):
            if tuner is not None:
                tuner.reason = "not used: to gather these batches takes less than to send them"
            return self._gather()
        if tuner is not None and not (tuner.is_settled and self.num_workers > 0):
            return self._choose(tuner)
        if not (self.persistent_workers and self.num_workers > 0):
            return self._get_iterator()
        before: Any = self._iterator
        # A trainer that replays attributes on a copy may have given us another loader's iterator.
        kept_workers = getattr(before, "kept_workers", None) if self._live.owns(before) else None
        del before
        self._iterator = None
        if kept_workers is None or not kept_workers.is_usable:
            self._iterator = self._get_iterator()
        else:
            self._iterator = self._begin(
                lambda: WorkersIterator(self, kept_workers), resume.KEPT_WORKERS
            )
        return self._iterator

    def _get_iterator(self) -> Any:
        if self.num_workers == 0:
            return self._begin(lambda: InlineIterator(self), resume.INLINE)
        if not HAS_OWN_WORKERS:
            return super()._get_iterator()
        return self._begin(lambda: WorkersIterator(self), resume.NEW_WORKERS)

    def _choose(self, tuner: Any) -> Any:
        """Begin an epoch of which the number of workers is being chosen, or was chosen as 0."""
        before: Any = self._iterator if self._live.owns(self._iterator) else None
        if not isinstance(before, AutoIterator):
            before = None
        began = resume.NEW_WORKERS if before is None else resume.KEPT_WORKERS
        iterator = self._begin(lambda: AutoIterator(self, tuner, before), began)
        self._iterator = iterator if self.persistent_workers else None
        return iterator

    def _gather(self) -> Any:
        before: Any = self._iterator if self._live.owns(self._iterator) else None
        if not isinstance(before, InMemoryIterator):
            before = None
        began = resume.NEW_WORKERS if before is None else resume.KEPT_WORKERS
        iterator = self._begin(lambda: InMemoryIterator(self, before), began)
        self._iterator = iterator if self.persistent_workers else None
        return iterator

    def _begin(self, make_iterator: Callable[[], Any], began: str) -> Any:
        """Make an iterator, at the beginning of an epoch or where a loaded state says."""
        state, self._live.state = self._live.state, None
        start = resume.start_of(state)
        if state is None or start is None:
            position = resume.EpochPosition(resume.draw_start(self, began), 0)
            return self._live.add(make_iterator(), position)
        delivered = state["_sampler_iter_yielded"]
        is_stream = isinstance(self.dataset, IterableDataset)
        is_replayed = is_stream and state["dataset_state"] is None
        if state["dataset_state"] is not None:
            self.dataset.load_state_dict(state["dataset_state"])  # type: ignore[attr-defined]
        rest = None if is_stream else resume.Remainder(start, delivered)
        with resume.with_saved_rng(self, start), self._live.resuming(rest):
            iterator = make_iterator()
        self._live.add(iterator, resume.EpochPosition(start, 0 if is_replayed else delivered))
        if is_replayed:
            for _ in itertools.islice(iterator, delivered):
                pass
        return iterator

    def __len__(self) -> int:
        """Number of batches; exact for a ``ParquetStream``, which knows what each worker reads."""
        dataset: Any = self.dataset
        streams: Any = sys.modules.get("fastload.datasets.stream")  # who has none needs no pyarrow
        if streams is None or not isinstance(dataset, streams.ParquetStream):
            return super().__len__()
        length: int = dataset.count_batches(
            self.num_workers, self.batch_size, drop_last=self.drop_last
        )
        return length

    def replace(self, **changes: Any) -> Self:
        """Make a loader like this one, with some arguments changed.

        Arguments are read from this loader's attributes. An order that the loader made itself,
        with ``shuffle`` or without, is made anew; a sampler or batch sampler that it was given is
        given to the new one too. A new ``batch_sampler`` takes the place of everything that says
        order and size of batches; ``batch_sampler=None`` drops the one this loader was given.
        ``num_workers=0`` drops what needs workers.

        Args:
            **changes: Arguments of this loader's class.

        Returns:
            A new, idle loader of the same class. Workers and the place in an epoch are not shared.

        Raises:
            TypeError: As the constructor, for an argument it does not know.
            ValueError: As the constructor, for arguments that exclude each other.

        Example:
            >>> loader = DataLoader(range(6), batch_size=4, drop_last=True)
            >>> [batch.tolist() for batch in loader.replace(batch_size=2)]
            [[0, 1], [2, 3], [4, 5]]
        """
        return type(self)(**rebuild.arguments_for(self, changes))

    def state_dict(self) -> dict[str, Any]:
        """Where the newest epoch stands: the batches delivered so far, not those prefetched.

        Plain values and tensors, safe for ``torch.load(weights_only=True)``, new at each call; with
        torchdata's keys where it has them. Takes microseconds.
        """
        if self._live.state is not None:
            return dict(self._live.state)
        return resume.save(self, self._live.position)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Make the next ``iter(loader)`` go on where ``state_dict`` was taken.

        A map-style epoch goes on without loading what was delivered, also with another number of
        workers: every sample once, in the same order. A stream is read again and what was
        delivered is thrown away; with ``num_workers=0`` and a dataset that has ``state_dict``, the
        dataset goes on by itself. Random draws inside the dataset are not promised to continue.

        Raises:
            ValueError: The state does not fit this loader.
        """
        resume.check(self, state_dict)
        self._live.state = dict(state_dict)
        if lightning.is_calling("load_state_dict") and resume.is_delivered(self, state_dict):
            self._live.state["_iterator_finished"] = True

    def stats(self) -> Stats:
        """Where the time of the newest epoch went, up to now; all zero before the first."""
        return self._live.counters.snapshot()

    def watch(self) -> contextlib.AbstractContextManager[None]:
        """Show how this loader does, at the bottom of the terminal, while a ``with`` block runs.

        Throughput, the share of time spent waiting, batches that are ready, and a verdict, over the
        last seconds. On stderr; nothing is shown where that is not a terminal.

        Example:
            >>> loader = DataLoader(list(range(6)), batch_size=4)
            >>> with loader.watch():
            ...     batches = list(loader)
        """
        from fastload.tools.live import watching

        return watching(lambda: [self._live.counters])

    def close(self) -> None:
        """End all workers of this loader within about two seconds, and free its shared memory.

        Iterators that are still open raise; a new ``iter(loader)`` starts new workers.
        """
        self._iterator = None
        self._live.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """A loader is pickled and copied without its iterators."""
        return {**vars(self), "_iterator": None, "_live": LoaderState()}
