"""Samples with a structure: many fields, nested targets, sequences of different lengths."""

import sysconfig
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from fastload.tools.bench.workload import Recipe

_FIELDS = 13
_CATEGORIES = 1_000


class FieldRecords(Dataset[dict[str, torch.Tensor]]):
    """Records of 13 numbers and 13 categories, a scalar tensor each, as click logs have."""

    def __init__(self, samples: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.numbers = torch.randn(1_024, _FIELDS, generator=generator)
        self.categories = torch.randint(_CATEGORIES, (1_024, _FIELDS), generator=generator)
        self.samples = samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = index % len(self.numbers)
        record = {f"number_{field}": self.numbers[row, field] for field in range(_FIELDS)}
        for field in range(_FIELDS):
            record[f"category_{field}"] = self.categories[row, field]
        return record


class DetectionScenes(Dataset[tuple[torch.Tensor, dict[str, torch.Tensor]]]):
    """Images `(3, 64, 64)`, each with 1 to 20 objects described by small tensors."""

    def __init__(self, samples: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.rand(64, 3, 64, 64, generator=generator)
        self.corners = torch.rand(64, 20, 2, generator=generator) * 32
        self.sides = torch.rand(64, 20, 2, generator=generator) * 31 + 1
        self.samples = samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        scene = index % len(self.images)
        objects = 1 + index % 20
        corners, sides = self.corners[scene, :objects], self.sides[scene, :objects]
        target = {
            "boxes": torch.cat([corners, corners + sides], dim=1),
            "labels": torch.arange(objects) % 90,
            "areas": sides.prod(dim=1),
            "crowded": torch.zeros(objects, dtype=torch.bool),
            "image_id": torch.tensor(index),
        }
        return self.images[scene], target


class ByteSequences(Dataset[tuple[torch.Tensor, int]]):
    """Stretches of Python's own library, byte by byte: int64 of 16 to 512 tokens, and a label."""

    def __init__(self, text: bytes, samples: int) -> None:
        self.tokens = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
        self.samples = samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        length = 16 + (index * 7_919) % 497
        start = (index * 104_729) % (len(self.tokens) - length)
        return self.tokens[start : start + length], index % 2


def collate_zipped(batch: list[tuple[Any, ...]]) -> tuple[tuple[Any, ...], ...]:
    """Turn a list of samples into a tuple of columns; nothing is stacked."""
    return tuple(zip(*batch, strict=True))


def collate_padded(batch: list[tuple[torch.Tensor, int]]) -> dict[str, torch.Tensor]:
    """Pad to the longest sequence: tokens `(batch, longest)`, lengths and labels `(batch,)`."""
    sequences, labels = zip(*batch, strict=True)
    return {
        "tokens": pad_sequence(list(sequences), batch_first=True),
        "lengths": torch.tensor([len(sequence) for sequence in sequences]),
        "labels": torch.tensor(labels),
    }


def fields(samples: int) -> Recipe:
    """Records of 26 fields."""
    return Recipe(FieldRecords(samples))


def detection(samples: int) -> Recipe:
    """Detection targets in lists of dicts."""
    return Recipe(DetectionScenes(samples), {"collate_fn": collate_zipped})


def tokens(samples: int) -> Recipe:
    """Byte sequences, padded."""
    return Recipe(ByteSequences(library_text(), samples), {"collate_fn": collate_padded})


def library_text() -> bytes:
    """Return the source text of Python's own library."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return b"".join(file.read_bytes() for file in files)
