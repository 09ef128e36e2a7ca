"""Passes from end to end: what they promise, read from the exported files by LiteRT and OpenVINO themselves."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edgewright.compression import compress, require_success
from edgewright.errors import EdgewrightError, UnsupportedError, UsageError
from edgewright.planning import Settings, Watch
from edgewright.recipe import parse_recipe

UNMEASURED = Settings(bench=False)


def recipe(*steps):
    """A recipe of (step, options as TOML) pairs, then int8."""
    parts = [f'[[steps]]\nstep = "{name}"\n{options}\n' for name, options in steps]
    return parse_recipe("mine", "".join(parts) + '[[steps]]\nstep = "export"\nprecision = "int8"\n', "mine.toml")


def run(trained, out, steps, model="classifier", **more):
    data = {"samples": trained / f"{model}_test.npz", "evaluation": trained / f"{model}_test.npz"}
    given = {"settings": UNMEASURED, **data, **more}
    return compress(trained / f"{model}.keras", out, recipe=recipe(*steps), **given)


def kernels(path):
    """Kernels of an int8 .tflite file as LiteRT tells them: int8 arrays, output channels first."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    found = []
    for detail in interpreter.get_tensor_details():
        if detail["dtype"] == np.int8 and len(detail["shape"]) == 2 and len(detail["quantization_parameters"]["scales"]) > 1:
            found.append(interpreter.get_tensor(detail["index"]).copy())
    return sorted(found, key=lambda values: -values.size)


def kernels_of_ir(path):
    """Kernels of an int8 IR as OpenVINO tells them."""
    import openvino as ov

    model = ov.Core().read_model(str(path))
    found = [node.get_data() for node in model.get_ordered_ops() if node.get_type_name() == "Constant"]
    return sorted((v for v in found if v.dtype == np.int8 and v.ndim == 2), key=lambda values: -values.size)


def test_pruned_is_exactly_zero_in_the_files(trained, tmp_path):
    report = run(trained, tmp_path, [("prune", "sparsity = 0.75\nepochs = 4\ninclude = ['hidden']")])
    hidden = kernels(tmp_path / "classifier_mine.tflite")[0]
    assert hidden.shape == (24, 12) and (hidden == 0).mean() == pytest.approx(0.75, abs=0.01)
    assert (kernels_of_ir(tmp_path / "classifier_mine.xml")[0] == 0).mean() >= 0.745
    require_success(report, strict=True)
    for file in report.results:
        (promise,) = [p for p in file.receipts[-1].promises if p.step == "prune"]
        assert promise.kept
        assert file.metric("accuracy_change").value > -20


@pytest.mark.slow
def test_two_of_four_along_the_inputs(trained, tmp_path):
    run(trained, tmp_path, [("prune", "pattern = '2:4'\nepochs = 2\ninclude = ['hidden']")], to=["tflite"])
    hidden = kernels(tmp_path / "classifier_mine.tflite")[0]
    assert ((hidden.reshape(24, 3, 4) != 0).sum(axis=2) <= 2).all() and (hidden == 0).mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.slow
def test_clusters_are_as_few_as_promised(trained, tmp_path):
    steps = [("cluster", "clusters = 6\nepochs = 2")]
    run(trained, tmp_path / "scaled", steps)
    for found in (
        kernels(tmp_path / "scaled" / "classifier_mine.tflite"),
        kernels_of_ir(tmp_path / "scaled" / "classifier_mine.xml"),
    ):
        assert len(np.unique(found[0])) <= 6
    report = run(trained, tmp_path / "tensor", [("cluster", "clusters = 6\nepochs = 2\nper = 'tensor'")], to=["tflite"])
    hidden = kernels(tmp_path / "tensor" / "classifier_mine.tflite")[0]
    assert max(len(np.unique(channel)) for channel in hidden) <= 6
    require_success(report, strict=True)
    assert all(p.kept for p in report.results[0].receipts[-1].promises) and report.results[0].receipts[0].promises


def test_what_earlier_steps_achieved_survives_training_and_export(trained, tmp_path):
    """PCQAT: zeros and clusters of the first two passes stand in the file that the third one trained."""
    steps = [
        ("prune", "sparsity = 0.7\nepochs = 3\ninclude = ['hidden']"),
        ("cluster", "clusters = 8\nepochs = 2\ninclude = ['hidden']"),
        ("qat", "epochs = 3"),
    ]
    report = run(trained, tmp_path, steps)
    require_success(report, strict=True)
    for found in (kernels(tmp_path / "classifier_mine.tflite"), kernels_of_ir(tmp_path / "classifier_mine.xml")):
        hidden = found[0]
        assert (hidden == 0).mean() == pytest.approx(0.7, abs=0.02)
        assert max(len(np.unique(channel)) for channel in hidden) <= 8
    assert len(np.unique(kernels(tmp_path / "classifier_mine.tflite")[0])) <= 8  # of the whole tensor even
    assert [receipt.step for receipt in report.results[0].receipts][:3] == ["prune", "cluster", "qat"]


def dtypes_by_op(path):
    """dtypes of inputs and outputs of every op of a .tflite file, as LiteRT tells them."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    kinds = {detail["index"]: np.dtype(detail["dtype"]).name for detail in interpreter.get_tensor_details()}
    ops = interpreter._get_ops_details()
    return [(op["op_name"], [kinds.get(i) for i in op["inputs"]], [kinds.get(i) for i in op["outputs"]]) for op in ops]


@pytest.mark.slow
def test_layers_kept_in_float_and_of_16_bits_are_so_in_the_file(trained, tmp_path):
    """What the pass left out of rounding the export leaves out too, and says so; what has 16 bits in one has in the other."""
    report = run(trained, tmp_path / "float", [("qat", "epochs = 1\nkeep_float = ['hidden']\npercentile = 99.9")])
    found = dtypes_by_op(tmp_path / "float" / "classifier_mine.tflite")
    assert ("FULLY_CONNECTED", ["float32"] * 3, ["float32"]) in found
    assert ("FULLY_CONNECTED", ["int8", "int8", "int32"], ["int8"]) in found
    require_success(report, strict=True)
    for file in report.results:
        assert any("as asked for, computed in float: hidden" in warning for warning in file.warnings), file.warnings
        (width,) = [p for p in file.receipts[-1].promises if p.what == "stored width of the kernels"]
        assert width.kept and width.found == "8 bits in 1 of 2, 32 bits in 1 of 2"
    run(trained, tmp_path / "wide", [("qat", "epochs = 1\nint16 = ['hidden']")], to=["tflite"])
    kinds = [found for found in dtypes_by_op(tmp_path / "wide" / "classifier_mine.tflite") if found[0] == "FULLY_CONNECTED"]
    assert [(inputs[0], outputs[0]) for _, inputs, outputs in kinds] == [("int16", "int16"), ("int8", "int8")]


@pytest.mark.slow
def test_an_own_function_trains_in_the_passes_place(trained, tmp_path, monkeypatch):
    code = """
import keras
def train(model, samples, ctx):
    assert len(samples) == 400 and ctx.what == "pruning" and len(ctx.targets) == len(model.outputs)
    model.compile("sgd", ctx.losses, jit_compile=False)
    model.fit(ctx.inputs, ctx.targets, epochs=ctx.options.epochs, callbacks=ctx.callbacks, verbose=0)
    open("trained", "w").write(ctx.what)
    return model
def forgets(model, samples, ctx):
    pass
"""
    (tmp_path / "mine_train.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    steps = [("prune", "sparsity = 0.5\nepochs = 2\ninclude = ['hidden']")]
    settings = Settings(bench=False, train="mine_train:train")
    report = run(trained, tmp_path / "out", steps, to=["tflite"], settings=settings)
    assert (tmp_path / "trained").read_text() == "pruning"
    assert (kernels(tmp_path / "out" / "classifier_mine.tflite")[0] == 0).mean() == pytest.approx(0.5, abs=0.01)
    assert not any("did not hand ctx.callbacks" in warning for warning in report.results[0].warnings)
    with pytest.raises(UsageError, match="forgets gave a NoneType"):
        run(trained, tmp_path / "out", steps, to=["tflite"], settings=Settings(bench=False, train="mine_train:forgets"))
    with pytest.raises(UsageError, match="no step of int8 trains"):
        compress(trained / "classifier.keras", tmp_path / "out", recipe="int8", settings=settings)


@pytest.mark.slow
def test_a_strategy_and_a_log_for_tensorboard(trained, tmp_path):
    """Mirrored over the devices that there are; losses on the samples and on those held back land in the log."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = tmp_path / "log"
    options = f"epochs = 2\npatience = 2\nstrategy = 'mirrored'\ntensorboard = '{log}'"
    report = run(trained, tmp_path / "out", [("prune", f"sparsity = 0.5\n{options}"), ("qat", options)], to=["tflite"])
    assert report.results[0].metric("accuracy_change").value > -10
    assert not report.lost
    for part in ("train", "validation"):
        events = EventAccumulator(str(log / part)).Reload()
        assert len(events.Tensors("epoch_loss")) == 4


def test_trained_ranges_are_those_of_the_file(trained, tmp_path):
    """The file computes what the fake-quantized Keras model computes, to one step of the output's scale."""
    code = """
import glob, json, os, sys
os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3")
import keras, numpy as np
import edgewright.keras_layers
from ai_edge_litert.interpreter import Interpreter
(path,) = glob.glob(sys.argv[1] + "/entries/*/*/regressor.keras")
model = keras.models.load_model(path)
x = np.load(sys.argv[2])["sensors"]
wanted = model.predict(x, verbose=0)
interpreter = Interpreter(sys.argv[3]); interpreter.allocate_tensors()
i, o = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
found = []
for row in x:
    interpreter.set_tensor(i["index"], row[None]); interpreter.invoke(); found.append(interpreter.get_tensor(o["index"]).copy())
step = (wanted.max() - wanted.min()) / 255
print(json.dumps([float(np.abs(np.concatenate(found) - wanted).max() / step), [layer.name for layer in model.layers]]))
"""
    cache = tmp_path / "cache"
    report = run(trained, tmp_path, [("qat", "epochs = 2")], model="regressor", to=["tflite"], cache=cache)
    arguments = [cache, trained / "regressor_test.npz", tmp_path / "regressor_mine.tflite"]
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    steps, layers = json.loads(done.stdout.splitlines()[-1])
    assert steps <= 1.1 and {"sensors_range", "dense_4_range"} & set(layers) and "level" in layers
    assert not report.lost


@pytest.mark.slow
def test_a_student_is_smaller_and_learns(trained, tmp_path):
    report = run(trained, tmp_path, [("distill", "width = 0.5\nepochs = 25")], to=["tflite"])
    (file,) = report.results
    assert file.metric("macs").value < 0.6 * report.original.metric("macs").value
    assert file.metric("accuracy").value > 0.5  # chance is 0.25
    assert any("the student has" in warning for warning in file.warnings)


@pytest.mark.slow
def test_without_labels_a_pass_learns_the_originals_outputs(trained, tmp_path):
    report = run(trained, tmp_path, [("qat", "epochs = 2")], to=["tflite"], samples=trained / "classifier_calib.npz")
    assert report.results[0].metric("top1_agreement").value > 0.9


@pytest.mark.slow
def test_the_same_run_gives_the_same_bytes(trained, tmp_path):
    steps = [("prune", "sparsity = 0.5\nepochs = 2"), ("qat", "epochs = 1")]
    found = [run(trained, tmp_path / n, steps, to=["tflite"], cache=tmp_path / f"cache{n}").results[0].sha256 for n in "ab"]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("steps", "error", "words"),
    [
        ([("prune", "include = ['nosuch']")], UnsupportedError, ("no layer", "hidden")),
        ([("cluster", "clusters = 1")], UsageError, ("clusters", "2 to 256")),
        ([("distill", "hints = ['a=b']\nepochs = 1")], UsageError, ("no layer 'a'", "hidden")),
        ([("distill", "student = 'none.keras'")], EdgewrightError, ("none.keras",)),
        ([("qat", "train = 'nosuch:train'")], UsageError, ("nosuch:train",)),
        ([("qat", "keep_float = ['nosuch']")], UsageError, ("keep_float", "nosuch", "hidden")),
        ([("prun", "")], UsageError, ("prun", "prune")),
    ],
)
def test_what_cannot_be_done_is_said(trained, tmp_path, steps, error, words):
    with pytest.raises(error) as caught:
        run(trained, tmp_path, steps, to=["tflite"])
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_subclassed_model_is_refused_with_the_reason(tmp_path):
    code = """
import os, sys
os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3")
import keras, numpy as np
x = keras.Input((4,), name="x")
keras.Model(x, keras.layers.Dense(2)(x)).export(sys.argv[1], verbose=False)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "saved")], check=True, capture_output=True, timeout=120)
    np.savez(tmp_path / "x.npz", x=np.zeros((8, 4), np.float32))
    with pytest.raises(UnsupportedError, match="takes a Keras model"):
        compress(
            tmp_path / "saved", tmp_path / "out", recipe=recipe(("qat", "")), samples=tmp_path / "x.npz", settings=UNMEASURED
        )
    assert not Path(tmp_path / "out").exists()


class Told(Watch):
    """Remembers what was told while a step went on."""

    def __init__(self):
        self.texts = []

    def progress(self, step, share, text):
        self.texts.append(text)


@pytest.mark.slow
def test_a_killed_training_goes_on_where_it_was(trained, tmp_path):
    (tmp_path / "long.toml").write_text('[[steps]]\nstep = "qat"\nepochs = 60\nbatch = 8\n')
    data = ("-s", trained / "classifier_test.npz", "--to", "tflite", "--no-bench", "--cache", tmp_path / "cache", "-o", tmp_path)
    command = [
        sys.executable,
        "-m",
        "edgewright.cli",
        "compress",
        trained / "classifier.keras",
        "-r",
        tmp_path / "long.toml",
        *data,
    ]
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE) as running:
        end = time.monotonic() + 120
        while not list((tmp_path / "cache" / "scratch").glob("*/*.h5.bkp")) and time.monotonic() < end and running.poll() is None:
            time.sleep(0.05)
        assert running.poll() is None, running.stderr.read().decode()
        running.kill()
    told = Told()
    compress(
        trained / "classifier.keras",
        tmp_path,
        recipe=str(tmp_path / "long.toml"),
        to=["tflite"],
        samples=trained / "classifier_test.npz",
        settings=UNMEASURED,
        cache=tmp_path / "cache",
        watch=told,
    )
    epochs = [int(found[1]) for text in told.texts if (found := re.search(r"epoch (\d+) of 60", text))]
    assert epochs and min(epochs) > 1 and max(epochs) == 60
    assert list((tmp_path / "cache" / "scratch").glob("*")) == []
