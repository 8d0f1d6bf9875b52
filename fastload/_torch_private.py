"""Every private name of torch that fastload uses, in one place, and what for.

The tests of ``tests/contract`` fail when one of them changes its meaning. Written against torch
2.13.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.multiprocessing import reductions as _reductions
from torch.utils import _python_dispatch
from torch.utils._device import DeviceContext
from torch.utils.data import dataloader as _dataloader
from torch.utils.data._utils import collate as _collate
from torch.utils.data._utils import pin_memory as _pin_memory
from torch.utils.data._utils import worker as _worker

MultiProcessingIterator: Any = _dataloader._MultiProcessingDataLoaderIter
"""Base of our iterator with workers: trainers test for it by ``isinstance``."""

SingleProcessIterator: Any = _dataloader._SingleProcessDataLoaderIter
"""Base of our iterator without workers, likewise."""

BaseIterator: Any = _dataloader._BaseDataLoaderIter
"""Its ``__init__`` and ``_reset`` draw the seeds and start the sampler as torch does."""

is_iterable_kind: Any = _dataloader._DatasetKind.Iterable
"""Value of ``loader._dataset_kind`` for iterable-style datasets."""

is_map_kind: Any = _dataloader._DatasetKind.Map
"""Value of ``loader._dataset_kind`` for map-style datasets."""

InfiniteSampler: Any = _dataloader._InfiniteConstantSampler
"""What an iterable-style dataset has in a sampler's place."""

sharding_worker_init_fn: Any = _dataloader._sharding_worker_init_fn
"""Shards torch's IterDataPipes over ranks and workers."""

collate_module: Any = _collate
"""The walk over containers and the registry of kernels by type."""

worker_module: Any = _worker
"""Where ``get_worker_info`` looks."""

numpy_seed: Any = _worker._generate_state
"""NumPy's seed in a worker, of the base seed and the worker's number."""


def thread_generators(base_seed: int, worker_id: int) -> Any:
    """What ``get_worker_info().rng`` is in a thread: generators of its own, seeded as a worker's.

    ``torch.random.thread_safe_generator`` hands them out; None where torch has no such thing yet.
    """
    make = getattr(_worker, "_RNG", None)
    if make is None:
        return None
    seed = base_seed + worker_id
    return make(
        random_generator=random.Random(seed),
        torch_generator=torch.Generator().manual_seed(seed),
        numpy_generator=np.random.default_rng(numpy_seed(base_seed, worker_id)),
    )


function_modes: Any = torch._C._len_torch_function_stack
"""How many modes change what functions do; a default device other than torch's is one."""

dispatch_modes: Any = torch._C._len_torch_dispatch_stack
"""How many modes change what operations do, such as ``FakeTensorMode``."""

without_dispatch_modes: Any = _python_dispatch._disable_current_modes
"""A context in which none of these modes does anything."""

_unchecked_sparse: list[Any] = getattr(torch._utils, "_sparse_tensors_to_validate", [])
"""Where torch puts each sparse tensor that is unpickled, until the next ``torch.load``."""


def unpickled(load: Callable[[], Any]) -> Any:
    """Return what ``load`` unpickles, without leaving its sparse tensors in that list.

    Whoever unpickles without ``torch.load`` has to take them out again: they would never be freed.
    """
    before = len(_unchecked_sparse)
    try:
        return load()
    finally:
        if len(_unchecked_sparse) > before:
            del _unchecked_sparse[before:]


dispatch_keys: Any = torch._C._dispatch_keys
"""What decides how torch treats one tensor: its device and layout, and what wraps it."""


def tensor_modes() -> bool:
    """Whether anything changes what functions or operations of torch do in this thread."""
    return bool(function_modes() or dispatch_modes())


def only_mode_is_cpu_device() -> bool:
    """Whether all that is changed is the default device, and that to the CPU."""
    return (
        not dispatch_modes()
        and function_modes() == 1
        and type(torch._C._get_function_stack_at(0)) is DeviceContext
        and torch.get_default_device().type == "cpu"
    )


def fake_mode() -> Any:
    """The ``FakeTensorMode`` of this thread, under which tensors have no content, or None."""
    if not dispatch_modes():
        return None
    return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE)


def _plain_keys() -> frozenset[int]:
    """The keys of ordinary dense CPU tensors; those made in inference mode have fewer."""
    found = set()
    for is_inference in (False, True):
        with torch.inference_mode(is_inference):
            tensor = torch.frombuffer(bytearray(1), dtype=torch.uint8)
            found.add(dispatch_keys(tensor).raw_repr())
    return frozenset(found)


def _lazy_keys() -> set[int]:
    """What is added to these keys where an operation is put off, in every combination."""
    combined = {0}
    for name in ("Conjugate", "Negative", "ZeroTensor"):
        key = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, name)).raw_repr()
        combined |= {other | key for other in combined}
    return combined


PLAIN_CPU_KEYS = _plain_keys()
"""Of tensors whose memory holds their elements."""

DENSE_CPU_KEYS = frozenset(plain | lazy for plain in PLAIN_CPU_KEYS for lazy in _lazy_keys())
"""Of those, and of tensors that are conjugated, negated or filled with zeros only when read."""

reduce_typed_storage: Any = _reductions.reduce_typed_storage
"""Pickles a storage with a dtype by the storage of bytes in it, without a file of torch's."""

set_thread_name: Any = torch.multiprocessing._set_thread_name
"""What tools such as ``top`` show a worker as."""

pin_memory: Any = _pin_memory.pin_memory
"""Copies a batch into page-locked memory, through every container."""

profiler_enabled: Any = torch.autograd._profiler_enabled  # type: ignore[attr-defined]
"""Whether a profiler records; without one, an event costs 6 microseconds a batch for nothing."""

StorageWeakRef: Any = _reductions.StorageWeakRef
"""Tells whether any tensor still uses a storage."""


def jagged(values: Any, offsets: Any, shortest: int, longest: int) -> Any:
    """A nested tensor, made as torch makes one that it unpickles.

    The public ``nested_tensor_from_jagged`` makes a view, which takes four times as long.
    """
    from torch.nested._internal.nested_tensor import NestedTensor  # takes long to import

    lengths = {
        "min_seqlen": torch.empty(shortest, 0, device="cpu"),
        "max_seqlen": torch.empty(longest, 0, device="cpu"),
    }
    return NestedTensor(values, offsets, _metadata_cache=lengths)
