"""Predicted against measured: two bars for each setting that was run for real."""

from __future__ import annotations

from fastload.tools.profile.pictures.colors import MEASURED, PREDICTED
from fastload.tools.profile.pictures.shapes import Label, Line, Picture, Rect, length_of, rate
from fastload.tools.profile.report import Profile

_BAR = 15.0
_ROW = 2 * _BAR + 34


def draw_trust(profile: Profile, width: float) -> Picture:
    """Draw the bars, each with its figure; the error is beside the setting."""
    picture = Picture("trust", "Predicted and measured throughput of settings that were run", width)
    if not profile.verified:
        picture.add(Label(0, 14, "no setting was run for real: the budget was too short"))
        picture.height = 20
        return picture
    rates = [
        value
        for each in profile.verified
        for value in (each.predicted_samples_per_s, each.measured_samples_per_s)
    ]
    room = width - max(length_of(rate(value)) for value in rates) - 10
    scale = room / (max(rates) or 1.0)
    y = 0.0
    for each in profile.verified:
        error = f"prediction {each.error:+.0%}" if each.measured_samples_per_s else "nothing ran"
        picture.add(
            Label(0, y + 14, f"{each.setting.words}: {error}", bold=True),
        )
        bars = (
            ("predicted", each.predicted_samples_per_s, each.predicted_stall_share, PREDICTED),
            ("measured", each.measured_samples_per_s, each.measured_stall_share, MEASURED),
        )
        for number, (name, value, stall, color) in enumerate(bars):
            top = y + 20 + number * _BAR
            title = f"{name}: {rate(value)} samples/s, waits {stall:.0%}"
            picture.add(Rect(0, top, value * scale, _BAR - 2, color, title))
            picture.add(Label(value * scale + 6, top + 11, rate(value), size=12))
        y += _ROW
    picture.add(Line(0, 0, 0, y - 8))
    picture.height = picture.add_legend(
        [(PREDICTED, "predicted samples/s"), (MEASURED, "measured samples/s")], y
    )
    return picture
