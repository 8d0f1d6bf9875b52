"""Run loaders in turn and compare them: what one gains over another, and whether that is sure.

Runs in: consumer.
Takes: contenders; the first is the loader as it is.
Gives: what each gave in each round.

A machine that others use, or that throttles, is another one a few seconds later: throughput drifts
by more than most settings gain. So the loader as it is runs again in each round, every contender is
compared with it within the round, and a gain is sure if every round shows it.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from fastload.tools.profile.plan import Plan
from fastload.tools.profile.report import Schedule, Setting
from fastload.tools.profile.trials import Trial
from fastload.tools.words import one_line

ROUNDS, PARTS = 3, 0.5
"""How often each contender runs, and for how many tenths of the budget each time."""

SLOW_START = 0.05
"""If starting takes this part of the budget, there is one round less."""


@dataclass(frozen=True)
class Contender:
    """One setting of a loader of one kind, "fastload" or "torch"."""

    kind: str
    setting: Setting


@dataclass(frozen=True)
class Showing:
    """What a contender gave, round by round; ``gains`` are against the first contender."""

    trials: tuple[Trial, ...]
    gains: tuple[float, ...]

    @property
    def gain(self) -> float:
        """Return how many times as many samples per second it gave, by the median round."""
        return statistics.median(self.gains)

    @property
    def least_gain(self) -> float:
        """Return the gain of the round in which it was least."""
        return min(self.gains)

    @property
    def samples_per_s(self) -> float:
        """Return the mean over rounds: slow samples that come rarely count as they come."""
        return statistics.fmean(each.samples_per_s for each in self.trials)

    @property
    def stall_share(self) -> float:
        """Return the mean over rounds of the part of the time spent waiting."""
        return statistics.fmean(each.stall_share for each in self.trials)


def compete(
    plan: Plan,
    contenders: list[Contender],
    startup_s: float,
    *,
    has_stragglers: bool = False,
) -> dict[Contender, Showing]:
    """Run each once a round, every second round the other way about.

    What does not fit into the plan's time is left out: contenders in the first round, whole rounds
    after it.

    Args:
        plan: What is profiled.
        contenders: The first is what the others are compared with.
        startup_s: What starting workers takes, as far as that is known.
        has_stragglers: Whether slow batches come once in a while: then there are fewer, longer
            rounds, of which each sees more of them.

    Returns:
        What each gave; nothing of one for which there was no time.
    """
    rounds = ROUNDS if startup_s < SLOW_START * plan.budget_s else ROUNDS - 1
    parts = PARTS
    if has_stragglers:
        rounds, parts = ROUNDS - 1, PARTS * ROUNDS / (ROUNDS - 1)
    trials: dict[Contender, list[Trial]] = {}
    for number in range(rounds):
        turn = list(trials) if number else contenders
        if number and not plan.fits([each.setting for each in turn], parts):
            break
        for each in turn if number % 2 == 0 else reversed(turn):
            if number or plan.fits([each.setting], parts):
                trial = _run(plan, each, parts, contenders[0].setting.schedule)
                if trial is not None:
                    trials.setdefault(each, []).append(trial)
        if contenders[0] not in trials:
            return {}
        trials = {each: ran for each, ran in trials.items() if each.setting not in plan.failed}
    first = [each.samples_per_s for each in trials[contenders[0]]]
    return {
        each: Showing(
            tuple(ran),
            tuple(trial.samples_per_s / rate for trial, rate in zip(ran, first, strict=True)),
        )
        for each, ran in trials.items()
    }


def _run(plan: Plan, contender: Contender, parts: float, own: Schedule) -> Trial | None:
    """Run a contender; None if it can't be run and it is not how the loader itself loads.

    A dataset need not bear being called from several threads. Whatever it raises then is why that
    is not advised, and no reason to end the profile.
    """
    setting = contender.setting
    if setting.schedule == own:
        return plan.trial(setting, parts, plan.step, kind=contender.kind)
    try:
        return plan.trial(setting, parts, plan.step, kind=contender.kind)
    except Exception as error:  # noqa: BLE001  (see above)
        plan.failed[setting] = one_line(f"{type(error).__name__}: {error}", longest=300)
        return None
