"""Send and receive frames of bytes over a pipe, so that neither end ever blocks the other.

Runs in: consumer and worker.

A frame is its length in eight bytes, then its content. The consumer never waits in a read or in a
write: it takes what has arrived and keeps what does not fit. The worker waits for its next frame,
and for room when it sends.

Memory may be *attached* to a frame: it is sent ahead of it, from where it lies, and read into
memory of its own. The only copies of it are those into the pipe and out of it.
"""

from __future__ import annotations

import os
import select
import struct
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from fastload._system import descriptors
from fastload._system.pipes import write

_HEADER = struct.Struct("<Q")
_CHUNK_BYTES = 1 << 16
_IS_ATTACHED: Final = 1 << 63
"""This bit is set in the length of memory that is attached to the next frame."""


class FrameWithMemory(NamedTuple):
    """A frame and the memory that was attached to it."""

    frame: bytes | bytearray
    attached: tuple[npt.NDArray[np.uint8], ...]


Frame = bytes | bytearray | FrameWithMemory


class Receiver:
    """The read end of a pipe, which puts frames together of whatever pieces have arrived."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor
        self.is_closed = False
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._pending = b""
        self._large: bytearray | npt.NDArray[np.uint8] | None = None
        self._large_filled = 0
        self._attached: list[npt.NDArray[np.uint8]] = []

    def receive(self) -> list[Frame]:
        """Return all frames that are complete by now, without waiting."""
        frames: list[Frame] = []
        while not self.is_closed:
            try:
                if self._large is not None:
                    self._fill_large(frames)
                    continue
                data = os.read(self.descriptor, _CHUNK_BYTES)
            except BlockingIOError:
                break
            if not data:
                self.is_closed = True
                break
            self._split(self._pending + data if self._pending else data, frames)
            if len(data) < _CHUNK_BYTES and self._large is None:
                break
        return frames

    def close(self) -> None:
        """Close this end; nothing more is received."""
        self.is_closed = True
        descriptor, self.descriptor = self.descriptor, descriptors.CLOSED
        descriptors.close(descriptor)

    def wait(self) -> None:
        """Wait until something arrives or the other end closes."""
        self._poll.poll()

    @property
    def is_ready(self) -> bool:
        """Return whether something has arrived, which is cheaper than a read that finds nothing."""
        return not self.is_closed and bool(self._poll.poll(0))

    def _split(self, data: bytes, frames: list[Frame]) -> None:
        start = 0
        if len(data) >= _HEADER.size and not self._attached:
            (length,) = _HEADER.unpack_from(data)
            if len(data) == _HEADER.size + length:  # as usual
                frames.append(data[_HEADER.size :])
                self._pending = b""
                return
        while len(data) - start >= _HEADER.size:
            (length,) = _HEADER.unpack_from(data, start)
            begin = start + _HEADER.size
            if length & _IS_ATTACHED:
                start = self._begin_attached(length - _IS_ATTACHED, data, begin)
                continue
            end = begin + length
            if end > len(data):
                if length > _CHUNK_BYTES:
                    self._begin_large(bytearray(length), data[begin:])
                    start = len(data)
                break
            self._add(data[begin:end], frames)
            start = end
        self._pending = data[start:]

    def _add(self, frame: bytes | bytearray, frames: list[Frame]) -> None:
        if self._attached:
            frames.append(FrameWithMemory(frame, tuple(self._attached)))
            self._attached = []
        else:
            frames.append(frame)

    def _begin_attached(self, length: int, data: bytes, begin: int) -> int:
        """Take what has arrived of attached memory; return where the data goes on behind it."""
        content = np.empty(length, np.uint8)  # unlike a bytearray, not filled with zeros first
        end = begin + length
        self._attached.append(content)
        if end > len(data):
            self._begin_large(content, data[begin:])
            return len(data)
        content.data[:] = data[begin:end]
        return end

    def _begin_large(self, target: bytearray | npt.NDArray[np.uint8], beginning: bytes) -> None:
        with memoryview(target) as content:  # type: ignore[arg-type]  # NumPy: from 3.12 on
            content[: len(beginning)] = beginning
        self._large = target
        self._large_filled = len(beginning)

    def _fill_large(self, frames: list[Frame]) -> None:
        large: Any = self._large
        with memoryview(large) as content, content[self._large_filled :] as rest:
            filled = os.readv(self.descriptor, [rest])
        if filled == 0:
            self.is_closed = True
            return
        self._large_filled += filled
        if self._large_filled == len(large):
            self._large = None
            if isinstance(large, bytearray):
                self._add(large, frames)


class PatientSender:
    """The consumer's write end of a pipe; what does not fit into the pipe now is sent later."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor
        self.is_closed = False
        self.unsent: deque[memoryview] = deque()
        """Holds what still waits for room in the pipe."""

    def send(self, frame: bytes) -> None:
        """Send as much of a frame as fits now; a closed end, ours or theirs, is no error."""
        if self.unsent or self.is_closed:
            self.put(frame)
            self.flush()
            return
        piece = _HEADER.pack(len(frame)) + frame
        try:
            sent = write(self.descriptor, piece)
        except BlockingIOError:
            sent = 0
        except BrokenPipeError:  # the worker died; its sentinel tells
            return
        if sent < len(piece):
            self.unsent.append(memoryview(piece)[sent:])

    def put(self, frame: bytes) -> None:
        """Queue a frame, to be sent with the next one."""
        if not self.is_closed:
            self.unsent.append(memoryview(_HEADER.pack(len(frame)) + frame))

    def close(self) -> None:
        """Close this end; what is unsent is dropped."""
        self.is_closed = True
        self.unsent.clear()
        descriptor, self.descriptor = self.descriptor, descriptors.CLOSED
        descriptors.close(descriptor)

    def flush(self) -> None:
        """Send as much of what is queued as fits now."""
        try:
            if len(self.unsent) > 1:  # each write may wake the worker
                self.unsent = deque([memoryview(b"".join(self.unsent))])
            while self.unsent:
                piece = self.unsent[0]
                sent = write(self.descriptor, piece)
                if sent == len(piece):
                    self.unsent.popleft()
                else:
                    self.unsent[0] = piece[sent:]
        except BlockingIOError:
            pass
        except BrokenPipeError:  # the worker died; its sentinel tells
            self.unsent.clear()


def send(descriptor: int, frame: bytes, attached: Sequence[Any] = ()) -> None:
    """Send a frame and what is attached to it from a worker, waiting for room.

    Args:
        descriptor: The write end of the pipe.
        frame: The bytes to send.
        attached: Buffers of bytes that travel with it, none of them empty.

    Raises:
        BrokenPipeError: The consumer closed its end.
    """
    for memory in attached:
        with memoryview(memory) as content:
            _write_all(descriptor, _HEADER.pack(content.nbytes | _IS_ATTACHED))
            _write_all(descriptor, content)
    if len(frame) < _CHUNK_BYTES:
        _write_all(descriptor, _HEADER.pack(len(frame)) + frame)
    else:
        _write_all(descriptor, _HEADER.pack(len(frame)))
        _write_all(descriptor, frame)


def _write_all(descriptor: int, content: bytes | memoryview) -> None:
    sent = write(descriptor, content)
    with memoryview(content) as rest:
        while sent < len(rest):
            sent += write(descriptor, rest[sent:])
