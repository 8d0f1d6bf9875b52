"""Draw predicted throughput and stall by workers and prefetch factor."""

from __future__ import annotations

from fastload.tools.profile.pictures.colors import (
    IMPOSSIBLE,
    LIGHT,
    OWN,
    RECOMMENDED,
    ink_on,
    of_share,
)
from fastload.tools.profile.pictures.shapes import Label, Picture, Rect, length_of, rate
from fastload.tools.profile.report import Prediction, Profile, Setting
from fastload.tools.words import counted

_TOP = 40.0
_ROW = 40.0
_WIDEST_CELL = 130.0


def draw_heat(profile: Profile, width: float) -> Picture:
    """Draw a cell for each setting: throughput above, share of waiting below."""
    picture = Picture("heat", "Predicted throughput by workers and prefetch factor", width)
    factors = sorted({p.setting.prefetch_factor for p in profile.own_grid if p.setting.num_workers})
    workers = sorted({p.setting.num_workers for p in profile.own_grid})
    if not workers:
        picture.add(Label(0, 14, "no setting was predicted"))
        picture.height = 20
        return picture
    left = max(length_of(_of_workers(number)) for number in workers) + 8
    cell = min(_WIDEST_CELL, (width - left) / max(1, len(factors)))
    picture.add(Label(left, 14, "prefetch_factor", bold=True))
    for column, factor in enumerate(factors):
        picture.add(Label(left + (column + 0.5) * cell, _TOP - 8, str(factor), "middle"))
    best = max(p.samples_per_s for p in profile.own_grid) or 1.0
    top_of = {number: _TOP + row * _ROW for row, number in enumerate(workers)}
    for number, top in top_of.items():
        picture.add(Label(0, top + _ROW / 2 + 4, _of_workers(number)))
    marks = []
    for prediction in profile.own_grid:
        setting = prediction.setting
        columns = 1 if setting.num_workers else max(1, len(factors))
        column = factors.index(setting.prefetch_factor) if setting.num_workers else 0
        x, top = left + column * cell, top_of[setting.num_workers]
        _draw_cell(picture, prediction, (x, top, columns * cell), best)
        marks += [
            Rect(x + 2, top + 2, columns * cell - 5, _ROW - 5, "none", stroke=color, dash=dash)
            for marked, color, dash in _marked(profile)
            if marked == setting
        ]
    picture.add(*marks)
    bottom = _TOP + len(workers) * _ROW + 8
    picture.height = picture.add_legend(_legend(profile), bottom)
    return picture


def _of_workers(number: int) -> str:
    return counted(number, "worker")


def _draw_cell(
    picture: Picture, prediction: Prediction, place: tuple[float, float, float], best: float
) -> None:
    x, y, width = place
    setting, possible = prediction.setting, prediction.is_possible
    color = of_share(prediction.samples_per_s / best) if possible else IMPOSSIBLE
    title = (
        f"{setting.arguments}: "
        f"{rate(prediction.samples_per_s)} samples/s, waits {prediction.stall_share:.0%}, "
        f"{prediction.memory_bytes / 2**20:,.0f} MiB, {prediction.cpu_share:.0%} of the cores"
    )
    title += "" if possible else "; needs more memory than there is"
    picture.add(Rect(x, y, width - 1, _ROW - 1, color, title))
    ink, middle = ink_on(color), x + width / 2
    words = rate(prediction.samples_per_s) if possible else "no"
    below = f"{prediction.stall_share:.0%}" if possible else "memory"
    if width > max(length_of(words), length_of(below, 11)) + 4:
        picture.add(
            Label(middle, y + 17, words, "middle", ink, bold=True),
            Label(middle, y + 32, below, "middle", ink, size=11),
        )


def _marked(profile: Profile) -> list[tuple[Setting, str, str]]:
    """The settings that get a frame: colour and dashes; the recommended one is on top."""
    own = profile.setting
    return [(own, LIGHT, "none"), (own, OWN, "5 4"), (profile.recommended, RECOMMENDED, "none")]


def _legend(profile: Profile) -> list[tuple[str, str]]:
    if profile.setting == profile.recommended:
        return [(RECOMMENDED, "recommended, and what is set now")]
    entries = [
        (RECOMMENDED, "recommended"),
        ("currentColor", "what is set now"),
    ]  # the dashes are both
    if any(not prediction.is_possible for prediction in profile.own_grid):
        entries.append((IMPOSSIBLE, "needs more memory than there is"))
    return entries
