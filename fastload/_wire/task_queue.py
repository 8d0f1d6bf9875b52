"""One queue of tasks that all workers of a pool read from; whoever is idle takes the next.

Runs in: consumer (which puts tasks in) and workers (which take them out).

The queue is a pair of sockets that keep packets apart; a packet is one task. A worker takes a
packet by one call of the kernel, so no two get the same one, and no lock is held that a stopped
worker would keep. The kernel writes the packet into a row of shared memory that belongs to the
worker. So the consumer can read what a worker has taken, also if it was killed an instant later.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import select
import socket
import struct
from collections import deque
from typing import Any, Final, NamedTuple

from fastload._memory.arena import anonymous_file
from fastload._system import descriptors
from fastload._system.descriptors import Descriptor

LONGEST_PACKET_BYTES = 1 << 15
"""Longer tasks go through the pipe of one worker."""

IS_SUPPORTED: Final = hasattr(socket, "SOCK_SEQPACKET") and hasattr(select, "EPOLLEXCLUSIVE")

_HEADER: Final = struct.Struct("=qqqqq")


class SharedTask(NamedTuple):
    """A task that any worker may carry out.

    Attributes:
        run, sequence: Which task of which run it is.
        slot: Where the batch is to be written; NO_SLOT: it is to be sent by pipe.
        part, parts: Which part of the batch it is, and of how many. Part -1 means that all are
            loaded, and only the last step is to be done, if nobody has done it yet.
        indices: What the sampler yielded for the part, packed.
    """

    run: int
    sequence: int
    slot: int
    part: int
    parts: int
    indices: bytes


class TaskQueue:
    """The consumer's end: puts tasks in, and reads what workers have taken.

    Attributes:
        unsent: Packets for which there is no room in the socket yet.
    """

    def __init__(self, workers: int) -> None:
        """Open the sockets and the shared memory.

        Raises:
            OSError: No more files may be open, or there is no memory.
        """
        self.unsent: deque[bytes] = deque()
        size_bytes = workers * LONGEST_PACKET_BYTES
        memory = anonymous_file()
        try:
            os.ftruncate(memory, size_bytes)
            self._rows = mmap.mmap(memory, size_bytes)
            self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except BaseException:
            os.close(memory)
            raise
        self._memory = memory
        self._ours.setblocking(False)
        self._theirs.setblocking(False)
        descriptors.own(self._ours.fileno())

    @property
    def descriptor(self) -> int:
        """The descriptor to wait for when something is unsent."""
        return self._ours.fileno()

    def end_of(self, worker_id: int) -> TaskQueueEnd:
        """Make what a worker is given of the queue."""
        rows = Descriptor(self._memory)
        return TaskQueueEnd(worker_id, Descriptor(self._theirs.fileno()), rows)

    def put(self, packets: list[bytes]) -> None:
        """Send packets now, or as soon as there is room for them."""
        self.unsent.extend(packets)
        self.flush()

    def flush(self) -> None:
        """Send as much as fits now; that nobody is there to read it is no error."""
        unsent = self.unsent
        try:
            while unsent:
                self._ours.send(unsent[0], socket.MSG_NOSIGNAL)
                unsent.popleft()
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.ECONNRESET, errno.ENOBUFS, errno.EBADF):
                raise
            if error.errno != errno.ENOBUFS:  # all workers are dead, which their sentinels tell
                unsent.clear()

    def taken_by(self, worker_id: int) -> SharedTask | None:
        """The task that a worker took last, whether or not it has reported it since."""
        start = worker_id * LONGEST_PACKET_BYTES
        header = self._rows[start : start + _HEADER.size]
        task = decode_task(header)
        return task if task.parts else None  # zeros: it took none yet

    def close_theirs(self) -> None:
        """Close what only the start of another worker would need."""
        memory, self._memory = self._memory, descriptors.CLOSED
        descriptors.close(memory)
        self._theirs.close()

    def close(self) -> None:
        """Close everything."""
        self.unsent.clear()
        self.close_theirs()
        with contextlib.suppress(OSError):
            descriptors.close(self._ours.detach())


class TaskQueueEnd:
    """A worker's end, on its way into the worker; ``open`` is called there, once."""

    def __init__(self, worker_id: int, tasks: Descriptor, rows: Descriptor) -> None:
        self._worker_id = worker_id
        self._tasks = tasks
        self._rows = rows

    def open(self, orders: int) -> TaskSource:
        """Begin to take tasks, beside orders from the worker's own pipe."""
        return TaskSource(self._worker_id, self._tasks.number, self._rows.number, orders)


class TaskSource:
    """What a worker takes tasks from, and waits at when there is none."""

    def __init__(self, worker_id: int, tasks: int, rows: int, orders: int) -> None:
        self._mapping: Any = mmap.mmap(rows, 0)
        start = worker_id * LONGEST_PACKET_BYTES
        self._row = memoryview(self._mapping)[start : start + LONGEST_PACKET_BYTES]
        self._socket = socket.socket(fileno=os.dup(tasks))
        self._poll = select.epoll()
        self._poll.register(orders, select.EPOLLIN)
        self._poll.register(self._socket, select.EPOLLIN | select.EPOLLEXCLUSIVE)

    def take(self) -> SharedTask | None:
        """The next task; None if there is none now."""
        try:
            length = self._socket.recv_into(self._row, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        return decode_task(self._row[:length]) if length else None

    def note(self, task: SharedTask) -> None:
        """Write down a task that came by pipe as if it had been taken here."""
        packet = encode_shared_task(task)
        length = min(len(packet), LONGEST_PACKET_BYTES)
        self._row[:length] = packet[:length]

    def wait(self) -> None:
        """Wait until there is a task or an order, or the consumer is gone."""
        self._poll.poll()

    @property
    def descriptor(self) -> int:
        """The socket, whose bytes stand for slots where record locks are taken."""
        return self._socket.fileno()


def encode_shared_task(task: SharedTask) -> bytes:
    """The packet of a task."""
    return _HEADER.pack(*task[:5]) + task.indices


def decode_task(packet: memoryview | bytes) -> SharedTask:
    """The task in a packet."""
    run, sequence, slot, part, parts = _HEADER.unpack_from(packet)
    return SharedTask(run, sequence, slot, part, parts, bytes(packet[_HEADER.size :]))
