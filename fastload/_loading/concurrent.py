"""Load several samples of a batch at a time, where loading is mostly waiting.

Runs in: worker (consumer with ``num_workers=0``).
Takes: the indices of a batch.
Gives: what the plain way gives: samples in the batch's order, or the first of them that failed.

Plain datasets are read in threads, those with ``async def`` in an event loop. See "Concurrency
inside a worker" in docs/design.md.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from itertools import islice
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol

from torch.utils.data import ConcatDataset, Subset

from fastload._loading.crew import Crew
from fastload._loading.map_style import MapFetcher, annotate_sample, not_silent
from fastload._loading.on_error import LEFT_OUT, NothingLeft, Tolerance
from fastload._loading.stopwatch import Watch
from fastload._memory.write import Place
from fastload._system.interruptions import is_from_outside
from fastload._wire.indices import plain
from fastload.collate.inplace import Collate


class DrawCheck(Protocol):
    """Refuses a dataset whose samples draw random numbers, by the first sample of a process."""

    @property
    def is_done(self) -> bool:
        """Whether that was seen, and need not be looked at again."""

    def begin(self) -> None:
        """The first samples are about to be loaded: one alone, or those of one call."""

    def end(self, indices: Any) -> None:
        """They were loaded.

        Raises:
            ValueError: They have drawn random numbers.
        """


@dataclass(frozen=True)
class Concurrency:
    """How the samples of a batch are loaded at a time.

    Attributes:
        most: How many at a time.
        crew: In whose threads, or event loop.
        check: Looks at the first sample; None: samples may draw random numbers.
    """

    most: int
    crew: Crew
    check: DrawCheck | None = None


def awaits_samples(dataset: Any) -> bool:
    """Whether ``__getitem__`` of a dataset, or of one inside it, is an ``async def``."""
    return any(map(_is_awaited, _innermost(dataset)))


def _innermost(dataset: Any) -> list[Any]:
    """The datasets inside Subset and ConcatDataset at any depth, each once: one may hold itself."""
    seen: dict[int, Any] = {}
    ahead, found = [dataset], []
    while ahead:
        each = ahead.pop()
        if id(each) in seen:
            continue
        seen[id(each)] = each
        if isinstance(each, Subset):
            ahead.append(each.dataset)
        elif isinstance(each, ConcatDataset):
            ahead += each.datasets
        else:
            found.append(each)
    return found


def _is_awaited(dataset: Any) -> bool:
    return inspect.iscoroutinefunction(getattr(type(dataset), "__getitem__", None))


def awaits_batches(dataset: Any) -> bool:
    """Whether ``__getitems__`` of a dataset, or of one inside it, is an ``async def``."""
    seen: set[int] = set()
    while isinstance(dataset, Subset) and id(dataset) not in seen:
        seen.add(id(dataset))
        dataset = dataset.dataset
    return inspect.iscoroutinefunction(getattr(dataset, "__getitems__", None))


class Outcome(NamedTuple):
    """What became of one sample, or of a batch that is loaded in one call."""

    sample: Any = None
    error: BaseException | None = None
    elapsed_ns: int = 0


class Source(Protocol):
    """Loads samples at a time."""

    def load(self, indices: Sequence[Any], watch: Watch) -> list[Outcome]:
        """What became of each sample, in order; the last one is the first that was fatal."""


class ConcurrentFetcher(MapFetcher):
    """A batch of a map-style dataset, several samples at a time."""

    def __init__(
        self,
        dataset: Any,
        collate: Collate,
        before_collate: Callable[[], object],
        concurrency: Concurrency,
        tolerance: Tolerance | None,
    ) -> None:
        super().__init__(dataset, collate, before_collate)
        self._tolerance = tolerance
        self._check = concurrency.check
        self._batches = _AwaitedBatches(dataset, concurrency) if awaits_batches(dataset) else None
        kind = _Awaited if self._batches is not None or awaits_samples(dataset) else _Threaded
        self._source: Source = kind(dataset, concurrency, tolerates=tolerance is not None)

    def fetch(self, indices: Any, place: Place) -> Any:
        """Load and collate one batch; as ``Fetcher.fetch``."""
        indices = plain(indices)
        self.watch.begin()
        samples = self._all_at_once(indices)
        if samples is None:
            indices, samples = self._one_by_one(list(indices))
        return self._collate_batch(samples, indices, place)

    def _all_at_once(self, indices: Any) -> Any:
        """The samples as ``__getitems__`` gives them; None if there is none, or it failed."""
        if self._batches is None:
            return None
        (outcome,) = self._looked_at(self._batches, indices)
        if outcome.error is None:
            return outcome.sample
        if self._is_fatal(outcome.error):
            raise outcome.error
        return None  # one by one, it will be seen which it was

    def _one_by_one(self, indices: list[Any]) -> tuple[list[Any], list[Any]]:
        """The indices that could be loaded, and their samples."""
        outcomes: list[Outcome] = []
        if self._check is not None and not self._check.is_done and indices:
            outcomes = self._looked_at(self._source, indices[:1])
        if not outcomes or not self._is_fatal(outcomes[0].error):
            outcomes += self._source.load(indices[len(outcomes) :], self.watch)
        kept = [
            (index, sample)
            for index, outcome in zip(indices, outcomes, strict=False)
            if (sample := self._sample(index, outcome)) is not LEFT_OUT
        ]
        if not kept and self._tolerance is not None:
            raise NothingLeft
        return [index for index, _ in kept], [sample for _, sample in kept]

    def _looked_at(self, source: Source, indices: Any) -> list[Outcome]:
        """Load with a look at who draws, if that is still to be done."""
        check = self._check
        if check is None or check.is_done:
            return source.load(indices, self.watch)
        check.begin()
        outcomes = source.load(indices, self.watch)
        if outcomes[-1].error is None:
            check.end(indices)
        return outcomes

    def _is_fatal(self, error: BaseException | None) -> bool:
        return _ends(error, self._tolerance is not None)

    def _sample(self, index: Any, outcome: Outcome) -> Any:
        """A sample, or what stands in for it; or its error is raised."""
        error = outcome.error
        if error is None:
            self.watch.saw(index, outcome.elapsed_ns)
            return outcome.sample
        if self._tolerance is None or not isinstance(error, Exception) or self._is_fatal(error):
            raise _noted(index, error)
        return self._tolerance.stand_in(index, error)


class ConcurrentSampleFetcher(ConcurrentFetcher):
    """One sample of a map-style dataset that is awaited, with automatic batching off."""

    def fetch(self, index: Any, place: Place) -> Any:
        """Load and convert one sample; as ``Fetcher.fetch``."""
        self.watch.begin()
        _, (sample,) = self._one_by_one([index])
        return self._collate_one(sample, index, place)


class _Wave:
    """One batch on its way.

    Attributes:
        ended: Position and outcome of each sample that has ended.
        is_over: No sample is begun any more.
    """

    __slots__ = ("ended", "is_over")

    def __init__(self) -> None:
        self.ended: SimpleQueue[tuple[int, Outcome, int]] = SimpleQueue()
        self.is_over = False


class _Threaded:
    """Loads samples in threads.

    The thread that fetches waits in the queue of the wave alone. That is written in C, so an
    exception from outside leaves it as it was.
    """

    def __init__(self, dataset: Any, concurrency: Concurrency, *, tolerates: bool) -> None:
        self._dataset = dataset
        self._most = concurrency.most
        self._crew = concurrency.crew
        self._tolerates = tolerates

    def load(self, indices: Sequence[Any], watch: Watch) -> list[Outcome]:
        """What became of each sample, in order; the last one is the first that was fatal."""
        submit = self._crew.threads(self._most).submit
        wave, ahead = _Wave(), enumerate(indices)
        running: set[int] = set()
        found = [Outcome()] * len(indices)
        end = len(indices)
        try:
            while True:
                if end == len(indices):
                    for position, index in islice(ahead, self._most - len(running)):
                        running.add(position)
                        submit(self._one, wave, position, index)
                if all(position > end for position in running):
                    return found[: end + 1]
                position, outcome, cpu_ns = wave.ended.get()
                running.discard(position)
                found[position] = outcome
                watch.elsewhere_cpu_ns += cpu_ns
                if _ends(outcome.error, self._tolerates):
                    end = min(end, position)
        finally:
            wave.is_over = True

    def _one(self, wave: _Wave, position: int, index: Any) -> None:
        """Load one sample, in a thread."""
        if wave.is_over:  # while it waited for a thread that an earlier batch had left behind
            return
        cpu_ns, started_ns = time.thread_time_ns(), time.monotonic_ns()
        try:
            sample = self._dataset[index]
        except BaseException as error:  # noqa: BLE001  (the thread that fetches raises it)
            outcome = Outcome(error=error)
        else:
            outcome = Outcome(sample, None, time.monotonic_ns() - started_ns)
        wave.ended.put((position, outcome, time.thread_time_ns() - cpu_ns))
        del outcome  # whose error refers to this frame


class _Awaited:
    """Loads samples in the event loop."""

    def __init__(self, dataset: Any, concurrency: Concurrency, *, tolerates: bool) -> None:
        self._dataset = dataset
        self._most = concurrency.most
        self._crew = concurrency.crew
        self._tolerates = tolerates

    def load(self, indices: Sequence[Any], watch: Watch) -> list[Outcome]:
        """What became of each sample, in order; the last one is the first that was fatal."""
        outcomes: list[Outcome]
        outcomes, cpu_ns = _run(self._all(indices), self._crew)
        watch.elsewhere_cpu_ns += cpu_ns
        return outcomes

    async def _all(self, indices: Sequence[Any]) -> tuple[list[Outcome], int]:
        cpu_ns = time.thread_time_ns()
        wave, gate = _Wave(), asyncio.Semaphore(self._most)
        tasks = [asyncio.ensure_future(self._one(wave, gate, index)) for index in indices]
        found: list[Outcome] = []
        try:
            for task in tasks:
                found.append(await task)
                if _ends(found[-1].error, self._tolerates):
                    break
        finally:
            wave.is_over = True
            for task in tasks:
                task.cancel()
        return found, time.thread_time_ns() - cpu_ns

    async def _one(self, wave: _Wave, gate: asyncio.Semaphore, index: Any) -> Outcome:
        async with gate:  # which lets them in in their order
            if wave.is_over:
                return Outcome()
            started_ns = time.monotonic_ns()
            try:
                sample = self._dataset[index]
                if inspect.isawaitable(sample):
                    sample = await sample
            except BaseException as error:  # noqa: BLE001  (the thread that fetches raises it)
                wave.is_over = wave.is_over or _ends(error, self._tolerates)
                return Outcome(error=_as_raised(error))
            return Outcome(sample, None, time.monotonic_ns() - started_ns)


class _AwaitedBatches:
    """Loads the samples of a batch by one call of ``__getitems__``, in the event loop."""

    def __init__(self, dataset: Any, concurrency: Concurrency) -> None:
        self._dataset = dataset
        self._crew = concurrency.crew

    def load(self, indices: Sequence[Any], watch: Watch) -> list[Outcome]:
        """What became of the batch: one outcome."""
        outcome, cpu_ns = _run(self._one(indices), self._crew)
        watch.elsewhere_cpu_ns += cpu_ns
        return [outcome]

    async def _one(self, indices: Any) -> tuple[Outcome, int]:
        cpu_ns = time.thread_time_ns()
        try:
            outcome = Outcome(await self._dataset.__getitems__(indices))
        except BaseException as error:  # noqa: BLE001  (the thread that fetches raises it)
            outcome = Outcome(error=error)
        return outcome, time.thread_time_ns() - cpu_ns


def _run(coroutine: Coroutine[Any, Any, Any], crew: Crew) -> Any:
    """Run a coroutine in the event loop; it is cancelled if the wait for it is interrupted."""
    future = asyncio.run_coroutine_threadsafe(coroutine, crew.loop())
    ended: SimpleQueue[Any] = SimpleQueue()  # written in C, unlike what the future waits with
    try:
        future.add_done_callback(ended.put)
        ended.get()
    except BaseException:
        future.cancel()
        raise
    return future.result()


def _ends(error: BaseException | None, tolerates: bool) -> bool:
    """Whether no sample is to be begun behind one that had this error, or none."""
    return error is not None and not (tolerates and _is_tolerable(error))


def _is_tolerable(error: BaseException) -> bool:
    """Whether it is a fault of the sample's, which ``on_error`` may forgive."""
    return isinstance(error, Exception) and not is_from_outside(error)


def _as_raised(error: BaseException) -> BaseException:
    """What the user's coroutine raised: Python makes another error of a StopIteration."""
    cause = error.__cause__
    return cause if isinstance(error, RuntimeError) and isinstance(cause, StopIteration) else error


def _noted(index: Any, error: BaseException) -> BaseException:
    """The error of a sample as it is raised: with a note that names the sample."""
    if isinstance(error, StopIteration):
        loud = not_silent(index)
        loud.__cause__ = error
        return loud
    annotate_sample(error, index)
    return error
