"""The gauge: what it says of the last seconds, and in which words."""

from __future__ import annotations

import time

import numpy as np
import pytest

import fastload
from fastload.stats.recording import recording
from fastload.stats.rows import MOST_ROWS, Array, Row
from fastload.tools.live.gauge import Gauge, Reading
from fastload.tools.live.line import bound_of, in_words

MS = 1_000_000


class Epoch:
    """An epoch whose batches are made up: each is waited for, then a step is made.

    Args:
        batches: How many, of 4 samples.
        wait_ms: What the loop waits for each.
        step_ms: What the loop does with each.
        ahead: How many batches before it is needed each one was written.
        ended_ms: How long ago the last one was delivered.
    """

    def __init__(
        self, batches: int, wait_ms: int, step_ms: int, ahead: int = 0, ended_ms: int = 0
    ) -> None:
        period = wait_ms + step_ms
        self.latest_ns = time.monotonic_ns() - ended_ms * MS
        begin_ns = self.latest_ns - ((batches - 1) * period + wait_ms) * MS
        blank = Row(*[0] * len(Row._fields))
        rows = [
            blank._replace(
                samples=4,
                asked=begin_ns + number * period * MS,
                left=begin_ns + (number * period + wait_ms) * MS,
                written=begin_ns + ((number - ahead) * period + wait_ms) * MS,
            )
            for number in range(batches)
        ]
        self._rows = np.array(rows[-MOST_ROWS:], np.int64)

    def rows(self) -> Array:
        return self._rows


def read(*epochs: Epoch, window_s: float = 1000.0) -> Reading:
    reading = Gauge(lambda: epochs, window_s).read()  # type: ignore[arg-type, return-value]
    assert reading is not None
    return reading


def test_before_the_first_batch_nothing_is_known() -> None:
    """No epoch, or one that has not delivered."""
    assert Gauge(list).read() is None
    loader = fastload.DataLoader([1, 2, 3])
    assert Gauge(lambda: [loader._live.counters]).read() is None


def test_share_of_waiting_and_rate_are_those_of_the_batches() -> None:
    """30 ms of waiting and 10 ms of step: 75 % at 100 samples a second, but for the last step."""
    reading = read(Epoch(100, wait_ms=30, step_ms=10))
    assert reading.stall_share == pytest.approx(0.75, abs=0.01)
    assert reading.samples_per_s == pytest.approx(100, rel=0.01)
    assert reading.ready_batches == 0


def test_ready_batches_are_those_written_when_asked() -> None:
    """Each batch was written three steps before it was needed: three lie ready, but at the end."""
    reading = read(Epoch(100, wait_ms=1, step_ms=10, ahead=3))
    assert 2.8 < reading.ready_batches <= 3


def test_only_the_window_counts() -> None:
    """An epoch that ended before it is not read; one that began before it is read from there."""
    old = Epoch(100, wait_ms=30, step_ms=0, ended_ms=20_000)
    new = Epoch(1000, wait_ms=1, step_ms=9)
    reading = read(old, new, window_s=5)
    assert reading.stall_share == pytest.approx(0.1, abs=0.01)
    assert reading.samples_per_s == pytest.approx(400, rel=0.01)


def test_epochs_are_read_together() -> None:
    """A validation epoch after a training epoch: two rates, one mean."""
    training = Epoch(10, wait_ms=10, step_ms=90, ended_ms=1000)
    validation = Epoch(100, wait_ms=10, step_ms=0)
    reading = read(training, validation)
    assert reading.samples_per_s == pytest.approx(440 / 1.91, rel=0.01)
    assert reading.stall_share == pytest.approx(1.1 / 1.91, rel=0.01)


def test_more_batches_than_are_remembered_shorten_the_window() -> None:
    """The rate is right all the same."""
    reading = read(Epoch(3 * MOST_ROWS, wait_ms=1, step_ms=1))
    assert reading.samples_per_s == pytest.approx(2000, rel=0.01)
    assert reading.stall_share == pytest.approx(0.5, abs=0.01)


def test_silence_grows_while_the_last_figures_stay() -> None:
    """When the window has passed without a batch, that time is what is told."""
    epochs = [Epoch(100, wait_ms=30, step_ms=10)]
    gauge = Gauge(lambda: epochs, window_s=60)  # type: ignore[arg-type, return-value]
    before = gauge.read()
    epochs[:] = [Epoch(100, wait_ms=30, step_ms=10, ended_ms=70_000)]
    after = gauge.read()
    assert before is not None
    assert after is not None
    assert after.samples_per_s == before.samples_per_s
    assert after.silent_s >= before.silent_s


@pytest.mark.parametrize("workers", [0, 2])
def test_real_loaders_can_be_read_while_they_run(workers: int) -> None:
    """After each batch, and of both kinds."""
    with recording() as epochs:
        gauge = Gauge(epochs.running)
        for _ in fastload.DataLoader(list(range(40)), batch_size=4, num_workers=workers):
            reading = gauge.read()
            assert reading is not None
            assert reading.samples_per_s > 0
            assert 0 <= reading.stall_share <= 1
            assert 0 <= reading.ready_batches <= 10


@pytest.mark.parametrize(
    ("stall", "bound"),
    [(0.0, "not"), (0.049, "not"), (0.05, "moderately"), (0.2, "moderately"), (0.21, "highly")],
)
def test_bounds_are_tensorflows(stall: float, bound: str) -> None:
    """Below 5 %, up to 20 %, above."""
    assert bound_of(stall) == bound


@pytest.mark.parametrize(
    ("reading", "words"),
    [
        (None, "fastload: no batch yet"),
        (
            Reading(12345.6, 0.414, 0.25, 0.1),
            "fastload: highly input-bound, waits 41%  12,346 samples/s  0.2 batches ready",
        ),
        (
            Reading(50.0, 0.0, 3.96, 12.4),
            "fastload: no batch for 12 s  50 samples/s  4.0 batches ready",
        ),
    ],
)
def test_reading_is_put_into_words(reading: Reading | None, words: str) -> None:
    """The verdict first; a silence takes its place. Plain ASCII, for any terminal."""
    assert in_words(reading).plain == words
    assert words.isascii()
