"""Batches stay what they were for as long as anything refers to them.

Samples are stamped with their index, so memory that is written too early shows a wrong stamp.
"""

import copy
import gc
import io
import random

import numpy as np
import pytest
import torch
from torch import nn

from tests.rounds import rounds

from .datasets import Made, Stamped, keep
from .same import assert_same
from .ways import SHARED, every_way

BATCHES = 60
ROWS = 4


def _both(index):
    """A sample with a tensor, an array and a number, all stamped."""
    return {
        "tensor": torch.full((33,), float(index)),
        "array": np.full((5, 2), index, np.int32),
        "number": index,
    }


def _stamps_of(number):
    """What rows of batch `number` are stamped with."""
    return [float(number * ROWS + row) for row in range(ROWS)]


class _Saved(torch.autograd.Function):
    @staticmethod
    def forward(ctx, factor, batch):
        ctx.save_for_backward(batch)
        return (factor * batch[:, 0]).sum()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0][:, 0], None


def _graph(batch):
    factor = torch.ones(ROWS, requires_grad=True)
    return factor, _Saved.apply(factor, batch)


def _gradient(held):
    factor, result = held
    result.backward()
    return factor.grad


def _in_cycle(batch):
    cycle = [batch]
    cycle.append(cycle)
    return cycle


# What a user may keep of a batch, and how to read the stamps from it again.
HOLDERS = {
    "the batch": (lambda b: b, lambda h: h[:, 0]),
    "a row": (lambda b: b[ROWS - 1], lambda h: h[:1]),
    "a column": (lambda b: b[:, 3], lambda h: h),
    "a view of a view": (lambda b: b.view(-1).view(ROWS, -1)[:, 5:], lambda h: h[:, 0]),
    "an expanded view": (lambda b: b[:, :1].expand(ROWS, 9), lambda h: h[:, 8]),
    "detach": (lambda b: b.detach(), lambda h: h[:, 0]),
    "data": (lambda b: b.data, lambda h: h[:, 0]),
    "numpy": (lambda b: b.numpy(), lambda h: h[:, 0]),
    "a slice of numpy": (lambda b: b.numpy()[:, 2:4], lambda h: h[:, 1]),
    "a slice of a slice of numpy": (lambda b: b.numpy()[:, 2:][:, 3:], lambda h: h[:, 1]),
    "np.asarray": (lambda b: np.asarray(b)[:, 7], lambda h: h),
    "memoryview": (lambda b: memoryview(b.numpy()), lambda h: np.asarray(h)[:, 0]),
    "DLPack to torch": (lambda b: torch.from_dlpack(b), lambda h: h[:, 0]),
    "DLPack to NumPy": (lambda b: np.from_dlpack(b), lambda h: h[:, 0]),
    "a DLPack capsule": (lambda b: b.__dlpack__(), lambda h: torch.from_dlpack(h)[:, 0]),
    "a saved tensor of autograd": (_graph, _gradient),
    "a multiplication in a graph": (
        lambda b: (f := torch.ones(ROWS, 1, requires_grad=True), (f * b[:, :1]).sum()),
        lambda h: _gradient(h)[:, 0],
    ),
    "a parameter": (nn.Parameter, lambda h: h[:, 0]),
    "untyped storage": (lambda b: b.untyped_storage(), lambda h: _rows(torch.tensor(()).set_(h))),
    "from_numpy of numpy": (lambda b: torch.from_numpy(b.numpy()), lambda h: h[:, 0]),
    "frombuffer of numpy": (
        lambda b: torch.frombuffer(b.numpy(), dtype=b.dtype),
        lambda h: _rows(h),
    ),
    "a tensor set to its storage": (lambda b: torch.empty(0).set_(b), lambda h: h[:, 0]),
    "an unbound row": (lambda b: b.unbind()[2], lambda h: h[:1]),
    "a transposed view": (lambda b: b.t(), lambda h: h[0]),
    "as_strided": (lambda b: b.as_strided((ROWS,), (33,)), lambda h: h),
    "a cycle": (_in_cycle, lambda h: h[0][:, 0]),
    "a subclass": (lambda b: b.as_subclass(nn.Buffer), lambda h: h[:, 0]),
    "bytes seen as floats": (lambda b: b.view(torch.uint8), lambda h: h.view(torch.float32)[:, 0]),
}


def _rows(flat):
    return flat.view(ROWS, 33)[:, 0]


def _held_stamps(name, held, number):
    read = HOLDERS[name][1](held)
    stamps = torch.as_tensor(read).detach().tolist()
    expected = _stamps_of(number)
    one_row = {"a row": expected[-1:], "an unbound row": expected[2:3]}
    return stamps, one_row.get(name, expected)


@pytest.mark.parametrize("collation", ["default", "own"])
def test_whatever_is_kept_of_a_batch_keeps_its_content(make_loader, collation):
    """Views, arrays, exports and graphs keep a batch as it was, for two epochs."""
    options = {"collate_fn": torch.stack} if collation == "own" else {}
    loader = make_loader(Stamped(BATCHES * ROWS, shape=(33,)), batch_size=ROWS, **options)
    kept = []
    names = list(HOLDERS)
    for epoch in range(2):
        for number, batch in enumerate(loader):
            for name in (names[(number + k) % len(names)] for k in range(2 * epoch, 2 * epoch + 2)):
                kept.append((name, number, HOLDERS[name][0](batch)))
            del batch
    wrong = []
    for name, number, held in kept:
        stamps, expected = _held_stamps(name, held, number)
        if stamps != expected:
            wrong.append(f"{name} of batch {number}: {stamps} instead of {expected}")
    assert {name for name, _, _ in kept} == set(names)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", ["whole", "slice", "column", "memoryview", "from_numpy"])
def test_whatever_is_kept_of_an_array_keeps_its_content(make_loader, name):
    """Arrays in a batch, and views of them, keep their content as tensors do."""
    take, read = {
        "whole": (lambda a: a, lambda h: h),
        "slice": (lambda a: a[1:3], lambda h: h),
        "column": (lambda a: a[:, 1][1:], lambda h: h),
        "memoryview": (memoryview, np.asarray),
        "from_numpy": (torch.from_numpy, lambda h: h.numpy()),
    }[name]
    dataset = Made(2 * BATCHES, lambda k: np.full((5, 2), k))
    loader = make_loader(dataset, batch_size=2, collate_fn=keep)
    kept = [[take(array) for array in batch] for batch in loader]
    for number, batch in enumerate(kept):
        for row, held in enumerate(batch):
            assert (read(held) == 2 * number + row).all(), f"array {2 * number + row}"


@every_way
def test_every_batch_of_an_epoch_can_be_kept(make_loader):
    """list(loader) holds the whole epoch, each batch with its own content."""
    loader = make_loader(Made(BATCHES * ROWS, _both), batch_size=ROWS)
    batches = list(loader)
    for _ in loader:
        pass
    for number, batch in enumerate(batches):
        indices = [number * ROWS + row for row in range(ROWS)]
        assert_same(batch["number"], torch.tensor(indices))
        assert (batch["tensor"] == torch.tensor(indices)[:, None]).all()
        assert (batch["array"] == torch.tensor(indices)[:, None, None]).all()
        assert batch["array"].dtype == torch.int32


def test_one_leaf_keeps_its_content_without_the_others(make_loader):
    """Each leaf of a batch may be the only one that is kept."""
    loader = make_loader(Made(BATCHES * 2, _both), batch_size=2)
    kept = [batch[random.choice(["tensor", "array"])] for batch in loader]
    for number, leaf in enumerate(kept):
        rows = torch.tensor([2 * number, 2 * number + 1]).view(2, *[1] * (leaf.dim() - 1))
        assert (leaf == rows).all()


def test_batches_written_in_place_change_nothing_else(make_loader):
    """Writing into a batch reaches neither other batches nor later epochs."""
    loader = make_loader(Stamped(BATCHES), batch_size=2)
    for _ in range(2):
        kept = []
        for number, batch in enumerate(loader):
            assert [int(s) for s in batch[:, 0]] == [2 * number, 2 * number + 1]
            batch.fill_(-number)
            if number % 3 == 0:
                kept.append((number, batch))
        assert all((batch == -number).all() for number, batch in kept)


def test_two_views_of_one_memory_arrive_with_their_values(make_loader):
    """Tensors of a sample that share memory each arrive with their own values."""

    def views(index):
        base = torch.arange(8.0) + index
        return [base[:5], base[3:], base.view(2, 4).t()]

    for number, [sample] in enumerate(make_loader(Made(8, views), collate_fn=keep)):
        assert_same(sample, views(number))


@SHARED
def test_tensor_kept_by_the_dataset_is_not_the_batch(make_loader):
    """A dataset that hands out one buffer again and again is copied in time."""
    buffer = torch.zeros(4)
    loader = make_loader(Made(40, lambda k: buffer.fill_(k)), batch_size=1)
    for number, batch in enumerate(list(loader)):
        assert (batch == number).all()


def test_batches_are_ordinary_tensors(make_loader):
    """A batch is a plain, writable, dense tensor with a storage of its own."""
    for batch in make_loader(Made(4, _both), batch_size=2):
        for leaf in (batch["tensor"], batch["array"], batch["number"]):
            assert type(leaf) is torch.Tensor
            assert not leaf._is_view()
            assert leaf.is_leaf
            assert not leaf.requires_grad
            assert leaf.is_contiguous()
            assert leaf.storage_offset() == 0
            assert leaf.untyped_storage().nbytes() == leaf.nbytes
            assert leaf.numpy().flags.writeable
            assert leaf.detach_() is leaf
            assert_same(copy.deepcopy(leaf), leaf.clone())
            leaf.zero_()
            assert not leaf.any()
    assert batch["tensor"].requires_grad_().requires_grad


def test_saving_one_leaf_saves_only_that_leaf(make_loader):
    """torch.save of one tensor of a large batch writes no more than this tensor."""
    dataset = Made(2, lambda k: (torch.full((10,), k), torch.zeros(100_000)))
    small, large = next(iter(make_loader(dataset, batch_size=2)))
    file = io.BytesIO()
    torch.save(small, file)
    assert len(file.getvalue()) < large.nbytes / 10
    file.seek(0)
    assert_same(torch.load(file), small)


def test_thousands_of_tiny_batches_are_all_right(way, make_loader):
    """In a long run with random batches held for random times, every stamp is right."""
    length = 1_000 if way.is_torch else rounds(3_000, 10_000)
    chance = random.Random(11)
    loader = make_loader(Stamped(length, shape=(5,)), batch_size=1)
    held = {}
    for number, batch in enumerate(loader):
        assert int(batch[0, 4]) == number
        if chance.random() < 0.1:
            held[number] = batch[0, 1:] if chance.random() < 0.5 else batch.numpy()[:, 2:]
        if len(held) > 50 and chance.random() < 0.2:
            for one in chance.sample(sorted(held), 20):
                assert (held.pop(one) == one).all()
        if number % 1_500 == 0:
            gc.collect()
    assert number == length - 1
    for one, kept in held.items():
        assert (kept == one).all()
