"""Pictures stay within their frame and show the figures of the profile, whatever these are."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from fastload.tools.profile.html import NARROW, WIDE
from fastload.tools.profile.pictures import (
    Picture,
    colors,
    draw_batch,
    draw_heat,
    draw_timeline,
    draw_trust,
)
from fastload.tools.profile.pictures.shapes import (
    Label,
    Line,
    Rect,
    length_of,
    rate,
    seconds,
    ticks,
)
from fastload.tools.profile.report import Profile
from tests.tools.profile.pictures.samples import EXTREMES, STAGES, make_profile

Drawer = Callable[[Profile, float], Picture]
DRAWERS: tuple[Drawer, ...] = (draw_batch, draw_heat, draw_timeline, draw_trust)
EVERYTHING = pytest.mark.parametrize(
    ("draw", "name", "width"),
    list(itertools.product(DRAWERS, EXTREMES, (NARROW, WIDE))),
)


def box_of(shape: Rect | Line | Label) -> tuple[float, float, float, float]:
    """Left, top, right, bottom."""
    if isinstance(shape, Rect):
        return shape.x, shape.y, shape.x + shape.width, shape.y + shape.height
    if isinstance(shape, Line):
        return shape.x1, shape.y1, shape.x2, shape.y2
    long = length_of(shape.text, shape.size)
    left = shape.x - {"start": 0.0, "middle": 0.5, "end": 1.0}[shape.anchor] * long
    return left, shape.y - shape.size, left + long, shape.y


def rects(picture: Picture, *words: str) -> list[Rect]:
    """The rectangles whose title has all these words."""
    return [
        shape
        for shape in picture.shapes
        if isinstance(shape, Rect) and shape.title and all(word in shape.title for word in words)
    ]


def labels(picture: Picture) -> list[str]:
    return [shape.text for shape in picture.shapes if isinstance(shape, Label)]


@EVERYTHING
def test_nothing_leaves_the_frame(draw: Drawer, name: str, width: float) -> None:
    """On a telephone and on a desk; words too, by the width of wide fonts."""
    picture = draw(EXTREMES[name], width)
    assert picture.width == width
    assert picture.height > 0
    for shape in picture.shapes:
        left, top, right, bottom = box_of(shape)
        assert -0.5 <= left <= right, shape
        assert -0.5 <= top <= bottom + 0.001, shape
        assert bottom <= picture.height + 0.5, shape
        if len(getattr(shape, "text", "")) < 30:  # an endless name has no place anywhere
            assert right <= width + 1.5, shape


@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_bar_of_a_batch_is_divided_by_share(width: float) -> None:
    """Stages stand in their order, side by side, and fill the bar."""
    bar = rects(draw_batch(make_profile(), width), "a batch")
    seen = [name for name, share in STAGES.items() if share >= 0.001]
    assert [rect.title.partition(":")[0] for rect in bar] == seen
    assert sum(rect.width for rect in bar) == pytest.approx(width)
    for before, after in itertools.pairwise(bar):
        assert after.x == pytest.approx(before.x + before.width)
    waiting = next(rect for rect in bar if rect.title.startswith("fetch, waiting"))
    assert waiting.width / width == pytest.approx(0.42, rel=0.01)
    assert "fetch, waiting: 42.0%, 8.4 ms" in waiting.title


def test_timeline_has_a_lane_for_each_process() -> None:
    """The training loop above, then the workers by number, ten after two."""
    profile = EXTREMES["many workers"]
    picture = draw_timeline(profile, WIDE)
    lanes = [text for text in labels(picture) if text.startswith(("consumer", "worker "))]
    assert lanes == ["consumer", *(f"worker {number}" for number in range(64))]
    assert len(rects(picture, "batch")) == len(profile.spans)


def test_spans_lie_where_they_were_in_time() -> None:
    """Twice as late is twice as far to the right; twice as long is twice as wide."""
    picture = draw_timeline(make_profile(), WIDE)
    first, second, third = (
        rects(picture, f"worker {number % 2}, batch {number}: fetch")[0] for number in range(3)
    )
    assert second.x - first.x == pytest.approx(third.x - second.x)
    wait = rects(picture, "consumer, batch 0: wait")[0]
    step = rects(picture, "consumer, batch 0: step")[0]
    assert step.x == pytest.approx(wait.x + wait.width)
    assert step.width == pytest.approx(4 * wait.width)
    assert wait.y < first.y


def test_heat_map_has_a_cell_for_each_setting() -> None:
    """With its figures; more throughput is darker, what is impossible is grey."""
    profile = make_profile()
    picture = draw_heat(profile, NARROW)
    assert len(rects(picture, "num_workers=")) == len(profile.what_if)
    (slow,) = rects(picture, "num_workers=1,", "prefetch_factor=1:")
    (fast,) = rects(picture, "num_workers=16,", "prefetch_factor=8:")
    (impossible,) = rects(picture, "num_workers=32,", "prefetch_factor=8:")
    assert int(slow.fill[1:3], 16) > int(fast.fill[1:3], 16)
    assert impossible.fill == colors.IMPOSSIBLE
    assert "more memory than there is" in impossible.title
    assert "1,508 samples/s" in fast.title


def test_heat_map_frames_what_is_set_and_what_is_recommended() -> None:
    """The frame of the recommended setting lies in its cell."""
    picture = draw_heat(make_profile(), WIDE)
    (cell,) = rects(picture, "num_workers=4,", "prefetch_factor=2:")
    frames = [shape for shape in picture.shapes if isinstance(shape, Rect) and shape.fill == "none"]
    assert len(frames) == 3
    assert frames[-1].stroke == colors.RECOMMENDED
    assert cell.x < frames[-1].x < frames[-1].x + frames[-1].width < cell.x + cell.width
    assert {"recommended", "what is set now"} <= set(labels(picture))


def test_bars_of_predicted_and_measured_are_as_long_as_the_figures() -> None:
    """And the error is told."""
    picture = draw_trust(make_profile(), WIDE)
    predicted, measured = rects(picture, "predicted"), rects(picture, "measured")
    assert predicted[1].width / predicted[0].width == pytest.approx(1694.2 / 1077.3)
    assert measured[1].width / predicted[1].width == pytest.approx(1713.9 / 1694.2)
    assert "2 workers, prefetch_factor 2: prediction +1%" in labels(picture)
    assert "4 workers, prefetch_factor 2: prediction -1%" in labels(picture)


def test_words_can_be_read_on_every_color() -> None:
    """At a contrast of 4.5 to 1 at least, by WCAG 2.2."""

    def luminance(color: str) -> float:
        parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    grounds = [*colors.STAGES.values(), *(colors.of_share(step / 50) for step in range(51))]
    for ground in grounds:
        low, high = sorted([luminance(ground), luminance(colors.ink_on(ground))])
        assert (high + 0.05) / (low + 0.05) >= 4.5, ground


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "0"), (4.5e-5, "45 us"), (0.0012, "1.2 ms"), (0.099, "99 ms"), (2.5, "2.5 s")],
)
def test_times_are_short(value: float, words: str) -> None:
    """In the unit that needs fewest letters."""
    assert seconds(value) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "0"), (12.34, "12.3"), (1234.4, "1,234"), (45678, "45.7k"), (2.5e6, "2.5M")],
)
def test_rates_are_short(value: float, words: str) -> None:
    """Six letters at most."""
    assert rate(value) == words


@pytest.mark.parametrize("end", [1e-9, 3e-5, 0.0417, 1.0, 7.3, 1e6])
@pytest.mark.parametrize("most", [2, 3, 5, 10])
def test_ticks_are_round_and_few(end: float, most: int) -> None:
    """They begin at 0, are evenly spaced, at 1, 2 or 5 times a power of ten, and end within."""
    found = ticks(end, most)
    assert found[0] == 0
    assert 1 <= len(found) <= most
    assert found[-1] <= end
    if len(found) > 1:
        assert f"{found[1]:.0e}"[0] in "125"
        assert found[-1] == pytest.approx(found[1] * (len(found) - 1))


@pytest.mark.parametrize("end", [0.0, float("nan"), float("inf"), -1.0])
def test_no_time_has_one_tick(end: float) -> None:
    """At 0."""
    assert ticks(end, 5) == [0.0]
