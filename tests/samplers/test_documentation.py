"""Examples in the samplers' docstrings and on their page run, and give what they show."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import fastload.samplers

PAGE = Path(__file__).parents[2] / "docs" / "samplers.md"
MODULES = [
    f"fastload.samplers.{found.name}" for found in pkgutil.iter_modules(fastload.samplers.__path__)
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name: str) -> None:
    """Each gives what it shows."""
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_examples_on_the_page_run() -> None:
    """In the order of the page, which shows some of each kind."""
    result = doctest.testfile(str(PAGE), module_relative=False)
    assert result.attempted > 15
    assert result.failed == 0
