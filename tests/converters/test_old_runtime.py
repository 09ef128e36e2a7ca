"""--min-runtime: fully connected weights per tensor, and tflite-runtime 2.14 itself computes the right thing."""

import json
import subprocess
import sys
import venv

import numpy as np
import pytest
from convert_helpers import decoded, encoded, known, sqnr

from edgewright.conversion import convert
from edgewright.converters.tflite_parse import parse

CASES = [("float32", "float32"), ("float16", "float32"), ("dynamic", "float32"), ("int8", "int8"), ("int16x8", "float32")]

OLD = """
import sys
import numpy as np
from tflite_runtime.interpreter import Interpreter

interpreter = Interpreter(sys.argv[1])
run = interpreter.get_signature_runner()
with np.load(sys.argv[2]) as feeds:
    found = [run(**{name: feeds[name][at:at + 1] for name in feeds}) for at in range(len(feeds[feeds.files[0]]))]
np.savez(sys.argv[3], **{name: np.concatenate([one[name] for one in found]) for name in found[0]})
"""


def make(folder, out, precision, io, **options):
    feeds, wanted = known(folder, "two")
    source = folder / "two.tflite"
    return convert(source, out, precision=precision, io=io, samples=feeds, **options), feeds, wanted


@pytest.mark.parametrize("precision", ["dynamic", "int8", "int16x8"])
def test_weights_are_per_tensor(convert_files, tmp_path, precision):
    """One scale for each fully connected weight with --min-runtime, one for each row without; convolutions keep theirs."""
    counts = {}
    for runtime in (None, "tflite-2.14"):
        made, *_ = make(convert_files, tmp_path / "made", precision, "float32", min_runtime=runtime)
        graph = parse(made.path).graphs[0]
        counts[runtime] = {
            op.name: graph.tensors[op.inputs[1]].scales.size for op in graph.ops if op.name in {"FULLY_CONNECTED", "CONV_2D"}
        }
    assert counts["tflite-2.14"]["FULLY_CONNECTED"] == 1 and counts[None]["FULLY_CONNECTED"] > 1
    assert counts["tflite-2.14"]["CONV_2D"] == counts[None]["CONV_2D"] == 4


@pytest.mark.slow
def test_runs_in_tflite_2_14(convert_files, tmp_path):
    """Every precision loads and is as near to Keras there as any int8 weights are; what it would get wrong it refuses."""
    if sys.version_info >= (3, 12):
        pytest.skip("tflite-runtime 2.14 has no wheel for this Python")
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "tflite-runtime==2.14.0", "numpy<2"], check=True, timeout=300)
    found = {}
    for precision, io in CASES:
        made, feeds, wanted = make(convert_files, tmp_path / precision, precision, io, min_runtime="tflite-2.14")
        np.savez(tmp_path / "feeds.npz", **{spec.name: encoded(spec, feeds[spec.name]) for spec in made.inputs})
        command = [python, "-c", OLD, made.path, tmp_path / "feeds.npz", tmp_path / "found.npz"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        with np.load(tmp_path / "found.npz") as results:
            found[precision] = min(sqnr(wanted[s.name], decoded(s, results[s.name])) for s in made.outputs)
    made, *_ = make(convert_files, tmp_path / "new", "dynamic", "float32")
    done = subprocess.run(
        [python, "-c", OLD, made.path, tmp_path / "feeds.npz", tmp_path / "found.npz"], capture_output=True, check=False
    )
    assert done.returncode != 0 and b"FULLY_CONNECTED" in done.stderr and b"version" in done.stderr
    assert found["float32"] > 100 and found["float16"] > 55, json.dumps(found)
    assert min(found.values()) > 30, json.dumps(found)
