"""Which worker gets the next task, and which result is delivered next.

Runs in: consumer.
Takes: results as they arrive, from whichever worker.
Gives: the number of the result to deliver next: in torch's order, or in that of arrival with
``in_order=False``.

Tasks are numbered in the order in which the sampler gave them. Round-robin assignment over the
workers that have not ended is what makes batches, and the random draws in them, torch's.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from fastload._memory.granted import ANYBODY

CONSUMER: Final = -1
"""Owner of results that no worker makes, such as an error of the sampler."""


class InOrder:
    """Task k goes to worker k mod n; results are delivered by number."""

    def __init__(self, workers: int, most_tasks: int, arrived: Collection[int]) -> None:
        """``arrived`` has the numbers of the results that were not delivered yet, oldest first."""
        self._workers = workers
        self._active = [True] * workers
        self._turn = 0
        self._most_tasks = most_tasks
        self._owners: dict[int, int] = {}
        self._arrived = arrived
        self._sent = 0
        self._head = 0

    def choose(self, delivering: int | None) -> int | None:  # noqa: ARG002  (AsCompleted needs it)
        """The worker for the next task, or None if all have ended.

        ``delivering`` is the number of the result that makes room for this task, if any.
        """
        for _ in range(self._workers):
            worker_id = self._turn
            self._turn = (worker_id + 1) % self._workers
            if self._active[worker_id]:
                return worker_id
        return None

    def send(self, worker_id: int) -> int:
        """Number the next task, which goes to this worker."""
        sequence = self._sent
        self._owners[sequence] = worker_id
        self._sent = sequence + 1
        return sequence

    def owner(self, sequence: int) -> int:
        """The worker that has this task."""
        return self._owners[sequence]

    def is_active(self, worker_id: int) -> bool:
        """Whether a worker may have more to give."""
        return self._active[worker_id]

    def end_worker(self, worker_id: int) -> None:
        """A worker has nothing more to give; its tasks without result are void."""
        self._active[worker_id] = False

    def is_waiting_for(self, worker_id: int) -> bool:
        """Whether a result of this worker is still to come."""
        return self._active[worker_id] and any(
            owner == worker_id and sequence not in self._arrived
            for sequence, owner in self._owners.items()
        )

    def add_room(self, tasks: int) -> None:
        """So many more tasks may be on their way."""
        self._most_tasks += tasks

    def head(self) -> int | None:
        """The number of the result to deliver next, which may not have arrived; None: the end.

        Changes nothing that matters to anybody else, so it may be asked again.
        """
        while (head := self._head) < self._sent:
            if head in self._arrived or self._active[self._owners[head]]:
                return head
            self._head = head + 1
            del self._owners[head]
        return None

    def take(self, sequence: int) -> None:
        """The result that ``head`` named is delivered."""
        self._head = sequence + 1
        del self._owners[sequence]


class Shared(InOrder):
    """Tasks go to whoever is idle; results are delivered by number."""

    def choose(self, delivering: int | None) -> int:  # noqa: ARG002  (as above)
        """Always anybody."""
        return ANYBODY

    def is_waiting_for(self, worker_id: int) -> bool:  # noqa: ARG002  (any may have taken any)
        """Whether any result is still to come."""
        return any(sequence not in self._arrived for sequence in self._owners)

    def head(self) -> int | None:
        """The number of the result to deliver next, which may not have arrived; None: the end."""
        return self._head if self._head < self._sent else None


class AsCompleted(InOrder):
    """Tasks go to workers with room; results are delivered as they arrive."""

    def choose(self, delivering: int | None) -> int | None:
        """As in order, but only a worker with room."""
        most = self._most_tasks // max(1, sum(self._active))
        owners = [owner for number, owner in self._owners.items() if number != delivering]
        for _ in range(self._workers):
            worker_id = super().choose(delivering)
            if worker_id is None or owners.count(worker_id) < most:
                return worker_id
        return None

    def head(self) -> int | None:
        """As in order, but the first that has arrived."""
        for sequence in self._arrived:
            return sequence
        for sequence, owner in self._owners.items():
            if self._active[owner]:
                return sequence
        return None

    def take(self, sequence: int) -> None:
        """The result that ``head`` named is delivered."""
        del self._owners[sequence]
