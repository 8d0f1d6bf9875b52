"""Keep one row of time stamps for each batch.

Runs in: consumer.
Takes: the stamps of each batch when it is delivered.
Gives: the newest rows as an array, and sums over all rows.

Writing a row is one call into C. Durations and sums are computed only when somebody asks for them.
Memory is set aside for a thousand rows at a time.
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
"""Quantiles are computed over so many of the newest batches."""

_CHUNK: Final = 1024
"""Number of rows for which memory is set aside at a time."""

_LEFT: Final = Row._fields.index("left")
_PACKING: Final = struct.Struct(f"{len(Row._fields)}q")
_END: Final = struct.Struct("3q")  # left, sampler, pin: the last fields of a row

STAGES: Final = (
    *("sampler", "fetch", "fetch_cpu", "collate", "write", "hand_off", "reorder", "pin"),
    *("wait", "busy"),
)
"""The columns of what ``durations`` returns."""


def columns(rows: Array) -> dict[str, Array]:
    """The columns of rows ``(batches, fields)``, by the names of the fields."""
    return {name: rows[:, number] for number, name in enumerate(Row._fields)}


def durations(rows: Array, written_ns: int = 0) -> dict[str, Array]:
    """What each batch took at each stage, in nanoseconds; the last batch's ``busy`` is 0.

    Args:
        rows: In the order of delivery: ``(batches, fields)``.
        written_ns: When the latest batch delivered before these was written.
    """
    of = columns(rows)
    inline = of["worker"] < 0
    worked_until = np.maximum(of["asked"], of["written"])
    handing_over = of["left"] - worked_until - of["sampler"] - of["pin"]
    earlier = np.maximum(np.maximum.accumulate(of["written"]), written_ns)
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


class _Kept(NamedTuple):
    """What there is of an epoch; replaced as a whole, so a reader never sees half a change.

    Attributes:
        first: Number of the first row kept.
        sums: Over the rows before it, of each worker.
        written_ns: When the latest of those was written.
        chunks: Memory of the rows from there on, of ``_CHUNK`` rows each.
    """

    first: int
    sums: dict[int, Any]
    written_ns: int
    chunks: tuple[bytearray, ...]


class StampRows:
    """The newest rows of one epoch, and the sums over those before them.

    May be read in another thread while it is written: a row is written once, in one call, before it
    is counted, and never written over; memory that is not needed any more is let go of.
    """

    def __init__(self) -> None:
        self.count = 0
        self._kept = _Kept(0, {}, 0, ())
        self._memory = bytearray()

    def add(self, row: Any) -> int:
        """Write a row; returns its number."""
        number = self.count
        place = number % _CHUNK
        if place == 0:
            self._make_room(number)
        _PACKING.pack_into(self._memory, place * _PACKING.size, *row)
        self.count = number + 1
        return number

    def pinned(self, number: int, elapsed_ns: int) -> None:
        """The batch of a row was pinned, which took this long; it leaves now."""
        kept = self._kept
        chunk, place = divmod(number - kept.first, _CHUNK)
        if chunk < 0:
            return
        begin = place * _PACKING.size + 8 * _LEFT
        left_ns, sampler_ns, _ = _END.unpack_from(kept.chunks[chunk], begin)
        _END.pack_into(kept.chunks[chunk], begin, left_ns + elapsed_ns, sampler_ns, elapsed_ns)

    def newest(self) -> Array:
        """A copy of the newest rows, in the order of delivery: ``(batches, fields)``."""
        return self._rows(self._kept)[-MOST_ROWS:]

    def sums_by_worker(self) -> dict[int, dict[str, int]]:
        """Over the whole epoch: what each worker's batches took at each stage, and counts."""
        kept = self._kept
        rows = self._rows(kept)
        sums = _add_up(kept.sums, rows, durations(rows, kept.written_ns))
        return {
            worker: dict(zip((*STAGES, *_COUNTS), map(int, each), strict=True))
            for worker, each in sums.items()
        }

    def _make_room(self, number: int) -> None:
        """Set another chunk aside; the oldest goes into the sums if the newest rows do without."""
        kept, memory = self._kept, bytearray(_CHUNK * _PACKING.size)
        first, sums, written_ns, chunks = kept
        if number - first >= MOST_ROWS + _CHUNK:
            rows = self._rows(kept)
            took = durations(rows, written_ns)
            oldest = {stage: values[:_CHUNK] for stage, values in took.items()}
            sums = _add_up(sums, rows[:_CHUNK], oldest)
            written_ns = max(written_ns, int(columns(rows)["written"][:_CHUNK].max()))
            first, chunks = first + _CHUNK, chunks[1:]
        self._memory = memory
        self._kept = _Kept(first, sums, written_ns, (*chunks, memory))

    def _rows(self, kept: _Kept) -> Array:
        """A copy of all rows that were counted, of those kept at one moment."""
        count = min(self.count - kept.first, len(kept.chunks) * _CHUNK)
        rows = np.frombuffer(b"".join(kept.chunks), np.int64)
        return rows.reshape(-1, len(Row._fields))[:count].copy()


def _add_up(before: dict[int, Any], rows: Array, took: dict[str, Array]) -> dict[int, Any]:
    sums = dict(before)
    if not len(rows):
        return sums
    of = columns(rows)
    counted = np.stack(
        [
            *(took[stage] for stage in STAGES),
            *(np.ones(len(rows), np.int64), of["samples"], of["shared_bytes"], of["cpu"]),
        ]
    )
    for worker in np.unique(of["worker"]).tolist():
        mine = of["worker"] == worker
        peak = int(of["peak_bytes"][mine].max())
        sums[worker] = _joined(sums.get(worker), [*counted[:, mine].sum(axis=1), peak])
    return sums


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
