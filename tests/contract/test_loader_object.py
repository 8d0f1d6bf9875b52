"""The loader as an object: signature, attributes, copies, closing, its iterators' classes."""

import copy
import inspect
import pickle
import warnings

import pytest
import torch
import torch.utils.data
from torch.utils.data import dataloader as torch_dataloader

from .datasets import Made, Numbers, Stream, numbers_of
from .ways import better_than_torch, with_workers

TORCH_PARAMETERS = list(inspect.signature(torch.utils.data.DataLoader.__init__).parameters.values())


def test_loader_is_torchs(way, make_loader):
    """Whoever tests for torch's class finds it."""
    assert isinstance(make_loader(Numbers(2)), torch.utils.data.DataLoader)
    assert issubclass(way.loader_class, torch.utils.data.DataLoader)


def test_signature_begins_with_torchs(way):
    """Torch's parameters come first, in order, kind and default; all others are by keyword."""
    parameters = list(inspect.signature(way.loader_class.__init__).parameters.values())
    positional = [p for p in TORCH_PARAMETERS if p.kind is p.POSITIONAL_OR_KEYWORD]
    by_keyword = [p for p in TORCH_PARAMETERS if p.kind is p.KEYWORD_ONLY]
    for ours, theirs in zip(parameters, positional + by_keyword, strict=False):
        assert (ours.name, ours.kind, ours.default) == (theirs.name, theirs.kind, theirs.default)
    for extra in parameters[len(TORCH_PARAMETERS) :]:
        assert extra.kind is extra.KEYWORD_ONLY
        assert extra.default is not extra.empty


def test_arguments_are_taken_by_position(way, make_loader):
    """Torch's first parameters may be given by position."""
    loader = way.loader_class(Numbers(6), 2, False, [3, 1, 2])
    assert numbers_of(loader) == [[3, 1], [2]]


def test_attributes_are_torchs(make_loader, make_reference):
    """Every public attribute of torch's loader is there with the same value."""

    def shown(loader):
        names = [name for name in vars(loader.reference) if not name.startswith("_DataLoader")]
        return {name: repr(getattr(loader.made, name))[:20] for name in names}

    class Both:
        def __init__(self, made, reference):
            self.made, self.reference = made, reference

    dataset = Numbers(6)
    for options in ({}, {"batch_size": None}, {"batch_sampler": [[1], [2]]}, {"drop_last": True}):
        reference = make_reference(dataset, **options)
        loader = make_loader(dataset, **options)
        assert shown(Both(loader, reference)) == shown(Both(reference, reference))


def test_loader_can_be_rebuilt_from_its_attributes(way, make_loader):
    """Each parameter is a public attribute, and a loader made of them is equal."""
    loader = make_loader(Numbers(10), batch_size=3, sampler=[4, 2, 9, 1], drop_last=True)
    parameters = list(inspect.signature(way.loader_class.__init__).parameters)[1:]
    options = {
        name: getattr(loader, name)
        for name in parameters
        if name not in ("batch_sampler", "shuffle")
    }
    again = way.loader_class(**options)
    assert numbers_of(again) == numbers_of(loader) == [[4, 2, 9]]
    assert {name: getattr(again, name) for name in options} == options
    if hasattr(again, "close"):
        again.close()
    elif again._iterator is not None:
        again._iterator._shutdown_workers()


@pytest.mark.parametrize(
    "name", ["batch_size", "batch_sampler", "sampler", "drop_last", "dataset", "persistent_workers"]
)
def test_fixed_attributes_cannot_be_set(make_loader, name):
    """What torch fixes at construction is fixed."""
    loader = make_loader(Numbers(4))
    with pytest.raises(ValueError, match=f"{name} attribute should not be set after"):
        setattr(loader, name, 3)


def test_attributes_are_read_when_an_epoch_starts(way, make_loader):
    """The collate function and the generator may be changed between epochs."""
    if way.is_persistent:
        pytest.skip("persistent workers have their collate function already")
    loader = make_loader(Numbers(4), batch_size=2, collate_fn=sum)
    assert list(loader) == [1, 5]
    loader.collate_fn = max
    assert list(loader) == [1, 3]
    loader.anything = 3
    assert loader.anything == 3


def test_loader_is_shown_and_compared_as_any_object(make_loader):
    """Like torch's it has neither a repr nor an equality of its own, and can be a key."""
    one, other = make_loader(Numbers(2)), make_loader(Numbers(2))
    assert repr(one) == object.__repr__(one)
    assert one != other
    assert len({one, other}) == 2


def test_class_can_be_subscripted(way):
    """DataLoader[int] is a type."""
    assert way.loader_class[int].__origin__ is way.loader_class


def test_subclass_may_override_iter(way):
    """A subclass that wraps `__iter__` works as with torch."""

    class Doubled(way.loader_class):
        def __iter__(self):
            for batch in super().__iter__():
                yield 2 * batch

    assert numbers_of(Doubled(Numbers(4), 2, **way.options)) == [[0, 2], [4, 6]]


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
@pytest.mark.parametrize("is_used", [False, True])
def test_idle_loader_can_be_copied(way, make_loader, copied, is_used):
    """A loader without a live iterator can be copied and pickled, used before or not."""
    if way.is_persistent and is_used and (way.is_torch or copied is copy.copy):
        pytest.skip("torch's persistent iterator cannot be pickled")
    options = {} if not way.has_workers else {"multiprocessing_context": None}
    loader = make_loader(Numbers(6), batch_size=2, **options)
    if is_used:
        list(loader)
    again = copied(loader)
    assert type(again) is type(loader)
    assert numbers_of(again) == [[0, 1], [2, 3], [4, 5]]
    assert numbers_of(loader) == [[0, 1], [2, 3], [4, 5]]
    if hasattr(again, "close"):
        again.close()
    elif again._iterator is not None:
        again._iterator._shutdown_workers()


def test_live_iterator_cannot_be_pickled(make_loader):
    """An iterator refuses to be pickled, as torch's."""
    iterator = iter(make_loader(Numbers(4)))
    with pytest.raises(NotImplementedError):
        pickle.dumps(iterator)


def test_iterators_are_of_torchs_classes(way, make_loader):
    """Trainers find torch's iterator class among an iterator's bases."""
    iterator = iter(make_loader(Numbers(4)))
    name = "_MultiProcessingDataLoaderIter" if way.has_workers else "_SingleProcessDataLoaderIter"
    assert isinstance(iterator, getattr(torch_dataloader, name))
    assert isinstance(iterator, torch_dataloader._BaseDataLoaderIter)


def test_iterator_attribute_is_set_only_when_persistent(way, make_loader):
    """`_iterator` is None, but for persistent workers, as trainers expect."""
    loader = make_loader(Numbers(4))
    assert loader._iterator is None
    iterator = iter(loader)
    assert loader._iterator is (iterator if way.is_persistent else None)


@with_workers
def test_iterator_can_be_shut_down_twice(make_loader):
    """`_shutdown_workers()`, which trainers call, ends the workers, once or twice."""
    iterator = iter(make_loader(Numbers(40)))
    next(iterator)
    assert len(iterator._workers) == 2
    iterator._shutdown_workers()
    iterator._shutdown_workers()


@better_than_torch("torch's loader is not a context manager and has no close()", inline_too=True)
def test_loader_is_closed_by_with_and_can_be_used_again(make_loader):
    """Leaving the block, or close(), ends the workers; a later use starts anew."""
    with make_loader(Numbers(40), batch_size=20) as loader:
        next(iter(loader))
    loader.close()
    loader.close()
    assert [len(batch) for batch in loader] == [20, 20]


@better_than_torch("torch's loader has no close()", inline_too=True)
@with_workers
def test_closing_ends_live_iterators(make_loader):
    """After close() a live iterator raises instead of waiting for ever, or ends."""
    loader = make_loader(Numbers(400))
    iterator = iter(loader)
    next(iterator)
    loader.close()
    with pytest.raises((RuntimeError, StopIteration)):
        for _ in range(400):
            next(iterator)


@better_than_torch("torch's loader has no close()", inline_too=True)
def test_batches_outlive_a_closed_loader(make_loader):
    """A batch that is kept stays valid after close()."""
    loader = make_loader(Made(10, lambda k: torch.full((9,), k)))
    kept = list(loader)
    loader.close()
    del loader
    assert all((batch == k).all() for k, batch in enumerate(kept))


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
def test_pinning_without_accelerator_warns_as_torch(make_loader):
    """pin_memory=True without an accelerator brings torch's warning and ordinary batches."""
    loader = make_loader(Numbers(2), pin_memory=True)
    with pytest.warns(UserWarning, match="no accelerator is found"):
        batches = list(loader)
    assert numbers_of(batches) == [[0], [1]]
    assert not batches[0].is_pinned()


def test_loading_warns_of_nothing(make_loader):
    """Neither making nor using a loader warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(make_loader(Numbers(4), batch_size=2, shuffle=True))
        list(make_loader(Stream(4), batch_size=2))
