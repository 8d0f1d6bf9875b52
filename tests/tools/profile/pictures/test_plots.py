"""The image file, by matplotlib."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from PIL import Image

from fastload.tools.profile.plots import draw, save
from tests.tools.profile.pictures.samples import EXTREMES, STAGES, make_profile


@pytest.mark.leaves(r"descriptor \d+ .*\.ttf")  # matplotlib keeps its fonts open
@pytest.mark.parametrize("name", [name for name in EXTREMES if name != "many workers"])
def test_profile_is_drawn_into_a_file(name: str, tmp_path: Path) -> None:
    """Whatever is in it: an image of more than one colour."""
    file = tmp_path / "profile.png"
    save(EXTREMES[name], file)
    with Image.open(file) as image:
        assert image.format == "PNG"
        assert min(image.size) > 1000
        assert len(image.convert("RGB").getcolors(1 << 24) or []) > 10


def test_four_pictures_show_the_profile() -> None:
    """A bar with every stage, a bar a span, a cell a setting, two bars a run."""
    profile = make_profile()
    batch, timeline, heat, trust = draw(profile).get_axes()
    assert [bar.get_width() for bar in batch.patches] == pytest.approx(list(STAGES.values()))
    assert [label.get_text() for label in timeline.get_yticklabels()] == [
        *("consumer", "worker 0", "worker 1")
    ]
    spans = sum(len(group.get_paths()) for group in timeline.collections)
    assert spans == len(profile.spans)
    cells = [text.get_text() for text in heat.texts]
    assert len(cells) == len(profile.what_if)
    assert "1,202*" in cells
    assert [bar.get_height() for bar in trust.patches] == [1077.3, 1694.2, 1061.4, 1713.9]
