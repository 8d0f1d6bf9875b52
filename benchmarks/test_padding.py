"""What do fastload.pad, pad_dict, pack and ragged gain over the usual collate functions?

    python benchmarks/test_padding.py                  # the table in docs/padding.md
    python benchmarks/test_padding.py --rounds 1 --case "pad, lists"
    pytest benchmarks/test_padding.py --benchmark-only --benchmark-sort=name

Batches of 64 sequences of 16 to 511 elements. Beside us, in the same run, torch's DataLoader with
what is usually written: ``pad_sequence`` over ``torch.as_tensor``, ``torch.nested.nested_tensor``,
and a packing by the same rule with ``torch.cat``. The first batch of each loader is held against
the other's collate function.

As a command, each loader runs in fresh processes with two workers, in turn with the other, and the
median of the pairs' ratios counts. CPU time is that of the consumer and its workers. *Collating
alone* is the CPU time of one call in one thread, *samples alone* that of the dataset's
``__getitem__`` for the same batch: what no collate function can make less. With pytest, an endless
epoch; a round is eight batches.

Caveats: samples lie ready in memory, so what is left is collating and transport; "fastload, usual
collate" (pytest only) shows what the transport alone gains.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from time import perf_counter, process_time
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import torch.utils.data
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

import fastload
from fastload import Pack, Packed, Pad, Padded, PadDict
from fastload.collate.packing_plan import first_fit_decreasing
from fastload.tools.bench.equality import difference

SEQUENCES = 1024
BATCH = 64
WIDTH = 1024
BATCHES_A_ROUND = 8
WARMING_S, LOADING_S = 0.3, 1.0
HEAD = (
    "| 64 sequences of 16 to 511 a batch | throughput | CPU time "
    "| collating alone, usual / fastload | samples alone |"
)
TIMES = "\N{MULTIPLICATION SIGN}"


@functools.cache
def tokens() -> list[Tensor]:
    """Sequences of token ids."""
    numbers = np.random.default_rng(0)
    lengths = numbers.integers(16, 512, SEQUENCES)
    return [torch.from_numpy(numbers.integers(0, 30_000, length)) for length in lengths]


def as_tensors() -> list[Any]:
    return tokens()


def as_arrays() -> list[Any]:
    return [sequence.numpy() for sequence in tokens()]


def as_lists() -> list[Any]:
    return [sequence.tolist() for sequence in tokens()]


def with_labels() -> list[Any]:
    return [(sequence, number % 2) for number, sequence in enumerate(tokens())]


def frames() -> list[Any]:
    """Spectrograms ``(length, 80)``, float32."""
    return [torch.rand(len(sequence), 80) for sequence in tokens()]


def records() -> list[Any]:
    """What a tokenizer gives: token ids and labels as lists, and fields that are not ragged."""
    return [
        {"ids": ids, "labels": ids[::-1], "score": 0.5, "text": f"sample {number}"}
        for number, ids in enumerate(as_lists())
    ]


def usual_pad(samples: list[Any]) -> Padded:
    sequences = [torch.as_tensor(sample) for sample in samples]
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    return Padded(pad_sequence(sequences, batch_first=True), lengths)


def usual_pad_labelled(samples: list[Any]) -> list[Any]:
    sequences, labels = zip(*samples, strict=True)
    return [usual_pad(list(sequences)), torch.tensor(labels)]


def usual_pad_dict(samples: list[Any]) -> dict[str, Any]:
    ids = usual_pad([sample["ids"] for sample in samples])
    labels = [torch.as_tensor(sample["labels"]) for sample in samples]
    return {
        "ids": ids.data,
        "ids_lengths": ids.lengths,
        "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
        "score": torch.tensor([sample["score"] for sample in samples], dtype=torch.float64),
        "text": [sample["text"] for sample in samples],
    }


def usual_pack(samples: list[Any]) -> Packed:
    sequences = [torch.as_tensor(sample) for sample in samples]
    data, positions, numbers, begins = [], [], [], [0]
    for row in first_fit_decreasing([len(sequence) for sequence in sequences], WIDTH):
        parts = [sequences[number] for number in row]
        rest = WIDTH - sum(map(len, parts))
        if rest:
            parts.append(torch.zeros(rest, dtype=torch.int64))
        owners = [*row, -1][: len(parts)]
        for part in parts:
            begins.append(begins[-1] + len(part))
        data.append(torch.cat(parts))
        positions.append(torch.cat([torch.arange(len(part)) for part in parts]))
        numbers.append(
            torch.cat([torch.full((len(p),), o) for p, o in zip(parts, owners, strict=True)])
        )
    cu_seqlens = torch.tensor(begins, dtype=torch.int32)
    longest = int(cu_seqlens.diff().max())
    return Packed(
        torch.stack(data), cu_seqlens, longest, torch.stack(positions), torch.stack(numbers)
    )


def usual_ragged(samples: list[Any]) -> Tensor:
    return torch.nested.nested_tensor(samples, layout=torch.jagged)


Case = tuple[Callable[[], list[Any]], Callable[..., Any], Callable[..., Any]]

CASES: dict[str, Case] = {
    "pad, tensors": (as_tensors, usual_pad, fastload.pad),
    "pad, arrays": (as_arrays, usual_pad, fastload.pad),
    "pad, lists": (as_lists, usual_pad, fastload.pad),
    "pad, tensors with labels": (with_labels, usual_pad_labelled, fastload.pad),
    "pad, frames of 80 float32": (frames, usual_pad, fastload.pad),
    "pad_dict, lists": (
        records,
        usual_pad_dict,
        PadDict({"labels": Pad(value=-100, returns="data")}),
    ),
    "pack, tensors": (as_tensors, usual_pack, Pack(WIDTH)),
    "pack, lists": (as_lists, usual_pack, Pack(WIDTH)),
    "ragged, tensors": (as_tensors, usual_ragged, fastload.ragged),
}

WAYS = {
    "torch": (torch.utils.data.DataLoader, False),
    "fastload, usual collate": (fastload.DataLoader, False),
    "fastload": (fastload.DataLoader, True),
}


class Endless(Dataset[Any]):
    """The samples again and again."""

    def __init__(self, samples: list[Any]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, index: int) -> Any:
        return self.samples[index % len(self.samples)]


def open_iterator(case: str, way: str) -> Any:
    """An iterator whose first batch was equal to what the other collate function makes."""
    make, usual, ours = CASES[case]
    loader_class, is_ours = WAYS[way]
    samples = make()
    batches = iter(
        loader_class(
            Endless(samples),
            batch_size=BATCH,
            num_workers=2,
            collate_fn=ours if is_ours else usual,
        )
    )
    other = (usual if is_ours else ours)(samples[:BATCH])
    assert difference(comparable(other), comparable(next(batches))) is None
    return batches


def comparable(batch: Any) -> Any:
    """A nested tensor as its parts."""
    is_nested = isinstance(batch, Tensor) and batch.is_nested
    return (batch.values(), batch.offsets()) if is_nested else batch


@pytest.fixture
def iterator(case: str, way: str) -> Iterator[Any]:
    batches = open_iterator(case, way)
    yield batches
    batches._shutdown_workers()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("way", WAYS)
def test_padding(benchmark: Any, iterator: Iterator[Any], case: str, way: str) -> None:
    """Time eight batches."""
    benchmark.group = case
    del way

    def a_round() -> None:
        for _ in range(BATCHES_A_ROUND):
            next(iterator)

    benchmark.pedantic(a_round, rounds=40, warmup_rounds=4)


Figures = dict[str, float]


def measure(case: str, way: str) -> Figures:
    """Load for ``LOADING_S`` in this process: batches a second, and CPU time of a batch."""
    batches = open_iterator(case, way)
    take(batches, WARMING_S)
    processes = [psutil.Process(), *psutil.Process().children()]
    before_s = sum(map(_cpu_s, processes))
    count, elapsed_s = take(batches, LOADING_S)
    cpu_s = sum(map(_cpu_s, processes)) - before_s
    batches._shutdown_workers()
    return {"rate": count / elapsed_s, "cpu_us": 1e6 * cpu_s / count}


def take(batches: Iterator[Any], seconds: float) -> tuple[int, float]:
    """Batches and seconds until so many seconds are over."""
    started = perf_counter()
    count, elapsed_s = 0, 0.0
    while elapsed_s < seconds:
        for _ in range(BATCHES_A_ROUND):
            batch = next(batches)  # a training loop holds its batch, so does this
        count += BATCHES_A_ROUND
        elapsed_s = perf_counter() - started
    del batch
    return count, elapsed_s


def measure_alone(case: str) -> Figures:
    """CPU time of making the samples of a batch, and of collating them either way, in us."""
    torch.set_num_threads(1)  # as in a worker
    make, usual, ours = CASES[case]
    dataset = Endless(make())
    indices = range(BATCH)
    samples = [dataset[index] for index in indices]
    return {
        "samples_us": _median_us(lambda: [dataset[index] for index in indices]),
        "usual_us": _median_us(lambda: usual(samples)),
        "ours_us": _median_us(lambda: ours(samples)),
    }


def _median_us(call: Callable[[], Any], times: int = 101) -> float:
    taken = []
    for _ in range(times):
        started = process_time()
        kept = call()
        taken.append(process_time() - started)
    del kept
    return 1e6 * statistics.median(taken)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def in_fresh_process(case: str, what: str) -> Figures:
    """What ``measure`` or ``measure_alone`` returns there."""
    command = [sys.executable, __file__, "--one", case, what]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: Figures = json.loads(done.stdout)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description="Padding, packing and joining sequences.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--case", action="append", choices=CASES)
    parser.add_argument("--one", nargs=2, metavar=("CASE", "WAY"))
    options = parser.parse_args()
    if options.one:
        case, what = options.one
        figures = measure_alone(case) if what == "alone" else measure(case, what)
        sys.stdout.write(json.dumps(figures))
        return
    lines = [
        HEAD,
        "|---|---|---|---|---|",
    ]
    lines += [_row(case, options.rounds) for case in options.case or CASES]
    sys.stdout.write("\n".join(lines) + "\n")


def _row(case: str, rounds: int) -> str:
    pairs = [
        (in_fresh_process(case, "torch"), in_fresh_process(case, "fastload")) for _ in range(rounds)
    ]
    alone = in_fresh_process(case, "alone")
    faster = statistics.median(ours["rate"] / usual["rate"] for usual, ours in pairs)
    less = statistics.median(usual["cpu_us"] / ours["cpu_us"] for usual, ours in pairs)
    return (
        f"| {case} | {faster:.1f}{TIMES} | {less:.1f}{TIMES} less "
        f"| {alone['usual_us']:,.0f} / {alone['ours_us']:,.0f} µs "
        f"({alone['usual_us'] / alone['ours_us']:.1f}{TIMES}) | {alone['samples_us']:.0f} µs |"
    )


if __name__ == "__main__":
    main()
