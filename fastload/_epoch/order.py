"""Which worker gets the next task, and which result is delivered next.

Runs in: consumer.
Takes: results as they arrive, from whichever worker.
Gives: results in the order promised: torch's, or that of arrival with ``in_order=False``.

Tasks are numbered in the order in which the sampler gave them. Round-robin assignment over the
workers that have not ended is what makes batches, and the random draws in them, torch's.
"""

from __future__ import annotations

from typing import Any, Final

WAIT: Final = object()
"""The next result has not arrived."""

END: Final = object()
"""No further result will arrive."""

CONSUMER: Final = -1
"""Owner of results that no worker makes, such as an error of the sampler."""


class InOrder:
    """Task k goes to worker k mod n; results are delivered by number."""

    def __init__(self, workers: int, most_tasks: int) -> None:
        self._workers = workers
        self._active = [True] * workers
        self._turn = 0
        self._most_tasks = most_tasks
        self._owners: dict[int, int] = {}
        self._results: dict[int, Any] = {}
        self._sent = 0
        self._head = 0

    def choose(self) -> int | None:
        """The worker for the next task, or None if all have ended."""
        for _ in range(self._workers):
            worker_id = self._turn
            self._turn = (worker_id + 1) % self._workers
            if self._active[worker_id]:
                return worker_id
        return None

    def send(self, worker_id: int) -> int:
        """Number the next task, which goes to this worker."""
        sequence = self._sent
        self._sent = sequence + 1
        self._owners[sequence] = worker_id
        return sequence

    def arrive(self, sequence: int, result: Any) -> None:
        """A task has its result."""
        self._results[sequence] = result

    def end_worker(self, worker_id: int) -> bool:
        """A worker has nothing more to give; returns whether that is news.

        Its tasks without result are void.
        """
        was_active = self._active[worker_id]
        self._active[worker_id] = False
        return was_active

    def is_waiting_for(self, worker_id: int) -> bool:
        """Whether a result of this worker is still to come."""
        return self._active[worker_id] and any(
            owner == worker_id and sequence not in self._results
            for sequence, owner in self._owners.items()
        )

    def next(self) -> tuple[int, Any]:
        """The number and result to deliver next; or ``(number, WAIT)``; or ``(-1, END)``."""
        while (head := self._head) < self._sent:
            if head not in self._results and self._active[self._owners[head]]:
                return head, WAIT
            self._head = head + 1
            del self._owners[head]
            if head in self._results:
                return head, self._results.pop(head)
        return -1, END


class AsCompleted(InOrder):
    """Tasks go to workers with room; results are delivered as they arrive."""

    def choose(self) -> int | None:
        """As in order, but only a worker with room."""
        most = self._most_tasks // max(1, sum(self._active))
        owners = list(self._owners.values())
        for _ in range(self._workers):
            worker_id = super().choose()
            if worker_id is None or owners.count(worker_id) < most:
                return worker_id
        return None

    def next(self) -> tuple[int, Any]:
        """As in order, but the first that has arrived."""
        for sequence in self._results:
            del self._owners[sequence]
            return sequence, self._results.pop(sequence)
        for sequence, owner in self._owners.items():
            if self._active[owner]:
                return sequence, WAIT
        return -1, END
