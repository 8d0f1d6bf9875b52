"""Fixtures of the contract: a loader of each way, and torch's loader to compare with."""

import contextlib
from multiprocessing import resource_sharer
from typing import Any

import pytest
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from .ways import chosen, closing


def pytest_generate_tests(metafunc: Any) -> None:
    if "way" in metafunc.fixturenames:
        metafunc.parametrize("way", list(chosen(metafunc.definition)))


@pytest.fixture(autouse=True)
def torchs_iterators_end(monkeypatch: Any) -> Any:
    """End torch's iterators in time.

    One that a caught exception keeps in a cycle of references waits five seconds for each worker if
    the collector finds it, because the collector ends its queues before it. So we hold them.
    """
    begun: list[Any] = []
    start = _MultiProcessingDataLoaderIter.__init__

    def noted(iterator: Any, loader: Any) -> None:
        if type(iterator) is _MultiProcessingDataLoaderIter:
            begun[:] = [*(other for other in begun if not _has_ended(other)), iterator]
        start(iterator, loader)

    monkeypatch.setattr(_MultiProcessingDataLoaderIter, "__init__", noted)
    yield
    while begun:
        begun.pop()._shutdown_workers()
    resource_sharer.stop()  # Torch starts it when it sends a tensor; it keeps a socket open.


def _has_ended(iterator: Any) -> Any:
    return getattr(iterator, "_shutdown", False)


@pytest.fixture
def make_loader(way: Any) -> Any:
    """Make a loader that goes this way; it is closed after the test."""
    with contextlib.ExitStack() as opened:
        yield lambda dataset, **options: opened.enter_context(
            closing(way.loader(dataset, **options))
        )


@pytest.fixture
def make_reference(way: Any) -> Any:
    """Make torch's loader with as many workers; it is closed after the test."""
    with contextlib.ExitStack() as opened:
        yield lambda dataset, **options: opened.enter_context(
            closing(way.reference(dataset, **options))
        )
