"""Random structures and options: the same batches, order and generator states as torch's."""

import random
from collections import OrderedDict, UserDict, UserList

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch.utils.data import (
    BatchSampler,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from tests.rounds import rounds

from .cases_objects import Bag, FrozenMapping, Pair, Point, Row, Sample, Steps
from .datasets import Draws, Made, keep
from .same import assert_same
from .ways import WAYS, closing

WORKER_WAY = next(way for way in WAYS if way.name == "fastload-fork-persistent")
INLINE_WAY = next(way for way in WAYS if way.name == "fastload-inline")
TORCH_WAY = next(way for way in WAYS if way.name == "torch")

TENSOR_DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64, torch.complex128,
    torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2,
]  # fmt: skip
ARRAY_DTYPES = ["f4", "f8", "f2", "i8", "i4", "i2", "i1", "u1", "?", "c8", "c16", "u2", "u4", "u8"]
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)


def _tensor(index, shape, dtype, layout):
    count = int(np.prod(shape))
    tensor = (torch.arange(count) + index).to(dtype).view(shape)
    if layout == "transposed" and len(shape) > 1:
        return tensor.transpose(0, -1)
    if layout == "sliced" and len(shape) > 0:
        return torch.stack([tensor, tensor], -1)[..., 0]
    if layout == "expanded":
        return tensor.unsqueeze(0).expand(2, *shape)
    if layout == "channels last":
        return (
            tensor.expand(2, 3, *shape[:2], *(2,) * (2 - len(shape[:2]))).contiguous(
                memory_format=torch.channels_last
            )
            if len(shape) == 2
            else tensor
        )
    return tensor


def _array(index, shape, dtype, layout):
    array = (np.arange(int(np.prod(shape))) + index).astype(dtype).reshape(shape)
    if layout == "transposed":
        return array.T
    if layout == "sliced" and len(shape) > 0:
        return np.stack([array, array], -1)[..., 0]
    return array


layouts = st.sampled_from(["dense", "dense", "transposed", "sliced", "expanded", "channels last"])
# A leaf or a container is described by a tuple; `_build` makes the sample of an index from it.
leaves = st.one_of(
    st.tuples(st.just(_tensor), shapes, st.sampled_from(TENSOR_DTYPES), layouts),
    st.tuples(st.just(_array), shapes, st.sampled_from(ARRAY_DTYPES), layouts),
    st.sampled_from(
        [
            (lambda k: k,),
            (lambda k: k / 3,),
            (lambda k: bool(k % 2),),
            (lambda k: "s" * k,),
            (lambda k: bytes([k]),),
            (lambda k: np.float32(k),),
            (lambda k: np.int64(k),),
            (lambda k: -k * 10**15,),
            (lambda k: None,),
            (lambda k: np.uint64(k),),
            (lambda k: 2**70 + k,),
            (lambda k: complex(k, 1),),
        ]
    ),
)
names = st.sampled_from(["a", "b", "c", 1, (2, "d")])


def _containers(children):
    return st.one_of(
        *(
            st.tuples(st.just(kind), st.lists(children, max_size=3))
            for kind in (list, tuple, Pair, Row, Steps, UserList)
        ),
        *(
            st.tuples(st.just(kind), st.lists(children, min_size=2, max_size=2))
            for kind in (Point, Sample)
        ),
        *(
            st.tuples(st.just(kind), st.dictionaries(names, children, max_size=3))
            for kind in (dict, Bag, FrozenMapping, OrderedDict, UserDict)
        ),
    )


trees = st.recursive(leaves, _containers, max_leaves=8)


def _build(tree, index):
    kind, *rest = tree
    if not isinstance(kind, type):
        return kind(index, *rest)
    [content] = rest
    if isinstance(content, dict):
        return kind({name: _build(child, index) for name, child in content.items()})
    children = [_build(child, index) for child in content]
    return kind(*children) if kind in (Point, Sample) else kind(children)


class _Trees(IterableDataset):
    def __init__(self, tree, length):
        self.tree, self.length = tree, length

    def __iter__(self):
        return (_build(self.tree, index) for index in range(self.length))


def _states():
    numpy_state = np.random.get_state(legacy=False)["state"]
    return [torch.get_rng_state(), list(numpy_state.values()), random.getstate()]


def _run(make, dataset, options, seed):
    """Two epochs and the generators' states; an exception stands for its epoch."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    trace = []
    with closing(make(dataset, **options)) as loader:
        for _ in range(2):
            try:
                trace.append(list(loader))
            except Exception as error:
                print(f"{type(loader)} raised {error!r}")
                trace.append(type(error).__name__)
            trace.append(_states())
    return trace


def fuzzing(examples):
    """The same examples each time, not made smaller: each one starts processes."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.parametrize(
    "loading",
    [pytest.param(TORCH_WAY, marks=pytest.mark.exhaustive), INLINE_WAY, WORKER_WAY],
    ids=str,
)
@fuzzing(rounds(12, 40))
@given(
    tree=trees,
    length=st.integers(1, 11),
    batch_size=st.none() | st.integers(1, 5),
    choice=st.fixed_dictionaries(
        {"drop_last": st.booleans(), "shuffle": st.booleans(), "keeps": st.booleans()}
    ),
    seed=st.integers(0, 2**40),
)
def test_random_structures_and_options_equal_torch(loading, tree, length, batch_size, choice, seed):
    """Whatever the samples and options, all epochs and generators equal torch's."""
    options = {"batch_size": batch_size, "shuffle": choice["shuffle"]}
    if batch_size is not None:
        options["drop_last"] = choice["drop_last"]
    if choice["keeps"]:
        options["collate_fn"] = keep
    dataset = Made(length, lambda index: _build(tree, index))
    expected = _run(loading.reference, dataset, options, seed)
    assert_same(_run(loading.loader, dataset, options, seed), expected)


SAMPLING = [
    *("subset", "weighted", "replaced", "backwards", "generator", "distributed"),
    *("batches", "uneven batches"),
]


def _sampling(kind, length, seed):
    """Options that say which samples come, for a dataset of this length."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "subset": {"sampler": SubsetRandomSampler(range(0, length, 2), generator=generator)},
        "weighted": {"sampler": WeightedRandomSampler([1.0 + k for k in range(length)], 7)},
        "replaced": {"sampler": RandomSampler(range(length), replacement=True, num_samples=9)},
        "backwards": {"sampler": range(length - 1, -1, -1)},
        "generator": {"shuffle": True, "generator": generator},
        "distributed": {"sampler": DistributedSampler(range(length), 2, 1, seed=seed % 100)},
        "batches": {"batch_sampler": BatchSampler(range(length), 2, drop_last=True)},
        "uneven batches": {"batch_sampler": [[0], [length - 1, 0, 0]]},
    }[kind]


@pytest.mark.parametrize("loading", [INLINE_WAY, WORKER_WAY], ids=str)
@fuzzing(rounds(10, 30))
@given(
    kind=st.sampled_from(SAMPLING),
    length=st.integers(1, 11),
    batch_size=st.none() | st.integers(1, 5),
    workers=st.fixed_dictionaries(
        {"num_workers": st.integers(1, 3), "prefetch_factor": st.integers(1, 4)},
        optional={"persistent_workers": st.just(False)},
    ),
    seed=st.integers(0, 2**40),
)
def test_random_samplers_and_workers_equal_torch(loading, kind, length, batch_size, workers, seed):
    """Datasets that draw see the same numbers, whatever the sampler and the workers."""

    def options():
        chosen = _sampling(kind, length, seed)
        if "batch_sampler" not in chosen:
            chosen["batch_size"] = batch_size
        return {**chosen, **(workers if loading.has_workers else {})}

    expected = _run(loading.reference, Draws(length), options(), seed)
    assert_same(_run(loading.loader, Draws(length), options(), seed), expected)


@fuzzing(rounds(6, 15))
@given(
    tree=trees, length=st.integers(0, 11), batch_size=st.none() | st.integers(1, 5), seed=st.just(1)
)
def test_random_streams_equal_torch(tree, length, batch_size, seed):
    """Streams of random samples come as torch gives them, with one worker and without."""
    dataset, options = _Trees(tree, length), {"batch_size": batch_size}
    for way, workers in ((INLINE_WAY, {}), (WORKER_WAY, {"num_workers": 1})):
        expected = _run(way.reference, dataset, {**options, **workers}, seed)
        assert_same(_run(way.loader, dataset, {**options, **workers}, seed), expected)
