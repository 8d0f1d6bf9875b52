"""Each fault of the table, really made, in a fresh process with a deadline."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

import tests.faults.cases  # noqa: F401  (fills the table)
from tests.faults.case import CASES, Case
from tests.faults.generate import OUTCOMES, PAGE, page, says_the_same
from tests.faults.matrix import ELSEWHERE, FAULTS
from tests.faults.process import Outcome

WRITTEN: dict[str, dict[str, str]] = json.loads(OUTCOMES.read_text())


def _marks(case: Case) -> list[Any]:
    marks = [] if case.broken is None else [pytest.mark.xfail(strict=True, reason=case.broken)]
    return [*marks, pytest.mark.exhaustive] if case.is_rare else marks


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=name, marks=_marks(case)) for name, case in CASES.items()]
)
def test_fault_ends_as_promised(case: Case, outcome: Outcome) -> None:
    """No hang, the promised outcome, as written on the page, and nothing left anywhere."""
    assert not outcome.is_hung, f"{outcome.text}\n{outcome.errors}"
    assert re.search(case.expect, outcome.text, re.DOTALL), f"{outcome.text}\n{outcome.errors}"
    assert outcome.errors.count("Traceback") == case.tracebacks, outcome.errors
    written = WRITTEN[case.name]["fastload"]
    assert case.is_a_race or says_the_same(written, outcome.text), outcome.text
    left = [what for what in outcome.left if not case.leaves or not re.search(case.leaves, what)]
    assert left == []


def test_every_fault_of_the_matrix_is_accounted_for() -> None:
    """In the table, or with a reason why not."""
    in_table = {number for case in CASES.values() for number in case.numbers}
    assert in_table | set(ELSEWHERE) == set(FAULTS)
    assert not in_table & set(ELSEWHERE)


def test_page_shows_every_case() -> None:
    """docs/reliability.md was generated from this table; run tests/faults/generate.py if not."""
    assert set(WRITTEN) == set(CASES)
    _, _, table = page(WRITTEN).partition("| no. |")  # above it, the versions that it was run with
    assert PAGE.read_text().partition("| no. |")[2] == table
