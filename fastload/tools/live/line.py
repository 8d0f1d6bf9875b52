"""Put a reading into words, for one line of a terminal."""

from __future__ import annotations

from typing import Literal

from rich.text import Text

from fastload.tools.live.gauge import Reading
from fastload.tools.profile.judge import HIGH, MODERATE
from fastload.tools.words import rank_prefix

LONG_SILENCE_S = 3.0
"""Beyond this without a batch, the figures are old: that is said instead."""

_STYLES = {"not": "green", "moderately": "yellow", "highly": "red"}


def bound_of(stall_share: float) -> Literal["not", "moderately", "highly"]:
    """Say how input-bound a loop is that waits for this part of its time."""
    if stall_share < MODERATE:
        return "not"
    return "moderately" if stall_share <= HIGH else "highly"


def in_words(reading: Reading | None) -> Text:
    """Return a line that begins with the verdict: a narrow terminal cuts the end off."""
    line = Text(f"{rank_prefix()}fastload: ")
    if reading is None:
        return line.append("no batch yet", style="dim")
    if reading.silent_s > LONG_SILENCE_S:
        line.append(f"no batch for {reading.silent_s:.0f} s", style="red")
    else:
        bound = bound_of(reading.stall_share)
        line.append(f"{bound} input-bound", style=_STYLES[bound])
        line.append(f", waits {reading.stall_share:.0%}")
    line.append(f"  {reading.samples_per_s:,.0f} samples/s")
    return line.append(f"  {reading.ready_batches:.1f} batches ready")
