"""Which samples come in which batch, for datasets that are indexed."""

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, SubsetRandomSampler, TensorDataset

from .datasets import Made, Numbers, Stamped, keep, numbers_of
from .same import assert_same
from .ways import every_way


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("length", [0, 1, 6, 7])
def test_fixed_batch_size_cuts_the_dataset_in_order(make_loader, length, drop_last):
    """Batches are consecutive runs; the short last one comes unless it is dropped."""
    loader = make_loader(Numbers(length), batch_size=3, drop_last=drop_last)
    runs = [list(range(start, min(start + 3, length))) for start in range(0, length, 3)]
    if drop_last:
        runs = [run for run in runs if len(run) == 3]
    assert numbers_of(loader) == runs
    assert len(loader) == len(runs)


@every_way
def test_stamped_samples_arrive_in_order(make_loader):
    """Batch k holds rows stamped with its indices, several epochs in a row."""
    loader = make_loader(Stamped(20), batch_size=4)
    for _ in range(2):
        for number, batch in enumerate(loader):
            rows = [torch.full((16,), float(index)) for index in range(4 * number, 4 * number + 4)]
            assert_same(batch, torch.stack(rows))
        assert number == 4


def test_batch_size_none_gives_single_samples(make_loader):
    """Without automatic batching each sample comes alone, converted as torch converts."""
    loader = make_loader(Made(4, lambda k: {"a": np.full(2, k), "b": k}), batch_size=None)
    expected = [{"a": torch.full((2,), k), "b": k} for k in range(4)]
    assert_same(list(loader), expected)


def test_batch_size_none_with_sampler_follows_it(make_loader):
    """A sampler orders single samples too."""
    loader = make_loader(Numbers(6), batch_size=None, sampler=[5, 0, 3])
    assert list(loader) == [5, 0, 3]
    assert len(loader) == 3


def test_sampler_decides_the_order(make_loader):
    """Any iterable with a length may be the sampler, and repeats are loaded again."""
    loader = make_loader(Numbers(10), batch_size=2, sampler=[9, 1, 1, 4, 0])
    assert numbers_of(loader) == [[9, 1], [1, 4], [0]]
    assert len(loader) == 3


def test_batch_sampler_decides_the_batches(make_loader):
    """Each thing that the batch sampler yields is one batch, whatever its size."""
    batches = [[3], [1, 2, 0], [4, 4]]
    loader = make_loader(Numbers(5), batch_sampler=batches)
    assert numbers_of(loader) == batches
    assert len(loader) == 3
    assert loader.batch_size is None


def test_batch_sampler_yielding_tuples_and_tensors_is_followed(make_loader):
    """A batch of indices may be a tuple, a tensor or an array."""
    batches = [(1, 2), torch.tensor([3, 0]), np.array([4])]
    loader = make_loader(Numbers(5), batch_sampler=batches)
    assert numbers_of(loader) == [[1, 2], [3, 0], [4]]


class _Kinds(Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return type(index).__name__, repr(index)


@pytest.mark.parametrize(
    "indices",
    [
        lambda: [torch.tensor(0), torch.tensor(2)],  # Torch moves them into shared memory.
        lambda: [np.int64(1), np.int32(0)],
        lambda: ["one", "two"],
        lambda: [("shard", 3), ("shard", 4)],
        lambda: [-1, True, None],
        lambda: [[0, 1], [1, 2]],
    ],
    ids=["tensors", "numpy-integers", "strings", "tuples", "odd", "lists"],
)
def test_sampler_may_yield_anything(make_loader, indices):
    """The dataset receives exactly the objects that the sampler yields."""
    expected = [[(type(index).__name__, repr(index))] for index in indices()]
    assert list(make_loader(_Kinds(), sampler=indices(), collate_fn=keep)) == expected


class _Many(Numbers):
    def __getitems__(self, indices):
        return [1000 + index for index in indices]


def test_getitems_is_used_for_batches(make_loader):
    """A dataset that fetches many samples at once is asked for many at once."""
    assert numbers_of(make_loader(_Many(4), batch_size=2)) == [[1000, 1001], [1002, 1003]]
    assert list(make_loader(_Many(2), batch_size=None)) == [0, 1]


class _NoMany(Numbers):
    __getitems__ = None


def test_getitems_set_to_none_is_not_used(make_loader):
    """A class that takes `__getitems__` back is asked for single samples."""
    assert numbers_of(make_loader(_NoMany(4), batch_size=2)) == [[0, 1], [2, 3]]


@pytest.mark.parametrize("shuffle", [False, True])
def test_tensor_dataset_equals_torch(make_loader, make_reference, shuffle):
    """TensorDataset gives torch's batches in torch's order."""
    dataset = TensorDataset(torch.arange(30.0).view(10, 3), torch.arange(10))
    options = {"batch_size": 4, "shuffle": shuffle}
    torch.manual_seed(3)
    expected = list(make_reference(dataset, **options))
    torch.manual_seed(3)
    assert_same(list(make_loader(dataset, **options)), expected)


def test_shuffled_epochs_follow_torch(make_loader, make_reference):
    """The same seed gives torch's permutation, epoch after epoch."""
    torch.manual_seed(7)
    reference = make_reference(Numbers(20), batch_size=3, shuffle=True)
    expected = [numbers_of(reference) for _ in range(3)]
    torch.manual_seed(7)
    loader = make_loader(Numbers(20), batch_size=3, shuffle=True)
    assert [numbers_of(loader) for _ in range(3)] == expected


def test_own_generator_decides_the_permutation(make_loader, make_reference):
    """A generator of one's own shuffles as with torch."""
    subset = range(3, 11)
    for options in (
        lambda g: {"shuffle": True, "generator": g},
        lambda g: {"sampler": SubsetRandomSampler(subset, generator=g)},
    ):
        expected = numbers_of(
            make_reference(Numbers(20), batch_size=3, **options(torch.Generator().manual_seed(1)))
        )
        loader = make_loader(Numbers(20), batch_size=3, **options(torch.Generator().manual_seed(1)))
        assert numbers_of(loader) == expected


def test_out_of_order_gives_the_same_batches(make_loader):
    """With in_order=False every batch comes once, in whatever order."""
    loader = make_loader(Numbers(41), batch_size=4, in_order=False)
    for _ in range(2):
        expected = [list(range(start, min(start + 4, 41))) for start in range(0, 41, 4)]
        assert sorted(numbers_of(loader)) == expected


@pytest.mark.parametrize("prefetch", [1, 5])
def test_prefetch_factor_changes_no_batch(way, make_loader, prefetch):
    """However many batches are loaded ahead, the same ones come."""
    options = {"prefetch_factor": prefetch} if way.has_workers else {}
    loader = make_loader(Numbers(23), batch_size=2, **options)
    expected = [list(range(start, min(start + 2, 23))) for start in range(0, 23, 2)]
    assert [numbers_of(loader) for _ in range(2)] == [expected, expected]


def test_more_workers_than_batches_changes_nothing(way, make_loader):
    """Workers that get no batch harm nobody."""
    options = {"num_workers": 4} if way.has_workers else {}
    assert numbers_of(make_loader(Numbers(3), batch_size=2, **options)) == [[0, 1], [2]]


def test_collate_function_receives_the_list_of_samples(make_loader):
    """What the collate function returns is the batch."""
    loader = make_loader(
        Numbers(5), batch_size=2, collate_fn=lambda samples: (type(samples), sum(samples))
    )
    assert list(loader) == [(list, 1), (list, 5), (list, 4)]


def test_collate_function_without_batching_receives_the_sample(make_loader):
    """With batch_size=None the collate function sees one sample."""
    loader = make_loader(Numbers(3), batch_size=None, collate_fn=lambda sample: -sample)
    assert list(loader) == [0, -1, -2]
