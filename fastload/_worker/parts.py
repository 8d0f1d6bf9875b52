"""Load parts of a batch, each into its region of the batch's slot; the last one makes the batch.

Runs in: worker.
Takes: a part of the indices of a batch.
Gives: the samples in a region of the slot, and a flag that says so; where all flags are set, the
samples of all parts in their order, to be collated.

    slot:  │ the batch, once it is collated │ part 0 │ part 1 │ ... │

A region begins with where its record lies and how long it is. The record is pickled and says what
the samples are made of (see ``fastload._memory.write``), or why there are none.
"""

from __future__ import annotations

import contextlib
import mmap
import pickle
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from fastload._loading.fetch import Fetcher
from fastload._loading.on_error import NothingLeft
from fastload._memory.arena import Arena
from fastload._memory.layout import Layout
from fastload._memory.view import BrokenBatchError, copy_leaves, rebuild_batch, view_leaves
from fastload._memory.write import HEAP, SlotPlace, write_batch
from fastload._wire import exceptions
from fastload._wire.indices import PositionedIndices, count, joined, unpack
from fastload._wire.messages import Empty, Failed, Report, Skip, Unfit
from fastload._wire.task_queue import (
    LOADED,
    UNFIT,
    SharedTask,
    TaskSource,
    try_lock,
    unlock,
)
from fastload._worker.answers import Answers

_HEAD: Final = struct.Struct("=qq")
SMALLEST_GIVEN_BACK_BYTES = 1 << 20
"""Regions of more than this give their memory back when the batch is collated."""


class PartRecord(NamedTuple):
    """What became of one part.

    Attributes:
        layout, skeleton: What the samples are made of; None if there are none.
        error: A travelling exception, if loading a sample raised one.
        skipped: Samples that could not be loaded and were left out or replaced.
        elapsed_ns: How long the part took to load and write.
        fetch_cpu_ns: CPU time of that.
        slowest: The index of its slowest sample, as text, where samples were timed.
        slowest_ns: How long that one took.
    """

    layout: Layout | None
    skeleton: bytes | None
    error: bytes | None
    skipped: tuple[Skip, ...]
    elapsed_ns: int
    fetch_cpu_ns: int
    slowest: str
    slowest_ns: int


class SlotParts:
    """The parts of the batch in one slot, as a map-style dataset that is asked for all samples.

    Args:
        arena: The memory.
        keeps_nothing: Says whether whoever gets the samples keeps none of their memory, so that
            they may be views.
    """

    def __init__(self, arena: Arena, keeps_nothing: Callable[[], bool]) -> None:
        self._arena = arena
        self._keeps_nothing = keeps_nothing
        self._slot = 0
        self.records: list[PartRecord] = []
        self.indices: PositionedIndices | None = None

    def read(self, task: SharedTask) -> None:
        """Read the records of a slot of which all parts are done."""
        self._slot = task.slot
        records, indices = [], []
        for part in range(task.parts):
            record, packed = self._record(task, part)
            records.append(record)
            indices.append(unpack(packed))
        self.records, self.indices = records, joined(indices)

    def _record(self, task: SharedTask, part: int) -> tuple[PartRecord, bytes]:
        begin, _ = region(self._arena, part, task.parts)
        content = self._arena.slot(task.slot).data
        at, length = _HEAD.unpack_from(content, begin)
        found: tuple[PartRecord, bytes] = pickle.loads(content[at : at + length])
        return found

    def __getitems__(self, _: Any) -> list[Any]:
        """All samples of the batch, new objects at each call."""
        memory = self._arena.slot(self._slot)
        samples: list[Any] = []
        leaves_in = view_leaves if self._keeps_nothing() else copy_leaves
        for record in self.records:
            if record.layout is not None and record.skeleton is not None:
                leaves = leaves_in(memory, record.layout)
                samples += rebuild_batch(leaves, record.skeleton)
        return samples

    def give_back(self, parts: int) -> None:
        """Give the memory of large regions back: the samples are not needed any more."""
        for part, record in enumerate(self.records):
            begin, end = region(self._arena, part, parts)
            used = [leaf[1] for leaf in record.layout or ()]
            if used and max(used) - begin >= SMALLEST_GIVEN_BACK_BYTES:
                self._arena.give_back_region(self._slot, begin, end)


class BatchParts:
    """Loads parts of batches, and makes batches of them.

    Args:
        shared: Where the tasks come from.
        arena: The memory in which batches and their parts lie.
        answers: Sends the reports.
        make_fetchers: Makes, for a run, what loads the samples of a part, and what collates those
            of all parts.
        keeps_nothing: As of ``SlotParts``.
    """

    def __init__(
        self,
        shared: TaskSource,
        arena: Arena,
        answers: Answers,
        make_fetchers: Callable[[int, SlotParts], tuple[Fetcher, Fetcher]],
        keeps_nothing: Callable[[], bool],
    ) -> None:
        self._shared = shared
        self._arena = arena
        self._answers = answers
        self._make_fetchers = make_fetchers
        self._samples = SlotParts(arena, keeps_nothing)
        self._fetchers: dict[int, tuple[Fetcher, Fetcher] | None] = {}

    def forget(self, run: int) -> None:
        """Nobody asks for a run any more."""
        self._fetchers.pop(run, None)

    def carry_out(self, task: SharedTask) -> None:
        """Load a part of a batch; and make the batch, if all parts are there and nobody does.

        Who has the lock of the batch looks once more after letting go, so whoever does not get it
        may rely on that. It is only tried: a worker that is stopped holds up nobody else.
        """
        row = self._shared.parts_in(task.slot)
        if row.lacks(task):
            row.set(task.part, self._load(task))
        descriptor = self._shared.descriptor
        while try_lock(descriptor, task):
            try:
                if row.is_ready(task):
                    row.note_begun(self._shared.worker_id)
                    self._finish(task, row.outcomes(task.parts))
                    return
            finally:
                unlock(descriptor, task)
            if not row.is_ready(task):
                return

    def _load(self, task: SharedTask) -> int:
        fetchers = self._fetchers_of(task.run)
        if fetchers is None:
            return UNFIT
        return load_part(task, fetchers[0], self._arena, self._answers.take_skipped)

    def _finish(self, task: SharedTask, outcomes: bytes) -> None:
        fetchers = self._fetchers_of(task.run)
        if fetchers is None or UNFIT in outcomes:
            self._answers.report(Unfit(task.run, task.sequence))
            return
        self._answers.give(
            task.run, task.sequence, task.slot, lambda: self._collate(task, fetchers[1])
        )

    def _fetchers_of(self, run: int) -> tuple[Fetcher, Fetcher] | None:
        """How a run is loaded; None if it can't be: loaded whole, its batches say why."""
        if run not in self._fetchers:
            self._fetchers[run] = None
            with contextlib.suppress(BaseException):
                self._fetchers[run] = self._make_fetchers(run, self._samples)
        return self._fetchers[run]

    def _collate(self, task: SharedTask, fetcher: Fetcher) -> Report:
        """Make the batch of the parts that lie in its slot."""
        started_ns, started_cpu_ns = time.monotonic_ns(), time.thread_time_ns()
        samples, answers = self._samples, self._answers
        samples.read(task)
        records, skipped = samples.records, tuple(all_skipped(samples.records))
        error = first_error(records)
        if error is not None:
            answers.put_back_skipped(skipped)
            return Failed(task.run, task.sequence, task.slot, error)
        if all(record.layout is None for record in records):
            return Empty(task.run, task.sequence, task.slot, skipped)
        place = SlotPlace(self._arena, task.slot, (0, half_of(self._arena)))
        try:
            batch = fetcher.fetch(samples.indices, place)
            collated_ns = time.monotonic_ns()
            layout, skeleton = answers.write(batch, place)
        except BrokenBatchError:  # samples that can be pickled, but not unpickled
            return Unfit(task.run, task.sequence)
        except BaseException:
            answers.put_back_skipped(skipped)
            raise
        del batch
        samples.give_back(task.parts)
        spent_ns = sum(record.elapsed_ns for record in records)
        fetch_cpu_ns = sum(record.fetch_cpu_ns for record in records)
        slowest = max(records, key=lambda record: record.slowest_ns)
        stamps = (
            count(samples.indices),
            started_ns - spent_ns,
            started_ns,
            collated_ns,
            time.monotonic_ns(),
            fetch_cpu_ns,
            fetch_cpu_ns + time.thread_time_ns() - started_cpu_ns,
            slowest.slowest,
            slowest.slowest_ns,
            answers.peak_bytes(),
        )
        return answers.loaded(
            task.run, task.sequence, task.slot, place, layout, skeleton, stamps, skipped
        )


def half_of(arena: Arena) -> int:
    """The bytes of a slot that are for the batch, in whole pages; behind them lie the parts."""
    return arena.stride_bytes // 2 & -mmap.PAGESIZE


def region(arena: Arena, part: int, parts: int) -> tuple[int, int]:
    """Where in a slot a part lies: behind the half that is for the batch; in whole pages."""
    half = half_of(arena)
    size = (arena.stride_bytes - half) // parts & -mmap.PAGESIZE
    return half + part * size, half + (part + 1) * size


def load_part(
    task: SharedTask,
    fetcher: Fetcher,
    arena: Arena,
    take_skipped: Callable[[], tuple[Skip, ...]],
) -> int:
    """Load a part into its region of the slot.

    Args:
        task: The part.
        fetcher: Gives the samples as they are, in a list.
        arena: The memory.
        take_skipped: Gives the samples that were left out meanwhile.

    Returns:
        LOADED, also if there is an error in the place of samples; UNFIT if the samples, or the
        error, do not fit into the region or can't be pickled.
    """
    begin, end = region(arena, task.part, task.parts)
    if end - begin <= _HEAD.size:
        return UNFIT
    place = SlotPlace(arena, task.slot, (begin + _HEAD.size, end), is_exact=True)
    started_ns, started_cpu_ns = time.monotonic_ns(), time.thread_time_ns()
    indices: Any = ()
    layout, skeleton, error = None, None, None
    try:
        indices = unpack(task.indices)  # which may run code of the user's
        samples = fetcher.fetch(indices, HEAP)
    except NothingLeft:
        pass
    except BaseException as raised:  # noqa: BLE001  (whatever it is, the consumer raises it)
        error = exceptions.pack_whatever(raised)
    else:
        written = _write_samples(samples, place)
        if written is None:
            take_skipped()  # it is seen again which they are
            return UNFIT
        layout, skeleton = written
    watch = fetcher.watch
    watch.note(len(indices), time.monotonic_ns() - started_ns)
    record = PartRecord(
        layout,
        skeleton,
        error,
        take_skipped(),
        time.monotonic_ns() - started_ns,
        time.thread_time_ns() - started_cpu_ns + watch.elsewhere_cpu_ns,
        watch.slowest,
        watch.slowest_ns,
    )
    content = pickle.dumps((record, task.indices), protocol=5)
    at = None if place.attached else place.reserve(len(content))
    if at is None:
        return UNFIT
    memory = place.memory.data
    memory[at : at + len(content)] = content
    _HEAD.pack_into(memory, begin, at, len(content))
    return LOADED


def _write_samples(samples: Any, place: SlotPlace) -> tuple[Layout, bytes] | None:
    """Write samples into a region; None if they can't be put together with those of other parts.

    A dataset's ``__getitems__`` may give anything in the place of a list, a batch that is ready for
    one, which only a collate function that knows of it takes.
    """
    if type(samples) is not list:
        return None
    try:
        return write_batch(samples, place)
    except BaseException:  # noqa: BLE001  (collate may make something else of such samples)
        return None


def keep_samples(samples: Any, _place: Any) -> Any:
    """Stand in the place of a collate function where a part is loaded."""
    return samples


def first_error(records: list[PartRecord]) -> bytes | None:
    """The error of the first part that has one."""
    return next((each.error for each in records if each.error is not None), None)


def all_skipped(records: list[PartRecord]) -> Iterator[Skip]:
    """Samples that were left out or replaced, of all parts in their order."""
    for record in records:
        yield from record.skipped
