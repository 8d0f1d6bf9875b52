"""Warnings that point at the program's own line, however many calls of ours lie between.

Runs in: consumer.
"""

from __future__ import annotations

import sys
import warnings

_OURS = ("fastload.", "torch.utils.data.", "torch.autograd.", "contextlib")


def warn_program(text: str) -> None:
    """Warn at the line of the program that called us."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and _is_ours(frame.f_globals.get("__name__")):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, RuntimeWarning, stacklevel=level)


def _is_ours(module: object) -> bool:
    return isinstance(module, str) and module.startswith(_OURS)
