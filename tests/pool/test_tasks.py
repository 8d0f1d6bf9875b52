"""Which worker's tasks get which slots, and what a worker's death is said to be."""

from __future__ import annotations

import re
import signal
from types import SimpleNamespace

import pytest

from fastload._memory.arena import Arena
from fastload._memory.granted import NO_SLOT, Grants
from fastload._memory.slots import Slots
from fastload._pool import deaths
from fastload._pool.tasks import Mailbox, Tasks
from fastload._system.cgroups import Kills
from fastload._wire.messages import Failed

SIZE_BYTES = 4096
BEFORE = Kills(3, 5)


def test_a_worker_without_tasks_gives_its_slot_to_one_that_lacks_it():
    """Where memory suffices for two slots, both serve the worker that has two tasks."""
    arena = Arena.create(6, SIZE_BYTES, 2)
    slots = Slots(arena, most_tasks=2, most_leases=0, limit_bytes=2 * SIZE_BYTES)
    arena.close_descriptor()
    tasks = Tasks(slots)
    tasks.open(0, Mailbox())
    grants = [Grants(arena, worker) for worker in range(2)]

    for worker in range(2):
        tasks.add(0, worker, worker, [worker])
        slot = grants[worker].take()
        assert slots.lease(slot, worker, SIZE_BYTES) is None  # but the size is known now
        tasks.complete(worker, Failed(0, worker, slot, b""), None)
    assert slots.statistics().granted == (1, 1)

    for sequence in (2, 3):
        tasks.add(0, sequence, 1, [sequence])
        slots.validate()
    assert slots.statistics().granted == (0, 2)
    assert grants[0].take() == NO_SLOT
    assert {grants[1].take(), grants[1].take()} == {0, 1}


def test_a_worker_with_a_task_keeps_its_slot():
    """It may be writing there: another worker's batch comes by pipe instead."""
    arena = Arena.create(6, SIZE_BYTES, 2)
    slots = Slots(arena, most_tasks=2, most_leases=0, limit_bytes=SIZE_BYTES)
    arena.close_descriptor()
    tasks = Tasks(slots)
    tasks.open(0, Mailbox())
    tasks.add(0, 0, 0, [0])
    slot = Grants(arena, 0).take()
    slots.lease(slot, 0, SIZE_BYTES)
    tasks.add(0, 1, 1, [1])
    slots.validate()
    assert slots.statistics().granted == (1, 0)
    assert Grants(arena, 1).take() == NO_SLOT


@pytest.mark.parametrize(
    ("code", "now", "how", "cause"),
    [
        (-signal.SIGKILL, Kills(4, 6), "SIGKILL", r"in this container .*limit is 512 MiB.*fewer"),
        (-signal.SIGKILL, Kills(3, 6), "SIGKILL", r"of this machine .*memory ran out.*fewer"),
        (-signal.SIGKILL, BEFORE, "SIGKILL", "Somebody killed it"),
        (-signal.SIGBUS, BEFORE, "SIGBUS", "mapped into memory was probably truncated"),
        (-signal.SIGSEGV, BEFORE, "SIGSEGV", "native code"),
        (-63, BEFORE, "signal 63", "^$"),
        (3, BEFORE, "exited with code 3", r"os\._exit"),
        (None, BEFORE, "unknown reason", "^$"),
    ],
)
def test_a_death_is_told_with_its_cause(code, now, how, cause, monkeypatch):
    """An exit code and what the kernel has counted since tell why; the text says what to do."""
    monkeypatch.setattr(deaths, "oom_kills", lambda: now)
    monkeypatch.setattr(deaths, "smallest_limit_bytes", lambda: 512 << 20)
    worker = SimpleNamespace(
        exitcode=code, stacks=None, has_lost_server=False, process=SimpleNamespace(pid=1)
    )
    death = deaths.examine(0, worker, BEFORE)
    assert how in death.how
    assert re.search(cause, death.cause, re.DOTALL)
