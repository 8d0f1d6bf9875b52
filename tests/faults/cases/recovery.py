"""Options that carry on: restarts, skipped samples, the stacks of workers that hang; and storms."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
import warnings
from collections.abc import Iterable
from typing import Any

import torch

from tests.faults.case import ALL, fault
from tests.faults.cases import acts, machine
from tests.faults.cases.acts import At, Raise, killed
from tests.faults.trial import Made, Stamped, Trial


class Once:
    """Does something at the first call in any process."""

    def __init__(self, what: Any) -> None:
        self.what, self.left = what, torch.ones(1).share_memory_()  # type: ignore[no-untyped-call]

    def __call__(self) -> None:
        if self.left:
            self.left.zero_()
            self.what()


@fault(
    (1, 22),
    "a worker is killed once, max_worker_restarts=1",
    expect=f"^{ALL}; 1 restart$",
    is_for_torch=False,
)
def restart_after_a_kill(trial: Trial) -> str:
    loader = trial.loader(Stamped(At(Once(killed))), max_worker_restarts=1)
    return f"{trial.read(loader)}; {loader.stats().worker_restarts} restart"


@fault(
    22,
    "a sample kills each worker that loads it, max_worker_restarts=3",
    expect="samples 0 to 19, then WorkerDied: .*21.*; 3 restarts",
    is_for_torch=False,
)
def crash_loop(trial: Trial) -> str:
    loader = trial.loader(Stamped(At(killed)), max_worker_restarts=3)
    return f"{trial.read(loader)}; {loader.stats().worker_restarts} restarts"


@fault(
    119,
    "on_error='skip' and three samples that can't be decoded",
    expect=r"61 samples \(0 twice, 3 of 64 missing\).*; skipped \[7, 21, 40\]",
    is_for_torch=False,
)
def bad_samples_are_skipped(trial: Trial) -> str:
    def act(index: int) -> None:
        if index in {7, 21, 40}:
            raise OSError("image file is truncated")

    loader = trial.loader(Stamped(act), on_error="skip")
    text = trial.read(loader)
    return f"{text}; skipped {sorted(sample.index for sample in loader.stats().skipped)}"


@fault(
    119,
    "on_error='skip', max_errors=2 and three of them",
    expect="TooManyErrors",
    is_for_torch=False,
)
def too_many_bad_samples(trial: Trial) -> str:
    act = Raise(lambda: OSError("image file is truncated"))
    bad = Stamped(lambda index: act() if index in {7, 21, 40} else None)
    return trial.read(trial.loader(bad, on_error="skip", max_errors=2))


@fault(
    11,
    "no timeout, and a worker sleeps for longer than the warning waits",
    expect=f"RuntimeWarning: no batch has arrived.*dataset indices .*lambda.*; {ALL}",
    is_for_torch=False,
    deadline_s=20,
)
def stalled_worker_is_shown(trial: Trial) -> str:
    from fastload._epoch import diagnosis

    diagnosis.STALL_WARNING_S = 1  # the fault is the same; a test has no half minute
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        text = trial.read(trial.loader(Stamped(At(lambda: time.sleep(3)))))
    said = "; ".join(f"{w.category.__name__}: {w.message}" for w in caught)
    return f"{said}; {text}"


@fault(
    (5, 10),
    "the stack of a worker that hangs, and of one that crashed, is shown",
    expect="hangs: True; crashed: True",
    is_for_torch=False,
)
def stacks_are_shown(trial: Trial) -> str:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hung = trial.read(trial.loader(Stamped(At(acts.sleep)), timeout=1))
    crashed = trial.read(trial.loader(Stamped(At(acts.crash))))
    return f"hangs: {'in sleep' in hung}; crashed: {'in crash' in crashed}"


STORM_SIGNALS = 300


class Storm:
    """Random signals to random workers of an iterator, until `end`."""

    def __init__(self, iterator: Any, seed: int, deadly: bool) -> None:
        self._iterator, self._chance, self._deadly = iterator, random.Random(seed), deadly
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._strike),
            threading.Thread(target=self._soothe),
        ]
        for thread in self._threads:
            thread.start()

    def _strike(self) -> None:
        for _ in range(STORM_SIGNALS):
            if self._is_over.wait(self._chance.expovariate(400)):
                return
            number = self._chance.choice([signal.SIGSTOP, signal.SIGCONT, signal.SIGCONT])
            if self._deadly and self._chance.random() < 0.1:
                number = signal.SIGKILL
            self._send(self._chance.choice(self._iterator._workers), number)

    def _soothe(self) -> None:
        """Lets the stopped go on: otherwise all would end up stopped."""
        while not self._is_over.wait(0.02):
            for worker in self._iterator._workers:
                self._send(worker, signal.SIGCONT)

    def _send(self, worker: Any, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, number)

    def end(self) -> None:
        """Stop sending; nobody stays stopped."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()


def _storm(trial: Trial, *, deadly: bool, seed: int, **options: Any) -> str:
    """Every batch must be whole and in its place, to the end or to an error that says so."""
    warnings.simplefilter("ignore")
    loader = trial.loader(Made(lambda k: torch.full((2000,), float(k)), 12_000), **options)
    iterator = iter(loader)
    storm = Storm(iterator, seed, deadly)
    try:
        text = _check(iterator)
    except RuntimeError as error:
        text = f"samples in order, then {type(error).__name__}: {error}"
    storm.end()
    if "max_worker_restarts" in options and loader.stats().worker_restarts <= 5:
        text = "hardly any worker was killed"
    if options.get("persistent_workers"):
        loader.close()
    return text


def _check(batches: Iterable[torch.Tensor]) -> str:
    expected = 0
    for batch in batches:
        rows = batch.reshape(4, -1)
        if not bool((rows == torch.arange(expected, expected + 4.0)[:, None]).all()):
            return f"WRONG at {expected}: {rows[:, 0].tolist()}"
        expected += 4
    return "every sample once, in order" if expected == 12_000 else f"ends after {expected}"


@fault(
    16,
    "a storm of 300 random SIGSTOP and SIGCONT",
    expect="^every sample once, in order$",
    deadline_s=60,
)
def storm_of_stops(trial: Trial) -> str:
    return _storm(trial, deadly=False, seed=0)


@fault(
    16,
    "a storm of random SIGSTOP, SIGCONT and SIGKILL, without restarts",
    expect="^samples in order, then WorkerDied: .*SIGKILL",
    deadline_s=60,
)
def storm_of_kills(trial: Trial) -> str:
    return _storm(trial, deadly=True, seed=1)


@fault(
    (16, 22),
    "a storm of 300 random SIGSTOP, SIGCONT and SIGKILL, with restarts",
    expect="^every sample once, in order$",
    is_for_torch=False,
    deadline_s=60,
)
def storm_of_kills_with_restarts(trial: Trial) -> str:
    return _storm(trial, deadly=True, seed=2, max_worker_restarts=300)


@fault(
    (16, 22),
    "the same over three loaders: workers kept, a deep prefetch, five workers",
    expect="^(every sample once, in order; ){3}$",
    is_for_torch=False,
    deadline_s=240,
    needs=machine.no_time,
)
def long_storm(trial: Trial) -> str:
    ways: list[dict[str, Any]] = [
        {"persistent_workers": True},
        {"prefetch_factor": 8},
        {"num_workers": 5},
    ]
    return "".join(
        f"{_storm(trial, deadly=True, seed=seed, max_worker_restarts=300, **way)}; "
        for seed, way in enumerate(ways, 3)
    )
