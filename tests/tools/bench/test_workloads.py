import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch

from fastload.tools.bench.catalogue import WORKLOADS, find
from fastload.tools.bench.child import FOLDER
from fastload.tools.bench.equality import difference
from fastload.tools.bench.loaders import make_loader
from fastload.tools.bench.measure import measure
from fastload.tools.bench.verify import verify
from tests.tools.bench import recipes

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results.json"


@pytest.fixture(autouse=True)
def _files_lie_in_the_folder_of_the_test(monkeypatch, tmp_path):
    monkeypatch.setenv(FOLDER, str(tmp_path))


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_workload_gives_as_many_samples_as_it_says(workload):
    """Each recipe can be cooked, and its dataset is a deterministic function of the index."""
    samples = workload.batch_size + 3
    epochs = []
    for _ in range(2):
        torch.manual_seed(0)
        loader = make_loader(workload, workload.cook(samples), "torch", workers=0)
        epochs.append(list(loader))
    assert len(epochs[0]) == 2
    assert difference(epochs[0], epochs[1]) is None


def test_names_are_unique():
    """No two workloads share a name."""
    assert len({workload.name for workload in WORKLOADS}) == len(WORKLOADS)


def test_unknown_name_lists_the_names():
    """Asking for a workload that does not exist tells which ones do."""
    with pytest.raises(ValueError, match=re.escape("did you mean 'fields'")) as caught:
        find("field")
    assert all(workload.name in str(caught.value) for workload in WORKLOADS)


def test_workers_can_be_chosen_unless_the_workload_says_how_many():
    """The number of workers asked for goes to workloads that have no number of their own."""
    assert find("tiny-numpy").workers_given(4) == 4
    assert find("tiny-numpy-inline").workers_given(4) == 0
    assert find("stragglers").workers_given(2) == 4


OF_TWO_WAYS = [workload for workload in WORKLOADS if workload.own is not None]


@pytest.mark.parametrize("workload", OF_TWO_WAYS, ids=lambda workload: workload.name)
def test_our_own_way_gives_the_usual_batches(workload):
    """With fastload's dataset or collate function come equal batches, in order, from workers."""
    assert verify(workload, "torch", "fastload", workers=2) is None


@pytest.mark.parametrize("workload", OF_TWO_WAYS, ids=lambda workload: workload.name)
def test_loader_that_is_judged_gets_the_usual_data(workload):
    """Our own way is for the loader called fastload; any other is given what torch's is given."""
    assert workload.recipe_for("fastload") == workload.own
    for loader in ("torch", "fastload:DataLoader", "somebody:Else"):
        assert workload.recipe_for(loader) == workload.recipe


def test_batches_are_compared_in_the_form_of_the_usual_way():
    """What differs by a name alone is equal once the recipe has said how."""
    assert verify(recipes.make(own="renamed"), "torch", "fastload", workers=0) is None


def test_form_of_the_usual_way_is_not_made_while_measuring():
    """What a comparison needs is no part of what is timed."""

    def refuse(batch):
        raise AssertionError(batch)

    workload = recipes.make()
    recipe = dataclasses.replace(workload.cook(64), as_usual=refuse)
    assert measure(workload, recipe, "fastload", workers=0, quick=True).batches >= 16


def test_waiting_is_shorter_while_batches_are_compared_and_the_samples_are_the_same():
    """Where a batch takes more than a second, the comparison has the same data sooner."""
    recipe = find("first-batch").cook(2)
    hurried = recipe.for_comparison()
    assert hurried.options == recipe.options
    assert hurried.dataset.latency_s < recipe.dataset.latency_s
    for number in range(2):
        assert difference(recipe.dataset[number], hurried.dataset[number]) is None


def test_a_sample_in_a_hundred_is_a_straggler():
    """Which ones they are does not change from one process to the next."""
    one, other = (find("stragglers").cook(1_000).dataset for _ in range(2))
    assert one.slow == other.slow
    assert len(one.slow) == 10


def test_own_way_with_a_seed_is_held_against_itself_without_workers():
    """A recipe may bring the seed; then the check is that of a loader with a seed in its name."""
    words = verify(recipes.make(own="seeded_and_longer"), "torch", "fastload", workers=2)
    assert (
        words == "epochs[0] has the keys [0, 1, 2, 3, 4, 5, 6, 7], expected [0, 1, 2, 3, 4, 5, 6]"
    )


def test_own_way_in_another_order_is_a_difference():
    """The order of samples counts, as everywhere."""
    words = verify(recipes.make(own="reversed_order"), "torch", "fastload", workers=0)
    assert words == "epoch 0, batch 0['number'] differs in 4 of 4 values"


def test_published_figures_are_of_these_workloads():
    """Each workload of results.json is still what was measured: batches, workers, both ways."""
    for entry in json.loads(RESULTS.read_text())["workloads"]:
        workload = find(entry["workload"])
        shape = workload.batch_size, workload.samples, workload.workers, workload.unit
        assert shape == (entry["batch_size"], entry["samples"], entry["workers"], entry["unit"])
        assert (workload.own is None) == entry.get("same_data", True)
