"""Batches that look like the one before, and batches that do not, arrive as they were made."""

from __future__ import annotations

from collections import namedtuple

import numpy as np
import pytest
import torch

import fastload
from fastload._memory.arena import Arena
from fastload._memory.view import BatchTemplate
from fastload._memory.write import LeafRef, SlotPlace, write_batch

Pair = namedtuple("Pair", "image label")  # noqa: PYI024  (as users write them)

SHAPES = {
    "a list": lambda one, two: [one, two],
    "a tuple": lambda one, two: (one, two),
    "a dict": lambda one, two: {"one": one, "two": two},
    "a dict by numbers": lambda one, two: {1: one, True + 1: two},
    "a dict in another order": lambda one, two: {"two": two, "one": one},
    "one tensor": lambda one, _two: one,
    "a list of one": lambda one, _two: [one],
    "the same twice": lambda one, _two: [one, one],
    "with a constant": lambda one, two: [one, two, 3],
    "with text": lambda one, _two: {"one": one, "name": "text"},
    "nested": lambda one, two: {"both": [one, (two,)]},
    "a named tuple": Pair,
    "an array": lambda one, two: [one.numpy(), two],
    "nothing": lambda _one, _two: [],
    "no tensor": lambda _one, _two: ["text", 7],
}


def leaves(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two tensors full of a number, of several kinds."""
    return torch.full((3, 2), float(number)), torch.full((4,), number)


class Changing(torch.utils.data.Dataset):
    """Sample ``i`` is of one structure after another, each twice and then thrice in a row."""

    def __init__(self) -> None:
        names = list(SHAPES)
        self.order = [n for n in names for _ in range(4)] + [n for _ in range(3) for n in names]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int):
        return SHAPES[self.order[index]](*leaves(index))


def equal(one, other) -> bool:
    """Of equal types and values, all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor | np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and bool((one == other).all())
    if isinstance(one, dict):
        return list(one) == list(other) and all(map(equal, one.values(), other.values()))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


@pytest.mark.parametrize("workers", [1, 3])
def test_each_batch_has_its_own_structure(workers: int) -> None:
    """Whatever the batch before was made of, and however often it came."""
    dataset = Changing()
    loader = fastload.DataLoader(dataset, batch_size=None, num_workers=workers, collate_fn=as_it_is)

    for index, batch in enumerate(loader):
        assert equal(batch, dataset[index]), dataset.order[index]


def as_it_is(sample):
    """No conversion of arrays."""
    return sample


def test_a_tensor_twice_in_a_batch_stays_one_tensor() -> None:
    """In every batch, also where the structure is known."""
    loader = fastload.DataLoader(
        [[torch.ones(3)]] * 8, batch_size=2, num_workers=1, collate_fn=twin
    )

    for first, second in loader:
        assert first is second


def twin(samples):
    """The same tensor in two places."""
    tensor = samples[0][0]
    return [tensor, tensor]


@pytest.mark.parametrize("name", SHAPES)
def test_a_form_gives_the_same_at_every_use(name: str) -> None:
    """The first by the general way, the others by the short one."""
    batch = SHAPES[name](*leaves(5))
    arena = Arena.create(1, 1 << 16, 1)
    place = SlotPlace(arena, 0)
    form = BatchTemplate(*write_batch(batch, place))

    for _ in range(4):
        assert equal(form.skeleton.assemble(form.view(arena.slot(0))), batch)
    arena.close_descriptor()


def test_leaves_of_every_dimension_keep_their_shape() -> None:
    """From none on; a shape is one argument only where it must be."""
    batch = [torch.ones((2,) * dimensions) for dimensions in range(6)]
    arena = Arena.create(1, 1 << 16, 1)
    form = BatchTemplate(*write_batch(batch, SlotPlace(arena, 0)))

    for _ in range(3):
        assert equal(form.skeleton.assemble(form.view(arena.slot(0))), batch)
    arena.close_descriptor()


def test_a_skeleton_need_not_name_all_leaves() -> None:
    """Two batches that look alike but for a leaf that nothing refers to have two forms."""
    arena = Arena.create(1, 1 << 16, 1)
    before = None
    for count in (2, 2, 2, 3, 3, 3):
        place = SlotPlace(arena, 0)
        tensors = [place.tensor((2,), torch.float32) for _ in range(count)]
        for number, tensor in enumerate(tensors):
            tensor.fill_(number)
        layout, skeleton = write_batch(tensors[:2], place)
        if before is None or before.layout != layout:
            before = BatchTemplate(layout, skeleton, before)
        batch = before.skeleton.assemble(before.view(arena.slot(0)))
        assert [tensor[0].item() for tensor in batch] == [0, 1]
    arena.close_descriptor()


def test_a_tensor_that_is_changed_after_it_was_placed_is_sent_as_it_is() -> None:
    """It is not the leaf any more."""
    arena = Arena.create(1, 1 << 16, 1)
    place = SlotPlace(arena, 0)
    batch = [place.tensor((2,), torch.float32).fill_(1).requires_grad_()]
    form = BatchTemplate(*write_batch(batch, place))
    (tensor,) = form.skeleton.assemble(form.view(arena.slot(0)))

    assert tensor.requires_grad
    assert tensor.tolist() == [1, 1]
    arena.close_descriptor()


def test_a_tensor_that_does_not_fit_beside_the_others() -> None:
    """The batch is written anew: what fits lies in the slot once, the rest comes along."""
    arena = Arena.create(1, 1 << 16, 1)
    place = SlotPlace(arena, 0)
    batch = {"one": torch.full((10_000,), 1.0), "two": torch.full((10_000,), 2.0)}
    layout, skeleton = write_batch(batch, place)
    form = BatchTemplate(layout, skeleton)

    assert len(layout) == 1
    assert place.used_bytes == 40_000
    assert len(skeleton) > 40_000
    for _ in range(3):
        assert equal(form.skeleton.assemble(form.view(arena.slot(0))), batch)
    arena.close_descriptor()


def test_tensors_as_keys() -> None:
    """Each batch has its own."""
    loader = fastload.DataLoader(range(8), batch_size=2, num_workers=1, collate_fn=by_itself)

    for number, batch in enumerate(loader):
        ((key, value),) = batch.items()
        assert key is value
        assert value.tolist() == [2 * number, 2 * number + 1]


def by_itself(samples):
    """A tensor by itself."""
    tensor = torch.tensor(samples)
    return {tensor: tensor}


@pytest.mark.parametrize("make", [list, lambda placed: dict(zip("abc", placed, strict=True))])
def test_placed_leaves_are_written_as_tensors_are(make) -> None:
    """With the same layout and skeleton, in their order and out of it."""
    arena = Arena.create(1, 1 << 16, 1)
    for order in ([0, 1, 2], [2, 0, 1]):
        found = []
        for is_placed in (True, False):
            place = SlotPlace(arena, 0)
            tensors = [place.tensor((2, number), torch.float32) for number in (1, 2, 3)]
            placed = [LeafRef(number) for number in range(3)]
            leaves = placed if is_placed else tensors
            found.append(write_batch(make([leaves[number] for number in order]), place))
        assert found[0][0] == found[1][0]
        assert BatchTemplate(*found[0]).skeleton.assemble(list("xyz")) == BatchTemplate(
            *found[1]
        ).skeleton.assemble(list("xyz"))
    arena.close_descriptor()


def test_what_a_users_container_sees_are_tensors() -> None:
    """A named tuple that looks at its fields when it is made."""
    loader = fastload.DataLoader([Looking(1.0, torch.ones(2))] * 4, batch_size=2, num_workers=1)

    for batch in loader:
        assert type(batch) is Looking
        assert batch.number.sum() == 2


class Looking(namedtuple("Looking", "number tensor")):  # noqa: PYI024
    """Adds up what it is given."""

    def __new__(cls, number, tensor):
        assert isinstance(number, float) or number.sum() + tensor.sum() == 6
        return super().__new__(cls, number, tensor)
