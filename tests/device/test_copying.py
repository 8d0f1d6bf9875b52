"""Copies ahead, on a made-up device that punishes whoever frees too early or does not wait."""

from __future__ import annotations

import gc

import pytest
import torch

from fastload._device import copying
from fastload._device.copying import DeviceIterator, HandedOut

from .fake_device import FakeDevice, Hidden, OnHost

CUDA = torch.device("cuda")


@pytest.fixture
def device(monkeypatch):
    """The device that all streams belong to."""
    made = FakeDevice()
    monkeypatch.setattr(copying, "stream_module", lambda _: made)
    return made


def on(device, batches, depth=2, say=lambda: None, handed_out=None):
    return DeviceIterator(iter(batches), CUDA, depth, say, handed_out or HandedOut(None))


def steps(device, batches, read, *, late):
    """The results of training steps whose kernels run after each step, or all at the end.

    The copying streams run whenever they like: before everything else, if not ``late``.
    """
    results = []
    for batch in batches:
        results.append(device.kernel(read(batch)))
        del batch
        gc.collect()
        if not late:
            for stream in device.copies:
                stream.run()
    device.main.run()
    return [result[0] for result in results]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_each_step_sees_its_own_batch(device, depth, late) -> None:
    """In order, whenever kernels and copies run."""
    batches = ({"x": OnHost(number, device)} for number in range(20))
    found = steps(device, on(device, batches, depth), lambda batch: batch["x"], late=late)
    assert found == list(range(20))


@pytest.mark.parametrize("late", [False, True])
def test_object_that_hides_its_arrays_is_seen_whole(device, late) -> None:
    """Nobody can be told who reads them, so the next copies wait for the step before."""
    batches = (Hidden(OnHost(number, device)) for number in range(20))
    found = steps(device, on(device, batches), lambda batch: batch.array, late=late)
    assert found == list(range(20))


def test_copies_of_the_next_batches_are_queued_before_a_batch_is_used(device) -> None:
    """Depth more than the one that is handed out, and no more."""
    asked = []

    def numbers():
        for number in range(10):
            asked.append(number)
            yield OnHost(number, device)

    iterator = on(device, numbers(), depth=3)
    assert asked == []
    next(iterator)
    assert asked == [0, 1, 2, 3]
    next(iterator)
    assert asked == [0, 1, 2, 3, 4]


def test_training_does_not_wait_for_copies_of_later_batches(device) -> None:
    """The event of a batch stands behind its own copies."""
    iterator = on(device, (OnHost(number, device) for number in range(5)), depth=3)
    result = device.kernel(next(iterator))
    device.main.run()
    assert result == [0]
    assert device.copies[0].done == 1
    assert len(device.copies[0].queue) == 4  # the batch in use and three ahead


def test_host_memory_is_kept_until_it_was_read_and_no_longer(device) -> None:
    """A slot goes back to the workers as soon as its copy is done."""
    hosts = [OnHost(number, device) for number in range(6)]
    memories = [host.memory for host in hosts]
    hosts.reverse()
    iterator = on(device, (hosts.pop() for _ in range(6)), depth=1)
    next(iterator)
    next(iterator)
    gc.collect()
    assert [memory[0] for memory in memories[:2]] == [0, 1]
    device.copies[0].run()
    next(iterator)
    gc.collect()
    assert [memory[0] for memory in memories[:2]] == [-1, -1]


def test_what_the_loader_said_belongs_to_the_batch_that_is_handed_out(device) -> None:
    """Not to the newest that was asked for."""
    asked = []

    def numbers():
        for number in range(4):
            asked.append(number)
            yield OnHost(number, device)

    handed_out = HandedOut(0)
    iterator = on(device, numbers(), say=lambda: len(asked), handed_out=handed_out)
    for number, _ in enumerate(iterator, 1):
        assert handed_out.said == number
    assert handed_out.said == 4


def test_error_comes_in_its_place_and_the_batches_behind_it_too(device) -> None:
    """As without copies ahead."""

    class Loader:
        def __init__(self):
            self.number = -1

        def __next__(self):
            self.number += 1
            if self.number == 2:
                raise ValueError("sample 2")
            if self.number == 5:
                raise StopIteration
            return OnHost(self.number, device)

        def __iter__(self):
            return self

    iterator, found = on(device, Loader()), []
    while True:
        try:
            found.append(device.kernel(next(iterator)))
        except ValueError as error:
            found.append([str(error)])
        except StopIteration:
            break
    device.main.run()
    assert found == [[0], [1], ["sample 2"], [3], [4]]


def test_interrupt_loses_no_batch_that_was_queued(device) -> None:
    """Ctrl-C is raised by the call it hits; the next call goes on."""

    class Interrupted:
        number = -1

        def __next__(self):
            self.number += 1
            if self.number == 3:
                raise KeyboardInterrupt
            if self.number == 5:
                raise StopIteration
            return OnHost(self.number, device)

        def __iter__(self):
            return self

    iterator, found = on(device, Interrupted()), []
    while True:
        try:
            found.append(device.kernel(next(iterator)))
        except KeyboardInterrupt:
            pass
        except StopIteration:
            break
    device.main.run()
    assert found == [[0], [1], [2], [4]]
