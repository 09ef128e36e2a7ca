"""What the OpenVINO writer does to a model: float ops found, integer borders, steady names; NumPy is the oracle."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewright.artifact import TensorSpec
from edgewright.converters import openvino_file, openvino_rounding
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
    found = list(openvino_rounding.float_ops(model, ["first", "wave", "mixed", "last"]))
    assert found == [("Multiply", "net/mixed/mul", "mixed"), ("Exp", "net/last_2/Exp", "last")]


def one_input(ops):
    """An input of images, float and quantized."""
    x = named(ops.parameter([1, 4, 4, 4], np.float32, name="x"), "x")
    return x, quantized(ops, x, "net/in/q")


def found_in(ov, x, *ends):
    return [(kind, tensor) for kind, tensor, _ in openvino_rounding.float_ops(ov.Model(list(ends), [x], "net"), [])]


CHOICES = {
    "MaxPool": lambda ops, x: ops.max_pool(x, [2, 2], [1, 1], [0, 0], [0, 0], [2, 2]).output(0).get_node(),
    "ReduceMax": lambda ops, x: ops.reduce_max(x, ops.constant(np.array([2, 3])), True),
    "ReduceMin": lambda ops, x: ops.reduce_min(x, ops.constant(np.array([2, 3])), True),
    "Maximum": lambda ops, x: ops.maximum(x, ops.constant(np.float32(0))),
    "Minimum": lambda ops, x: ops.minimum(x, ops.constant(np.float32(0))),
    "Interpolate": lambda ops, x: ops.interpolate(
        x, ops.constant(np.array([8, 8])), "nearest", "sizes", axes=ops.constant(np.array([2, 3]))
    ),
    "Relu": lambda ops, x: ops.relu(x),
    "Clamp": lambda ops, x: ops.clamp(x, 0.0, 6.0),
}


@pytest.mark.parametrize("kind", CHOICES)
def test_float_choices_and_clips(ov, kind):
    """An op that picks or clips real values is float where they are, at the input and behind a float op; else it is not."""
    ops = ov.opset13
    x, x8 = one_input(ops)
    fine = CHOICES[kind](ops, ops.transpose(x8, ops.constant(np.array([0, 1, 3, 2]))))
    first = named(CHOICES[kind](ops, x), "net/first")
    sine = named(ops.sin(x8 * ops.constant(np.float32(2))), "net/sine")
    behind = named(CHOICES[kind](ops, ops.transpose(sine, ops.constant(np.array([0, 1, 3, 2])))), "net/behind")
    found = found_in(ov, x, fine, first, behind)
    assert sorted(found) == sorted([("Sin", "net/sine"), (kind, "net/first"), (kind, "net/behind")])


@pytest.mark.parametrize("kind", ["Relu", "Clamp"])
def test_clips_within_the_op_before_them(ov, kind):
    """A clip is part of a product, of its bias and of the sum of a residual block, also where the product is float."""
    ops = ov.opset13
    x, x8 = one_input(ops)
    weights = ops.constant(np.eye(4, dtype=np.float32))
    bias = ops.constant(np.ones((1, 1, 1, 4), np.float32))
    w8 = quantized(ops, weights, "net/w")
    ends = [ops.matmul(x8, w8, False, False), ops.add(ops.matmul(x8, w8, False, False), bias)]
    ends.append(ops.add(x8, quantized(ops, ops.relu(ends[1]), "net/q")))
    ends.append(ops.add(named(ops.matmul(x, weights, False, False), "net/real"), bias))
    assert found_in(ov, x, *[CHOICES[kind](ops, end) for end in ends]) == [("MatMul", "net/real")]


@pytest.mark.parametrize("kind", ["Concat", "Maximum", "Minimum"])
def test_joins_of_quantized_and_float_values(ov, kind):
    """What joins values is quantized if all of them are, whatever their order, and so is what comes behind it."""
    ops = ov.opset13
    x, x8 = one_input(ops)
    sine = named(ops.sin(x), "net/sine")

    def join(*values):
        return ops.concat(list(values), 1) if kind == "Concat" else getattr(ops, kind.lower())(*values)

    fixed = ops.constant(np.ones((1, 4, 4, 4), np.float32))
    fine = [ops.exp(join(x8, ops.relu(x8))), ops.exp(join(fixed, x8))]
    bad = [named(join(*values), f"net/{end}") for end, values in (("left", (sine, x8)), ("right", (x8, sine)))]
    behind = [named(ops.exp(value), f"net/exp{index}") for index, value in enumerate(bad)]
    wanted = [("Sin", "net/sine"), (kind, "net/left"), (kind, "net/right"), ("Exp", "net/exp0"), ("Exp", "net/exp1")]
    assert sorted(found_in(ov, x, *fine, *behind)) == sorted(wanted)


def test_many_joins_of_joins(ov):
    """Each node is looked at once, though there are 2 ** 40 ways through these."""
    ops = ov.opset13
    x, x8 = one_input(ops)
    value = x8
    for _ in range(40):
        value = ops.maximum(value, ops.relu(value))
    assert found_in(ov, x, ops.exp(value)) == []


def squeeze_excite(ov):
    """A block as Keras writes it: means of channels, as maps of 1x1 through two convolutions, weigh the channels."""
    ops = ov.opset13
    rng = np.random.default_rng(0)

    def conv(x, channels, out, size, name):
        weights = ops.constant(rng.standard_normal((out, channels, size, size)).astype(np.float32))
        y = ops.convolution(x, weights, [1, 1], [0, 0], [0, 0], [1, 1])
        y.set_friendly_name(name)
        return ops.add(y, ops.constant(rng.standard_normal((1, out, 1, 1)).astype(np.float32)))

    x = ops.parameter(ov.PartialShape([-1, 3, 8, 8]), np.float32, name="x")
    y = ops.relu(conv(x, 3, 32, 3, "stem"))
    means = ops.reshape(ops.reduce_mean(y, ops.constant(np.array([2, 3])), False), ops.constant(np.array([-1, 1, 1, 32])), False)
    small = ops.transpose(means, ops.constant(np.array([0, 3, 1, 2])))
    small = ops.sigmoid(conv(ops.relu(conv(small, 32, 8, 1, "reduce")), 8, 32, 1, "expand"))
    return ov.Model([conv(ops.multiply(y, small), 32, 16, 1, "project")], [x], "squeeze_excite")


def weight_types(model):
    """Whether the constant behind each convolution's weights is of integers, by the convolution's name."""
    found = {}
    for op in model.get_ordered_ops():
        if op.get_type_name() == "Convolution":
            node = op.input_value(1).get_node()
            while node.inputs():
                node = node.input_value(0).get_node()
            found[op.get_friendly_name()] = node.get_element_type().is_integral()
    return found


def test_narrowed_weights_keep_what_is_equal(ov):
    """7 bits, the same values within half a step, equal ones equal; depthwise kernels as they are."""
    ops, rng = ov.opset13, np.random.default_rng(0)

    def kernel(*shape):
        values = rng.choice(np.array([-127, -85, -31, 0, 1, 63, 127], np.int8), shape)
        scale = rng.uniform(0.1, 1.0, (shape[0], *(1 for _ in shape[1:]))).astype(np.float32)
        return values, scale, ops.multiply(ops.convert(ops.constant(values), np.float32), ops.constant(scale))

    made = [kernel(6, 4, 3, 3), kernel(6, 1, 1, 3, 3), kernel(5, 54)]
    x = ops.parameter([1, 4, 5, 5], np.float32, name="x")
    y = ops.convolution(x, made[0][2], [1, 1], [0, 0], [0, 0], [1, 1])
    y = ops.group_convolution(y, made[1][2], [1, 1], [1, 1], [1, 1], [1, 1])
    y = ops.matmul(ops.reshape(y, np.array([-1, 54]), False), ops.reshape(made[2][2], np.array([5, 54]), False), False, True)
    model = ov.Model([y], [x], "net")
    # a kernel behind a reshape is none of a form that this knows: it stays
    narrow = openvino_rounding.narrowed(model)
    found = [op.get_data() for op in narrow.get_ordered_ops() if op.get_type_name() == "Constant" and op.get_output_size() == 1]
    whole = {values.shape: values for values in found if values.dtype == np.int8}
    scales = {values.shape: values for values in found if values.dtype == np.float32}
    old, scale = made[0][:2]
    new = whole[old.shape]
    np.testing.assert_allclose(scales[scale.shape], 2 * scale, rtol=1e-6)
    assert np.abs(new).max() <= 64 and np.abs(2.0 * new - old).max() <= 1
    assert len({(a, b) for a, b in zip(old.ravel(), new.ravel(), strict=True)}) == len(np.unique(old))
    for values, _, _ in made[1:]:
        np.testing.assert_array_equal(whole[values.shape], values)


@pytest.mark.parametrize("fails", [True, False])
def test_weights_that_the_plugin_cannot_compile_stay_float(ov, monkeypatch, fails):
    """OpenVINO 2026.4.1 cannot compile convolutions on 1x1 maps of a free batch with int8 weights: they stay float.

    Once more with the failure made up, for releases that can.
    """
    model, notes = squeeze_excite(ov), []
    if fails:
        answers = iter([False])
        monkeypatch.setattr(openvino_file, "_compiles", lambda model: next(answers, True))
    elif openvino_file._compiles(compressed_whole(model)):
        pytest.skip("this release compiles the model")
    result = openvino_file._weights_only(model, notes)
    assert len(notes) == 1 and notes[0].startswith("2 convolutions on maps of 1x1 keep float32 weights")
    assert weight_types(result) == {"stem": True, "reduce": False, "expand": False, "project": True}
    x = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
    wanted, found = (openvino_file._run(each, [[x]]) for each in (model, result))
    assert openvino_file._noise(wanted, found) < 1e-3


def compressed_whole(model):
    import nncf

    return nncf.compress_weights(model.clone(), mode=nncf.CompressWeightsMode.INT8_SYM)


def test_notes_of_the_writer_are_warnings(tmp_path, monkeypatch):
    """What stays float for the plug-in's sake reaches the caller."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    ports = [helper.make_tensor_value_info(name, kind, [1, 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ports[:1], ports[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "m.onnx")
    monkeypatch.setattr(openvino_file, "_weights_only", lambda model, notes: notes.append("some stay float") or model)
    written = openvino_file.write_ir(
        str(tmp_path / "m.onnx"), str(tmp_path / "m.xml"), precision="dynamic", io="float32", samples=None, metadata={}
    )
    assert written["warnings"] == ["some stay float"]


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
