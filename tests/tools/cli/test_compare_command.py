"""`fastload compare`: what it computes, what it doubts, what it refuses."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastload.tools.bench.changes import FIGURES
from fastload.tools.bench.condition import parse_condition
from fastload.tools.bench.machine import describe_machine
from fastload.tools.bench.results import Failure, LoaderMeasurement, MeasuredRun, WorkloadResult
from fastload.tools.bench.suite import Settings
from fastload.tools.bench.summary import to_document
from fastload.tools.cli import main
from fastload.tools.cli.exits import Exit
from tests.rounds import rounds

Edit = Callable[[dict[str, Any]], object]


def runs(rate: float) -> tuple[MeasuredRun, ...]:
    """One pair of runs: torch at 100 units a second, the candidate at `rate`."""

    def one(loader: str, rate: float) -> MeasuredRun:
        measurement = LoaderMeasurement(rate, 0.5, 0.25, 2, 20, 1.0, 0)
        return MeasuredRun(0, loader, measurement, 1 << 20, 2.0)

    return (one("torch", 100.0), one("fastload", rate))


def document(rates: dict[str, float]) -> dict[str, Any]:
    results = [
        WorkloadResult(name, name, 2, 64, 1000, "samples", runs(rate))
        for name, rate in rates.items()
    ]
    # As it is read back: tuples are lists then.
    made = to_document(Settings(workloads=()), results, describe_machine(), complete=True)
    loaded: dict[str, Any] = json.loads(json.dumps(made))
    return loaded


BEFORE = {"alpha": 200.0, "beta": 1000.0}


@pytest.fixture
def compare(tmp_path: Path) -> Callable[..., Exit]:
    """Compare BEFORE with other rates, or with an edited copy of itself."""

    def run(*options: str, rates: dict[str, float] | None = None, edit: Edit = dict.copy) -> Exit:
        before, after = tmp_path / "A.json", tmp_path / "B.json"
        before.write_text(json.dumps(document(BEFORE)))
        changed = copy.deepcopy(document(rates or BEFORE))
        edit(changed)
        after.write_text(json.dumps(changed))
        return Exit(main(["compare", str(before), str(after), *options]))

    return run


def test_every_figure_is_after_over_before(compare, capsys) -> None:
    """Throughput per workload, and the geometric mean over workloads; nothing is doubted."""
    assert compare("--json", rates={"alpha": 100.0, "beta": 2000.0}) == Exit.OK
    captured = capsys.readouterr()
    assert captured.err == ""
    answer = json.loads(captured.out)
    assert answer["schema_version"] == 1
    found = {entry["workload"]: entry for entry in answer["workloads"]}
    assert found["alpha"]["ratio"] == 0.5
    assert found["beta"]["ratio"] == 2.0
    assert found["beta"]["speedup"] == 2.0
    assert found["beta"]["memory"] == found["beta"]["cpu"] == found["beta"]["first_batch"] == 1.0
    assert answer["geometric_mean"]["ratio"] == pytest.approx(1.0)


def test_table_shows_every_workload_and_the_mean(compare, capsys) -> None:
    """In a pipe no name is cut."""
    assert compare(rates={"alpha": 180.0, "beta": 1000.0}) == Exit.OK
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert rows["alpha"][1:5] == ["200", "180", "0.900", "0.900"]
    assert rows["geometric"][2] == f"{math.sqrt(0.9):.3f}"
    assert set(FIGURES) <= set(rows["workload"])


@pytest.mark.parametrize(
    ("condition", "code"),
    [
        ("ratio<0.95", Exit.BAD),
        ("ratio < -5%", Exit.BAD),
        ("ratio<0.9", Exit.OK),
        ("ratio<=0.9", Exit.BAD),
        ("mean ratio<0.94", Exit.OK),
        ("mean ratio<0.96", Exit.BAD),
        ("speedup<.95", Exit.BAD),
        ("memory>1.1", Exit.OK),
        ("memory>=1", Exit.BAD),
        ("cpu>+0%", Exit.OK),
    ],
)
def test_condition_decides_the_exit_code(compare, capsys, condition: str, code: Exit) -> None:
    """One of two workloads lost a tenth of its throughput; the mean lost a twentieth."""
    assert compare("--fail-if", condition, rates={"alpha": 180.0, "beta": 1000.0}) == code
    failed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("failed: ")]
    assert bool(failed) == (code == Exit.BAD)
    assert all(condition.strip() in line for line in failed)


def test_any_of_several_conditions_is_enough(compare) -> None:
    """`--fail-if` can be repeated."""
    assert compare("--fail-if", "ratio<0.5", "--fail-if", "memory>=1") == Exit.BAD


@pytest.mark.parametrize(
    "text",
    [
        *("", "ratio", "ratio=1", "ratio<", "ratio<fast", "speed<1", "ratio<95%", "ratio<-0.5"),
        *("ratio<1 or 1", "__import__('os').abort()<1", "ratio<1e400", "mean<1"),
        "ratio<\N{ARABIC-INDIC DIGIT THREE}",
    ],
)
def test_what_is_no_condition_is_refused(compare, capsys, text: str) -> None:
    """With exit code 2 and the form that is expected; nothing is ever evaluated."""
    assert compare("--fail-if", text) == Exit.USAGE
    assert "ratio" in capsys.readouterr().err
    with pytest.raises(ValueError, match="ratio"):
        parse_condition(text)


def fail_alpha(results: dict[str, Any]) -> None:
    entry = results["workloads"][0]
    entry["summary"] = None
    entry["failure"] = {"kind": Failure("overran", "x").kind, "message": "x"}


def test_workload_that_failed_this_time_fails_the_comparison(compare, capsys) -> None:
    """It has no figures, so no condition could hold for it; without a condition nobody asked."""
    assert compare("--fail-if", "ratio<0.1", edit=fail_alpha) == Exit.BAD
    assert "failed: alpha: no figures this time (overran)" in capsys.readouterr().err
    assert compare(edit=fail_alpha) == Exit.OK


@pytest.mark.parametrize(
    ("edit", "doubt"),
    [
        (lambda d: d["machine"].update(cores=96), "cores differs"),
        (lambda d: d["settings"].update(quick=True), "quick differs: False, then True"),
        (lambda d: d.update(complete=False), "interrupted"),
        (lambda d: d["workloads"][0].update(batch_size=1), "alpha: (workers, batch size"),
        (lambda d: d["workloads"].pop(), "not run the second time: beta"),
    ],
)
def test_what_makes_files_hard_to_compare_is_told(compare, capsys, edit: Edit, doubt: str) -> None:
    """On stderr; the comparison is made all the same."""
    assert compare(edit=edit) == Exit.OK
    captured = capsys.readouterr()
    assert captured.err.startswith("mistrust this comparison: ")
    assert doubt in captured.err
    assert "geometric mean" in captured.out


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "is not JSON"),
        ("\x00\x01", "is not JSON"),
        ("[1, 2]", "holds no results of a benchmark"),
        ('{"schema_version": 1, "result": {}}', "holds no results of a benchmark"),
        ('{"schema_version": 99, "workloads": []}', "schema_version 99"),
        ('{"schema_version": 1, "workloads": [{}]}', "is damaged: workload 0 has no"),
        ('{"schema_version": 1, "workloads": 7}', "is damaged"),
        ("[" * 100_000, "is nested too deeply"),
        ("9" * 5_000, "is not JSON"),
        (
            '{"schema_version": ' + "9" * 4_000 + ', "workloads": []}',
            "schema_version a huge number",
        ),
        ('{"schema_version": NaN, "workloads": []}', "schema_version nan"),
        ('{"schema_version": "\\u001b[2J\\n", "workloads": []}', "schema_version '\\x1b[2J\\n'"),
    ],
)
def test_wrong_file_is_a_usage_error(tmp_path: Path, capsys, content: str, complaint: str) -> None:
    """Exit code 2 and one line: which file, and what is wrong with it."""
    file = tmp_path / "wrong.json"
    file.write_text(content)
    assert main(["compare", str(file), str(file)]) == Exit.USAGE
    err = capsys.readouterr().err
    assert "wrong.json" in err
    assert complaint in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("content", [b"\xff\xfe{\0}\0", bytes(range(256)), b"\n \n"])
def test_file_of_other_bytes_is_a_usage_error(tmp_path: Path, capsys, content: bytes) -> None:
    """What is not UTF-8, or is binary, or blank, is named in one line."""
    file = tmp_path / "wrong.json"
    file.write_bytes(content)
    assert main(["compare", str(file), str(file)]) == Exit.USAGE
    err = capsys.readouterr().err
    assert "wrong.json' is not JSON" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("path", ["/dev/null", "/dev/zero"])
def test_device_is_a_usage_error(capsys, path: str) -> None:
    """An empty one and an endless one, of which no more is read than a file may have."""
    assert main(["compare", path, path]) == Exit.USAGE
    assert capsys.readouterr().err.count("\n") == 1


PATHS = st.sampled_from(
    [
        *(("workloads",), ("workloads", 0), ("workloads", 0, "workload"), ("workloads", 0, "unit")),
        *(("workloads", 0, "summary"), ("workloads", 0, "failure"), ("workloads", 0, "workers")),
        *(("workloads", 0, "summary", "candidate"), ("workloads", 0, "summary", "ratio")),
        *(("workloads", 0, "summary", "ratio", "median"), ("workloads", 1, "samples")),
        *(("workloads", 0, "summary", "candidate", "rate"), ("workloads", 1, "same_data")),
        *(("workloads", 1, "summary", "candidate", "cpu_s_per_epoch"), ("machine", "cores")),
        *(("machine",), ("machine", "processor"), ("settings",), ("settings", "rounds")),
        *(("complete",), ("schema_version",)),
    ]
)
TEXTS = st.text() | st.sampled_from(
    ["\x1b[31m", "[bold red]x[/bold red]", "a\nb", "\ud800", "\x9b2J"]
)
LEAVES = (
    *(st.none(), st.booleans(), TEXTS, st.floats(), st.integers()),
    st.sampled_from([10**400, -(10**400), 1e308, 5e-324, 2**64]),
)
VALUES = st.recursive(
    st.one_of(*LEAVES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
ABSENT = "take this key away"


@settings(max_examples=rounds(60, 300), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    changes=st.lists(st.tuples(PATHS, VALUES | st.just(ABSENT)), min_size=1, max_size=3),
    as_json=st.booleans(),
)
def test_damaged_values_never_end_in_a_traceback_or_on_the_terminal(
    changes: list[tuple[tuple[Any, ...], Any]], as_json: bool
) -> None:
    """Whatever stands anywhere in a file: it is compared, or refused in one line; no escapes."""
    changed = document(BEFORE)
    for path, value in changes:
        with contextlib.suppress(KeyError, IndexError, TypeError, AttributeError):
            holder: Any = changed
            for key in path[:-1]:
                holder = holder[key]
            if value == ABSENT:
                del holder[path[-1]]
            else:
                holder[path[-1]] = value
    out, err = io.StringIO(), io.StringIO()
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "A.json"), Path(folder, "B.json")
        before.write_text(json.dumps(document(BEFORE)))
        after.write_text(json.dumps(changed))
        options = ["--json"] if as_json else []
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(["compare", str(before), str(after), "--fail-if", "ratio<0.5", *options])
    assert code in {Exit.OK, Exit.USAGE, Exit.BAD}, err.getvalue()
    if code == Exit.USAGE:
        assert out.getvalue() == ""
        assert err.getvalue().count("\n") == 1, err.getvalue()
    elif as_json:
        json.loads(out.getvalue(), parse_constant=pytest.fail)
    assert all(each.isprintable() or each == "\n" for each in out.getvalue() + err.getvalue())


def test_texts_of_a_file_are_shown_as_they_are(compare, capsys, tmp_path: Path) -> None:
    """Neither rich's markup nor names of emoji mean anything in them."""

    def rename(results: dict[str, Any]) -> None:
        results["workloads"][0]["workload"] = "[red]:smile:[/red]"
        results["machine"]["processor"] = "[link=file:///etc]\x1b]0;title\x07"

    assert compare(edit=rename) == Exit.OK
    captured = capsys.readouterr()
    assert "processor differs" in captured.err
    assert "[link=file:///etc]\\x1b]0;title\\x07" in captured.err
    assert "not run the second time: alpha" in captured.err
    file = tmp_path / "C[red].json"
    file.write_text(json.dumps(document({"[red]:smile:[/red]": 1.0})))
    assert main(["compare", str(file), str(file)]) == Exit.OK
    out = capsys.readouterr().out
    assert "[red]:smile:[/red]" in out
    assert str(file) in out


def test_condition_in_the_help_can_be_copied(capsys) -> None:
    """Nothing in the help is doubled for a formatter that does not run."""
    assert main(["compare", "--help"]) == Exit.OK
    out = capsys.readouterr().out
    assert "'mean speedup<-5%'" in " ".join(out.split())
    assert "%%" not in out


def test_impossible_figures_are_refused(compare, capsys) -> None:
    """A rate of zero would make ratios that mean nothing."""

    def stop_alpha(results: dict[str, Any]) -> None:
        results["workloads"][0]["summary"]["candidate"]["rate"] = 0

    assert compare(edit=stop_alpha) == Exit.USAGE
    assert "rate of alpha is 0" in capsys.readouterr().err


def test_files_without_a_common_workload_are_a_usage_error(compare, capsys) -> None:
    """Both lists are named."""
    assert compare(rates={"gamma": 1.0}) == Exit.USAGE
    assert "alpha, beta" in (err := capsys.readouterr().err)
    assert "gamma" in err


@pytest.mark.parametrize("path", ["/no/such/file.json", "/"])
def test_unreadable_file_is_a_usage_error(path: str, capsys) -> None:
    """A folder is none either."""
    assert main(["compare", path, path]) == Exit.USAGE
    assert f"cannot read {path!r}" in capsys.readouterr().err


def test_comparison_answers_without_torch(tmp_path: Path) -> None:
    """In a CI job it need not be installed."""
    file = tmp_path / "A.json"
    file.write_text(json.dumps(document(BEFORE)))
    code = (
        "import sys\nfrom fastload.tools.cli import main\n"
        f"assert main(['compare', {str(file)!r}, {str(file)!r}]) == 0\n"
        "assert not {'torch', 'numpy', 'pyarrow', 'matplotlib'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert result.returncode == 0, result.stderr


def test_files_without_the_kind_of_workload_are_read_as_before(compare, capsys) -> None:
    """Older files do not tell whether both loaders had the same data; they had."""

    def forget(document: dict[str, Any]) -> None:
        del document["geometric_mean"]["drop_in"]
        for workload in document["workloads"]:
            del workload["same_data"], workload["summary"]["same_data"]

    assert compare(edit=forget) == Exit.OK
    assert "mistrust" not in capsys.readouterr().err


def test_other_data_for_one_loader_is_doubted(compare, capsys) -> None:
    """A workload in which ours had a dataset of its own is not the one in which it had not."""

    def ours(document: dict[str, Any]) -> None:
        document["workloads"][0]["same_data"] = False

    assert compare(edit=ours) == Exit.OK
    err = capsys.readouterr().err
    assert "alpha: (workers, batch size, samples, unit, same data) differ" in err
    assert "beta" not in err
