"""Loaders of either kind are run as they are, and left as they were."""

import threading

import numpy as np
import psutil
import pytest
import torch
import torch.utils.data
from torch.utils.data import IterableDataset, get_worker_info

import fastload
from fastload.tools.profile.profiler import Plan, profile
from fastload.tools.profile.rebuild import kind_of, rebuild, setting_of
from fastload.tools.profile.report import Setting
from fastload.tools.profile.target import TargetError, as_loader, find, find_step
from fastload.tools.profile.trials import run_trial

KINDS = {"fastload": fastload.DataLoader, "torch": torch.utils.data.DataLoader}


class Rows:
    def __init__(self, rows=64):
        self.rows = rows

    def __len__(self):
        return self.rows

    def __getitem__(self, index):
        return {"index": index, "row": np.full(3, index, np.float32)}


class Grouped(Rows):
    def __getitems__(self, indices):
        threading.Event().wait(0.002)
        return [self[index] for index in indices]


class Stream(IterableDataset):
    start = 0

    def __iter__(self):
        info = get_worker_info()
        step = 1 if info is None else info.num_workers
        begin = self.start + (0 if info is None else info.id)
        return iter(range(begin, 40, step))


def shift(worker_id):
    get_worker_info().dataset.start = 20


class Broken(Rows):
    def __getitem__(self, index):
        raise KeyError(index)


def trial(loader, kind, setting=None, **options):
    seen = []
    found = run_trial(loader, setting or setting_of(loader), kind, seen.append, 0.05, **options)
    return found, seen


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_batches_of_a_trial_are_the_loaders(kind, workers):
    """The step gets what the loader gives, without clocks around it."""
    loader = KINDS[kind](Rows(), batch_size=16, num_workers=workers)
    found, seen = trial(loader, kind)
    expected = list(loader)
    for ours, theirs in zip(seen, expected, strict=False):
        assert type(ours) is type(theirs) is dict
        assert torch.equal(ours["row"], theirs["row"])
    assert found.samples_per_batch == 16
    assert found.samples_per_s > 0
    assert loader._iterator is None


@pytest.mark.parametrize("kind", KINDS)
def test_counting_begins_when_all_workers_run(kind):
    """However soon the first batch comes: a trial is to tell what all of them give together."""
    seen = []

    def step(batch):
        seen.append(len(psutil.Process().children()))

    run_trial(KINDS[kind](Rows(), batch_size=16), Setting(6, 2), kind, step, 0.05)
    assert seen[0] >= 6


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_streams_have_stamps_too(kind, workers):
    """An iterable dataset; a worker_init_fn may change it."""
    loader = KINDS[kind](
        Stream(), batch_size=4, num_workers=workers, worker_init_fn=shift if workers else None
    )
    found, seen = trial(loader, kind)
    assert seen[0].tolist() == ([20, 21, 22, 23] if workers else [0, 1, 2, 3])
    assert found.mean_s("fetch") > 0


@pytest.mark.parametrize("kind", KINDS)
def test_datasets_that_load_groups_keep_doing_so(kind):
    """``__getitems__`` is called, and timed."""
    found, _ = trial(KINDS[kind](Grouped(), batch_size=16, num_workers=1), kind)
    assert found.mean_s("fetch") >= 0.002


@pytest.mark.parametrize("kind", KINDS)
def test_single_samples_without_batching_work(kind):
    """``batch_size=None``."""
    found, seen = trial(KINDS[kind](Rows(), batch_size=None, num_workers=1), kind)
    assert seen[0]["index"] == 0
    assert found.samples_per_batch == 1


@pytest.mark.parametrize("kind", KINDS)
def test_an_exception_of_the_dataset_comes_through(kind):
    """And nothing is left running."""
    loader = KINDS[kind](Broken(), batch_size=4, num_workers=2)
    with pytest.raises(KeyError):
        profile(Plan(loader, "broken", budget_s=1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_loader_that_gives_nothing_is_a_value_error(kind):
    """Rather than a division by zero."""
    with pytest.raises(ValueError, match="gave no batch"):
        profile(Plan(KINDS[kind](Rows(0), num_workers=1), "empty", budget_s=1))


@pytest.mark.parametrize("kind", KINDS)
def test_one_single_batch_can_be_profiled(kind):
    """Epochs are begun again and again."""
    found = profile(Plan(KINDS[kind](Rows(1), num_workers=1), "one", budget_s=1))
    assert found.batches >= 1
    assert found.verdict.bound == "unknown"


def test_rebuilding_keeps_what_makes_the_batches():
    """Sampler, batch size, collate function; the class may change."""
    loader = KINDS["torch"](Rows(), batch_size=7, shuffle=True, collate_fn=len, num_workers=3)
    again = rebuild(loader, Setting(2, 4), "fastload")
    assert kind_of(again) == "fastload"
    assert again.batch_sampler is loader.batch_sampler
    assert again.collate_fn is len
    assert (again.num_workers, again.prefetch_factor) == (2, 4)


def test_targets_are_loaders_datasets_and_factories():
    """Anything else is refused with what was expected."""
    assert kind_of(as_loader(Rows(), "x")) == "fastload"
    assert setting_of(as_loader(Stream(), "x")).num_workers == 1
    assert kind_of(as_loader(lambda: KINDS["torch"](Rows()), "x")) == "torch"
    with pytest.raises(TargetError, match="expected a DataLoader"):
        as_loader(3, "x")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "neither module:attr nor file.py:attr"),
        ("no_such_module:x", "no module 'no_such_module'"),
        ("no_such_file.py:x", "no such file"),
        ("fastload._system.cores:nothing", "has no 'nothing'; it has:.* find_cores"),
    ],
)
def test_a_name_that_leads_nowhere_says_what_was_expected(name, message):
    """At once, before anything is run."""
    with pytest.raises(TargetError, match=message):
        find(name)


def test_a_step_may_be_made_by_a_factory():
    """A function of a batch is itself the step."""
    assert find_step("fastload.collate:default_collate") is fastload.default_collate
    assert callable(find_step("fastload.tools.training.profiled:digits_step"))
