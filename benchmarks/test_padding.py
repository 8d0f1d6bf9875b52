"""What do fastload.pad, pad_dict, pack and ragged gain over the usual collate functions?

    pytest benchmarks/test_padding.py --benchmark-only --benchmark-sort=name

An endless epoch with two workers; a round is eight batches of 64 sequences of 16 to 511 elements.
Beside us, in the same run, torch's DataLoader with what is usually written: ``pad_sequence`` over
``torch.as_tensor``, ``torch.nested.nested_tensor``, and a packing by the same rule with
``torch.cat``. The first batch of each loader is held against the other's collate function.
Caveats: samples lie ready in memory, so what is left is collating and transport; "fastload, usual
collate" shows what the transport alone gains.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.data
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

import fastload
from fastload import Pack, Packed, Pad, Padded, PadDict
from fastload.bench.equality import difference
from fastload.collate.plan import first_fit_decreasing

SEQUENCES = 1024
BATCH = 64
WIDTH = 1024
BATCHES_A_ROUND = 8


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


@pytest.fixture
def iterator(case: str, way: str) -> Iterator[Any]:
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
    yield batches
    batches._shutdown_workers()


def comparable(batch: Any) -> Any:
    """A nested tensor as its parts."""
    is_nested = isinstance(batch, Tensor) and batch.is_nested
    return (batch.values(), batch.offsets()) if is_nested else batch


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("way", WAYS)
def test_padding(benchmark: Any, iterator: Iterator[Any], case: str, way: str) -> None:
    """Time eight batches."""
    benchmark.group = case
    del way

    def take() -> None:
        for _ in range(BATCHES_A_ROUND):
            next(iterator)

    benchmark.pedantic(take, rounds=40, warmup_rounds=4)
