"""A made-up device whose queues run late, and whose memory is used again as soon as it may be.

A copy is queued and runs when somebody waits for it, at the very last moment. Host memory is
overwritten when it is given back, and device memory by the next copy of the stream it belongs to,
as CUDA's allocator gives it away: at once, or, where other streams were recorded, once they have
done what they had queued. So whoever frees too early, or does not wait, sees wrong numbers.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch

OVERWRITTEN = -1


class FakeStream:
    """A queue of functions, which run when somebody needs them to have run."""

    def __init__(self) -> None:
        self.queue: list[Callable[[], None]] = []
        self.done = 0

    def run(self, until: int | None = None) -> None:
        """Run what is queued, up to a place."""
        until = len(self.queue) if until is None else until
        while self.done < until:
            work = self.queue[self.done]
            self.done += 1
            work()

    def wait_event(self, event: FakeEvent) -> None:
        self.queue.append(event.wait)

    def wait_stream(self, stream: FakeStream) -> None:
        place = len(stream.queue)
        self.queue.append(lambda: stream.run(place))


class FakeEvent:
    """A place in a queue."""

    def record(self, stream: FakeStream) -> None:
        self.stream, self.place = stream, len(stream.queue)

    def wait(self) -> None:
        self.stream.run(self.place)

    def query(self) -> bool:
        return self.stream.done >= self.place


class FakeDevice:
    """What ``torch.cuda`` is to a GPU.

    Attributes:
        main: The stream of the training.
        copies: All other streams.
        free: Memory that nobody refers to, its stream, and the places it has to wait for.
    """

    def __init__(self) -> None:
        self.main = FakeStream()
        self.copies: list[FakeStream] = []
        self.free: list[tuple[list[int], FakeStream, list[tuple[FakeStream, int]]]] = []
        self._current = self.main

    def Stream(self, device: torch.device) -> FakeStream:
        self.copies.append(FakeStream())
        return self.copies[-1]

    def Event(self) -> FakeEvent:
        return FakeEvent()

    @contextlib.contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        before, self._current = self._current, stream
        try:
            yield
        finally:
            self._current = before

    def current_stream(self, device: torch.device) -> FakeStream:
        return self._current

    def take_free(self) -> None:
        """Write into all memory that the current stream may use again."""
        for block in tuple(self.free):
            memory, made_on, waits_for = block
            if made_on is self._current and all(s.done >= place for s, place in waits_for):
                self.free.remove(block)
                made_on.queue.append(functools.partial(_overwrite, memory))

    def kernel(self, array: OnDevice) -> list[int]:
        """Queue a training step that reads an array; its result is there once it has run."""
        result: list[int] = []
        memory = array.memory
        self.main.queue.append(lambda: result.append(memory[0]))
        return result


class OnHost:
    """A number in host memory, which is overwritten once nobody refers to it."""

    def __init__(self, value: int, device: FakeDevice) -> None:
        self.memory = [value]
        self.device = device
        weakref.finalize(self, _overwrite, self.memory)

    def to(self, device: torch.device, *, non_blocking: bool) -> OnDevice:
        assert non_blocking
        self.device.take_free()
        copied, source = OnDevice(self.device), self.memory
        target = copied.memory

        def copy() -> None:
            target[0] = source[0]

        self.device.current_stream(torch.device("cuda")).queue.append(copy)
        return copied


class OnDevice:
    """A number in device memory.

    Once nobody refers to it, the stream that made it may use the memory again; but behind what
    the streams that were recorded have queued by then.
    """

    def __init__(self, device: FakeDevice) -> None:
        self.memory = [0]
        self.recorded: list[Any] = []
        made_on = device.current_stream(torch.device("cuda"))
        weakref.finalize(self, _set_free, device, self.memory, self.recorded, made_on)

    def record_stream(self, stream: FakeStream) -> None:
        self.recorded.append(stream)


class Hidden:
    """An object with ``to`` that does not show its array, nor take ``non_blocking``."""

    def __init__(self, array: Any) -> None:
        self._get: Callable[[], Any] = lambda: array

    def to(self, device: torch.device) -> Hidden:
        return Hidden(self._get().to(device, non_blocking=True))

    @property
    def array(self) -> Any:
        return self._get()


def _overwrite(memory: list[int]) -> None:
    memory[0] = OVERWRITTEN


def _set_free(
    device: FakeDevice, memory: list[int], recorded: list[FakeStream], made_on: FakeStream
) -> None:
    device.free.append((memory, made_on, [(each, len(each.queue)) for each in recorded]))
