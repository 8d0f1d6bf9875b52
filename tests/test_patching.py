"""`fastload.patch`: torch's name for our class, wherever it was imported."""

from __future__ import annotations

import sys
import types

import pytest
import torch.utils.data

import fastload

TORCH = torch.utils.data.DataLoader


@pytest.fixture
def third_party():
    """A module that imported torch's class before, under a name of its own."""
    module = types.ModuleType("third_party_of_test")
    module.Loader = TORCH
    module.other = object()
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]
    fastload.unpatch()


def test_patched_names_are_reported_and_replaced(third_party) -> None:
    """In torch's modules and in those that imported it from there."""
    names = fastload.patch()
    assert {"torch.utils.data.DataLoader", "third_party_of_test.Loader"} <= set(names)
    assert torch.utils.data.DataLoader is third_party.Loader is fastload.DataLoader


def test_unpatching_restores_every_name(third_party) -> None:
    """Nothing is left of it."""
    names = fastload.patch()
    assert fastload.unpatch() == names
    assert torch.utils.data.DataLoader is third_party.Loader is TORCH


def test_unpatching_leaves_those_who_chose_fastload(third_party) -> None:
    """A module that imported our class by its own name keeps it."""
    third_party.Chosen = fastload.DataLoader
    fastload.patch()
    fastload.unpatch()
    assert third_party.Chosen is fastload.DataLoader


def test_patching_twice_is_patching_once(third_party) -> None:
    """The second call has nothing to replace."""
    fastload.patch()
    assert fastload.patch() == []


def test_patched_lasts_as_long_as_its_block(third_party) -> None:
    """Also when the block raises."""
    with pytest.raises(KeyError), fastload.patched() as names:
        assert "third_party_of_test.Loader" in names
        assert third_party.Loader is fastload.DataLoader
        raise KeyError
    assert third_party.Loader is TORCH


def test_patched_loader_is_still_a_loader_of_torch(third_party) -> None:
    """What was checked against torch's class before passes."""
    with fastload.patched():
        loader = third_party.Loader([1, 2, 3], batch_size=2)
    assert isinstance(loader, TORCH)
    assert [batch.tolist() for batch in loader] == [[1, 2], [3]]
