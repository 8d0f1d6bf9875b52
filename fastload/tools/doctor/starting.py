"""Try out each start method: it starts a process, which must end by itself."""

from __future__ import annotations

import multiprocessing
import os
import time
from typing import Any

from fastload.tools.doctor.finding import Finding

PATIENCE_S = 20.0


def judge() -> list[Finding]:
    """Start one process by each method this system has."""
    default = multiprocessing.get_start_method(allow_none=True)
    default = default or multiprocessing.get_all_start_methods()[0]
    return [_judge_method(name, default) for name in multiprocessing.get_all_start_methods()]


def _judge_method(name: str, default: str) -> Finding:
    title = f"start by {name}"
    words = "the default" if name == default else "works"
    started = time.perf_counter()
    problem = _start_one(multiprocessing.get_context(name))
    elapsed_ms = (time.perf_counter() - started) * 1e3
    if problem is None:
        return Finding(
            title, "ok", f"{words}; a process that does nothing took {elapsed_ms:.0f} ms"
        )
    others = [method for method in multiprocessing.get_all_start_methods() if method != name]
    return Finding(
        title,
        "bad" if name == default else "warn",
        f"{words if name == default else 'available'}, but {problem}",
        f"multiprocessing_context={others[0]!r}, if that works" if others else "",
    )


def _start_one(context: Any) -> str | None:
    """Start a process and wait for its end; return what went wrong, or None."""
    try:
        process = context.Process(target=os.getpid, name="fastload-doctor")
        process.start()
    except (OSError, RuntimeError) as error:
        return f"starting a process failed: {error}"
    process.join(PATIENCE_S)
    try:
        if process.exitcode is None:
            return f"a process that does nothing has not ended after {PATIENCE_S:g} s"
        if process.exitcode != 0:
            return f"a process that does nothing ended with exit code {process.exitcode}"
        return None
    finally:
        process.kill()
        process.join()
        process.close()
