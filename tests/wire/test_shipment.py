"""A shared pickle: made once, opened by every worker, large things mapped and not copied."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from fastload import DataLoader
from fastload._wire.shipment import NeedsInheritanceError, SharedPickle
from tests.start_methods import ANEW


def through_a_shared_pickle(content):
    """Pack and open in this process; a second descriptor, as a started process would have."""
    shared = SharedPickle.pack(content)
    shared._descriptor.number = os.dup(number := shared._descriptor.number)
    os.close(number)
    return shared.open()


def test_tensors_and_arrays_arrive_equal() -> None:
    """With their strides, dtypes and what surrounds them."""
    base = torch.arange(24.0).reshape(4, 6)
    content = {
        "tensor": base,
        "transposed": base.t(),
        "view": base[1:3, ::2],
        "grad": torch.ones(3, requires_grad=True),
        "empty": torch.empty(0, 3),
        "complex": torch.tensor([1 + 2j]),
        "conjugate": torch.tensor([1 + 2j]).conj(),
        "negative": torch.tensor([1 + 2j]).conj().imag,
        "sparse": torch.eye(3).to_sparse(),
        "array": np.arange(10),
        "columns": np.asfortranarray(np.ones((3, 4))),
        "text": "text",
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    opened = through_a_shared_pickle(content)
    for name, value in content.items():
        other = opened[name]
        assert type(other) is type(value), name
        if isinstance(value, torch.Tensor):
            assert torch.equal(other.to_dense(), value.to_dense()), name
            assert other.requires_grad == value.requires_grad, name
        else:
            assert np.array_equal(other, value), name
    assert opened["transposed"].stride() == base.t().stride()


def test_views_of_one_tensor_still_share_it() -> None:
    """The storage is packed once."""
    base = torch.arange(6.0)
    opened = through_a_shared_pickle([base, base[2:]])
    opened[0][2] = 100
    assert opened[1][0] == 100


def test_what_a_worker_writes_stays_its_own() -> None:
    """As with a pickled copy; the original is untouched."""
    original = torch.zeros(4)
    opened = through_a_shared_pickle([original, np.zeros(4)])
    opened[0].fill_(1)
    opened[1][:] = 1
    assert original.sum() == 0


@pytest.mark.parametrize("make", [multiprocessing.Lock, lambda: torch.zeros(3).share_memory_()])
def test_what_must_be_inherited_is_not_packed(make) -> None:
    """Locks and shared tensors go the way torch sends them."""
    with pytest.raises((RuntimeError, NeedsInheritanceError)):
        SharedPickle.pack(make())


class OpensNowhere(list):
    """A dataset that can be pickled and not unpickled."""

    def __reduce__(self):
        return _fail, ()


def _fail():
    raise ZeroDivisionError("this class opens nowhere")


def test_dataset_that_a_worker_cannot_unpickle_raises_in_the_consumer() -> None:
    """With the error itself, where torch's worker only exits."""
    loader = DataLoader(OpensNowhere([1, 2]), num_workers=1, multiprocessing_context="spawn")
    with pytest.raises(ZeroDivisionError, match="opens nowhere"):
        next(iter(loader))


def test_the_default_device_does_not_matter() -> None:
    """Tensors are packed and unpacked on the CPU, where their bytes are."""
    rows = torch.arange(6.0).reshape(2, 3)
    torch.set_default_device("meta")
    try:
        opened = SharedPickle.pack({"rows": rows.T, "same": rows}).open()
    finally:
        torch.set_default_device(None)
    assert torch.equal(opened["rows"], rows.T)
    assert torch.equal(opened["same"], rows)


class CountsPickles:
    """A dataset of 8 MiB whose samples say which mapping of their process it lies in."""

    pickles = 0

    def __init__(self) -> None:
        self.rows = torch.arange(1 << 20)

    def __getstate__(self):
        CountsPickles.pickles += 1
        return self.__dict__

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[int, str]:
        for line in Path("/proc/self/maps").read_text().splitlines():
            begin, end = (int(address, 16) for address in line.split()[0].split("-"))
            if begin <= self.rows.data_ptr() < end:
                return int(self.rows[index]), line
        raise AssertionError


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memfd")
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks into /proc")
@pytest.mark.parametrize("method", ANEW)
def test_the_dataset_is_pickled_once_for_all_workers(method: str) -> None:
    """And each of them maps its tensors, where torch pickles and copies them for each."""
    CountsPickles.pickles = 0
    loader = DataLoader(
        CountsPickles(), batch_size=None, num_workers=3, multiprocessing_context=method
    )
    samples = list(loader)
    assert CountsPickles.pickles == 1
    assert [row for row, _ in samples] == list(range(12))
    assert all(line.endswith("/memfd:fastload (deleted)") for _, line in samples)
