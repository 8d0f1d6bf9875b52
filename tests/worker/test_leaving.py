"""Workers that are not kept leave as soon as they have nothing left to do."""

import multiprocessing
import os
import signal
import time
from multiprocessing import util
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

import fastload

PATIENCE_S = 60.0


class Numbers(Dataset):
    """Sixteen numbers, alone in their tensors."""

    def __len__(self):
        return 16

    def __getitem__(self, index):
        return torch.tensor([index])


class Unequal(IterableDataset):
    """The first worker gives four numbers, each other one sixteen."""

    def __iter__(self):
        worker = get_worker_info().id
        yield from range(100 * worker, 100 * worker + (16 if worker else 4))


class Files(Dataset):
    """Each sample is the name of a file that its worker deletes at exit."""

    def __init__(self, folder):
        self.folder = folder

    def __len__(self):
        return 4

    def __getitem__(self, index):
        path = self.folder / str(index)
        path.touch()
        util.Finalize(None, path.unlink, exitpriority=0)
        return str(path)


class Connections(Dataset):
    """Each sample is the receiving end of a pipe in which its index lies."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        receiver, sender = multiprocessing.Pipe(duplex=False)
        sender.send(index)
        return receiver


def wait_for_the_end_of(processes):
    deadline_s = time.monotonic() + PATIENCE_S
    while any(process.is_alive() for process in processes):
        assert time.monotonic() < deadline_s, "workers with nothing left to do are still there"
        time.sleep(0.01)


def numbers_of(batches):
    return [number for batch in batches for number in batch.flatten().tolist()]


def test_workers_leave_before_the_last_batches_are_taken():
    """Their batches lie in shared memory and are as they should be."""
    iterator = iter(fastload.DataLoader(Numbers(), batch_size=4, num_workers=2))
    first = next(iterator)  # the sampler is asked for a fifth batch and has none
    wait_for_the_end_of(iterator._workers)
    assert numbers_of([first, *iterator]) == list(range(16))


def test_kept_workers_stay():
    """They have the next epoch to do."""
    loader = fastload.DataLoader(Numbers(), batch_size=4, num_workers=2, persistent_workers=True)
    for _ in range(2):
        assert numbers_of(loader) == list(range(16))
    assert all(process.is_alive() for process in loader._iterator._workers)


def test_the_worker_of_a_stream_that_has_ended_leaves():
    """The others go on."""
    iterator = iter(fastload.DataLoader(Unequal(), batch_size=2, num_workers=2))
    batches = [next(iterator) for _ in range(6)]  # the first worker's end is known now
    wait_for_the_end_of(iterator._workers[:1])
    assert iterator._workers[1].is_alive()
    assert sorted(numbers_of([*batches, *iterator])) == [0, 1, 2, 3, *range(100, 116)]


class Dying(Numbers):
    """Whoever loads the last sample first is killed; the second one is not."""

    def __init__(self, folder):
        self.mark = folder / "died"

    def __getitem__(self, index):
        if index == 15 and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def test_a_worker_that_dies_with_its_last_task_is_a_death(tmp_path):
    """Although it was told to leave after it."""
    iterator = iter(fastload.DataLoader(Dying(tmp_path), batch_size=4, num_workers=2))
    with pytest.raises(fastload.WorkerDied, match="SIGKILL"):
        list(iterator)


def test_a_worker_that_is_started_again_leaves_too(tmp_path):
    """After the tasks of the one that died."""
    loader = fastload.DataLoader(
        Dying(tmp_path), batch_size=4, num_workers=2, max_worker_restarts=1
    )
    iterator = iter(loader)
    with pytest.warns(RuntimeWarning, match="started again"):
        batches = list(iterator)
    assert numbers_of(batches) == list(range(16))
    wait_for_the_end_of(iterator._workers)


def test_connections_in_the_last_batch_can_still_be_fetched():
    """The process that made them hands them over when the batch is unpickled."""
    loader = fastload.DataLoader(Connections(), batch_size=2, num_workers=1, collate_fn=list)
    iterator = iter(loader)
    first = next(iterator)
    time.sleep(0.5)  # time enough to leave
    received = [connection.recv() for batch in [first, *iterator] for connection in batch]
    assert received == [0, 1, 2, 3]


def test_workers_stay_while_batches_may_name_what_is_theirs(tmp_path):
    """Until the last batch was taken and another one is asked for."""
    iterator = iter(fastload.DataLoader(Files(tmp_path), batch_size=1, num_workers=2))
    batches = [next(iterator)]
    time.sleep(0.5)  # time enough to leave
    batches += [next(iterator) for _ in range(3)]
    assert all(Path(name).exists() for (name,) in batches)
    assert next(iterator, None) is None
    wait_for_the_end_of(iterator._workers)
    assert not any(tmp_path.iterdir())
