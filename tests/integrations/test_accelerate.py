"""Accelerate: its loops give torch's losses, and our loaders stay ours through `prepare`."""

from __future__ import annotations

import contextlib
import copy
import itertools
import pickle

import pytest
import torch
import torch.utils.data
from torch import nn

import fastload
from fastload import DataLoader
from fastload.integrations import accelerate as ours

from .data import BATCH, LENGTH, Numbers, Stream, make_model, regression, rows

accelerate = pytest.importorskip("accelerate")

TORCH = torch.utils.data.DataLoader

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")


@pytest.fixture(autouse=True)
def fresh_state():
    """Accelerate keeps its state in shared dictionaries."""
    yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


def make_accelerator(**options):
    return accelerate.Accelerator(cpu=True, **options)


def stateful():
    return make_accelerator(
        dataloader_config=accelerate.DataLoaderConfiguration(use_stateful_dataloader=True)
    )


def prepared_by(kind: str, accelerator, loader):
    """A loader the way a program would get it."""
    return ours.prepare(accelerator, loader) if kind == "ours" else accelerator.prepare(loader)


def losses(loader_class, kind: str, workers: int) -> list[float]:
    """Two epochs of a training loop as Accelerate's guide writes it."""
    torch.manual_seed(7)
    accelerator = make_accelerator()
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    loader = loader_class(regression(), batch_size=BATCH, shuffle=True, num_workers=workers)
    model, optimizer = accelerator.prepare(model, optimizer)
    loader = prepared_by(kind, accelerator, loader)
    seen = []
    for _ in range(2):
        for x, y in loader:
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            accelerator.backward(loss)
            optimizer.step()
            seen.append(loss.item())
    accelerator.free_memory()
    return seen


@pytest.mark.parametrize("workers", [0, 2])
def test_losses_are_torchs_to_the_last_bit(workers) -> None:
    """Prepared by Accelerate itself, by us, and under torch's name."""
    expected = losses(TORCH, "accelerate", workers)
    assert len(expected) == 12
    assert losses(DataLoader, "accelerate", workers) == expected
    assert losses(DataLoader, "ours", workers) == expected
    with fastload.patched():
        assert losses(torch.utils.data.DataLoader, "accelerate", workers) == expected


def test_accelerate_alone_gives_torchs_loader() -> None:
    """Why there is something to help: class and options are lost, silently."""
    prepared = make_accelerator().prepare(DataLoader(Numbers(), memory_limit=1 << 20))
    assert type(prepared.base_dataloader) is TORCH


@pytest.mark.parametrize("dataset", [Numbers, Stream])
def test_prepared_loader_is_ours_with_its_options(dataset) -> None:
    """Inside Accelerate's own adapter."""
    loader = DataLoader(dataset(), batch_size=BATCH, drop_last=True, memory_limit=1 << 20)
    prepared = ours.prepare(make_accelerator(), loader)
    assert isinstance(prepared, DataLoader)
    assert prepared.memory_limit == 1 << 20
    assert rows(prepared) == rows(loader)


def test_patched_loader_is_ours_after_prepare() -> None:
    """Hugging Face's Trainer makes its loaders under torch's name and prepares them itself."""
    with fastload.patched() as names:
        assert "accelerate.data_loader.DataLoader" in names
        options = {"num_workers": 1, "prefetch_factor": None, "persistent_workers": False}
        loader = torch.utils.data.DataLoader(Numbers(), batch_size=BATCH, **options)
        prepared = make_accelerator().prepare(loader)
        assert type(prepared.base_dataloader) is DataLoader
        skipped = accelerate.skip_first_batches(prepared, 2)
        assert type(skipped.base_dataloader) is DataLoader
        assert rows(skipped) == rows(loader)[2:]


@pytest.mark.parametrize("dataset", [Numbers, Stream])
@pytest.mark.parametrize("patched", [False, True])
def test_prepared_loader_is_pickled_and_copied(dataset, patched: bool) -> None:
    """While it is made anew, its loader has a class in the dataset's place."""
    loader = DataLoader(dataset(), batch_size=BATCH)
    with fastload.patched() if patched else contextlib.nullcontext():
        prepared = prepared_by("accelerate" if patched else "ours", make_accelerator(), loader)
        for again in (pickle.loads(pickle.dumps(prepared)), copy.copy(prepared)):
            assert type(again.base_dataloader) is DataLoader
            assert rows(again) == rows(loader)
        assert rows(copy.deepcopy(prepared)) == rows(loader)


def test_objects_come_back_in_their_order() -> None:
    """Only our loaders are touched."""
    model, loader, other = make_model(), DataLoader(Numbers()), TORCH(Numbers(3))
    results = ours.prepare(make_accelerator(), model, loader, other)
    assert isinstance(results[0], nn.Module)
    assert type(results[1].base_dataloader) is DataLoader
    assert type(results[2].base_dataloader) is TORCH


def test_loader_prepared_twice_is_prepared_once() -> None:
    """As with Accelerate."""
    accelerator = make_accelerator()
    prepared = ours.prepare(accelerator, DataLoader(Numbers()))
    base = prepared.base_dataloader
    assert ours.prepare(accelerator, prepared) is prepared
    assert prepared.base_dataloader is base


def test_loader_that_is_sharded_already_is_left_alone() -> None:
    """Marked as prepared, it passes as it is."""
    loader = DataLoader(Numbers())
    loader._is_accelerate_prepared = True
    assert ours.prepare(make_accelerator(), loader) is loader


@pytest.mark.parametrize("kind", ["ours", "accelerate"])
@pytest.mark.parametrize("dataset", [Numbers, Stream])
@pytest.mark.parametrize("workers", [0, 1])
def test_first_batches_are_skipped(kind, dataset, workers) -> None:
    """From prepared loaders and from bare ones, maps and streams."""
    loader = DataLoader(dataset(), batch_size=BATCH, num_workers=workers)
    expected = rows(loader)[3:]
    prepared = prepared_by(kind, make_accelerator(), loader)
    for start in (prepared, loader):
        skipped = ours.skip_first_batches(start, 3)
        assert rows(skipped) == expected
        assert isinstance(skipped, DataLoader) == (kind == "ours" or start is loader)


def test_skipped_batches_are_not_loaded() -> None:
    """The batch sampler is skipped, not the loader."""
    dataset = Numbers()
    prepared = ours.prepare(make_accelerator(), DataLoader(dataset, batch_size=BATCH))
    rows(ours.skip_first_batches(prepared, 3))
    assert dataset.loaded == list(range(3 * BATCH, LENGTH))


def test_custom_batch_sampler_is_kept() -> None:
    """And skipped as such."""
    batches = torch.utils.data.BatchSampler(range(7, 0, -1), 3, drop_last=False)
    prepared = ours.prepare(make_accelerator(), DataLoader(Numbers(), batch_sampler=batches))
    assert rows(prepared) == [[7, 6, 5], [4, 3, 2], [1]]
    assert rows(ours.skip_first_batches(prepared, 1)) == [[4, 3, 2], [1]]


def test_seedable_sampler_is_accelerates() -> None:
    """It is put into the batch sampler after the loader was made, and drawn anew each epoch."""

    def two_epochs(kind):
        config = accelerate.DataLoaderConfiguration(use_seedable_sampler=True, data_seed=5)
        accelerator = make_accelerator(dataloader_config=config)
        loader = DataLoader(Numbers(), batch_size=BATCH, shuffle=True)
        prepared = prepared_by(kind, accelerator, loader)
        return [rows(prepared), rows(prepared)]

    expected = two_epochs("accelerate")
    assert two_epochs("ours") == expected
    assert expected[0] != expected[1]


def test_end_of_an_epoch_is_seen_on_its_last_batch() -> None:
    """Gradient accumulation depends on it; Accelerate reads one batch ahead for it."""
    accelerator = make_accelerator()
    prepared = ours.prepare(accelerator, DataLoader(Numbers(), batch_size=BATCH, num_workers=1))
    for _ in range(2):
        ends = [prepared.end_of_dataloader for _ in prepared]
        assert ends == [False] * 5 + [True]
    prepared_metrics = [accelerator.gather_for_metrics(batch) for batch in prepared]
    assert sum(len(batch) for batch in prepared_metrics) == LENGTH


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batches", [1, 3, 6])
def test_saved_state_resumes_in_the_middle_of_an_epoch(tmp_path, workers, batches) -> None:
    """With `use_stateful_dataloader`, by save_state and load_state: nothing lost or repeated."""

    def make(accelerator):
        torch.manual_seed(3)
        loader = DataLoader(Numbers(), batch_size=BATCH, shuffle=True, num_workers=workers)
        return ours.prepare(accelerator, loader)

    accelerator = stateful()
    prepared = make(accelerator)
    assert type(prepared.base_dataloader) is DataLoader
    whole = []
    for number, batch in enumerate(prepared, 1):
        whole.append(batch.tolist())
        if number == batches:
            accelerator.save_state(tmp_path / "state")
    accelerator.free_memory()
    fresh_accelerator = stateful()
    again = make(fresh_accelerator)
    fresh_accelerator.load_state(tmp_path / "state")
    resumed = rows(again)
    if batches < len(whole):
        assert resumed == whole[batches:]
    else:  # saved at the last batch: a new epoch begins
        assert sorted(itertools.chain.from_iterable(resumed)) == list(range(LENGTH))
    assert sorted(itertools.chain.from_iterable(rows(again))) == list(range(LENGTH))


def test_without_stateful_loaders_no_state_is_saved(tmp_path) -> None:
    """A program that skips batches itself must not have them skipped twice."""
    accelerator = make_accelerator()
    prepared = ours.prepare(accelerator, DataLoader(Numbers(), batch_size=BATCH))
    next(iter(prepared))
    accelerator.save_state(tmp_path)
    accelerator.load_state(tmp_path)
    assert len(rows(prepared)) == 6
