"""Datasets that wait, and say how they were called."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import Dataset

LENGTH = 40


class Waiting(Dataset[Any]):
    """Numbers; every third takes a little longer, so that they end in another order."""

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> Any:
        time.sleep(0.004 if index % 3 == 0 else 0.001)
        return self.sample(index)

    def sample(self, index: int) -> Any:
        return {"number": torch.tensor(index), "halves": torch.full((3,), index / 2), "name": "x"}


class Awaited(Waiting):
    """The same, asynchronously."""

    async def __getitem__(self, index: int) -> Any:
        await asyncio.sleep(0.004 if index % 3 == 0 else 0.001)
        return self.sample(index)


class AwaitedBatches(Awaited):
    """Loads whole batches asynchronously, and counts them."""

    def __init__(self) -> None:
        self.calls = 0

    async def __getitems__(self, indices: list[int]) -> list[Any]:
        self.calls += 1
        return await asyncio.gather(*[self[index] for index in indices])


class Together(Dataset[Any]):
    """Its samples come only if so many load at a time; the first of a process comes alone."""

    def __init__(self, at_a_time: int) -> None:
        self.at_a_time = at_a_time
        self.is_begun = False

    def __len__(self) -> int:
        return 1 + 4 * self.at_a_time

    def __getitem__(self, index: int) -> Any:
        if not self.is_begun:
            self.barrier = threading.Barrier(self.at_a_time, timeout=60)
            self.is_begun = True
        else:
            self.barrier.wait()
        return index


class TogetherAwaited(Together):
    """The same, asynchronously."""

    async def __getitem__(self, index: int) -> Any:
        if not self.is_begun:
            self.waiting, self.come, self.is_begun = 0, asyncio.Event(), True
            return index
        self.waiting += 1
        if self.waiting == self.at_a_time:
            self.come.set()
            self.waiting, self.come = 0, asyncio.Event()
        else:
            await asyncio.wait_for(self.come.wait(), 60)
        return index


class Crowd(Dataset[Any]):
    """A sample is the number of samples that were loading when it began, itself included."""

    def __init__(self) -> None:
        self.loading = 0

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> Any:
        self.loading += 1  # the lock of the interpreter is enough for a bound
        found = self.loading
        time.sleep(0.002)
        self.loading -= 1
        return found


class CrowdAwaited(Crowd):
    """The same, asynchronously."""

    async def __getitem__(self, index: int) -> Any:
        self.loading += 1
        found = self.loading
        await asyncio.sleep(0.002)
        self.loading -= 1
        return found


BAD = (2, 5, 8, 9, 10, 11)


class Broken(Waiting):
    """Some samples can't be loaded; that of index 2 fails after those behind it."""

    def __init__(self, error: type[Exception] = ValueError, bad: tuple[int, ...] = BAD) -> None:
        self.error = error
        self.bad = bad

    def __getitem__(self, index: int) -> Any:
        if index == 2:
            time.sleep(0.1)
        if index in self.bad:
            raise self.error(f"broken file {index}")
        return torch.tensor(index)


class BrokenAwaited(Broken):
    """The same, asynchronously."""

    async def __getitem__(self, index: int) -> Any:
        if index == 2:
            await asyncio.sleep(0.1)
        if index in self.bad:
            raise self.error(f"broken file {index}")
        return torch.tensor(index)


class BrokenAwaitedBatches(BrokenAwaited):
    """A batch with such a sample can't be loaded in one call."""

    async def __getitems__(self, indices: list[int]) -> list[Any]:
        return await asyncio.gather(*[self[index] for index in indices])


class Noting(Dataset[Any]):
    """Notes which samples are begun; the second of them waits, fails or interrupts."""

    def __init__(self, second: Callable[[], object] | None = None, seconds: float = 0.01) -> None:
        self.second = second
        self.seconds = seconds
        self.begun: list[int] = []

    def __len__(self) -> int:
        return 400

    def __getitem__(self, index: int) -> Any:
        self.begun.append(index)
        if index == 1 and self.second is not None:
            second, self.second = self.second, None
            second()
        time.sleep(self.seconds)
        return index


class NotingAwaited(Noting):
    """The same, asynchronously."""

    async def __getitem__(self, index: int) -> Any:
        self.begun.append(index)
        if index == 1 and self.second is not None:
            second, self.second = self.second, None
            second()
        await asyncio.sleep(self.seconds)
        return index


class Deadly(Waiting):
    """Kills its process at index 13, once, while other samples load."""

    def __init__(self) -> None:
        self.tokens = torch.ones(1)
        self.tokens.share_memory_()  # type: ignore[no-untyped-call]

    def __getitem__(self, index: int) -> Any:
        if index == 13 and self.tokens[0] > 0:
            self.tokens[0] -= 1
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.002)
        return torch.tensor(index)


class Hanging(Waiting):
    """The sample of index 5 never comes, in good time."""

    def __getitem__(self, index: int) -> Any:
        if index == 5:
            time.sleep(100)
        return index


class HangingAwaited(Waiting):
    """The same, asynchronously."""

    async def __getitem__(self, index: int) -> Any:
        if index == 5:
            await asyncio.sleep(100)
        return index


class SameLoop(Dataset[Any]):
    """A sample says whether it is awaited in the loop of the first one, as a session must be."""

    loop: asyncio.AbstractEventLoop | None = None

    def __len__(self) -> int:
        return 8

    async def __getitem__(self, index: int) -> Any:
        if self.loop is None:
            self.loop = asyncio.get_running_loop()
        return self.loop is asyncio.get_running_loop()
