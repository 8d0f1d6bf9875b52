"""Copy the batches of an iterator to a device ahead of the training loop.

Runs in: consumer.
Takes: an iterator of batches, and a function that says where its loader stands.
Gives: the batches on the device, in the same order, and what was said behind the newest of them.

The copies of a batch are queued on a stream of their own while the training's kernels run on
another. A batch is handed out before its copies are done: an event makes the training's stream wait
for them, not the program. Two kinds of memory must not be used again too early:

* the batch on the host, which a copy reads: it is kept until the event says that it was read;
* the batch on the device, which the copying stream's allocator would give to the next copy as soon
  as the program drops it: ``record_stream`` tells it that the training's stream reads it too. Where
  an object hides its tensors, the copying stream waits for the training's instead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from fastload._device.device_streams import DeviceEvent, DeviceStream, StreamModule, stream_module
from fastload._device.moving import moved, record_stream


class _Copied(NamedTuple):
    """A batch whose copies are queued.

    Attributes:
        batch: On the device, once the event has come.
        said: What the loader said of itself behind this batch.
        source: The batch on the host.
        event: Behind the copies.
    """

    batch: Any
    said: Any
    source: Any
    event: DeviceEvent


class HandedOut:
    """What a loader said behind the newest batch that was handed out.

    It is shared by the iterator and by whoever is asked for the loader's state, so that neither
    keeps the other alive, and a state can be had when the iterator is gone.

    Attributes:
        said: Before the first batch: what it said as the iterator began.
    """

    __slots__ = ("said",)

    def __init__(self, said: Any) -> None:
        self.said = said


class DeviceIterator:
    """The batches of an iterator, on a device.

    Args:
        batches: The loader's iterator.
        device: Where the batches go.
        depth: Batches that are copied ahead of the one in use, where the device has streams.
        say: Asked behind each batch that ``batches`` gives.
        handed_out: Told the answer when that batch is handed out.
    """

    def __init__(
        self,
        batches: Iterator[Any],
        device: torch.device,
        depth: int,
        say: Callable[[], Any],
        handed_out: HandedOut,
    ) -> None:
        self._batches = batches
        self._depth = depth
        self._say = say
        self._device = device
        streams = stream_module(device)
        self._copier = None if streams is None else _Copier(device, streams)
        self._waiting: deque[_Copied] = deque()
        self._end: Exception | None = None
        self._handed_out = handed_out

    def __iter__(self) -> DeviceIterator:
        return self

    def __next__(self) -> Any:
        if self._copier is None:
            try:
                return moved(next(self._batches), self._device, non_blocking=False)
            finally:
                self._handed_out.said = self._say()
        self._copy_ahead(self._copier)
        if self._waiting:
            copied = self._waiting.popleft()
            batch = self._copier.hand_out(copied)
            self._handed_out.said = copied.said
            return batch
        # In its place in the order; behind an error there may be more batches.
        end, self._end = self._end, None
        self._handed_out.said = self._say()
        assert end is not None
        raise end

    def _copy_ahead(self, copier: _Copier) -> None:
        """Queue the copies of the next batches, until there are enough or one can't be had.

        What is no ``Exception``, such as Ctrl-C, is raised at once; nothing queued is lost.
        """
        while self._end is None and len(self._waiting) <= self._depth:
            try:
                batch = next(self._batches)
            except Exception as end:  # noqa: BLE001 - the end, or an error: raised in its place
                self._end = end
            else:
                self._waiting.append(copier.copy(batch, self._say()))


class _Copier:
    """Queues copies on a stream of its own."""

    def __init__(self, device: torch.device, streams: StreamModule) -> None:
        self._device = device
        self._streams = streams
        self._stream: DeviceStream = streams.Stream(device)
        self._read: deque[tuple[DeviceEvent, Any]] = deque()
        self._must_wait = False

    def copy(self, batch: Any, said: Any) -> _Copied:
        """Queue the copies of a batch."""
        if self._must_wait:
            self._stream.wait_stream(self._streams.current_stream(self._device))
        with self._streams.stream(self._stream):
            on_device = moved(batch, self._device, non_blocking=True)
        event = self._streams.Event()
        event.record(self._stream)
        return _Copied(on_device, said, batch, event)

    def hand_out(self, copied: _Copied) -> Any:
        """Make the training's stream wait for a batch, and keep what is still being read."""
        current = self._streams.current_stream(self._device)
        current.wait_event(copied.event)
        if not record_stream(copied.batch, current):
            self._must_wait = True
        self._read.append((copied.event, copied.source))
        while self._read and self._read[0][0].query():
            self._read.popleft()
        return copied.batch
