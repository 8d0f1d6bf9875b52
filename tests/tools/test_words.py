"""Texts that commands show."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from fastload.tools.cli.console import make_output, warn
from fastload.tools.words import counted, one_line, printable, rank_prefix


@given(st.text())
def test_nothing_unprintable_is_left(text: str) -> None:
    """But ends of lines and tabs; printable text stays what it is."""
    shown = printable(text)
    assert all(each.isprintable() or each in "\n\t" for each in shown)
    assert printable(shown) == shown
    if text.isprintable():
        assert shown == text


@given(st.text(), st.integers(10, 100))
def test_one_line_is_one_line(text: str, longest: int) -> None:
    """Whatever it is made of; a long text says that it goes on."""
    line = one_line(text, longest)
    assert line.isprintable()
    if len(text) > longest:
        assert line.endswith("...")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "0 batches"),
        (1, "1 batch"),
        (1.0, "1 batch"),
        (2, "2 batches"),
        (1_200, "1,200 batches"),
    ],
)
def test_numbers_have_the_right_noun(number: float, words: str) -> None:
    """One is singular, all else plural."""
    assert counted(number, "batch") == words


@pytest.mark.parametrize(
    ("environment", "prefix"),
    [
        ({}, ""),
        ({"RANK": "3", "LOCAL_RANK": "1"}, "[rank 3] "),
        ({"LOCAL_RANK": "1"}, "[local rank 1] "),
        ({"RANK": "\x1b[2J"}, ""),
    ],
)
def test_rank_is_that_of_the_launcher(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], prefix: str
) -> None:
    """None without one, or where the variable is something else."""
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert rank_prefix() == prefix


def test_no_way_to_the_terminal_lets_escapes_through(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither strings nor rich's own texts, alone and in tables, nor warnings."""
    hostile = "\x1b]0;title\x07[red]:smile:\x9b2J\r"
    output = make_output()
    table = Table(title=hostile)
    table.add_column(hostile)
    table.add_row(hostile)
    table.add_row(Text(hostile))
    for each in (hostile, Text(hostile), table):
        output.print(each)
    warn(hostile)
    captured = capsys.readouterr()
    for text in (captured.out, captured.err):
        assert all(each.isprintable() or each == "\n" for each in text)
        assert r"\x1b]0;title" in text
        assert "[red]:smile:" in text


def test_every_line_of_a_warning_names_its_rank(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A traceback has several."""
    monkeypatch.setenv("RANK", "7")
    warn("first\nsecond")
    assert capsys.readouterr().err == "[rank 7] first\n[rank 7] second\n"
