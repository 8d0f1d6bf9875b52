"""Where do the microseconds of one batch go? Writes the budget table of docs/design.md.

    python benchmarks/budget.py

Each step of a batch's way is called by itself, many times, on a batch of 64 arrays of 8 x 8 float32
with labels; the table gives the best mean of five loops. The last lines are the whole way, measured
with one worker while nothing is to be made: there the two processes wake each other for each batch.

Caveat: in a loop by itself a step finds warm caches; on its real way it takes up to twice as long.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import fastload  # noqa: E402
from benchmarks.limits import Ready, best_s, cost_of  # noqa: E402
from benchmarks.publish import put  # noqa: E402
from fastload._epoch.order import InOrder  # noqa: E402
from fastload._memory.arena import Arena  # noqa: E402
from fastload._memory.granted import Grants  # noqa: E402
from fastload._memory.slots import Slots  # noqa: E402
from fastload._memory.view import BatchTemplate  # noqa: E402
from fastload._memory.write import SlotPlace, write_batch  # noqa: E402
from fastload._pool.tasks import Mailbox, Tasks  # noqa: E402
from fastload._wire.indices import pack, plain, unpack  # noqa: E402
from fastload._wire.messages import Loaded, Task, decode, encode, encode_task  # noqa: E402
from fastload.collate.inplace import collate_in_place  # noqa: E402
from fastload.samplers.batches import compact  # noqa: E402
from fastload.stats.counters import Counters  # noqa: E402

PAGE, MARKS = ROOT / "docs" / "design.md", ("<!-- budget -->", "<!-- end of budget -->")
BATCH, CALLS = 64, 5_000
SAMPLES = [(np.full((8, 8), float(number), np.float32), number) for number in range(BATCH)]


def main() -> None:
    """Measure and write the table."""
    torch.set_num_threads(1)
    lines = ["| step | process | µs |", "|---|---|---|"]
    sums: dict[str, float] = {}
    for process, step, seconds in steps():
        sums[process] = sums.get(process, 0.0) + seconds
        lines.append(f"| {step} | {process} | {seconds * 1e6:.1f} |")
    lines += [f"| **sum** | {process} | **{total * 1e6:.0f}** |" for process, total in sums.items()]
    lines += [f"| {step} | {process} | {s * 1e6:.0f} |" for process, step, s in whole_way()]
    put(PAGE, "\n".join(lines), *MARKS)


def steps() -> Iterator[tuple[str, str, float]]:
    """Process, step and seconds, in the order of the way."""
    way = _Way()
    for process, step, call in (
        ("consumer", "draw the indices of a batch, shuffled", way.draw),
        ("consumer", "pack the indices, choose the worker, note the task", way.send_task),
        ("consumer", "task message: write", way.write_task),
        ("worker", "task message and indices: read", way.read_task),
        ("worker", "take a slot", way.take_slot),
        ("worker", "collate into the slot", way.collate),
        ("worker", "layout and skeleton", way.lay_out),
        ("worker", "report message: write", way.write_report),
        ("consumer", "report message: read", way.read_report),
        ("consumer", "lease the slot, views of its leaves, put them in place, give back", way.view),
        ("consumer", "count and time the batch", way.count),
    ):
        yield process, step, best_s(call, CALLS)
    yield "both", "write to a pipe, wake up the other process, read: one way", _wake_up_s()


def whole_way() -> Iterator[tuple[str, str, float]]:
    """The same for real."""
    batch = collate_in_place(SAMPLES, SlotPlace(None, -1))
    loader = fastload.DataLoader(Ready([batch]), batch_size=None, num_workers=1)
    cost = cost_of(loader, CALLS)
    yield "consumer", "whole way of a ready batch of two tensors: CPU time", cost.consumer_cpu_s
    yield "worker", "the same", cost.worker_cpu_s
    yield "both", "the same: time from batch to batch", cost.wall_s


class _Way:
    """One batch, taken along step by step."""

    def __init__(self) -> None:
        self._arena = Arena.create(32, 1 << 20, 1)
        self._slots = Slots(self._arena, 4, 8, 1 << 30)
        self._grants = Grants(self._arena, 0)
        batches = compact(
            torch.utils.data.BatchSampler(fastload.RandomSampler(range(1 << 22)), BATCH, False)
        )
        assert batches is not None
        self._indices = batches
        self._drawn = next(self._indices)
        self._counters = Counters()
        self._slots.provide(0, 2)
        self._place = SlotPlace(self._arena, self._grants.take())
        self._batch = collate_in_place(SAMPLES, self._place)
        self._form = BatchTemplate(*write_batch(self._batch, self._place))
        now = time.monotonic_ns()
        stamps: Any = (BATCH, *[now] * 4, 1_000, 1_000, "", 0, 0)
        self._report = Loaded(0, 0, 0, self._place.used_bytes, stamps, None, None, None)
        self._task = Task(0, 0, pack(self._drawn))
        self._task_frame, self._report_frame = encode(self._task), encode(self._report)
        self._order, self._tasks = InOrder(1, 2, ()), Tasks(None)
        self._tasks.open(0, Mailbox())

    def draw(self) -> None:
        next(self._indices)

    def send_task(self) -> None:
        pack(self._drawn)
        worker = self._order.choose(None)
        assert worker is not None
        sequence = self._order.send(worker)
        self._tasks.add(0, sequence, worker, self._drawn)
        del self._tasks.flying(0)[sequence]

    def write_task(self) -> None:
        encode_task(*self._task)

    def read_task(self) -> None:
        plain(unpack(decode(self._task_frame).indices))

    def take_slot(self) -> None:
        slot = self._grants.take()
        SlotPlace(self._arena, slot)
        self._arena.flags(0)[slot] = 1

    def collate(self) -> None:
        place = self._place
        place.used_bytes, place.leaves, place._placed = 0, [], {}
        self._batch = collate_in_place(SAMPLES, place)

    def lay_out(self) -> None:
        write_batch(self._batch, self._place)

    def write_report(self) -> None:
        encode(self._report)

    def read_report(self) -> None:
        decode(self._report_frame)

    def view(self) -> None:
        slots = self._slots
        slot = next(iter(slots._granted[0]))
        slots.returned(slot, 0)
        memory = slots.lease(slot, 0, self._place.used_bytes)
        if memory is not None:
            self._form.skeleton.assemble(self._form.view(memory))

    def count(self) -> None:
        now = time.monotonic_ns()
        self._counters.delivered(self._report, 0, now, time.monotonic_ns(), time.monotonic_ns())


def _wake_up_s() -> float:
    """Half of a round trip between two processes that wait for each other."""
    there, here = os.pipe(), os.pipe()
    rounds = 4_000

    def answer() -> None:
        for _ in range(rounds):
            os.write(here[1], os.read(there[0], 64))

    process = multiprocessing.get_context("fork").Process(target=answer)
    process.start()
    started = time.perf_counter()
    for _ in range(rounds):
        os.write(there[1], b"x" * 64)
        os.read(here[0], 64)
    elapsed_s = time.perf_counter() - started
    process.join()
    for descriptor in (*there, *here):
        os.close(descriptor)
    return elapsed_s / rounds / 2


if __name__ == "__main__":
    main()
