"""Make the parts of a report that show single batches, workers and samples.

Runs in: consumer.
Takes: a trial.
Gives: spans, each worker's share, the slowest samples.
"""

from __future__ import annotations

import numpy as np

from fastload.stats.rows import Array, Row, columns, durations
from fastload.tools.profile.report import ProfiledSample, Span, WorkerShare
from fastload.tools.profile.sources import MOST_SLOWEST
from fastload.tools.profile.trials import Trial

MOST_BATCHES = 48
"""Of the timeline: enough to see the rhythm, few enough to draw."""


def make_spans(trial: Trial) -> tuple[Span, ...]:
    """Return a timeline of the last batches of the longest epoch."""
    rows = trial.steady(max(trial.epochs, key=len))[-MOST_BATCHES:]
    begin = int(min(columns(rows)["started"].min(), columns(rows)["asked"].min()))
    spans: list[Span] = []

    def add(lane: str, stage: str, start: int, end: int, batch: int) -> None:
        if end > start:
            spans.append(Span(lane, stage, (start - begin) / 1e9, (end - begin) / 1e9, batch))

    for number, row in enumerate(map(Row._make, rows.tolist())):
        lane = "consumer" if row.worker < 0 else f"worker {row.worker}"
        add(lane, "fetch", row.started, row.fetched, number)
        add(lane, "collate", row.fetched, row.collated, number)
        add(lane, "write", row.collated, row.written, number)
        if row.worker >= 0:
            add("consumer", "wait", row.asked, row.left, number)
        if number + 1 < len(rows):
            following = Row._make(rows[number + 1].tolist())
            add("consumer", "step", row.left, following.asked, number)
    return tuple(spans)


def make_workers(trial: Trial) -> tuple[WorkerShare, ...]:
    """Return what each worker did; nothing where there are no workers."""
    rows = trial.rows
    of = columns(rows)
    elapsed_ns = sum(_elapsed_ns(trial.steady(each)) for each in trial.epochs) or 1
    found = []
    for worker in np.unique(of["worker"]).tolist():
        if worker < 0:
            continue
        mine = of["worker"] == worker
        busy = int((of["written"] - of["started"])[mine].sum())
        found.append(
            WorkerShare(
                worker,
                int(mine.sum()),
                min(1.0, busy / elapsed_ns),
                min(1.0, int(of["cpu"][mine].sum()) / elapsed_ns),
                int(of["peak_bytes"][mine].max()) or trial.worker_bytes,
            )
        )
    return tuple(found)


def make_slowest(trials: tuple[Trial, ...]) -> tuple[ProfiledSample, ...]:
    """Return the slowest samples of several trials, each index once."""
    times: dict[str, int] = {}
    for trial in trials:
        for elapsed_ns, index in trial.slowest:
            times[index] = max(times.get(index, 0), elapsed_ns)
    fetch = durations(trials[0].rows)["fetch"] / np.maximum(1, columns(trials[0].rows)["samples"])
    median_ns = float(np.median(fetch)) or 1.0
    slowest = sorted(times.items(), key=lambda item: -item[1])[:MOST_SLOWEST]
    return tuple(
        ProfiledSample(index, elapsed_ns / 1e9, elapsed_ns / median_ns)
        for index, elapsed_ns in slowest
    )


def _elapsed_ns(rows: Array) -> int:
    of = columns(rows)
    return int(of["left"][-1] - of["left"][0]) if len(rows) > 1 else 0
