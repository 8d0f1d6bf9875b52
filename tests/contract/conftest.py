"""Fixtures of the contract: a loader of each way, and torch's loader to compare with."""

import contextlib

import pytest

from .ways import chosen, closing


def pytest_configure(config):
    for mark in (
        "every_way: run with forkserver and spawn too",
        "with_workers: run only where there are worker processes",
        "better_than_torch(reason, inline_too=False): torch fails this promise",
    ):
        config.addinivalue_line("markers", mark)


def pytest_generate_tests(metafunc):
    if "way" in metafunc.fixturenames:
        metafunc.parametrize("way", list(chosen(metafunc.definition)))


@pytest.fixture
def make_loader(way):
    """Make a loader that goes this way; it is closed after the test."""
    with contextlib.ExitStack() as opened:
        yield lambda dataset, **options: opened.enter_context(
            closing(way.loader(dataset, **options))
        )


@pytest.fixture
def make_reference(way):
    """Make torch's loader with as many workers; it is closed after the test."""
    with contextlib.ExitStack() as opened:
        yield lambda dataset, **options: opened.enter_context(
            closing(way.reference(dataset, **options))
        )
