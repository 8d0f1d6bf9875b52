"""Which positions are whose: steps, ranks, and incomplete steps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastload._seeded.steps import Steps, positions

WHOLE = st.integers(0, 60)
FEW = st.integers(1, 5)


def all_ranks(length, start, batch_size, ranks, **options):
    """The steps of each rank, as lists of positions of each batch."""
    return [
        [
            positions(block, length)
            for block in Steps(length, start, batch_size, ranks, rank, **options)
        ]
        for rank in range(ranks)
    ]


@given(WHOLE, WHOLE, FEW, FEW)
def test_ranks_joined_are_the_stream(length, start, batch_size, ranks):
    """With even="none" every position from the start on comes once, in order, over all ranks."""
    parts = all_ranks(length, start, batch_size, ranks, even="none")
    steps = max(map(len, parts))
    joined = [
        position
        for step in range(steps)
        for part in parts
        if step < len(part)
        for position in part[step]
    ]
    assert joined == list(range(start, length))


@given(WHOLE, WHOLE, FEW, st.integers(2, 5), st.sampled_from(["pad", "mask", "drop"]))
def test_all_ranks_have_equally_many_whole_batches(length, start, batch_size, ranks, even):
    """Under each other rule the ranks have equally many batches, all of the full size."""
    parts = all_ranks(length, start, batch_size, ranks, even=even)
    assert len(set(map(len, parts))) == 1
    assert all(len(batch) == batch_size for part in parts for batch in part)


@given(WHOLE, WHOLE, FEW, st.integers(2, 5))
def test_fillers_are_the_first_samples_again(length, start, batch_size, ranks):
    """The filled step is the rest of the stream and then its beginning, cycled."""
    parts = all_ranks(length, start, batch_size, ranks)
    left = max(0, length - start) % (ranks * batch_size)
    if not left:
        return
    last = [position for part in parts for position in part[-1]]
    cycled = [at % length for at in range(ranks * batch_size - left)]
    assert last == [*range(length - left, length), *cycled]


@given(WHOLE, WHOLE, FEW, FEW, st.sampled_from(["pad", "drop", "none"]), st.booleans())
def test_length_is_the_number_of_batches(length, start, batch_size, ranks, even, drop_last):
    """``len`` says what iterating gives."""
    for rank in range(ranks):
        steps = Steps(length, start, batch_size, ranks, rank, drop_last=drop_last, even=even)
        assert len(steps) == len(list(steps))


@pytest.mark.parametrize(
    ("drop_last", "expected"), [(False, [[0, 1, 2], [3]]), (True, [[0, 1, 2]])]
)
def test_one_rank_does_as_torch(drop_last, expected):
    """Alone, the last batch is short or left out."""
    assert all_ranks(4, 0, 3, 1, drop_last=drop_last) == [expected]


def test_position_never_exceeds_the_length():
    """Behind a last step that was filled up, the stream stands at its end."""
    steps = Steps(10, 0, 4, 2)
    assert [steps.position_after(done) for done in range(4)] == [0, 8, 10, 10]
