"""The verbs compress, evaluate, recipes and cache: exit codes, streams, JSON, tables."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from edgewright.report import CompressReport, FileReport, Metric

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"
QUICK = ("--no-bench", "--to", "tflite")


@pytest.fixture
def data(trained):
    return ("--samples", trained / "classifier_calib.npz", "--eval", trained / "classifier_test.npz")


def test_compress_writes_files_and_reports(here, place, trained, data):
    code, out, err = here("compress", trained / "classifier.keras", *data, "-o", "made", *QUICK, "--max-drop", "50")
    assert code == 0, err
    names = {
        "classifier_int8.tflite",
        "classifier_int8.tflite.artifact.json",
        "report.csv",
        "report.html",
        "report.json",
        "report.md",
    }
    assert {path.name for path in Path("made").iterdir()} == names
    assert "classifier_int8.tflite" in out and "promises kept" in out and "within 50 points" in out
    assert out.rstrip().endswith(str(place / "made" / "report.html"))
    stored = json.loads(Path("made/report.json").read_text())
    jsonschema.Draft202012Validator(json.loads((REFERENCE / "report.schema.json").read_text())).validate(stored)
    assert stored["settings"]["max_drop"] == {"value": 50.0, "from": "commandline"}
    assert stored["settings"]["seed"] == {"value": 0, "from": "default"}
    assert Path("made/report.html").read_text().rstrip().endswith("</html>")


def test_compress_json_is_the_report(here, place, trained, data):
    code, out, err = here("compress", trained / "classifier.keras", *data, "-o", "made", *QUICK, "--json")
    assert code == 0 and err == ""
    found = json.loads(out)
    assert found["kind"] == "compress" and found["written"][0].endswith("report.json")
    assert found["files"][-1]["recipe"] == "int8"


def test_a_broken_budget_is_exit_code_3(here, place, trained):
    data = ("--samples", trained / "regressor_calib.npz", "--eval", trained / "regressor_test.npz")
    code, out, err = here("compress", trained / "regressor.keras", *data, "-o", "made", *QUICK, "--max-drop", "0")
    assert code == 3
    assert "rmse of regressor_int8.tflite" in err and "at most 0 are allowed" in err and "Traceback" not in err
    assert Path("made/regressor_int8.tflite").is_file() and Path("made/report.html").is_file(), "results are kept"
    assert "Report: " in out


def test_options_are_recorded_with_their_origin(here, place, trained, data):
    Path("edgewright.toml").write_text("[compress]\nmax-drop = 60.0\n")
    arguments = ("compress", trained / "classifier.keras", *data, "-o", "made", *QUICK, "-O", "export.io=int8", "--json")
    found = json.loads(here(*arguments)[1])
    assert found["settings"]["max_drop"] == {"value": 60.0, "from": "edgewright.toml"}
    (step,) = [step for step in found["recipes"]["int8"]["steps"] if step["step"] == "export"]
    assert step["options"] == {"precision": "int8", "io": "int8"} and step["origins"] == {"precision": "int8", "io": "-O"}


def test_dry_run_does_nothing(here, place, trained, data):
    code, out, err = here("compress", trained / "classifier.keras", *data, "--dry-run", "--cache", "own", "-o", "made")
    assert (code, err) == (0, "")
    assert "write classifier_int8.xml" in out and "Estimated: " in out
    assert not Path("made").exists()
    steps = json.loads(here("compress", trained / "classifier.keras", *data, "--dry-run", "--cache", "own", "--json")[1])["steps"]
    assert [step["cached"] for step in steps] == [False] * len(steps)


@pytest.mark.parametrize(
    ("arguments", "code", "said", "advice"),
    [
        (("--recipe", "in8"), 2, "no recipe 'in8'", "did you mean int8"),
        (("-O", "io=int8"), 2, "step.option=value", "-O export.io=int8"),
        (("-O", "export.io=int7"), 2, "option 'io' is 'int7'", ""),
        (("--eval", "none.npz"), 1, "none.npz does not exist", ""),
        (("--to", "coreml"), 1, "no writer 'coreml'", "openvino, tflite"),
        (("--top-k", "3"), 2, "--top-k", "--eval"),
    ],
)
def test_mistakes_are_one_line_and_a_hint(here, place, trained, arguments, code, said, advice):
    command = ("compress", trained / "classifier.keras", "-s", trained / "classifier_calib.npz", "--no-bench", "-o", "made")
    found, out, err = here(*command, *arguments)
    assert (found, out) == (code, "")
    assert said in err and advice in err and "Traceback" not in err and len(err.splitlines()) <= 2


def test_evaluate(here, place, trained, data):
    here("compress", trained / "classifier.keras", *data, "-o", "made", *QUICK)
    file, against = "made/classifier_int8.tflite", ("--against", trained / "classifier.keras")
    code, out, err = here("evaluate", file, "--eval", trained / "classifier_test.npz", *against)
    assert (code, err) == (0, "")
    assert "Accuracy" in out and "by class, worst first" in out and "decisions flipped" in out
    found = json.loads(here("evaluate", file, "--eval", trained / "classifier_test.npz", *against, "--json")[1])
    assert found["settings"]["task"] == "classification" and found["settings"]["passed"] is None
    alone = json.loads(here("evaluate", file, "--eval", trained / "classifier_test.npz", "--json")[1])
    values = {m["name"]: m["value"] for m in alone["metrics"]}
    assert values == {m["name"]: m["value"] for m in found["metrics"] if not m["name"].endswith("_change")}
    code, _, err = here("evaluate", file, "--eval", trained / "classifier_test.npz", "--max-drop", "1")
    assert code == 2 and "--against" in err


def test_evaluate_needs_labels(here, place, trained):
    code, out, err = here("evaluate", trained / "classifier.keras", "--eval", trained / "classifier_calib.npz")
    assert (code, out) == (1, "")
    assert "label" in err and "y:<output>" in err


def test_evaluate_names_what_does_not_fit(here, place, trained):
    with np.load(trained / "classifier_test.npz") as stored:
        np.savez("wrong.npz", features=stored["features"], y=stored["y"] + 3)
    code, _, err = here("evaluate", trained / "classifier.keras", "--eval", "wrong.npz")
    assert code == 1 and "6" in err and "4" in err and "Traceback" not in err


def test_recipes(here, place):
    code, out, err = here("recipes")
    assert (code, err) == (0, "")
    assert all(re.search(rf"^{name} ", out, re.M) for name in ("dynamic", "float16", "int8", "int16x8"))
    shown = here("recipes", "int8")[1]
    Path("mine.toml").write_text(shown)
    mine, shipped = (json.loads(here("recipes", name, "--json")[1]) for name in ("mine.toml", "int8"))
    assert [step["options"] for step in mine["steps"]] == [step["options"] for step in shipped["steps"]]
    schema = json.loads(here("recipes", "--schema")[1])
    assert schema == json.loads((REFERENCE / "recipe.schema.json").read_text())


def test_shipped_recipes_fit_their_schema():
    import tomllib

    validator = jsonschema.Draft7Validator(json.loads((REFERENCE / "recipe.schema.json").read_text()))
    recipes = sorted((Path(__file__).parents[1] / "edgewright" / "optimizers" / "recipes").glob("*.toml"))
    assert len(recipes) >= 4
    for recipe in recipes:
        validator.validate(tomllib.loads(recipe.read_text()))
    for wrong in (
        '[[steps]]\nstep = "export"\nprecison = "int8"',
        '[[steps]]\nstep = "export"\nprecision = "int9"',
        'titel = "x"',
    ):
        assert not validator.is_valid(tomllib.loads(wrong))


def test_cache(here, place, trained):
    here("compress", trained / "classifier.keras", "--recipe", "float16", *QUICK, "-o", "made", "--cache", "own")
    listed = json.loads(here("cache", "list", "--cache", "own", "--json")[1])["entries"]
    assert "write classifier_float16.tflite" in [entry["what"] for entry in listed]
    size = json.loads(here("cache", "size", "--cache", "own", "--json")[1])
    assert size["entries"] == len(listed) and size["bytes"] > sum(entry["bytes"] for entry in listed) > 0
    assert "write classifier_float16.tflite" in here("cache", "list", "--cache", "own")[1]
    assert json.loads(here("cache", "clear", "--older-than", "1", "--cache", "own", "--json")[1])["removed"] == 0
    assert f"{len(listed)} steps removed" in here("cache", "clear", "--cache", "own")[1]
    assert json.loads(here("cache", "size", "--cache", "own", "--json")[1])["entries"] == 0


def _report():
    def file(name, role, **more):
        metrics = (
            Metric("raw_bytes", "bytes", 123_456_789.0),
            Metric("deflated_bytes", "bytes", 98_765_432.0),
            Metric("accuracy", "share", 0.8774, "exercise", 1484, low=0.86, high=0.8931, interval="95 % Wilson"),
            Metric("accuracy_change", "points", -10.27, "exercise", 1484, low=-12.88, high=-9.34, interval="95 % bootstrap"),
            Metric("latency_p50", "ms", 123.4567, samples=99),
            Metric("latency_p99", "ms", 1234.567, samples=99),
            Metric("smaller", "x", 13.2),
            Metric("speedup", "x", 0.85),
        )
        return FileReport(
            name, role, "", "tflite", "0" * 64, engine="openvino", computed_in="dynamic int8", metrics=metrics, **more
        )

    files = file("a_model_with_a_rather_long_name.keras", "original"), file("a_model_with_a_rather_long_name_int8.tflite", "file")
    environment = {"machine": {"cpu": "Some Processor With a Name of Its Own @ 3.2 GHz"}}
    return CompressReport("m", "classification", "accuracy", files, environment=environment, max_drop=1.0, passed=False)


SHOW = """
from pathlib import Path
from test_compress_cli import _report
from edgewright.terminal_compress import print_compress
print_compress(_report(), [Path("report.html")])
"""


@pytest.mark.parametrize("columns", [80, 160])
def test_tables_fit_the_terminal(columns):
    from test_cli import on_terminal

    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}){SHOW}"
    said = on_terminal(columns, "-c", code)
    lines = [line.rstrip() for line in said.splitlines()]
    assert max(map(len, lines)) <= columns, said
    for figure in ("123,456,789", "87.74", "-10.27", "123", "13.2", "dynamic int8"):
        assert figure in said, figure


def test_help_of_the_module_loads_nothing_heavy():
    code = (
        "import sys; sys.argv = ['edgewright', 'compress', '--help']; from edgewright import cli\n"
        "try: cli.main()\nexcept SystemExit: pass\n"
        "print(sorted({'tensorflow', 'keras', 'sklearn', 'jinja2', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.strip() == "[]"
