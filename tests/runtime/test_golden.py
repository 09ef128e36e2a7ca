"""Golden vectors: what is written is read, what differs is found and named, and the limits are what they say."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgewright.artifact import TensorSpec
from edgewright.errors import ArtifactError, VerificationError
from edgewright.runtime.golden import check_golden, compare, golden_path, make_golden, read_golden, require_golden
from edgewright.testing_models import plus_one_onnx, plus_one_openvino, plus_one_tflite, two_by_two_tflite

INT8 = TensorSpec("y", (1, 100), "int8", 0.1, 3)
FLOAT = TensorSpec("y", (1, 4), "float32")


@pytest.mark.parametrize(
    ("make", "name"), [(plus_one_tflite, "m.tflite"), (plus_one_onnx, "m.onnx"), (plus_one_openvino, "m.xml")]
)
def test_results_are_what_the_model_computes(tmp_path, make, name):
    model = make(tmp_path / name)
    golden = make_golden(model)
    golden.write(golden_path(model))
    found = read_golden(golden_path(model))
    assert len(found.feeds) == 8
    for feed, result in zip(found.feeds, found.results, strict=True):
        np.testing.assert_array_equal(result["y"], feed["x"] + np.float32(1))
    assert len({feed["x"].tobytes() for feed in found.feeds}) == 8
    report = check_golden(model, found)
    assert report["passed"]
    assert report["outputs"][0]["equal"] == 1.0
    require_golden(report, "here")


def test_same_model_gives_same_bytes_and_names_of_any_kind_come_back(tmp_path):
    model = two_by_two_tflite(tmp_path / "m.tflite")
    for name in ("a.npz", "b.npz"):
        make_golden(model).write(tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    golden = read_golden(tmp_path / "a.npz")
    renamed = dataclasses.replace(golden, feeds=tuple({"a/b:0;ü": feed["zeta"]} for feed in golden.feeds))
    renamed.write(tmp_path / "c.npz")
    again = read_golden(tmp_path / "c.npz")
    np.testing.assert_array_equal(again.feeds[3]["a/b:0;ü"], golden.feeds[3]["zeta"])
    assert list(again.results[0]) == ["sum", "product"]


def test_wrong_output_is_named_with_both_values(tmp_path):
    model = two_by_two_tflite(tmp_path / "m.tflite")
    golden = make_golden(model)
    results = [dict(result) for result in golden.results]
    wrong = results[5]["product"].copy()
    wrong[0, 2] += 7
    results[5]["product"] = wrong
    report = check_golden(model, dataclasses.replace(golden, results=tuple(results)))
    assert not report["passed"]
    assert [row["passed"] for row in report["outputs"]] == [True, False]
    with pytest.raises(VerificationError, match=r"output 'product' on pi .* in inference 5 at \[0, 2\]") as caught:
        require_golden(report, "pi")
    assert f"{golden.results[5]['product'][0, 2]:g} instead of {wrong[0, 2]:g}" in caught.value.message
    json.dumps(report, allow_nan=False)


def test_vectors_of_another_model_are_refused(tmp_path):
    golden = make_golden(plus_one_tflite(tmp_path / "a.tflite"))
    with pytest.raises(VerificationError, match="were made for a model with sha256"):
        check_golden(plus_one_tflite(tmp_path / "b.tflite", sample=(5,)), golden)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", None, "other"])
def test_what_is_no_golden_file_is_named(tmp_path, content):
    path = tmp_path / "g.npz"
    if content == "other":
        np.savez(path, x=np.ones(3))
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"g\.npz"):
        read_golden(path)


def test_pickled_arrays_are_not_loaded(tmp_path):
    np.savez(tmp_path / "g.npz", about=np.array([{"schema": 1}], dtype=object))
    with pytest.raises(ArtifactError, match="holds no golden vectors"):
        read_golden(tmp_path / "g.npz")


def rows(spec, reference, value, precision="int8"):
    return compare([spec], [{"y": reference}], [{"y": value}], precision)[0]


@pytest.mark.parametrize(
    ("steps", "passed"),
    [
        ([1] * 100, True),
        ([2] + [0] * 99, True),  # 99 % are within one step
        ([4] + [0] * 99, True),
        ([5] + [0] * 99, False),  # one value is too far off
        ([2, 2] + [0] * 98, False),  # 98 % are within one step
    ],
)
def test_limits_of_quantized_values(steps, passed):
    reference = np.zeros((1, 100), np.int8)
    row = rows(INT8, reference, reference + np.array([steps], np.int8))
    assert row["passed"] is passed
    assert row["difference"] == max(steps)


def test_difference_of_int8_does_not_wrap_around():
    reference, value = np.full((1, 100), -128, np.int8), np.full((1, 100), 127, np.int8)
    assert rows(INT8, reference, value)["difference"] == 255


@pytest.mark.parametrize(
    ("precision", "share", "passed"),
    [
        ("float32", 0.9e-3, True),
        ("float32", 1.1e-3, False),
        ("float16", 0.019, True),
        ("bf16", 0.04, True),
        ("bf16", 0.06, False),
    ],
)
def test_limits_of_floats_are_shares_of_the_largest_value(precision, share, passed):
    reference = np.array([[0.0, 1.0, -50.0, 2.0]], np.float32)
    value = reference + np.float32([[50 * share, 0, 0, 0]])
    assert rows(FLOAT, reference, value, precision)["passed"] is passed


def test_integers_that_stand_for_themselves_must_be_equal():
    spec = TensorSpec("y", (3,), "int64")
    reference = np.array([1, 2, 3])
    assert rows(spec, reference, reference)["passed"]
    assert not rows(spec, reference, np.array([1, 2, 4]))["passed"]


def test_nan_and_infinity_equal_themselves_only():
    reference = np.array([[np.nan, np.inf, -np.inf, 1.0]], np.float32)
    assert rows(FLOAT, reference, reference.copy())["passed"]
    for index, other in ((0, 0.0), (1, np.nan), (1, -np.inf), (3, np.nan), (3, np.inf)):
        value = reference.copy()
        value[0, index] = other
        row = rows(FLOAT, reference, value)
        assert not row["passed"]
        assert row["index"] == [0, index]
        json.dumps(row, allow_nan=False)


@pytest.mark.parametrize("value", [np.zeros((1, 3), np.float32), np.zeros((1, 4), np.float64), None])
def test_another_shape_dtype_or_none_is_refused(value):
    row = rows(FLOAT, np.zeros((1, 4), np.float32), value)
    assert not row["passed"]
    assert "instead of float32 of shape (1, 4)" in row["why"]


@given(
    arrays.arrays(np.int16, (1, 6), elements=st.integers(-32768, 32767)),
    arrays.arrays(np.int16, (1, 6), elements=st.integers(-32768, 32767)),
)
def test_largest_difference_is_that_of_plain_python(reference, value):
    spec = TensorSpec("y", (1, 6), "int16", 0.01, 0)
    row = rows(spec, reference, value)
    pairs = list(zip(reference.ravel().tolist(), value.ravel().tolist(), strict=True))
    differences = [abs(a - b) for a, b in pairs]
    assert row["difference"] == max(differences)
    assert (row["reference"], row["value"]) == pairs[row["index"][1]]
    assert row["passed"] == (max(differences) <= 128 and sum(d <= 16 for d in differences) / 6 >= 0.99)


def test_selftest_on_the_command_line_compares_and_its_exit_code_is_4(tmp_path):
    model = plus_one_tflite(tmp_path / "m.tflite")
    golden = make_golden(model)
    golden.write(golden_path(model))

    def selftest():
        words = ["-m", "edgewright.runtime", "selftest", model, "--golden", golden_path(model), "--json"]
        return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=120, check=False)

    done = selftest()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["golden"]["passed"]
    dataclasses.replace(golden, results=tuple({"y": result["y"] + 1} for result in golden.results)).write(golden_path(model))
    done = selftest()
    assert done.returncode == 4
    assert not json.loads(done.stdout)["golden"]["passed"]
    assert "error: output 'y' on" in done.stderr
    assert "Traceback" not in done.stderr


def test_random_model_is_refused(tmp_path, monkeypatch):
    from edgewright.runtime.engines.litert import LiteRtSession

    true = LiteRtSession._execute
    noise = iter(range(1000))

    def random(self, feeds):
        return {name: value + next(noise) for name, value in true(self, feeds).items()}

    monkeypatch.setattr(LiteRtSession, "_execute", random)
    with pytest.raises(VerificationError, match="gives another value for y when the same inputs are fed again"):
        make_golden(plus_one_tflite(tmp_path / "m.tflite"))
