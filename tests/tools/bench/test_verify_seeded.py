"""A loader with `seed=` is checked against itself without workers, and against torch's samples."""

import doctest

import pytest
import torch

import fastload
from fastload.tools.bench import names, verify_seeded
from fastload.tools.bench.catalogue import find
from fastload.tools.bench.verify import verify
from tests.tools.bench import recipes

OURS = names.with_seed("fastload", 7)
HERE = __name__


class DependsOnWorkers(fastload.DataLoader):
    """Forgets its last batch where there are workers."""

    def __iter__(self):
        batches = list(super().__iter__())
        return iter(batches[:-1] if self.num_workers else batches)


class Repeats(fastload.DataLoader):
    """Gives its first batch twice and not its second one."""

    def __iter__(self):
        first, _, *rest = super().__iter__()
        return iter([first, first, *rest])


@pytest.mark.parametrize("name", ["digits", "table", "arrow", "tiny-numpy-inline", "tokens"])
def test_seeded_loader_has_torchs_samples(name):
    """Shuffled or not, with the usual data, the batches pass the check."""
    assert verify(find(name), "torch", OURS, workers=2) is None


def test_dependence_on_workers_is_told():
    """A loader whose batches depend on the workers does not pass."""
    name = names.with_seed(f"{HERE}:DependsOnWorkers", 7)
    assert "with 2 workers instead of none" in verify(recipes.make(), "torch", name, workers=2)


def test_lost_sample_is_told():
    """A shuffled loader that has a batch twice, and another one never, does not pass."""
    name = names.with_seed(f"{HERE}:Repeats", 7)
    words = verify(find("digits"), "torch", name, workers=0)
    assert "epoch 0 lacks 64 of 416 samples and has 64" in words


def test_name_tells_the_seed():
    """The seed is part of the name in results; fastload's own recipe is used with it too."""
    assert names.split_name(OURS) == ("fastload", 7)
    workload = recipes.make(own="renamed")
    assert workload.recipe_for(OURS) == workload.recipe_for("fastload") != workload.recipe


def test_columns_of_plain_values_are_taken_apart():
    """Names and tensors of a record go together, sample by sample."""
    one, other = verify_seeded.samples_of([["a", "b"], torch.tensor([1, 2])])
    assert (one[0], other[0]) == ("a", "b")
    assert one[1] != other[1]


@pytest.mark.parametrize("module", [names, verify_seeded])
def test_examples_in_docstrings_run(module):
    """Each gives what it shows."""
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
