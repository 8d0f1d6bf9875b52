"""What programs take the liberty to do with datasets, samplers and torch's registry."""

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, StackDataset, Subset, TensorDataset
from torch.utils.data._utils import collate as torch_collate
from torch.utils.data.datapipes.iter import IterableWrapper

from .same import assert_same
from .ways import AS_RETURNED, SHARED, one_epoch, with_workers


def same(make_loader, make_reference, make_dataset, **options):
    """Two epochs of both loaders, each with a dataset of its own and from the same seed."""
    found = []
    for make in (make_reference, make_loader):
        torch.manual_seed(0)
        loader = make(make_dataset(), **options)
        found.append([list(loader), list(loader), torch.rand(2)])
    assert_same(found[1], found[0])


class IsItsOwnIterator(IterableDataset):
    """Begins anew whenever somebody asks for an iterator."""

    def __iter__(self):
        self.number = 0
        return self

    def __next__(self):
        if self.number == 5:
            raise StopIteration
        self.number += 1
        return self.number


class Bare(IterableDataset):
    """Its iterator can't be asked for an iterator."""

    def __iter__(self):
        class Numbers:
            number = 0

            def __next__(self):
                if self.number == 5:
                    raise StopIteration
                self.number += 1
                return self.number

        return Numbers()


@pytest.mark.parametrize("make_dataset", [IsItsOwnIterator, Bare])
@SHARED
def test_an_iterator_is_asked_for_samples_only(make_loader, make_reference, make_dataset):
    """Never for an iterator again."""
    same(make_loader, make_reference, make_dataset, batch_size=2)


def test_a_shuffled_datapipe_comes_in_torchs_order(make_loader, make_reference):
    """Whichever seed torch's workers get, in each epoch."""
    same(
        make_loader,
        make_reference,
        lambda: IterableWrapper(range(10)).shuffle(),
        batch_size=3,
    )


def test_batches_of_indices_need_no_length(make_loader, make_reference):
    """It is enough that they can be iterated over."""
    for make in (make_reference, make_loader):
        loader = make(range(6), batch_sampler=[iter([0, 1]), iter([2, 3])])
        assert [batch.tolist() for batch in loader] == [[0, 1], [2, 3]]


@one_epoch
@pytest.mark.parametrize(
    "change",
    [
        lambda loader, data: data.append(0) if len(data) < 9 else None,
        lambda loader, data: setattr(loader.batch_sampler, "batch_size", 3),
        lambda loader, data: setattr(loader.batch_sampler, "batch_size", 0),
        lambda loader, data: setattr(loader.batch_sampler, "drop_last", True),
        lambda loader, data: setattr(loader.batch_sampler, "drop_last", False),
    ],
    ids=["longer", "batch_size=3", "batch_size=0", "drop_last=True", "drop_last=False"],
)
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_what_changes_during_an_epoch_counts_as_with_torch(
    make_loader, make_reference, change, shuffle, drop_last
):
    """When torch's samplers look at it."""
    found = []
    for make in (make_reference, make_loader):
        torch.manual_seed(0)
        data = list(range(7))
        loader = make(data, batch_size=2, shuffle=shuffle, drop_last=drop_last)
        batches = []
        for batch in loader:
            batches.append(batch)
            change(loader, data)
            if len(batches) > 20:
                break
        found.append(batches)
    assert_same(found[1], found[0])


REPLACED = {
    "tensors of a TensorDataset": lambda new: (
        TensorDataset(torch.arange(8.0)),
        lambda dataset: setattr(dataset, "tensors", (new,)),
    ),
    "indices of a Subset": lambda new: (
        Subset(torch.arange(8.0), range(8)),
        lambda dataset: setattr(dataset, "indices", list(reversed(range(8)))),
    ),
    "dataset of a Subset": lambda new: (
        Subset(torch.arange(8.0), range(8)),
        lambda dataset: setattr(dataset, "dataset", new),
    ),
    "part of a StackDataset": lambda new: (
        StackDataset(one=torch.arange(8.0)),
        lambda dataset: dataset.datasets.update(one=new),
    ),
    "memory of a tensor": lambda new: (
        torch.arange(8.0),
        lambda dataset: dataset.set_(new),
    ),
}


@one_epoch
@pytest.mark.parametrize("name", REPLACED)
def test_what_a_dataset_is_made_of_may_be_replaced_meanwhile(make_loader, make_reference, name):
    """The next batch shows it without workers, and none of this epoch with them."""
    found = []
    for make in (make_reference, make_loader):
        dataset, replace = REPLACED[name](torch.arange(100.0, 108.0))
        batches = []
        for batch in make(dataset, batch_size=2, persistent_workers=False):
            batches.append(batch)
            replace(dataset)
        found.append(batches)
    assert_same(found[1], found[0])


@pytest.fixture
def registry():
    """Torch's registry, as it was again after the test."""
    registry = torch_collate.default_collate_fn_map
    before = dict(registry)
    yield registry
    registry.clear()
    registry.update(before)


def test_a_users_kernel_for_tensors_gets_arrays_too(make_loader, make_reference, registry):
    """As torch makes tensors of arrays and collates these."""
    registry[torch.Tensor] = lambda batch, *, collate_fn_map=None: len(batch)

    same(make_loader, make_reference, lambda: [np.ones(2)] * 4, batch_size=2)


class Point:
    """Known to the user's kernel alone."""

    def __init__(self, number: float) -> None:
        self.tensor = torch.full((2,), number)


@SHARED
def test_a_users_kernel_may_keep_what_it_collates(make_loader, make_reference, registry):
    """The memory of its tensors is nobody else's."""

    def add_up(batch, *, collate_fn_map=None):
        columns = [point.tensor for point in batch]
        add_up.kept.append(torch_collate.collate(columns, collate_fn_map=collate_fn_map))
        return torch.stack([tensor.sum() for tensor in add_up.kept])

    registry[Point] = add_up
    found = []
    for make in (make_reference, make_loader):
        add_up.kept = []
        points = [Point(float(number)) for number in range(16)]
        found.append(list(make(points, batch_size=2)))
    assert_same(found[1], found[0])


class Keeping(dict):
    """A mapping of the user's that remembers all it was ever given."""

    ever: list = []  # noqa: RUF012  (that is the point)

    def update(self, values):
        super().update(values)
        self.ever.append(values["x"])
        super().update(sums=torch.stack([kept.sum() for kept in self.ever]))


@with_workers
@SHARED
def test_a_users_container_may_keep_what_it_is_given(make_loader, make_reference):
    """Also for longer than a batch."""
    found = []
    for make in (make_reference, make_loader):
        Keeping.ever = []
        samples = [Keeping(x=torch.full((2,), float(number))) for number in range(16)]
        found.append([dict(batch) for batch in make(samples, batch_size=2)])
    assert_same(found[1], found[0])


ROWS = np.arange(4 * 2 * 6 * 5 * 3, dtype=np.float32).reshape(4, 2, 6, 5, 3)


@one_epoch
@pytest.mark.parametrize(
    "make_dataset",
    [
        lambda: list(ROWS.transpose(0, 1, 4, 2, 3)),
        lambda: ROWS.transpose(0, 1, 4, 2, 3),
        lambda: torch.from_numpy(ROWS.transpose(0, 1, 4, 2, 3)),
        lambda: TensorDataset(torch.from_numpy(ROWS.transpose(0, 1, 4, 2, 3))),
        lambda: list(ROWS[:, 0].transpose(0, 3, 1, 2)),
        lambda: torch.from_numpy(ROWS[:, 0].transpose(0, 3, 1, 2)),
    ],
)
@AS_RETURNED
def test_channels_last_samples_keep_their_format(make_loader, make_reference, make_dataset):
    """As far as torch keeps it."""
    for ours, torchs in zip(
        make_loader(make_dataset(), batch_size=2),
        make_reference(make_dataset(), batch_size=2),
        strict=True,
    ):
        if isinstance(ours, list):
            (ours,), (torchs,) = ours, torchs
        assert_same(ours, torchs)
        assert ours.stride() == torchs.stride()


class CountsBatches(Dataset):
    """Has a method of the name of one of ours."""

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index):
        return index

    def count_batches(self):
        raise AssertionError("this is nobody's business")


def test_a_datasets_own_names_mean_nothing_to_the_loader(make_loader):
    """Its length is that of torch's loader."""
    assert len(make_loader(CountsBatches(), batch_size=2)) == 5


@pytest.mark.parametrize("sample", [1.5, 3, np.float32(2), np.ones(3), True], ids=repr)
def test_a_default_device_is_where_batches_are_made(sample):
    """Without workers; the registry's kernels make tensors as the program asked for."""
    import fastload

    iterators = [
        iter(module.DataLoader([sample] * 2, batch_size=2))
        for module in (torch.utils.data, fastload)
    ]
    with torch.device("meta"):
        found = [next(iterator) for iterator in iterators]
    assert found[0].device == found[1].device == torch.device("meta")
    assert found[0].dtype == found[1].dtype
    assert found[0].shape == found[1].shape
