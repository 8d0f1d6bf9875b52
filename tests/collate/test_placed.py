"""Our collate functions as the loader's own: in the slot, and equal however they are run."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.data
from torch.utils.data import Dataset, IterableDataset

import fastload
from fastload import Pack, Pad, PadDict, Ragged, pack, pad, pad_dict, ragged
from fastload._memory.arena import Arena
from fastload._memory.write import SlotPlace, write_batch
from fastload.collate.inplace import make_collate
from tests.contract.same import assert_same
from tests.contract.ways import closing
from tests.start_methods import ANEW

SLOT_BYTES = 1 << 20

SEQUENCES = [torch.arange(length) for length in (5, 0, 3, 7, 1, 2, 9, 4)]
RECORDS = [
    {"ids": [1] * n, "frames": np.ones((n, 3), np.float32), "score": 0.5, "words": ["w"] * n}
    for n in range(8)
]

COLLATES: dict[str, tuple[Any, Any]] = {
    "pad": (pad, SEQUENCES),
    "pad, settings": (Pad(-1, "left", 4, 8, "left", returns="mask"), SEQUENCES),
    "pad, partial": (functools.partial(pad, value=3, returns="data"), SEQUENCES),
    "pad, partial of partial": (
        functools.partial(functools.partial(pad, value=3, side="left"), value=4),
        SEQUENCES,
    ),
    "pad, nested": (pad, RECORDS),
    "pad, fields": (Pad(fields=[0]), [(sequence, torch.ones(2)) for sequence in SEQUENCES]),
    "pad, bfloat16": (pad, [sequence.bfloat16() for sequence in SEQUENCES]),
    "pad, several dimensions": (Pad(dim=(0, 1)), [torch.ones(n, 9 - n) for n in range(1, 9)]),
    "pad_dict": (pad_dict, RECORDS),
    "pad_dict, settings": (PadDict({"ids": Pad(7, returns="mask")}), RECORDS),
    "pack": (pack, SEQUENCES),
    "pack, settings": (Pack(12), SEQUENCES),
    "pack, fields": (functools.partial(pack, max_length=8), RECORDS),
    "ragged": (ragged, SEQUENCES),
    "ragged, nested": (
        Ragged(torch.float32, fields=["ids"]),
        [{"ids": s, "n": 1} for s in SEQUENCES],
    ),
}


class Given(Dataset):
    def __init__(self, samples: list[Any]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter(SEQUENCES)


def batches_of(loader: Any) -> list[Any]:
    with closing(loader):
        return list(loader)


@pytest.mark.parametrize("name", sorted(COLLATES))
def test_batch_is_the_same_however_it_is_loaded(name: str) -> None:
    """Called directly, without workers, in forked workers, and by torch's own loader."""
    collate, samples = COLLATES[name]
    expected = [collate(samples[:3]), collate(samples[3:6]), collate(samples[6:])]
    options: dict[str, Any] = {"batch_size": 3, "collate_fn": collate}
    dataset = Given(samples)
    for workers in (0, 2):
        assert_same(
            batches_of(fastload.DataLoader(dataset, num_workers=workers, **options)), expected
        )
    assert_same(batches_of(torch.utils.data.DataLoader(dataset, **options)), expected)


@pytest.mark.parametrize("method", ANEW)
def test_batch_is_the_same_from_workers_started_anew(method: str) -> None:
    """Settings and functions are found again in another interpreter."""
    for name in ("pad_dict, settings", "ragged", "pad, partial"):
        collate, samples = COLLATES[name]
        loader = fastload.DataLoader(
            Given(samples),
            batch_size=8,
            num_workers=1,
            collate_fn=collate,
            multiprocessing_context=method,
        )
        assert_same(batches_of(loader), [collate(samples)])


def test_batch_is_the_same_when_it_does_not_fit_its_slot() -> None:
    """It travels in the message then."""
    frames = [torch.ones(1000 * n, 80) for n in (1, 3)]
    for collate in (pad, pack, ragged):
        loader = fastload.DataLoader(
            Given(frames), batch_size=2, num_workers=1, collate_fn=collate, memory_limit=1 << 17
        )
        assert_same(batches_of(loader), [collate(frames)])


def test_batch_stays_valid_after_the_next() -> None:
    """Each has memory of its own, nested tensors and their values too."""
    for collate in (pad, pack, ragged):
        loader = fastload.DataLoader(
            Given(SEQUENCES * 20), batch_size=4, num_workers=1, collate_fn=collate
        )
        batches = batches_of(loader)
        expected = [collate(SEQUENCES[:4]), collate(SEQUENCES[4:])] * 20
        assert_same(batches, expected)


def test_values_of_a_nested_tensor_hold_the_batch() -> None:
    """The nested tensor itself need not live on."""
    loader = fastload.DataLoader(
        Given(SEQUENCES * 20), batch_size=4, num_workers=1, collate_fn=ragged
    )
    with closing(loader):
        values = [nested.values() for nested in loader]
    expected = [torch.cat(SEQUENCES[:4]), torch.cat(SEQUENCES[4:])] * 20
    assert all(map(torch.equal, values, expected))


@pytest.mark.parametrize("name", sorted(COLLATES))
def test_loaders_own_collate_writes_into_the_slot(name: str) -> None:
    """Nothing is left to be copied when the batch is written down."""
    collate, samples = COLLATES[name]
    arena = Arena.create(1, SLOT_BYTES, workers=1)
    place = SlotPlace(arena, 0)
    batch = make_collate(collate)(samples, place)
    used, leaves = place.used_bytes, len(place.leaves)
    assert leaves >= 1
    write_batch(batch, place)
    assert (place.used_bytes, len(place.leaves)) == (used, leaves)
    del batch
    arena.close_descriptor()


def test_collate_inside_a_users_function_does_not_write_into_the_slot() -> None:
    """That function may keep what it gets."""
    kept = []

    def collate(samples: list[Any]) -> Any:
        kept.append(pad(samples).data)
        return torch.stack([kept[0].sum(), kept[-1].sum()])

    loader = fastload.DataLoader(
        Given(SEQUENCES * 4),
        batch_size=4,
        num_workers=1,
        collate_fn=collate,
        persistent_workers=True,
    )
    firsts = {int(batch[0]) for batch in batches_of(loader)}
    assert firsts == {int(pad(SEQUENCES[:4]).data.sum())}


class Doubling(Pad):
    def __call__(self, samples: Any) -> Any:
        data, lengths = super().__call__(samples)
        return data * 2, lengths


def test_subclass_that_does_more_is_called_as_it_is() -> None:
    """What it adds is not passed over."""
    for workers in (0, 1):
        loader = fastload.DataLoader(
            Given(SEQUENCES), batch_size=8, num_workers=workers, collate_fn=Doubling()
        )
        ((data, _),) = batches_of(loader)
        assert torch.equal(data, pad(SEQUENCES).data * 2)


def test_streams_are_padded_too() -> None:
    """Batches of an iterable dataset."""
    loader = fastload.DataLoader(Stream(), batch_size=4, num_workers=1, collate_fn=pad)
    assert_same(batches_of(loader), [pad(SEQUENCES[:4]), pad(SEQUENCES[4:])])


def test_wrong_settings_in_a_partial_are_reported() -> None:
    """A worker says what is wrong instead of dying of it."""
    wrong = functools.partial(pad, valeu=1)
    for workers in (0, 1):
        loader = fastload.DataLoader(
            Given(SEQUENCES), batch_size=4, num_workers=workers, collate_fn=wrong
        )
        with pytest.raises(TypeError, match="valeu"):
            batches_of(loader)
