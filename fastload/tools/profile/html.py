"""The report as one HTML page that needs nothing else: no network, no script, no font.

Runs in: consumer, or where a saved profile is read; without torch.
Takes: a profile.
Gives: the page, as text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fastload.tools.profile.pictures import (
    Picture,
    draw_batch,
    draw_heat,
    draw_timeline,
    draw_trust,
)
from fastload.tools.profile.pictures.shapes import rate, seconds
from fastload.tools.profile.report import Profile, Setting

NARROW, WIDE = 360.0, 960.0
"""Each picture is drawn for a telephone and for a desk; the page shows the one that fits."""

_DRAWERS: dict[str, Callable[[Profile, float], Picture]] = {
    "batch": draw_batch,
    "timeline": draw_timeline,
    "heat": draw_heat,
    "trust": draw_trust,
}
_COLORS = {"not": "#009e73", "moderately": "#e69f00", "highly": "#d55e00", "unknown": "#888888"}


def render(profile: Profile) -> str:
    """Return the page. It is well-formed XML too, but for its first line.

    Args:
        profile: measured just now, or read with `Profile.from_json`.
    """
    environment = _make_environment()
    figure = environment.get_template("figure.svg.j2").module.figure  # type: ignore[attr-defined]

    def both(name: str) -> Markup:
        draw = _DRAWERS[name]
        sizes = (("narrow", NARROW), ("wide", WIDE))
        return Markup("\n").join(figure(draw(profile, width), of) for of, width in sizes)

    return environment.get_template("report.html.j2").render(
        profile=profile,
        both=both,
        color=_COLORS[profile.verdict.bound],
        words=_words,
        rate=rate,
        seconds=seconds,
        mebibytes=_mebibytes,
    )


def render_svg(picture: Picture) -> str:
    """Return one picture as an SVG document."""
    module: Any = _make_environment().get_template("figure.svg.j2").module
    return str(module.figure(picture))


def _make_environment() -> Environment:
    return Environment(
        loader=PackageLoader("fastload.tools.profile"),
        autoescape=True,
        undefined=StrictUndefined,
    )


def _words(setting: Setting) -> str:
    if not setting.num_workers:
        return ", ".join(("without workers", *setting.schedule.arguments))
    return setting.arguments


def _mebibytes(size_bytes: float) -> str:
    return f"{size_bytes / 2**20:,.1f} MiB"
