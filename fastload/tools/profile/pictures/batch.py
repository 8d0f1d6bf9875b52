"""One bar: where the time of one batch goes."""

from __future__ import annotations

from fastload.tools.profile.pictures.colors import ink_on, of_stage
from fastload.tools.profile.pictures.shapes import Label, Picture, Rect, length_of, seconds
from fastload.tools.profile.report import Profile

_HEIGHT = 36.0
_SEEN = 0.001
"""Stages below this part are left out: a line thinner than a pixel says nothing."""


def draw_batch(profile: Profile, width: float) -> Picture:
    """Draw the bar, with a legend that has every stage's share and time."""
    picture = Picture("batch", "Where the time of one batch goes, by stage", width)
    shares = [share for share in profile.breakdown if share.share >= _SEEN]
    whole = sum(share.share for share in shares) or 1.0
    x = 0.0
    for share in shares:
        long = width * share.share / whole
        color, percent = of_stage(share.stage), f"{share.share:.0%}"
        title = f"{share.stage}: {share.share:.1%}, {seconds(share.mean_s)} a batch"
        picture.add(Rect(x, 0, long, _HEIGHT, color, title))
        if long > length_of(percent) + 6:
            picture.add(
                Label(x + long / 2, _HEIGHT / 2 + 5, percent, "middle", ink_on(color), bold=True)
            )
        x += long
    legend = [
        (
            of_stage(share.stage),
            f"{share.stage} {share.share:.1%} ({seconds(share.mean_s)}, {share.where})",
        )
        for share in shares
    ]
    picture.height = picture.add_legend(legend, _HEIGHT + 10)
    return picture
