"""Workers that die and are started again: nothing lost, repeated or out of order."""

from __future__ import annotations

import errno
import os
import random
import signal
import threading
import time

import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from fastload import DataLoader, WorkerDied
from fastload._pool.start import Starter

METHODS = ["fork", "forkserver", "spawn"]
BATCHES = [list(range(start, start + 4)) for start in range(0, 40, 4)]

pytestmark = pytest.mark.filterwarnings("ignore:DataLoader worker .* was started again")


class Deadly(Dataset):
    """Kills its process at some indices, each once, if a token is left."""

    def __init__(self, tokens: int, deadly: tuple[int, ...] = (13,)) -> None:
        self.tokens = torch.tensor([tokens]).share_memory_()
        self.deadly = deadly

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> torch.Tensor:
        if index in self.deadly and self.tokens[0] > 0:
            self.tokens[0] -= 1
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.tensor(index)


class Counting(IterableDataset):
    """Counts on from its state; kills its process at 13, once."""

    def __init__(self, tokens: int) -> None:
        self.tokens = torch.tensor([tokens]).share_memory_()
        self.position = 0

    def __iter__(self):
        info = get_worker_info()
        while self.position < 20:
            value = self.position * info.num_workers + info.id
            if value == 13 and self.tokens[0] > 0:
                self.tokens[0] -= 1
                os.kill(os.getpid(), signal.SIGKILL)
            self.position += 1
            yield value


class Stateful(Counting):
    """The same with a state."""

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


def values(loader: DataLoader) -> list[list[int]]:
    return [batch.tolist() for batch in loader]


class Forgetful(IterableDataset):
    """Tensors of two shapes and dtypes; cannot tell its state at the first of the second kind."""

    def __init__(self) -> None:
        self.position = 0

    def __iter__(self):
        for self.position in range(8):
            dtype = torch.float32 if self.position < 3 else torch.int32
            yield torch.full((2 + (self.position >= 3),), self.position, dtype=dtype)

    def state_dict(self):
        if self.position == 3:
            raise OSError("disk full")
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


def test_a_state_that_cannot_be_told_costs_its_batch_alone():
    """The next one is not taken to look like those before."""
    iterator = iter(DataLoader(Forgetful(), batch_size=1, num_workers=1, max_worker_restarts=1))
    found = [next(iterator).tolist() for _ in range(3)]
    with pytest.raises(OSError, match="disk full"):
        next(iterator)
    found += [batch.tolist() for batch in iterator]

    assert found == [[[n] * (2 if n < 3 else 3)] for n in (0, 1, 2, 4, 5, 6, 7)]


@pytest.mark.parametrize("method", METHODS)
def test_worker_killed_once_is_started_again_and_nothing_is_missing(method):
    """Every sample arrives once and in its place, under every start method."""
    loader = DataLoader(
        Deadly(1),
        batch_size=4,
        num_workers=2,
        max_worker_restarts=1,
        multiprocessing_context=method,
    )
    assert values(loader) == BATCHES
    assert loader.stats().worker_restarts == 1


def test_worker_that_dies_more_often_than_allowed_raises_with_its_indices():
    """After the last restart the death is an error, behind the batches that were complete."""
    loader = DataLoader(Deadly(3), batch_size=4, num_workers=2, max_worker_restarts=2)
    seen = []
    with pytest.raises(WorkerDied, match=r"SIGKILL.*\[12, 13, 14, 15\]"):
        for batch in loader:
            seen.append(batch.tolist())
    assert seen == BATCHES[:3]


def test_every_worker_may_die_at_every_batch():
    """Ten deaths over two workers cost no sample."""
    deadly = tuple(range(0, 40, 4))
    loader = DataLoader(Deadly(10, deadly), batch_size=4, num_workers=2, max_worker_restarts=10)
    assert values(loader) == BATCHES
    assert loader.stats().worker_restarts == 10


def test_persistent_workers_are_whole_after_a_restart():
    """The next epoch runs on the same workers, the new one among them."""
    loader = DataLoader(
        Deadly(1), batch_size=4, num_workers=2, max_worker_restarts=1, persistent_workers=True
    )
    assert values(loader) == BATCHES
    pids = [worker.pid for worker in loader._iterator._workers]
    assert values(loader) == BATCHES
    assert [worker.pid for worker in loader._iterator._workers] == pids
    loader.close()


def test_two_iterators_share_a_worker_that_dies():
    """Both runs go on: the new worker gets the tasks of both."""
    loader = DataLoader(
        Deadly(1), batch_size=4, num_workers=2, max_worker_restarts=1, persistent_workers=True
    )
    pairs = [(a.tolist(), b.tolist()) for a, b in zip(iter(loader), iter(loader), strict=True)]
    assert pairs == [(batch, batch) for batch in BATCHES]
    loader.close()


def test_batches_held_through_a_restart_keep_their_values():
    """A new worker never writes where a batch that is held lies."""
    loader = DataLoader(
        Deadly(5, (13, 17, 21, 25, 29)), batch_size=4, num_workers=2, max_worker_restarts=5
    )
    assert [batch.tolist() for batch in list(loader)] == BATCHES


def test_stream_with_state_goes_on_where_the_dead_worker_was():
    """The dataset's state behind the last batch delivered is loaded into the new worker."""
    loader = DataLoader(Stateful(1), batch_size=4, num_workers=2, max_worker_restarts=1)
    whole = DataLoader(Stateful(0), batch_size=4, num_workers=2)
    assert values(loader) == values(whole)
    assert loader.stats().worker_restarts == 1


def test_stream_without_state_is_not_restarted():
    """What the dead worker had delivered would come twice, so the error stays."""
    loader = DataLoader(Counting(1), batch_size=4, num_workers=2, max_worker_restarts=1)
    with pytest.raises(WorkerDied):
        list(loader)


def test_stream_that_two_iterators_read_is_not_restarted():
    """One dataset can't be in the states of both, so the error stays."""
    loader = DataLoader(
        Stateful(1), batch_size=4, num_workers=2, max_worker_restarts=1, persistent_workers=True
    )
    with pytest.raises(WorkerDied):
        list(zip(iter(loader), iter(loader), strict=True))
    loader.close()


def test_death_stays_an_error_where_no_new_worker_can_be_started(monkeypatch):
    """The program hears of the death and its indices, not of the process that was refused."""
    loader = DataLoader(Deadly(1), batch_size=4, num_workers=2, max_worker_restarts=1)
    iterator = iter(loader)

    def refused(*_: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(Starter, "start", refused)
    with pytest.raises(WorkerDied, match=r"SIGKILL.*\[12, 13, 14, 15\]"):
        list(iterator)


class Lengths(Deadly):
    """Gives the length of a batch; dies at the first index of one if it is deadly."""

    def __getitems__(self, indices: list[int]) -> list[torch.Tensor]:
        self[indices[0]]
        return [torch.tensor(len(indices))]


LONG = 50_000
"""So many indices are more than a pipe takes at once."""


@pytest.mark.parametrize("deaths", [0, 1])
def test_tasks_that_no_pipe_holds_reach_the_worker(deaths):
    """What waits to be sent is sent when there is room, to a new worker from the beginning."""
    batches = [[number] * (LONG + number) for number in range(12)]
    loader = DataLoader(
        Lengths(deaths, deadly=(0,)),
        batch_sampler=batches,
        num_workers=1,
        prefetch_factor=4,
        max_worker_restarts=1,
    )
    assert values(loader) == [[len(batch)] for batch in batches]
    assert loader.stats().worker_restarts == deaths


def test_restart_is_told_with_its_cause():
    """A warning, at the loop, says which worker died and how."""
    loader = DataLoader(Deadly(1), batch_size=4, num_workers=2, max_worker_restarts=1)
    with pytest.warns(RuntimeWarning, match="worker 1 .* SIGKILL and was started again") as caught:
        list(loader)
    assert caught[0].filename == __file__


class Pids(Deadly):
    """Says who loaded a batch, slowly enough to be killed at it."""

    def __getitem__(self, index: int) -> torch.Tensor:
        time.sleep(0.0005)
        return torch.tensor([index, os.getpid()])


def test_kills_at_random_moments_lose_nothing():
    """Workers shot from outside, whatever they are doing, cost no sample and repeat none."""
    shots = 25
    loader = DataLoader(
        Pids(0), batch_size=1, num_workers=3, max_worker_restarts=shots, persistent_workers=True
    )
    stop = threading.Event()
    chance = random.Random(1)

    def shoot() -> None:
        for _ in range(shots):
            if stop.wait(chance.uniform(0.002, 0.02)):
                return
            chance.choice(pool.workers).process.kill()

    iterator = iter(loader)
    pool = iterator._pool
    shooter = threading.Thread(target=shoot)
    shooter.start()
    try:
        for epoch in range(6):
            batches = iterator if epoch == 0 else loader
            assert [int(batch[0, 0]) for batch in batches] == list(range(40))
    finally:
        stop.set()
        shooter.join()
        loader.close()
