"""torchvision for tests: the real package, also where its compiled operators don't load."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
from torch.library import Library

_MISSING = ("nms", "qnms")
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

_kept: list[Any] = []


def torchvision(module: str = "") -> Any:
    """Return a module of torchvision; skip the test where it is not installed.

    A torchvision for CUDA beside a torch for the CPU can't load its library, and then fails at its
    import because operators are missing to which it adds. Datasets and transforms need none of
    them, so these are declared.
    """
    pytest.importorskip("PIL")
    name = f"torchvision.{module}".rstrip(".")
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    if not _kept:
        try:
            importlib.import_module("torchvision")
        except RuntimeError as error:
            if "torchvision::nms does not exist" not in str(error):
                raise
            library = Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
            for each in _MISSING:
                library.define(each + _SIGNATURE)  # type: ignore[no-untyped-call]
            _kept.append(library)
    return importlib.import_module(name)
