"""Recipes of a workload that compares the usual way with another one."""

from typing import Any

from fastload.tools.bench.workload import Recipe, Workload


def usual(samples: Any) -> Any:
    return Recipe([{"number": number} for number in range(samples)])


def renamed(samples: Any) -> Any:
    """The usual batches under another name."""
    rows = [{"n": number} for number in range(samples)]
    return Recipe(rows, as_usual=lambda batch: {"number": batch["n"]})


def seeded_and_longer(samples: Any) -> Any:
    """The usual samples and four more, with a seed."""
    return Recipe([{"number": number} for number in range(samples + 4)], {"seed": 7})


def reversed_order(samples: Any) -> Any:
    return Recipe([{"number": number} for number in reversed(range(samples))])


def make(own: Any = None) -> Any:
    return Workload(
        name="numbers",
        description="numbers",
        recipe=f"{__name__}:usual",
        own=None if own is None else f"{__name__}:{own}",
        batch_size=4,
        samples=64,
        quick_samples=64,
        workers=0,
    )
