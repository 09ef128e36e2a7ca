"""What the OpenVINO writer does to a model: float ops found, integer borders, steady names; NumPy is the oracle."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewright.artifact import TensorSpec
from edgewright.converters import openvino_file
from edgewright.converters.tflite_rewrite import affine
from edgewright.runtime.engines.openvino import import_openvino


@pytest.fixture(scope="module")
def ov():
    return import_openvino()


def named(value, name):
    value.output(0).set_names({name})
    return value


def quantized(ops, value, name):
    low, high = (np.array(v, np.float32) for v in (-2.0, 2.0))
    return named(ops.fake_quantize(value, low, high, low, high, 256), name)


def test_float_ops(ov):
    """Ops on values that are not quantized are named with their layer; products, biases and moves of quantized ones are not."""
    ops = ov.opset13
    x = named(ops.parameter([1, 4], np.float32, name="x"), "x")
    weights = quantized(ops, ops.constant(np.eye(4, dtype=np.float32)), "net/first/w")
    y = ops.matmul(quantized(ops, x, "net/first/q"), weights, False, False)
    y = named(ops.relu(ops.add(y, ops.constant(np.ones((1, 4), np.float32)))), "net/first_1/Relu")
    y = ops.reshape(quantized(ops, y, "net/first/out"), ops.constant(np.array([1, 4])), False)
    wave = named(ops.sin(y), "net/wave/Sin")
    fine = ops.multiply(quantized(ops, wave, "net/wave/q"), quantized(ops, y, "net/wave/r"))
    bad = named(ops.multiply(wave, y), "net/mixed/mul")
    end = named(ops.exp(bad), "net/last_2/Exp")
    model = ov.Model([fine, end], [x], "net")
    found = list(openvino_file.float_ops(model, ["first", "wave", "mixed", "last"]))
    assert found == [("Multiply", "net/mixed/mul", "mixed"), ("Exp", "net/last_2/Exp", "last")]


@settings(max_examples=25, deadline=None)
@given(
    st.floats(0.0009765625, 1000, width=32), st.floats(0, 1000, width=32), st.sampled_from(["int8", "uint8"]), st.integers(0, 99)
)
def test_integer_io(ov, below, above, io, seed):
    """Integers go in, (x - zero point) * scale is computed with, and round(y / scale) + zero point, clipped, comes out."""
    x_spec, y_spec = TensorSpec("a/x:0", (1, 6), "float32"), TensorSpec("größe", (1, 6), "float32")
    ops = ov.opset13
    x = named(ops.parameter([1, 6], np.float32, name="x"), "x")
    model = ov.Model([ops.multiply(x, ops.constant(np.float32(2)))], [x], "double")
    openvino_file._name(model, [x_spec.name], [y_spec.name])
    ranges = {x_spec.name: affine(-below, above, io), y_spec.name: affine(-below, above, io)}
    scales = {name: {"scale": scale, "zero_point": zero} for name, (scale, zero) in ranges.items()}
    built = openvino_file._integer_io(model, [x_spec], [y_spec], scales, io)
    assert built.inputs[0].get_names() == {x_spec.name} and built.outputs[0].get_names() == {y_spec.name}
    compiled = ov.compile_model(built, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    limits = np.iinfo(io)
    stored = np.random.default_rng(seed).integers(limits.min, limits.max + 1, (1, 6)).astype(io)
    scale, zero = ranges[x_spec.name]
    wanted = np.clip(np.rint((stored.astype(float) - zero) * 2) + zero, limits.min, limits.max)
    found = compiled([stored])[0]
    assert found.dtype == io
    assert np.abs(found.astype(int) - wanted).max() <= 1  # float32 rounds where float64 does not: one level at most
    assert scale > 0


def test_names_of_shared_tensors(ov):
    """A tensor that stands in two places has both names, an input that is a result keeps its own too."""
    ops = ov.opset13
    x = named(ops.parameter([1, 2], np.float32, name="x"), "old")
    y = named(ops.relu(x), "older")
    model = ov.Model([ops.result(y), ops.result(y), ops.result(x)], [x], "m")
    openvino_file._name(model, ["in"], ["one", "two", "through"])
    assert [port.get_names() for port in model.outputs] == [{"one", "two"}, {"one", "two"}, {"in", "through"}]
    assert model.inputs[0].get_names() == {"in", "through"}
