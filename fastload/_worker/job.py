"""What a worker process is given when it starts.

Runs in: consumer (which makes it) and worker.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastload._loading.on_error import OnError
from fastload._memory.arena import Arena
from fastload._system.descriptors import Descriptor
from fastload._wire.task_queue import TaskQueueEnd


@dataclass(frozen=True)
class WorkerSpec:
    """What all workers of a pool have in common."""

    dataset: Any
    iterable: bool
    batched: bool
    collate_fn: Callable[[Any], Any]
    drop_last: bool
    base_seed: int
    worker_init_fn: Callable[[int], None] | None
    workers: int
    on_error: OnError = "raise"
    sends_state: bool = False
    concurrent_samples: int = 1


def empty_spec() -> WorkerSpec:
    """Stands for the specification that a worker could not unpickle."""
    return WorkerSpec(
        dataset=None,
        iterable=False,
        batched=False,
        collate_fn=list,
        drop_last=False,
        base_seed=0,
        worker_init_fn=None,
        workers=0,
    )


@dataclass(frozen=True)
class WorkerEnds:
    """What one worker alone is given: its number, its memory and its ends of the pipes.

    Attributes:
        worker_id: Its number, from 0.
        consumer_pid: The process that started it.
        arena: The memory it writes batches to; None if all batches go by pipe.
        orders: Read end of the pipe on which the consumer sends tasks.
        reports: Write end of the pipe on which it answers.
        lifeline: Read end of the pipe that closes when the consumer is gone.
        stacks: File for its stack when it crashes or hangs; None where there is no room for one.
        queue: Tasks that any worker of the pool may take; None if each has tasks of its own.
    """

    worker_id: int
    consumer_pid: int
    arena: Arena | None
    orders: Descriptor
    reports: Descriptor
    lifeline: Descriptor
    stacks: Descriptor | None
    queue: TaskQueueEnd | None = None
