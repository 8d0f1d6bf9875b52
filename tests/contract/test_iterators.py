"""Iterators: several at once, left early, used from threads and inside workers."""

import threading
import time

import pytest
import torch

from tests.rounds import rounds

from .datasets import Made, Numbers, Stamped, Stream, numbers_of
from .same import assert_same
from .ways import better_than_torch, every_way

HANG_S = 240


def test_iterator_is_its_own_iterator_with_the_loaders_length(make_loader):
    """iter(iterator) is the iterator, and len() counts all its batches."""
    iterator = iter(make_loader(Numbers(5), batch_size=2))
    assert iter(iterator) is iterator
    assert len(iterator) == 3
    next(iterator)
    assert len(iterator) == 3
    assert numbers_of(iterator) == [[2, 3], [4]]


def test_exhausted_iterator_stays_exhausted(make_loader):
    """After the end, next() raises StopIteration again and again."""
    iterator = iter(make_loader(Numbers(4), batch_size=2))
    list(iterator)
    for _ in range(3):
        with pytest.raises(StopIteration):
            next(iterator)


@every_way
def test_epoch_left_early_does_not_touch_the_next(make_loader):
    """After a break the next epoch begins at its beginning and is whole."""
    loader = make_loader(Numbers(30), batch_size=2)
    for stop in (0, 3):
        for number, batch in enumerate(loader):
            assert batch.tolist() == [2 * number, 2 * number + 1]
            if number == stop:
                break
        del batch
    assert numbers_of(loader) == [[k, k + 1] for k in range(0, 30, 2)]


def test_many_epochs_left_early_are_cheap_and_correct(way, make_loader):
    """Each begins at its beginning; where each starts workers, a few of them must do."""
    loader = make_loader(Numbers(30), batch_size=2)
    epochs = rounds(200, 1000) if way.is_persistent or not way.has_workers else rounds(10, 25)
    for _ in range(epochs):
        for batch in loader:
            assert batch.tolist() == [0, 1]
            break
    assert len(list(loader)) == 15


def test_stream_left_early_does_not_touch_the_next(make_loader, make_reference):
    """A stream that was left early starts anew."""
    loader = make_loader(Stream(30), batch_size=2)
    for _ in range(2):
        next(iter(loader))
    assert numbers_of(loader) == numbers_of(make_reference(Stream(30), batch_size=2))


def test_iterator_that_was_never_used_harms_nobody(make_loader):
    """An iterator may be made and dropped without a single batch."""
    loader = make_loader(Numbers(9), batch_size=3)
    for _ in range(3):
        iter(loader)
    assert len(list(loader)) == 3


def test_two_iterators_of_one_loader_are_independent(way, make_loader):
    """Two live iterators without persistent workers each give the whole epoch."""
    if way.is_persistent:
        pytest.skip("torch hands out one iterator, which the second iter() starts anew")
    loader = make_loader(Stamped(12), batch_size=2)
    one, other = iter(loader), iter(loader)
    first = [next(one), next(one)]
    whole = list(other)
    first += list(one)
    assert_same(first, whole)
    assert [int(batch[0, 0]) for batch in whole] == [0, 2, 4, 6, 8, 10]


def test_persistent_iterator_is_started_anew(way, make_loader):
    """With persistent workers iter() gives an iterator at the beginning of an epoch."""
    if not way.is_persistent:
        pytest.skip("persistent workers only")
    loader = make_loader(Numbers(8), batch_size=2)
    next(iter(loader))
    assert numbers_of(iter(loader)) == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_nested_loops_over_two_loaders_do_not_mix(make_loader):
    """A loop over one loader inside a loop over another gets its own batches."""
    outer = make_loader(Stamped(6), batch_size=2)
    inner = make_loader(Stamped(4, shape=(5,)), batch_size=4)
    seen = []
    for number, batch in enumerate(outer):
        for other in inner:
            assert_same(other[:, 0], torch.arange(4.0))
            seen.append(number)
        assert_same(batch[:, 0], torch.tensor([2.0 * number, 2.0 * number + 1]))
    assert seen == [0, 1, 2]


def test_zipped_loaders_stay_in_step(make_loader):
    """Two loaders in one zip give pairs of the same number."""
    pairs = list(zip(make_loader(Numbers(20)), make_loader(Stamped(20)), strict=True))
    assert all(int(number) == int(stamped[0, 0]) for number, stamped in pairs)
    assert len(pairs) == 20


def _run_in_threads(*targets):
    """Run functions in threads; re-raise what they raise, fail if they hang."""
    errors = []

    def guarded(target):
        try:
            target()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(t,), daemon=True) for t in targets]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + HANG_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    if errors:
        raise errors[0]


def test_whole_epoch_in_another_thread_is_the_same(make_loader):
    """The consumer may be any thread."""
    loader = make_loader(Numbers(10), batch_size=2)
    seen = []
    _run_in_threads(lambda: seen.extend(numbers_of(loader)))
    assert seen == [[k, k + 1] for k in range(0, 10, 2)]


def test_iterator_outlives_the_thread_that_made_it(make_loader):
    """Workers do not end with the thread that started them."""
    loader = make_loader(Numbers(40), batch_size=2)
    made = []

    def start():
        iterator = iter(loader)
        next(iterator)
        made.append(iterator)

    _run_in_threads(start)
    assert numbers_of(made.pop()) == [[k, k + 1] for k in range(2, 40, 2)]


def test_loaders_in_several_threads_do_not_mix(make_loader):
    """Each thread with a loader of its own gets its own batches."""
    loaders = [make_loader(Stamped(20, shape=(3,)), batch_size=2) for _ in range(3)]
    results = [[], [], []]
    _run_in_threads(
        *(
            lambda loader=loader, result=result: result.extend(loader)
            for loader, result in zip(loaders, results, strict=True)
        )
    )
    for result in results:
        assert [int(batch[0, 0]) for batch in result] == list(range(0, 20, 2))


@better_than_torch(
    "threads hang with workers, and may meet a running generator without", inline_too=True
)
def test_threads_sharing_an_iterator_get_each_batch_once(make_loader):
    """Several threads that take from one iterator share its batches out."""
    iterator = iter(make_loader(Numbers(400), batch_size=2))
    taken = []

    def take():
        for batch in iterator:
            taken.append(batch.tolist())

    _run_in_threads(take, take, take, take)
    assert sorted(taken) == [[k, k + 1] for k in range(0, 400, 2)]


@better_than_torch("torch's workers are daemonic and may not have children")
def test_loader_inside_a_worker_works(way, make_loader):
    """A dataset may use a loader with workers of its own."""

    def summed(index):
        with_worker = way.loader_class(Numbers(index + 2), batch_size=2, num_workers=1)
        return sum(int(batch.sum()) for batch in with_worker)

    loader = make_loader(Made(4, summed), batch_size=2)
    assert numbers_of(loader) == [[1, 3], [6, 10]]
