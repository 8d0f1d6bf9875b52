"""Random numbers: the consumer's generators and the workers' are torch's to the bit."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import Sampler, get_worker_info

from .datasets import Draws, Made, Numbers, Stream, keep
from .same import assert_same
from .ways import GLOBAL_DRAWS, every_way, with_workers

SEED = 20240607


def _seed_everything():
    torch.manual_seed(SEED)
    np.random.seed(SEED)
    random.seed(SEED)


def _states(*generators):
    """What all generators of this process would draw next."""
    return [
        torch.get_rng_state(),
        list(np.random.get_state(legacy=False)["state"].values()),
        random.getstate(),
        *[generator.get_state() for generator in generators],
    ]


def _trace(make, dataset, epochs=3, *, is_left_early=False, own_generator=False, **options):
    """States of the consumer's generators: made, started, one batch on, at each epoch's end."""
    _seed_everything()
    generator = torch.Generator().manual_seed(SEED)
    if own_generator:
        options["generator"] = generator
    loader = make(dataset, **options)
    trace = [_states(generator)]
    for _ in range(epochs):
        iterator = iter(loader)
        trace.append(_states(generator))
        next(iterator)
        trace.append(_states(generator))
        if not is_left_early:
            trace.append(list(iterator))
        trace.append(_states(generator))
    return trace


@pytest.mark.parametrize("own_generator", [False, True], ids=["global", "own"])
@pytest.mark.parametrize("shuffle", [False, True], ids=["in-order", "shuffled"])
def test_consumers_generators_move_as_with_torch(
    make_loader, make_reference, shuffle, own_generator
):
    """At every step of three epochs the consumer's generators stand where torch leaves them."""
    options = {"batch_size": 2, "shuffle": shuffle, "own_generator": own_generator}
    expected = _trace(make_reference, Numbers(9), **options)
    assert_same(_trace(make_loader, Numbers(9), **options), expected)


def test_generators_move_as_with_torch_when_epochs_are_left_early(make_loader, make_reference):
    """A broken epoch draws what torch draws."""
    options = {"batch_size": 2, "shuffle": True, "is_left_early": True}
    expected = _trace(make_reference, Numbers(40), **options)
    assert_same(_trace(make_loader, Numbers(40), **options), expected)


def test_generators_move_as_with_torch_for_streams(make_loader, make_reference):
    """A stream draws a base seed as torch does."""
    expected = _trace(make_reference, Stream(9), batch_size=2)
    assert_same(_trace(make_loader, Stream(9), batch_size=2), expected)


class _Eager(Sampler):
    """Draws from the global generators as soon as it is iterated."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __iter__(self):
        np.random.rand(random.randrange(1, 4))
        return iter(torch.randperm(self.length).tolist())


class _Lazy(_Eager):
    """Draws from the global generators for every index."""

    def __iter__(self):
        for _ in range(self.length):
            yield int(torch.randint(self.length, ())) ^ int(random.random() < 0)


@pytest.mark.parametrize("sampler", [_Eager, _Lazy])
@pytest.mark.parametrize("batch_size", [None, 2])
def test_samplers_that_draw_themselves_move_generators_as_with_torch(
    make_loader, make_reference, batch_size, sampler
):
    """A sampler is iterated as often, and in the same moments, as torch iterates it."""
    options = {"batch_size": batch_size, "sampler": sampler(8)}
    expected = _trace(make_reference, Numbers(8), **options)
    assert_same(_trace(make_loader, Numbers(8), **options), expected)


def _draws(make, dataset, epochs=2, **options):
    _seed_everything()
    loader = make(dataset, **options)
    return [list(loader) for _ in range(epochs)]


@pytest.mark.parametrize("shuffle", [False, True])
@GLOBAL_DRAWS
def test_datasets_draw_torchs_numbers(make_loader, make_reference, shuffle):
    """Torch, NumPy and random give in `__getitem__` what they give under torch, each epoch."""
    options = {"batch_size": 2, "shuffle": shuffle}
    expected = _draws(make_reference, Draws(9), **options)
    assert_same(_draws(make_loader, Draws(9), **options), expected)


@every_way
@GLOBAL_DRAWS
def test_first_epoch_draws_torchs_numbers(make_loader, make_reference):
    """However workers are started, they are seeded as torch seeds them."""
    expected = _draws(make_reference, Draws(6), epochs=1, batch_size=2)
    assert_same(_draws(make_loader, Draws(6), epochs=1, batch_size=2), expected)


@GLOBAL_DRAWS
def test_own_generator_seeds_the_workers(make_loader, make_reference):
    """Base seeds come from the loader's generator."""
    expected, drawn = (
        _draws(make, Draws(6), generator=torch.Generator().manual_seed(5))
        for make in (make_reference, make_loader)
    )
    assert_same(drawn, expected)


class _Collating:
    """A collate function that draws."""

    def __call__(self, samples):
        return samples, torch.rand(1), np.random.rand(1), random.random()


@GLOBAL_DRAWS
def test_collate_functions_draw_torchs_numbers(make_loader, make_reference):
    """What a collate function draws is drawn after its samples, as with torch."""
    options = {"batch_size": 2, "collate_fn": _Collating()}
    expected = _draws(make_reference, Draws(7), **options)
    assert_same(_draws(make_loader, Draws(7), **options), expected)


class _Initialised(Numbers):
    """Sample k is what worker_init_fn drew in this worker."""

    drawn = None

    def __getitem__(self, index):
        return self.drawn


def _draw_at_start(worker_id):
    get_worker_info().dataset.drawn = (
        worker_id,
        torch.rand(2),
        np.random.rand(2),
        random.random(),
    )


@with_workers
@GLOBAL_DRAWS
def test_worker_init_function_runs_after_seeding(make_loader, make_reference):
    """worker_init_fn gets the worker's number and draws torch's numbers, in each epoch."""
    options = {"worker_init_fn": _draw_at_start, "collate_fn": keep}
    expected = _draws(make_reference, _Initialised(6), **options)
    assert_same(_draws(make_loader, _Initialised(6), **options), expected)


def _worker_facts(index):
    info = get_worker_info()
    if info is None:
        return None
    return (
        info.id,
        info.num_workers,
        info.seed,
        type(info.dataset).__name__,
        info.rng,
        info.worker_method,
        torch.initial_seed(),
        torch.get_num_threads(),
    )


@GLOBAL_DRAWS
def test_worker_info_holds_torchs_facts(make_loader, make_reference):
    """get_worker_info() tells number, count, seed and dataset as torch's, None without workers."""
    dataset = Made(6, _worker_facts)
    expected = _draws(make_reference, dataset, collate_fn=keep)
    assert_same(_draws(make_loader, dataset, collate_fn=keep), expected)
    assert get_worker_info() is None


@with_workers
def test_worker_infos_dataset_is_the_one_being_read(make_loader):
    """The dataset in get_worker_info() is the object whose `__getitem__` runs."""

    class Same(Numbers):
        def __getitem__(self, index):
            return get_worker_info().dataset is self

    assert list(make_loader(Same(4), collate_fn=keep)) == [[True]] * 4


def test_seed_of_a_worker_is_base_seed_plus_number(make_loader):
    """Without a generator the base seed is the first number that iter() draws."""
    _seed_everything()
    base_seed = torch.empty((), dtype=torch.int64).random_().item()
    _seed_everything()
    loader = make_loader(Made(4, _worker_facts), collate_fn=keep)
    for number, [facts] in enumerate(loader):
        if facts is not None:
            assert facts[0] == number % 2
            assert facts[2] == base_seed + facts[0]
