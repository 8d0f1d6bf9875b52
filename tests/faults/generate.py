"""Run the table with torch's loader and with ours, and write docs/reliability.md from it.

    python -m tests.faults.generate                  # both columns, a quarter of an hour
    python -m tests.faults.generate --ours           # fastload's column, a few minutes
    python -m tests.faults.generate --ours worker_   # only these cases, the rest as it is written

Outcomes are kept in tests/faults/outcomes.json. Not part of CI: torch hangs in many cases, and
each of its hangs takes until the deadline.
"""

from __future__ import annotations

import json
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import tests.faults.cases  # noqa: F401  (fills the table)
from tests.faults.case import CASES, Case
from tests.faults.cases.machine import EVERYTHING
from tests.faults.matrix import ELSEWHERE, FAULTS
from tests.faults.nursery import Nursery
from tests.faults.process import ROOT, Outcome, try_out

OUTCOMES = ROOT / "tests" / "faults" / "outcomes.json"
PAGE = ROOT / "docs" / "reliability.md"
TORCH_DEADLINE_S = 12
NOTEWORTHY_S = 4
LONGEST_CELL = 110
LOADERS = ("torch", "fastload")
OURS = "--ours"

HEAD = """# What happens when things go wrong

*Written by `python -m tests.faults.generate`; don't edit it by hand.*

Each row is a fault that is really made: a real signal, a real full file system, a real limit. Each
runs in a fresh process, with two loader workers started by fork and batches of 4 of 64 samples,
unless the row says otherwise. The columns say what the training loop saw. **hangs** means that the
process had not ended at its deadline: {deadline} s for torch, longer where the fault itself takes
long. *left* means processes that were there a second after the program's end, or descriptors three
seconds after the loader was dropped. Times are given from {noteworthy} s on. `tests/faults/` holds
the cases; `make test-all` runs the whole fastload column, `make test` nearly all of it.

With a fast loader on a busy machine about 5 in 100 exceptions that a signal handler raises in the
loader end the epoch with `LoadingInterrupted`; the others lose nothing.

Versions: torch {torch}, Python {python}, Linux.

{summary}
"""


def main(arguments: list[str]) -> None:
    """Run what was asked for, and write the page."""
    patterns = [argument for argument in arguments if argument != OURS]
    loaders = LOADERS[1:] if OURS in arguments else LOADERS
    os.environ[EVERYTHING] = "1"
    known: dict[str, dict[str, str]] = json.loads(OUTCOMES.read_text()) if OUTCOMES.exists() else {}
    chosen = [
        case
        for name, case in CASES.items()
        if not patterns or any(re.search(pattern, name) for pattern in patterns)
    ]
    with Nursery() as nursery, ThreadPoolExecutor(2) as pool:
        jobs = {
            (case.name, loader): pool.submit(_cell, case, loader, nursery)
            for case in chosen
            for loader in loaders
        }
        for (name, loader), job in jobs.items():
            known.setdefault(name, {})[loader] = job.result()
            print(f"{loader:9} {name:50} {known[name][loader]}", flush=True)
    outcomes = {name: known[name] for name in CASES if name in known}
    OUTCOMES.write_text(json.dumps(outcomes, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(page(outcomes))


def page(outcomes: dict[str, dict[str, str]]) -> str:
    """The page, of the outcomes of all cases."""
    import torch

    lines = [
        HEAD.format(
            deadline=TORCH_DEADLINE_S,
            noteworthy=NOTEWORTHY_S,
            torch=torch.__version__.partition("+")[0],
            python=f"{sys.version_info.major}.{sys.version_info.minor}",
            summary=_summary(outcomes),
        ),
        "| no. | fault | torch | fastload |",
        "|---|---|---|---|",
    ]
    ordered = sorted(CASES.values(), key=lambda case: case.numbers)
    for case in ordered:
        cells = outcomes.get(case.name, {})
        numbers = ", ".join(map(str, case.numbers))
        columns = " | ".join(escaped(cells.get(loader, "-")) for loader in LOADERS)
        lines.append(f"| {numbers} | {escaped(case.fault)} | {columns} |")
    lines += ["", "## Not kept yet", ""]
    lines += [f"* {case.fault}: {case.broken}" for case in ordered if case.broken] or [
        "Nothing known."
    ]
    lines += ["", "## Not in the table", "", "| no. | fault | why, or where |", "|---|---|---|"]
    lines += [f"| {number} | {FAULTS[number]} | {why} |" for number, why in ELSEWHERE.items()]
    return "\n".join(lines) + "\n"


def _summary(outcomes: dict[str, dict[str, str]]) -> str:
    both = [cells for cells in outcomes.values() if cells.get("torch", "-") != "-"]
    counts = {}
    for loader in LOADERS:
        hung = sum("**hangs" in cells[loader] for cells in both)
        left = sum("*left" in cells[loader] for cells in both)
        counts[loader] = f"{loader} hangs in {hung} and leaves something behind in {left}"
    return f"Of the {len(both)} faults that both can meet, {counts['torch']}; {counts['fastload']}."


def _cell(case: Case, loader: str, nursery: Nursery) -> str:
    if loader == "torch" and not case.is_for_torch:
        return "-"
    if (reason := case.needs()) is not None:
        return f"not run: {reason}"
    deadline_s = case.deadline_s
    if loader == "torch" and case.deadline_s <= TORCH_DEADLINE_S:
        deadline_s = TORCH_DEADLINE_S
    return _in_words(case, try_out(case, loader, nursery, deadline_s))


def _in_words(case: Case, outcome: Outcome) -> str:
    first = first_line(outcome.text)
    if len(first) > LONGEST_CELL:
        first = first[:LONGEST_CELL].rsplit(" ", 1)[0] + " …"
    if outcome.is_hung:
        first = first.replace("hangs", "**hangs**")
    elif outcome.elapsed_s >= NOTEWORTHY_S and case.deadline_s <= TORCH_DEADLINE_S:
        first += f" (after {outcome.elapsed_s:.0f} s)"
    left: list[Any] = [what for what in outcome.left if not re.search(case.leaves or "^$", what)]
    return first + (f"; *left: {_counted(left)}*" if left else "")


def first_line(text: str) -> str:
    """Of an outcome, without what differs from run to run."""
    text = re.sub(r"\b(pid|pids)(\(s\))? \d+(, \d+)*", r"\1\2 N", text)
    return re.sub(r"0x[0-9a-f]+", "0x…", text).partition("\n")[0]


def says_the_same(written: str, text: str) -> bool:
    """Whether a cell of the page is what an outcome says, in other times and numbers perhaps."""
    written = re.sub(r"; \*left: .*\*$| \(after \d+ s\)$", "", written).replace("**", "")
    is_cut = written.endswith(" …")
    cell, line = (_without_numbers(part) for part in (written.removesuffix(" …"), first_line(text)))
    return line.startswith(cell) if is_cut else line == cell


def _without_numbers(text: str) -> str:
    """How far an epoch came before a fault, and in which worker it was, is chance."""
    text = re.sub(r"^(samples \d+ to \d+|nothing|all 64 samples, in order)(?=, then)", "some", text)
    return re.sub(r"\d[\d,.]*", "N", text)


def _counted(left: list[str]) -> str:
    kinds = [what.partition(" ")[0] for what in left]
    return ", ".join(
        f"{kinds.count(kind)} {kind if kinds.count(kind) == 1 else _plural(kind)}"
        for kind in dict.fromkeys(kinds)
    )


def _plural(kind: str) -> str:
    return "processes" if kind == "process" else f"{kind}s"


def escaped(text: str) -> str:
    """As a cell of a table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    main(sys.argv[1:])
