"""Everything that advice on a loader depends on.

Runs in: consumer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastload.tools.profile.contest import Showing
from fastload.tools.profile.replay import Load
from fastload.tools.profile.report import Culprit, Schedule, Setting, Verification


@dataclass(frozen=True)
class Situation:
    """Everything that advice depends on.

    Attributes:
        loader: What was profiled.
        load: Its load.
        culprit: What limits it.
        setting: Its own setting, at which it gave ``samples_per_s``.
        samples_per_s: Measured.
        recommended: The setting to change to.
        verified: Settings that were run.
        failed: Settings that were to be run and could not.
        as_fastload: What our class gained at the loader's own setting, if the loader is torch's.
        startup_s: From ``iter`` to the first batch, workers being started.
        epoch_batches: Batches of an epoch; None if not known.
        headroom: How many times as fast an ideal loader would make it; None without a step.
        has_floats: Whether batches hold tensors of 32 or 64 bits per number.
    """

    loader: Any
    load: Load
    culprit: Culprit
    setting: Setting
    samples_per_s: float
    recommended: Setting
    verified: tuple[Verification, ...]
    failed: tuple[Setting, ...]
    as_fastload: Showing | None
    startup_s: float
    epoch_batches: int | None
    headroom: float | None
    has_floats: bool

    def was_tried(self, schedule: Schedule) -> bool:
        """Tell whether a schedule was run for real, with whatever result."""
        settings = [*(each.setting for each in self.verified), *self.failed]
        return any(each.schedule == schedule for each in settings)
