"""Collating: torch's default collate in every respect, and anything that users do with it."""

import functools
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, default_collate
from torch.utils.data._utils import collate as torch_collate

from .cases_mixed import MIXED
from .cases_objects import Graph
from .datasets import Made, Stamped, keep
from .same import assert_same
from .test_travel import MOST_SHOWN, _difference, _loaded
from .ways import AS_RETURNED, SHARED, better_than_torch

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def _collated(make, **options):
    makers = list(MIXED.values())
    dataset = Made(2 * len(makers), lambda index: makers[index // 2]()[index % 2])
    return _loaded(make(dataset, batch_size=2, **options), list(MIXED))


def test_samples_that_differ_are_collated_or_refused_as_by_torch(way, make_loader, make_reference):
    """Mixed types, shapes, keys and lengths give what torch gives, with or without workers."""
    inline, expected, got = (_collated(make) for make in (DataLoader, make_reference, make_loader))
    if way.has_workers:
        for raised in expected.values():  # Only the worker's own words, not its traceback.
            if getattr(raised, "text", None):
                raised.text = raised.text.strip().rsplit("Error: ", 1)[-1].split("\n")[0][:60]
    wrong = [
        f"{name}: {difference}"
        for name in MIXED
        if (difference := _difference(got[name], inline[name]))
        and _difference(got[name], expected[name])
    ]
    assert not wrong, f"{len(wrong)} of {len(MIXED)} differ:\n" + "\n".join(wrong[:MOST_SHOWN])


STRIDED = {
    "transposed": lambda: torch.arange(24.0).view(2, 3, 4).transpose(0, 2),
    "channels last": lambda: torch.zeros(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    "permuted": lambda: torch.arange(24.0).view(2, 3, 4).permute(1, 2, 0),
}


@pytest.mark.parametrize("kind", STRIDED)
@pytest.mark.parametrize("options", [{"batch_size": 2}, {"batch_size": None}], ids=["two", "one"])
@AS_RETURNED
def test_memory_formats_are_torchs(make_loader, make_reference, kind, options):
    """Dense tensors keep their strides, and batches have those that torch gives them."""
    dataset = Made(2, lambda index: STRIDED[kind]())
    for batch, expected in zip(
        make_loader(dataset, **options), make_reference(dataset, **options), strict=True
    ):
        assert batch.shape == expected.shape
        assert batch.stride() == expected.stride()


def test_registered_types_are_collated_by_their_function(make_loader, monkeypatch):
    """What a user adds to `default_collate_fn_map` is used, also inside containers."""

    def collate_graphs(batch, *, collate_fn_map=None):
        nodes = [graph.nodes for graph in batch]
        whole = torch_collate.collate(nodes, collate_fn_map=collate_fn_map)
        return whole, whole[:, 1:], whole.sum()

    monkeypatch.setitem(torch_collate.default_collate_fn_map, Graph, collate_graphs)
    loader = make_loader(Made(4, lambda k: {"graph": Graph(), "k": k}), batch_size=2)
    nodes = torch.stack([Graph().nodes] * 2)
    for number, batch in enumerate(loader):
        assert_same(batch["graph"], (nodes, nodes[:, 1:], nodes.sum()))
        assert_same(batch["k"], torch.tensor([2 * number, 2 * number + 1]))


def test_replaced_functions_are_used(make_loader, monkeypatch):
    """A user's function for int or for tensors replaces torch's."""
    registry = torch_collate.default_collate_fn_map
    monkeypatch.setitem(registry, int, lambda batch, *, collate_fn_map=None: tuple(batch))
    monkeypatch.setitem(
        registry, torch.Tensor, lambda batch, *, collate_fn_map=None: torch.cat(tuple(batch))
    )
    loader = make_loader(Made(4, lambda k: [k, torch.full((k,), k)]), batch_size=2)
    assert_same(
        list(loader),
        [
            [(0, 1), torch.tensor([1])],
            [(2, 3), torch.tensor([2, 2, 3, 3, 3])],
        ],
    )


@pytest.mark.parametrize("kind", [tuple, dict, Mapping])
def test_functions_for_containers_are_used(make_loader, monkeypatch, kind):
    """A user's function for tuples or dicts, or for their base class, replaces torch's walk."""
    registry = torch_collate.default_collate_fn_map
    monkeypatch.setitem(registry, kind, lambda batch, *, collate_fn_map=None: len(batch))
    is_tuple = kind is tuple
    loader = make_loader(Made(4, lambda k: [(k,)] if is_tuple else [{"k": k}]), batch_size=2)
    assert list(loader) == [[2], [2]]


@pytest.mark.parametrize(
    "collate",
    [
        functools.partial(default_collate),
        lambda samples: default_collate(samples),
        lambda samples: default_collate(samples).mul_(1),
        lambda samples: default_collate(samples)[:, :4].repeat(1, 4),
        lambda samples: default_collate(samples).t().t(),
        lambda samples: torch.stack(samples),
    ],
    ids=["partial", "lambda", "in place", "slice", "transposed", "stack"],
)
def test_collate_functions_may_use_the_default_one(make_loader, collate):
    """A collate function that calls torch's default one gives what it returns."""
    loader = make_loader(Stamped(40), batch_size=2, collate_fn=collate)
    for number, batch in enumerate(list(loader)):
        assert_same(batch[:, 0], torch.tensor([2.0 * number, 2.0 * number + 1]))
        assert (batch == batch[:, :1]).all()
        assert batch.shape == (2, 16)


class _Remembering:
    """Returns the batch before together with each batch."""

    def __init__(self):
        self.before = None

    def __call__(self, samples):
        batch = default_collate(samples)
        result = (self.before, batch)
        self.before = batch
        return result


def test_collate_function_may_keep_its_batches(way, make_loader):
    """What a collate function keeps of its batches stays what it was."""
    options = {"num_workers": 1} if way.has_workers else {}
    loader = make_loader(Stamped(40), collate_fn=_Remembering(), **options)
    for number, (before, batch) in enumerate(loader):
        assert (batch == number).all()
        if number:
            assert (before == number - 1).all()


class _Buffering:
    """Writes all its batches into one buffer."""

    def __init__(self):
        self.buffer = torch.zeros(2, 16)

    def __call__(self, samples):
        return torch.stack(samples, out=self.buffer)


@better_than_torch("the buffer becomes shared memory, so batches that were sent are overwritten")
@SHARED
def test_collate_function_may_reuse_its_memory(way, make_loader):
    """Batches that one buffer was used for are apart (without workers they are one tensor)."""
    loader = make_loader(Stamped(40), batch_size=2, collate_fn=_Buffering())
    for number, batch in enumerate(list(loader) if way.has_workers else loader):
        assert_same(batch[:, 0], torch.tensor([2.0 * number, 2.0 * number + 1]))


def test_dataset_may_use_the_default_collate(make_loader):
    """A sample may itself be a collated batch, and be kept by the dataset."""
    kept = []

    def item(index):
        kept.append(default_collate([torch.full((3,), index), torch.full((3,), index)]))
        return kept[0], kept[-1]

    loader = make_loader(Made(30, item), batch_size=None)
    first_of_worker = {}
    for number, (first, last) in enumerate(loader):
        assert (last == number).all()
        known = first_of_worker.setdefault(int(first[0, 0]), first)
        assert (known == first).all()
    assert set(first_of_worker) <= {0, 1}


def test_object_that_occurs_twice_stays_one_object(make_loader):
    """Within a batch the same tensor, array or list arrives as the same object."""

    def item(index):
        tensor, array, items = torch.full((3,), index), np.full(3, index), [index]
        return {"a": [tensor, array, items], "b": (items, tensor, array), "c": tensor[1:]}

    for number, [batch] in enumerate(make_loader(Made(6, item), collate_fn=keep)):
        tensor, array, items = batch["a"]
        assert batch["b"][0] is items
        assert batch["b"][1] is tensor
        assert batch["b"][2] is array
        assert_same(batch["c"], torch.full((2,), number))
