"""Loaders closed or interrupted in the middle of a call: right batches or a clear error."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import psutil
import pytest
import torch
from torch.utils.data import Dataset

import fastload
from fastload._epoch import deliver as leases
from fastload._epoch import run
from fastload._epoch.draws import Draws
from fastload._epoch.order import InOrder
from fastload._epoch.run import Run
from fastload._memory.slots import Slots
from fastload._pool.pool import Pool
from fastload._pool.shutdown import Shutdown
from fastload._pool.tasks import InFlight, Mailbox, Tasks
from fastload._wire.channel import PatientSender, Receiver
from fastload._wire.messages import Cancelled

HELD = 10  # more than may be held without a copy
DEADLINE_S = 240


class Rows(Dataset):
    """Rows full of their number, and texts of various lengths, which need several writes."""

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int):
        return {"row": torch.full((5000,), index), "text": "x" * (30_000 if index % 7 == 3 else 3)}


class Interruption(Exception):
    """Raised by a signal handler."""


def once(monkeypatch, owner, name, action, *, after=0, late=False):
    """Let a method run an action, once, at its beginning or end, after so many calls."""
    method = getattr(owner, name)
    calls = iter(range(1 << 30))

    def replaced(*args, **kwargs):
        is_due = next(calls) == after
        if is_due and not late:
            action()
        result = method(*args, **kwargs)
        if is_due and late:
            action()
        return result

    monkeypatch.setattr(owner, name, replaced)


def read(iterator, first: int = 0) -> int:
    """All batches; returns their number. Holds so many that some are copied."""
    held = []
    number = first
    for number, batch in enumerate(iterator, first):
        held = [*held[-HELD:], (number, batch)]
        for index, each in held:
            assert each["row"].unique().tolist() == [index]
    return number


def alive(iterator) -> list[int]:
    """The workers of an iterator that still run, or are there to be reaped."""
    return [worker.pid for worker in iterator._workers if psutil.pid_exists(worker.pid)]


POINTS = [
    (leases, "copy_leaves"),
    (run, "unwrap"),
    (Slots, "lease"),
    (Slots, "returned"),
    (Slots, "provide"),
    (Slots, "release"),
    (Tasks, "complete"),
    (Tasks, "add"),
    (InOrder, "head"),
    (InOrder, "take"),
    (Run, "request"),
    (Run, "next"),
    (Run, "deliver"),
    (Draws, "look"),
    (Draws, "used"),
    (Pool, "assign"),
    (Pool, "pump"),
    (PatientSender, "send"),
    (Receiver, "receive"),
]


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("late", [False, True], ids=["at its beginning", "at its end"])
@pytest.mark.parametrize(("owner", "name"), POINTS)
def test_close_from_within(owner, name, late, persistent, monkeypatch):
    """As a signal handler may do: the call gives the right batch, or says that it was closed."""
    loader = fastload.DataLoader(
        Rows(), batch_size=1, num_workers=2, prefetch_factor=8, persistent_workers=persistent
    )
    iterator = iter(loader)
    once(monkeypatch, owner, name, loader.close, after=3, late=late)
    with pytest.raises(RuntimeError, match="shut down"):
        read(iterator)
    assert not alive(iterator)
    monkeypatch.undo()
    assert read(loader) == 59
    loader.close()


@pytest.mark.parametrize(
    ("owner", "name"), [(Pool, "_send"), (Tasks, "add"), (PatientSender, "flush")]
)
def test_an_interrupted_beginning_on_persistent_workers(owner, name, monkeypatch):
    """What was sent of it is not known; the next epoch is whole, the one before says what it is."""

    def interrupt():
        raise Interruption

    loader = fastload.DataLoader(Rows(), batch_size=1, num_workers=2, persistent_workers=True)
    earlier = iter(loader)
    next(earlier)
    once(monkeypatch, owner, name, interrupt)
    with pytest.raises(Interruption):
        iter(loader)
    monkeypatch.undo()
    with pytest.raises(fastload.LoadingInterrupted):
        next(earlier)
    assert read(loader) == 59
    loader.close()


def test_a_close_that_did_not_begin_can_be_repeated(monkeypatch):
    """An exception of a signal handler may hit it at its very first step."""

    def interrupt():
        raise Interruption

    loader = fastload.DataLoader(Rows(), num_workers=2)
    iterator = iter(loader)
    next(iterator)
    once(monkeypatch, Shutdown, "__call__", interrupt)
    with pytest.raises(Interruption):
        loader.close()
    assert alive(iterator)
    loader.close()
    assert not alive(iterator)


def test_workers_whose_end_was_interrupted_end_with_the_program():
    """The program does not wait for them for ever, as it would for any process it has started."""
    program = """
        import fastload
        from fastload._pool.shutdown import Shutdown

        whole, calls = Shutdown.__call__, []

        def interrupted(self):
            calls.append(self)
            if len(calls) == 1:
                raise KeyboardInterrupt
            whole(self)

        Shutdown.__call__ = interrupted
        iterator = iter(fastload.DataLoader(range(100), num_workers=2))
        next(iterator)
        print(*[worker.pid for worker in iterator._workers])
        del iterator  # the interruption is printed and ignored: nobody could catch it
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    assert "KeyboardInterrupt" in ended.stderr
    assert not any(psutil.pid_exists(int(pid)) for pid in ended.stdout.split())


def test_tasks_of_a_dead_worker_are_counted_once():
    """Also those of a run that was dropped before anybody knew of the death."""
    tasks = Tasks(None)
    for number in (0, 1):
        tasks.open(number, Mailbox())
        for sequence in range(4):
            tasks.add(number, sequence, sequence % 2, [sequence])
    lost = tasks.forget(0)
    assert {number: [sequence for sequence, _ in each] for number, each in lost.items()} == {
        0: [0, 2],
        1: [0, 2],
    }
    assert all(type(task) is InFlight for _, task in lost[0])
    assert not tasks.has_flying(0)
    tasks.add(1, 0, 0, [0])  # it was started again
    assert not tasks.drop(0, workers=2, size=2)
    for worker_id in (0, 1):
        tasks.on_cancelled(Cancelled(0), worker_id)
    assert tasks.has_flying(0)
    assert tasks.has_flying(1)
    assert len(tasks.forget(0)[1]) == 1
    assert len(tasks.forget(1)[1]) == 2
    assert not tasks.has_flying(0)
    assert not tasks.has_flying(1)


def test_a_dead_worker_counts_as_having_forgotten_a_dropped_run():
    """It will never say so, and nothing of the run is kept for it."""
    tasks = Tasks(None)
    tasks.open(0, Mailbox())
    for worker_id in (0, 1):
        tasks.add(0, worker_id, worker_id, [worker_id])
    assert not tasks.drop(0, workers=2, size=2)
    assert [sequence for sequence, _ in tasks.forget(0)[0]] == [0]
    tasks.on_cancelled(Cancelled(0), 1)
    assert not any(map(tasks.has_flying, (0, 1)))
    with pytest.raises(KeyError):
        tasks.flying(0)
