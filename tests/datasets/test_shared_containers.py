"""Shared containers behave as what they were made of, and cost memory once."""

from __future__ import annotations

import copy
import gc
import itertools
import multiprocessing
import os
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset

from fastload import DataLoader, SharedDict, SharedList
from tests.start_methods import METHODS

COLUMNS = {
    "empty": [],
    "int": [3, -1, 2**63 - 1, -(2**63)],
    "huge int": [1, 2**63],
    "float": [1.5, float("-inf"), -0.0],
    "bool": [True, False],
    "None": [None, None],
    "str": ["a", "", "ü", "\ud800", "x" * 100_000],
    "bytes": [b"", b"\0", b"abc"],
    "only empty": [b"", b""],
    "tuple": [("path", 3), ("other", 4)],
    "list": [[1, [2, []]], []],
    "dict": [{"boxes": [(0, 1)], "label": None}, {}],
    "mixed": [1, True, 1.0, "1", b"1", None, (1,), {1: {2}}],
}


@pytest.fixture(params=COLUMNS)
def items(request):
    return COLUMNS[request.param]


def test_list_gives_equal_objects_of_equal_types(items) -> None:
    """Whatever the layout, what comes out is what went in."""
    shared = SharedList(items)
    assert [(type(item), item) for item in shared] == [(type(item), item) for item in items]
    assert shared == items
    assert shared == SharedList(items)
    assert (shared != items) is False
    assert len(shared) == len(items)


def test_list_is_indexed_as_a_list(items) -> None:
    """Every index and every slice, and the same errors beyond."""
    shared = SharedList(items)
    for index in range(-len(items), len(items)):
        assert shared[index] == items[index]
    for part in (slice(None), slice(1, None), slice(None, None, -1), slice(-2, 9), slice(0, 9, 2)):
        assert shared[part] == items[part]
        assert shared[part][::-1] == items[part][::-1]
    for index in (len(items), -len(items) - 1):
        with pytest.raises(IndexError, match="list index out of range"):
            shared[index]


@pytest.mark.parametrize("index", ["a", 1.0, None])
def test_wrong_index_is_a_type_error(index) -> None:
    """With a list's own words."""
    with pytest.raises(TypeError, match="list indices must be integers or slices, not"):
        SharedList([1])[index]


def test_list_can_be_searched() -> None:
    """``in``, ``index``, ``count`` and ``reversed``."""
    shared = SharedList(["b", "a", "b"])
    assert "a" in shared
    assert "c" not in shared
    assert (shared.index("b"), shared.count("b")) == (0, 2)
    assert list(reversed(shared)) == ["b", "a", "b"]
    with pytest.raises(ValueError):
        shared.index("c")


def test_list_equals_nothing_but_a_list() -> None:
    """As ``[1] != (1,)``."""
    assert SharedList([1]) != (1,)
    assert SharedList([1]) != [1, 2]
    assert SharedList([1]) != [2]
    nan = float("nan")
    assert SharedList([nan]) != [nan], "the object that comes out is another one"


def test_nothing_can_be_assigned() -> None:
    """Both are read-only, to Python and to what is below it."""
    for shared in (SharedList([1]), SharedDict({0: 1})):
        with pytest.raises(TypeError, match="does not support item assignment"):
            shared[0] = 2
        with pytest.raises(TypeError, match="item deletion"):
            del shared[0]
        assert all(chunk.readonly for chunk in shared._frozen.chunks)
        with pytest.raises(OSError, match="Operation not permitted"):
            os.pwrite(shared._frozen.descriptor, b"x", 0)


def test_list_takes_any_iterable() -> None:
    """A generator, a tuple, another shared list."""
    assert SharedList(k for k in range(3)) == [0, 1, 2]
    assert SharedList((1, 2)) == [1, 2]
    assert SharedList(SharedList(["a"])) == ["a"]


def test_object_that_cannot_be_pickled_is_named_by_its_position() -> None:
    """The error is pickle's own, with a note."""
    with pytest.raises((AttributeError, pickle.PicklingError, TypeError)) as caught:
        SharedList([1, lambda: 2])
    assert "position 1" in "".join(caught.value.__notes__)


KEYED = {
    "empty": {},
    "str": {"a": 1, "": 2, "ü": 3},
    "int": {k * 4096: str(k) for k in range(-50, 50)},
    "bytes": {b"a": [1], b"": [2]},
    "mixed": {"a": 1, b"a": 2, 1: 3, None: 4, ("x", 1): 5, 1.5: 6, (): 7, 2**80: 8, 1j: 9},
}


@pytest.mark.parametrize("name", KEYED)
def test_dict_behaves_as_the_dict(name) -> None:
    """Look-up, order, views, equality, absence."""
    original = KEYED[name]
    shared = SharedDict(original)
    assert {key: shared[key] for key in original} == original
    assert shared == original
    assert original == shared
    assert list(shared) == list(original)
    assert list(shared.values()) == list(original.values())
    assert list(shared.items()) == list(original.items())
    assert len(shared) == len(original)
    assert list(shared.items()) == list(SharedDict(original.items()).items())
    for absent in ("zz", -1, object(), ("x", 2), frozenset()):
        assert absent not in shared
        assert shared.get(absent, "none") == "none"
        with pytest.raises(KeyError) as caught:
            shared[absent]
        assert caught.value.args == (absent,)


def test_equal_numbers_are_one_key() -> None:
    """As with any dict: 1, 1.0 and True."""
    shared = SharedDict({1: "one", 0.0: "zero"})
    assert (shared[1.0], shared[True], shared[False], shared[-0.0]) == (
        "one",
        "one",
        "zero",
        "zero",
    )


def test_unhashable_key_is_a_type_error() -> None:
    """As with any dict."""
    with pytest.raises(TypeError, match="unhashable"):
        SharedDict({1: 2})[[1]]
    with pytest.raises(TypeError, match="unhashable"):
        _ = ([1],) in SharedDict({1: 2})


def test_key_without_a_stable_hash_is_refused() -> None:
    """The error names the key and what keys may be."""
    with pytest.raises(TypeError, match=r"str, bytes, numbers, None, or tuples .* frozenset"):
        SharedDict({frozenset(): 1})


OBJECTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
)
KEYS = st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.tuples(inner, inner),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(OBJECTS), st.dictionaries(KEYS, OBJECTS))
def test_any_content_survives(items, pairs) -> None:
    """Nested containers of all kinds, and a pickle of them."""
    for shared, original in ((SharedList(items), items), (SharedDict(pairs), pairs)):
        assert shared == original
        assert pickle.loads(pickle.dumps(shared)) == original


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_holds_the_content(protocol: int) -> None:
    """What is saved can be read when this process is gone: the content itself is in it."""
    items = ["needle", "hay"]
    pickled = pickle.dumps((SharedList(items), SharedDict({"needle": 1})), protocol)
    assert pickled.count(b"needle") == 2
    assert pickle.loads(pickled) == (items, {"needle": 1})


def test_copies_are_the_object_itself() -> None:
    """Nothing can change it, so nothing is copied."""
    for shared in (SharedList([1]), SharedDict({1: 2})):
        assert copy.copy(shared) is shared
        assert copy.deepcopy({"inside": shared})["inside"] is shared


def test_slice_outlives_its_list() -> None:
    """The memory stays for as long as anything reads it."""
    part = SharedList(["a", "b", "c"])[1:]
    gc.collect()
    assert part == ["b", "c"]


def _same_file(shared) -> tuple[int, int]:
    state = os.fstat(shared._frozen.descriptor)
    return state.st_dev, state.st_ino


class Reading(Dataset):
    """Gives what its containers hold, and which file they lie in."""

    def __init__(self, lock=None) -> None:
        self.names = SharedList([f"name {k}" for k in range(8)])
        self.sizes = SharedDict({f"name {k}": k for k in range(8)})
        self.lock = lock

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int):
        name = self.names[index]
        return name, self.sizes[name], _same_file(self.names), _same_file(self.sizes)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("lock", [False, True])
def test_workers_see_the_same_file(method: str, lock: bool) -> None:
    """Nothing is copied on the way to a worker, in a shared pickle or (with a lock) beside it."""
    context = multiprocessing.get_context(method)
    dataset = Reading(context.Lock() if lock else None)
    with DataLoader(
        dataset, num_workers=2, collate_fn=list, multiprocessing_context=method
    ) as loader:
        expected = _same_file(dataset.names), _same_file(dataset.sizes)
        assert list(loader) == [[(f"name {k}", k, *expected)] for k in range(8)]


class Samples(Dataset):
    """A million strings; each sample is the string's length and, now and then, a report."""

    def __init__(self, make) -> None:
        self.names = make(f"train/class_{k % 1000:04d}/image_{k:08d}.jpeg" for k in range(10**6))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> int:
        return len(self.names[index])


def _private_bytes() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def _with_memory(lengths: list[int]) -> tuple[torch.Tensor, int, int]:
    return torch.tensor(lengths), os.getpid(), _private_bytes()


def growth_of_workers(make) -> list[int]:
    """Bytes of private memory that each worker gained over one shuffled epoch."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    with DataLoader(
        Samples(make), 5_000, shuffle=True, num_workers=2, collate_fn=_with_memory
    ) as loader:
        # Not the last ones: when a worker leaves, what it shared with the other is that one's own.
        for lengths, worker, private_bytes in itertools.islice(loader, 180):
            assert lengths.sum() == 5_000 * len("train/class_0000/image_00000000.jpeg")
            first.setdefault(worker, private_bytes)
            last[worker] = private_bytes
    return [last[worker] - first[worker] for worker in first]


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs smaps_rollup")
def test_million_strings_do_not_grow_the_workers() -> None:
    """Under 10 MiB a worker in a shuffled epoch, where a list is copied page by page."""
    assert max(growth_of_workers(SharedList)) < 10 * 2**20
    assert min(growth_of_workers(list)) > 30 * 2**20
