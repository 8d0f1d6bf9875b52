"""Frames of bytes over a pipe, of which neither end ever blocks the other.

A frame is its length in eight bytes, then its content. The consumer never waits in a read or in
a write: it takes what has arrived and keeps what does not fit. The worker waits for its next
frame, and for room when it sends.
"""

from __future__ import annotations

import os
import select
import struct
from collections import deque

from fastload._system import descriptors
from fastload._system.pipes import write

_HEADER = struct.Struct("<Q")
_CHUNK_BYTES = 1 << 16


class Receiver:
    """The read end: reassembles frames from whatever pieces have arrived."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor
        self.is_closed = False
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._pending = b""
        self._large: bytearray | None = None
        self._large_filled = 0

    def receive(self) -> list[bytes | bytearray]:
        """All frames that are complete by now; never waits."""
        frames: list[bytes | bytearray] = []
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
        """Whether something has arrived: cheaper to ask than a read that finds nothing."""
        return not self.is_closed and bool(self._poll.poll(0))

    def _split(self, data: bytes, frames: list[bytes | bytearray]) -> None:
        start = 0
        if len(data) >= _HEADER.size:
            (length,) = _HEADER.unpack_from(data)
            if len(data) == _HEADER.size + length:  # as usual
                frames.append(data[_HEADER.size :])
                self._pending = b""
                return
        while len(data) - start >= _HEADER.size:
            (length,) = _HEADER.unpack_from(data, start)
            end = start + _HEADER.size + length
            if end > len(data):
                if length > _CHUNK_BYTES:
                    self._begin_large(length, data[start + _HEADER.size :])
                    start = len(data)
                break
            frames.append(data[start + _HEADER.size : end])
            start = end
        self._pending = data[start:]

    def _begin_large(self, length: int, beginning: bytes) -> None:
        self._large = bytearray(length)
        self._large[: len(beginning)] = beginning
        self._large_filled = len(beginning)

    def _fill_large(self, frames: list[bytes | bytearray]) -> None:
        assert self._large is not None
        with memoryview(self._large)[self._large_filled :] as rest:
            filled = os.readv(self.descriptor, [rest])
        if filled == 0:
            self.is_closed = True
            return
        self._large_filled += filled
        if self._large_filled == len(self._large):
            frames.append(self._large)
            self._large = None


class PatientSender:
    """The consumer's write end: what does not fit into the pipe now is sent later."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor
        self.is_closed = False
        self.unsent: deque[memoryview] = deque()
        """What still waits for room in the pipe."""

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
        """Send as much as fits now."""
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


def send(descriptor: int, frame: bytes) -> None:
    """The worker's side: send a frame, waiting for room.

    Raises:
        BrokenPipeError: The consumer closed its end.
    """
    if len(frame) < _CHUNK_BYTES:
        _write_all(descriptor, _HEADER.pack(len(frame)) + frame)
    else:
        _write_all(descriptor, _HEADER.pack(len(frame)))
        _write_all(descriptor, frame)


def _write_all(descriptor: int, content: bytes) -> None:
    sent = write(descriptor, content)
    with memoryview(content) as rest:
        while sent < len(rest):
            sent += write(descriptor, rest[sent:])
