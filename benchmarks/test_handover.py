"""What does it cost to hand over one batch that is ready, by the number of its tensors?

    pytest benchmarks/test_handover.py --benchmark-only

One worker, no sample to make and nothing to collate: what is left is the way from the worker to
the consumer. Caveats: worker and consumer share two cores and wake each other for each batch, so
the figure is a round trip, not throughput of a loaded pipeline; torch beside us in the same run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.utils.data
from torch.utils.data import Dataset

import fastload

LOADERS = {"fastload": fastload.DataLoader, "torch": torch.utils.data.DataLoader}


class Ready(Dataset[Any]):
    """The same batch again and again."""

    def __init__(self, tensors: int) -> None:
        self._batch = [torch.full((4,), float(number)) for number in range(tensors)]

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        return self._batch


@pytest.fixture
def iterator(tensors: int, loader: str) -> Iterator[Any]:
    """An iterator whose worker has started."""
    batches = iter(LOADERS[loader](Ready(tensors), batch_size=None, num_workers=1))
    assert [t.tolist() for t in next(batches)] == [t.tolist() for t in Ready(tensors)[0]]
    yield batches
    batches._shutdown_workers()  # type: ignore[attr-defined]


@pytest.mark.parametrize("tensors", [1, 20, 128])
@pytest.mark.parametrize("loader", sorted(LOADERS))
def test_handover(benchmark: Any, iterator: Iterator[Any], tensors: int, loader: str) -> None:
    """Time one ``next``."""
    benchmark.group = f"{tensors} tensors of four numbers"
    del loader
    benchmark.pedantic(
        lambda: next(iterator), rounds=2000 if tensors < 100 else 300, warmup_rounds=20
    )
