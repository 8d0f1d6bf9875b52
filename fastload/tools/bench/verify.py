"""Check that two loaders give equal batches: types, values, order, for one seed.

    python -m fastload.tools.bench.verify torch fastload tiny-numpy fields --workers 2

Runs in: a process of its own, for many workloads one after another.
Takes: the names of the loader taken as right, of the one to check, and of the workloads.
Gives: one line of JSON per workload, an `EqualityVerdict`.
"""

import argparse
import copy
import json
import sys
import traceback
from dataclasses import asdict
from typing import Any

import torch

from fastload.tools.bench.catalogue import find
from fastload.tools.bench.child import await_turn
from fastload.tools.bench.equality import difference
from fastload.tools.bench.loaders import make_loader
from fastload.tools.bench.names import split_name
from fastload.tools.bench.results import EqualityVerdict
from fastload.tools.bench.verify_seeded import verify_seeded
from fastload.tools.bench.workload import Workload
from fastload.tools.words import counted

_EPOCHS = 2
_BATCHES = 6.5  # more than are prefetched, and a last one that is not full


def verify(workload: Workload, baseline: str, candidate: str, *, workers: int) -> str | None:
    """Load two small epochs with both loaders and return the first difference, if any.

    Compared are all batches, and what torch's global random generator gives afterwards. A candidate
    with a seed has an order of its own; see `verify_seeded`.
    """
    samples = int(workload.batch_size * _BATCHES)
    if _has_seed(workload, candidate, samples):
        return verify_seeded(workload, baseline, candidate, samples=samples, workers=workers)
    expected = _load(workload, baseline, workers)
    actual = _load(workload, candidate, workers)
    for epoch in range(_EPOCHS):
        given, wanted = len(actual[epoch]), len(expected[epoch])
        if given != wanted:
            return f"epoch {epoch} has {counted(given, 'batch')}, expected {wanted}"
        for number, (right, other) in enumerate(zip(expected[epoch], actual[epoch], strict=True)):
            words = difference(right, other, f"epoch {epoch}, batch {number}")
            if words is not None:
                return words
    return difference(expected[_EPOCHS], actual[_EPOCHS], "the random state afterwards")


def _has_seed(workload: Workload, candidate: str, samples: int) -> bool:
    """Whether the candidate is given a seed, by its name or by its recipe."""
    return split_name(candidate)[1] is not None or (
        workload.own is not None and "seed" in workload.cook(samples, candidate).options
    )


def _load(workload: Workload, loader_name: str, workers: int) -> list[list[Any]]:
    """Return the batches of each epoch, and as the last item what the generator gives then.

    Batches are copied: torch keeps a descriptor open for every tensor that came from a worker.
    """
    recipe = workload.cook(int(workload.batch_size * _BATCHES), loader_name).for_comparison()
    as_usual = recipe.as_usual or (lambda batch: batch)
    loader = make_loader(workload, recipe, loader_name, workers=workers)
    torch.manual_seed(20_240_229)
    epochs = [[copy.deepcopy(as_usual(batch)) for batch in loader] for _ in range(_EPOCHS)]
    epochs.append([torch.rand(4)])
    return epochs


def main(argv: list[str] | None = None) -> int:
    """Verify the workloads named on the command line."""
    await_turn()
    parser = argparse.ArgumentParser(
        prog="python -m fastload.tools.bench.verify", allow_abbrev=False
    )
    parser.add_argument("baseline", help="the loader taken as right")
    parser.add_argument("candidate", help="the loader to check")
    parser.add_argument("workload", nargs="+")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args(argv)
    for name in args.workload:
        try:
            words = verify(find(name), args.baseline, args.candidate, workers=args.workers)
            verdict = EqualityVerdict(name, difference=words)
        except Exception:  # noqa: BLE001 - whatever a loader raises is its verdict
            verdict = EqualityVerdict(name, error=traceback.format_exc())
        print(json.dumps(asdict(verdict)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
