"""Colours that people who see few colours can tell apart.

Source: Okabe and Ito, Color Universal Design, 2008, https://jfly.uni-koeln.de/color/
"""

from __future__ import annotations

STAGES = {
    "sampler": "#8c8c8c",
    "fetch": "#0072b2",
    "fetch, computing": "#0072b2",
    "fetch, waiting": "#56b4e9",
    "waiting for a core": "#f0e442",
    "collate": "#009e73",
    "write": "#cc79a7",
    "hand-off": "#e69f00",
    "reorder": "#7a5230",
    "pin": "#6a3d9a",
    "wait": "#d55e00",
    "step": "#bdbdbd",
}

UNKNOWN = "#666666"
DARK, LIGHT = "#000000", "#ffffff"
PREDICTED, MEASURED = "#56b4e9", "#0072b2"
RECOMMENDED, OWN = "#d55e00", "#000000"
IMPOSSIBLE = "#c9c9c9"

_LOW, _HIGH = (0xF2, 0xF5, 0xF9), (0x08, 0x4A, 0x91)


def of_stage(stage: str) -> str:
    """The colour of a stage, grey for one that is not known here."""
    return STAGES.get(stage, UNKNOWN)


def of_share(share: float) -> str:
    """From nearly white (0) to dark blue (1)."""
    share = min(1.0, max(0.0, share))
    mixed = (round(low + (high - low) * share) for low, high in zip(_LOW, _HIGH, strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)


def ink_on(color: str) -> str:
    """Black or white, whichever is easier to read on a colour.

    Source: relative luminance in WCAG 2.2, https://www.w3.org/TR/WCAG22/#dfn-relative-luminance
    """
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return DARK if luminance > 0.179 else LIGHT
