"""A profile on one screen: the answer first, then why, then what to do.

Runs in: consumer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from fastload.tools.profile.report import Prediction, Profile, Schedule, Setting
from fastload.tools.words import counted

_COLORS = {"not": "green", "moderately": "yellow", "highly": "red", "unknown": "cyan"}
_MOST_SLOWEST = 3


def make_screen(profile: Profile) -> Group:
    """Lay out a whole profile for a rich console."""
    return Group(*_parts(profile))


def _parts(profile: Profile) -> Iterator[Any]:
    verdict = profile.verdict
    yield Text(verdict.sentence, style=f"bold {_COLORS[verdict.bound]}")
    yield Text(_about(profile), style="dim")
    for warning in profile.warnings:
        yield Text(f"! {warning}", style="yellow")
    yield Text()
    yield _breakdown(profile)
    yield _resources(profile)
    yield _what_if(profile)
    if profile.verified:
        yield _verified(profile)
    yield _fixes(profile)
    if profile.slowest:
        yield Text(_slowest(profile))


def _about(profile: Profile) -> str:
    return (
        f"{profile.target}: {profile.loader}'s DataLoader, {profile.setting.arguments}, "
        f"{counted(round(profile.batch_size), 'sample')} a batch; step: {profile.step}; "
        f"{counted(profile.batches, 'batch')} in {profile.elapsed_s:.0f} s on "
        f"{counted(profile.place.cores, 'core')}"
    )


def milliseconds(seconds: float) -> str:
    """Return milliseconds with three figures."""
    value = seconds * 1e3
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2))
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    return table


def _breakdown(profile: Profile) -> Table:
    table = _table("Where a batch's time goes", "stage", "share", "mean ms", "p50", "p95", "p99")
    table.add_column("")
    for each in profile.breakdown:
        if each.share < 0.0005:
            continue
        times = map(milliseconds, (each.mean_s, each.p50_s, each.p95_s, each.p99_s))
        text = f"{each.explanation} ({each.where})"
        table.add_row(each.stage, f"{each.share:.1%}", *times, text)
    return table


def _resources(profile: Profile) -> Table:
    table = _table("What is exhausted", "resource", "use")
    table.add_column("evidence")
    for each in profile.resources:
        style = "bold red" if each.is_exhausted else ""
        table.add_row(each.name, f"{each.use:.0%}", each.evidence, style=style)
    return table


def _what_if(profile: Profile) -> Table:
    factors = sorted({each.setting.prefetch_factor for each in profile.own_grid} - {0})
    table = _table(
        "What if: samples/s predicted by replay (stall, memory)",
        "workers",
        *(f"prefetch_factor={factor}" for factor in factors),
    )
    by_setting = {each.setting: each for each in profile.what_if}
    for schedule in dict.fromkeys(setting.schedule for setting in by_setting):
        numbers = sorted({each.num_workers for each in by_setting if each.schedule == schedule})
        for workers in numbers:
            points = [Setting(workers, f if workers else 0, schedule) for f in factors or [0]]
            cells = [
                _cell(profile, by_setting.get(each)) for each in (points if workers else points[:1])
            ]
            table.add_row(_row_name(workers, schedule, profile.setting.schedule), *cells)
    return table


def _row_name(workers: int, schedule: Schedule, own: Schedule) -> str:
    return str(workers) if schedule == own else ", ".join((str(workers), *schedule.arguments))


def _cell(profile: Profile, prediction: Prediction | None) -> Text:
    if prediction is None:
        return Text("")
    memory = f"{prediction.memory_bytes / 1e6:,.0f} MB" if prediction.memory_bytes else "-"
    text = f"{prediction.samples_per_s:,.0f} ({prediction.stall_share:.0%}, {memory})"
    if prediction.setting == profile.recommended:
        return Text(f"{text} <", style="bold green")
    if prediction.setting == profile.setting:
        return Text(text, style="underline")
    return Text(text, style="" if prediction.is_possible else "dim strike")


def _verified(profile: Profile) -> Table:
    table = _table(
        "Run for real",
        *("setting", "predicted", "measured", "error", "stall predicted", "stall measured"),
    )
    for each in profile.verified:
        mark = " <" if each.setting == profile.recommended else ""
        table.add_row(
            each.setting.arguments + mark,
            f"{each.predicted_samples_per_s:,.0f}",
            f"{each.measured_samples_per_s:,.0f}",
            f"{each.error:+.0%}",
            f"{each.predicted_stall_share:.0%}",
            f"{each.measured_stall_share:.0%}",
            style="green" if mark else "",
        )
    return table


def _fixes(profile: Profile) -> Table:
    table = _table("What to change", "gain")
    table.add_column("change")
    table.add_column("basis")
    for each in profile.fixes:
        change = Text.assemble(each.title, ": ", each.reason, "\n", (each.code, "cyan"))
        table.add_row(f"x {each.gain:.2f}", change, each.basis)
    return table


def _slowest(profile: Profile) -> str:
    some = ", ".join(
        f"{each.index} ({milliseconds(each.elapsed_s)} ms, x {each.times_median:.0f})"
        for each in profile.slowest[:_MOST_SLOWEST]
    )
    return f"Slowest samples (times the median): {some}"
