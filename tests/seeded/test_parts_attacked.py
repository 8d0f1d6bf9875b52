"""Shared tasks and parts of batches under whatever happens: nothing hangs, is lost or torn."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import signal
import socket
import struct
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

import fastload
from fastload._wire import task_queue
from fastload._wire.task_queue import LOADED, PartsRow, SharedTask
from fastload._worker import parts as parts_module

from .test_parts import assert_same

PARTS = pytest.mark.parametrize("parts", [1, 2])


class Slow(Dataset[torch.Tensor]):
    """Indices, each of which takes a while."""

    def __init__(self, length: int = 64, seconds: float = 0.01) -> None:
        self.length = length
        self.seconds = seconds

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> torch.Tensor:
        time.sleep(self.seconds)
        return torch.tensor(index)


def options(parts: Any, **others: Any) -> dict[str, Any]:
    """Those of a loader with two workers; a hang becomes an error."""
    return {
        "batch_size": 4,
        "seed": 1,
        "num_workers": 2,
        "workers_per_batch": parts,
        "timeout": 60,
        **others,
    }


def without_workers(dataset: Any, **others: Any) -> list[Any]:
    """What all other ways are compared with."""
    changes = {"num_workers": 0, "workers_per_batch": 1, "timeout": 0}
    return list(fastload.DataLoader(dataset, **{**options(1, **others), **changes}))


@PARTS
def test_an_iterator_that_is_dropped_at_once_stops_no_other(parts):
    """Workers may hear that a run was cancelled before they hear that it has begun."""
    loader = fastload.DataLoader(Slow(), **options(parts, persistent_workers=True))
    one = iter(loader)
    found = [next(one)]
    other = iter(loader)
    del other, loader
    found += one
    assert_same(found, without_workers(Slow(seconds=0)))


@PARTS
@pytest.mark.filterwarnings("ignore:.*was started again")
def test_what_a_dropped_iterator_left_in_the_queue_does_no_harm_to_new_workers(parts):
    """A worker that starts later finds tasks of runs that it has never heard of."""
    loader = fastload.DataLoader(
        Slow(), **options(parts, persistent_workers=True, max_worker_restarts=4)
    )
    expected = without_workers(Slow(seconds=0))
    with loader:
        one = iter(loader)
        next(one)
        for process in one._workers:
            os.kill(process.pid, signal.SIGKILL)
        del one
        loader.set_epoch(0)
        assert_same(list(loader), expected)
        loader.set_epoch(0)
        one = iter(loader)
        found = [next(one)]
        for _ in range(2):  # the loader keeps the last one
            next(iter(loader))
        for process in one._workers:
            os.kill(process.pid, signal.SIGKILL)
        found += one
        assert_same(found, expected)


@PARTS
def test_iterators_of_one_loader_get_all_batches_however_many_they_are(parts):
    """Where the others have all slots, an iterator's next batch comes by pipe."""
    dataset = Slow(24, 0.002)
    loader = fastload.DataLoader(dataset, **options(parts, persistent_workers=True))
    with loader:
        iterators = []
        for _ in range(9):
            loader.set_epoch(0)
            iterators.append(iter(loader))
        first = [next(iterator) for iterator in iterators]
        for batch, iterator in zip(first, iterators, strict=True):
            assert_same([batch, *iterator], without_workers(dataset))


@pytest.mark.parametrize("parts", [1, 2, "auto"])
def test_a_batch_without_samples_is_one_task(parts):
    """A batch sampler may give an empty list, and the collate function gets it."""
    batches = [[1, 2, 3], [], [4, 5]]
    found = fastload.DataLoader(
        list(range(10)),
        batch_sampler=batches,
        collate_fn=list,
        seed=1,
        num_workers=2,
        workers_per_batch=parts,
        timeout=60,
    )
    assert list(found) == batches


def wait_for(file: Path) -> None:
    """Wait until another process has made a file."""
    deadline_s = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def kill_once(file: Path) -> None:
    """Kill this process, unless another one was killed here before."""
    try:
        file.touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.filterwarnings("ignore:.*was started again")
def test_a_death_while_collating_is_seen_although_somebody_else_holds_the_lock(
    monkeypatch, tmp_path
):
    """A worker that was stopped in between comes to look just when the one that collates dies."""
    try_lock, held = parts_module.try_lock, tmp_path / "held"

    def try_lock_at_the_worst_moment(descriptor: int, task: SharedTask) -> bool:
        if task.sequence == 0 and task.part == 0:
            wait_for(held)
        elif task.sequence == 0 and not held.exists():
            held.touch()
            wait_for(tmp_path / "killed")
            time.sleep(0.2)
            has_lock = try_lock(descriptor, task)
            time.sleep(2)
            return has_lock
        return try_lock(descriptor, task)

    def collate(samples: list[Any]) -> torch.Tensor:
        if samples[0] == 0:
            kill_once(tmp_path / "killed")
        return torch.stack(samples)

    monkeypatch.setattr(parts_module, "try_lock", try_lock_at_the_worst_moment)
    loader = fastload.DataLoader(
        Slow(16, 0),
        **options(2, collate_fn=collate, max_worker_restarts=1, multiprocessing_context="fork"),
    )
    iterator = iter(loader)
    time.sleep(1)  # the training loop hears of the death while the lock is held
    assert_same(list(iterator), without_workers(Slow(16, 0)))


class DeadlyAtTheEnd(Slow):
    """The last sample kills its worker, once, as soon as there is a file ``armed``."""

    def __init__(self, length: int, folder: Path) -> None:
        super().__init__(length, 0)
        self.folder = folder

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == self.length - 1 and (self.folder / "armed").exists():
            kill_once(self.folder / "killed")
        return super().__getitem__(index)


class ShortAndLong:
    """Two small batches, then two that are too long for a packet."""

    def __iter__(self) -> Any:
        yield from ([0, 1], [2, 3])
        yield from (list(range(20_000)), list(range(20_000)))

    def __len__(self) -> int:
        return 4


@PARTS
@pytest.mark.filterwarnings("ignore:.*was started again")
def test_a_task_in_hand_is_not_lost_with_one_that_came_by_pipe(parts, tmp_path):
    """A worker may hold a task of a run that begins, and be killed by a longer one before."""
    expected = [torch.tensor(batch) for batch in ShortAndLong()]
    loader = fastload.DataLoader(
        DeadlyAtTheEnd(20_000, tmp_path),
        batch_sampler=ShortAndLong(),
        seed=1,
        num_workers=2,
        workers_per_batch=parts,
        timeout=60,
        max_worker_restarts=2,
        persistent_workers=True,
    )
    with loader:
        assert_same(list(loader), expected)
        (tmp_path / "armed").touch()
        assert_same(list(loader), expected)


def test_parts_of_the_batch_before_never_seem_to_be_missing(monkeypatch):
    """Whoever comes late, in the middle of the change, must not load into another's slot."""
    row = PartsRow(memoryview(bytearray(64)))
    before = SharedTask(run=0, sequence=3, slot=0, part=1, parts=2, indices=b"")
    row.begin(0, 3)
    row.set(0, LOADED)
    row.set(1, LOADED)
    seen = []

    class Looking(struct.Struct):
        def pack_into(self, *arguments: Any) -> None:
            seen.append(row.lacks(before))
            super().pack_into(*arguments)

    monkeypatch.setattr(task_queue, "_ID", Looking("=qq"))
    row.begin(1, 3)
    assert not any([*seen, row.lacks(before)])
    assert row.lacks(before._replace(run=1))


class Together(Slow):
    """Loads a batch by one call, whose result is no list of samples."""

    def __init__(self, kind: Any) -> None:
        super().__init__(16, 0)
        self.kind = kind

    def __getitems__(self, indices: list[int]) -> Any:
        return self.kind(indices)


def as_it_is(samples: Any) -> Any:
    """Collate what is a batch already."""
    return samples


def in_a_dict(indices: list[int]) -> dict[str, torch.Tensor]:
    return {"x": torch.tensor(indices)}


@pytest.mark.parametrize("kind", [torch.tensor, in_a_dict, tuple])
def test_what_a_dataset_loads_as_one_piece_is_not_cut(kind):
    """Batches are those of the dataset, not lists of what a batch is made of."""
    found = fastload.DataLoader(Together(kind), **options(2, collate_fn=as_it_is))
    assert_same(list(found), without_workers(Together(kind), collate_fn=as_it_is))


class Unreadable:
    """Can be pickled, but not unpickled."""

    def __init__(self, index: int) -> None:
        self.index = index

    def __reduce__(self) -> Any:
        return refuse, ()


def refuse() -> None:
    raise RuntimeError("such an object is not made again")


class Unwritable:
    """Can't even be pickled."""

    def __init__(self, index: int) -> None:
        self.index = index

    def __reduce__(self) -> Any:
        refuse()


class Objects(Slow):
    """Objects, some of which fail to load."""

    def __init__(self, kind: Any) -> None:
        super().__init__(24, 0)
        self.kind = kind

    def __getitem__(self, index: int) -> Any:
        if index % 5 == 0:
            raise ValueError(f"no sample {index}")
        return self.kind(index)


def index_of_each(samples: list[Any]) -> list[int]:
    return [sample.index for sample in samples]


@pytest.mark.parametrize("kind", [Unreadable, Unwritable])
def test_samples_that_cannot_travel_are_skipped_once(kind):
    """Such batches are loaded again as a whole, and what failed is counted once."""

    def run(**others: Any) -> tuple[list[Any], list[int]]:
        loader = fastload.DataLoader(
            Objects(kind), batch_size=8, seed=1, on_error="skip", collate_fn=index_of_each, **others
        )
        return list(loader), [skipped.index for skipped in loader.stats().skipped]

    assert run(num_workers=2, workers_per_batch=2, timeout=60) == run()


class Boxed:
    """A kind of sample that torch's default collate does not know."""

    def __init__(self, content: torch.Tensor) -> None:
        self.content = content


class Boxes(Slow):
    """Samples that a function in torch's registry collates."""

    def __getitem__(self, index: int) -> Boxed:
        return Boxed(torch.full((4,), float(index)))


def test_samples_that_a_registered_function_keeps_do_not_change(monkeypatch):
    """The default collate gives samples to functions of the user's, which may keep them."""
    kept: list[Any] = []

    def collate_boxes(samples: list[Boxed], *, collate_fn_map: Any = None) -> torch.Tensor:
        kept.append((samples[0].content, samples[0].content.clone()))
        return torch.tensor([torch.equal(one, other) for one, other in kept]).all()

    registry = torch.utils.data._utils.collate.default_collate_fn_map
    monkeypatch.setitem(registry, Boxed, collate_boxes)
    assert all(fastload.DataLoader(Boxes(200), **options(2, multiprocessing_context="fork")))


@PARTS
def test_each_slot_has_one_owner_in_the_middle_of_an_epoch(parts):
    """Whatever is loaded, delivered, held or dropped."""
    iterator: Any = iter(fastload.DataLoader(Slow(64, 0), **options(parts)))
    held = []
    for batch in iterator:
        held = [*held[-3:], batch]
        iterator._pool.slots.validate()


def test_a_forked_child_that_drops_the_iterator_closes_none_of_its_own_files():
    """The numbers of our sockets are other files' there."""
    loader = fastload.DataLoader(Slow(64, 0), **options(2))
    alive = {"loader": loader, "iterator": iter(loader)}
    first = next(alive["iterator"])
    number = alive["iterator"]._pool.shared.queue.descriptor

    def drop() -> None:
        opened = set()
        while number not in opened:
            opened.add(os.open(os.devnull, os.O_RDONLY))
        alive.clear()
        gc.collect()
        os.fstat(number)

    del loader
    child = multiprocessing.get_context("fork").Process(target=drop)
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert_same([first, *alive["iterator"]], without_workers(Slow(64, 0)))


def test_nothing_stays_open_if_the_queue_cannot_be_opened(monkeypatch):
    """The limit on open files may be reached just there."""
    list(fastload.DataLoader(Slow(8, 0), **options(1)))
    gc.collect()
    before = list(Path("/proc/self/fd").iterdir())

    def refuse_sockets(*_: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(socket, "socketpair", refuse_sockets)
        with pytest.raises(OSError, match="Too many open files"):
            iter(fastload.DataLoader(Slow(8, 0), **options(1, memory_limit=1 << 20)))
    gc.collect()
    found = list(Path("/proc/self/fd").iterdir())
    assert len(found) <= len(before)


@PARTS
def test_tasks_fit_into_the_smallest_sockets(monkeypatch, parts):
    """Some systems give a socket little room; what is too long then goes by pipe."""
    socketpair = socket.socketpair

    def small_socketpair(*kind: Any) -> tuple[socket.socket, socket.socket]:
        ours, theirs = socketpair(*kind)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        return ours, theirs

    batches = [list(range(start, start + 2_000)) for start in range(0, 20_000, 2_000)]
    batches += [[index] for index in range(100)]
    dataset = torch.arange(20_000)
    expected = list(fastload.DataLoader(dataset, batch_sampler=batches, seed=1))
    monkeypatch.setattr(socket, "socketpair", small_socketpair)
    loader = fastload.DataLoader(
        dataset,
        batch_sampler=batches,
        seed=1,
        num_workers=2,
        workers_per_batch=parts,
        prefetch_factor=20,
        timeout=60,
    )
    assert_same(list(loader), expected)


def test_parts_take_no_more_of_a_disk_than_they_fill(monkeypatch):
    """Where there is no memfd, room is asked for a part alone, not for all that lies before it."""
    monkeypatch.delattr(os, "memfd_create")
    dataset = Slow(64, 0)
    loader = fastload.DataLoader(dataset, **options(2, memory_limit=1 << 28, max_worker_restarts=1))
    iterator: Any = iter(loader)
    found = [next(iterator) for _ in range(10)]
    assert os.fstat(iterator._pool.slots.arena.descriptor).st_blocks * 512 < 1 << 22
    assert_same([*found, *iterator], without_workers(dataset))


MISSING = object()


class Marked(Slow):
    """Tensors that know their name, or a mark that there is none; alone or beside others."""

    def __init__(self, *, is_nested: bool) -> None:
        super().__init__(16, 0)
        self.is_nested = is_nested

    def __getitem__(self, index: int) -> Any:
        tensor: Any = torch.tensor([index])
        if index < 8:
            tensor.name_of_file = f"{index}.png"
        elif index % 3 == 0:
            tensor = MISSING
        return (index, [tensor]) if self.is_nested else tensor


def names_of(samples: list[Any]) -> list[Any]:
    """What is beside the numbers of each sample."""
    samples = [each[1][0] if isinstance(each, tuple) else each for each in samples]
    return [None if each is MISSING else getattr(each, "name_of_file", "") for each in samples]


@pytest.mark.parametrize("is_nested", [False, True])
def test_a_collate_function_sees_all_of_a_sample(is_nested):
    """Also attributes of tensors, and objects that it compares by identity."""
    dataset = Marked(is_nested=is_nested)
    found = fastload.DataLoader(
        dataset, **options(2, collate_fn=names_of, multiprocessing_context="fork")
    )
    assert_same(list(found), without_workers(dataset, collate_fn=names_of))


class Sparse(Slow):
    """Every sixteenth index can't be loaded."""

    def __getitem__(self, index: int) -> torch.Tensor:
        if index % 16 == 3:
            raise ValueError(f"no sample {index}")
        return super().__getitem__(index)


def collate_but_twenty(samples: list[Any]) -> torch.Tensor:
    """Refuse the batch with the sample 20."""
    if any(sample == 20 for sample in samples):
        raise RuntimeError("twenty")
    return torch.stack(samples)


def test_samples_that_failed_are_counted_although_their_batch_fails_too():
    """As by workers that load whole batches: with the next batch that comes."""
    loader = fastload.DataLoader(
        Sparse(400, 0.001),
        **options(2, batch_size=8, on_error="skip", collate_fn=collate_but_twenty),
    )
    iterator = iter(loader)
    assert len([next(iterator) for _ in range(2)]) == 2
    with pytest.raises(RuntimeError, match="twenty"):
        next(iterator)
    assert len(list(iterator)) == 47
    found = sorted(skipped.index for skipped in loader.stats().skipped)
    assert found == list(range(3, 400, 16))
