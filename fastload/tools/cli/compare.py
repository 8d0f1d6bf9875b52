"""`fastload compare`: two files of `fastload bench`, and whether the second one is worse."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from fastload.tools.bench.changes import (
    FIGURES,
    Change,
    find_changes,
    lost,
    mean_change,
    reasons_to_doubt,
)
from fastload.tools.bench.condition import Condition, parse_condition
from fastload.tools.bench.saved import Saved, read_saved
from fastload.tools.cli.console import make_output, print_json, warn
from fastload.tools.cli.exits import Exit

SCHEMA_VERSION = 1


def add_parser(commands: Any) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "compare",
        help="compare two results of the benchmark",
        description="Compare two files of `fastload bench --json`: each figure as how many times "
        "what it was. ratio compares throughput; speedup what was gained over torch, which a "
        "noisy machine disturbs less.",
        epilog="CONDITION is [mean] FIGURE < NUMBER: 'ratio<0.95', 'mean speedup<-5%', "
        "'memory>1.2'. Without 'mean' it holds if it holds for any workload. FIGURE is one of "
        f"{', '.join(FIGURES)}.",
        allow_abbrev=False,
    )
    parser.add_argument("before", type=Path, metavar="A.json", help="measured before")
    parser.add_argument("after", type=Path, metavar="B.json", help="measured after")
    parser.add_argument(
        "--fail-if",
        type=_condition,
        action="append",
        default=[],
        metavar="CONDITION",
        help="exit with code 1 if it holds, or if a workload failed the second time (repeatable)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> Exit:
    """Compare the files, show the changes, and return what the conditions say."""
    try:
        before, after = read_saved(args.before), read_saved(args.after)
        changes = find_changes(before, after)
    except ValueError as error:
        warn(f"fastload compare: {error}")
        return Exit.USAGE
    doubts = reasons_to_doubt(before, after, changes)
    for doubt in doubts:
        warn(f"mistrust this comparison: {doubt}")
    failures = _failures(args.fail_if, before, after, changes)
    if args.json:
        print_json(_document(changes, doubts, failures))
    else:
        _show(before, after, changes)
    for failure in failures:
        warn(f"failed: {failure}")
    return Exit.BAD if failures else Exit.OK


def _failures(
    conditions: Sequence[Condition], before: Saved, after: Saved, changes: Sequence[Change]
) -> list[str]:
    if not conditions:
        return []
    found = [f"{name}: no figures this time ({why})" for name, why in lost(before, after).items()]
    return found + [words for condition in conditions for words in condition.holds(changes)]


def _show(before: Saved, after: Saved, changes: Sequence[Change]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    longest = max(len(change.workload) for change in changes)
    table.add_column("workload", min_width=longest, overflow="fold")
    for title in ("before, /s", "after, /s", *FIGURES):
        table.add_column(title, justify="right", overflow="fold")
    for change in changes:
        rates = [f"{figures.rate:,.0f}" for figures in (change.before, change.after)]
        table.add_row(
            change.workload, *rates, *(_times(change.times(figure)) for figure in FIGURES)
        )
    means = (_times(mean_change(changes, figure)) for figure in FIGURES)
    table.add_row("geometric mean", "", "", *means, style="bold")
    output = make_output()
    output.print(f"before: {before.path}\nafter:  {after.path}", soft_wrap=True)
    output.print(table)


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _document(
    changes: Sequence[Change], doubts: Sequence[str], failures: Sequence[str]
) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "workloads": [
            {**asdict(change), **{figure: change.times(figure) for figure in FIGURES}}
            for change in changes
        ],
        "geometric_mean": {figure: mean_change(changes, figure) for figure in FIGURES},
        "doubts": list(doubts),
        "failures": list(failures),
    }


def _condition(text: str) -> Condition:
    try:
        return parse_condition(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
