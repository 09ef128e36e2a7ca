"""Who may import whom: the layers, and no training framework in what runs on a device."""

import ast
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "edgewright"
TRAINING = {"tensorflow", "keras", "tf_keras", "torch", "onnx", "nncf"}
ON_DEVICE = ("errors", "registry", "worker", "artifact", "preprocess", "labels", "tables", "report", "step")


def imports(source: str) -> set[str]:
    """Top packages that a module imports, also inside functions and through importlib with a literal name."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in {"import_module", "__import__"}:
                found.add(str(node.args[0].value).partition(".")[0])
    return found


def test_the_scan_finds_hidden_imports():
    hidden = (
        "def f():\n import keras.layers\n from torch import nn\n import_module('onnx.helper')\n importlib.import_module('nncf')\n"
    )
    assert imports(hidden) == {"keras", "torch", "onnx", "nncf"}


def test_what_runs_on_a_device_imports_no_training_framework():
    folders = [file for part in ("runtime", "devices", "benchmarks") for file in (PACKAGE / part).rglob("*.py")]
    files = folders + sorted(PACKAGE.glob("sample*.py")) + [PACKAGE / f"{name}.py" for name in ON_DEVICE]
    assert len(files) > 15
    guilty = {str(file.relative_to(ROOT)): found for file in files if (found := imports(file.read_text()) & TRAINING)}
    assert guilty == {}


def test_layers():
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(cache_dir=None))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, env={**os.environ, "COLUMNS": "200"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout
