"""Set two files of results side by side.

Takes: what was measured before, and after.
Gives: for each workload in both, how many times each figure is what it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fastload.tools.bench.ratios import geometric_mean
from fastload.tools.bench.saved import Figures, Saved
from fastload.tools.words import one_line

FIGURES = {
    "ratio": "rate",
    "speedup": "speedup",
    "first_batch": "first_batch_s",
    "cpu": "cpu_s_per_epoch",
    "memory": "peak_memory_bytes",
}
"""What can be compared, by the name that `--fail-if` knows it by; each as after over before.

`ratio` compares throughput, so the machine must be the same and quiet. `speedup` compares what the
loader gained over torch's in the same minutes, which holds on a noisy machine too.
"""

_OF_MACHINE = ("system", "processor", "cores", "python", "torch", "numpy")
_OF_SETTINGS = ("workers", "rounds", "quick", "baseline")


@dataclass(frozen=True, slots=True)
class Change:
    """One workload, before and after."""

    workload: str
    before: Figures
    after: Figures

    def times(self, name: str) -> float | None:
        """Return how many times a figure is what it was; None where it was 0.

        Args:
            name: one of `FIGURES`.
        """
        before = float(getattr(self.before, FIGURES[name]))
        after = float(getattr(self.after, FIGURES[name]))
        return after / before if before > 0 else None


def find_changes(before: Saved, after: Saved) -> list[Change]:
    """Return the workloads that both have figures of, in the order of `after`.

    Raises:
        ValueError: there is none.
    """
    changes = [
        Change(name, before.figures[name], figures)
        for name, figures in after.figures.items()
        if name in before.figures
    ]
    if not changes:
        raise ValueError(
            f"no workload has figures in both files: {str(before.path)!r} has "
            f"{_names(before)}; {str(after.path)!r} has {_names(after)}"
        )
    return changes


def _names(saved: Saved) -> str:
    return one_line(", ".join(saved.figures), 400) or "none"


def mean_change(changes: Sequence[Change], name: str) -> float | None:
    """Return the geometric mean over workloads of one of `FIGURES`; None where it is unknown."""
    times = [change.times(name) for change in changes]
    return geometric_mean([each for each in times if each])


def lost(before: Saved, after: Saved) -> dict[str, str]:
    """Return the workloads that had figures and were run again in vain, with the reason."""
    return {name: why for name, why in after.failed.items() if name in before.figures}


def reasons_to_doubt(before: Saved, after: Saved, changes: Sequence[Change]) -> list[str]:
    """Return what makes the two files hard to compare, in words."""
    doubts = [
        f"{one_line(saved.path, 400)}: interrupted, not every workload was run"
        for saved in (before, after)
        if not saved.is_complete
    ]
    pairs = (
        (before.machine, after.machine, _OF_MACHINE),
        (before.settings, after.settings, _OF_SETTINGS),
    )
    doubts += [
        f"{name} differs: {one_line(first.get(name))}, then {one_line(second.get(name))}"
        for first, second, names in pairs
        for name in names
        if first.get(name) != second.get(name)
    ]
    doubts += [
        f"{change.workload}: (workers, batch size, samples, unit, same data) differ: "
        f"{change.before.shape}, then {change.after.shape}"
        for change in changes
        if change.before.shape != change.after.shape
    ]
    missing = [name for name in before.figures if name not in {*after.figures, *after.failed}]
    if missing:
        doubts.append(f"not run the second time: {one_line(', '.join(missing), 400)}")
    return doubts
