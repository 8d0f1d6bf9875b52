import re

import pytest
import torch

from fastload.bench.catalogue import WORKLOADS, find
from fastload.bench.loaders import make_loader


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
    assert repr(epochs[0]) == repr(epochs[1])


def test_names_are_unique():
    """No two workloads share a name."""
    assert len({workload.name for workload in WORKLOADS}) == len(WORKLOADS)


def test_unknown_name_lists_the_names():
    """Asking for a workload that does not exist tells which ones do."""
    with pytest.raises(ValueError, match=re.escape("did you mean 'fields'")) as caught:
        find("field")
    assert all(workload.name in str(caught.value) for workload in WORKLOADS)


def test_workers_can_be_chosen_unless_there_are_none():
    """The number of workers asked for goes to workloads that have workers."""
    assert find("tiny-numpy").workers_given(4) == 4
    assert find("tiny-numpy-inline").workers_given(4) == 0
