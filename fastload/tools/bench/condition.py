"""The conditions of `fastload compare --fail-if`: `ratio<0.95`, `mean speedup<-5%`.

    condition := ["mean"] FIGURE ("<" | "<=" | ">" | ">=") NUMBER
    NUMBER    := how many times what it was, as 0.95; or a signed change in per cent, as -5%

Nothing is evaluated: a text that is not exactly this is refused.
"""

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastload.tools.bench.changes import FIGURES, Change, mean_change

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_FORM = re.compile(
    r"\s*(?P<mean>mean\s+)?(?P<figure>[a-z_]+)\s*(?P<operator><=|>=|<|>)\s*"
    r"(?P<number>[+-]?(\d+\.?\d*|\.\d+))(?P<percent>\s*%)?\s*",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition.

    Attributes:
        text: as it was written.
        figure: one of `FIGURES`.
        operator: `<`, `<=`, `>` or `>=`.
        limit: how many times what it was.
        is_of_mean: whether the geometric mean over workloads is meant, not any of them.
    """

    text: str
    figure: str
    operator: str
    limit: float
    is_of_mean: bool

    def holds(self, changes: Sequence[Change]) -> list[str]:
        """Return where the condition holds, in words; empty where it does not."""
        if self.is_of_mean:
            found = [("geometric mean", mean_change(changes, self.figure))]
        else:
            found = [(change.workload, change.times(self.figure)) for change in changes]
        return [
            f"{name}: {self.figure} is {times:.3f} ({self.text})"
            for name, times in found
            if times is not None and _OPERATORS[self.operator](times, self.limit)
        ]


def parse_condition(text: str) -> Condition:
    """Parse a condition.

    Raises:
        ValueError: it has another form, or names a figure that is not compared.

    Example:
        >>> parse_condition("ratio < -5%").limit
        0.95
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{text!r} is not a condition; expected [mean] FIGURE < NUMBER, such as 'ratio<0.95' "
            f"or 'mean speedup<-5%', with FIGURE one of {', '.join(FIGURES)}"
        )
    if match["figure"] not in FIGURES:
        raise ValueError(
            f"{text!r}: no figure is called {match['figure']!r}; there are {', '.join(FIGURES)}"
        )
    number, is_signed = float(match["number"]), match["number"][0] in "+-"
    if bool(match["percent"]) != is_signed:
        raise ValueError(
            f"{text!r}: write how many times what it was ({match['figure']}<0.95), or a signed "
            f"change in per cent ({match['figure']}<-5%)"
        )
    return Condition(
        text=text.strip(),
        figure=match["figure"],
        operator=match["operator"],
        limit=1 + number / 100 if is_signed else number,
        is_of_mean=match["mean"] is not None,
    )
