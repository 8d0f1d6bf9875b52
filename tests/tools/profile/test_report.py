"""A profile survives being written and read, and says what it is if it can't be."""

import json

import pytest

from fastload.tools.profile.profiler import Plan, profile
from fastload.tools.profile.report import Profile, Setting
from fastload.tools.profile.screen import make_screen
from fastload.tools.profile.trace import to_trace
from tests.tools.profile.loads import make


@pytest.fixture(scope="module")
def found():
    return profile(
        Plan(make("computing", "fastload"), "loads:computing", lambda _: None, "a step", 1.0)
    )


def test_json_gives_the_same_profile(found):
    """Every field, with its type."""
    assert Profile.from_json(found.to_json()) == found


def test_the_shares_of_a_batchs_time_add_up_to_one(found):
    """100 % on the screen."""
    assert sum(each.share for each in found.breakdown) == pytest.approx(1)


def test_the_recommended_setting_was_run(found):
    """Advice is never a mere prediction; the loader's own setting is beside it."""
    verified = {each.setting for each in found.verified}
    assert {found.recommended, found.setting} <= verified
    assert all(each.measured_samples_per_s > 0 for each in found.verified)


def test_fixes_are_ranked_and_are_code(found):
    """The largest gain first."""
    gains = [fix.gain for fix in found.fixes]
    assert gains == sorted(gains, reverse=True)
    assert all(fix.code for fix in found.fixes)


def test_a_prediction_is_found_by_its_setting(found):
    """None for one that is not in the grid."""
    assert found.prediction(found.setting).setting == found.setting
    assert found.prediction(Setting(999, 2)) is None


def test_the_trace_has_a_lane_for_each_worker(found):
    """In the format of Perfetto, in microseconds."""
    trace = json.loads(json.dumps(to_trace(found)))
    names = {e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name"}
    assert {"consumer", "worker 0", "worker 1"} <= names
    spans = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert all(event["ts"] >= 0 and event["dur"] > 0 for event in spans)


def test_the_screen_begins_with_the_verdict(found):
    """The answer first."""
    assert str(make_screen(found).renderables[0]) == found.verdict.sentence


@pytest.mark.parametrize("text", ["{}", '{"schema_version": 99}', "[]", "nothing"])
def test_what_is_no_profile_is_refused(text):
    """With a ValueError, whatever it is."""
    with pytest.raises(ValueError):
        Profile.from_json(text)
