"""The page: complete in itself, well-formed, and true to the profile."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from fastload.tools.profile.html import NARROW, WIDE, render, render_svg
from fastload.tools.profile.pictures import draw_heat
from fastload.tools.profile.report import Profile
from tests.tools.profile.pictures.samples import EXTREMES, make_profile

SVG = "{http://www.w3.org/2000/svg}"


def parsed(profile: Profile) -> ET.Element:
    return ET.fromstring(render(profile))


def words_of(profile: Profile) -> str:
    return " ".join("".join(parsed(profile).itertext()).split())


@pytest.mark.parametrize("name", EXTREMES)
def test_page_is_well_formed(name: str) -> None:
    """Whatever is in the profile; names are words in it, never elements."""
    page = parsed(EXTREMES[name])
    assert page.tag == "html"
    assert not list(page.iter("script"))
    assert [child.text for child in page.iter("h1")] == [EXTREMES[name].target]


@pytest.mark.parametrize("name", EXTREMES)
def test_page_needs_nothing_else(name: str) -> None:
    """No address, no import, no file: it opens without a network."""
    page = render(EXTREMES[name])
    assert set(re.findall(r"[a-z]+://[^\s\"'<)]*", page)) <= {"http://www.w3.org/2000/svg"}
    assert "@import" not in page
    assert "url(" not in page
    for element in parsed(EXTREMES[name]).iter():
        assert not {"src", "href", "data", "onload"} & set(element.attrib)
        assert element.tag not in {"link", "script", "iframe", "object", "img"}


def test_each_picture_is_there_for_both_widths() -> None:
    """Four pictures, drawn for a telephone and for a desk; the style sheet shows one of the two."""
    page = parsed(make_profile())
    found = [
        (svg.get("class"), svg.get("viewBox", "").split()[2]) for svg in page.iter(f"{SVG}svg")
    ]
    assert found == [("narrow", str(NARROW)), ("wide", str(WIDE))] * 4
    style = next(page.iter("style")).text or ""
    assert "svg.wide { display: none; }" in style
    assert "@media (min-width: 720px) { svg.narrow { display: none; }" in style


def test_page_says_what_the_profile_says() -> None:
    """Verdict, warnings, fixes, stages, resources, workers, slow samples, machine."""
    profile = make_profile()
    words = words_of(profile)
    for expected in (
        profile.verdict.sentence,
        "39 % of the time waiting for data",
        "1,061 samples per second",
        "1.75 \N{MULTIPLICATION SIGN} as fast with an ideal loader",
        "4 / 2 num_workers / prefetch_factor recommended",
        profile.warnings[0],
        "DataLoader(..., num_workers=4)",
        "what fetch, waiting is",
        profile.resources[0].evidence,
        "388",
        "AMD EPYC, 2.5 cores",
    ):
        assert expected in words


def test_what_is_not_known_is_left_out() -> None:
    """Without a consumer's step there is no headroom; without workers, no table of them."""
    words = words_of(EXTREMES["no workers, no consumer"])
    assert "ideal loader" not in words
    assert "busy" not in words
    assert "without workers" in words
    assert "no change is expected" in words_of(EXTREMES["nothing recorded"])


def test_page_is_small(tmp_path: Path) -> None:
    """An ordinary one is mailed without a thought."""
    assert len(render(make_profile())) < 150_000


def test_single_picture_is_an_svg_document() -> None:
    """For a page of one's own."""
    svg = ET.fromstring(render_svg(draw_heat(make_profile(), WIDE)))
    assert svg.tag == f"{SVG}svg"
    assert svg.get("aria-label") == "Predicted throughput by workers and prefetch factor"


def test_saved_profile_is_rendered_without_torch(tmp_path: Path) -> None:
    """A report can be made where no torch is installed."""
    file = tmp_path / "profile.json"
    file.write_text(make_profile().to_json())
    code = (
        "import sys, pathlib\n"
        "from fastload.tools.profile.html import render\n"
        "from fastload.tools.profile.report import Profile\n"
        f"page = render(Profile.from_json(pathlib.Path({str(file)!r}).read_text()))\n"
        "assert page.startswith('<!DOCTYPE html>')\n"
        "assert not {'torch', 'matplotlib', 'numpy'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
