"""The OpenVINO reader against hand-computed figures and NumPy, in a process without OpenVINO's telemetry."""

import json
import subprocess
import sys

import numpy as np
import pytest

from edgewright.artifact import TensorSpec
from edgewright.converters.readers import READERS
from edgewright.converters.readers.openvino import OpenVinoReader, _core
from edgewright.errors import ModelError, UnsupportedError

_core()  # imports OpenVINO without telemetry
import openvino as ov  # noqa: E402
from openvino import opset13 as o  # noqa: E402

RNG = np.random.default_rng(0)


def save(tmp_path, outputs, inputs, fp16=False, info=None):
    model = ov.Model(outputs, inputs, "m")
    for key, content in (info or {}).items():
        model.set_rt_info(json.dumps(content), ["edgewright", key])
    ov.save_model(model, tmp_path / "m.xml", compress_to_fp16=fp16)
    return tmp_path / "m.xml"


def named(node, *names):
    node.output(0).get_tensor().set_names(set(names))
    return node


def f32(*shape):
    return RNG.normal(size=shape).astype(np.float32)


@pytest.fixture
def cnn(tmp_path):
    x = named(o.parameter([-1, 4, 6, 6], np.float32, name="x"), "x")
    conv = o.convolution(x, w1 := f32(8, 4, 3, 3), [1, 1], [0, 0], [0, 0], [1, 1])
    group = o.group_convolution(conv, w2 := f32(8, 1, 1, 3, 3), [1, 1], [1, 1], [1, 1], [1, 1])
    back = o.convolution_backprop_data(group, w3 := f32(8, 3, 2, 2), [2, 2])
    flat = o.reshape(back, np.array([-1, 192]), False)
    y = named(o.add(o.matmul(flat, w4 := f32(5, 192), False, True), b := f32(1, 5)), "y", "probability")
    return save(tmp_path, [y], [x]), [w1, w2, w3, w4, b]


def test_cnn(cnn):
    path, weights = cnn
    reader = OpenVinoReader(path)
    found = reader.info()
    assert reader.specs() == ((TensorSpec("x", (None, 4, 6, 6), "float32"),), (TensorSpec("y", (None, 5), "float32"),))
    assert found.macs == 8 * 16 * 36 + 8 * 16 * 9 + 8 * 16 * 3 * 4 + 5 * 192
    assert found.macs_note == ""
    assert found.parameters == sum(w.size for w in weights)
    ops = {"Add": 1, "Convolution": 1, "ConvolutionBackpropData": 1, "GroupConvolution": 1, "MatMul": 1, "Reshape": 1}
    assert found.ops == ops
    axes = {weight.shape: weight.channel_axis for weight in found.weights if len(weight.shape) > 2}
    assert axes == {(8, 4, 3, 3): 0, (8, 1, 1, 3, 3): 0, (8, 3, 2, 2): 1}
    told = next(weight for weight in found.weights if weight.shape == (5, 192))
    assert (told.channel_axis, told.unique_per_channel) == (0, max(np.unique(row).size for row in weights[3]))
    assert found.raw_bytes == path.stat().st_size + path.with_suffix(".bin").stat().st_size


def test_it_is_registered_and_sniffs(cnn):
    assert READERS.get("openvino") is OpenVinoReader
    assert OpenVinoReader.sniff(cnn[0])
    assert not OpenVinoReader.sniff(cnn[0].with_suffix(".bin"))


def test_float16_weights_are_seen_behind_their_convert(tmp_path):
    x = o.parameter([1, 3], np.float32, name="x")
    w = np.where(RNG.random((4, 3)) < 0.4, 0, RNG.normal(size=(4, 3))).astype(np.float32)
    found = OpenVinoReader(save(tmp_path, [o.matmul(x, w, False, True)], [x], fp16=True)).info()
    (told,) = found.weights
    assert (told.dtype, told.bits, told.channel_axis) == ("float16", 16, 0)
    assert told.sparsity == pytest.approx((w == 0).mean())
    assert told.unique == np.unique(w.astype(np.float16)).size


@pytest.mark.parametrize("kind", ["i8", "u8", "i4", "u4"])
def test_compressed_weights_have_their_zero_point(tmp_path, kind):
    bits = int(kind[1])
    low = 0 if kind[0] == "u" else -(1 << bits - 1)
    stored = RNG.integers(low, low + (1 << min(bits, 4)), (6, 8))
    zeros = RNG.integers(low, low + 4, (6, 1))
    element = getattr(ov.Type, kind)
    x = o.parameter([1, 8], np.float32, name="x")
    w = o.convert(o.constant(stored, element), "f32")
    w = o.subtract(w, o.convert(o.constant(zeros, element), "f32"))
    w = o.multiply(w, o.constant(f32(6, 1)))
    found = OpenVinoReader(save(tmp_path, [o.matmul(x, w, False, True)], [x])).info()
    (told,) = found.weights
    name = {"i": "int", "u": "uint"}[kind[0]] + kind[1]
    assert (told.dtype, told.bits, told.shape, told.channel_axis) == (name, bits, (6, 8), 0)
    assert told.sparsity == pytest.approx((stored == zeros).mean())
    assert told.unique == np.unique(stored).size
    assert told.unique_per_channel == max(np.unique(row).size for row in stored)
    assert (found.parameters, found.macs) == (48, 48)


def test_fake_quantize_is_noted_and_its_ranges_are_no_parameters(tmp_path):
    x = o.parameter([1, 4], np.float32, name="x")
    w = o.fake_quantize(f32(3, 4), f32(3, 1), f32(3, 1) + 9, f32(3, 1), f32(3, 1) + 9, 255)
    found = OpenVinoReader(save(tmp_path, [o.matmul(x, w, False, True)], [x])).info()
    assert found.parameters == 12
    assert "1 FakeQuantize" in found.notes[0]


def test_recurrent_layers(tmp_path):
    steps, features, hidden = 7, 3, 5
    x = o.parameter([1, steps, features], np.float32, name="x")
    start = o.constant(np.zeros((1, 1, hidden), np.float32))
    length = o.constant(np.array([steps], np.int32))
    w, r, b = f32(1, 4 * hidden, features), f32(1, 4 * hidden, hidden), f32(1, 4 * hidden)
    y = o.lstm_sequence(x, start, start, length, w, r, b, hidden, "forward")
    found = OpenVinoReader(save(tmp_path, [y.output(0)], [x])).info()
    assert found.macs == steps * 4 * hidden * (features + hidden)


def test_names_and_scales_of_rt_info(tmp_path):
    x = named(o.parameter([1, 4], np.int8, name="x"), "serving:0", "imu")
    y = named(o.convert(x, "f32"), "bb", "aa", "longer")
    info = {"io": {"imu": {"scale": 0.25, "zero_point": -3}}}
    inputs, outputs = OpenVinoReader(save(tmp_path, [y], [x], info=info)).specs()
    assert inputs == (TensorSpec("imu", (1, 4), "int8", 0.25, -3),)
    assert outputs[0].name == "aa"
    info["names"] = {"inputs": ["serving:0"], "outputs": ["longer"]}
    inputs, outputs = OpenVinoReader(save(tmp_path, [y], [x], info=info)).specs()
    assert (inputs[0].name, outputs[0].name) == ("serving:0", "longer")


def test_a_fixed_batch_is_divided_out(tmp_path):
    x = o.parameter([4, 3], np.float32, name="x")
    found = OpenVinoReader(save(tmp_path, [o.matmul(x, f32(3, 2), False, False)], [x])).info()
    assert found.macs == 6
    assert "batch 4" in found.macs_note


def test_a_missing_or_short_bin_is_an_error(cnn):
    path, _ = cnn
    weights = path.with_suffix(".bin")
    content = weights.read_bytes()
    weights.write_bytes(content[:-1])
    with pytest.raises(ModelError, match=rf"m\.bin is truncated or corrupt: it has {len(content) - 1} bytes"):
        OpenVinoReader(path)
    weights.unlink()
    with pytest.raises(ModelError, match=r"m\.bin, which is not beside it"):
        OpenVinoReader(path)


def test_entities_are_refused_before_they_grow(tmp_path):
    entities = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
    path = tmp_path / "bomb.xml"
    path.write_text(f'<?xml version="1.0"?><!DOCTYPE net [<!ENTITY a0 "ha">{entities}]><net name="&a9;" version="11"/>')
    with pytest.raises(ModelError, match="document type declaration"):
        OpenVinoReader(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('<net name="m"', '<nut name="m"', "corrupt: XML"),
        ('offset="0"', 'offset="-5"', "negative"),
        ('size="1152"', 'size="1148"', "1152 bytes, 1148"),
        ('type="Const" version="opset1"', 'type="Const" version="theirs"', "'theirs', which is not OpenVINO's own"),
        ('type="Convolution"', 'type="Convulsion"', "corrupt"),
    ],
)
def test_damaged_xml(cnn, old, new, message):
    path, _ = cnn
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises((ModelError, UnsupportedError), match=message):
        OpenVinoReader(path)


def test_reading_opens_no_socket_and_writes_nothing_at_home(cnn, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    code = (
        "import socket, sys, pathlib\n"
        "def no(*a, **k): raise SystemExit('a socket was opened')\n"
        "socket.socket = no; socket.create_connection = no\n"
        "from edgewright.converters.readers.openvino import OpenVinoReader\n"
        f"print(OpenVinoReader(pathlib.Path({str(cnn[0])!r})).info().macs, 'openvino_telemetry' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"HOME": str(home), "PATH": ""},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1] == "False"
    assert list(home.rglob("*")) == []
