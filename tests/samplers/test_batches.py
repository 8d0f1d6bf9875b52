"""Index batches in a compact form: torch's batches, draw for draw, and lists for everybody else."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
import torch.utils.data as torch_data
from hypothesis import given, settings
from hypothesis import strategies as st

import fastload
from fastload._wire.indices import Compact, pack, plain, unpack
from fastload.samplers.batches import compact
from tests.rounds import rounds

quick = settings(max_examples=rounds(12, 60), deadline=None, derandomize=True)


def left_after(make_pass, sampler_class, count: int, length: int, own: bool, batching, **options):
    """The first batches of a pass, and the generators as they are then."""
    torch.manual_seed(4)
    generator = torch.Generator().manual_seed(5)
    if own:
        options["generator"] = generator
    sampler = sampler_class(range(length), **options)
    batches = make_pass(torch_data.BatchSampler(sampler, *batching))
    taken = [plain(batch) for batch in islice(batches, count)]
    return taken, torch.get_rng_state().tolist(), generator.get_state().tolist()


@quick
@given(
    length=st.integers(1, 100),
    count=st.integers(0, 60),
    num_samples=st.none() | st.integers(1, 300),
    replacement=st.booleans(),
    own=st.booleans(),
    batching=st.tuples(st.integers(1, 50), st.booleans()),
)
def test_shuffled_batches_left_anywhere_are_torchs(
    length: int, count: int, num_samples, replacement: bool, own: bool, batching
) -> None:
    """The same batches, and what was drawn by then: not earlier, not later."""
    options = {"num_samples": num_samples, "replacement": replacement}
    ours = left_after(compact, fastload.RandomSampler, count, length, own, batching, **options)
    theirs = left_after(iter, torch_data.RandomSampler, count, length, own, batching, **options)
    assert ours == theirs


@quick
@given(length=st.integers(0, 100), size=st.integers(1, 50), drop_last=st.booleans())
def test_batches_in_order_are_torchs(length: int, size: int, drop_last: bool) -> None:
    """With and without a last batch that is not full."""
    sampler = torch_data.BatchSampler(torch_data.SequentialSampler(range(length)), size, drop_last)

    assert list(map(plain, compact(sampler))) == list(sampler)


@pytest.mark.parametrize(
    "sampler",
    [
        [[0, 1], [2]],
        type("Mine", (torch_data.BatchSampler,), {})(range(4), 2, False),
        torch_data.BatchSampler([3, 1, 2], 2, False),
        torch_data.BatchSampler(torch_data.RandomSampler(range(4)), 2, False),
        torch_data.BatchSampler(type("Mine", (fastload.RandomSampler,), {})(range(4)), 2, False),
    ],
    ids=["a list", "a subclass", "a list inside", "torch's own", "a subclass inside"],
)
def test_what_a_user_may_have_written_is_asked_itself(sampler) -> None:
    """Only exact types have a pass of ours."""
    assert compact(sampler) is None


@pytest.mark.parametrize(
    "indices",
    [
        Compact(np.array([3, 1, 2], np.int32)),
        Compact(np.array([2**40, 1], np.int64)),
        Compact(range(5, 9)),
        Compact(range(0)),
        [3, "a", (1, 2)],
        np.array([3, 1], np.int32),
        range(3, 9, 2),
        7,
        None,
    ],
    ids=repr,
)
def test_what_was_packed_is_unpacked(indices) -> None:
    """In its own type: an array of the user's stays an array."""
    found = unpack(pack(indices))

    assert type(found) is type(indices)
    assert repr(found) == repr(indices)
    assert type(plain(found)) is (list if isinstance(indices, Compact) else type(indices))


class Noting(torch_data.Dataset):
    """Gives back what it is asked for."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index):
        return type(index).__name__, index


class NotingAll(Noting):
    """The same, a batch at a time."""

    def __getitems__(self, indices):
        return [(type(indices).__name__, type(index).__name__, index) for index in indices]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("dataset", [Noting(), NotingAll()], ids=["one by one", "at once"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_dataset_is_asked_as_by_torch(dataset, shuffle: bool, workers: int) -> None:
    """With Python integers, in a list."""
    seen = []
    for module in (torch_data, fastload):
        torch.manual_seed(1)
        loader = module.DataLoader(
            dataset, batch_size=2, shuffle=shuffle, num_workers=workers, collate_fn=list
        )
        seen.append(list(loader))

    assert seen[0] == seen[1]


def test_a_batch_size_that_is_changed_holds_from_the_next_batch_on() -> None:
    """As torch's batch sampler reads it anew for each batch."""
    seen = []
    for module in (torch_data, fastload):
        torch.manual_seed(1)
        loader = module.DataLoader(range(20), batch_size=2, shuffle=True)
        batches = iter(loader)
        seen.append([next(batches).tolist()])
        loader.batch_sampler.batch_size = 5
        seen[-1] += [batch.tolist() for batch in batches]

    assert seen[0] == seen[1]


def test_a_slow_worker_is_reported_with_the_indices_of_its_batch() -> None:
    """As numbers, whatever form they have on the way."""
    loader = fastload.DataLoader(Dying(), batch_size=2, shuffle=False, num_workers=1)

    with pytest.raises(fastload.WorkerDied, match=r"dataset indices \[0, 1\]"):
        list(loader)


class Dying(Noting):
    """Ends its worker."""

    def __getitem__(self, index):
        import os

        os._exit(3)
