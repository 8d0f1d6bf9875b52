"""LengthGroupedBatchSampler and TokenBudgetBatchSampler: little padding, nothing lost."""

from __future__ import annotations

from itertools import chain, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastload.samplers import LengthGroupedBatchSampler, TokenBudgetBatchSampler, shard
from tests.rounds import rounds

quick = settings(max_examples=rounds(12, 30), deadline=None, derandomize=True)
lengths_of_samples = st.lists(st.integers(0, 60), max_size=80)


def log_normal(samples: int, sigma: float) -> np.ndarray:
    """Lengths with a median of 150."""
    drawn = np.random.RandomState(0).lognormal(np.log(150), sigma, samples)
    return np.maximum(drawn.round().astype(int), 1)


def waste(lengths: np.ndarray, batches: list[list[int]]) -> float:
    """The part of all padded tokens that is padding."""
    padded = sum(lengths[batch].max() * len(batch) for batch in batches)
    return 1 - lengths[list(chain.from_iterable(batches))].sum() / padded


@quick
@given(
    lengths=lengths_of_samples,
    batch_size=st.integers(1, 9),
    window=st.none() | st.integers(1, 9),
    drop_last=st.booleans(),
    shuffle=st.booleans(),
    epoch=st.integers(0, 5),
)
def test_grouped_batches_have_every_sample_once(
    lengths, batch_size, window, drop_last, shuffle, epoch
) -> None:
    """All batches are full but the last; with ``drop_last`` that one is missing."""
    sampler = LengthGroupedBatchSampler(
        lengths, batch_size, window=window, drop_last=drop_last, shuffle=shuffle
    )
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert len(sampler) == len(batches)
    samples = list(chain.from_iterable(batches))
    assert len(set(samples)) == len(samples)
    rest = len(lengths) % batch_size
    assert len(samples) == len(lengths) - rest * drop_last
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    if batches:
        assert len(batches[-1]) == (batch_size if drop_last or not rest else rest)


@quick
@given(
    lengths=lengths_of_samples,
    max_tokens=st.integers(60, 400),
    max_samples=st.none() | st.integers(1, 9),
    multiple_of=st.sampled_from([1, 4, 12]),
    window=st.none() | st.integers(1, 9),
    shuffle=st.booleans(),
    epoch=st.integers(0, 5),
)
def test_token_batches_have_every_sample_once_and_keep_the_budget(
    lengths, max_tokens, max_samples, multiple_of, window, shuffle, epoch
) -> None:
    """Padding included; ``len`` is exact in each epoch."""
    sampler = TokenBudgetBatchSampler(
        lengths,
        max_tokens,
        max_samples=max_samples,
        multiple_of=multiple_of,
        window=window,
        shuffle=shuffle,
    )
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert len(sampler) == len(batches)
    assert sorted(chain.from_iterable(batches)) == list(range(len(lengths)))
    for batch in batches:
        longest = -(-max(lengths[i] for i in batch) // multiple_of) * multiple_of
        assert longest * len(batch) <= max_tokens
        assert 0 < len(batch) <= (max_samples or len(batch))


@quick
@given(lengths=lengths_of_samples, max_tokens=st.integers(1, 60), epoch=st.integers(0, 5))
def test_samples_that_are_too_long_are_skipped_if_asked(lengths, max_tokens, epoch) -> None:
    """All others come once."""
    sampler = TokenBudgetBatchSampler(lengths, max_tokens, oversized="skip")
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert len(sampler) == len(batches)
    kept = [i for i, length in enumerate(lengths) if length <= max_tokens]
    assert sorted(chain.from_iterable(batches)) == kept


def test_a_sample_that_is_too_long_is_an_error() -> None:
    """With its index and length, and how many more there are."""
    with pytest.raises(
        ValueError, match=r"sample 1 has 9 tokens, more than max_tokens=8, as have 1"
    ):
        TokenBudgetBatchSampler([3, 9, 2, 20], 8)
    with pytest.raises(ValueError, match="sample 1, padded to a multiple of 16, has 16 tokens"):
        TokenBudgetBatchSampler([0, 9], 8, multiple_of=16)


@pytest.mark.parametrize("sigma", [0.4, 0.6, 0.8])
@pytest.mark.parametrize("batch_size", [16, 32, 64])
def test_less_than_five_percent_of_log_normal_lengths_is_padding(sigma, batch_size) -> None:
    """By default, of 50,000 samples."""
    lengths = log_normal(50_000, sigma)
    assert waste(lengths, list(LengthGroupedBatchSampler(lengths, batch_size))) < 0.05


@pytest.mark.parametrize("sigma", [0.4, 0.6, 0.8, 1.0])
def test_less_than_five_percent_of_a_token_budget_is_padding(sigma) -> None:
    """By default; and less than five percent of the budget is not used."""
    lengths = log_normal(50_000, sigma)
    batches = list(TokenBudgetBatchSampler(lengths, 16_384))
    assert waste(lengths, batches) < 0.05
    assert lengths.sum() / (len(batches) * 16_384) > 0.90


SAMPLERS = {
    "grouped": lambda lengths, **options: LengthGroupedBatchSampler(lengths, 16, **options),
    "tokens": lambda lengths, **options: TokenBudgetBatchSampler(lengths, 4096, **options),
}


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_batches_are_others_each_epoch_in_an_order_without_trend(name: str) -> None:
    """Few pairs of samples meet again; long samples come as early as short ones."""
    lengths = log_normal(5000, 0.6)
    sampler = SAMPLERS[name](lengths)
    pairs = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        pairs.append({frozenset(p) for batch in batches for p in pairwise(batch)})
        longest = np.array([lengths[batch].max() for batch in batches])
        assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.2
    # Of the few longest samples each has the same neighbours always.
    assert len(pairs[0] & pairs[1]) < 0.15 * len(pairs[0])


@pytest.mark.parametrize("name", sorted(SAMPLERS))
@pytest.mark.parametrize("even", ["pad", "drop", "mask"])
def test_ranks_have_equally_many_batches(name: str, even: str) -> None:
    """In each epoch; and together all of them."""
    sampler = SAMPLERS[name](log_normal(2000, 0.6))
    for epoch in range(3):
        sampler.set_epoch(epoch)
        batches = {tuple(batch) for batch in sampler.iter_from(0)}
        dealt = []
        for rank in range(3):
            part = shard(SAMPLERS[name](log_normal(2000, 0.6)), rank, 3, even)
            part.set_epoch(epoch)
            dealt.append(list(part))
            assert len(part) == len(dealt[-1])
        assert len({len(part) for part in dealt}) == 1
        together = {tuple(batch) for part in dealt for batch in part}
        assert together <= batches
        assert len(together) >= len(batches) - 2 * (even == "drop")


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_without_shuffling_every_epoch_is_the_same(name: str) -> None:
    """The longest batch comes first, so memory is short at once or never."""
    lengths = log_normal(2000, 0.6)
    sampler = SAMPLERS[name](lengths, shuffle=False, window=10**9)
    batches = list(sampler)
    assert lengths.argmax() in batches[0]
    longest = [lengths[batch].max() for batch in batches]
    assert longest == sorted(longest, reverse=True)
    sampler.set_epoch(1)
    assert list(sampler) == batches


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_lengths_may_be_any_sequence_of_integers(kind) -> None:
    """Lists, arrays and tensors."""
    batches = list(LengthGroupedBatchSampler(kind([5, 1, 5, 1]), 2, window=2))
    assert sorted(sorted(batch) for batch in batches) == [[0, 2], [1, 3]]
    assert {type(index) for index in chain.from_iterable(batches)} == {int}


@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 0], [7]])
def test_few_and_empty_samples_make_few_batches(lengths) -> None:
    """None of none."""
    for sampler in (LengthGroupedBatchSampler(lengths, 4), TokenBudgetBatchSampler(lengths, 8)):
        assert len(sampler) == len(list(sampler)) == (len(lengths) > 0)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: LengthGroupedBatchSampler([3, -1], 2), ValueError, r"lengths\[1\] is -1"),
        (lambda: LengthGroupedBatchSampler([1.5], 2), TypeError, "one-dimensional sequence of int"),
        (lambda: LengthGroupedBatchSampler([[1]], 2), TypeError, r"shape \(1, 1\)"),
        (lambda: LengthGroupedBatchSampler(["a"], 2), TypeError, "len.sample. for sample"),
        (lambda: LengthGroupedBatchSampler([1], 0), ValueError, "batch_size must be at least 1"),
        (lambda: LengthGroupedBatchSampler([1], 2.0), TypeError, "batch_size must be an integer"),
        (lambda: LengthGroupedBatchSampler([1], 2, window=0), ValueError, "window must be at"),
        (lambda: TokenBudgetBatchSampler([1], 0), ValueError, "max_tokens must be at least 1"),
        (lambda: TokenBudgetBatchSampler([1], 2, max_samples=0), ValueError, "max_samples must"),
        (lambda: TokenBudgetBatchSampler([1], 2, multiple_of=0), ValueError, "multiple_of must"),
        (lambda: TokenBudgetBatchSampler([1], 2, oversized="x"), ValueError, "oversized must"),
    ],
)
def test_wrong_arguments_are_refused(make, error, words: str) -> None:
    """With the value and what was expected."""
    with pytest.raises(error, match=words):
        make()


def test_the_batches_are_the_same_on_every_machine() -> None:
    """Written down once; a change would break every saved state."""
    lengths = [(7 * i) % 10 for i in range(12)]
    grouped = list(LengthGroupedBatchSampler(lengths, 3, seed=1, window=2))
    assert grouped == [[7, 1, 5], [6, 3, 10], [4, 11, 8], [2, 9, 0]]
    budgeted = list(TokenBudgetBatchSampler(lengths, 20, seed=1, window=2))
    assert budgeted == [[8, 5, 2], [7, 4], [1, 11], [9, 6, 10, 3, 0]]
