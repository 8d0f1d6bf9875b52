"""What every trainer may rely on, R1 to R18: one test, or more, named after each.

Trainers read attributes, rebuild loaders from them, copy their `__dict__`, test for torch's
classes, keep batches, and drop iterators to end workers. R4 is also held by `test_replace.py` for
all combinations of options, R11 by `test_torchdata.py`, R16 by `tests/contract`.
"""

from __future__ import annotations

import copy
import gc
import inspect
import os
import pickle
import weakref
from pathlib import Path

import pytest
import torch
import torch.utils.data
from torch.utils.data import DistributedSampler, get_worker_info
from torch.utils.data.dataloader import (
    _MultiProcessingDataLoaderIter,
    _SingleProcessDataLoaderIter,
    default_collate,
)

import fastload
from fastload import DataLoader
from tests.rounds import rounds

from .data import BATCH, LENGTH, Numbers, Stream, rows

TORCH = torch.utils.data.DataLoader
PERSISTENT = {"num_workers": 2, "persistent_workers": True}
THREADS = {**PERSISTENT, "worker_method": "thread"}
WAYS = [{}, {"num_workers": 2}, PERSISTENT, THREADS]
OURS = {
    *("memory_limit", "snapshot_every_n_steps"),
    *("max_worker_restarts", "on_error", "max_errors"),
    *("seed", "num_replicas", "rank", "even", "redo", "worker_method"),
    *("concurrent_samples", "workers_per_batch", "device"),
}


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_r1_loader_has_every_attribute_of_torchs(options) -> None:
    """A direct subclass, with torch's attributes, private ones too, and their values."""
    assert DataLoader.__bases__[0] is TORCH
    torchs = {name: value for name, value in options.items() if name not in OURS}
    loader = DataLoader(Numbers(), batch_size=BATCH, **options)
    reference = TORCH(Numbers(), batch_size=BATCH, **torchs)
    assert vars(loader).keys() - vars(reference).keys() == OURS | {"_live", "_own_order"}
    for name, value in vars(reference).items():
        if name not in ("dataset", "sampler", "batch_sampler"):
            assert getattr(loader, name) == value, name
    assert loader._DataLoader__initialized


def test_r2_signature_is_torchs_then_keywords() -> None:
    """No bare ``*args``, no extra without a default."""
    ours = list(inspect.signature(DataLoader.__init__).parameters.values())
    torchs = list(inspect.signature(TORCH.__init__).parameters.values())
    assert [(p.name, p.kind, p.default) for p in ours[: len(torchs)]] == [
        (p.name, p.kind, p.default) for p in torchs
    ]
    extras = ours[len(torchs) :]
    assert {p.name for p in extras} == OURS
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in extras)


@pytest.mark.parametrize(("name", "value"), [("memory_limit", 1 << 20), ("memory_limit", None)])
def test_r3_extra_options_are_public_attributes_as_given(name, value) -> None:
    """In ``vars``, not resolved, also after an epoch."""
    loader = DataLoader(Numbers(), num_workers=1, **{name: value})
    rows(loader)
    assert vars(loader)[name] is value


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_r4_loader_made_of_its_attributes_gives_the_same_batches(options) -> None:
    """With the default collate function passed back, and torch's resolved prefetch factor."""
    loader = DataLoader(Numbers(), BATCH, sampler=range(9), **options)
    names = set(inspect.signature(DataLoader.__init__).parameters) - {"self", "shuffle"}
    arguments = {name: getattr(loader, name) for name in names - {"batch_sampler"}}
    with loader, DataLoader(**arguments) as again:
        assert rows(again) == rows(loader)


def test_r5_collate_function_works_in_torchs_loader() -> None:
    """It is torch's own, which Accelerate and Ray hand on."""
    loader = DataLoader(Numbers(), BATCH)
    assert loader.collate_fn is default_collate
    assert rows(TORCH(Numbers(), BATCH, collate_fn=loader.collate_fn)) == rows(loader)
    pickle.dumps(loader.collate_fn)


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_r6_loading_writes_no_attribute_but_the_iterator(options) -> None:
    """Lightning replays on a copy what was written after the constructor."""
    written = []

    class Watched(DataLoader):
        def __setattr__(self, name, value) -> None:
            written.append(name)
            super().__setattr__(name, value)

    with Watched(Numbers(), BATCH, **options) as loader:
        written.clear()
        rows(loader)
        next(iter(loader))
        loader.load_state_dict(loader.state_dict())
        rows(loader)
        loader.stats()
        assert set(written) <= {"_iterator"}


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_r6_copies_share_nothing_that_is_alive(copied) -> None:
    """Neither workers nor the place in an epoch."""
    with DataLoader(Numbers(), BATCH, **PERSISTENT) as loader:
        next(iter(loader))
        with copied(loader) as other:
            assert other._iterator is None
            assert other.state_dict()["_num_yielded"] == 0
            assert rows(other) == rows(loader)


class Scaled(Numbers):
    """Sample k is k times a factor."""

    factor = 1

    def __getitem__(self, index):
        return self.factor * index


def _scale_by_ten(worker_id: int) -> None:
    get_worker_info().dataset.factor = 10


def test_r7_attributes_are_read_when_an_epoch_begins() -> None:
    """Collate function, worker_init_fn, samplers within, context and timeout."""
    loader = DataLoader(Scaled(9), batch_size=3, num_workers=1, collate_fn=list)
    loader.collate_fn = sum
    assert list(loader) == [3, 12, 21]
    loader.batch_sampler.sampler = [1, 1, 2]
    assert list(loader) == [4]
    loader.worker_init_fn = _scale_by_ten
    assert list(loader) == [40]
    loader.multiprocessing_context = "fork"
    loader.timeout = 30
    assert list(loader) == [40]


def test_r7_generator_set_later_is_the_one_that_draws() -> None:
    """Accelerate sets it on the sampler of a loader that exists."""
    drawn = []
    for loader_class in (TORCH, DataLoader):
        loader = loader_class(Numbers(), BATCH, shuffle=True)
        loader.sampler.generator = torch.Generator().manual_seed(8)
        loader.generator = torch.Generator().manual_seed(9)
        drawn.append(rows(loader))
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(
    "name", ["batch_size", "batch_sampler", "sampler", "drop_last", "dataset", "persistent_workers"]
)
def test_r8_what_torch_guards_is_guarded(name) -> None:
    """With torch's error."""
    with pytest.raises(ValueError, match="should not be set after DataLoader is initialized"):
        setattr(DataLoader(Numbers()), name, 1)


def test_r9_iterators_are_of_torchs_classes() -> None:
    """And `_iterator` is None unless workers persist."""
    assert isinstance(iter(DataLoader(Numbers())), _SingleProcessDataLoaderIter)
    loader = DataLoader(Numbers(), num_workers=1)
    iterator = iter(loader)
    assert isinstance(iterator, _MultiProcessingDataLoaderIter)
    assert iter(iterator) is iterator
    assert len(iterator) == LENGTH
    assert loader._iterator is None
    iterator._shutdown_workers()
    iterator._shutdown_workers()


@pytest.mark.parametrize("options", WAYS[1:], ids=str)
def test_r9_workers_end_with_the_last_reference(options) -> None:
    """Dropping `_iterator` is how trainers end persistent workers."""
    loader = DataLoader(Numbers(), **options)
    iterator = iter(loader)
    next(iterator)
    workers = list(iterator._workers)
    gone = weakref.ref(iterator)
    loader._iterator = None
    del iterator
    gc.collect()
    assert gone() is None
    for worker in workers:
        worker.join(60)
        assert not worker.is_alive()
    assert not hasattr(DataLoader, "__del__")


def test_r10_length_is_torchs() -> None:
    """TypeError where the dataset has none."""
    assert len(DataLoader(Numbers(), BATCH)) == 6
    assert len(DataLoader(Numbers(), BATCH, drop_last=True)) == 5
    assert len(DataLoader(Numbers(), batch_size=None)) == LENGTH
    with pytest.raises(TypeError):
        len(DataLoader(Stream()))


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_r11_state_can_be_asked_at_any_time(options) -> None:
    """Accelerate asks at construction and before every batch, and edits what it gets."""
    with DataLoader(Numbers(), BATCH, **options) as loader:
        assert loader.state_dict()["_num_yielded"] == 0
        for number, _ in enumerate(loader, 1):
            state = loader.state_dict()
            assert state["_num_yielded"] == state["_sampler_iter_yielded"] == number
            state.clear()
        assert loader.state_dict()["_iterator_finished"]


def test_r12_samplers_are_torchs() -> None:
    """Tests by class succeed, and Lightning can make batch samplers again by their arguments."""
    assert issubclass(fastload.DistributedSampler, DistributedSampler)
    sampler = fastload.DistributedSampler(Numbers(), num_replicas=2, rank=1, seed=3)
    sampler.set_epoch(4)
    loader = DataLoader(Numbers(), BATCH, sampler=sampler)
    assert isinstance(loader.sampler, DistributedSampler)
    again = type(loader.batch_sampler)(sampler, batch_size=BATCH, drop_last=False)
    assert list(again) == list(loader.batch_sampler)


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_r13_batches_are_ordinary_tensors_and_stay_valid(options) -> None:
    """However many are kept, while all others are loaded and after the workers have gone."""
    dataset = torch.utils.data.TensorDataset(torch.arange(60.0).repeat_interleave(50).view(60, 50))
    with DataLoader(dataset, batch_size=2, **options) as loader:
        kept = [batch for [batch] in loader]
    for number, batch in enumerate(kept):
        assert type(batch) is torch.Tensor
        assert batch.is_contiguous()
        assert not batch.requires_grad
        assert not batch._is_view()
        assert torch.equal(batch[:, 0], torch.tensor([2.0 * number, 2 * number + 1]))
        batch += 1
        assert torch.equal(batch[:, 49], torch.tensor([2.0 * number + 1, 2 * number + 2]))


class Facts(Numbers):
    """What a worker knows of itself."""

    def __getitem__(self, index):
        info = get_worker_info()
        return (
            info.id,
            info.num_workers,
            info.seed,
            info.dataset is self,
            torch.initial_seed() == info.seed,
            torch.get_num_threads(),
            Path(f"/proc/self/task/{os.getpid()}/comm").read_text(),
        )


def test_r14_workers_know_what_torchs_know() -> None:
    """Number, count, seed, dataset; one thread; torch's name for the process."""
    facts = []
    for loader_class in (TORCH, DataLoader):
        torch.manual_seed(5)
        facts.append(list(loader_class(Facts(4), batch_size=None, num_workers=2)))
    assert facts[0] == facts[1]
    assert facts[1][0][3:] == [True, True, 1, "pt_data_worker\n"]


@pytest.mark.parametrize("workers", [0, 1])
def test_r15_profiler_shows_torchs_event_for_each_batch(workers) -> None:
    """Profilers look for its name; one event a batch and one for the end."""
    kind = "_MultiProcessing" if workers else "_SingleProcess"
    name = f"enumerate(DataLoader)#{kind}DataLoaderIter.__next__"
    counts = []
    for loader_class in (TORCH, DataLoader):
        loader = loader_class(Numbers(), BATCH, num_workers=workers)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            rows(loader)
        counts.append({event.key: event.count for event in profile.key_averages()}[name])
    assert counts == [7, 7]


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_r16_context_is_obeyed(method) -> None:
    """Given by name or as an object."""
    for context in (method, torch.multiprocessing.get_context(method)):
        loader = DataLoader(Numbers(4), 2, num_workers=1, multiprocessing_context=context)
        assert loader.multiprocessing_context.get_start_method() == method
        assert rows(loader) == [[0, 1], [2, 3]]


def test_r17_thousand_epochs_left_early_begin_at_their_beginning() -> None:
    """On persistent workers, with every iterator dropped in the middle."""
    with DataLoader(Numbers(), BATCH, **PERSISTENT) as loader:
        for _ in range(1000):
            for batch in loader:
                assert batch.tolist() == [0, 1, 2, 3]
                break
        assert len(rows(loader)) == 6


def test_r17_new_workers_can_be_started_and_left_again_and_again() -> None:
    """Without persistent workers: nothing adds up."""
    loader = DataLoader(Numbers(), BATCH, num_workers=1)
    for _ in range(rounds(15, 40)):
        next(iter(loader))
    assert len(rows(loader)) == 6


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_r17_two_iterators_are_independent(options) -> None:
    """Torch's second `iter()` resets the first when workers persist; ours does not."""
    with DataLoader(Numbers(), BATCH, **options) as loader:
        whole = rows(loader)
        one, other = iter(loader), iter(loader)
        pairs = [(a.tolist(), b.tolist()) for a, b in zip(one, other, strict=True)]
        assert pairs == list(zip(whole, whole, strict=True))


def test_r18_class_is_generic_and_an_idle_loader_can_be_pickled() -> None:
    """As torch's; used before or not."""
    assert DataLoader[int].__origin__ is DataLoader
    loader = DataLoader(Numbers(), BATCH, num_workers=1)
    rows(loader)
    assert rows(pickle.loads(pickle.dumps(loader))) == rows(loader)
