"""What each process did when: a lane for the training loop and one for each worker."""

from __future__ import annotations

from fastload.tools.profile.pictures.colors import of_stage
from fastload.tools.profile.pictures.shapes import (
    Label,
    Line,
    Picture,
    Rect,
    length_of,
    seconds,
    ticks,
)
from fastload.tools.profile.report import Profile

_LANE, _GAP = 24.0, 6.0
_ROOM_FOR_A_TICK = 70.0


def draw_timeline(profile: Profile, width: float) -> Picture:
    """Draw the spans; the training loop's lane is the first."""
    picture = Picture("timeline", "What the training loop and the workers did when", width)
    if not profile.spans:
        picture.add(Label(0, 14, "no batches were recorded"))
        picture.height = 20
        return picture
    lanes = lanes_of(profile)
    left = max(length_of(lane) for lane in lanes) + 8
    end_s = max(span.end_s for span in profile.spans) or 1.0
    scale = (width - left - 1) / end_s
    top_of = {lane: number * (_LANE + _GAP) for number, lane in enumerate(lanes)}
    bottom = len(lanes) * (_LANE + _GAP)
    for tick in ticks(end_s, max(2, int((width - left) / _ROOM_FOR_A_TICK))):
        x = left + tick * scale
        picture.add(Line(x, 0, x, bottom + 4))
        words = seconds(tick)
        x = min(x, width - length_of(words, 12) / 2)  # the last one must not reach over the edge
        picture.add(Label(x, bottom + 18, words, "middle", size=12))
    for lane, top in top_of.items():
        picture.add(Label(0, top + _LANE / 2 + 5, lane))
        picture.add(Line(left, top + _LANE, width, top + _LANE))
    for span in profile.spans:
        long = (span.end_s - span.start_s) * scale
        title = (
            f"{span.lane}, batch {span.batch}: {span.stage} {seconds(span.end_s - span.start_s)}"
        )
        picture.add(
            Rect(
                left + span.start_s * scale,
                top_of[span.lane],
                max(long, 0.4),
                _LANE,
                of_stage(span.stage),
                title,
            )
        )
    stages = dict.fromkeys(span.stage for span in profile.spans)
    picture.height = picture.add_legend([(of_stage(stage), stage) for stage in stages], bottom + 28)
    return picture


def lanes_of(profile: Profile) -> list[str]:
    """The names of the lanes, from top to bottom."""
    return sorted({span.lane for span in profile.spans}, key=_order)


def _order(lane: str) -> tuple[int, str]:
    """The training loop first, then workers by number."""
    name, _, number = lane.rpartition(" ")
    return (int(number), name) if number.isdecimal() else (-1, lane)
