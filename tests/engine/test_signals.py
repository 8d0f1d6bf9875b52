"""A signal that arrives while workers are forked is handled once, in the process that got it."""

import os
import signal

import fastload

_is_armed = []


def _send_once():
    if _is_armed:
        _is_armed.clear()
        os.kill(os.getpid(), signal.SIGUSR1)


os.register_at_fork(before=_send_once)  # for good, and harmless unless armed


def test_a_signal_of_the_consumer_is_not_handled_in_its_workers(tmp_path):
    """The handler runs when the fork is over; a worker's copy of the note of it is not its own."""
    handled = tmp_path / "handled"

    def note(*_):
        with handled.open("a") as file:
            file.write(f"{os.getpid()}\n")

    before = signal.signal(signal.SIGUSR1, note)
    try:
        _is_armed.append(True)
        assert len(list(fastload.DataLoader(range(8), num_workers=3))) == 8
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert handled.read_text().split() == [str(os.getpid())]
