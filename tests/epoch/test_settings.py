"""A state goes on exactly, or is refused with both values; it never loses or repeats samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    Dataset,
    DistributedSampler,
    IterableDataset,
    SubsetRandomSampler,
    WeightedRandomSampler,
    get_worker_info,
)

from fastload import (
    BlockShuffleSampler,
    DataLoader,
    ParquetStream,
    ShuffleSampler,
    shard,
)
from fastload.datasets import write_parquet

LENGTH = 48


class Numbers(Dataset):
    """Its own indices."""

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> int:
        return index


class Divided(IterableDataset):
    """Divides itself among workers, and among ranks."""

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        self.rank, self.world_size = rank, world_size

    def __iter__(self):
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        yield from range(LENGTH)[self.rank :: self.world_size][worker::workers]


def loader_of(**options) -> DataLoader:
    return DataLoader(Numbers(), **{"batch_size": 4, **options})


def stream_of(workers: int = 0, dataset: IterableDataset | None = None, **options) -> DataLoader:
    options = {"batch_size": 4, **options}
    return DataLoader(dataset or Divided(), num_workers=workers, **options)


def seen_of(batches, count: int | None = None) -> list[int]:
    found: list[int] = []
    for _, batch in zip(range(count or LENGTH), batches, strict=False):
        found += np.atleast_1d(np.asarray(batch)).tolist()
    return found


def taken(loader: DataLoader, batches: int = 3):
    """What some batches hold, the state behind them, and the rest of that epoch."""
    torch.manual_seed(0)
    iterator = iter(loader)
    head = seen_of(iterator, batches)
    return head, loader.state_dict(), seen_of(iterator)


BATCHES = [[4 * k + j for j in range(4)] for k in range(12)]
OTHERS = {
    "batch size": (loader_of(), loader_of(batch_size=8), "batch_size=4.*batch_size=8"),
    "automatic batching": (loader_of(), loader_of(batch_size=None), "batch_size=4.*=None"),
    "drop_last": (loader_of(), loader_of(drop_last=True), "drop_last=False.*drop_last=True"),
    "shuffle": (loader_of(shuffle=True), loader_of(), "RandomSampler.*SequentialSampler"),
    "a batch sampler": (
        loader_of(),
        DataLoader(Numbers(), batch_sampler=BatchSampler(range(LENGTH), 4, False)),
        "batch_size=4.*batch_size=None",
    ),
    "size of given batches": (
        DataLoader(Numbers(), batch_sampler=BatchSampler(range(LENGTH), 4, False)),
        DataLoader(Numbers(), batch_sampler=BatchSampler(range(LENGTH), 6, False)),
        "BatchSampler.batch_size=4.*BatchSampler.batch_size=6",
    ),
    "given batches": (
        DataLoader(Numbers(), batch_sampler=BATCHES),
        DataLoader(Numbers(), batch_sampler=BATCHES[::-1]),
        "list.values",
    ),
    "values of a list": (
        loader_of(sampler=list(range(LENGTH))),
        loader_of(sampler=list(range(LENGTH))[::-1]),
        "list.values",
    ),
    "indices of a subset": (
        loader_of(sampler=SubsetRandomSampler(range(24))),
        loader_of(sampler=SubsetRandomSampler(range(24, 48))),
        "SubsetRandomSampler.indices",
    ),
    "weights": (
        loader_of(sampler=WeightedRandomSampler([1.0] * LENGTH, 40)),
        loader_of(sampler=WeightedRandomSampler([2.0] * LENGTH, 40)),
        "WeightedRandomSampler.weights",
    ),
    "number of draws": (
        loader_of(sampler=WeightedRandomSampler([1.0] * LENGTH, 40)),
        loader_of(sampler=WeightedRandomSampler([1.0] * LENGTH, 44)),
        "num_samples=40.*num_samples=44",
    ),
    "ranks": (
        loader_of(sampler=DistributedSampler(Numbers(), 2, 0)),
        loader_of(sampler=DistributedSampler(Numbers(), 3, 0)),
        "num_replicas=2.*num_replicas=3",
    ),
    "ranks of a shard": (
        loader_of(sampler=shard(ShuffleSampler(LENGTH), 0, 2)),
        loader_of(sampler=shard(ShuffleSampler(LENGTH), 0, 1)),
        "num_replicas=2.*num_replicas=1",
    ),
    "split of a shard": (
        loader_of(sampler=shard(range(LENGTH), 0, 2)),
        loader_of(sampler=shard(range(LENGTH), 0, 2, split="contiguous")),
        "split='stride'.*split='contiguous'",
    ),
    "seed": (
        loader_of(sampler=ShuffleSampler(LENGTH, seed=1)),
        loader_of(sampler=ShuffleSampler(LENGTH, seed=2)),
        "seed=1.*seed=2",
    ),
    "seed of ranks": (
        loader_of(sampler=DistributedSampler(Numbers(), 2, 0, seed=1)),
        loader_of(sampler=DistributedSampler(Numbers(), 2, 0, seed=2)),
        "seed=1.*seed=2",
    ),
    "window": (
        loader_of(sampler=BlockShuffleSampler(LENGTH, block_size=4, window=2)),
        loader_of(sampler=BlockShuffleSampler(LENGTH, block_size=4, window=3)),
        "window=2.*window=3",
    ),
    "kind of dataset": (loader_of(), stream_of(), "map-style.*iterable-style"),
    "a generator": (
        loader_of(shuffle=True, generator=torch.Generator()),
        loader_of(shuffle=True),
        "generators.*=1.*=0",
    ),
    "batches of a stream": (stream_of(), stream_of(batch_size=6), "batch_size=4.*batch_size=6"),
    "ranks of a stream": (
        stream_of(dataset=Divided(0, 2)),
        stream_of(dataset=Divided(0, 3)),
        "dataset.world_size=2.*dataset.world_size=3",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_state_of_another_setting_is_refused_with_both_values(name: str) -> None:
    """In the middle of an epoch, both ways, and with what to do."""
    before, after, shown = OTHERS[name]
    _, state, _ = taken(before)
    with pytest.raises(ValueError, match=f"(?s){shown}.*(begin a new epoch|that it was saved of)"):
        after.load_state_dict(state)
    _, state, _ = taken(after)
    with pytest.raises(ValueError, match="state"):
        before.load_state_dict(state)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.filterwarnings("ignore:.*begins a second time")
def test_state_of_an_equal_loader_goes_on(name: str) -> None:
    """Whatever is compared, equal settings are equal."""
    for loader in OTHERS[name][:2]:
        _, state, rest = taken(loader)
        loader.load_state_dict(state)
        assert seen_of(loader) == rest


@pytest.mark.parametrize("options", [{"batch_size": 8}, {"shuffle": True}, {"drop_last": True}])
def test_at_the_end_of_an_epoch_settings_may_change(options) -> None:
    """There is nothing left that they could lose."""
    loader = loader_of()
    seen_of(loader)
    after = loader_of(**options)
    after.load_state_dict(loader.state_dict())
    assert sorted(seen_of(after)) == list(range(LENGTH))


@pytest.mark.parametrize("workers", [(0, 2), (2, 0), (2, 3), (3, 1)])
def test_stream_that_other_workers_divide_is_refused(workers) -> None:
    """Each would begin somewhere else."""
    before, after = workers
    _, state, _ = taken(stream_of(before))
    with pytest.raises(ValueError, match=f"num_workers={before}.*num_workers={after}"):
        stream_of(after).load_state_dict(state)


@pytest.mark.parametrize("workers", [(0, 0), (0, 1), (1, 0), (2, 2)])
def test_stream_that_is_divided_alike_goes_on(workers) -> None:
    """One worker reads what the program itself would."""
    before, after = workers
    _, state, rest = taken(stream_of(before))
    loader = stream_of(after)
    loader.load_state_dict(state)
    assert seen_of(loader) == rest


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_of_files_go_on_or_are_refused(tmp_path, workers: int) -> None:
    """Shuffled, under one seed; another seed, buffer or number of ranks is another order."""
    path = tmp_path / "rows.parquet"
    write_parquet({"i": np.arange(400)}, path, rows_per_group=20)

    def make(**options) -> DataLoader:
        options = {"shuffle": True, "seed": 3, "buffer_rows": 40, **options}
        stream = ParquetStream(path, batch_size=8, rank=0, **{"world_size": 2, **options})
        return DataLoader(stream, batch_size=None, num_workers=workers)

    def rows(batches) -> list[int]:
        return [int(row) for batch in batches for row in batch["i"]]

    loader = make()
    loader.dataset.set_epoch(2)
    iterator = iter(loader)
    rows([next(iterator) for _ in range(5)])
    state, rest = loader.state_dict(), rows(iterator)
    for options in ({"seed": 4}, {"buffer_rows": 60}, {"world_size": 3}):
        other = make(**options)
        with pytest.raises((ValueError, RuntimeError), match=r"state is of|saved with"):
            other.load_state_dict(state)
            list(other)
    again = make()
    again.load_state_dict(state)
    assert rows(again) == rest  # of epoch 2, although nobody set it


def test_all_ranks_may_load_the_state_of_the_first() -> None:
    """Trainers save one state for all; every rank has taken the same steps."""
    loaders = [loader_of(sampler=DistributedSampler(Numbers(), 2, rank)) for rank in range(2)]
    _, state, _ = taken(loaders[0])
    _, _, rest = taken(loaders[1])
    loaders[1].load_state_dict(state)
    assert seen_of(loaders[1]) == rest


@pytest.mark.parametrize("workers", [0, 2])
def test_state_of_batches_that_came_in_no_order_is_refused(workers: int) -> None:
    """Their number does not say which those were; at the end it was all of them."""
    unordered = loader_of(num_workers=2, in_order=False)
    _, state, _ = taken(unordered)
    ordered = loader_of(num_workers=workers)
    with pytest.raises(ValueError, match=r"in_order=False.*in_order=True"):
        ordered.load_state_dict(state)
    ordered.load_state_dict(unordered.state_dict())
    assert seen_of(ordered) == list(range(LENGTH))


def test_state_of_the_format_before_is_refused_in_mid_epoch() -> None:
    """It does not say what the order depends on; at the end of an epoch it need not."""
    loader = loader_of()
    for finished in (False, True):
        _, state, _ = taken(loader)
        ours = state["fastload"]
        state["fastload"] = {key: ours[key] for key in ("length", "start")} | {"version": 2}
        state["_iterator_finished"] = finished
        if not finished:
            with pytest.raises(ValueError, match=r"format 2.*reads format 3.*begin a new epoch"):
                loader.load_state_dict(state)
    loader.load_state_dict(state)
    assert seen_of(loader) == list(range(LENGTH))


def test_state_of_another_mode_is_refused() -> None:
    """Its order is drawn by other rules."""
    _, state, _ = taken(loader_of())
    state["fastload"]["mode"] = "seed"
    with pytest.raises(ValueError, match="mode 'seed'; this loader is in mode 'torch'"):
        loader_of().load_state_dict(state)


@pytest.mark.parametrize("workers", [0, 1])
def test_stream_that_became_shorter_is_told(workers: int) -> None:
    """It can't give what comes after the batches that were delivered."""
    _, state, _ = taken(stream_of(workers), 5)
    shorter = stream_of(workers, Divided(0, 4))
    shorter.dataset.world_size, shorter.dataset.rank = 1, LENGTH - 6
    shorter.load_state_dict(state)
    with pytest.raises(ValueError, match="5 batches were delivered, but it ended after 2"):
        iter(shorter)
