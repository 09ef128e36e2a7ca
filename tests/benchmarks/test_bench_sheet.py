"""Benchmark reports as CSV and Markdown, all forms in a folder, and the verb `report`."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchmarks import bench_example as example
from benchmarks.compare_example import around
from benchmarks.compare_example import report as sparse

from edgewright import cli
from edgewright.benchmarks.bench_lanes import best_of, lanes_of
from edgewright.benchmarks.bench_save import check_form, save_bench
from edgewright.benchmarks.bench_sheet import render_bench_csv, render_bench_markdown
from edgewright.benchmarks.bench_view_commands import report as verb
from edgewright.errors import ArtifactError, UsageError
from edgewright.report import Metric

FORMS = ["bench.json", "bench.csv", "bench.md", "bench.html"]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("models")
    return {name: getattr(example, name)(folder) for name in ("pi5", "jetson", "bare", "nasty")}


@pytest.fixture
def ours(here, monkeypatch):
    """The command line, with the verb if it does not have it by itself."""
    monkeypatch.setattr(cli.app, "registered_commands", list(cli.app.registered_commands))
    if verb not in {command.callback for command in cli.app.registered_commands}:
        cli.app.command()(verb)
    return here


def rows_of_csv(*reports: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(render_bench_csv(reports))))


# --- CSV ------------------------------------------------------------------------------------------------------------


def test_csv_gives_every_metric_back_with_all_digits(reports):
    together = [reports["pi5"], reports["jetson"], reports["bare"], reports["nasty"]]
    rows = rows_of_csv(*together)
    assert len(rows) == sum(len(report.metrics) for report in together)
    for number, report in enumerate(together, 1):
        of_report = [row for row in rows if row["report"] == str(number)]
        for metric in report.metrics:
            threads = metric.subject.removeprefix("threads=") or ("1" if len(report.settings["threads"]) == 1 else "")
            (row,) = [row for row in of_report if row["metric"] == metric.name and row["threads"] == threads]
            for key in ("value", "low", "high"):
                wanted = getattr(metric, key)
                assert (row[key] == "") if wanted is None else (float(row[key]) == wanted)
            assert [row[key] for key in ("unit", "interval", "origin", "why_absent")] == [
                metric.unit, metric.interval, metric.origin, metric.why_absent
            ]  # fmt: skip
            assert row["samples"] == str(metric.samples)
    assert {row["device"] for row in rows} == {"pi5", "orin", "local", "</script><b>"}
    assert {row["address"] for row in rows if row["device"] == "orin"} == {"root@orin"}
    assert {row["sha256"] for row in rows} == {reports["pi5"].model["sha256"]}


def test_csv_marks_estimates(reports):
    (row,) = [row for row in rows_of_csv(reports["bare"]) if row["metric"] == "energy_per_inference_estimate"]
    assert row["origin"] == "estimated" and float(row["value"]) > 0
    assert {row["origin"] for row in rows_of_csv(reports["pi5"])} == {"measured"}


# --- Markdown -------------------------------------------------------------------------------------------------------


def tables(text: str) -> dict[str, list[list[str]]]:
    """The rows of the first table below each heading."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in text.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("|") and not re.fullmatch(r"[|:\- ]+", line):
            found.setdefault(heading, []).append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return found


def test_markdown_has_the_tables_of_the_page(reports):
    text = render_bench_markdown([reports["pi5"], reports["jetson"], reports["bare"]])
    found = tables(text)
    assert found["Figures"][0] == ["", "pi5, 1 thread", "pi5, 2 threads", "orin, 1 thread", "local, 1 thread"]
    assert [len(row) for row in found["Figures"]] == [5] * len(found["Figures"])
    p50 = next(row for row in found["Figures"] if row[0] == "p50")
    assert p50[3].startswith("4.10 ms (")
    assert len(found["Single processes"]) == 1 + 10
    assert len(found["Energy"]) == 1 + 9
    assert f"Not measured on local, 1 thread: {example.WHY}".replace("*", r"\*") in text
    assert "orin: GPU, delegate: 8 of 10 ops, 88.89 % of the multiply-adds" in text
    estimates = text[text.index("## Estimates, not measured") :]
    assert "1.065 mJ (0.7400 to 1.390 mJ) (ESTIMATED)" in estimates and "M. Horowitz" in estimates
    assert "1.065 mJ" not in text[: text.index("## Estimates, not measured")]
    for report in (reports["pi5"], reports["jetson"]):
        assert all(warning.replace("<", "&lt;") in text for warning in report.warnings)


def test_markdown_marks_the_best_in_bold_only_if_intervals_do_not_overlap(reports):
    together = [reports["pi5"], reports["jetson"]]
    rows = tables(render_bench_markdown(together))["Figures"]
    assert best_of(lanes_of(together), "latency_p50") == 2
    p50 = next(row for row in rows if row[0] == "p50")
    assert [cell.startswith("**") for cell in p50[1:]] == [False, False, True]
    energy = next(row for row in rows if row[0].startswith("Energy per inference, above"))
    assert not any("**" in cell for cell in energy)  # the same board, the same energy: intervals overlap


def test_nothing_of_a_report_becomes_markup(reports):
    text = render_bench_markdown([reports["nasty"]])
    assert "<" not in re.sub(r"&lt;", "", text) and "\u202e" not in text
    assert all(len(row) == len(rows[0]) for rows in tables(text).values() for row in rows[:1])
    assert r"\`code\`" in text and r"\|" in text


# --- files ----------------------------------------------------------------------------------------------------------


def test_all_forms_are_written(reports, tmp_path):
    out = tmp_path / "new" / "folder"
    assert save_bench([reports["pi5"], reports["bare"]], out) == [out / name for name in FORMS]
    assert sorted(file.name for file in out.iterdir()) == sorted(FORMS)
    document = json.loads((out / "bench.json").read_text())
    assert document == {"reports": [reports["pi5"].to_json(), reports["bare"].to_json()]}
    assert "benchmark report" in (out / "bench.html").read_text(encoding="utf-8")
    assert save_bench([reports["bare"]], out) == [out / name for name in FORMS]
    assert json.loads((out / "bench.json").read_text()) == reports["bare"].to_json()


def test_numbers_that_json_has_not_become_texts(reports, tmp_path):
    endless = replace(reports["bare"], metrics=(*reports["bare"].metrics, Metric("sqnr", "dB", math.inf)))
    save_bench([endless], tmp_path)
    metrics = json.loads((tmp_path / "bench.json").read_text())["metrics"]
    assert metrics[-1]["value"] == "inf"
    again = json.loads((tmp_path / "bench.json").read_text())
    save_bench([again], tmp_path / "again")
    assert (tmp_path / "again" / "bench.csv").read_bytes() == (tmp_path / "bench.csv").read_bytes()


@pytest.mark.parametrize("package", ["jinja2", "vl_convert"])
def test_without_the_extra_the_other_forms_are_written(reports, tmp_path, monkeypatch, caplog, package):
    monkeypatch.setitem(sys.modules, package, None)
    written = save_bench([reports["bare"]], tmp_path)
    assert [file.name for file in written] == FORMS[:3] == [f for f in FORMS if (tmp_path / f).exists()]
    assert package in caplog.text and "edgewright[report]" in caplog.text


def test_a_folder_that_cannot_be_written_leaves_nothing(reports, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="file"):
        save_bench([reports["bare"]], tmp_path / "file")


def test_no_report_is_no_folder(tmp_path):
    with pytest.raises(UsageError, match="no benchmark report"):
        save_bench([], tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- the verb -------------------------------------------------------------------------------------------------------


def test_the_verb_sets_files_side_by_side(ours, place, reports):
    (place / "a.json").write_text(json.dumps(reports["pi5"].to_json()))
    (place / "b.json").write_text(json.dumps({"reports": [reports["jetson"].to_json(), reports["bare"].to_json()]}))
    code, out, err = ours("report", "a.json", "b.json", "-o", "out")
    assert code == 0 and out.split() == [str(Path("out") / name) for name in FORMS] and not err
    assert len(json.loads((place / "out" / "bench.json").read_text())["reports"]) == 3
    code, out, _ = ours("report", "out/bench.json", "-o", "again", "--json")
    assert code == 0 and json.loads(out)["reports"] == 3 and len(json.loads(out)["files"]) == 4
    assert all((place / "out" / name).read_bytes() == (place / "again" / name).read_bytes() for name in FORMS)


def cut(report: dict[str, Any], *keys: str) -> dict[str, Any]:
    node = report
    for key in keys[:-1]:
        node = node[key]
    del node[keys[-1]]
    return report


BAD = {
    "{": "is no JSON",
    "[" * 100_000: "is no JSON",
    "[]": "its kind is None, not 'bench'",
    "3": "its kind is None",
    '{"reports": []}': "holds no benchmark report",
    '{"reports": 3}': "holds no benchmark report",
    '{"kind": "verify"}': "its kind is 'verify', not 'bench'",
    '{"error": {"message": "no engine"}}': "holds an error and no report: no engine",
    '{"error": "no engine"}': "holds an error and no report: no engine",
    '{"kind": "bench"}': "cannot be shown",
    '{"kind": "bench", "model": 3, "settings": [], "metrics": {}, "details": ""}': "cannot be shown",
    json.dumps(cut(sparse(around(2.0)), "settings", "threads")): "cannot be shown",
    json.dumps(sparse(around(2.0), settings__threads=[])): "no thread count",
    json.dumps(sparse(around(2.0), metrics=[{"name": "x"}])): "cannot be shown",
    json.dumps(sparse(around(2.0), details__profile={"ops": [{"op": 1}]})): "cannot be shown",
    json.dumps(sparse(around(2.0), details__placement={"ops": [{}]})): "cannot be shown",
    json.dumps(sparse(around(2.0), details__energy=[{"mj_per_inference": "much"}])): "cannot be shown",
}


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_bad_input_is_named_and_writes_nothing(ours, place, text):
    (place / "good.json").write_text(json.dumps(sparse(around(2.0))))
    (place / "bad.json").write_text(text)
    code, out, err = ours("report", "good.json", "bad.json", "-o", "out")
    assert code == 2 and not out and "bad.json" in err and BAD[text] in err and "hint" in err and "Traceback" not in err
    assert not (place / "out").exists()


def test_a_missing_file_is_named(ours, place):
    code, _, err = ours("report", "nowhere.json", "-o", "out")
    assert code == 2 and "nowhere.json cannot be read" in err


def test_reports_of_other_forms_can_be_shown_as_far_as_they_go(tmp_path):
    bare = sparse(around(2.0))
    assert check_form(bare) == ""
    assert [file.name for file in save_bench([bare], tmp_path)] == FORMS


def test_help_needs_no_numpy():
    code = (
        "import sys\n"
        "for name in ('numpy', 'jinja2', 'vl_convert', 'tensorflow'): sys.modules[name] = None\n"
        "import typer\n"
        "from edgewright.benchmarks.bench_view_commands import report\n"
        "app = typer.Typer(); app.command()(report)\n"
        "app(['--help'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "bench.html" in done.stdout, done.stderr
