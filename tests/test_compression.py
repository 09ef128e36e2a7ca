"""Compress from end to end: files, their figures against scikit-learn's on the raw outputs, cache, receipts, failures."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import jsonschema
import numpy as np
import pytest
from sklearn import metrics as sk

from edgewright import compression, pipeline
from edgewright.artifact import Artifact, StepRecord, file_sha256
from edgewright.compression import compress, require_success
from edgewright.converters.writers import STRICT
from edgewright.errors import BudgetError, ConversionError, SamplesError, UnsupportedError, UsageError, VerificationError
from edgewright.optimizers.passes import PASSES
from edgewright.planning import Settings, Watch
from edgewright.preview import estimated
from edgewright.recipe import parse_recipe
from edgewright.step import Claim
from edgewright.summary import save_report

QUICK = Settings(bench_s=0.02, repeats=2)
UNMEASURED = Settings(bench=False)
SCHEMA = json.loads((Path(__file__).parents[1] / "docs" / "reference" / "report.schema.json").read_text())


class Seen(Watch):
    """Remembers which steps were done and which were in the cache."""

    def __init__(self):
        self.done, self.reused = [], []

    def end(self, step, seconds):
        (self.reused if step.reused else self.done).append(step.what)


def run(trained, name, out, **more):
    data = {"samples": trained / f"{name}_calib.npz", "evaluation": trained / f"{name}_test.npz"}
    return compress(trained / f"{name}.keras", out, **{"settings": UNMEASURED, **data, **more})


def raw_outputs(path, x):
    """What a file computes, by the engines' own interfaces, as real numbers."""
    if path.suffix == ".xml":
        import openvino as ov

        compiled = ov.Core().compile_model(str(path), "CPU")
        return np.concatenate([compiled([row[None]])[0].copy() for row in x])
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    taken, given = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    results = []
    for row in x:
        interpreter.set_tensor(taken["index"], row[None])
        interpreter.invoke()
        results.append(interpreter.get_tensor(given["index"]).copy())
    return np.concatenate(results)


def expected(name, x, y, found):
    """scikit-learn's figures."""
    if name == "classifier":
        top = found.argmax(axis=1)
        return {
            "accuracy": sk.accuracy_score(y, top),
            "top3_accuracy": sk.top_k_accuracy_score(y, found, k=3),
            "balanced_accuracy": sk.balanced_accuracy_score(y, top),
            "precision_macro": sk.precision_score(y, top, average="macro"),
            "recall_macro": sk.recall_score(y, top, average="macro"),
            "f1_macro": sk.f1_score(y, top, average="macro"),
            "roc_auc": sk.roc_auc_score(np.eye(4)[y], found, average="macro"),
        }
    if name == "regressor":
        return {
            "mae": sk.mean_absolute_error(y, found[:, 0]),
            "rmse": sk.root_mean_squared_error(y, found[:, 0]),
            "r2": sk.r2_score(y, found[:, 0]),
        }
    errors = np.square(x.astype(np.float64) - found).mean(axis=1)
    return {"roc_auc": sk.roc_auc_score(y, errors), "average_precision": sk.average_precision_score(y, errors)}


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("classifier", "classification"),
        *(pytest.param(*one, marks=pytest.mark.slow) for one in (("regressor", "regression"), ("autoencoder", "anomaly"))),
    ],
)
def test_figures_are_scikit_learns_on_the_raw_outputs(trained, tmp_path, name, task):
    report = run(trained, name, tmp_path, recipe=["int8", "float16"])
    assert report.task == task and not report.failed and not report.lost
    with np.load(trained / f"{name}_test.npz") as data:
        x, y = data[next(key for key in data if ":" not in key and key != "y")], data["y"]
    assert len(report.results) == 4
    for file in report.results:
        found = raw_outputs(tmp_path / file.name, x)
        for metric, value in expected(name, x, y, found).items():
            own = file.metric(metric)
            assert own.value == pytest.approx(value, rel=1e-6, abs=1e-9), (file.name, metric)
            assert own.low <= own.value <= own.high and own.samples == 400
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(json.dumps(report.to_json(), allow_nan=False)))


def test_the_original_is_the_yardstick(trained, tmp_path):
    """Changes, groups and flips are against Keras' own outputs, and add up."""
    report = run(trained, "classifier", tmp_path, to=["tflite"])
    (file,) = report.results
    original, change = report.original.metric("accuracy"), file.metric("accuracy_change")
    assert change.value == pytest.approx(100 * (file.metric("accuracy").value - original.value))
    assert change.low <= change.value <= change.high
    flips = file.flips
    assert flips.samples == 400
    assert (flips.fixed - flips.broken) / 4 == pytest.approx(change.value)
    classes = [group for group in file.groups if group.kind == "class"]
    assert sum(group.samples for group in classes) == 400 and sum(group.broken for group in classes) == flips.broken
    assert [group.change for group in classes] == sorted(group.change for group in classes)
    assert {group.value for group in file.groups if group.kind == "slice"} == {"even", "odd"}


def test_a_rerun_does_nothing_and_gives_the_same_bytes(trained, tmp_path, monkeypatch):
    first = run(trained, "classifier", tmp_path / "a", settings=QUICK)
    save_report(first, tmp_path / "a")
    monkeypatch.setattr(pipeline, "Worker", lambda limits: pytest.fail("a child was started"))
    seen = Seen()
    again = run(trained, "classifier", tmp_path / "b", settings=QUICK, watch=seen)
    save_report(again, tmp_path / "b")
    assert seen.done == [] and len(seen.reused) > 8
    files = {file.name for file in (tmp_path / "a").iterdir()}
    assert {"classifier_int8.tflite", "classifier_int8.xml", "classifier_int8.bin", "report.json", "report.csv"} <= files
    assert files == {file.name for file in (tmp_path / "b").iterdir()}
    for name in files - {"report.json", "report.md", "report.csv", "report.html"}:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert again.results[0].metric("latency_p50") == first.results[0].metric("latency_p50")


def test_what_is_asked_for_anew_is_done_anew(trained, tmp_path):
    """Another option, other samples or a file that was changed: only the steps that depend on it are done again."""
    own = {"cache": tmp_path / "cache"}
    run(trained, "classifier", tmp_path, **own)
    seen = Seen()
    run(trained, "classifier", tmp_path, overrides={"export": {"io": "int8"}}, watch=seen, **own)
    assert "write classifier_int8.tflite" in seen.done and "classifier.keras to float32 TFLite" in seen.reused
    (tmp_path / "classifier_int8.tflite").write_bytes(b"changed by hand")
    seen = Seen()
    report = run(trained, "classifier", tmp_path, watch=seen, **own)
    assert seen.done == []
    assert file_sha256(tmp_path / "classifier_int8.tflite") == report.results[0].sha256


def test_measured_here(trained, tmp_path):
    report = run(trained, "classifier", tmp_path, settings=QUICK)
    for file in report.files[1:]:
        p50, p99 = file.metric("latency_p50"), file.metric("latency_p99")
        assert 0 < p50.value <= p99.value and p50.unit == "ms" and p50.interval
        assert file.metric("peak_rss").value > file.metric("model_rss").value > 0
        assert sum(file.latency.counts) + file.latency.below + file.latency.above == p50.samples
    assert [file.engine for file in report.files if file.role == "baseline"] == ["litert", "openvino"]
    for file in report.results:
        base = next(one for one in report.files if one.role == "baseline" and one.engine == file.engine)
        ratio = base.metric("latency_p50").value / file.metric("latency_p50").value
        assert file.metric("speedup").value == pytest.approx(ratio, rel=0.3)
    assert report.original.metric("latency_p50").why_absent


def test_not_measured_means_no_speed_up(trained, tmp_path):
    report = run(trained, "classifier", tmp_path, to=["tflite"])
    assert report.results[0].metric("speedup").value is None
    assert "switched off" in report.results[0].metric("speedup").why_absent


def test_without_labels_outputs_are_compared(trained, tmp_path):
    report = compress(trained / "classifier.keras", tmp_path, recipe="float16", to=["tflite"], settings=UNMEASURED)
    (file,) = report.results
    assert report.task == "" and file.metric("accuracy") is None
    assert file.metric("sqnr").value > 40
    assert file.metric("top1_agreement").value is None and any("random inputs" in text for text in report.warnings)


def test_budget(trained, tmp_path):
    report = run(trained, "classifier", tmp_path, to=["tflite"], max_drop=100.0)
    assert report.passed is True
    require_success(report)
    change = report.results[0].metric("rmse_change") or report.results[0].metric("accuracy_change")
    strictest = replace(report, passed=False, failures=("accuracy is 3.00 points worse",))
    with pytest.raises(BudgetError, match=r"3\.00 points"):
        require_success(strictest)
    assert change is not None
    with pytest.raises(UsageError, match="--eval"):
        compress(trained / "classifier.keras", tmp_path, recipe="float16", max_drop=1.0)


def test_a_budget_that_int8_breaks(trained, tmp_path):
    """A regressor in int8 is a little worse: half of that change is too small a budget, twice is not."""
    report = run(trained, "regressor", tmp_path, to=["tflite"])
    drop = -report.results[0].metric("rmse_change").value
    assert drop > 0
    for share, passed in ((0.5, False), (2.0, True)):
        again = run(trained, "regressor", tmp_path, to=["tflite"], max_drop=share * drop)
        assert again.passed is passed
    with pytest.raises(BudgetError, match="regressor_int8"):
        require_success(run(trained, "regressor", tmp_path, to=["tflite"], max_drop=0.5 * drop))


def test_one_failure_keeps_the_other_files(trained, tmp_path, monkeypatch):
    make = compression.make_file

    def fails(run, export, samples):
        if export.target == "openvino":
            raise ConversionError("no such luck", hint="try again")
        return make(run, export, samples)

    monkeypatch.setattr(compression, "make_file", fails)
    report = run(trained, "classifier", tmp_path)
    assert [file.name for file in report.results] == ["classifier_int8.tflite"]
    assert report.failed == ("classifier_int8.xml: no such luck (try again)",)
    with pytest.raises(ConversionError, match="no such luck"):
        require_success(report)


def test_zeros_survive_to_the_file(trained, tmp_path):
    data = {"samples": trained / "classifier_calib.npz", "evaluation": trained / "classifier_test.npz"}
    report = compress(trained / "sparse.keras", tmp_path, settings=UNMEASURED, **data)
    for file in report.results:
        rows = {row.name: row for row in file.receipts[-1].tensors}
        hidden = rows["hidden/kernel"]
        assert hidden.sparsity == pytest.approx(0.75) and hidden.sparsity_now >= 0.75 and hidden.kept
        assert hidden.bits == 32 and hidden.bits_now == 8


@dataclass(frozen=True, slots=True)
class Options:
    """Of the passes below."""

    __pydantic_config__: ClassVar = STRICT

    claimed: float = 0.9


class Copies:
    """A pass that promises zeros and copies the model."""

    consumes, produces, Options = ("keras",), "keras", Options

    def __init__(self, options):
        self.options = options

    def needs_samples(self):
        return False

    def claims(self):
        return (Claim("sparsity", self.options.claimed, "hidden/kernel"),)

    def apply(self, model, ctx):
        shutil.copy(model.path, ctx.out)
        record = StepRecord("copies", {"claimed": self.options.claimed}, model.sha256)
        return Artifact.of(ctx.out, "keras", model.inputs, model.outputs, (*model.lineage, record))


@pytest.fixture
def copies(monkeypatch):
    """The pass, registered for one test."""
    monkeypatch.setitem(PASSES._classes, "copies", Copies)
    text = '[[steps]]\nstep = "copies"\n[[steps]]\nstep = "export"\nprecision = "int8"\n'
    return parse_recipe("copied", text, "copied.toml")


@pytest.mark.parametrize(("claimed", "kept"), [(0.9, False), (0.7, True)])
def test_a_promise_of_a_pass_is_checked_in_the_exported_file(trained, tmp_path, copies, claimed, kept):
    data = {"samples": trained / "classifier_calib.npz", "evaluation": trained / "classifier_test.npz"}
    overrides = {"copies": {"claimed": claimed}}
    report = compress(trained / "sparse.keras", tmp_path, recipe=copies, overrides=overrides, settings=UNMEASURED, **data)
    for file in report.results:
        steps = [receipt.step for receipt in file.receipts]
        assert steps == ["copies", "lower", f"export:{file.format}"]
        for receipt in file.receipts:
            promise = next(p for p in receipt.promises if p.step == "copies")
            assert promise.kept is kept and "75.0%" in promise.found
        assert any(record["step"] == "copies" for record in file.lineage)
    assert bool(report.lost) is not kept
    require_success(report)
    if not kept:
        with pytest.raises(VerificationError, match="--strict"):
            require_success(report, strict=True)


def test_dry_run_tells_the_steps_and_loads_no_tensorflow(trained, tmp_path):
    code = """
import json, sys
from edgewright.preview import estimated
from edgewright.planning import Settings
steps = estimated(sys.argv[1], sys.argv[2], recipe="int8", samples=sys.argv[3], evaluation=sys.argv[4])
print(json.dumps([steps, sorted({"tensorflow", "keras", "openvino", "nncf", "ai_edge_quantizer", "sklearn"} & set(sys.modules))]))
"""
    files = [trained / "classifier.keras", tmp_path, trained / "classifier_calib.npz", trained / "classifier_test.npz"]
    command = [sys.executable, "-c", code, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    steps, heavy = json.loads(done.stdout)
    assert heavy == [] and list(tmp_path.iterdir()) == []
    assert all(step["origin"] == "estimated" and step["seconds"] >= 0 for step in steps)
    assert "write classifier_int8.tflite" in [step["what"] for step in steps]


@pytest.mark.slow
def test_dry_run_names_what_the_run_does(trained, tmp_path):
    settings = replace(QUICK, seed=7)
    plan = {
        "recipe": ["int8", "float16"],
        "samples": trained / "classifier_calib.npz",
        "evaluation": trained / "classifier_test.npz",
    }
    before = estimated(trained / "classifier.keras", tmp_path, settings=settings, cache=tmp_path / "cache", **plan)
    assert not any(step["cached"] for step in before)
    seen = Seen()
    compress(trained / "classifier.keras", tmp_path / "out", settings=settings, cache=tmp_path / "cache", watch=seen, **plan)
    planned = {step["what"] for step in before}
    assert planned == {what for what in seen.done if not what.startswith("read back")}
    after = estimated(trained / "classifier.keras", tmp_path, settings=settings, cache=tmp_path / "cache", **plan)
    assert all(step["cached"] for step in after) and sum(step["seconds"] for step in after) == 0


def test_a_tflite_file_can_be_compressed(trained, tmp_path):
    run(trained, "classifier", tmp_path / "a", recipe="float16", to=["tflite"])
    from edgewright.conversion import convert

    plain = convert(trained / "classifier.keras", tmp_path / "plain.tflite").path
    data = {"samples": trained / "classifier_calib.npz", "evaluation": trained / "classifier_test.npz"}
    report = compress(plain, tmp_path / "b", settings=QUICK, **data)
    assert [file.role for file in report.files] == ["original", "baseline", "baseline", "file", "file"]
    assert report.original.engine == "litert" and report.results[0].metric("accuracy_change").value is not None
    with pytest.raises(UnsupportedError, match="takes a Keras model"):
        recipe = parse_recipe("mine", '[[steps]]\nstep = "copies"\n', "mine.toml")
        PASSES._classes["copies"] = Copies
        try:
            compress(plain, tmp_path / "c", recipe=recipe, **data)
        finally:
            del PASSES._classes["copies"]


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"recipe": "int8", "samples": None}, SamplesError, ("int8 needs samples", "--samples")),
        ({"recipe": ["int8", "int8"]}, UsageError, ("int8' is named twice",)),
        ({"recipe": []}, UsageError, ("no recipe",)),
        ({"recipe": "int16x8", "to": ["openvino"]}, UnsupportedError, ("int16x8 is not for openvino",)),
        ({"to": ["coreml"]}, Exception, ("coreml", "openvino, tflite")),
        ({"overrides": {"prune": {"sparsity": 0.5}}}, UsageError, ("prune.sparsity", "known: lower, export")),
        ({"overrides": {"export": {"precison": "int8"}}}, UsageError, ("precison", "did you mean precision")),
        ({"overrides": {"export": {"io": 8}}}, UsageError, ("'io' is 8",)),
        ({"overrides": {"lower": {"batch": 0}}}, UsageError, ("--batch 0",)),
        ({"recipe": "nosuch"}, UsageError, ("no recipe 'nosuch'",)),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_done(trained, tmp_path, changes, error, words):
    with pytest.raises(error) as caught:
        run(trained, "classifier", tmp_path / "out", **changes)
    for word in words:
        assert word in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_model_is_not_overwritten(trained, tmp_path):
    shutil.copy(trained / "classifier.keras", tmp_path / "m.keras")
    run_out = run(trained, "classifier", tmp_path / "out", recipe="float16", to=["tflite"])
    model = tmp_path / "out" / run_out.results[0].name
    twin = tmp_path / "out" / "classifier_float16_float16.tflite"
    model.rename(twin.with_name("classifier.tflite"))
    twin.with_name("classifier_float16.tflite").symlink_to(twin.with_name("classifier.tflite"))
    with pytest.raises(UsageError, match="is the model that is compressed"):
        compress(twin.with_name("classifier.tflite"), tmp_path / "out", recipe="float16", to=["tflite"], settings=UNMEASURED)
