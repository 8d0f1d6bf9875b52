"""What a run needs of its workers, be they processes or threads.

Runs in: consumer.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from fastload._loading.dataset_state import DatasetState
from fastload._memory.slots import Slots
from fastload._pool.deaths import Death
from fastload._pool.sharing import SharedTasks
from fastload._pool.tasks import InFlight, Lost, Mailbox
from fastload._system.interruptions import Guard
from fastload._wire.messages import SeededBegin


class WorkerOfPool(Protocol):
    """One worker.

    Attributes:
        process: Its process or thread, which trainers look at.
    """

    process: Any

    def stack(self) -> str:
        """Where it is now; empty if that can't be known."""


class WorkerPool(Protocol):
    """The workers of an iterator; ``fastload._pool.pool.Pool`` says what each name means."""

    lock: threading.RLock
    owner: int
    guard: Guard
    dead: dict[int, Death]
    lost: dict[int, Lost]
    restarts: list[Death]
    slots: Slots | None
    shared: SharedTasks | None
    size: int
    is_growing: bool

    @property
    def workers(self) -> Sequence[WorkerOfPool]:
        """All of them, by number."""

    @property
    def is_open(self) -> bool:
        """Whether the workers have not been ended."""

    @property
    def is_usable(self) -> bool:
        """Whether another run can begin."""

    def grow(self) -> None:
        """Start the next worker."""

    def complete(self) -> None:
        """Start all workers that are still missing."""

    def check_open(self) -> None:
        """To be called inside the guard; raises ``PoolClosedError`` if they were ended."""

    def begin(
        self,
        run: object,
        mailbox: Mailbox,
        shared_seed: int | None,
        dataset_state: DatasetState | None = None,
        seeded: SeededBegin | None = None,
    ) -> int:
        """Start a run on every worker; returns its number."""

    def dismiss(self, worker_ids: Iterable[int]) -> None:
        """These workers get no more tasks: each may leave as soon as it has done those it has."""

    def flying(self, run: int) -> Mapping[int, InFlight]:
        """The tasks of a run that were sent and have no report yet, by sequence number."""

    def sending_together(self) -> contextlib.AbstractContextManager[None]:
        """What is sent to a worker in the block may be held back until its end."""

    def close(self) -> None:
        """End the workers; safe to call again."""
