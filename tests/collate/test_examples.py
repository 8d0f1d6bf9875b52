"""The examples in the documentation of collate functions run and give what is printed."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "padding.md"


def test_examples_of_the_page_run() -> None:
    """docs/padding.md, as it is read."""
    failed, attempted = doctest.testfile(
        str(PAGE), module_relative=False, optionflags=doctest.ELLIPSIS
    )
    assert attempted > 10
    assert failed == 0


@pytest.mark.parametrize("name", ["jagged", "packing", "pad_dict", "padding"])
def test_examples_in_docstrings_run(name: str) -> None:
    """Those of the public functions and classes."""
    failed, attempted = doctest.testmod(importlib.import_module(f"fastload.collate.{name}"))
    assert attempted > 0
    assert failed == 0
