"""Signature, metadata and float ops of .tflite files, checked by LiteRT and by the schema's own object API."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as S
from ai_edge_litert.interpreter import Interpreter

from edgewright.converters.readers.tflite import TfliteReader
from edgewright.converters.tflite_file import float_ops, layer_of, op_name, read_metadata, set_signature
from edgewright.errors import ModelError, UnsupportedError, UsageError

BUILTIN = {name: code for name, code in vars(S.BuiltinOperator).items() if not name.startswith("_")}


def run(content, feeds):
    """Outputs in the graph's order, of feeds in the graph's order."""
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    for detail, value in zip(interpreter.get_input_details(), feeds, strict=True):
        interpreter.set_tensor(detail["index"], value)
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def tree(content):
    return S.ModelT.InitFromObj(S.Model.GetRootAs(content))


def plain(value):
    """An object tree as comparable values."""
    if hasattr(value, "__dict__"):
        return {name: plain(part) for name, part in vars(value).items()}
    if isinstance(value, list):
        return [plain(part) for part in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


@pytest.fixture
def two(tflite_files):
    return (tflite_files / "two.tflite").read_bytes()


def test_signature_runner_uses_the_names_and_results_stay(two):
    rng = np.random.default_rng(0)
    feeds = [rng.normal(size=(1, 8)).astype(np.float32), rng.normal(size=(1, 4, 4, 3)).astype(np.float32)]
    signed = set_signature(two, ["zeta", "alpha"], ["aa", "zz"], b'{"v":1}')
    before, after = run(two, feeds), run(signed, feeds)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)
    interpreter = Interpreter(model_content=signed)
    assert interpreter.get_signature_list() == {"serving_default": {"inputs": ["alpha", "zeta"], "outputs": ["aa", "zz"]}}
    found = interpreter.get_signature_runner("serving_default")(zeta=feeds[0], alpha=feeds[1])
    np.testing.assert_array_equal(found["aa"], before[0])
    np.testing.assert_array_equal(found["zz"], before[1])
    assert [d["name"] for d in interpreter.get_input_details()] == ["zeta", "alpha"]
    assert [d["name"] for d in interpreter.get_output_details()] == ["aa", "zz"]


def test_nothing_else_changes(two):
    before, after = tree(two), tree(set_signature(two, ["a", "b"], ["c", "d"], b"{}"))
    assert after.metadata[-1].name == b"edgewright"
    assert bytes(after.buffers[after.metadata[-1].buffer].data) == b"{}"
    after.metadata.pop()
    after.buffers.pop()
    after.signatureDefs = before.signatureDefs
    graph = before.subgraphs[0]
    for index in (*graph.inputs, *graph.outputs):
        after.subgraphs[0].tensors[index].name = graph.tensors[index].name
    assert plain(after) == plain(before)


@pytest.mark.parametrize("name", ["cnn", "cnn_int8", "lstm", "cnn_float16"])
def test_it_is_deterministic_idempotent_and_aligned(tflite_files, name):
    path = tflite_files / f"{name}.tflite"
    signed = set_signature(path, ["in"], ["out"], b'{"a": [1, 2]}')
    assert signed == set_signature(path, ["in"], ["out"], b'{"a": [1, 2]}')
    assert signed == set_signature(signed, ["in"], ["out"], b'{"a": [1, 2]}')
    assert signed == set_signature(signed, ["in"], ["out"])
    model = S.Model.GetRootAs(signed)
    start = np.frombuffer(signed, np.uint8).__array_interface__["data"][0]
    for index in range(model.BuffersLength()):
        data = model.Buffers(index).DataAsNumpy()
        if isinstance(data, np.ndarray) and data.size:
            assert (data.__array_interface__["data"][0] - start) % 16 == 0
    feed = np.random.default_rng(4).normal(0, 20, Interpreter(model_content=signed).get_input_details()[0]["shape"])
    feed = feed.astype(np.int8 if name == "cnn_int8" else np.float32)
    np.testing.assert_array_equal(run(path.read_bytes(), [feed])[0], run(signed, [feed])[0])


def test_metadata_is_replaced_kept_and_read(tflite_files, tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes((tflite_files / "dense.tflite").read_bytes())
    assert read_metadata(path) is None
    path.write_bytes(set_signature(path, ["x"], ["y"], b'{"v": 1}'))
    assert read_metadata(path) == {"v": 1}
    path.write_bytes(set_signature(path, ["x"], ["y"]))
    assert read_metadata(path) == {"v": 1}
    path.write_bytes(set_signature(path, ["x"], ["y"], b'{"v": 22}'))
    assert read_metadata(path) == {"v": 22}
    assert len([m for m in tree(path.read_bytes()).metadata if m.name == b"edgewright"]) == 1
    path.write_bytes(set_signature(path, ["x"], ["y"], b"[1]"))
    with pytest.raises(ModelError, match="list, not a JSON object"):
        read_metadata(path)


def test_a_tensor_that_goes_in_and_out_and_names_that_are_taken(build_tflite, tmp_path):
    tensors = [(name, (1, 3), "FLOAT32", None) for name in ("a", "mid", "b")]
    ops = [("RELU", [0], [1]), ("NEG", [1], [2])]
    signed = set_signature(build_tflite(tensors, ops, [0], [0, 2, 2]), ["x"], ["same", "mid", "again"])
    assert [t.name for t in tree(signed).subgraphs[0].tensors] == [b"x", b"mid_tensor1", b"mid"]
    interpreter = Interpreter(model_content=signed)
    assert interpreter.get_signature_list() == {"serving_default": {"inputs": ["x"], "outputs": ["again", "mid", "same"]}}
    feed = np.array([[1, -2, 3]], np.float32)
    found = interpreter.get_signature_runner()(x=feed)
    np.testing.assert_array_equal(found["same"], feed)
    np.testing.assert_array_equal(found["mid"], -np.maximum(feed, 0))
    np.testing.assert_array_equal(found["again"], found["mid"])
    path = tmp_path / "x.tflite"
    path.write_bytes(signed)
    assert [spec.name for spec in TfliteReader(path).specs()[1]] == ["same", "mid", "again"]


def test_an_input_and_an_output_of_one_name(tflite_files):
    signed = set_signature(tflite_files / "dense.tflite", ["x"], ["x"])
    found = Interpreter(model_content=signed).get_signature_runner()(x=np.ones((1, 8), np.float32))
    assert found["x"].shape == (1, 4)
    names = [t.name for t in tree(signed).subgraphs[0].tensors]
    assert len(set(names)) == len(names)


def test_weights_behind_the_flatbuffer_move_into_it(tflite_files):
    content = (tflite_files / "dense.tflite").read_bytes()
    model = tree(content)
    inside = [None if b.data is None else bytes(b.data) for b in model.buffers]
    at = max(range(len(inside)), key=lambda i: len(inside[i] or b""))
    moved, model.buffers[at].data = inside[at], None
    import flatbuffers

    def pack(offset):
        model.buffers[at].offset, model.buffers[at].size = offset, len(moved)
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    size = -(-len(pack(16)) // 16) * 16
    outside = pack(size).ljust(size, b"\0") + moved
    feed = np.arange(8, dtype=np.float32)[None]
    expected = run(content, [feed])[0]
    np.testing.assert_array_equal(run(outside, [feed])[0], expected)
    signed = set_signature(outside, ["x"], ["y"])
    np.testing.assert_array_equal(run(signed, [feed])[0], expected)
    assert bytes(tree(signed).buffers[at].data) == moved


def test_wrong_names_and_several_signatures_are_refused(tflite_files, two):
    with pytest.raises(UsageError, match="2 inputs, 1 names"):
        set_signature(two, ["a"], ["b", "c"])
    with pytest.raises(UsageError, match="unique"):
        set_signature(two, ["a", "a"], ["b", "c"])
    with pytest.raises(UnsupportedError, match="double, triple"):
        set_signature(tflite_files / "signatures.tflite", ["x"], ["y"])
    with pytest.raises(ModelError, match="corrupt"):
        set_signature(two[:2000], ["a", "b"], ["c", "d"])


def test_float_ops_of_an_int8_file_are_those_between_dequantize_and_quantize(build_tflite, tmp_path, tflite_files):
    assert float_ops(tflite_files / "cnn_int8.tflite") == []
    tensors = [
        ("x", (1, 3), "INT8", None, [0.1], [0]),
        ("net_1/soft_1/x_float", (1, 3), "FLOAT32", None),
        ("net_1/soft_1/Exp", (1, 3), "FLOAT32", None),
        ("net_1/flat_1/Reshape", (1, 3), "FLOAT32", None),
        ("shape", (2,), "INT32", np.array([1, 3], np.int32).tobytes()),
        ("y", (1, 3), "INT8", None, [0.1], [0]),
        ("z", (1, 3), "INT8", None, [0.1], [0]),
    ]
    ops = [
        ("DEQUANTIZE", [0], [1]),
        ("EXP", [1], [2]),
        ("RESHAPE", [2, 4], [3]),
        ("QUANTIZE", [3], [5]),
        ("ABS", [5], [6]),
    ]
    path = tmp_path / "x.tflite"
    path.write_bytes(build_tflite(tensors, ops, [0], [6]))
    (found,) = float_ops(path)
    assert (found.op, found.tensor_name, found.layer) == ("EXP", "net_1/soft_1/Exp", "soft_1")
    assert float_ops(path, ["soft"])[0].layer == "soft"


def test_float_ops_of_a_float_file_are_all_that_compute(tflite_files):
    assert [op.op for op in float_ops(tflite_files / "cnn_float16.tflite")] == [
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "CONV_2D",
        "TRANSPOSE_CONV",
        "MEAN",
        "FULLY_CONNECTED",
        "SOFTMAX",
    ]
    assert {op.layer for op in float_ops(tflite_files / "lstm.tflite", ["rnn", "cls"])} == {"rnn", ""}


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("functional_1/conv2d_1/Relu;functional_1/conv2d_1/BiasAdd;functional_1/conv2d_1/convolution", "conv2d_1"),
        ("model/dense/MatMul", "dense"),
        ("dense/MatMul", "dense"),
        ("model/block/conv/Relu6", "block/conv"),
        ("StatefulPartitionedCall/model/dense/BiasAdd", "dense"),
        ("StatefulPartitionedCall_1:0", ""),
        ("serving_default_x:0", ""),
        ("Identity", ""),
        ("", ""),
        ("functional_5_1/conv1d_1/convolution/ExpandDims1", "conv1d_1"),
        ("functional_5_1/batch_normalization_1/batchnorm/mul_1", "batch_normalization_1"),
        ("functional_2_1/multi_head_attention_1/query_1/MatMul1", "multi_head_attention_1/query_1"),
        ("functional_2_1/multi_head_attention_1/einsum_1/Einsum2", "multi_head_attention_1"),
        ("functional_1/lstm_1/while/lstm_cell_1/MatMul_11", "lstm_1"),
        ("functional_1/lstm_1/while", "lstm_1"),
        ("functional_1/dense_1/Tensordot/MatMul", "dense_1"),
        ("arith.constant1", ""),
    ],
)
def test_layer_of(name, layer):
    assert layer_of(name) == layer


@pytest.mark.parametrize(
    ("name", "layers", "layer"),
    [
        ("mobilenet_1/Conv1_relu_1/Relu6;mobilenet_1/Conv1_1/convolution", {"Conv1_relu", "Conv1"}, "Conv1_relu"),
        ("f_1/conv2d_1/Relu", {"conv2d_1", "conv2d"}, "conv2d_1"),
        ("f_1/conv2d_1_1/Relu", {"conv2d_1", "conv2d"}, "conv2d_1"),
        ("f_1/lstm_1/while/lstm_cell_1/MatMul_11", {"lstm"}, "lstm"),
        ("f_1/other/MatMul", {"lstm"}, "other"),
    ],
)
def test_layer_of_with_known_layers(name, layers, layer):
    assert layer_of(name, layers) == layer


def test_op_names():
    assert op_name(BUILTIN["CONV_2D"], BUILTIN["CONV_2D"], None) == "CONV_2D"
    assert op_name(0, BUILTIN["FULLY_CONNECTED"], None) == "FULLY_CONNECTED"
    assert op_name(BUILTIN["GELU"], 127, None) == "GELU"
    assert op_name(BUILTIN["CUSTOM"], BUILTIN["CUSTOM"], "Mine") == "Mine"
    with pytest.raises(ModelError, match="9999"):
        op_name(9999, 0, None)
