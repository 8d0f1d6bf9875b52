"""One pass of one iterator over the dataset, on a pool of workers.

Runs in: consumer.
Takes: the sampler's indices, and reports out of the run's mailbox.
Gives: batches, or what went wrong with them, in their order.

Each step looks at what it works on and takes it off when it is done, so that a step which an
exception from outside has interrupted can be done again (``fastload._system.interruptions``). What
can't be done again is inside the pool's guard.
"""

from __future__ import annotations

from typing import Any

from fastload._epoch import diagnosis
from fastload._epoch.cut import Cut, WholeCut
from fastload._epoch.deliver import unwrap
from fastload._epoch.draws import NO_MORE, Draws, SamplerFailed
from fastload._epoch.order import CONSUMER, AsCompleted, InOrder, Shared
from fastload._epoch.worker_pool import WorkerPool
from fastload._loading.dataset_state import DatasetState
from fastload._memory.granted import ANYBODY
from fastload._memory.view import BrokenBatchError
from fastload._pool.pool import Pool, PoolClosedError
from fastload._pool.tasks import Arrival, Mailbox
from fastload._system.interruptions import is_from_outside
from fastload._wire.exceptions import unpack
from fastload._wire.indices import Compact, pack
from fastload._wire.messages import Empty, Loaded, SeededBegin
from fastload.stats.counters import Counters

MOST_BYTES_IN_PARTS = 128 << 20
"""Of batches that are cut, so many bytes are on their way; whole ones are bounded by their number.

All workers load the batch that is next, so none of them needs one of its own.
"""

LEAST_IN_PARTS = 3
"""But so many batches may be: one that is loaded, one that is begun, one that is delivered."""


class Run:
    """One pass of one iterator: its sampler, its order and its place in the pool.

    What differs between processes and threads: ``_assign``, ``_wait`` and ``_open``.

    Attributes:
        has_more: Whether the sampler has not ended yet.
    """

    def __init__(
        self,
        pool: WorkerPool,
        draws: Draws,
        seed: int | None,
        counters: Counters,
        *,
        most_tasks: int,
        in_order: bool,
        ends_pool: bool,
        dataset_state: DatasetState | None = None,
        seeded: SeededBegin | None = None,
        cut: Cut | None = None,
    ) -> None:
        """``ends_pool`` says that the workers have nothing to do after this run.

        ``dataset_state`` is what the dataset goes on from, in each worker. ``cut`` decides into how
        many parts batches are cut, where workers share tasks.
        """
        self.cut = cut or WholeCut()
        self.pool = pool
        self._ends_pool = ends_pool
        self._counters = counters
        self._has_warned_of_stall = False
        self._mailbox = Mailbox()
        shares = pool.shared is not None
        make_order = Shared if shares else InOrder if in_order else AsCompleted
        self._order = make_order(pool.size, most_tasks, self._mailbox.arrived)
        self._draws = draws
        self.has_more = True
        self._most_tasks = most_tasks
        self._asked = self._taken = 0
        self._number = pool.begin(self, self._mailbox, seed, dataset_state, seeded)

    def request(self, delivering: int | None = None) -> None:
        """Give workers tasks until so many are on their way as may be.

        Args:
            delivering: The number of the result that is being delivered, which makes room for one.
        """
        most = self._most_tasks + self._taken + (delivering is not None)
        if self.counts_held:
            most = min(self._most_tasks, max(self.pool.size, self._most_tasks - 1)) + self._taken
        while self.has_more and self._asked < most:
            indices = self._draws.look()
            if indices is NO_MORE:
                self.has_more = False
            elif not self._assign(indices, delivering):
                break
        if not self.has_more and self._ends_pool:
            self._end_pool()

    @property
    def counts_held(self) -> bool:
        """Whether a batch counts as on its way until the training loop asks for the next one.

        So it is with large ones: then the next task gets the memory of the batch that is done with.
        """
        return False

    def _end_pool(self) -> None:
        """Let the workers leave, as soon as no task will need them any more.

        A worker may leave when it has done its tasks. A shared task may have to be done again by
        another one, so there all have to be done before any worker leaves.
        """
        if self.pool.shared is None or not self.pool.flying(self._number):
            self.pool.dismiss(range(self.pool.size))
            self._ends_pool = False

    def _assign(self, indices: Any, delivering: int | None) -> bool:
        """Send a task; False if no worker can take one.

        An error of the sampler takes the place of the batch it would have named.
        """
        raise NotImplementedError

    def _put_error(self, failed: SamplerFailed) -> bool:
        """Put an error in the place of a batch; always True, as there was room for it."""
        with self.pool.guard:
            self._mailbox.arrived[self._order.send(CONSUMER)] = failed
            self._draws.used()
            self._asked += 1
        return True

    @property
    def in_flight(self) -> int:
        """How many batches were asked for and not delivered yet."""
        return self._asked - self._taken

    @property
    def is_loading(self) -> bool:
        """Whether a worker has something to do for this run."""
        return self.has_more or bool(self.pool.flying(self._number))

    def set_room(self, most_tasks: int) -> None:
        """From now on so many tasks may be on their way."""
        self._most_tasks = most_tasks
        self.request()

    def count_with(self, counters: Counters) -> None:
        """Note from now on in these counters what becomes of the run."""
        self._counters = counters

    def add_room(self, tasks: int) -> None:
        """From now on so many more tasks may be on their way."""
        with self.pool.guard:
            self._most_tasks += tasks
            self._order.add_room(tasks)
        self.request()

    def _hear_of_workers(self) -> None:
        """Some were started again, or have come to the end of their part of a stream.

        Those that have not ended get the next tasks of those that have.
        """
        while self.pool.restarts:
            self._tell_of_restart()
        ended = self._mailbox.ended
        while ended:
            worker_id = ended[-1]
            if self._order.is_active(worker_id):
                if self._ends_pool:
                    self.pool.dismiss([worker_id])
                with self.pool.guard:
                    self._order.end_worker(worker_id)
                    self._most_tasks += 1
                self.request()
            ended.pop()

    def next(self, timeout_s: float) -> tuple[int, Any]:
        """Wait for the next result, which stays where it is until ``deliver``; and its number.

        Raises:
            StopIteration: The epoch is over.
            LoadingTimeout: Nothing has arrived for ``timeout_s`` (0: no limit).
            LoadingInterrupted: An earlier call was interrupted half-way, or the sampler was.
            WorkerDied: A worker ended and its batches with it.
        """
        pool, arrived = self.pool, self._mailbox.arrived
        while True:
            if pool.guard.depth or not pool.is_open:
                self._check_pool()
            if pool.restarts or self._mailbox.ended:
                self._hear_of_workers()
            sequence = self._order.head()
            if sequence is None:
                raise self._end()
            if sequence in arrived:
                if self._taken and pool.is_growing:
                    pool.grow()
                return sequence, arrived[sequence]
            self._check_deaths()
            self._wait_or_tell(sequence, timeout_s)

    def _end(self) -> Exception:
        """What is raised behind the last batch."""
        if self._draws.is_broken:
            return diagnosis.interrupted(diagnosis.IN_SAMPLER)
        self.pool.complete()  # each worker is started once, as in torch
        return StopIteration()

    def _wait_or_tell(self, sequence: int, timeout_s: float) -> None:
        """Wait for a result; if none comes in time, raise, or warn once."""
        stall_s = None if self._has_warned_of_stall else diagnosis.STALL_WARNING_S
        if not self._wait(sequence, timeout_s or stall_s) and self.pool.is_open:
            if timeout_s:
                raise diagnosis.timed_out(self.pool, self._number, sequence, timeout_s)
            self._has_warned_of_stall = True
            diagnosis.warn_of_stall(self.pool, self._number, sequence)

    def deliver(self, sequence: int, result: Any) -> tuple[Any, BaseException | None]:
        """Take a result off: its batch, or None and the exception that took its place.

        Of an empty report there is neither. To be called inside the guard.
        """
        self.pool.check_open()
        self._order.take(sequence)
        del self._mailbox.arrived[sequence]
        self._taken += 1
        if type(result) is SamplerFailed:
            return None, result.error
        return self._open(sequence, result)

    def _wait(self, sequence: int, timeout_s: float | None) -> bool:
        """Wait for a result, above all for this one; whether anything has happened."""
        raise NotImplementedError

    def _open(self, sequence: int, result: Any) -> tuple[Any, BaseException | None]:
        """The batch of a worker's result, or None and the exception that took its place."""
        raise NotImplementedError

    def _check_pool(self) -> None:
        if not self.pool.is_open:
            raise PoolClosedError
        if self.pool.guard.depth:
            raise diagnosis.interrupted(diagnosis.HALF_DONE)

    def _check_deaths(self) -> None:
        for worker_id, death in self.pool.dead.items():
            if self._order.is_waiting_for(worker_id):
                raise diagnosis.died(self.pool, self._number, death)

    def _tell_of_restart(self) -> None:
        self._counters.restarted()
        diagnosis.warn_of_restart(self.pool.restarts.pop(0))


class ProcessRun(Run):
    """A run on worker processes: tasks and batches are messages and slots."""

    pool: Pool

    @property
    def counts_held(self) -> bool:
        """Whether the pool's batches are large."""
        slots = self.pool.slots
        return slots is not None and slots.is_large

    def _assign(self, indices: Any, delivering: int | None) -> bool:
        """Send a task; an error that is raised while indices are pickled takes its place too."""
        if type(indices) is SamplerFailed:
            return self._put_error(indices)
        try:
            packed = pack(indices)
        except Exception as error:
            if is_from_outside(error):
                raise
            return self._put_error(SamplerFailed(error))
        pool, order = self.pool, self._order
        with pool.guard:
            pool.check_open()
            worker_id = order.choose(delivering)
            if worker_id is None:
                return False
            if worker_id != ANYBODY:
                pool.assign(self._number, order.send(worker_id), worker_id, indices, packed)
            elif not self._share(indices, packed, delivering):
                return False
            self._draws.used()
            self._asked += 1
        return True

    def _share(self, indices: Any, packed: bytes, delivering: int | None) -> bool:
        """Send a task to whoever is idle; False if it must wait for a slot.

        Other iterators may have all slots. The one task that this run waits for is sent in any
        case, or nothing would ever make the run go on.
        """
        on_their_way = self._asked - self._taken - (delivering is not None)
        parts, is_next = self._parts(indices), on_their_way == 0
        if parts > 1 and on_their_way >= self._most_in_parts(parts):
            return False
        if not self.pool.share(self._number, self._asked, indices, packed, parts, is_next=is_next):
            return False
        self._order.send(ANYBODY)
        return True

    def _most_in_parts(self, parts: int) -> int:
        """How many batches that are cut may be on their way: of large ones, few keep all busy.

        As long as nobody knows how large they are, so many that all workers have something to do.
        """
        slots = self.pool.slots
        largest_bytes = 0 if slots is None else slots.largest_bytes
        least = LEAST_IN_PARTS + self.pool.size // parts - 1
        return max(least, MOST_BYTES_IN_PARTS // largest_bytes if largest_bytes else 0)

    def _parts(self, indices: Any) -> int:
        """Into how many parts the next batch is cut."""
        if not self._mailbox.takes_parts or type(indices.indices) not in (list, tuple, Compact):
            return 1
        return self.cut.parts(len(indices))

    def _wait(self, sequence: int, timeout_s: float | None) -> bool:  # noqa: ARG002  (of all)
        return self.pool.pump(timeout_s)

    def _open(self, sequence: int, result: Arrival) -> tuple[Any, BaseException | None]:
        worker_id, report, template, slot_of = result
        if type(report) is Loaded:
            try:
                return unwrap(report, template, self.pool.slots, slot_of), None
            except BrokenBatchError as broken:
                cause = broken.__cause__
                if cause is not None and is_from_outside(cause):
                    raise cause from None
                return None, cause
        if type(report) is Empty:
            return None, None
        return None, unpack(report.error, f"in fastload worker {worker_id}, batch {sequence}")
