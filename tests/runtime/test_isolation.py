"""What a device needs: NumPy and one engine. Each test is a child process that records or blocks what it may not do."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

BLOCKED = """
import sys
sys.path.insert(0, sys.argv[1])
allowed = set(sys.stdlib_module_names) | {"numpy", "ai_edge_litert", "edgewright", "__mp_main__"}

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed:
            raise ModuleNotFoundError(f"blocked: {name}", name=name)

sys.meta_path.insert(0, Block())
import edgewright.runtime
assert "ai_edge_litert" not in sys.modules, "importing the package loads no engine"
import numpy as np
with edgewright.runtime.open_session(sys.argv[2]) as session:
    print(session.run({"x": np.zeros((1, 4), np.float32)})["y"].tolist())
heavy = {"tensorflow", "keras", "tf_keras", "torch", "onnx", "nncf", "openvino", "onnxruntime", "typer", "rich", "pydantic"}
print(sorted(heavy & {name.partition(".")[0] for name in sys.modules}))
"""

WATCHED = """
import sys
sys.path.insert(0, sys.argv[1])
home, broken = sys.argv[3], []

def watch(event, args):
    if event.startswith("socket.") and event not in ("socket.gethostname",):
        broken.append(f"{event} {args}")
    if event == "open" and isinstance(args[0], str) and args[0].startswith(home) and args[1] and set(args[1]) & set("wax+"):
        broken.append(f"write {args[0]}")
    if event in ("os.mkdir", "os.rename", "subprocess.Popen"):
        broken.append(f"{event} {args}")

sys.addaudithook(watch)
import numpy as np
from edgewright.runtime import open_session
with open_session(sys.argv[2]) as session:
    print(session.run({"x": np.zeros((1, 4), np.float32)})["y"].tolist())
print(broken, "openvino_telemetry" in sys.modules)
"""


def child(code: str, *args: object, env: dict[str, str] | None = None, python: str = sys.executable) -> str:
    done = subprocess.run(
        [python, "-c", code, *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, **(env or {})},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_numpy_and_one_engine_are_enough(models: dict[str, Path]) -> None:
    if "tflite" not in models:
        pytest.skip("ai-edge-litert is not installed")
    assert child(BLOCKED, ROOT, models["tflite"]).splitlines() == ["[[1.0, 1.0, 1.0, 1.0]]", "[]"]


@pytest.mark.parametrize("format", ["tflite", "openvino", "onnx"])
def test_engines_keep_to_themselves(models: dict[str, Path], format: str, tmp_path: Path) -> None:
    """No engine opens a socket, starts a process or writes below the home folder: OpenVINO's telemetry does all three."""
    if format not in models:
        pytest.skip(f"no package here writes {format}")
    home = {name: str(tmp_path) for name in ("HOME", "USERPROFILE", "LOCALAPPDATA", "XDG_CACHE_HOME")}
    # CI switches that telemetry off by itself.
    env = {**home, "CI": "", "TF_BUILD": "", "JENKINS_URL": ""}
    found = child(WATCHED, ROOT, models[format], tmp_path, env=env).splitlines()
    assert found == ["[[1.0, 1.0, 1.0, 1.0]]", "[] False"]
    assert list(tmp_path.rglob("*")) == []


def test_module_runs_without_the_cli(models: dict[str, Path]) -> None:
    """`python -m edgewright.runtime` loads neither typer nor rich nor an engine that it does not use."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from edgewright.runtime.__main__ import main; main(['probe', '--json']);"
        "assert not {'typer', 'rich', 'openvino', 'onnxruntime', 'ai_edge_litert'} & set(sys.modules)"
    )
    assert '"engines"' in child(code, ROOT)


@pytest.mark.slow
def test_old_runtime(models: dict[str, Path], tmp_path: Path) -> None:
    """tflite-runtime 2.14 takes over where ai-edge-litert is not installed."""
    if sys.version_info >= (3, 12):
        pytest.skip("tflite-runtime 2.14 has no wheel for this Python")
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "tflite-runtime==2.14.0", "numpy<2", "setuptools>=77"], check=True, timeout=300)
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", str(_source(tmp_path))], check=True, timeout=300)
    code = """
import sys, numpy as np
from edgewright.runtime import open_session
with open_session(sys.argv[1]) as session:
    print(session.version(), [str(spec) for spec in session.inputs])
    for batch in (1, 3):
        print(session.run({"x": np.zeros((batch, 4), np.float32)})["y"].tolist())
    print(session.execution.precision, session.clone().run({"x": np.ones((1, 4), np.float32)})["y"].tolist())
"""
    found = child(code, models["tflite_free"], python=python).splitlines()
    assert found[0] == "tflite-runtime 2.14.0 ['x: float32[?, 4]']"
    assert found[1:3] == [str([[1.0] * 4] * batch) for batch in (1, 3)]
    assert found[3].endswith("[[2.0, 2.0, 2.0, 2.0]]")
    said = subprocess.run([python, "-m", "edgewright.runtime", "probe", "--json"], capture_output=True, text=True, check=True)
    assert '"litert": "tflite-runtime 2.14.0"' in said.stdout


def _source(folder: Path) -> Path:
    """A copy of the source to build from: building in place would leave files in the repository."""
    import shutil

    copy = folder / "source"
    shutil.copytree(ROOT / "edgewright", copy / "edgewright", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, copy / name)
        else:
            (copy / name).write_text("placeholder\n")
    return copy
