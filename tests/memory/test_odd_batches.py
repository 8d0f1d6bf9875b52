"""Batches in which code of the user's takes part: reducers, containers, tensors of other kinds."""

from __future__ import annotations

import collections
import copyreg
import dataclasses
import gc
import typing
import weakref
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

import fastload
from fastload._memory.leaves import leaves, size_bytes
from tests.start_methods import METHODS


class Handle:
    """Crosses processes by what is registered for it, and in no other way."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __reduce__(self):
        raise TypeError("a Handle crosses processes only by its registered reducer")


def reduce_handle(handle: Handle):
    return Handle, (handle.value,)


class RegistersLate(Dataset):
    """Its second half needs a library, which registers a reducer when it is imported."""

    def __init__(self, register) -> None:
        self.register = register

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int):
        if index < 4:
            return torch.tensor(index)
        self.register(Handle, reduce_handle)
        return Handle(index)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("register", [ForkingPickler.register, copyreg.pickle])
@pytest.mark.parametrize("keeps", [False, True])
def test_a_reducer_that_is_registered_after_the_first_batch_is_used(
    method, register, keeps
) -> None:
    """In multiprocessing's registry and in copyreg's, with workers that are kept or not."""
    loader = fastload.DataLoader(
        RegistersLate(register),
        batch_size=2,
        num_workers=1,
        collate_fn=list,
        multiprocessing_context=method,
        persistent_workers=keeps,
    )

    for _ in range(2):
        kinds = [type(batch[0]).__name__ for batch in loader]
        assert kinds == ["Tensor", "Tensor", "Handle", "Handle"]


def reduce_reversed(array: np.ndarray):
    return np.array, (array[::-1].tolist(),)


def reduce_negative(tensor: torch.Tensor):
    return torch.tensor, ((-tensor).tolist(),)


def register_reversed(_worker_id: int) -> None:
    copyreg.pickle(np.ndarray, reduce_reversed)


def register_negative(_worker_id: int) -> None:
    ForkingPickler.register(torch.Tensor, reduce_negative)


@pytest.mark.parametrize(
    ("register", "sample", "expected"),
    [
        (register_reversed, np.array([1, 2, 3]), [3, 2, 1]),
        (register_negative, torch.tensor([1, 2, 3]), [-1, -2, -3]),
    ],
)
def test_a_reducer_for_arrays_or_tensors_comes_before_ours(register, sample, expected) -> None:
    """Whoever registers one wants it to be used."""
    loader = fastload.DataLoader(
        [sample] * 2, batch_size=None, num_workers=1, worker_init_fn=register, collate_fn=list_of
    )

    assert [each.tolist() for (each,) in loader] == [expected] * 2


def list_of(sample):
    return [sample]


def a_list(samples):
    batch = [torch.stack(samples)]
    batch.append(batch)
    return batch


def a_dict(samples):
    batch = {0: torch.stack(samples)}
    batch[1] = batch
    return batch


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("collate_fn", [a_list, a_dict])
def test_a_batch_that_holds_itself_arrives(method, collate_fn) -> None:
    """As pickle has no trouble with it, nobody else may have."""
    loader = fastload.DataLoader(
        [torch.ones(2)] * 4,
        batch_size=2,
        num_workers=1,
        collate_fn=collate_fn,
        multiprocessing_context=method,
    )

    for batch in loader:
        assert batch[1] is batch
        assert batch[0].tolist() == [[1, 1], [1, 1]]


def test_what_is_counted_of_a_batch_that_holds_itself_is_counted_once() -> None:
    """Its size is that of its tensors, in their order."""
    first, second = torch.zeros(2), torch.ones(3)
    batch: list[object] = [first, {"second": second}]
    batch.append(batch)

    assert [leaf is each for leaf, each in zip(leaves(batch), (first, second), strict=True)]
    assert size_bytes(batch) == 20


def test_deep_batches_are_counted() -> None:
    """A chain of containers may be longer than Python's stack."""
    batch: object = torch.zeros(1)
    for _ in range(5000):
        batch = [batch]

    assert size_bytes(batch) == 4


Pair = collections.namedtuple("Pair", "x y")  # noqa: PYI024  (what is made without typing)


class Reduced(Pair):
    def __reduce__(self):
        return Reduced, (self.x.float(), self.y + 0)


class WithArguments(Pair):
    def __getnewargs__(self):
        return self.x.clone(), self.y.clone()


class WithState(Pair):
    def __getstate__(self):
        return {"n": len(self.x)}


class Registered(Pair):
    pass


copyreg.pickle(Registered, lambda each: (Registered, (each.x.clone(), each.y)))


class Iterated(Pair):
    def __iter__(self):
        return iter([self[0].float() if torch.is_tensor(self[0]) else self[0], self[1]])


class Typed(typing.NamedTuple):
    x: torch.Tensor
    y: int

    def __reduce__(self):
        return Typed, (self.x.clone(), self.y + 0)


class Plain(Pair):
    """As most are derived: a docstring, a property."""

    __slots__ = ()

    @property
    def both(self):
        return self.x, self.y


class Dict(dict):
    def __reduce__(self):
        return Dict, ({key: value.clone() for key, value in self.items()},)


def ordered(x, y):
    return collections.OrderedDict(x=x, y=y)


class Ordered(collections.OrderedDict):
    def __reduce__(self):
        return Ordered, ([(key, value.clone()) for key, value in self.items()],)


class Made(Dataset):
    def __init__(self, make) -> None:
        self.make = make

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int):
        return self.make(torch.full((3,), float(index)), torch.tensor(index))


def make_dict(x, y):
    return Dict(x=x, y=y)


def make_ordered(x, y):
    return Ordered(x=x, y=y)


KINDS = [Reduced, WithArguments, WithState, Registered, Iterated, Typed, Plain]


@pytest.mark.parametrize("make", [*KINDS, make_dict, make_ordered], ids=lambda make: make.__name__)
def test_methods_of_a_users_container_see_tensors_only(make) -> None:
    """However pickle calls them: what stands for a tensor in the slot is nobody else's business."""
    for batch in fastload.DataLoader(Made(make), batch_size=4, num_workers=1):
        assert type(batch) is type(make(torch.zeros(1), 0))
        x, y = (batch["x"], batch["y"]) if isinstance(batch, dict) else (batch[0], batch[1])
        assert x[:, 0].tolist() == y.tolist()


def register_ordered(_worker_id: int) -> None:
    copyreg.pickle(collections.OrderedDict, reduce_ordered)


def reduce_ordered(batch):
    return dict, ([(key, value.clone()) for key, value in batch.items()],)


def test_a_reducer_for_a_container_of_pythons_sees_tensors_only() -> None:
    """Also where our own walk makes that container."""
    loader = fastload.DataLoader(
        Made(ordered), batch_size=4, num_workers=1, worker_init_fn=register_ordered
    )

    assert [type(batch) for batch in loader] == [dict, dict]


class Sequences(Dataset):
    """Sequences in a container of the user's."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int):
        return Watched(x=torch.arange(index + 1))


class Watched(dict):
    def update(self, other):
        assert all(torch.is_tensor(value) for value in other.values())
        super().update(other)

    def __reduce__(self):
        return Watched, (dict(self),)


def test_a_container_of_the_users_is_given_nested_tensors() -> None:
    """And not what stands for one on its way to the training process."""
    loader = fastload.DataLoader(
        Sequences(), batch_size=4, num_workers=1, collate_fn=fastload.ragged
    )

    (batch,) = loader

    assert [each.tolist() for each in batch["x"].unbind()] == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]


class Image(torch.Tensor):
    """As tensors that carry metadata are."""


@dataclasses.dataclass
class Record:
    image: torch.Tensor
    again: torch.Tensor


def images(samples):
    batch = torch.stack(samples).as_subclass(Image)
    batch.origin = "here"
    return Record(batch, batch[:1])


def test_a_tensor_of_a_subclass_arrives_with_its_attributes_and_in_its_storage() -> None:
    """Two of one storage are two of one storage again."""
    loader = fastload.DataLoader(
        [torch.full((100, 100), 3.0)] * 4, batch_size=2, num_workers=1, collate_fn=images
    )

    for record in loader:
        assert type(record.image) is type(record.again) is Image
        assert record.image.origin == "here"
        assert record.image.shape == (2, 100, 100)
        record.image[0, 0, 0] = 5
        assert record.again[0, 0, 0] == 5
        assert record.image.sum() == 3.0 * 20_000 + 2


def test_a_tensor_that_a_transform_has_wrapped_is_not_read_by_its_address() -> None:
    """It has no memory of its own: torch says that it can't be pickled."""
    from fastload._memory.write import has_plain_bytes, is_plain

    found = []

    def look(tensor):
        found.append((type(tensor), has_plain_bytes(tensor), is_plain(tensor)))
        return tensor

    torch.func.vmap(look)(torch.zeros(2, 3))
    look(torch._to_functional_tensor(torch.zeros(3)))
    look(torch.zeros(3, device="meta"))
    look(torch.zeros(3).to_sparse())
    look(torch.zeros(3).to_mkldnn())

    assert found == [(torch.Tensor, False, False)] * 5


class Sparse:
    """Each sample is a sparse tensor."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        dense = torch.eye(4) * index
        return dense.to_sparse(), dense.to_sparse_csr()


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_sparse_tensors_are_freed_when_the_loop_is_done_with_them(method):
    """Torch keeps a list of those that were unpickled until its next ``load``; ours leave it."""
    before = len(torch._utils._sparse_tensors_to_validate)
    loader = fastload.DataLoader(
        Sparse(), batch_size=None, num_workers=1, multiprocessing_context=method
    )
    seen = weakref.WeakSet()
    for batch in loader:
        seen.update(batch)
    del batch
    gc.collect()
    assert len(torch._utils._sparse_tensors_to_validate) == before
    assert not seen


def test_sparse_tensors_in_shared_containers_and_datasets_are_freed():
    """So are those that a process unpickles with a dataset, or reads from a shared list."""
    before = len(torch._utils._sparse_tensors_to_validate)
    shared = fastload.SharedList([torch.eye(4).to_sparse()])
    assert torch.equal(shared[0].to_dense(), torch.eye(4))
    assert len(torch._utils._sparse_tensors_to_validate) == before
