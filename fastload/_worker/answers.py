"""What a worker says of its tasks, and what it must remember to say it shortly.

Runs in: worker.
Takes: the batch of a task, in its slot.
Gives: a report, sent to the consumer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from fastload._loading.fetch import EndOfStream
from fastload._loading.on_error import NothingLeft, Tolerance
from fastload._loading.stopwatch import peak_bytes
from fastload._memory.layout import Layout
from fastload._memory.write import LeafRef, SlotPlace, write_batch
from fastload._wire.channel import send
from fastload._wire.exceptions import pack_whatever
from fastload._wire.messages import Empty, Ended, Failed, Loaded, Report, Skip, Stamps, encode

LONGEST_SKELETON_BYTES = 1 << 14
"""A longer skeleton lies in the slot, behind the leaves; a pipe holds only 64 KiB."""

MEMORY_EVERY = 32
"""Batches from one look at a worker's memory to the next."""


class Answers:
    """Sends the reports of one worker.

    Attributes:
        hold_only_tensors: Whether all batches so far were made of tensors alone.
    """

    def __init__(
        self,
        descriptor: int,
        tolerance: Tolerance | None,
        state_of: Callable[[int], bytes | None],
    ) -> None:
        """``state_of`` gives the state of a stream behind the newest batch of a run, pickled."""
        self.hold_only_tensors = True
        self._descriptor = descriptor
        self._tolerance = tolerance
        self._state_of = state_of
        self._ended: set[int] = set()
        self._last: tuple[Layout | None, bytes | None] | None = None
        self._loads = 0
        self._skeleton = b""
        self._attached: list[Any] = []

    def give(self, run: int, sequence: int, slot: int, load: Callable[[], Report]) -> None:
        """Report what became of a task; whatever the user's code raises is reported too."""
        try:
            if run in self._ended:
                raise EndOfStream
            report = load()
        except EndOfStream:
            self._ended.add(run)
            report = Ended(run, sequence, slot)
        except NothingLeft:
            report = Empty(run, sequence, slot, self.take_skipped())
        except BaseException as error:  # noqa: BLE001  (whatever it is, the consumer raises it)
            report = Failed(run, sequence, slot, pack_whatever(error))
            self._attached = []
        self.report(report, self._attached)
        self._attached = []

    def report(self, report: Report, attached: Sequence[Any] = ()) -> None:
        """Send a report, and what is attached to it."""
        send(self._descriptor, encode(report), attached)

    def forget(self, run: int) -> None:
        """Nobody asks for a run any more."""
        self._ended.discard(run)

    def write(self, batch: Any, place: SlotPlace) -> tuple[Layout, bytes]:
        """Write a batch to its slot; returns its layout and its skeleton."""
        layout, skeleton = write_batch(batch, place)
        self._attached, place.attached = place.attached, []  # nothing else may keep the batch
        if skeleton != self._skeleton:  # which says what the batch is made of
            self._skeleton = skeleton
            self.hold_only_tensors = self.hold_only_tensors and _holds_only_tensors(batch)
        return layout, skeleton

    def take_skipped(self) -> tuple[Skip, ...]:
        """The samples that could not be loaded since the last call."""
        return () if self._tolerance is None else self._tolerance.take_skipped()

    def put_back_skipped(self, skipped: tuple[Skip, ...]) -> None:
        """Report them with the next batch, because an error tells of none."""
        if self._tolerance is not None:
            self._tolerance.put_back(skipped)

    def peak_bytes(self) -> int:
        """The most memory that this process ever had resident; mostly 0, for not looked at."""
        self._loads += 1
        return peak_bytes() if self._loads % MEMORY_EVERY == 1 else 0

    def loaded(
        self,
        run: int,
        sequence: int,
        slot: int,
        place: SlotPlace,
        layout: Layout | None,
        skeleton: bytes | None,
        stamps: Stamps,
        skipped: tuple[Skip, ...] = (),
    ) -> Loaded:
        """The report of a batch that was written; without what is as in the report before."""
        state = self._state_of(run)  # which may raise: then nothing is sent
        skipped = skipped or self.take_skipped()
        skeleton_at = None
        if (layout, skeleton) == self._last:
            layout = skeleton = None
        elif skeleton is not None and len(skeleton) > LONGEST_SKELETON_BYTES:
            self._last = None
            skeleton_at = _put_behind(place, skeleton)
            if skeleton_at is None:
                self._attached.append(skeleton)
            skeleton = None
        else:
            self._last = layout, skeleton
        return Loaded(
            run,
            sequence,
            slot,
            place.used_bytes,
            stamps,
            layout,
            skeleton,
            skeleton_at,
            state,
            skipped,
        )


def _put_behind(place: SlotPlace, skeleton: bytes) -> tuple[int, int] | None:
    """Write a long skeleton behind the leaves; returns where it lies, None if there is no room."""
    offset = place.reserve(len(skeleton))
    if offset is None:
        return None
    place.memory.data[offset : offset + len(skeleton)] = skeleton
    return offset, len(skeleton)


def _holds_only_tensors(batch: Any) -> bool:
    """Whether all a batch says is numbers: dict keys are the same in every process."""
    seen: set[int] = set()
    ahead = [batch]
    while ahead:
        each = ahead.pop()
        kind = type(each)
        if kind in (dict, list, tuple):
            if id(each) not in seen:  # a container may hold itself
                seen.add(id(each))
                ahead += each.values() if kind is dict else each
        elif kind not in (Tensor, LeafRef):
            return False
    return True
