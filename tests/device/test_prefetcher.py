"""`fastload.prefetch` and `DataLoader(device=)`: on the CPU without effect, and exact states."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.utils.data
from torch.utils.data import Dataset

import fastload
from fastload import DataLoader
from fastload._device import copying

from .fake_device import FakeDevice

META = "meta"
"""A device that holds no numbers: what is handed out there is told by its shape."""


class Squares(Dataset):
    """Sample k is a tensor of length k + 1, which "meta" can tell from others."""

    def __len__(self):
        return 11

    def __getitem__(self, index):
        return torch.full((index + 1,), float(index)) + torch.rand(()) / 2


def lengths(batches):
    """The samples of each batch, by their shapes."""
    return [[len(sample) - 1 for sample in batch] for batch in batches]


def as_plain(state):
    """A state whose values can be compared."""
    if isinstance(state, dict):
        return {key: as_plain(value) for key, value in state.items()}
    return state.tolist() if isinstance(state, torch.Tensor) else state


def make(**options):
    return DataLoader(Squares(), batch_size=2, collate_fn=list, **options)


class StillDevice(FakeDevice):
    """A device for real tensors, on which everything is done at once."""

    def kernel(self, array):
        raise NotImplementedError


@pytest.fixture
def ahead(monkeypatch):
    """Copies to "meta" are queued ahead, as they would be to a GPU."""
    device = StillDevice()
    monkeypatch.setattr(copying, "stream_module", lambda _: device)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda _, stream: None)
    return device


WAYS = {
    "prefetch": lambda **options: fastload.prefetch(make(**options), META),
    "device=": lambda **options: make(device=META, **options),
}
ORDERS = {
    "seeded": {"seed": 7, "shuffle": True},
    "seeded, workers": {"seed": 7, "shuffle": True, "num_workers": 2},
    "persistent": {"seed": 7, "num_workers": 1, "persistent_workers": True},
    "in order": {},
    "workers": {"num_workers": 2},
}


@pytest.fixture(params=WAYS)
def on_device(request, ahead):
    return WAYS[request.param]


@pytest.mark.parametrize("options", ORDERS.values(), ids=ORDERS)
def test_epochs_are_the_loaders(on_device, options) -> None:
    """The same batches in the same order, of each epoch."""
    loader, plain = on_device(**options), make(**options)
    assert len(loader) == len(plain) == 6
    for _ in range(3):
        batches = list(loader)
        assert {sample.device.type for batch in batches for sample in batch} == {META}
        assert lengths(batches) == lengths(plain)
    loader.close()
    plain.close()


@pytest.mark.parametrize("options", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("taken", [0, 1, 4, 6])
def test_state_counts_what_was_handed_out(on_device, options, taken) -> None:
    """A loader without copies ahead goes on behind it, and so does one with them."""
    loader = on_device(**options)
    expected = lengths(make(**options))
    iterator = iter(loader)
    found = lengths(next(iterator) for _ in range(taken))
    assert found == expected[:taken]
    state = loader.state_dict()
    del iterator
    assert as_plain(loader.state_dict()) == as_plain(state)
    for again in (make(**options), on_device(**options)):
        again.load_state_dict(copy.deepcopy(state))
        rest = lengths(again)
        if taken < 6 or "seed" not in options:
            assert rest == expected[taken:]
        else:  # the state at the end of a seeded epoch is the beginning of the next one
            assert rest == lengths(_second_epoch(options))
        again.close()
    loader.close()


def _second_epoch(options):
    loader = make(**options)
    loader.set_epoch(1)
    return loader


def test_state_after_the_last_batch_is_the_loaders(on_device) -> None:
    """Once the end was seen, nothing is ahead."""
    loader, plain = on_device(seed=7), make(seed=7)
    list(loader)
    list(plain)
    assert loader.state_dict() == plain.state_dict()


def test_epoch_that_is_set_is_the_next_one(on_device) -> None:
    """Also in the middle of another one, whose place is given up then."""
    loader, plain = on_device(seed=7, shuffle=True), make(seed=7, shuffle=True)
    next(iter(loader))
    loader.set_epoch(4)
    plain.set_epoch(4)
    assert loader.state_dict() == plain.state_dict()
    assert lengths(loader) == lengths(plain)


def test_mask_is_that_of_the_batch_that_was_handed_out(on_device) -> None:
    """Of 11 samples on three ranks the last step is filled up."""
    options = {"seed": 7, "num_replicas": 3, "rank": 2, "even": "mask"}
    loader, plain = on_device(**options), make(**options)
    with pytest.raises(ValueError, match="no batch was delivered"):
        loader.mask()
    masks = [loader.mask().tolist() for _ in loader]
    assert masks == [plain.mask().tolist() for _ in plain]
    assert masks[-1] != masks[0]


def test_dropped_iterator_ends_its_workers(on_device) -> None:
    """Nothing but the iterator keeps them."""
    loader = on_device(num_workers=1)
    iterator = iter(loader)
    next(iterator)
    [worker] = iterator._batches._workers
    del iterator
    worker.join(60)
    assert worker.exitcode is not None


@pytest.mark.parametrize("options", ORDERS.values(), ids=ORDERS)
def test_on_the_cpu_nothing_changes(options) -> None:
    """Neither batches, nor draws, nor what is read ahead."""
    for wrap in (lambda loader: fastload.prefetch(loader, "cpu"), lambda loader: loader):
        torch.manual_seed(2)
        loader = wrap(make(device="cpu", **options))
        found = [torch.cat(batch) for batch in loader]
        torch.manual_seed(2)
        plain = make(**options)
        assert all(map(torch.equal, found, [torch.cat(batch) for batch in plain]))
        assert as_plain(loader.state_dict()) == as_plain(plain.state_dict())
        loader.close()
        plain.close()


def test_iterator_for_the_cpu_is_the_loaders_own() -> None:
    """Trainers look for torch's class."""
    assert type(iter(make(device="cpu"))) is type(iter(make()))


def test_any_iterable_can_be_copied_ahead(ahead) -> None:
    """A list of batches, or torch's loader, which has no state; attributes are the loader's."""
    batches = [[torch.ones(3)], [torch.ones(1)]]
    assert lengths(fastload.prefetch(batches, META)) == [[2], [0]]
    theirs = torch.utils.data.DataLoader(Squares(), batch_size=2, collate_fn=list)
    loader = fastload.prefetch(theirs, META, depth=4)
    assert lengths(loader) == lengths(make())
    assert (loader.batch_size, len(loader)) == (2, 6)
    assert not hasattr(loader, "state_dict")


def test_option_survives_what_makes_loaders_anew() -> None:
    """Copies, pickles and `replace`."""
    loader = make(device=META, seed=7)
    for again in (loader.replace(batch_size=3), copy.copy(loader)):
        assert again.device == torch.device(META)
    simple = DataLoader(range(4), device=META)
    assert pickle.loads(pickle.dumps(simple)).device == torch.device(META)
    wrapped = fastload.prefetch(DataLoader(range(4), seed=7), META)
    next(iter(wrapped))
    again = pickle.loads(pickle.dumps(wrapped))
    assert again.state_dict()["position"] == 0


@pytest.mark.parametrize("depth", [0, -1, 1.5, "two"])
def test_depth_that_is_none_is_refused(depth) -> None:
    """The error names it."""
    with pytest.raises((TypeError, ValueError), match="depth"):
        fastload.prefetch([], "cpu", depth=depth)


def test_device_that_does_not_exist_is_refused() -> None:
    """When the loader is made, not in the middle of a training."""
    with pytest.raises(RuntimeError, match="nowhere"):
        make(device="nowhere")
