"""`DataLoader.replace`: another loader like this one; and the same by hand, as trainers do it."""

from __future__ import annotations

import inspect
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, RandomSampler, SequentialSampler
from torch.utils.data.dataloader import default_collate, default_convert

from fastload import DataLoader
from tests.rounds import rounds

from .data import Numbers, Stream, rows


def shuffled(**options) -> DataLoader:
    generator = torch.Generator().manual_seed(3)
    return DataLoader(Numbers(9), batch_size=2, shuffle=True, generator=generator, **options)


def keep(samples):
    return samples


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "collate_fn": st.sampled_from([None, default_collate, keep]),
        "pin_memory": st.booleans(),
        "worker_init_fn": st.sampled_from([None, print]),
        "generator": st.just(torch.Generator()),
        "pin_memory_device": st.just(""),
        "in_order": st.booleans(),
        "snapshot_every_n_steps": st.integers(1, 5),
        "memory_limit": st.none() | st.integers(0, 1 << 40),
    },
)
ORDERS = st.sampled_from(
    [
        {},
        {"shuffle": True},
        {"shuffle": False, "batch_size": 3},
        {"sampler": [1, 2, 3], "batch_size": 2, "drop_last": True},
        {"batch_sampler": [[1, 2], [3]]},
        {"batch_size": None},
        {"batch_size": None, "sampler": [4, 5]},
        {"batch_size": 5, "drop_last": True},
    ]
)
WORKERS = st.sampled_from(
    [
        {},
        {"num_workers": 2},
        {"num_workers": 2, "prefetch_factor": 3, "persistent_workers": True, "timeout": 4.0},
        {"num_workers": 1, "multiprocessing_context": "spawn"},
        {"num_workers": 2, "worker_method": "thread", "persistent_workers": True},
    ]
)


def described(loader: DataLoader) -> dict:
    """Every argument as the loader shows it, samplers by what they yield or draw."""
    shown = {name: getattr(loader, name) for name in parameters() if hasattr(loader, name)}
    sampler, batch_sampler = shown.pop("sampler"), shown.pop("batch_sampler")
    return {**shown, "sampler": like(sampler), "batch_sampler": like(batch_sampler)}


def like(sampler):
    inner = getattr(sampler, "sampler", sampler)
    return type(sampler), type(inner), getattr(sampler, "batch_size", None), list_or_none(inner)


def list_or_none(sampler):
    return sampler if isinstance(sampler, list) else None


def parameters() -> list[str]:
    return list(inspect.signature(DataLoader.__init__).parameters)[1:]


@settings(max_examples=rounds(15, 40), derandomize=True, database=None, deadline=None)
@given(options=OPTIONS, order=ORDERS, workers=WORKERS)
def test_replacing_nothing_gives_an_equal_loader(options, order, workers) -> None:
    """Whatever the arguments were."""
    loader = DataLoader(Numbers(), **options, **order, **workers)
    again = loader.replace()
    assert type(again) is DataLoader
    assert described(again) == described(loader)


@settings(max_examples=rounds(15, 40), derandomize=True, database=None, deadline=None)
@given(options=OPTIONS, order=ORDERS, workers=WORKERS)
def test_loader_made_of_its_attributes_is_equal(options, order, workers) -> None:
    """R4: as Lightning does it, only what differs from the default, with a sampler of its own."""
    loader = DataLoader(Numbers(), **options, **order, **workers)
    defaults = inspect.signature(DataLoader.__init__).parameters
    attributes = {k: v for k, v in vars(loader).items() if not k.startswith("_")}
    attributes["multiprocessing_context"] = loader.multiprocessing_context
    different = {
        name: attributes[name]
        for name in parameters()
        if name in attributes and attributes[name] is not defaults[name].default
    }
    if loader.batch_size is None and loader.batch_sampler is not None:
        different |= {"sampler": None, "shuffle": False, "batch_size": 1, "drop_last": False}
    else:
        different |= {"sampler": loader.sampler, "shuffle": False, "batch_sampler": None}
    assert described(DataLoader(**different)) == described(loader)


def test_replaced_loader_gives_the_same_batches() -> None:
    """An order of its own is drawn from the same generator."""
    loader = shuffled()
    again = shuffled().replace()
    assert rows(again) == rows(loader)
    assert again.sampler is not loader.sampler


def test_own_order_is_made_anew_for_another_dataset() -> None:
    """As long as it, shuffled if it was."""
    replaced = shuffled().replace(dataset=Numbers(3))
    assert isinstance(replaced.sampler, RandomSampler)
    assert sorted(itertools.chain.from_iterable(rows(replaced))) == [0, 1, 2]
    in_order = DataLoader(Numbers(9)).replace(dataset=Numbers(3), batch_size=3)
    assert isinstance(in_order.sampler, SequentialSampler)
    assert rows(in_order) == [[0, 1, 2]]


def test_given_sampler_is_kept_for_another_dataset() -> None:
    """It was chosen by the program."""
    loader = DataLoader(Numbers(9), sampler=[5, 1]).replace(dataset=Numbers(6))
    assert rows(loader) == [[5], [1]]


def test_sampler_put_into_a_batch_sampler_later_is_kept() -> None:
    """As Accelerate puts its own."""
    loader = DataLoader(Numbers(9), batch_size=2)
    loader.batch_sampler.sampler = [3, 4, 5]
    assert rows(loader.replace(drop_last=True)) == [[3, 4]]


def test_new_batch_sampler_replaces_order_and_size() -> None:
    """It says all of it."""
    loader = DataLoader(Numbers(9), batch_size=4, shuffle=True, drop_last=True)
    assert rows(loader.replace(batch_sampler=[[1], [2, 3]])) == [[1], [2, 3]]


def test_given_batch_sampler_excludes_a_new_size() -> None:
    """Said by torch's own error; dropping it is asked for."""
    loader = DataLoader(Numbers(4), batch_sampler=BatchSampler([3, 2, 1], 2, drop_last=False))
    with pytest.raises(ValueError, match="mutually exclusive"):
        loader.replace(batch_size=3)
    assert rows(loader.replace(batch_sampler=None, batch_size=3)) == [[0, 1, 2], [3]]


def test_stream_can_take_the_place_of_a_map_and_the_other_way_round() -> None:
    """Order goes with the kind of dataset."""
    loader = shuffled(drop_last=True)
    stream = loader.replace(dataset=Stream(5))
    assert rows(stream) == [[0, 1], [2, 3]]
    assert rows(stream.replace(dataset=Numbers(3), drop_last=False)) == [[0, 1], [2]]


def test_collate_function_follows_the_batch_size() -> None:
    """Torch's default without batches is another one."""
    loader = DataLoader(Numbers(2)).replace(batch_size=None)
    assert loader.collate_fn is default_convert
    assert list(loader) == [0, 1]
    assert loader.replace(batch_size=2).collate_fn is default_collate
    assert loader.replace(collate_fn=keep).collate_fn is keep


def test_without_workers_what_needs_them_is_dropped() -> None:
    """And with them again, torch's defaults hold."""
    loader = DataLoader(
        Numbers(2),
        num_workers=2,
        prefetch_factor=4,
        persistent_workers=True,
        timeout=3,
        multiprocessing_context="fork",
    )
    inline = loader.replace(num_workers=0)
    assert rows(inline) == [[0], [1]]
    assert inline.replace(num_workers=1).prefetch_factor == 2


def test_what_was_set_after_construction_counts() -> None:
    """Attributes are read when the loader is made."""
    loader = DataLoader(Numbers(3), batch_size=3)
    loader.collate_fn = sum
    assert list(loader.replace()) == [3]


def test_subclass_is_rebuilt_with_its_own_arguments() -> None:
    """Those that have an attribute of the same name."""

    class Scaled(DataLoader):
        def __init__(self, dataset, *, scale=1, **options) -> None:
            self.scale = scale
            super().__init__(dataset, **options)

    loader = Scaled(Numbers(4), scale=3, batch_size=2, memory_limit=1 << 20)
    again = loader.replace(batch_size=4)
    assert (type(again), again.scale, again.memory_limit) == (Scaled, 3, 1 << 20)
    assert rows(again) == [[0, 1, 2, 3]]


def test_unknown_argument_is_refused() -> None:
    """By the constructor."""
    with pytest.raises(TypeError, match="batchsize"):
        shuffled().replace(batchsize=3)


def test_replaced_loader_shares_no_workers() -> None:
    """Closing one does not touch the other."""
    loader = shuffled(num_workers=1, persistent_workers=True)
    with loader, loader.replace() as other:
        iterator = iter(loader)
        next(iterator)
        iter(other)
        other.close()
        assert len(list(iterator)) == 4
