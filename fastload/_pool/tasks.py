"""The tasks of every run that are on their way, and the reports that have arrived.

Runs in: consumer.
Owns: a mailbox for each run, in which a report lies until the run takes it or is dropped.

A task flies from the moment it is sent until its report arrives. The report's place in the mailbox
is the one record of a batch that has arrived and was not delivered; its slot is in hand meanwhile.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any, NamedTuple

from fastload._memory.granted import ANYBODY, NO_SLOT
from fastload._memory.slots import Slots
from fastload._memory.view import BatchTemplate
from fastload._wire.messages import Cancelled, Ended, Loaded, Outcome


class InFlight(NamedTuple):
    """A task that was sent and has no report yet.

    Attributes:
        worker_id: Whom it was sent to, or ANYBODY.
        indices: What the sampler yielded for the batch.
        sent_ns: When it was sent.
        slot: The slot of a task that anybody may carry out; NO_SLOT for any other.
        parts: In how many parts it was sent.
    """

    worker_id: int
    indices: Any
    sent_ns: int
    slot: int = NO_SLOT
    parts: int = 1


class Arrival(NamedTuple):
    """A report and who made it.

    Attributes:
        worker_id: The worker.
        report: What it says of a task.
        template: That of a batch (see ``fastload._memory.view``); None of any other report.
        slot_of: To whom the slot of the batch goes back: the worker, or ANYBODY.
    """

    worker_id: int
    report: Any
    template: BatchTemplate | None
    slot_of: int


class Mailbox:
    """What has arrived for one run; the pool puts it in, the run takes it out.

    Attributes:
        arrived: By task number: what became of the task, in the order of arrival. The run puts its
            sampler's errors among them.
        ended: The workers that have reached the end of their part of a stream.
        takes_parts: Whether batches may be cut into parts: until one could not be.
    """

    __slots__ = ("arrived", "ended", "takes_parts")

    def __init__(self) -> None:
        self.arrived: dict[int, Any] = {}
        self.ended: list[int] = []
        self.takes_parts = True


Lost = dict[int, list[tuple[int, InFlight]]]
"""By run: the tasks that a dead worker has not reported, in the order they were sent."""


class Tasks:
    """Of all runs of one pool."""

    def __init__(self, slots: Slots | None) -> None:
        self._slots = slots
        self._loads: defaultdict[int, int] = defaultdict(int)
        self._flying: dict[int, dict[int, InFlight]] = {}
        self._mailboxes: dict[int, Mailbox] = {}
        self._unsettled: dict[int, set[int]] = {}

    def open(self, run: int, mailbox: Mailbox) -> None:
        """A run begins, which will look into this mailbox."""
        self._flying[run] = {}
        self._mailboxes[run] = mailbox

    def add(self, run: int, sequence: int, worker_id: int, indices: Any) -> None:
        """A task is about to be sent; its worker gets a slot for it, if there is one."""
        self._loads[worker_id] = tasks = self._loads[worker_id] + 1
        if self._slots is not None and not self._slots.provide(worker_id, tasks):
            self._provide(self._slots, worker_id)
        self._flying[run][sequence] = InFlight(worker_id, indices, time.monotonic_ns())

    def share(self, run: int, sequence: int, indices: Any, parts: int) -> InFlight | None:
        """A task is about to be sent to whoever is idle; reserve a slot for it.

        Returns:
            The task; without a slot if there is none and nothing else is on its way, so that the
            batch goes by pipe; None if there is no slot yet.
        """
        slot = NO_SLOT if self._slots is None else self._slots.reserve()
        if slot is None:
            if any(self._flying.values()):
                return None
            slot = NO_SLOT
        if slot == NO_SLOT:
            parts = 1
        task = InFlight(ANYBODY, indices, time.monotonic_ns(), slot, parts)
        self._flying[run][sequence] = task
        return task

    def as_whole(self, run: int, sequence: int) -> InFlight | None:
        """A shared task can't be done in parts; None if nobody wants it any more."""
        mailbox = self._mailboxes.get(run)
        task = self._flying[run][sequence]._replace(parts=1)
        if mailbox is None:
            del self._flying[run][sequence]
            self._take_back(task.slot, ANYBODY)
            return None
        mailbox.takes_parts = False
        self._flying[run][sequence] = task
        return task

    def _provide(self, slots: Slots, worker_id: int) -> None:
        """Take slots from workers that have nothing to do."""
        for idle, tasks in self._loads.items():
            if tasks == 0:  # it writes nothing until it gets a task from here
                slots.revoke(idle)
        slots.provide(worker_id, self._loads[worker_id])

    def complete(self, worker_id: int, report: Outcome, template: BatchTemplate | None) -> None:
        """The report of a task has arrived: into the mailbox, unless its run was dropped."""
        slot_of = self._flying[report.run].pop(report.sequence).worker_id
        if slot_of != ANYBODY:
            self._loads[worker_id] -= 1
        mailbox = self._mailboxes.get(report.run)
        if mailbox is None or type(report) is not Loaded:
            self._take_back(report.slot, slot_of)
        elif report.slot != NO_SLOT and self._slots is not None:
            self._slots.returned(report.slot, slot_of)
        if mailbox is None:
            return
        if type(report) is Ended:
            mailbox.ended.append(worker_id)
        else:
            mailbox.arrived[report.sequence] = Arrival(worker_id, report, template, slot_of)

    def close(self) -> None:
        """The workers are gone, and their slots may be other workers' by now."""
        self._slots = None

    def flying(self, run: int) -> dict[int, InFlight]:
        """The tasks of a run that have no report yet, by sequence number."""
        return self._flying[run]

    def is_flying(self, run: int, sequence: int, parts: int) -> bool:
        """Whether a shared task, in so many parts, has no report yet."""
        task = self._flying.get(run, {}).get(sequence)
        return task is not None and (task.worker_id, task.parts) == (ANYBODY, parts)

    def has_flying(self, worker_id: int) -> bool:
        """Whether a worker has anything to report, of any run."""
        return self._loads[worker_id] > 0

    def forget(self, worker_id: int) -> Lost:
        """A worker is gone, and with it what it had to say about dropped runs."""
        lost = {run: self._remove_tasks_of(run, worker_id) for run in self._flying}
        for run in tuple(self._unsettled):
            self._acknowledge(run, worker_id)
        return lost

    def tasks_of(self, run: int, worker_id: int) -> list[tuple[int, InFlight]]:
        """A worker's tasks of a run that have no report yet, in the order they were sent."""
        flying = self._flying.get(run, {})
        return sorted(item for item in flying.items() if item[1].worker_id == worker_id)

    def drop(self, run: int, workers: int, size: int) -> bool:
        """Nobody wants the rest of a run; a worker may still write until it says Cancelled.

        Args:
            run: The run.
            workers: How many workers have been started; the others never hear of it.
            size: How many there are to be.

        Returns:
            Whether nothing of it is on its way, so that nobody need say so.
        """
        for arrival in self._mailboxes.pop(run).arrived.values():
            if type(arrival) is Arrival and type(arrival.report) is Loaded:
                self._release(arrival.report.slot, arrival.slot_of)
        for worker_id in range(workers, size):
            self._remove_tasks_of(run, worker_id)
        if not self._flying[run]:
            del self._flying[run]
            return True
        self._unsettled[run] = set(range(workers))
        return False

    def on_cancelled(self, report: Cancelled, worker_id: int) -> None:
        """A worker has forgotten a dropped run."""
        self._remove_tasks_of(report.run, worker_id)
        self._acknowledge(report.run, worker_id)

    def _acknowledge(self, run: int, worker_id: int) -> None:
        """A worker has nothing more to do with a dropped run; behind the last one it is gone."""
        self._unsettled[run].discard(worker_id)
        if not self._unsettled[run]:
            for task in self._flying[run].values():  # shared ones, which now nobody writes
                self._take_back(task.slot, task.worker_id)
            del self._unsettled[run], self._flying[run]

    def _remove_tasks_of(self, run: int, worker_id: int) -> list[tuple[int, InFlight]]:
        """Of a worker's tasks of a run, none flies any more."""
        lost = self.tasks_of(run, worker_id)
        for sequence, _ in lost:
            del self._flying[run][sequence]
        self._loads[worker_id] -= len(lost)
        return lost

    def _take_back(self, slot: int, worker_id: int) -> None:
        """Free a slot that a worker had and nobody will read."""
        if self._slots is not None and slot != NO_SLOT:
            self._slots.returned(slot, worker_id)
            self._slots.release(slot, worker_id)

    def _release(self, slot: int, worker_id: int) -> None:
        if self._slots is not None and slot != NO_SLOT:
            self._slots.release(slot, worker_id)
