"""Which samples come in which batch, for datasets that are iterated."""

import random
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import ChainDataset, IterableDataset

from .datasets import SizedStream, Stream, UnevenStream, keep, numbers_of
from .same import assert_same
from .ways import GLOBAL_DRAWS, SHARED, every_way, with_workers


@pytest.mark.parametrize("is_shared_out", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_streams_come_in_torchs_order(
    make_loader, make_reference, batch_size, drop_last, is_shared_out
):
    """Workers take turns as torch's do, whoever ends first, in each epoch."""
    if batch_size is None and drop_last:
        pytest.skip("torch refuses this combination")
    options = {"batch_size": batch_size, "drop_last": drop_last}
    dataset = Stream(11, is_shared_out=is_shared_out)
    expected = list(make_reference(dataset, **options))
    loader = make_loader(dataset, **options)
    assert_same(list(loader), expected)
    assert_same(list(loader), expected)


@every_way
def test_shared_out_stream_gives_everything_once(make_loader):
    """Workers that share a stream out give each number once."""
    loader = make_loader(Stream(10, is_shared_out=True), batch_size=2)
    assert sorted(n for batch in loader for n in batch.tolist()) == list(range(10))


@with_workers
@pytest.mark.parametrize("lengths", [(0, 9), (9, 0), (1, 20), (20, 1), (0, 0), (5, 5)])
def test_uneven_workers_come_in_torchs_order(make_loader, make_reference, lengths):
    """A worker that ended gets no more turns, and the other goes on."""
    expected = numbers_of(make_reference(UnevenStream(lengths), batch_size=2))
    loader = make_loader(UnevenStream(lengths), batch_size=2)
    assert [numbers_of(loader) for _ in range(2)] == [expected, expected]


@with_workers
def test_out_of_order_stream_gives_the_same_batches(make_loader, make_reference):
    """With in_order=False uneven workers give the same batches, in whatever order."""
    expected = numbers_of(make_reference(UnevenStream((3, 30)), batch_size=2))
    loader = make_loader(UnevenStream((3, 30)), batch_size=2, in_order=False)
    for _ in range(2):
        assert sorted(numbers_of(loader)) == sorted(expected)


def test_exhausted_stream_stays_exhausted(make_loader):
    """After the end, next() raises StopIteration again and again."""
    iterator = iter(make_loader(Stream(2), batch_size=2))
    list(iterator)
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(iterator)


def test_length_of_a_sized_stream_is_its_number_of_batches(make_loader):
    """The length is what the dataset claims, divided by the batch size as torch rounds."""
    assert len(make_loader(SizedStream(7), batch_size=3)) == 3
    assert len(make_loader(SizedStream(7), batch_size=3, drop_last=True)) == 2
    assert len(make_loader(SizedStream(7), batch_size=None)) == 7


def test_length_of_an_unsized_stream_is_a_type_error(make_loader):
    """A stream without length makes a loader without length."""
    with pytest.raises(TypeError):
        len(make_loader(Stream(7)))


class _Liar(IterableDataset):
    def __len__(self):
        return 2

    def __iter__(self):
        return iter(range(4))


def test_longer_stream_than_claimed_warns_as_torch(way, make_loader):
    """Once len() was asked, each sample beyond it brings torch's warning."""
    options = {"num_workers": 1} if way.has_workers else {}
    loader = make_loader(_Liar(), batch_size=None, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(loader) == [0, 1, 2, 3]
    assert len(loader) == 2
    with pytest.warns(UserWarning, match="was reported to be 2") as caught:
        assert list(loader) == [0, 1, 2, 3]
    assert len(caught) == 2


def test_shorter_stream_than_claimed_ends_where_it_ends(make_loader):
    """A length that promises too much changes nothing, and warns of nothing."""

    class Boaster(Stream):
        def __len__(self):
            return 100

    loader = make_loader(Boaster(4, is_shared_out=True), batch_size=2)
    assert len(loader) == 50
    assert sorted(n for batch in loader for n in batch.tolist()) == [0, 1, 2, 3]


class _Drawn(IterableDataset):
    """Random numbers of each library."""

    def __iter__(self):
        for _ in range(5):
            yield torch.rand(1), np.random.rand(1), random.random()


@GLOBAL_DRAWS
def test_streams_draw_torchs_numbers(make_loader, make_reference):
    """In the workers and without, in each epoch."""

    def drawn(make):
        torch.manual_seed(5)
        np.random.seed(5)
        random.seed(5)
        loader = make(_Drawn(), batch_size=2)
        return [list(loader), list(loader)]

    assert_same(drawn(make_loader), drawn(make_reference))


def test_generator_function_as_dataset_is_streamed(make_loader):
    """`__iter__` may be a generator, and samples may be tensors."""

    class Generated(IterableDataset):
        def __iter__(self):
            for number in range(3):
                yield torch.full((2,), float(number))

    loader = make_loader(ChainDataset([Generated(), Generated()]), batch_size=3)
    first = next(iter(loader))
    assert_same(first, torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]))


@SHARED
def test_stream_that_is_its_own_iterator_continues(make_loader, make_reference):
    """A dataset object that is its own iterator behaves in the next epoch as with torch."""

    class Counter(IterableDataset):
        def __init__(self):
            self.number = 0

        def __iter__(self):
            return self

        def __next__(self):
            self.number += 1
            if self.number % 4 == 0:
                raise StopIteration
            return self.number

    reference, loader = (
        make_reference(Counter(), collate_fn=keep),
        make_loader(Counter(), collate_fn=keep),
    )
    assert [list(loader) for _ in range(3)] == [list(reference) for _ in range(3)]
