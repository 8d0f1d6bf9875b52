"""Pinned batches; needs a CUDA device."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import Dataset

from fastload import DataLoader

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


class Stamped(Dataset):
    def __len__(self) -> int:
        return 256

    def __getitem__(self, index: int):
        return {"image": torch.full((3, 32, 32), float(index)), "label": index, "name": str(index)}


@pytest.mark.parametrize("workers", [0, 2])
def test_pinned_batches_are_pinned_and_equal(workers: int) -> None:
    """Every tensor lies in page-locked memory; strings stay strings."""
    for number, batch in enumerate(
        DataLoader(Stamped(), batch_size=8, num_workers=workers, pin_memory=True)
    ):
        assert batch["image"].is_pinned()
        assert batch["label"].is_pinned()
        assert batch["label"].tolist() == list(range(8 * number, 8 * number + 8))
        assert batch["name"] == [str(index) for index in batch["label"].tolist()]


def test_pinned_batches_copied_asynchronously_arrive_whole() -> None:
    """A block is not reused while a copy to the device still reads it."""
    on_device = [
        (batch["image"].to("cuda", non_blocking=True), batch["label"].to("cuda", non_blocking=True))
        for _ in range(20)
        for batch in DataLoader(Stamped(), batch_size=8, num_workers=2, pin_memory=True)
    ]
    torch.cuda.synchronize()
    for image, label in on_device:
        assert torch.equal(image[:, 0, 0, 0].long(), label)
