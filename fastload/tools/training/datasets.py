"""Real data for the reference training: handwritten digits, and text of Python's own library.

Runs in: worker (or the consumer, without workers).
Takes: an index.
Gives: one sample; training samples are changed at random by torch's, NumPy's and Python's global
    generators, which a loader has to seed in every worker.
"""

import random
import sysconfig
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

PACKAGES = (
    "asyncio",
    "email",
    "encodings",
    "http",
    "importlib",
    "multiprocessing",
    "unittest",
    "xml",
)
PADDING = 0
UNKNOWN = 257
TOKENS = 258  # padding, 256 byte values shifted by one, unknown


class AugmentedDigits(Dataset[tuple[torch.Tensor, int]]):
    """Digits as images `(1, 8, 8)` in [0, 1]; in training shifted by up to a pixel, with noise."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, *, augment: bool) -> None:
        self.images = images
        self.labels = labels
        self.augment = augment

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image, label = self.images[index], int(self.labels[index])
        return (_shift_with_noise(image) if self.augment else image), label


class Snippets(Dataset[tuple[torch.Tensor, int]]):
    """Stretches of source text as bytes `(24..160,)` of int64, each with its package's number.

    In training a sample is cut out at random and loses one byte in twenty; otherwise it depends on
    its index alone.
    """

    def __init__(self, texts: tuple[torch.Tensor, ...], samples: int, *, augment: bool) -> None:
        self.texts = texts
        self.samples = samples
        self.augment = augment

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        label = index % len(self.texts)
        text = self.texts[label]
        if not self.augment:
            length = 24 + index * 7_919 % 137
            start = index * 104_729 % (len(text) - length)
            return text[start : start + length].long() + 1, label
        length = random.randint(24, 160)
        start = int(np.random.randint(len(text) - length))
        tokens = text[start : start + length].long() + 1
        return tokens.masked_fill(torch.rand(length, device="cpu") < 0.05, UNKNOWN), label


def load_digits() -> tuple[AugmentedDigits, AugmentedDigits]:
    """Return scikit-learn's 1,797 digits: for training, and every fifth one held out."""
    from sklearn import datasets

    bunch = datasets.load_digits()
    images = torch.from_numpy((bunch.images[:, None] / 16).astype(np.float32))
    labels = torch.from_numpy(bunch.target).long()
    held_out = torch.arange(len(labels), device="cpu") % 5 == 0
    return (
        AugmentedDigits(images[~held_out], labels[~held_out], augment=True),
        AugmentedDigits(images[held_out], labels[held_out], augment=False),
    )


def load_snippets() -> tuple[Snippets, Snippets]:
    """Return snippets of `PACKAGES`: for training, and from each one's last fifth, held out."""
    texts = [_read_package(package) for package in PACKAGES]
    cuts = [len(text) * 4 // 5 for text in texts]
    training = tuple(text[:cut] for text, cut in zip(texts, cuts, strict=True))
    held_out = tuple(text[cut:] for text, cut in zip(texts, cuts, strict=True))
    return Snippets(training, 4_096, augment=True), Snippets(held_out, 1_024, augment=False)


def collate_snippets(
    batch: list[tuple[torch.Tensor, int]],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pad snippets: tokens and mask of text `(batch, longest)`, labels `(batch,)`."""
    snippets, labels = zip(*batch, strict=True)
    tokens = pad_sequence(list(snippets), batch_first=True, padding_value=PADDING)
    return tokens, tokens != PADDING, torch.tensor(labels, device="cpu")


def _shift_with_noise(image: torch.Tensor) -> torch.Tensor:
    down, right = random.randint(0, 2), int(np.random.randint(3))
    shifted = pad(image, (1, 1, 1, 1))[:, down : down + 8, right : right + 8]
    return shifted + 0.1 * torch.randn(1, 8, 8, device="cpu")


def _read_package(package: str) -> torch.Tensor:
    files = sorted(Path(sysconfig.get_path("stdlib"), package).rglob("*.py"))
    return torch.frombuffer(bytearray(b"".join(map(Path.read_bytes, files))), dtype=torch.uint8)
