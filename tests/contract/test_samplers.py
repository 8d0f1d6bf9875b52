"""Samplers importable from fastload: torch's order for torch's seed, as torch's subclasses."""

import random

import numpy as np
import pytest
import torch
import torch.utils.data as torch_data
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rounds import rounds

from .same import assert_same

NAMES = [
    "Sampler",
    "SequentialSampler",
    "RandomSampler",
    "SubsetRandomSampler",
    "WeightedRandomSampler",
    "BatchSampler",
    "DistributedSampler",
]
quick = settings(max_examples=rounds(12, 40), deadline=None, derandomize=True)


def ours(name):
    import fastload.samplers

    return getattr(fastload.samplers, name)


def theirs(name):
    if name == "DistributedSampler":
        return torch_data.distributed.DistributedSampler
    return getattr(torch_data, name)


@pytest.mark.parametrize("name", NAMES)
def test_each_sampler_is_torchs_or_its_subclass(name):
    """isinstance checks against torch's samplers hold for ours."""
    import fastload

    assert issubclass(ours(name), theirs(name))
    assert getattr(fastload, name) is ours(name)


def _two_epochs(make, seed):
    """Orders of two epochs, lengths, and every generator's state afterwards."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    generator = torch.Generator().manual_seed(seed)
    sampler = make(generator)
    orders = [list(sampler), list(sampler)]
    left_early = iter(sampler)
    next(left_early, None)
    return [
        orders,
        len(sampler),
        torch.get_rng_state(),
        generator.get_state(),
        list(np.random.get_state(legacy=False)["state"].values()),
        random.getstate(),
    ]


def _assert_as_torch(name, seed, *arguments, own_generator=False, **options):
    def make(cls):
        def made(generator):
            return cls(*arguments, **options, **({"generator": generator} if own_generator else {}))

        return made

    expected = _two_epochs(make(theirs(name)), seed)
    assert_same(_two_epochs(make(ours(name)), seed), expected)


seeds = st.integers(0, 2**40)
lengths = st.integers(1, 70)


@quick
@given(length=st.integers(0, 70), seed=seeds)
def test_sequential_sampler_counts(length, seed):
    """SequentialSampler gives 0, 1, 2, … and draws nothing."""
    _assert_as_torch("SequentialSampler", seed, range(length))


@quick
@given(
    length=lengths,
    seed=seeds,
    replacement=st.booleans(),
    num_samples=st.none() | st.integers(1, 150),
    own_generator=st.booleans(),
)
def test_random_sampler_follows_torch(length, seed, replacement, num_samples, own_generator):
    """RandomSampler permutes or draws as torch does, and leaves the generators as torch does."""
    _assert_as_torch(
        "RandomSampler",
        seed,
        range(length),
        replacement=replacement,
        num_samples=num_samples,
        own_generator=own_generator,
    )


@quick
@given(indices=st.lists(st.integers(), max_size=40), seed=seeds, own_generator=st.booleans())
def test_subset_random_sampler_follows_torch(indices, seed, own_generator):
    """SubsetRandomSampler permutes a given list as torch does."""
    _assert_as_torch("SubsetRandomSampler", seed, indices, own_generator=own_generator)


@quick
@given(
    weights=st.lists(st.floats(0.125, 100), min_size=1, max_size=40),
    seed=seeds,
    share=st.floats(0.01, 1),
    replacement=st.booleans(),
    own_generator=st.booleans(),
)
def test_weighted_random_sampler_follows_torch(weights, seed, share, replacement, own_generator):
    """WeightedRandomSampler draws torch's indices."""
    _assert_as_torch(
        "WeightedRandomSampler",
        seed,
        weights,
        max(1, int(share * len(weights))),
        replacement,
        own_generator=own_generator,
    )


@quick
@given(length=lengths, seed=seeds, batch_size=st.integers(1, 20), drop_last=st.booleans())
def test_batch_sampler_follows_torch(length, seed, batch_size, drop_last):
    """BatchSampler cuts any sampler's indices into lists as torch does."""
    expected, cut = (
        _two_epochs(lambda g, c=cls, i=inner: c(i(range(length)), batch_size, drop_last), seed)
        for cls, inner in (
            (theirs("BatchSampler"), theirs("RandomSampler")),
            (ours("BatchSampler"), ours("RandomSampler")),
        )
    )
    assert_same(cut, expected)


@quick
@given(
    length=lengths,
    replicas=st.integers(1, 7),
    seed=st.integers(0, 1000),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
    epoch=st.integers(0, 9),
)
def test_distributed_sampler_follows_torch(length, replicas, seed, shuffle, drop_last, epoch):
    """Each rank gets torch's indices, after set_epoch too."""
    for rank in range(replicas):
        made = []
        for cls in (theirs("DistributedSampler"), ours("DistributedSampler")):
            try:
                sampler = cls(range(length), replicas, rank, shuffle, seed, drop_last)
                sampler.set_epoch(epoch)
                made.append([list(sampler), len(sampler), sampler.num_samples, sampler.total_size])
            except Exception as error:
                made.append(type(error))
        assert made[1] == made[0]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("RandomSampler", ([],)),
        ("RandomSampler", ([1], "yes")),
        ("RandomSampler", ([1], True, 0)),
        ("RandomSampler", ([1], True, 1.5)),
        ("WeightedRandomSampler", ([1.0], 0)),
        ("WeightedRandomSampler", ([1.0], True)),
        ("WeightedRandomSampler", ([1.0], 1, "yes")),
        ("WeightedRandomSampler", ([[1.0]], 1)),
        ("BatchSampler", ([1], 0, False)),
        ("BatchSampler", ([1], True, False)),
        ("BatchSampler", ([1], 2, "no")),
        ("DistributedSampler", ([1], 2, 2)),
        ("DistributedSampler", ([1], 2, -1)),
    ],
)
def test_wrong_arguments_raise_torchs_errors(name, arguments):
    """What torch's sampler refuses, ours refuses in the same words."""
    with pytest.raises((TypeError, ValueError)) as expected:
        theirs(name)(*arguments)
    with pytest.raises(expected.type) as raised:
        ours(name)(*arguments)
    assert str(raised.value) == str(expected.value)


class BeginsAnew:
    """An iterable whose iterator is itself, and begins anew whenever it is asked for one."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        self.rest = iter(self.batches)
        return self

    def __next__(self):
        return next(self.rest)


def test_the_samplers_iterator_is_asked_for_once(make_loader, make_reference):
    """Trainers wrap batch samplers in such classes; each batch comes once."""
    batches = [[0, 1], [2], [5, 3, 4]]
    loader = make_loader(range(6), batch_sampler=BeginsAnew(batches))
    assert [batch.tolist() for batch in loader] == batches
    reference = make_reference(range(6), batch_sampler=BeginsAnew(batches))
    assert_same(list(loader), list(reference))
