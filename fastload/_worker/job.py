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


NO_JOB = WorkerSpec(None, False, False, list, False, 0, None, 0)
"""Of a worker that could not unpickle its own."""


@dataclass(frozen=True)
class WorkerEnds:
    """One worker's place: its number, its memory and its ends of the pipes."""

    worker_id: int
    arena: Arena | None
    orders: Descriptor
    reports: Descriptor
    lifeline: Descriptor
    stacks: Descriptor | None
