"""The shipped example: sane data, and files that keep its accuracy."""

import itertools

import numpy as np
import pytest

from edgewright.conversion import Data
from edgewright.demo import FILES, VARIANTS, run_demo

PARTS = ("train", "valid", "calib", "test")


@pytest.fixture(scope="module")
def parts():
    loaded = {}
    for part in PARTS:
        with np.load(FILES / f"watch_{part}.npz", allow_pickle=False) as stored:
            loaded[part] = {name: stored[name] for name in stored.files}
    return loaded


def test_shipped_data_are_sane(parts):
    labels = FILES.joinpath("labels.txt").read_text().split()
    assert len(labels) == len(set(labels)) == 7
    for part, arrays in parts.items():
        imu, y = arrays["imu"], arrays["y"]
        assert imu.shape == (len(y), 100, 6) and imu.dtype == np.float32, part
        assert np.isfinite(imu).all() and imu.reshape(len(y), -1).std(axis=1).min() > 0, part
        assert set(np.unique(y)) == set(range(7)), part
    assert len(parts["test"]["y"]) > 1000 and len(parts["calib"]["y"]) >= 100


def test_people_are_in_one_part_only(parts):
    people = {part: set(parts[part]["slice:subject"].tolist()) for part in ("train", "valid", "test")}
    assert people["test"] == {8, 9, 10}
    assert all(not first & second for first, second in itertools.combinations(people.values(), 2))


def test_no_window_was_seen_before(parts):
    """Calibration windows may be training windows, and are; no window of the test stands anywhere else, nor do pieces."""
    windows = {part: {w.tobytes() for w in arrays["imu"]} for part, arrays in parts.items()}
    rows = {part: {w[t].tobytes() for w in arrays["imu"] for t in (0, 33, 66, 99)} for part, arrays in parts.items()}
    every_test_row = {row.tobytes() for window in parts["test"]["imu"] for row in window}
    for part in ("train", "valid", "calib"):
        assert not windows["test"] & windows[part], part
        assert len(rows[part] & every_test_row) <= len(rows[part]) // 1000, part
    assert not windows["train"] & windows["valid"]


def test_shipped_data_open_as_samples(parts, tmp_path):
    from edgewright.artifact import TensorSpec

    inputs = (TensorSpec("imu", (None, 100, 6), "float32"),)
    opened = Data(FILES / "watch_test.npz").spec(inputs, tmp_path).open(inputs)
    assert len(opened) == len(parts["test"]["y"])
    assert opened.class_names == tuple(FILES.joinpath("labels.txt").read_text().split())


@pytest.mark.slow
def test_demo_keeps_its_accuracy(parts, tmp_path):
    warnings = []
    rows = {(row.target, row.precision): row for row in run_demo(tmp_path, warn=warnings.append)}
    assert set(rows) == {("keras", "float32"), *VARIANTS}
    original = rows["keras", "float32"]
    assert original.accuracy > 0.85 and original.low < original.accuracy < original.high
    assert rows["tflite", "float32"].sqnr_db > 100 and rows["tflite", "float32"].accuracy == original.accuracy
    assert rows["tflite", "float16"].sqnr_db > 60
    for target in ("tflite", "openvino"):
        row = rows[target, "int8"]
        assert abs(row.accuracy - original.accuracy) <= 0.005
        assert row.sqnr_db > 30 and row.agreement >= 0.97
        assert row.deflated_bytes < 0.35 * rows["tflite", "float32"].deflated_bytes
    assert all(row.samples == len(parts["test"]["y"]) for row in rows.values())
    assert {path.name for path in tmp_path.iterdir()} >= {row.name for row in rows.values() if row.target != "keras"}
    assert [text for text in warnings if "Softmax" not in text] == []
