"""One small model in every format that is read, and what it holds."""

import subprocess
import sys
from pathlib import Path

import pytest

from edgewright import testing
from edgewright.artifact import TensorSpec
from edgewright.testing import ReaderCase

MAKE_KERAS = """
import os, sys
os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1", KERAS_HOME="/dev/null/x")
import keras
x = keras.Input((4,), name="x")
model = keras.Model(x, keras.layers.Dense(3, name="y")(x))
model.save(sys.argv[1])
model.export(sys.argv[2], verbose=False)
"""


def _specs(outputs: int, batch: int | None = 1) -> dict[str, tuple[TensorSpec, ...]]:
    return {
        "inputs": (TensorSpec("x", (batch, 4), "float32"),),
        "outputs": (TensorSpec("y", (batch, outputs), "float32"),),
    }


@pytest.fixture(scope="session")
def reader_cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ReaderCase]:
    folder = tmp_path_factory.mktemp("readers")
    paths = {
        "keras": folder / "dense.keras",
        "saved_model": folder / "exported",
        "tflite": testing.plus_one_tflite(folder / "plus_one.tflite"),
        "onnx": testing.plus_one_onnx(folder / "plus_one.onnx"),
        "openvino": testing.plus_one_openvino(folder / "plus_one.xml"),
    }
    made = subprocess.run(
        [sys.executable, "-c", MAKE_KERAS, paths["keras"], paths["saved_model"]], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr[-2000:]
    text, empty, void = folder / "text.txt", folder / "empty.tflite", folder / "void"
    text.write_text("not a model at all\n" * 10)
    empty.write_bytes(b"")
    void.mkdir()
    cases = {}
    for name, path in paths.items():
        others: tuple[Path, ...] = (*(other for key, other in paths.items() if key != name), text, empty, void)
        trained = name in {"keras", "saved_model"}
        specs = _specs(3, None) if trained else _specs(4)
        if name == "saved_model":
            specs["outputs"] = (TensorSpec("output_0", (None, 3), "float32"),)
        cases[name] = ReaderCase(name, path, parameters=15 if trained else 0, others=others, **specs)
    return cases
