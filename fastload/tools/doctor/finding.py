"""Findings: what a check saw, whether that is good, and what to do if not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warn", "bad"]
VERDICTS: tuple[Verdict, ...] = ("ok", "warn", "bad")
"""From good to bad. *bad*: something will not work; *warn*: it works, but slower or not for all."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's answer.

    Attributes:
        name: What was looked at.
        verdict: ``"ok"``, ``"warn"`` or ``"bad"``.
        found: What was seen, with its values.
        cure: What to do about it; empty where nothing is to be done.
    """

    name: str
    verdict: Verdict
    found: str
    cure: str = ""


def worst(findings: Sequence[Finding]) -> Verdict:
    """Return the worst verdict among findings; ``"ok"`` if there are none."""
    return max((finding.verdict for finding in findings), key=VERDICTS.index, default="ok")


def gibibytes(size_bytes: float) -> str:
    """Return a size for people: ``"1.5 GiB"``, or ``"640 MiB"`` below one GiB."""
    if size_bytes < 1 << 30:
        return f"{size_bytes / (1 << 20):,.0f} MiB"
    return f"{size_bytes / (1 << 30):,.1f} GiB"
