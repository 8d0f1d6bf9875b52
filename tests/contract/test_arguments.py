"""Wrong arguments raise torch's errors in torch's words."""

import multiprocessing

import pytest
import torch
from torch.utils.data import DataLoader

from .datasets import Numbers, Stream, numbers_of
from .ways import NO_PROCESS, with_workers

WRONG = {
    "negative workers": (Numbers, {"num_workers": -1}),
    "negative timeout": (Numbers, {"timeout": -1}),
    "negative prefetch": (Numbers, {"num_workers": 1, "prefetch_factor": -1}),
    "prefetch without workers": (Numbers, {"num_workers": 0, "prefetch_factor": 2}),
    "persistent without workers": (Numbers, {"num_workers": 0, "persistent_workers": True}),
    "shuffled stream": (Stream, {"shuffle": True}),
    "sampler for a stream": (Stream, {"sampler": [1]}),
    "batch sampler for a stream": (Stream, {"batch_sampler": [[1]]}),
    "sampler and shuffle": (Numbers, {"sampler": [1], "shuffle": True}),
    "batch sampler and batch size": (Numbers, {"batch_sampler": [[1]], "batch_size": 2}),
    "batch sampler and shuffle": (Numbers, {"batch_sampler": [[1]], "shuffle": True}),
    "batch sampler and sampler": (Numbers, {"batch_sampler": [[1]], "sampler": [1]}),
    "batch sampler and drop_last": (Numbers, {"batch_sampler": [[1]], "drop_last": True}),
    "drop_last without batches": (Numbers, {"batch_size": None, "drop_last": True}),
    "batch size zero": (Numbers, {"batch_size": 0}),
    "batch size negative": (Numbers, {"batch_size": -2}),
    "batch size not whole": (Numbers, {"batch_size": 1.5}),
    "batch size true": (Numbers, {"batch_size": True}),
    "context without workers": (Numbers, {"num_workers": 0, "multiprocessing_context": "fork"}),
    "unknown context": (Numbers, {"num_workers": 1, "multiprocessing_context": "unknown"}),
    "context of a wrong type": (Numbers, {"num_workers": 1, "multiprocessing_context": 3}),
    "unknown argument": (Numbers, {"unknown_argument": 1}),
    "workers as text": (Numbers, {"num_workers": "2"}),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_arguments_raise_torchs_errors(way, kind):
    """The constructor refuses what torch refuses, with the same type and words."""
    if way.has_workers:
        pytest.skip("the constructor is the same")
    dataset, options = WRONG[kind]
    with pytest.raises(Exception) as expected:
        DataLoader(dataset(4), **options)
    with pytest.raises(expected.type) as raised:
        way.loader_class(dataset(4), **options)
    assert str(raised.value) == str(expected.value)


def test_shuffling_nothing_raises_torchs_error(make_loader):
    """An empty dataset cannot be shuffled."""
    with pytest.raises(ValueError, match="num_samples should be a positive integer"):
        make_loader(Numbers(0), shuffle=True)


def test_dataset_without_length_has_no_length(make_loader):
    """A dataset without `__len__` can be loaded through a sampler, but has no length."""

    class Endless:
        def __getitem__(self, index):
            return index

    loader = make_loader(Endless(), batch_size=2, sampler=iter([1, 2, 3]))
    with pytest.raises(TypeError):
        len(loader)
    assert numbers_of(loader) == [[1, 2], [3]]


@with_workers
@NO_PROCESS
def test_context_is_kept_as_an_object(make_loader):
    """A start method's name becomes its context; a context stays itself."""
    loader = make_loader(Numbers(2))
    assert loader.multiprocessing_context is torch.multiprocessing.get_context("fork")
    context = multiprocessing.get_context("fork")
    loader = make_loader(Numbers(2), multiprocessing_context=context)
    assert loader.multiprocessing_context is context
    assert numbers_of(loader) == [[0], [1]]


def test_context_may_be_changed_before_use(way, make_loader):
    """The property checks what is set later too."""
    loader = make_loader(Numbers(2))
    loader.multiprocessing_context = None
    assert loader.multiprocessing_context is None
    with pytest.raises(ValueError, match="multiprocessing_context"):
        loader.multiprocessing_context = "unknown"


@with_workers
def test_prefetch_factor_is_two_unless_given(make_loader):
    """The default of prefetch_factor shows as 2."""
    assert make_loader(Numbers(2)).prefetch_factor == 2
    assert make_loader(Numbers(2), prefetch_factor=5).prefetch_factor == 5


def test_too_many_workers_warn_as_torch(way):
    """More workers than cores bring torch's warning."""
    with pytest.warns(UserWarning, match="This DataLoader will create 999 worker processes"):
        way.loader_class(Numbers(2), num_workers=999)


def test_timeout_without_workers_is_refused_as_by_torch(way):
    """Without workers a timeout is an error when an epoch starts, as with torch."""
    if way.has_workers:
        pytest.skip("without workers only")
    loader = way.loader_class(Numbers(2), timeout=3)
    with pytest.raises(AssertionError):
        iter(loader)
