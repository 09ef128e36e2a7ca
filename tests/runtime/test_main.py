"""`python -m edgewright.runtime`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgewright.runtime import ENGINES
from edgewright.runtime.__main__ import main


def test_probe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == 1
    assert sorted(found["engines"]) == ENGINES.names()
    assert found["engines"]["litert"].startswith(("ai-edge-litert ", "tflite-runtime "))
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["architecture"]


def test_probe_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe"]) == 0
    assert "engines.litert: " in capsys.readouterr().out


@pytest.mark.parametrize("format", ["tflite", "onnx_free", "openvino"])
def test_selftest(models: dict[str, Path], format: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selftest", str(models[format]), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["results"] == {"y": {"shape": [1, 4], "dtype": "float32"}}
    assert found["inputs"][0]["name"] == "x"
    assert found["execution"]["precision"] == "float32"
    assert main(["selftest", str(models[format])]) == 0
    assert "results.y.shape: [1, 4]" in capsys.readouterr().out


def test_errors_have_a_hint_and_no_traceback(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "edgewright.runtime", "selftest", str(tmp_path / "gone.tflite"), "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [f"error: there is no model at {tmp_path / 'gone.tflite'}", "hint: check the path"]
