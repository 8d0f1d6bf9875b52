"""Tasks that go to whichever worker is idle, and what became of those a dead worker had taken.

Runs in: consumer.
Takes: tasks, each with a slot of its own.
Gives: packets in the queue that all workers read; for a dead worker, the tasks that it had.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from fastload._pool.tasks import InFlight, Tasks
from fastload._wire.indices import pack, part_of
from fastload._wire.task_queue import (
    SharedTask,
    TaskQueue,
    encode_shared_task,
)


class SharedTasks:
    """The shared tasks of one pool.

    Attributes:
        queue: The consumer's end of the queue.
    """

    def __init__(self, queue: TaskQueue, tasks: Tasks) -> None:
        self.queue = queue
        self._tasks = tasks
        self._handed: defaultdict[int, list[SharedTask]] = defaultdict(list)

    def put(self, run: int, sequence: int, task: InFlight, packed: bytes) -> list[SharedTask]:
        """Put a task into the queue, in its parts.

        Args:
            run: Its run.
            sequence: Its number in the run.
            task: The task.
            packed: All its indices, packed.

        Returns:
            The parts that are too long for a packet, which must be handed to a worker.
        """
        if task.parts > 1:
            self.queue.parts_in(task.slot).begin(run, sequence)
        parts = list(_parts(run, sequence, task, packed))
        longest_bytes = self.queue.longest_packet_bytes
        packets = [encode_shared_task(part) for part in parts]
        self.queue.put([each for each in packets if len(each) <= longest_bytes])
        return [
            part for part, packet in zip(parts, packets, strict=True) if len(packet) > longest_bytes
        ]

    def note_handed(self, worker_id: int, task: SharedTask) -> None:
        """Note that a task is sent through the pipe of one worker."""
        kept = [each for each in self._handed[worker_id] if self._is_flying(each)]
        self._handed[worker_id] = [*kept, task._replace(indices=b"")]

    def lost_with(self, worker_id: int) -> list[tuple[SharedTask, InFlight]]:
        """Return the tasks that a dead worker had taken, or been handed, and not reported.

        All that it has sent must have been taken. Of a task in parts it may have done its part;
        that is given too, because it may have been the last, and died before it collated, or while
        it did. Whoever gets the part looks. What the dead one had begun to collate is to be begun
        again; what a live one has begun it finishes.
        """
        taken = self.queue.taken_by(worker_id)
        had = [*self._handed.pop(worker_id, ()), *([] if taken is None else [taken])]
        lost = [each for each in dict.fromkeys(had) if self._is_flying(each)]
        for each in lost:
            if each.parts > 1:
                self.queue.parts_in(each.slot).forget_begun(worker_id)
        return [(each, self._tasks.flying(each.run)[each.sequence]) for each in lost]

    def holders(self, run: int, sequence: int, workers: int) -> list[int]:
        """Return the workers that have taken a task, or a part of it."""
        return [
            worker_id
            for worker_id in range(workers)
            if any(
                (each.run, each.sequence) == (run, sequence)
                for each in (self.queue.taken_by(worker_id), *self._handed[worker_id])
                if each is not None
            )
        ]

    def _is_flying(self, task: SharedTask) -> bool:
        return self._tasks.is_flying(task.run, task.sequence, task.parts)


def with_indices(task: SharedTask, flying: InFlight) -> SharedTask:
    """A task as it was sent: with the indices of its part."""
    return task._replace(indices=_packed_part(flying, task.part))


def _parts(run: int, sequence: int, task: InFlight, packed: bytes) -> Iterator[SharedTask]:
    for part in range(task.parts):
        indices = packed if task.parts == 1 else _packed_part(task, part)
        yield SharedTask(run, sequence, task.slot, part, task.parts, indices)


def _packed_part(task: InFlight, part: int) -> bytes:
    """Pack the indices of a part; only those of a batch in several parts need be sliceable."""
    indices = task.indices
    return pack(indices if task.parts == 1 else part_of(indices, part, task.parts))
