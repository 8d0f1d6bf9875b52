"""Measure one loader on one workload.

    python -m fastload.tools.bench.measure tiny-numpy fastload --workers 2

Runs in: a fresh process that does nothing else; its consumer drops the batches.
Takes: the names of a workload and of a loader class.
Gives: one line of JSON, a `LoaderMeasurement`.

numpy.random, which workers seed, is imported here as it is in most programs. Otherwise each of
torch's workers would import it, and be charged for it in every epoch.
"""

import argparse
import gc
import json
import multiprocessing
import resource
import sys
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import numpy.random  # noqa: F401
import psutil
import torch

from fastload.tools.bench.catalogue import find
from fastload.tools.bench.child import await_turn
from fastload.tools.bench.loaders import make_loader
from fastload.tools.bench.results import LoaderMeasurement
from fastload.tools.bench.workload import Recipe, Workload

_FULL_S = 1.5
_QUICK_S = 0.2
_PATIENCE = 4  # epochs go on until enough time is counted or this many times it has passed


@dataclass(slots=True)
class _CountedTime:
    """Adds up the counted time over epochs."""

    first_batch_s: float = 0.0
    counted_s: float = 0.0
    units: int = 0
    epochs: int = 0
    batches: int = 0


def measure(
    workload: Workload, recipe: Recipe, loader_name: str, *, workers: int, quick: bool
) -> LoaderMeasurement:
    """Load whole epochs until enough time has been counted, then drop the loader, as users do."""
    loader = make_loader(workload, recipe, loader_name, workers=workers)
    torch.manual_seed(0)
    cpu_before_s = _cpu_s()
    count = _count_samples if workload.unit == "samples" else _count_epochs
    samples = workload.samples_given(quick=quick)
    clock = count(loader, workload, samples, _QUICK_S if quick else _FULL_S)
    del loader
    _await_workers()
    return LoaderMeasurement(
        rate=clock.units / clock.counted_s,
        first_batch_s=clock.first_batch_s,
        cpu_s_per_epoch=(_cpu_s() - cpu_before_s) / clock.epochs,
        epochs=clock.epochs,
        batches=clock.batches,
        counted_s=clock.counted_s,
        children_left=len(psutil.Process().children(recursive=True)),
    )


def _count_samples(loader: Any, workload: Workload, samples: int, least_s: float) -> _CountedTime:
    """Count from the first batch's arrival to the last one's, in each epoch."""
    clock = _CountedTime()
    began = perf_counter()
    while clock.counted_s < least_s and perf_counter() - began < _PATIENCE * least_s:
        started = perf_counter()
        iterator = iter(loader)
        batch = next(iterator)
        arrived = latest = perf_counter()
        batches = 1
        for batch in iterator:  # noqa: B007 - a training loop holds its batch, so does this
            latest = perf_counter()
            batches += 1
        del batch, iterator
        if clock.epochs == 0:
            clock.first_batch_s = arrived - started
        clock.counted_s += latest - arrived
        clock.units += samples - workload.batch_size
        clock.batches += batches
        clock.epochs += 1
    return clock


def _count_epochs(loader: Any, workload: Workload, samples: int, least_s: float) -> _CountedTime:
    """Count epochs from start to end, after a first one."""
    del workload, samples
    clock = _CountedTime()
    started = perf_counter()
    iterator = iter(loader)
    next(iterator)
    clock.first_batch_s = perf_counter() - started
    clock.batches = 1 + sum(1 for _ in iterator)
    clock.epochs = 1
    del iterator
    began = perf_counter()
    while clock.counted_s < least_s:
        for batch in loader:  # noqa: B007 - a training loop holds its batch, so does this
            clock.batches += 1
        del batch
        clock.units += 1
        clock.epochs += 1
        clock.counted_s = perf_counter() - began
    return clock


def _cpu_s() -> float:
    """Return user and system time of this process and of its children that are gone."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _await_workers(patience_s: float = 5.0) -> None:
    """Join workers that are about to end, so that their time is counted."""
    gc.collect()
    deadline = perf_counter() + patience_s
    for child in multiprocessing.active_children():
        child.join(max(0.0, deadline - perf_counter()))


def main(argv: list[str] | None = None) -> int:
    """Measure what the command line names and print the measurement."""
    parser = argparse.ArgumentParser(
        prog="python -m fastload.tools.bench.measure", allow_abbrev=False
    )
    parser.add_argument("workload", type=find)
    parser.add_argument("loader", help="torch, fastload or module:attribute")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args(argv)
    workload: Workload = args.workload
    recipe = workload.cook(workload.samples_given(quick=args.quick), args.loader)
    await_turn()
    measurement = measure(workload, recipe, args.loader, workers=args.workers, quick=args.quick)
    print(json.dumps(asdict(measurement)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
