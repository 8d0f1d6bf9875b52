"""Batches that no slot can hold."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import Dataset

import fastload

ROW = torch.arange(3 << 18).float()


class Large(Dataset):
    """Tensors of both orders, an array by columns and bytes, all larger than a slot."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int):
        columns = np.asfortranarray(np.full((300, 1000), float(index)))
        return [ROW + index, columns, ROW.reshape(2, -1).t() + index, bytes([index]) * 3_000_000]


def test_what_is_larger_than_a_slot_arrives_whole_and_writable() -> None:
    """It is sent beside the message, and lies in memory of its own."""
    loader = fastload.DataLoader(
        Large(), batch_size=None, collate_fn=list, num_workers=2, memory_limit=1 << 20
    )

    for index, (row, columns, turned, text) in enumerate(loader):
        assert torch.equal(row, ROW + index)
        assert (columns == index).all()
        assert torch.equal(turned, ROW.reshape(2, -1).t() + index)
        assert text == bytes([index]) * 3_000_000
        row[0] = columns[0, 0] = 1
