"""A sampler whose indices can't be sent to a worker."""

from __future__ import annotations

import pytest
import torch

import fastload


class Unsendable(int):
    """An index that can be used, but not pickled."""

    def __reduce__(self):
        raise TypeError("this index stays where it is")


@pytest.mark.parametrize("persistent", [False, True])
def test_an_error_of_pickling_indices_takes_the_place_of_its_batch(persistent):
    """The batches before and behind it are delivered."""
    loader = fastload.DataLoader(
        list(range(8)),
        batch_sampler=[[0, 1], [2, Unsendable(3)], [4, 5], [6, 7]],
        num_workers=2,
        persistent_workers=persistent,
    )
    batches = iter(loader)
    assert torch.equal(next(batches), torch.tensor([0, 1]))
    with pytest.raises(TypeError, match="stays where it is"):
        next(batches)
    assert [batch.tolist() for batch in batches] == [[4, 5], [6, 7]]
