"""Models that the runtime's tests share: y = x + 1 in every format."""

import importlib.util
from pathlib import Path

import pytest

from edgewright import testing


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files by format, and by format + "_free" with a free batch size; formats whose package is missing are left out."""
    folder = tmp_path_factory.mktemp("models")
    made = {}
    for format, suffix, package, write in (
        ("tflite", "tflite", "ai_edge_litert", testing.plus_one_tflite),
        ("onnx", "onnx", "onnx", testing.plus_one_onnx),
        ("openvino", "xml", "openvino", testing.plus_one_openvino),
    ):
        if importlib.util.find_spec(package):
            made[format] = write(folder / f"plus_one.{suffix}")
            made[f"{format}_free"] = write(folder / f"plus_one_free.{suffix}", batch=None)
    return made
