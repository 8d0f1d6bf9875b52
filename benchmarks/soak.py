"""Does anything grow when loaders run for a long time, in all the ways they are used?

    python benchmarks/soak.py --minutes 10

Three loaders in turn: kept workers, new workers each epoch, a stream. Epochs are left early,
samples raise, workers are killed and started again, batches are kept for a while and let go.
Every ten seconds a line: memory of this process and of all of it with its workers (PSS: shared
pages are counted once), descriptors, threads, children. Fails if the last third needs more than
the middle third: 10 % and 30 MiB of memory, or any descriptor, thread or child.

Caveats: PSS includes the arena, whose size follows the batches that are held; the first third is
taken for warming up and not looked at.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import random
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import psutil
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from fastload import DataLoader

LINE_EVERY_S = 10
LENGTH = 512
ALLOWED_GROWTH = 1.10
UNSEEDED = random.SystemRandom()
"""A worker that is started again repeats its seeded draws, and would be killed again."""

ALLOWED_BYTES = 30 << 20


class Unruly(Dataset[Any]):
    """Samples of changing size; some raise, and now and then the worker is killed."""

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if UNSEEDED.random() < 0.002:
            raise ValueError(f"sample {index} is bad")
        if UNSEEDED.random() < 0.0002:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"x": torch.full((64, 64), float(index)), "index": torch.tensor(index)}


class Stream(IterableDataset[Any]):
    """Numbers, sharded among the workers."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        info = get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        for number in range(first, LENGTH, step):
            yield torch.full((1000,), float(number))


class Reading(NamedTuple):
    """What is counted at one moment."""

    rss: int
    pss: int
    descriptors: int
    threads: int
    children: int


def take_reading() -> Reading:
    """Count; children are only those that live."""
    gc.collect()
    process = psutil.Process()
    family = [process, *process.children(recursive=True)]
    pss = 0
    for member in family:
        with contextlib.suppress(psutil.Error):
            pss += member.memory_full_info().pss
    rss, threads = process.memory_info().rss, process.num_threads()
    return Reading(rss, pss, process.num_fds(), threads, len(family) - 1)


def live(loader: DataLoader[Any], kept: list[Any], chance: random.Random) -> int:
    """One epoch, perhaps a part of it; returns the batches that came."""
    batches, last = 0, chance.choice([1, 3, 10, 10**6, 10**6])
    iterator = iter(loader)
    while batches < last:
        try:
            batch = next(iterator)
        except StopIteration:
            break
        except ValueError:
            continue
        x = batch["x"] if isinstance(batch, dict) else batch
        assert bool((x.flatten(1) == x.flatten(1)[:, :1]).all()), "a sample is torn"
        batches += 1
        if chance.random() < 0.1:
            kept.append(batch)
        if len(kept) > 20:
            del kept[: chance.randrange(20)]
    return batches


def soak(minutes: float) -> list[Reading]:
    """Run for so long; a reading every ten seconds, taken while nothing but kept workers lives."""
    chance = random.Random(0)
    kept: list[Any] = []
    readings: list[Reading] = []
    options: dict[str, Any] = {"batch_size": 8, "num_workers": 2, "max_worker_restarts": 10**6}
    loaders = [
        DataLoader(Unruly(), shuffle=True, persistent_workers=True, **options),
        DataLoader(Unruly(), shuffle=True, **options),
        DataLoader(Stream(), batch_size=8, num_workers=2),
    ]
    end = time.monotonic() + 60 * minutes
    line_at = time.monotonic()
    batches = epochs = 0
    print("  min     epochs    batches   RSS MiB   PSS MiB   descriptors   threads   children")
    while time.monotonic() < end:
        batches += live(loaders[epochs % 3], kept, chance)
        epochs += 1
        if time.monotonic() >= line_at and epochs % 3 == 0:
            line_at += LINE_EVERY_S
            kept.clear()
            readings.append(now := take_reading())
            elapsed = minutes - (end - time.monotonic()) / 60
            print(
                f"{elapsed:5.1f} {epochs:10,} {batches:10,} {now.rss >> 20:9,} {now.pss >> 20:9,} "
                f"{now.descriptors:13} {now.threads:9} {now.children:10}",
                flush=True,
            )
    for loader in loaders:
        loader.close()
    return readings


def growth(readings: list[Reading]) -> list[str]:
    """What is more in the last third than in the middle one."""
    third = max(len(readings) // 3, 1)
    middle, last = readings[third : 2 * third] or readings, readings[-third:]
    grown = []
    for name in Reading._fields:
        before = max(getattr(reading, name) for reading in middle)
        after = max(getattr(reading, name) for reading in last)
        is_memory = name in {"rss", "pss"}
        allowed = max(before * ALLOWED_GROWTH, before + ALLOWED_BYTES) if is_memory else before
        if after > allowed:
            grown.append(f"{name} went from {before:,} to {after:,}")
    return grown


def main() -> int:
    """Soak, and say whether anything grew."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message="DataLoader worker .* was started again")
    readings = soak(arguments.minutes)
    left = take_reading()
    grown = growth(readings)
    if left.children:
        grown.append(f"{left.children} children are left after closing")
    print("flat" if not grown else "GROWN: " + "; ".join(grown))
    return len(grown) > 0


if __name__ == "__main__":
    sys.exit(main())
