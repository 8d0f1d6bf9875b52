"""The means of the ratios, and the pages that are made of them."""

import json
from dataclasses import asdict

import pytest

from benchmarks.publish import make_tables
from fastload.tools.bench.machine import describe_machine
from fastload.tools.bench.results import LoaderMeasurement, MeasuredRun, WorkloadResult
from fastload.tools.bench.suite import Settings
from fastload.tools.bench.summary import mean_ratios, summarize, to_document
from fastload.tools.bench.table import make_footer

SETTINGS = Settings(workloads=(), workers=2)


def result(name, ratio, workers=2, *, same_data=True):
    runs = tuple(
        MeasuredRun(0, loader, LoaderMeasurement(rate, 0.1, 0.2, 2, 20, 1.0, 0), 1 << 20, 2.0)
        for loader, rate in (("torch", 100.0), ("fastload", 100.0 * ratio))
    )
    return WorkloadResult(name, name, workers, 64, 1000, "samples", runs, same_data=same_data)


RESULTS = (
    result("images", 2.0),
    result("rows", 8.0),
    result("rows-inline", 1.0, workers=0),
    result("files", 256.0, same_data=False),
)


def document():
    return json.loads(json.dumps(to_document(SETTINGS, RESULTS, describe_machine(), complete=True)))


def test_drop_in_mean_is_of_equal_data_alone():
    """A workload in which fastload brings its own dataset can't raise the figure of the loader."""
    summaries = [summarize(each, SETTINGS) for each in RESULTS]
    assert mean_ratios(summaries, workers=2) == {
        "drop_in": pytest.approx(4),
        "with_workers": pytest.approx(16),
        "all": pytest.approx(8),
    }
    assert document()["geometric_mean"] == mean_ratios(summaries, workers=2)


def test_footer_begins_with_the_drop_in_mean():
    """It is the headline; of what was not measured there is no mean."""
    words = "geometric mean of the ratios: "
    same = "4.00 with 2 workers and the same data"
    assert make_footer(SETTINGS, RESULTS) == f"{words}{same}, 16.00 with 2 workers, 8.00 over all"
    assert make_footer(SETTINGS, RESULTS[3:]) == f"{words}256.00 with 2 workers, 256.00 over all"
    assert make_footer(SETTINGS, ()) == f"{words}none"


def test_pages_have_a_table_for_each_kind():
    """The second one begins with what is compared in it; the bold mean is that of the first."""
    same, own = make_tables(document()).split("Above, both loaders get the same dataset")
    assert [name in same for name in ("| rows |", "| files |")] == [True, False]
    assert [name in own for name in ("| rows |", "| files |")] == [False, True]
    assert (
        "**4.00** with workers (2.00 without the workload that gains most), "
        "16.00 with the second table, 8.00 over all"
    ) in own


def test_old_results_make_one_table():
    """Files that were written before there were two kinds of workloads are read as they were."""
    old = document()
    del old["geometric_mean"]["drop_in"], old["workloads"][3]
    for workload in old["workloads"]:
        del workload["same_data"], workload["summary"]["same_data"]
    page = make_tables(old)
    assert "Above" not in page
    mean = "**16.00** with workers (2.00 without the workload that gains most), 8.00 over all"
    assert mean in page


def test_results_say_which_kind_they_are():
    """In the file of results and in each summary."""
    entry = document()["workloads"][3]
    assert (entry["same_data"], entry["summary"]["same_data"]) == (False, False)
    assert asdict(RESULTS[0])["same_data"] is True
