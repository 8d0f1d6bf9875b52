"""What pictures are made of, and how numbers are written in them. Lengths are in pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

TEXT = "currentColor"
"""Words and lines have the page's own colour, light or dark."""

SIZE = 13.0
"""Of letters."""


@dataclass(frozen=True, slots=True)
class Rect:
    """A rectangle; `title` is shown where the mouse rests."""

    x: float
    y: float
    width: float
    height: float
    fill: str
    title: str = ""
    stroke: str = "none"
    dash: str = "none"


@dataclass(frozen=True, slots=True)
class Line:
    """A thin line."""

    x1: float
    y1: float
    x2: float
    y2: float
    opacity: float = 0.25


@dataclass(frozen=True, slots=True)
class Label:
    """Words; `y` is their base line."""

    x: float
    y: float
    text: str
    anchor: Literal["start", "middle", "end"] = "start"
    fill: str = TEXT
    size: float = SIZE
    bold: bool = False


@dataclass
class Picture:
    """A drawing.

    Attributes:
        name: Names it in the page.
        title: What it shows, for those who cannot see it.
        width: In pixels.
        height: Grows while it is drawn.
        shapes: In the order in which they cover one another.
    """

    name: str
    title: str
    width: float
    height: float = 0.0
    shapes: list[Rect | Line | Label] = field(default_factory=list)

    def add(self, *shapes: Rect | Line | Label) -> None:
        """Draw over what is there."""
        self.shapes.extend(shapes)

    def add_legend(self, entries: Sequence[tuple[str, str]], y: float) -> float:
        """Draw coloured squares with words, in as many lines as they need.

        Args:
            entries: Colour and words of each.
            y: Where the first line begins.

        Returns:
            Where the last line ends.
        """
        x = 0.0
        for color, words in entries:
            needed = 18 + length_of(words) + 14
            if x and x + needed > self.width:
                x, y = 0.0, y + 20
            self.add(Rect(x, y + 3, 12, 12, color), Label(x + 18, y + 14, words))
            x += needed
        return y + 20


def length_of(words: str, size: float = SIZE) -> float:
    """How long words are at most: letters of wide fonts are 0.62 of their size, on average."""
    return 0.62 * size * len(words)


def seconds(value: float) -> str:
    """A time for people.

    Example:
        >>> seconds(0.00123), seconds(0.000045), seconds(2.5), seconds(0)
        ('1.2 ms', '45 us', '2.5 s', '0')
    """
    if value >= 1:
        return f"{value:.3g} s"
    if value >= 1e-3:
        return f"{value * 1e3:.2g} ms" if value < 0.01 else f"{value * 1e3:.0f} ms"
    return f"{value * 1e6:.0f} us" if value else "0"


def rate(value: float) -> str:
    """Samples per second for people, in few letters.

    Example:
        >>> rate(12.34), rate(1234), rate(45678), rate(2_500_000)
        ('12.3', '1,234', '45.7k', '2.5M')
    """
    if value >= 1e6:
        return f"{value / 1e6:.3g}M"
    if value >= 1e4:
        return f"{value / 1e3:.3g}k"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def ticks(end: float, most: int) -> list[float]:
    """Round values from 0 to `end`, at most `most` of them.

    Example:
        >>> ticks(0.9, 5)
        [0.0, 0.2, 0.4, 0.6, 0.8]
    """
    if not (math.isfinite(end) and end > 0) or most < 2:
        return [0.0]
    step = 10.0 ** math.floor(math.log10(end / most))
    while end / step >= most:
        step *= 2.5 if math.isclose(step / 10 ** math.floor(math.log10(step) + 1e-9), 2) else 2
    return [round(number * step, 12) for number in range(int(end / step) + 1)]
