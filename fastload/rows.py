"""One row of stamps a batch, in memory that is set aside once.

Runs in: consumer.
Takes: each batch's stamps as it is delivered.
Gives: the newest rows as an array, and sums over all.

Writing a row is one call into C; everything that is computed of it waits until somebody asks.
"""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.int64]


class Row(NamedTuple):
    """One batch: counts, moments by the clock that all processes share, and durations, in ns.

    Moments in order: the worker ``started``, had ``fetched`` the samples, ``collated`` and
    ``written``; the training loop ``asked``, ``got`` the report and ``left`` with the batch.
    Without workers, ``worker`` is -1, ``written`` is ``collated`` and ``got`` is ``asked``.
    """

    worker: int
    samples: int
    shared_bytes: int
    peak_bytes: int
    started: int
    fetched: int
    collated: int
    written: int
    fetch_cpu: int
    cpu: int
    asked: int
    got: int
    left: int
    sampler: int
    pin: int


MOST_ROWS: Final = 4096
"""Quantiles are over this many batches, the newest."""

_WORKER: Final = Row._fields.index("worker")
_LEFT, _PIN = Row._fields.index("left"), Row._fields.index("pin")
_PACKING: Final = struct.Struct(f"{len(Row._fields)}q")

STATIONS: Final = (
    *("sampler", "fetch", "fetch_cpu", "collate", "write", "hand_off", "reorder", "pin"),
    *("wait", "busy"),
)
"""The columns of what ``durations`` returns."""


def columns(rows: Array) -> dict[str, Array]:
    """Rows ``(batches, fields)`` by the names of their fields."""
    return {name: rows[:, number] for number, name in enumerate(Row._fields)}


def durations(rows: Array) -> dict[str, Array]:
    """What each batch took at each station, in nanoseconds; the last batch's ``busy`` is 0."""
    of = columns(rows)
    inline = of["worker"] < 0
    worked_until = np.maximum(of["asked"], of["written"])
    handing_over = of["left"] - worked_until - of["sampler"] - of["pin"]
    earlier = np.maximum.accumulate(of["written"])
    busy = np.zeros(len(rows), np.int64)
    busy[:-1] = np.maximum(0, of["asked"][1:] - of["left"][:-1])
    return {
        "sampler": of["sampler"],
        "fetch": of["fetched"] - of["started"],
        "fetch_cpu": of["fetch_cpu"],
        "collate": of["collated"] - of["fetched"],
        "write": of["written"] - of["collated"],
        "hand_off": np.where(inline, 0, np.maximum(0, handing_over)),
        "reorder": np.where(inline, 0, earlier - of["written"]),
        "pin": of["pin"],
        "wait": of["left"] - of["asked"],
        "busy": busy,
    }


class Rows:
    """The newest rows of one epoch, and the sums over those before them.

    May be read in another thread while it is written: each change of the sums is one assignment.
    """

    def __init__(self) -> None:
        self._memory = bytearray(MOST_ROWS * _PACKING.size)
        self.count = 0
        self._before: tuple[int, dict[int, Any]] = (0, {})

    def add(self, row: Any) -> int:
        """Write a row; returns its number."""
        number = self.count
        place = number % MOST_ROWS
        if place == 0 and number:
            self._before = number, self._sums(number)
        _PACKING.pack_into(self._memory, place * _PACKING.size, *row)
        self.count = number + 1
        return number

    def pinned(self, number: int, elapsed_ns: int) -> None:
        """The batch of a row was pinned, which took this long; it leaves now."""
        if self.count - number > MOST_ROWS:
            return
        row = self._whole()[number % MOST_ROWS]
        row[_LEFT] += elapsed_ns
        row[_PIN] = elapsed_ns

    def newest(self) -> Array:
        """A copy of the newest rows, in the order of delivery: ``(batches, fields)``."""
        count, rows = self.count, self._whole()
        if count <= MOST_ROWS:
            return rows[:count].copy()
        return np.roll(rows, -(count % MOST_ROWS), axis=0)

    def sums_by_worker(self) -> dict[int, dict[str, int]]:
        """Over the whole epoch: what each worker's batches took at each station, and counts."""
        return {
            worker: dict(zip((*STATIONS, *_COUNTS), map(int, sums), strict=True))
            for worker, sums in self._sums(self.count).items()
        }

    def _sums(self, count: int) -> dict[int, Any]:
        until, before = self._before
        rows = self._whole()[: count - until]
        sums = dict(before)
        if not len(rows):
            return sums
        of, took = columns(rows), durations(rows)
        counted = np.stack(
            [
                *(took[station] for station in STATIONS),
                *(np.ones(len(rows), np.int64), of["samples"], of["shared_bytes"], of["cpu"]),
            ]
        )
        for worker in np.unique(rows[:, _WORKER]).tolist():
            mine = rows[:, _WORKER] == worker
            peak = int(of["peak_bytes"][mine].max())
            sums[worker] = _joined(sums.get(worker), [*counted[:, mine].sum(axis=1), peak])
        return sums

    def _whole(self) -> Array:
        return np.frombuffer(self._memory, np.int64).reshape(MOST_ROWS, len(Row._fields))


_COUNTS: Final = ("batches", "samples", "shared_bytes", "cpu", "peak_bytes")


def _joined(before: Any, sums: list[Any]) -> list[int]:
    """Add up all but the last, which is a maximum."""
    new = [int(each) for each in sums]
    if before is None:
        return new
    return [
        *(old + each for old, each in zip(before[:-1], new, strict=False)),
        max(before[-1], new[-1]),
    ]
