"""The package: its names, and what importing it costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch.utils.data

import fastload

PACKAGE = Path(fastload.__file__).parent


def names_for_type_checkers() -> set[str]:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    return {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.If)
        for statement in node.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }


def test_exports_are_the_same_for_type_checkers_and_at_run_time() -> None:
    """Both lists in ``__init__`` name the same things."""
    assert names_for_type_checkers() == set(fastload.__all__)


@pytest.mark.parametrize("name", fastload.__all__)
def test_every_export_can_be_imported(name: str) -> None:
    """No name is promised that is not there."""
    assert getattr(fastload, name) is not None


OF_TORCH = (
    *("Dataset", "IterableDataset", "TensorDataset", "Subset", "ConcatDataset", "DataLoader"),
    *("Sampler", "BatchSampler", "RandomSampler", "SequentialSampler", "DistributedSampler"),
)


@pytest.mark.parametrize("name", OF_TORCH)
def test_names_of_torch_are_torch_classes(name: str) -> None:
    """What was made with torch's class passes ours, and the other way round."""
    assert issubclass(getattr(fastload, name), getattr(torch.utils.data, name))


def test_unknown_name_is_an_attribute_error() -> None:
    """As with any module."""
    with pytest.raises(AttributeError, match="no attribute 'DataLoadr'"):
        fastload.DataLoadr  # noqa: B018


def test_importing_the_package_does_not_import_torch() -> None:
    """``fastload --help`` must answer at once."""
    code = "import sys, fastload; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
