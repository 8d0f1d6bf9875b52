"""docs/promises.md names tests that exist, and leaves nothing without a test or a reason."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path
from typing import NamedTuple

import pytest

import tests.faults.cases  # noqa: F401  (fills the table of faults)
from tests.faults.case import CASES

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "promises.md"
FAULTS = "tests/faults/test_faults.py::test_fault_ends_as_promised"
NOT_YET = "**Not yet:**"
ROWS = 45
SHORTEST_REASON = 5
"""Words; fewer are no reason."""


class Proof(NamedTuple):
    """A test that the page names; ``is_rare`` is what the page says of it."""

    file: str
    names: tuple[str, ...]
    parameters: str | None
    is_rare: bool


class Row(NamedTuple):
    """A line of the table."""

    number: str
    asked: str
    torch: str
    fastload: str
    proof: str

    @property
    def proofs(self) -> list[Proof]:
        """The tests that it names, in their order."""
        return [proof_of(text) for text in self.proof.split("<br>") if text != "-"]

    @property
    def reason(self) -> str | None:
        """Why fastload does not do all that was asked; None where it does."""
        _, found, reason = self.fastload.partition(NOT_YET)
        return reason.strip() if found else None


def proof_of(text: str) -> Proof:
    """Read one line of the last column."""
    found = re.fullmatch(r"`([\w/]+\.py)::([\w:]+)(?:\[(\w+)\])?`( \*\(all\)\*)?", text)
    assert found is not None, f"not the name of a test: {text}"
    file, names, parameters, rare = found.groups()
    return Proof(file, tuple(names.split("::")), parameters, rare is not None)


def rows_of(page: str) -> list[Row]:
    """The lines of the page's table, below its head."""
    lines = [line for line in page.splitlines() if line.startswith("|")]
    return [Row(*(cell.strip() for cell in line[1:-1].split(" | "))) for line in lines[2:]]


@functools.cache
def nodes_of(file: str) -> dict[tuple[str, ...], ast.FunctionDef]:
    """The tests of a file, each by its name behind that of its class."""
    tree = ast.parse((ROOT / file).read_text())
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    found = {(node.name,): node for node in tree.body if isinstance(node, ast.FunctionDef)}
    for one in classes:
        for node in one.body:
            if isinstance(node, ast.FunctionDef):
                found[one.name, node.name] = node
    return found


def is_exhaustive(node: ast.FunctionDef) -> bool:
    """Whether ``make test`` leaves out the whole test."""
    return any(ast.unparse(one) == "pytest.mark.exhaustive" for one in node.decorator_list)


TABLE = rows_of(PAGE.read_text())
BY_NUMBER = pytest.mark.parametrize("row", TABLE, ids=[row.number for row in TABLE])


def test_page_has_a_row_for_each_complaint() -> None:
    """Numbered from 1 on, none twice."""
    assert [row.number for row in TABLE] == [str(number) for number in range(1, ROWS + 1)]


@BY_NUMBER
def test_row_is_complete(row: Row) -> None:
    """A public issue; a test, or what is not done yet with a reason."""
    assert re.search(r"\]\(https://github\.com/[\w.-]+/[\w.-]+/issues/\d+\)", row.asked)
    assert row.torch
    assert row.fastload
    assert row.proofs or row.reason is not None
    assert row.reason is None or len(row.reason.split()) >= SHORTEST_REASON


@BY_NUMBER
def test_tests_of_a_row_exist(row: Row) -> None:
    """Under that name, with such a fault; those that only ``make test-all`` runs are marked."""
    for proof in row.proofs:
        nodes = nodes_of(proof.file)
        assert proof.names in nodes, proof
        assert proof.names[-1].startswith("test_"), proof
        is_fault = f"{proof.file}::{'::'.join(proof.names)}" == FAULTS
        assert is_fault == (proof.parameters is not None), proof
        case = CASES[proof.parameters] if proof.parameters is not None else None
        assert case is None or case.broken is None, proof
        is_rare = is_exhaustive(nodes[proof.names]) or (case is not None and case.is_rare)
        assert proof.is_rare == is_rare, proof


@pytest.mark.parametrize("text", ["", "a test", "`tests/a.py`", "tests/a.py::test_a"])
def test_what_names_no_test_is_refused(text: str) -> None:
    """So that a line of another form is not passed over."""
    with pytest.raises(AssertionError, match="not the name of a test"):
        proof_of(text)


def test_whatever_says_not_yet_is_read() -> None:
    """Spelled in another way, the words would be no row's reason."""
    said = re.findall(r"not yet", "\n".join(map(str, TABLE)), re.IGNORECASE)
    assert len(said) == sum(row.reason is not None for row in TABLE) > 0
