"""Write a profile's timeline for chrome://tracing and https://ui.perfetto.dev.

Runs in: consumer.
Source: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from __future__ import annotations

from typing import Any

from fastload.tools.profile.report import Profile

MICROSECONDS = 1e6


def to_trace(profile: Profile) -> dict[str, Any]:
    """Return one complete event for each span, one track for each worker and the consumer."""
    lanes = sorted({span.lane for span in profile.spans}, key=lambda lane: (len(lane), lane))
    lanes.sort(key=lambda lane: lane != "consumer")
    numbers = {lane: number for number, lane in enumerate(lanes)}
    names = [
        {"name": "thread_name", "ph": "M", "pid": 0, "tid": number, "args": {"name": lane}}
        for lane, number in numbers.items()
    ]
    events = [
        {
            "name": span.stage,
            "cat": "fastload",
            "ph": "X",
            "pid": 0,
            "tid": numbers[span.lane],
            "ts": span.start_s * MICROSECONDS,
            "dur": (span.end_s - span.start_s) * MICROSECONDS,
            "args": {"batch": span.batch},
        }
        for span in profile.spans
    ]
    title = {"name": "process_name", "ph": "M", "pid": 0, "args": {"name": profile.target}}
    return {"displayTimeUnit": "ms", "traceEvents": [title, *names, *events]}
