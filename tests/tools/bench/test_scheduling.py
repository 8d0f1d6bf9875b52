"""The script that measures scheduling: what it compares, and what it writes."""

import dataclasses
import itertools

import pytest

from benchmarks import scheduling
from benchmarks.scheduling import ROWS, Line, Row, RowError, Way, check, make_table, maker
from fastload.tools.bench.machine import describe_machine
from fastload.tools.bench.workload import Recipe
from tests.tools.bench import loaders

MACHINE = dataclasses.asdict(describe_machine())
ONE = {"batch_size": 2}


def row(candidate="torch", goal=("at most", 1.5)):
    lines = (Line("a load", "ours", "torch", lambda found, way: found[way]["s"], "{:.2f} s", goal),)
    ways = {"torch": Way("torch", ONE), "ours": Way(candidate, ONE)}
    return Row(lambda left: Recipe(list(range(12))), ways, scheduling.whole_epoch, lines)


def table_of(one, monkeypatch):
    monkeypatch.setattr(scheduling, "ROWS", {"load": one})
    figures = {"torch": {"s": [5.0, 3.0, 4.0]}, "ours": {"s": [2.0, 1.0, 9.0]}}
    return make_table({"machine": MACHINE, "rows": {"load": figures}}).splitlines()


@pytest.mark.parametrize("name", ROWS)
def test_lines_speak_of_ways_that_are_measured(name):
    """Each line names a way of torch's loader, one of ours, and figures that can be formatted."""
    ways = ROWS[name].ways
    for line in ROWS[name].lines:
        assert ways[line.torch].loader == "torch"
        assert ways[line.ours].loader == "fastload"
        assert line.form.format(0.5)


def test_no_two_lines_are_called_the_same():
    """A reader can tell the lines of the table apart."""
    texts = [line.text for row in ROWS.values() for line in row.lines]
    assert len(set(texts)) == len(texts)


def test_table_shows_medians_beside_torch(monkeypatch):
    """A goal that is reached stands as it is."""
    one = row(goal=("at least", 2.0))
    assert table_of(one, monkeypatch)[-1] == "| a load | 4.00 s | 2.00 s | at least 2.00 s |"


def test_table_tells_that_a_goal_was_missed(monkeypatch):
    """And that none was set, where there is none."""
    last = table_of(row(), monkeypatch)[-1]
    assert last == "| a load | 4.00 s | 2.00 s | at most 1.50 s (missed) |"
    assert table_of(row(goal=None), monkeypatch)[-1].endswith("| none set |")


def test_rows_that_were_not_measured_have_no_line():
    """The table of a part of the rows is a part of the table."""
    assert make_table({"machine": MACHINE, "rows": {}}).endswith("|---|---|---|---|")


def test_way_with_other_batches_is_not_measured():
    """The batches of all ways are held against torch's before."""
    check(row("fastload"))
    with pytest.raises(RowError, match=r"ours does not give torch's batches: batch 0 differs"):
        check(row(f"{loaders.__name__}:Swapped"))


def test_epoch_is_measured_from_its_beginning():
    """The time of an epoch has that of its first batch in it."""
    one = row()
    figures = scheduling.whole_epoch(maker(one, one.ways["ours"]))
    assert 0 < figures["first_s"] < figures["epoch_s"]
    assert figures["rate"] == 12 / figures["epoch_s"]


def test_short_epochs_have_gaps():
    """Steps are in both: in the time between batches, and in that between epochs."""
    one = row()
    figures = scheduling.short_epochs(maker(one, one.ways["ours"]), epochs=3, step_s=0.001)
    assert min(figures.values()) >= 0.001


def test_failing_way_does_not_keep_others_from_being_measured(monkeypatch):
    """Rows that fail are told in words; the others have their figures."""
    fake = {"torch": {"s": [1.0]}, "ours": {"s": [1.0]}}
    turns = itertools.count()

    def measure(name, rounds):
        if next(turns) == 0:
            raise RowError("it hangs")
        return fake

    monkeypatch.setattr(scheduling, "ROWS", {"first": row(), "second": row()})
    monkeypatch.setattr(scheduling, "measure", measure)
    saved = []
    failures = scheduling.run(["first", "second"], 1, saved.append)
    assert [document["rows"] for document in saved] == [{"second": fake}]
    assert failures == ["first: it hangs"]


def test_rows_that_are_not_measured_again_stay(monkeypatch, tmp_path):
    """Results of some rows replace theirs, and the table has all."""
    page, begin, end = tmp_path / "page.md", *scheduling.MARKS
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    monkeypatch.setattr(scheduling, "BENCHMARKS", page)
    monkeypatch.setattr(scheduling, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(scheduling, "ROWS", {"first": row(), "second": row(goal=None)})
    figures = {"torch": {"s": [1.0]}, "ours": {"s": [1.0]}}
    for name in ("first", "second"):
        scheduling.save({"machine": MACHINE, "rows": {name: figures}})
    assert [line for line in page.read_text().splitlines() if line.startswith("| a load")] == [
        "| a load | 1.00 s | 1.00 s | at most 1.50 s |",
        "| a load | 1.00 s | 1.00 s | none set |",
    ]
    assert page.read_text().startswith("before\n")
    assert page.read_text().endswith("after\n")
