"""Frames over a pipe: nothing is lost and nobody blocks the other."""

from __future__ import annotations

import contextlib
import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastload._wire.channel import FrameWithMemory, PatientSender, Receiver, send

PIPE_BYTES = 1 << 16


@pytest.fixture
def pipe():
    read, write = os.pipe()
    yield read, write
    for descriptor in (read, write):
        with contextlib.suppress(OSError):
            os.close(descriptor)


def receive_all(receiver: Receiver, count: int) -> list[bytes]:
    frames: list[bytes] = []
    while len(frames) < count:
        receiver.wait()
        frames += map(bytes, receiver.receive())
    return frames


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(
        st.one_of(
            st.integers(0, 300),
            st.integers(PIPE_BYTES - 20, PIPE_BYTES + 20),
            st.integers(0, 5 * PIPE_BYTES),
        ),
        max_size=12,
    )
)
def test_frames_of_any_size_arrive_whole_and_in_order(sizes: list[int]) -> None:
    """Also those around and beyond the capacity of the pipe."""
    read, write = os.pipe()
    frames = [bytes([number % 256]) * size for number, size in enumerate(sizes)]
    writer = threading.Thread(target=lambda: [send(write, frame) for frame in frames])
    writer.start()
    try:
        assert receive_all(Receiver(read), len(frames)) == frames
    finally:
        writer.join()
        os.close(read)
        os.close(write)


def test_sender_with_a_full_pipe_keeps_the_rest_and_returns(pipe) -> None:
    """The consumer never waits for a worker that does not read."""
    read, write = pipe
    sender = PatientSender(write)
    frames = [b"a" * 3 * PIPE_BYTES, b"b" * 10]
    for frame in frames:
        sender.send(frame)
    assert sender.unsent
    receiver, received = Receiver(read), []
    while len(received) < len(frames):
        received += map(bytes, receiver.receive())
        sender.flush()
    assert received == frames
    assert not sender.unsent


def test_sender_whose_reader_is_gone_does_not_raise(pipe) -> None:
    """A dead worker is noticed by its sentinel, not by an error while sending."""
    read, write = pipe
    os.close(read)
    sender = PatientSender(write)
    sender.send(b"x")
    assert not sender.unsent


def test_receiver_in_the_middle_of_a_frame_does_not_wait(pipe) -> None:
    """A worker that is stopped while it sends must not block the consumer."""
    read, write = pipe
    receiver = Receiver(read)
    os.write(write, (1 << 20).to_bytes(8, "little") + b"x" * 1000)
    assert receiver.receive() == []
    assert not receiver.is_closed


def test_receiver_whose_sender_is_gone_says_closed(pipe) -> None:
    """What had arrived before is still given out."""
    read, write = pipe
    send(write, b"last")
    os.close(write)
    receiver = Receiver(read)
    frames = [*receiver.receive(), *receiver.receive()]
    assert frames == [b"last"]
    assert receiver.is_closed


def test_receiver_whose_sender_dies_in_the_middle_of_a_large_frame_says_closed(pipe) -> None:
    """What is there of the frame is no message, and nothing is waited for."""
    read, write = pipe
    receiver = Receiver(read)
    os.write(write, (1 << 20).to_bytes(8, "little") + b"x" * 1000)
    assert receiver.receive() == []
    os.close(write)
    assert receiver.receive() == []
    assert receiver.is_closed


def test_sender_whose_reader_dies_drops_what_waited_for_room(pipe) -> None:
    """A dead worker is not asked for room again."""
    read, write = pipe
    sender = PatientSender(write)
    sender.send(b"a" * 3 * PIPE_BYTES)
    assert sender.unsent
    os.close(read)
    sender.flush()
    assert not sender.unsent


@pytest.mark.parametrize("size", [1, 1000, PIPE_BYTES - 8, PIPE_BYTES, 3 * PIPE_BYTES])
def test_memory_of_any_size_arrives_with_the_frame_it_is_attached_to(pipe, size) -> None:
    """It is the next frame's, whether or not one read takes all of it; the one after has none."""
    read, write = pipe
    attached = [bytes([1]) * size, bytes([2]) * size]

    def write_all() -> None:
        send(write, b"first", attached)
        send(write, b"second")

    writer = threading.Thread(target=write_all)
    writer.start()
    receiver, frames = Receiver(read), []
    while len(frames) < 2:
        receiver.wait()
        frames += receiver.receive()
    writer.join()
    first, second = frames
    assert isinstance(first, FrameWithMemory)
    assert first.frame == b"first"
    assert [bytes(each) for each in first.attached] == attached
    assert second == b"second"
