"""Profiles to draw: an ordinary one, and the ends of what there can be."""

from __future__ import annotations

import dataclasses
from typing import Any

from fastload.tools.profile.report import (
    Fix,
    InputVerdict,
    MeasuredOn,
    Prediction,
    Profile,
    ProfiledSample,
    Resource,
    Setting,
    Share,
    Span,
    Verification,
    WorkerShare,
)

STAGES = {
    "sampler": 0.004,
    "fetch, computing": 0.03,
    "fetch, waiting": 0.42,
    "waiting for a core": 0.14,
    "collate": 0.012,
    "write": 0.0025,
    "hand-off": 0.0135,
    "reorder": 0.18,
    "pin": 0.0,
    "step": 0.198,
}


def _share(stage: str, share: float) -> Share:
    mean = share * 0.02
    return Share(stage, "worker", f"what {stage} is", share, mean, mean, 2 * mean, 3 * mean)


def _spans(workers: int, batches: int) -> tuple[Span, ...]:
    spans = []
    for batch in range(batches):
        begin = batch * 0.01
        lane = f"worker {batch % workers}" if workers else "consumer"
        spans += [
            Span(lane, "fetch", begin, begin + 0.008, batch),
            Span(lane, "collate", begin + 0.008, begin + 0.009, batch),
        ]
        if workers:
            spans += [
                Span("consumer", "wait", begin + 0.009, begin + 0.011, batch),
                Span("consumer", "step", begin + 0.011, begin + 0.019, batch),
            ]
    return tuple(spans)


def _prediction(workers: int, factor: int, *, is_possible: bool = True) -> Prediction:
    rate = 300.0 * max(1, min(workers, 5)) + factor
    return Prediction(Setting(workers, factor), rate, 0.5 / (workers + 1), 10**8, 0.4, is_possible)


def make_profile(**changes: Any) -> Profile:
    """A profile of two workers; whatever is named differently."""
    grid = [_prediction(0, 0)]
    grid += [_prediction(workers, factor) for workers in (1, 2, 4, 16) for factor in (1, 2, 4, 8)]
    grid += [_prediction(32, factor, is_possible=factor < 4) for factor in (1, 2, 4, 8)]
    profile = Profile(
        target="train.py:loader",
        loader="fastload",
        created="2026-11-23T18:00:00+00:00",
        place=MeasuredOn("Linux-6.1", "AMD EPYC", 2.5, 0.3, "3.11.7", "2.13.0", "0.1.0"),
        setting=Setting(2, 2),
        batch_size=8.0,
        batch_bytes=32_000,
        step="--step-ms 4",
        budget_s=20.0,
        elapsed_s=18.5,
        verdict=InputVerdict(
            "highly", "fetch-wait", "Highly input-bound: waits 39%.", 0.39, 1.75, 1061.4, 0.0043
        ),
        breakdown=tuple(_share(name, share) for name, share in STAGES.items()),
        resources=(Resource("I/O wait", 0.9, True, "90% of what a batch costs is waiting"),),
        what_if=tuple(grid),
        recommended=Setting(4, 2),
        verified=(
            Verification(Setting(2, 2), 1077.3, 1061.4, 0.40, 0.39, 395),
            Verification(Setting(4, 2), 1694.2, 1713.9, 0.09, 0.1, 445),
        ),
        fixes=(
            Fix("Use 4 workers", "DataLoader(..., num_workers=4)", 1.61, "measured", "smallest"),
        ),
        spans=_spans(2, 24),
        workers=(WorkerShare(0, 194, 0.93, 0.07, 175_000_000),),
        slowest=(ProfiledSample("388", 0.0245, 16.7),),
        batches=395,
        warnings=("other programs were using this machine",),
    )
    return dataclasses.replace(profile, **changes)


EXTREMES = {
    "ordinary": make_profile(),
    "nothing recorded": make_profile(
        breakdown=(),
        resources=(),
        what_if=(),
        verified=(),
        fixes=(),
        spans=(),
        workers=(),
        slowest=(),
        warnings=(),
        batch_size=0.0,
        batches=0,
    ),
    "no workers, no consumer": make_profile(
        setting=Setting(0, 0),
        recommended=Setting(0, 0),
        spans=_spans(0, 12),
        what_if=(_prediction(0, 0),),
        workers=(),
        verdict=InputVerdict(
            "unknown", "consumer", "The loader gives 3 samples/s.", 0.0, None, 3.0, 0
        ),
    ),
    "many workers": make_profile(
        spans=_spans(64, 480),
        what_if=tuple(_prediction(n, factor) for n in range(1, 129, 7) for factor in range(1, 17)),
    ),
    "zeros": make_profile(
        breakdown=tuple(_share(name, 0.0) for name in STAGES),
        what_if=(dataclasses.replace(_prediction(1, 1), samples_per_s=0.0),),
        verified=(Verification(Setting(1, 1), 5.0, 0.0, 0.0, 0.0, 0),),
        spans=(Span("worker 0", "fetch", 0.0, 0.0, 0),),
    ),
    "hostile names": make_profile(
        target='</title><script>alert("1")</script>&' + "long" * 200,
        fixes=(Fix("<b>", "lambda x: x < 1 & True", 1.0, "estimated", "'\""),),
        slowest=(ProfiledSample("('<i>', 1)", 1e-9, 1e9),),
        spans=(Span("worker <0>", "an unknown stage", 0.0, 1e-9, 0),),
    ),
}
"""What a report may have to show."""
