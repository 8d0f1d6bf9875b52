"""The DataLoader: it has torch's signature and our options, and chooses how an epoch is loaded.

Runs in: consumer.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from multiprocessing.context import BaseContext
from types import TracebackType
from typing import Any, Literal, TypeVar

import torch.utils.data
from torch.utils.data import Dataset, IterableDataset, Sampler
from typing_extensions import Self

from fastload._arguments import arguments_for
from fastload._autotune import numbers as auto
from fastload._checks import HAS_OWN_WORKERS, check_concurrency, check_method, check_options
from fastload._device.copying import DeviceIterator, HandedOut
from fastload._device.prefetcher import DEPTH, Said, mask_of
from fastload._epoch import in_memory, inline, resume
from fastload._epoch.cut import WorkersPerBatch, check_parts
from fastload._epoch.loader import WorkerMethod
from fastload._epoch.seeded_pass import NewestEpoch
from fastload._epoch.seeded_pass import count_batches as count_seeded_batches
from fastload._epoch.way import Offer, Way
from fastload._loader_state import LoaderState
from fastload._loading.on_error import OnError
from fastload._seeded import state as seeded_state
from fastload._seeded.options import StreamOptions
from fastload._seeded.sampler import StreamSampler, is_dealt
from fastload._seeded.steps import Even
from fastload.integrations import lightning
from fastload.samplers.epochs import natural
from fastload.samplers.random import RandomSampler
from fastload.stats.snapshot import Stats

if HAS_OWN_WORKERS:
    from fastload._autotune import segmented_epoch
    from fastload._epoch import seeded, with_threads, with_workers

    PLAIN: tuple[Offer, ...] = (
        seeded.offer,
        with_threads.offer,
        with_workers.offer,
        inline.offer,
    )
    OFFERS: tuple[Offer, ...] = (seeded.offer, in_memory.offer, segmented_epoch.offer, *PLAIN[1:])
    """Who is asked for a way to load an epoch, in this order (see ``fastload._epoch.way``)."""
else:
    PLAIN = OFFERS = (inline.offer,)

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
            what is free, in this machine and in its memory cgroup; ranks on one machine
            (``LOCAL_WORLD_SIZE``) share that quarter. What does not fit is sent
            through a pipe: slower, equal.
        max_worker_restarts: How many workers, in all, are started again when they die (killed,
            crashed) instead of raising ``WorkerDied``. What they had not delivered is loaded again:
            every sample once, in order, with other random draws than without the death. Streams
            only if the dataset, or its iterator, has ``state_dict`` and ``load_state_dict``.
        on_error: What becomes of a sample whose loading raises: ``"raise"``; ``"skip"``: its batch
            is smaller, and left out if nothing is left of it; or ``on_error(error, index)``, called
            where the sample is loaded, that returns a sample to use instead, or None to leave it
            out. ``stats()`` counts and names them. Errors in ``collate_fn`` are always raised.
        max_errors: How many samples of an epoch may fail before ``TooManyErrors`` is raised.
        seed: Makes what arrives depend on dataset, sampler, seed, epoch and position alone: not on
            the number of workers, of ranks, the batch size, or how often the run was interrupted.
            ``shuffle`` means the order of ``ShuffleSampler``; each ``iter`` is the next epoch;
            ranks get their parts without a ``DistributedSampler``. None: torch's behaviour.
        num_replicas: Number of ranks, with ``seed``. None: that of ``torch.distributed`` once it is
            initialised, else 1.
        rank: This rank, with ``seed``. None: likewise, else 0.
        even: What becomes of the last step where it is incomplete and there are several ranks, with
            ``seed``: "pad" fills it with the epoch's first samples; "mask" too, and ``mask()`` says
            where; "drop" leaves it out; "none" gives each rank what is left, possibly nothing.
        redo: With ``seed``: a batch in which a random generator is drawn from for the first time is
            loaded again, with that generator set. False: all are set in front of each sample from
            the start, which is slower and loads nothing twice.
        workers_per_batch: How many workers load one batch together, with ``seed``: its samples are
            cut into so many parts, and whoever is last collates them. The first batch comes sooner,
            and a slow sample holds up less. "auto": as many parts as are worth it, while batches
            are waited for. Samples are pickled on their way to the worker that collates them, so
            ``collate_fn`` gets equal objects, not the same ones: samples of one batch that shared
            memory no longer do. A dataset's ``__getitems__`` gets a part of the indices at a time.
        concurrent_samples: How many samples of its batch each worker (without workers, the calling
            process) loads at a time, for datasets that wait for an object store or HTTP:
            ``__getitem__`` is called in so many threads, and ``__getitems__`` is not. A dataset
            whose ``__getitem__`` or ``__getitems__`` is an ``async def`` is awaited in an event
            loop, one for each worker: ``__getitem__`` at most so many times at once,
            ``__getitems__`` as one call a batch. Order and errors are those of one at a time. It
            takes a map-style dataset (with ``seed`` also an iterable one with ``load(item)``) that
            may be called from several threads (where ``no_grad`` and a default device are unset)
            and draws no random numbers: the first sample of each worker is loaded alone, and a
            ``ValueError`` names what it drew from. Draws of later samples alone are not found. With
            ``batch_size=None`` there is one sample to load. On Ctrl-C no other sample is begun;
            those that load in threads end by themselves.
        worker_method: What workers are. "process"; or "thread": threads of this process, for data
            that can't be forked or pickled, for notebooks and for free-threaded Python. They share
            the dataset and the global random generators; batches arrive as the collate function
            returned them; a crash takes the program with it, and a thread that hangs can't be
            ended: ``timeout`` raises, ``close()`` leaves it behind with a warning, and it ends with
            the program at the latest. ``memory_limit`` is not used. With ``seed``, a dataset or
            collate function with generators of its own is copied for each thread, and one whose
            first batch draws from a global generator is refused.
        device: Copy batches there ahead of the training loop, as ``fastload.prefetch`` does; states
            and ``mask()`` count what was handed out. None, or the CPU: they stay as they are. Not
            yet measured on a GPU.

    Raises:
        ValueError: As torch's, for arguments that exclude each other; or an option of ours that
            is out of range.

    Example:
        >>> loader = DataLoader(list(range(6)), batch_size=4)
        >>> [batch.tolist() for batch in loader]
        [[0, 1, 2, 3], [4, 5]]
    """

    _own_order: bool | None = None
    _stream_seed: int | None = None
    """The argument ``seed``. A class of the user's may have an attribute ``seed`` of its own."""

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
        seed: int | None = None,
        num_replicas: int | None = None,
        rank: int | None = None,
        even: Even = "pad",
        redo: bool = True,
        workers_per_batch: WorkersPerBatch = 1,
        worker_method: WorkerMethod = "process",
        concurrent_samples: int = 1,
        device: torch.device | str | int | None = None,
    ) -> None:
        check_options(memory_limit, max_worker_restarts, on_error, max_errors)
        self.worker_method = worker_method
        self.device = None if device is None else torch.device(device)
        self.concurrent_samples = natural("concurrent_samples", concurrent_samples, least=1)
        check_concurrency(self.concurrent_samples, dataset, has_seed=seed is not None)
        self.snapshot_every_n_steps = snapshot_every_n_steps
        self.memory_limit = memory_limit
        self.max_worker_restarts = max_worker_restarts
        self.on_error = on_error
        self.max_errors = max_errors
        if seed is not None and is_dealt(batch_sampler):
            num_replicas, rank = 1, 0
        self.seed, self.num_replicas, self.rank, self.even = seed, num_replicas, rank, even
        self.redo, self.workers_per_batch = redo, workers_per_batch
        if seed is not None:
            self._stream_seed = seed
        if seed is not None and not HAS_OWN_WORKERS:
            raise ValueError(f"seed= is not supported on {os.name!r} systems; leave it out")
        if isinstance(sampler, StreamSampler):  # a trainer passes on the one that a loader made
            shuffle, sampler = sampler.shuffle, None
        self._own_order = bool(shuffle) if sampler is None and batch_sampler is None else None
        self._live = LoaderState()
        workers, prefetch = auto.resolve(num_workers, prefetch_factor)
        excluded = {
            "multiprocessing_context": (multiprocessing_context, "it starts no processes"),
            "max_worker_restarts": (
                max_worker_restarts,
                "a crash in a thread takes the program with it, so nothing is left to restart",
            ),
            "workers_per_batch": (workers_per_batch, "threads load whole batches"),
            "concurrent_samples": (concurrent_samples, "more threads (num_workers) do it too"),
        }
        is_automatic = any(isinstance(each, auto.Auto) for each in (workers, prefetch))
        check_method(worker_method, dataset, excluded, is_automatic=is_automatic)
        stream = StreamOptions(seed, num_replicas, rank, even, batch_size, drop_last)
        stream.check(
            dataset,
            (sampler, batch_sampler),
            generator,
            in_order=in_order,
            is_automatic=isinstance(workers, auto.Auto),
        )
        makes_batches = batch_size is not None or batch_sampler is not None
        check_parts(workers_per_batch, seed, dataset, workers, makes_batches=makes_batches)
        own_sampler: Any = sampler
        is_stream = isinstance(dataset, IterableDataset)
        if seed is not None and self._own_order is not None and not is_stream:
            own_sampler, shuffle = StreamSampler(stream, dataset, shuffle=self._own_order), None
        super().__init__(
            dataset,
            batch_size,
            shuffle,
            own_sampler,
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

    epoch = NewestEpoch()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass; with ``seed=`` each pass is the next one by itself.

        Without a seed, samplers and the dataset are told the epoch if they have ``set_epoch``.

        Raises:
            TypeError, ValueError: ``epoch`` is not an integer of at least zero.
        """
        self._live.handed_out = None
        self._live.epochs.set_epoch(self, epoch)

    def mask(self) -> torch.Tensor:
        """Which samples of the newest batch are no fillers: bool, ``(batch,)``; needs ``seed=``.

        Fillers are what ``even="pad"`` and ``even="mask"`` complete the last step of several ranks
        with. Leave them out of an evaluation: ``(correct & loader.mask()).sum()``.

        Raises:
            ValueError: The loader has no seed, or no batch was delivered yet.
        """
        handed_out = self._live.handed_out
        if handed_out is not None and handed_out.said.mask is not None:
            mask: torch.Tensor = handed_out.said.mask
            return mask
        return self._mask()

    def _mask(self) -> torch.Tensor:
        """The mask of the newest batch that was loaded, which may be ahead of the one in use."""
        newest = self._live.epochs.newest
        if newest is None or not newest.progress.yielded:
            raise ValueError(
                "mask() speaks of the newest batch of a loader with seed=; "
                + (
                    "no batch was delivered yet"
                    if self._stream_seed is not None
                    else "this one has none"
                )
            )
        return newest.mask(self._live.counters)

    def __iter__(self) -> Any:
        """Begin an epoch, in the first way that is offered (see ``fastload._epoch.way``).

        With persistent workers, ``_iterator`` holds the newest iterator, or what a subclass has
        wrapped it in, and so keeps its workers alive. An iterator that somebody still holds goes on
        beside the new one, on the same workers.
        """
        if not HAS_OWN_WORKERS:
            return super().__iter__()
        way = self._choose(OFFERS, None if self._iterator is None else self._live.newest())
        if way.is_kept:
            self._iterator = None  # workers that are not taken over end before others begin
        with self._live.going(way):
            iterator = self._get_iterator()
        if way.is_kept:
            self._iterator = iterator
        if self.device is None or self.device.type == "cpu":
            return iterator
        self._live.handed_out = HandedOut(self._say())
        return DeviceIterator(iterator, self.device, DEPTH, self._say, self._live.handed_out)

    def _get_iterator(self) -> Any:
        """Begin an epoch as ``__iter__`` has chosen; for any other caller in a plain way."""
        if not HAS_OWN_WORKERS and self.num_workers > 0:
            return super()._get_iterator()
        way = self._live.way or self._choose(PLAIN, None)
        if way.began == resume.NEW_WORKERS and not auto.is_auto(self):
            self.check_worker_number_rationality()  # as torch's does here; it may be overridden
        return self._begin(lambda: way.begin(self), way.began)

    def _choose(self, offers: tuple[Offer, ...], before: Any) -> Way:
        """The first way that is offered."""
        return next(way for offer in offers if (way := offer(self, before)) is not None)

    def _begin_again(self, iterator: Any) -> None:
        """Let an iterator of ours begin the next epoch itself, as torch's kept iterator can."""
        way = self._choose(OFFERS, iterator if self.persistent_workers else None)
        with self._live.going(way):
            fresh = DataLoader._get_iterator(self)
        iterator.__class__ = type(fresh)  # with num_workers="auto" the next epoch may be of another
        vars(iterator).clear()
        vars(iterator).update(vars(fresh))
        self._live.add(iterator, fresh.position)

    def _begin(self, make_iterator: Callable[[], Any], began: str) -> Any:
        """Make an iterator, at the beginning of an epoch or where a loaded state says."""
        if self._stream_seed is not None:
            iterator = make_iterator()
            return self._live.add(iterator, iterator.position)
        return resume.begin(self, make_iterator, began)

    def __len__(self) -> int:
        """Number of batches; exact for a dataset that counts those of each worker.

        That is one with ``count_batches(workers, batch_size, drop_last=...)``, as ``ParquetStream``
        has it, which knows what each worker reads.
        """
        if self._stream_seed is not None:
            return count_seeded_batches(self)
        count_batches = getattr(self.dataset, "count_batches", None)
        if count_batches is None or not isinstance(self.dataset, IterableDataset):
            return super().__len__()
        length: int = count_batches(self.num_workers, self.batch_size, drop_last=self.drop_last)
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
        return type(self)(**arguments_for(self, changes))

    def state_dict(self) -> dict[str, Any]:
        """Where the newest epoch stands: the batches delivered so far, not those prefetched.

        Plain values and tensors, safe for ``torch.load(weights_only=True)``, new at each call; with
        torchdata's keys where it has them. Takes microseconds.
        """
        if self._live.handed_out is not None:
            return dict(self._live.handed_out.said.state)
        return self._state()

    def _say(self) -> Said:
        """What is to be known when the newest batch that was loaded is handed out."""
        return Said(self._state(), mask_of(self._mask))

    def _state(self) -> dict[str, Any]:
        """The state behind the newest batch that was loaded."""
        if self._stream_seed is not None:
            return seeded_state.save(self, *self._live.epochs.stands_at(self))
        if self._live.state is not None:
            return dict(self._live.state)
        return resume.save(self, self._live.position)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Make the next ``iter(loader)`` go on where ``state_dict`` was taken.

        A map-style epoch goes on without loading what was delivered, also with another number of
        workers: every sample once, in the same order. A stream is read again and what was
        delivered is thrown away. If it was read with ``num_workers=0`` and has ``state_dict``, or
        its iterator has, it goes on by itself instead; its state at the end of an epoch is kept for
        the next one. Random draws inside the dataset are not promised to continue.

        Raises:
            ValueError: The state does not fit this loader: it was saved by one with another dataset
                length, size of batches, ``drop_last``, order or number of ranks; of a stream, with
                another number of workers; or with ``in_order=False``.
        """
        self._live.handed_out = None
        if self._stream_seed is not None:
            self._live.epochs.resume(*seeded_state.check(self, state_dict))
            return
        seeded_state.refuse_seeded(state_dict)
        resume.check(self, state_dict)
        self._live.state = dict(state_dict)
        if lightning.is_calling("load_state_dict") and resume.is_delivered(self, state_dict):
            resume.finish(self._live.state)
        if resume.reads_again(self, self._live.state):
            self._iterator = None  # kept workers may stand in the middle of the stream

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
        # Until they are closed, their workers are not left to end by themselves.
        kept, self._iterator = self._iterator, None
        self._live.close()
        del kept

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
