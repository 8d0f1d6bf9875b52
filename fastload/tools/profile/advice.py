"""Advise which lines of code to change, and say what each change is expected to give.

Runs in: consumer.
Takes: the load, the verdict, the settings that were tried.
Gives: fixes, the largest gain first.
"""

from __future__ import annotations

from dataclasses import replace

from fastload.tools.profile.advice_on_schedules import (
    at_a_time,
    at_a_time_without_draws,
    caveats,
    parts,
)
from fastload.tools.profile.rebuild import has_seed, is_stream
from fastload.tools.profile.replay import Load, replay
from fastload.tools.profile.report import LEAST_GAIN, Fix, Setting, Verification
from fastload.tools.profile.situation import Situation
from fastload.tools.words import counted

THREADS = 8


def make_fixes(situation: Situation) -> tuple[Fix, ...]:
    """Return all fixes that are worth it, or one that says that none is."""
    candidates = (
        *_settings(situation),
        _class(situation),
        _order(situation),
        _persistent(situation),
        parts(situation),
        *_of_culprit(situation),
    )
    possible = (within(fix, situation.headroom) for fix in candidates if fix is not None)
    worth = [fix for fix in possible if fix.gain >= LEAST_GAIN]
    worth.sort(key=lambda fix: -fix.gain)
    return tuple(worth) or (_nothing(situation),)


def within(fix: Fix, headroom: float | None) -> Fix:
    """Return the fix with at most the gain of an ideal loader, unless it was measured."""
    if headroom is None or fix.basis == "measured" or fix.gain <= headroom:
        return fix
    return replace(fix, gain=headroom)


def constructor(setting: Setting, loader: str = "DataLoader") -> str:
    """Return the line of code for a setting."""
    return f"{loader}(..., {setting.arguments})"


def _settings(situation: Situation) -> list[Fix]:
    """Advise another setting, if it is sure to be faster: noise of measuring is no gain.

    Another schedule is advised too where one with more workers is recommended.
    """
    own, recommended = situation.setting, situation.recommended
    return [
        _setting(situation, run)
        for run in situation.verified
        if run.is_gain
        and (run.setting == recommended or run.setting.schedule != own.schedule)
        and run.setting.num_workers <= max(own.num_workers, recommended.num_workers)
    ]


def _setting(situation: Situation, run: Verification) -> Fix:
    is_best = run.setting == situation.recommended
    what = "the smallest setting within 3 % of the best; " if is_best else ""
    more = caveats(run.setting.schedule, situation.setting.schedule)
    return Fix(
        f"Use {_words(run.setting)} instead of {_words(situation.setting)}",
        constructor(run.setting),
        run.gain,
        "measured",
        "; ".join((f"{what}faster in every round", *more)),
    )


def _words(setting: Setting) -> str:
    workers = setting.num_workers
    words = "no workers"
    if workers:
        words = f"{counted(workers, 'worker')} with prefetch_factor={setting.prefetch_factor}"
    return ", ".join((words, *setting.schedule.arguments))


def _class(situation: Situation) -> Fix | None:
    showing = situation.as_fastload
    if showing is None or showing.least_gain < LEAST_GAIN:
        return None
    return Fix(
        "Use fastload's DataLoader",
        "from fastload import DataLoader",
        showing.gain,
        "measured",
        "the same batches in the same order, handed over without a copy",
    )


def _order(situation: Situation) -> Fix | None:
    setting = situation.setting if situation.setting.num_workers > 1 else situation.recommended
    if setting.num_workers < 2 or not getattr(situation.loader, "in_order", True):
        return None
    if has_seed(situation.loader):  # which keeps its order
        return None
    kept = replay(situation.load, setting).samples_per_s
    gives = replay(situation.load, setting, in_order=False).samples_per_s
    return Fix(
        "Let fast batches pass slow ones",
        "DataLoader(..., in_order=False)",
        gives / kept,
        "replayed",
        "a slow batch no longer holds up those behind it; the order of batches then varies",
    )


def _persistent(situation: Situation) -> Fix | None:
    batches, rate = situation.epoch_batches, situation.samples_per_s
    is_kept = situation.loader.persistent_workers or situation.setting.num_workers == 0
    if is_kept or not batches or not rate:
        return None
    epoch_s = batches * situation.load.samples / rate
    return Fix(
        "Keep the workers from one epoch to the next",
        "DataLoader(..., persistent_workers=True)",
        (epoch_s + situation.startup_s) / epoch_s,
        "estimated",
        f"each epoch begins with {situation.startup_s * 1e3:.0f} ms of starting workers",
    )


def _of_culprit(situation: Situation) -> list[Fix]:
    """Advise what only a change of the dataset or the collate function can give."""
    load, setting = situation.load, situation.recommended

    def gain(other: Load) -> float:
        return replay(other, setting).samples_per_s / replay(load, setting).samples_per_s

    if situation.culprit == "fetch-wait":
        return _of_waiting(situation, gain(load.faster(wait=1 / THREADS)))
    if situation.culprit == "stragglers":
        return [
            Fix(
                "Mend the slowest samples, or leave them out",
                "DataLoader(..., sampler=SubsetRandomSampler(indices_without_the_slowest))",
                gain(load.without_stragglers()),
                "replayed",
                "no batch then takes more than twice the median",
            )
        ]
    if situation.culprit == "fetch-cpu":
        return [
            Fix(
                "Halve the CPU time of __getitem__: cache what is decoded, store what is computed",
                "def __getitem__(self, index): return self.prepared[index]  # computed once",
                gain(load.faster(cpu=0.5)),
                "estimated",
                "the cores are what there is too little of",
            )
        ]
    if situation.culprit == "collate":
        return [
            Fix(
                "Collate in one operation: return arrays of one shape and use the default",
                "DataLoader(..., collate_fn=None)",
                gain(load.faster(cpu=0.5)),
                "estimated",
                "the default collate writes into shared memory directly; expected to halve it",
            )
        ]
    if situation.culprit == "hand-off" and situation.has_floats:
        return [
            Fix(
                "Send smaller numbers and convert them in the training loop",
                "def __getitem__(self, index): return image.to(torch.uint8)  # .float() later",
                gain(load.faster(cpu=0.5, take=0.5)),
                "estimated",
                "batches of half the size take half the time to hand over",
            )
        ]
    return []


def _of_waiting(situation: Situation, in_threads: float) -> list[Fix]:
    """Advise to wait for several samples at a time, before more workers do it."""
    for fix in (at_a_time(situation), at_a_time_without_draws(situation)):
        if fix is not None:
            return [fix]
    waits_at_a_time = max(
        each.schedule.concurrent_samples for each in (situation.setting, situation.recommended)
    )
    if waits_at_a_time > 1 or is_stream(situation.loader):
        return []
    pool = f"ThreadPoolExecutor({THREADS}).map(self.__getitem__, indices)"
    return [
        Fix(
            f"Load the samples of a batch in {THREADS} threads",
            f"def __getitems__(self, indices): return list({pool})",
            in_threads,
            "replayed",
            "waiting for several samples at a time needs no further processes",
        )
    ]


def _nothing(situation: Situation) -> Fix:
    if situation.culprit == "consumer":
        return Fix(
            "Nothing: the training step is what takes the time",
            "# make the step faster: a larger batch, a compiled model",
            1.0,
            "measured",
            "no setting of the loader is sure to change the throughput by 3 %",
        )
    return Fix(
        "Nothing in the loader's settings",
        "# the dataset is as fast as this machine allows",
        1.0,
        "measured",
        "no setting of the loader is sure to change the throughput by 3 %",
    )
