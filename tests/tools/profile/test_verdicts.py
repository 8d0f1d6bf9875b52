"""The verdict is right where the bottleneck is known, for either loader."""

import time

import pytest

from fastload.tools.profile.profiler import Plan, profile
from tests.tools.profile.loads import CASES, make

BUDGET_S = 5.0


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["fastload", "torch"])
@pytest.mark.parametrize("name", CASES)
def test_verdict_names_the_bottleneck(name, kind):
    """Six loads, each slow in one place by a known amount."""
    case = CASES[name]
    step_s = case.step_ms / 1e3
    loader = make(name, kind)
    found = profile(Plan(loader, name, lambda _: time.sleep(step_s), "a step", BUDGET_S))
    assert found.verdict.culprit == case.culprit
    assert found.verdict.bound == ("not" if case.culprit == "consumer" else "highly")
    assert found.loader == kind
    assert found.setting.num_workers == 2
