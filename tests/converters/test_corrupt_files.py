"""Damaged model files, by cutting and flipping at seeded places: each is read or refused, in time, and nothing crashes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgewright.converters.readers.openvino import _core

SCRIPT = Path(__file__).with_name("fuzz_reader.py")
CASES, TIMEOUT_S, SECONDS_EACH = 240, 240, 10.0


@pytest.fixture(scope="session")
def onnx_file(tmp_path_factory):
    import onnx
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(5)
    weights = {"w": rng.normal(size=(8, 3, 3, 3)), "b": rng.normal(size=8), "v": rng.normal(size=(5, 8))}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w", "b"], ["c"]),
            helper.make_node("GlobalAveragePool", ["c"], ["p"]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("Gemm", ["f", "v"], ["y"], transB=1),
        ],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    path = tmp_path_factory.mktemp("onnx") / "m.onnx"
    path.write_bytes(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)]).SerializeToString())
    return path


@pytest.fixture(scope="session")
def openvino_file(tmp_path_factory, tflite_files):
    _core()
    import openvino as ov

    path = tmp_path_factory.mktemp("ir") / "m.xml"
    ov.save_model(ov.Core().read_model(tflite_files / "cnn.tflite"), path)
    return path


def outcomes(reader, model, victim, seed, folder):
    """What came of each case: a list of (case, result, seconds); the last case is marked if the process died on it."""
    done = subprocess.run(
        [sys.executable, SCRIPT, reader, model, victim, str(seed), str(CASES), folder],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert lines, done.stderr[-2000:]
    assert done.returncode == 0, f"exit code {done.returncode} at {lines[-1]}: {done.stderr[-2000:]}"
    return [line for line in lines if "result" in line]


def check(found):
    assert len(found) == CASES
    assert [line for line in found if line["result"] not in {"ok", "refused"}] == []
    assert max(line["seconds"] for line in found) < SECONDS_EACH
    assert {line["result"] for line in found} == {"ok", "refused"}


@pytest.mark.parametrize("name", ["cnn_int8", "cnn_float16", "lstm", "two"])
def test_damaged_tflite(tflite_files, tmp_path, name):
    path = tmp_path / "source" / f"{name}.tflite"
    path.parent.mkdir()
    shutil.copy(tflite_files / path.name, path)
    check(outcomes("tflite", path, path, 11, tmp_path))


def test_damaged_onnx(onnx_file, tmp_path):
    check(outcomes("onnx", onnx_file, onnx_file, 12, tmp_path))


@pytest.mark.parametrize("suffix", [".xml", ".bin"])
def test_damaged_openvino(openvino_file, tmp_path, suffix):
    check(outcomes("openvino", openvino_file, openvino_file.with_suffix(suffix), 13, tmp_path))
