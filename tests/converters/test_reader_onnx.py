"""The ONNX reader against hand-computed figures and NumPy; models are made with onnx.helper."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh

from edgewright.artifact import TensorSpec
from edgewright.converters.readers import READERS
from edgewright.converters.readers.onnx import OnnxReader
from edgewright.errors import ModelError

RNG = np.random.default_rng(0)


def value(name, shape, kind=T.FLOAT):
    return h.make_tensor_value_info(name, kind, shape)


def const(name, array):
    return nh.from_array(np.asarray(array), name)


def model(nodes, inputs, outputs, constants=(), **options):
    graph = h.make_graph(nodes, "g", inputs, outputs, list(constants))
    return h.make_model(graph, opset_imports=[h.make_opsetid("", 21), *options.pop("opsets", [])], ir_version=10, **options)


def save(tmp_path, proto):
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString(deterministic=True))
    return path


@pytest.fixture
def cnn():
    """Conv (grouped), BatchNorm, ConvTranspose, Flatten, Gemm, MatMul; free batch."""
    w = {
        "w": RNG.normal(size=(8, 2, 3, 3)),
        "b": RNG.normal(size=8),
        "gamma": RNG.normal(size=8),
        "beta": RNG.normal(size=8),
        "mean": RNG.normal(size=8),
        "var": RNG.random(8) + 1,
        "wt": RNG.normal(size=(8, 3, 2, 2)),
        "wg": RNG.normal(size=(5, 192)),
        "bg": RNG.normal(size=5),
        "wm": np.where(RNG.random((5, 4)) < 0.5, 0, RNG.normal(size=(5, 4))),
    }
    nodes = [
        h.make_node("Conv", ["x", "w", "b"], ["c"], group=2, pads=[0, 0, 0, 0]),
        h.make_node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["n"]),
        h.make_node("ConvTranspose", ["n", "wt"], ["t"], strides=[2, 2]),
        h.make_node("Reshape", ["t", "shape"], ["f"]),
        h.make_node("Gemm", ["f", "wg", "bg"], ["g"], transB=1),
        h.make_node("MatMul", ["g", "wm"], ["y"]),
    ]
    constants = [const(k, v.astype(np.float32)) for k, v in w.items()] + [const("shape", np.array([-1, 192]))]
    return model(nodes, [value("x", ["N", 4, 6, 6])], [value("y", ["N", 4])], constants), w


def test_cnn(tmp_path, cnn):
    proto, w = cnn
    reader = OnnxReader(save(tmp_path, proto))
    found = reader.info()
    assert reader.specs() == ((TensorSpec("x", (None, 4, 6, 6), "float32"),), (TensorSpec("y", (None, 4), "float32"),))
    assert found.macs == 8 * 4 * 4 * 2 * 9 + 8 * 4 * 4 * 3 * 4 + 5 * 192 + 5 * 4
    assert found.macs_note == ""
    assert found.parameters == sum(w[k].size for k in w if k not in {"mean", "var"})
    assert found.ops == {"BatchNormalization": 1, "Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "Reshape": 1}
    axes = {weight.name: weight.channel_axis for weight in found.weights if len(weight.shape) > 1}
    assert axes == {"w": 0, "wt": 1, "wg": 0, "wm": 1}
    told = next(weight for weight in found.weights if weight.name == "wm")
    stored = w["wm"].astype(np.float32)
    assert told.sparsity == pytest.approx((stored == 0).mean())
    assert told.unique_per_channel == max(np.unique(column).size for column in stored.T)
    assert found.raw_bytes == (tmp_path / "m.onnx").stat().st_size


def test_it_is_registered_and_sniffs(tmp_path, cnn):
    assert READERS.get("onnx") is OnnxReader
    assert OnnxReader.sniff(save(tmp_path, cnn[0]))


def test_initializers_are_no_inputs_and_fixed_batches_are_divided_out(tmp_path):
    proto = model(
        [h.make_node("MatMul", ["x", "w"], ["y"])],
        [value("x", [4, 3]), value("w", [3, 2])],
        [value("y", [4, 2])],
        [const("w", np.ones((3, 2), np.float32))],
    )
    found = OnnxReader(save(tmp_path, proto)).info()
    assert [spec.name for spec in found.inputs] == ["x"]
    assert found.macs == 6
    assert "batch 4" in found.macs_note


def test_quantized_nodes(tmp_path):
    stored = RNG.integers(-8, 8, (6, 3, 1, 1)).astype(np.int8)
    zeros = RNG.integers(-8, 8, 6).astype(np.int8)
    nodes = [
        h.make_node("DequantizeLinear", ["x", "xs", "xz"], ["xf"]),
        h.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wf"], axis=0),
        h.make_node("DequantizeLinear", ["b", "bs", "bz"], ["bf"], axis=0),
        h.make_node("Conv", ["xf", "wf", "bf"], ["y"]),
    ]
    constants = [
        const("xs", np.float32(0.5)),
        const("xz", np.uint8(3)),
        const("w", stored),
        const("ws", np.ones(6, np.float32)),
        const("wz", zeros),
        const("b", np.arange(6, dtype=np.int32)),
        const("bs", np.ones(6, np.float32)),
        const("bz", np.zeros(6, np.int32)),
    ]
    proto = model(nodes, [value("x", [1, 3, 5, 5], T.UINT8)], [value("y", [1, 6, 5, 5])], constants)
    found = OnnxReader(save(tmp_path, proto)).info()
    assert found.inputs == (TensorSpec("x", (1, 3, 5, 5), "uint8", 0.5, 3),)
    assert found.parameters == 18 + 6
    assert found.macs == 6 * 25 * 3
    told = found.weights[0]
    assert (told.name, told.dtype, told.bits, told.channel_axis) == ("w", "int8", 8, 0)
    assert told.sparsity == pytest.approx((stored == zeros.reshape(6, 1, 1, 1)).mean())


def test_qlinear_and_integer_ops(tmp_path):
    scale, zero = const("s", np.float32(0.1)), const("z", np.int8(2))
    nodes = [
        h.make_node("QLinearConv", ["x", "s", "z", "w", "s", "z", "s", "z"], ["c"]),
        h.make_node("ConvInteger", ["c", "v"], ["i"]),
        h.make_node("Cast", ["i"], ["j"], to=T.INT8),
        h.make_node("QLinearMatMul", ["j", "s", "z", "m", "s", "z", "s", "z"], ["q"]),
        h.make_node("MatMulInteger", ["q", "m"], ["y"]),
    ]
    w, v, m = (RNG.integers(-5, 5, shape).astype(np.int8) for shape in [(4, 2, 3, 3), (3, 4, 1, 1), (4, 4)])
    proto = model(
        nodes,
        [value("x", [1, 2, 6, 6], T.INT8)],
        [value("y", [1, 3, 4, 4], T.INT32)],
        [scale, zero, const("w", w), const("v", v), const("m", m)],
    )
    found = OnnxReader(save(tmp_path, proto)).info()
    assert found.macs == 4 * 16 * 18 + 3 * 16 * 4 + 2 * (3 * 16 * 4)
    assert found.parameters == w.size + v.size + m.size
    assert found.weights[0].sparsity == pytest.approx((w == 2).mean())


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_layers(tmp_path, op, gates):
    hidden, features, steps = 5, 3, 7
    w = const("w", RNG.normal(size=(1, gates * hidden, features)).astype(np.float32))
    r = const("r", RNG.normal(size=(1, gates * hidden, hidden)).astype(np.float32))
    node = h.make_node(op, ["x", "w", "r"], ["y"], hidden_size=hidden)
    proto = model([node], [value("x", [steps, 1, features])], [value("y", [steps, 1, 1, hidden])], [w, r])
    found = OnnxReader(save(tmp_path, proto)).info()
    assert found.macs == steps * gates * hidden * (features + hidden)
    assert found.parameters == gates * hidden * (features + hidden)


def test_int4_bfloat16_and_constant_nodes(tmp_path):
    packed = h.make_tensor("w4", T.INT4, [2, 3], [1, -8, 7, 0, 0, 1])
    wide = h.make_tensor("wb", T.BFLOAT16, [3, 2], [1.0, 0.0, 2.0, 0.0, 0.0, -1.0])
    nodes = [
        h.make_node("Constant", [], ["wc"], value=const("", np.eye(2, dtype=np.float32))),
        h.make_node("DequantizeLinear", ["w4", "s"], ["wf"]),
        h.make_node("MatMul", ["x", "wf"], ["a"]),
        h.make_node("Cast", ["wb"], ["wbf"], to=T.FLOAT),
        h.make_node("MatMul", ["a", "wbf"], ["b"]),
        h.make_node("MatMul", ["b", "wc"], ["y"]),
    ]
    proto = model(nodes, [value("x", [1, 2])], [value("y", [1, 2])], [packed, wide, const("s", np.float32(0.1))])
    found = OnnxReader(save(tmp_path, proto)).info()
    by_name = {w.name: w for w in found.weights}
    assert (by_name["w4"].dtype, by_name["w4"].bits, by_name["w4"].unique) == ("int4", 4, 4)
    assert by_name["w4"].sparsity == pytest.approx(2 / 6)
    assert (by_name["wb"].dtype, by_name["wb"].bits, by_name["wb"].unique) == ("bfloat16", 16, 4)
    assert by_name["wc"].sparsity == 0.5
    assert found.macs == 2 * 3 + 3 * 2 + 2 * 2


def test_what_is_not_counted_is_said(tmp_path):
    nodes = [
        h.make_node("Einsum", ["x", "x"], ["e"], equation="ij,kj->ik"),
        h.make_node("Strange", ["e"], ["f"], domain="com.example"),
        h.make_node("Own", ["f"], ["y"], domain="mine"),
    ]
    own = h.make_function("mine", "Own", ["a"], ["b"], [h.make_node("Relu", ["a"], ["b"])], [h.make_opsetid("", 21)])
    opsets = [h.make_opsetid("com.example", 1), h.make_opsetid("mine", 1)]
    proto = model(nodes, [value("x", [1, 2])], [value("y", [1, 1])], functions=[own], opsets=opsets)
    found = OnnxReader(save(tmp_path, proto)).info()
    assert found.macs == 0
    assert "Einsum is not counted" in found.macs_note
    assert any("com.example.Strange" in note for note in found.notes)
    assert any("functions of the model's own: Own" in note for note in found.notes)


def test_loop_bodies_count_once(tmp_path):
    body = h.make_graph(
        [h.make_node("MatMul", ["state", "w"], ["next"]), h.make_node("Identity", ["go"], ["still"])],
        "body",
        [value("i", [], T.INT64), value("go", [], T.BOOL), value("state", [1, 3])],
        [value("still", [], T.BOOL), value("next", [1, 3])],
        [const("w", np.eye(3, dtype=np.float32))],
    )
    nodes = [h.make_node("Loop", ["n", "", "x"], ["y"], body=body)]
    proto = model(nodes, [value("x", [1, 3])], [value("y", [1, 3])], [const("n", np.int64(5))])
    found = OnnxReader(save(tmp_path, proto)).info()
    assert (found.macs, found.parameters) == (9, 9)
    assert "one iteration" in found.macs_note


def external(tmp_path, proto):
    path = tmp_path / "m.onnx"
    onnx.save_model(proto, path, save_as_external_data=True, location="m.bin", size_threshold=0, convert_attribute=False)
    return path, tmp_path / "m.bin"


def test_external_weights(tmp_path, cnn):
    inside = OnnxReader(save(tmp_path, cnn[0])).info()
    path, weights = external(tmp_path, cnn[0])
    found = OnnxReader(path).info()
    assert (found.weights, found.macs, found.parameters) == (inside.weights, inside.macs, inside.parameters)
    assert found.raw_bytes == path.stat().st_size + weights.stat().st_size
    content = weights.read_bytes()
    weights.write_bytes(content[:-8])
    with pytest.raises(ModelError, match=r"truncated or corrupt.*expects"):
        OnnxReader(path)
    weights.unlink()
    with pytest.raises(ModelError, match=r"keeps its weights in m\.bin, which is not beside it"):
        OnnxReader(path)


def test_external_weights_outside_of_the_folder_are_refused(tmp_path, cnn):
    path, _ = external(tmp_path, cnn[0])
    path.write_bytes(path.read_bytes().replace(b"m.bin", b"../xx"))
    with pytest.raises(ModelError, match="corrupt"):
        OnnxReader(path)


def test_what_is_no_valid_model(tmp_path, cnn):
    proto = onnx.ModelProto()
    proto.ir_version = 10
    with pytest.raises(ModelError, match="no graph"):
        OnnxReader(save(tmp_path, proto))
    proto = cnn[0]
    proto.graph.node[0].input[0] = "nowhere"
    with pytest.raises(ModelError, match="truncated or corrupt"):
        OnnxReader(save(tmp_path, proto))


def test_inputs_that_are_no_tensors_are_refused(tmp_path):
    sequence = h.make_tensor_sequence_value_info("x", T.FLOAT, [1])
    proto = model([h.make_node("SequenceLength", ["x"], ["y"])], [sequence], [value("y", [], T.INT64)])
    with pytest.raises(ModelError, match="sequence_type"):
        OnnxReader(save(tmp_path, proto))
