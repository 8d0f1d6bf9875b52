"""One queue of tasks that all workers of a pool read from; whoever is idle takes the next.

Runs in: consumer (which puts tasks in) and workers (which take them out).

The queue is a pair of sockets that keep packets apart; a packet is one task. A worker takes a
packet by one call of the kernel, so no two get the same one, and no lock is held that a stopped
worker would keep. The kernel writes the packet into a row of shared memory that belongs to the
worker. So the consumer can read what a worker has taken, also if it was killed an instant later.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import select
import socket
import struct
from collections import deque
from typing import Final, NamedTuple

from fastload._memory.arena import allocate, anonymous_file
from fastload._system import descriptors, pipes
from fastload._system.descriptors import Descriptor

LONGEST_PACKET_BYTES = 1 << 15
"""Longer tasks go through the pipe of one worker."""

IS_SUPPORTED: Final = hasattr(socket, "SOCK_SEQPACKET") and hasattr(select, "EPOLLEXCLUSIVE")

MOST_PARTS = 40
"""Into how many parts a batch may be cut."""

LOADED, UNFIT = 1, 2
"""What became of a part: it lies in the slot; or it can't, and the batch must be loaded whole."""

_HEADER: Final = struct.Struct("=qqqqq")
_ID: Final = struct.Struct("=qq")
_ROW_BYTES: Final = 64
_KERNELS_OWN_BYTES: Final = 64
_BEGUN: Final = struct.Struct("=i")
_BEGUN_AT: Final = 40
_ID_AT: Final = 48


class SharedTask(NamedTuple):
    """A task that any worker may carry out.

    Attributes:
        run, sequence: Which task of which run it is.
        slot: Where the batch is to be written; NO_SLOT: it is to be sent by pipe.
        part, parts: Which part of the batch it is, and of how many.
        indices: What the sampler yielded for the part, packed.
    """

    run: int
    sequence: int
    slot: int
    part: int
    parts: int
    indices: bytes


class PartsRow:
    """What is known of the parts of the batch in one slot; in memory that all processes share.

    A byte for each part, which worker has begun to collate, and the batch's run and number: a
    worker may come late, when the slot has another batch.
    """

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory

    def begin(self, run: int, sequence: int) -> None:
        """In the consumer: the slot is another batch's now, of which nothing is loaded."""
        _ID.pack_into(self._memory, _ID_AT, -1, -1)  # or the parts of the batch before would seem
        self._memory[:_ID_AT] = bytes(_ID_AT)  # not to be loaded yet
        _ID.pack_into(self._memory, _ID_AT, run, sequence)

    def is_of(self, task: SharedTask) -> bool:
        """Whether the slot is still this task's."""
        return _ID.unpack_from(self._memory, _ID_AT) == (task.run, task.sequence)

    def lacks(self, task: SharedTask) -> bool:
        """Whether a part is still to be loaded.

        The slot may become another batch's in the middle of the look, so it is looked at twice.
        """
        return self.is_of(task) and not self._memory[task.part] and self.is_of(task)

    def set(self, part: int, outcome: int) -> None:
        """Note what became of a part, behind all that was written of it."""
        self._memory[part] = outcome

    def outcomes(self, parts: int) -> bytes:
        """What became of each part; 0 of one that is not done."""
        return bytes(self._memory[:parts])

    def is_ready(self, task: SharedTask) -> bool:
        """Whether all parts of a batch are there, and nobody has begun to collate.

        The slot is looked at twice here too.
        """
        return (
            self.is_of(task)
            and not self._begun_by()
            and all(self.outcomes(task.parts))
            and self.is_of(task)
        )

    def note_begun(self, worker_id: int) -> None:
        """A worker begins to collate."""
        _BEGUN.pack_into(self._memory, _BEGUN_AT, worker_id + 1)

    def forget_begun(self, worker_id: int) -> None:
        """In the consumer: a worker is dead; if it had begun to collate, another one may."""
        if self._begun_by() == worker_id + 1:
            _BEGUN.pack_into(self._memory, _BEGUN_AT, 0)

    def _begun_by(self) -> int:
        begun: int = _BEGUN.unpack_from(self._memory, _BEGUN_AT)[0]
        return begun


def lock_number(task: SharedTask) -> int:
    """The byte of the queue's socket on which whoever finishes this batch holds a record lock."""
    return (task.run << 40) + task.sequence


def try_lock(descriptor: int, task: SharedTask) -> bool:
    """Take the lock of a batch, unless another process has it; the kernel frees it at a death."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, lock_number(task))
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        raise
    return True


def unlock(descriptor: int, task: SharedTask) -> None:
    """Let go of the lock of a batch."""
    fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, lock_number(task))


class TaskQueue:
    """The consumer's end: puts tasks in, and reads what workers have taken.

    Attributes:
        unsent: Packets for which there is no room in the socket yet.
        longest_packet_bytes: Longer tasks go through the pipe of one worker: LONGEST_PACKET_BYTES,
            or less where the system has little room for sockets.
        descriptor: The descriptor to wait for when something is unsent.
    """

    def __init__(self, workers: int, slots: int) -> None:
        """Open the sockets and the shared memory.

        Raises:
            OSError: No more files may be open, or there is no memory.
        """
        self.unsent: deque[bytes] = deque()
        size_bytes = workers * LONGEST_PACKET_BYTES + slots * _ROW_BYTES
        self._rows_of_parts = workers * LONGEST_PACKET_BYTES
        memory = anonymous_file()
        try:
            allocate(memory, 0, size_bytes)
            self._rows = memoryview(mmap.mmap(memory, size_bytes))
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except BaseException:
            os.close(memory)
            raise
        for each in (ours, theirs):
            each.setblocking(False)
        room_bytes = ours.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - _KERNELS_OWN_BYTES
        self.longest_packet_bytes = min(LONGEST_PACKET_BYTES, room_bytes)
        # Numbers: in a forked child a socket would close its number, which is another file's there.
        self.descriptor = descriptors.own(ours.detach())
        self._theirs = theirs.detach()
        self._memory = memory

    def end_of(self, worker_id: int) -> TaskQueueEnd:
        """Make what a worker is given of the queue."""
        rows = Descriptor(self._memory)
        theirs = Descriptor(self._theirs)
        return TaskQueueEnd(worker_id, theirs, rows, self._rows_of_parts)

    def parts_in(self, slot: int) -> PartsRow:
        """What is known of the parts of the batch in a slot."""
        return _parts_in(self._rows, self._rows_of_parts, slot)

    def put(self, packets: list[bytes]) -> None:
        """Send packets now, or as soon as there is room for them."""
        self.unsent.extend(packets)
        self.flush()

    def flush(self) -> None:
        """Send as much as fits now; that nobody is there to read it is no error."""
        unsent = self.unsent
        try:
            while unsent:
                pipes.write(self.descriptor, unsent[0])
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
        theirs, self._theirs = self._theirs, descriptors.CLOSED
        descriptors.close(theirs)

    def close(self) -> None:
        """Close everything."""
        self.unsent.clear()
        self.close_theirs()
        ours, self.descriptor = self.descriptor, descriptors.CLOSED
        descriptors.close(ours)


class TaskQueueEnd:
    """A worker's end, on its way into the worker; ``open`` is called there, once."""

    def __init__(
        self, worker_id: int, tasks: Descriptor, rows: Descriptor, rows_of_parts: int
    ) -> None:
        self._worker_id = worker_id
        self._tasks = tasks
        self._rows = rows
        self._rows_of_parts = rows_of_parts

    def open(self, orders: int) -> TaskSource:
        """Begin to take tasks, beside orders from the worker's own pipe."""
        rows = memoryview(mmap.mmap(self._rows.number, 0))
        return TaskSource(self._worker_id, self._tasks.number, rows, self._rows_of_parts, orders)


class TaskSource:
    """What a worker takes tasks from, and waits at when there is none.

    Attributes:
        worker_id: The worker's number.
    """

    def __init__(
        self, worker_id: int, tasks: int, rows: memoryview, rows_of_parts: int, orders: int
    ) -> None:
        self.worker_id = worker_id
        self._rows = rows
        self._rows_of_parts = rows_of_parts
        start = worker_id * LONGEST_PACKET_BYTES
        self._row = rows[start : start + LONGEST_PACKET_BYTES]
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

    def parts_in(self, slot: int) -> PartsRow:
        """What is known of the parts of the batch in a slot."""
        return _parts_in(self._rows, self._rows_of_parts, slot)

    def wait(self) -> None:
        """Wait until there is a task or an order, or the consumer is gone."""
        self._poll.poll()

    @property
    def descriptor(self) -> int:
        """The socket, whose bytes stand for batches where record locks are taken."""
        return self._socket.fileno()


def _parts_in(rows: memoryview, begin: int, slot: int) -> PartsRow:
    start = begin + slot * _ROW_BYTES
    return PartsRow(rows[start : start + _ROW_BYTES])


def encode_shared_task(task: SharedTask) -> bytes:
    """The packet of a task."""
    return _HEADER.pack(*task[:5]) + task.indices


def decode_task(packet: memoryview | bytes) -> SharedTask:
    """The task in a packet."""
    run, sequence, slot, part, parts = _HEADER.unpack_from(packet)
    return SharedTask(run, sequence, slot, part, parts, bytes(packet[_HEADER.size :]))
