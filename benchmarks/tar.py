"""How fast do tar shards come, beside webdataset? Writes benchmarks/tar.json.

    python benchmarks/tar.py            # measure: about a minute
    python benchmarks/tar.py --quick    # one round, prints only: a smoke test
    python benchmarks/publish.py        # the table in docs/benchmarks.md

Shards of JPEG files, cut from the photographs that ship with scikit-learn, in batches of 64 with
two workers. All ways are measured in turn, round after round, each in a fresh process; the table
gives medians. An epoch counts from `iter` to its last batch, with the start of the workers. Checked
first: ways that read shards in the same order give the same batches, the others the same samples.

Ways: `webdataset` is its WebLoader, decoding with Pillow to the same tensors and making batches in
its workers, as its documentation advises; `torch` a stream over Python's tarfile with Pillow;
`fastload` is `TarStream` without indices; then with indices, and with `seed=`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import fastload  # noqa: E402
from benchmarks.in_turn import WrongError, look_at_machine, measure  # noqa: E402
from fastload.datasets.tar_index import build_index, load_index, write_index  # noqa: E402
from fastload.tools.bench.child import await_turn  # noqa: E402
from fastload.tools.bench.workloads.tar_files import FIELDS, TarfileShards, shards_of  # noqa: E402

RESULTS = ROOT / "benchmarks" / "tar.json"
ROUNDS = 7
SAMPLES = 2_000
WORKERS = 2
BATCH_SIZE = 64
WAYS = ("webdataset", "torch", "fastload", "fastload, indexed", "fastload, seed=0")
IN_ORDER = WAYS[:3]
"""Lists the ways that deal whole shards to workers."""


def loader_of(way: str) -> Any:
    """Return the loader of a way."""
    shards = shards_of(SAMPLES, 256, 256)
    options: dict[str, Any] = {"batch_size": BATCH_SIZE, "num_workers": WORKERS}
    if way == "webdataset":
        import webdataset

        dataset = webdataset.WebDataset(shards, shardshuffle=False)
        dataset = dataset.decode("torchrgb8").to_tuple(*FIELDS).batched(BATCH_SIZE)
        return webdataset.WebLoader(dataset, batch_size=None, num_workers=WORKERS)
    if way == "torch":
        return torch.utils.data.DataLoader(TarfileShards(shards), **options)
    index: Any = "ignore" if way == "fastload" else "require"
    stream = fastload.TarStream(shards, fields=FIELDS, index=index)
    return fastload.DataLoader(stream, **options, seed=0 if way.endswith("seed=0") else None)


def make_indices() -> None:
    """Write the index of each shard that has none."""
    for shard in shards_of(SAMPLES, 256, 256):
        if load_index(shard) is None:
            write_index(shard, build_index(shard, checksums=True))


def check() -> None:
    """Hold the batches of all ways against webdataset's.

    Raises:
        WrongError: they differ.
    """
    expected = list(batches_of(WAYS[0]))
    for way in WAYS[1:]:
        found = list(batches_of(way))
        if way not in IN_ORDER:
            if _samples_of(found) != _samples_of(expected):
                raise WrongError(f"the samples of {way} are not those of {WAYS[0]}")
            continue
        for number, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
            if not all(map(_is_equal, ours, theirs)):
                raise WrongError(f"batch {number} of {way} is not that of {WAYS[0]}")


def batches_of(way: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield images and labels of each batch."""
    for images, labels in loader_of(way):
        yield images, torch.as_tensor(labels)


def _is_equal(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return ours.dtype == theirs.dtype and torch.equal(ours, theirs)


def _samples_of(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> list[tuple[int, int]]:
    return sorted(
        (zlib.crc32(image.contiguous().numpy().tobytes()), int(label))
        for images, labels in batches
        for image, label in zip(images, labels, strict=True)
    )


def epoch(way: str) -> float:
    """Images a second over an epoch, the start of workers included."""
    loader = loader_of(way)
    await_turn()
    started = time.perf_counter()
    count = sum(len(labels) for _, labels in loader)
    elapsed_s = time.perf_counter() - started
    if count != SAMPLES:
        raise WrongError(f"{way} gave {count} images of {SAMPLES}")
    return count / elapsed_s


def main() -> None:
    """Measure all ways and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one round, prints only")
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves shards open
    if args.check:
        await_turn()
        check()
    elif args.one:
        print(epoch(args.one), flush=True)
    else:
        _measure_all(1 if args.quick else ROUNDS, writes=not args.quick)


def _measure_all(rounds: int, *, writes: bool) -> None:
    machine = look_at_machine()
    make_indices()
    rates = measure(__file__, ("--check",), {way: ("--one", way) for way in WAYS}, rounds)
    for way, values in rates.items():
        print(f"{way}: {statistics.median(values):,.0f} images/s", flush=True)
    if writes:
        document = {"machine": asdict(machine), "settings": {"rounds": rounds}, "rates": rates}
        RESULTS.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
