"""The TFLite reader against LiteRT's own interpreter, Keras' counts and hand-computed figures."""

import json
import math
import zlib

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as S
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgewright.artifact import TensorSpec
from edgewright.converters.model_info import describe_weight, unpack_bits
from edgewright.converters.readers import READERS
from edgewright.converters.readers.tflite import TfliteReader
from edgewright.errors import ModelError, UnsupportedError

CNN_MACS = 16 * 16 * 8 * 27 + 8 * 8 * 8 * 9 + 8 * 8 * 12 * 8 + 8 * 8 * 12 * (2 * 2 * 4) + 4 * 5
PLAIN = {"experimental_op_resolver_type": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES}
FILES = ["cnn", "cnn_free", "cnn_batch4", "cnn_int8", "cnn_float16", "cnn_dynamic", "two", "lstm", "dense"]


def info(folder, name):
    return TfliteReader(folder / f"{name}.tflite").info()


def weight(found, shape):
    return next(w for w in found.weights if w.shape == shape)


@pytest.mark.parametrize("name", FILES)
def test_specs_are_those_of_the_interpreter(tflite_files, name):
    path = tflite_files / f"{name}.tflite"
    interpreter = Interpreter(model_path=str(path))
    reader = TfliteReader(path)
    for specs, details in zip(reader.specs(), (interpreter.get_input_details(), interpreter.get_output_details()), strict=True):
        assert [s.name for s in specs] == [d["name"] for d in details]
        assert [s.dtype for s in specs] == [np.dtype(d["dtype"]).name for d in details]
        signatures = [d["shape_signature"].tolist() for d in details]
        assert [[-1 if size is None else size for size in s.shape] for s in specs] == signatures
        for spec, detail in zip(specs, details, strict=True):
            scale, zero = detail["quantization"]
            assert (spec.scale, spec.zero_point) == ((scale, zero) if scale else (None, None))


def test_it_is_registered_and_sniffs(tflite_files, tmp_path):
    reader = READERS.get("tflite")
    assert reader is TfliteReader
    assert not reader.consumes_code
    assert reader.sniff(tflite_files / "cnn.tflite")
    other = tmp_path / "x.tflite"
    other.write_bytes(b"nothing of the kind")
    assert not reader.sniff(other)


@pytest.mark.parametrize("name", ["cnn", "cnn_free", "cnn_batch4", "cnn_int8", "cnn_float16", "cnn_dynamic"])
def test_parameters_and_macs_of_a_cnn(tflite_files, keras_says, name):
    found = info(tflite_files, name)
    # BatchNorm is folded into the convolution: its beta became the bias, its 8 gammas are gone
    assert found.parameters == keras_says["cnn"]["trainable"] - 8
    assert found.macs == CNN_MACS
    assert ("batch 4" in found.macs_note) == (name == "cnn_batch4")


def test_two_inputs_and_two_outputs(tflite_files, keras_says):
    found = info(tflite_files, "two")
    assert found.parameters == keras_says["two"]["trainable"]
    assert found.macs == 2 * 2 * 4 * 27 + 8 * 8 + 24 * 3 + 24 * 2
    assert [spec.name for spec in found.inputs] == ["zeta", "alpha"]


def test_a_loop_counts_one_iteration_and_says_so(tflite_files, keras_says):
    found = info(tflite_files, "lstm")
    assert found.macs == 4 * 16 * (6 + 16) + 16 * 7
    assert "one iteration" in found.macs_note
    assert found.ops["WHILE"] == 1
    assert found.parameters == keras_says["lstm"]["trainable"]


def test_ops_are_those_that_the_interpreter_lists(tflite_files):
    interpreter = Interpreter(model_path=str(tflite_files / "cnn_int8.tflite"), **PLAIN)
    names = [op["op_name"] for op in interpreter._get_ops_details()]
    assert info(tflite_files, "cnn_int8").ops == {name: names.count(name) for name in sorted(set(names))}


def test_weights_are_those_of_keras(tflite_files, keras_says):
    found = info(tflite_files, "dense")
    kernel = np.array(keras_says["dense"]["values"]["fc/kernel"]).reshape(8, 4)
    stored = weight(found, (4, 8))
    assert stored.unique == np.unique(kernel).size
    assert stored.unique_per_channel == max(np.unique(column).size for column in kernel.T)
    assert (stored.channel_axis, stored.dtype, stored.bits, stored.sparsity) == (0, "float32", 32, 0.0)


def test_int8_weights_are_those_of_the_interpreter(tflite_files):
    path = tflite_files / "cnn_int8.tflite"
    interpreter = Interpreter(model_path=str(path), experimental_preserve_all_tensors=True, **PLAIN)
    interpreter.allocate_tensors()
    found = {w.name: w for w in TfliteReader(path).info().weights}
    checked = 0
    for detail in interpreter.get_tensor_details():
        if detail["name"] in found and len(detail["shape"]) > 1 and detail["dtype"] is np.int8:
            values, told = interpreter.get_tensor(detail["index"]), found[detail["name"]]
            axis = detail["quantization_parameters"]["quantized_dimension"]
            assert told.channel_axis == axis
            assert told.unique == np.unique(values).size
            assert told.unique_per_channel == max(np.unique(channel).size for channel in np.moveaxis(values, axis, 0))
            assert told.sparsity == pytest.approx((values == 0).mean())
            checked += 1
    assert checked == 5
    assert {told.channel_axis for told in found.values() if len(told.shape) == 4 and told.shape[0] == 1} == {3}


def test_float16_weights_belong_to_the_op_behind_the_dequantize(tflite_files):
    kernel = weight(info(tflite_files, "cnn_float16"), (8, 3, 3, 3))
    assert (kernel.dtype, kernel.bits, kernel.channel_axis) == ("float16", 16, 0)


def test_sizes_are_those_of_the_file(tflite_files):
    content = (tflite_files / "cnn.tflite").read_bytes()
    found = info(tflite_files, "cnn")
    assert (found.raw_bytes, found.deflated_bytes) == (len(content), len(zlib.compress(content, 9)))
    assert type(found).from_json(json.loads(json.dumps(found.to_json()))) == found


def test_several_signatures_are_refused_by_name(tflite_files):
    with pytest.raises(UnsupportedError, match=r"2 signatures.*double.*triple"):
        TfliteReader(tflite_files / "signatures.tflite")


@pytest.mark.parametrize("kind", ["INT4", "UINT4", "INT2"])
def test_packed_weights(tmp_path, build_tflite, kind):
    bits = int(kind[-1])
    low, high = (0, 1 << bits) if kind.startswith("U") else (-(1 << bits - 1), 1 << bits - 1)
    values = np.random.default_rng(3).integers(low, high, (5, 3))
    fields = (values.reshape(-1) & (1 << bits) - 1).tolist()
    per_byte = 8 // bits
    fields += [0] * (-len(fields) % per_byte)
    packed = bytes(sum(v << bits * k for k, v in enumerate(fields[at : at + per_byte])) for at in range(0, len(fields), per_byte))
    path = tmp_path / "packed.tflite"
    tensors = [
        ("x", (1, 3), "FLOAT32", None),
        ("w", (5, 3), kind, packed, np.full(5, 0.1), [0] * 5),
        ("y", (1, 5), "FLOAT32", None),
    ]
    path.write_bytes(build_tflite(tensors, [("FULLY_CONNECTED", [0, 1, -1], [2])], [0], [2]))
    found = TfliteReader(path).info()
    (told,) = found.weights
    assert (told.dtype, told.bits, told.shape, told.channel_axis) == (kind.lower(), bits, (5, 3), 0)
    assert told.unique == np.unique(values).size
    assert told.unique_per_channel == max(np.unique(row).size for row in values)
    assert told.sparsity == pytest.approx((values == 0).mean())
    assert (found.macs, found.parameters) == (15, 15)


def test_sparsity_counts_the_zero_point(tmp_path, build_tflite):
    stored = np.array([3, 3, 7, 3, 9, 3], np.uint8)
    tensors = [
        ("x", (1, 3), "UINT8", None, [0.5], [4]),
        ("w", (2, 3), "UINT8", stored.tobytes(), [0.25], [3]),
        ("b", (2,), "INT32", np.array([5, 6], np.int32).tobytes(), [0.125], [0]),
        ("y", (1, 2), "UINT8", None, [1.0], [0]),
    ]
    path = tmp_path / "old.tflite"
    path.write_bytes(build_tflite(tensors, [("FULLY_CONNECTED", [0, 1, 2], [3])], [0], [3]))
    found = TfliteReader(path).info()
    assert found.weights[0].sparsity == pytest.approx(4 / 6)
    assert found.parameters == 6 + 2
    assert found.inputs == (TensorSpec("x", (1, 3), "uint8", 0.5, 4),)


def test_macs_of_batch_matmul_and_fused_lstm(tmp_path, build_tflite):
    path = tmp_path / "x.tflite"
    tensors = [("a", (2, 7, 3), "FLOAT32", None), ("b", (2, 7, 5), "FLOAT32", None), ("y", (2, 3, 5), "FLOAT32", None)]
    options = {0: S.BatchMatMulOptionsT(adjX=True)}
    path.write_bytes(build_tflite(tensors, [("BATCH_MATMUL", [0, 1], [2])], [0, 1], [2], options=options))
    assert TfliteReader(path).info().macs == 3 * 5 * 7  # batch 2 in the file, the figure is for one
    units, features, steps = 4, 3, 6
    matrices = [("wi", (units, features))] * 4 + [("wr", (units, units))] * 4
    tensors = [("x", (1, steps, features), "FLOAT32", None)]
    for at, (name, shape) in enumerate(matrices):
        tensors.append((f"{name}{at}", shape, "FLOAT32", np.arange(math.prod(shape), dtype=np.float32).tobytes()))
    tensors += [("h", (1, units), "FLOAT32", None), ("c", (1, units), "FLOAT32", None), ("y", (1, steps, units), "FLOAT32", None)]
    operands = [0, *range(1, 9), *[-1] * 9, 9, 10]
    path.write_bytes(build_tflite(tensors, [("UNIDIRECTIONAL_SEQUENCE_LSTM", operands, [11])], [0], [11]))
    assert TfliteReader(path).info().macs == steps * 4 * units * (features + units)


def test_a_buffer_of_the_wrong_size_is_an_error(tmp_path, build_tflite):
    path = tmp_path / "x.tflite"
    tensors = [("x", (1, 3), "FLOAT32", None), ("w", (5, 3), "FLOAT32", bytes(56)), ("y", (1, 5), "FLOAT32", None)]
    path.write_bytes(build_tflite(tensors, [("FULLY_CONNECTED", [0, 1, -1], [2])], [0], [2]))
    with pytest.raises(ModelError, match="'w' takes 60 bytes, its buffer has 56"):
        TfliteReader(path)


@pytest.mark.parametrize(
    ("ops", "outputs", "message"),
    [
        ([("FULLY_CONNECTED", [0, 9, -1], [1])], [1], "operand of FULLY_CONNECTED"),
        ([("FULLY_CONNECTED", [0, 1, -1], [-1])], [1], "result of FULLY_CONNECTED"),
        ([("RELU", [0], [1])], [5], "graph output"),
        ([("WHILE", [0], [1])], [1], "lacks its WhileOptions"),
    ],
)
def test_indexes_out_of_range_are_errors(tmp_path, build_tflite, ops, outputs, message):
    path = tmp_path / "x.tflite"
    path.write_bytes(build_tflite([("x", (1, 3), "FLOAT32", None), ("y", (1, 3), "FLOAT32", None)], ops, [0], outputs))
    with pytest.raises(ModelError, match=message):
        TfliteReader(path)


ARRAYS = hnp.arrays(np.int8, hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5), elements=st.integers(-3, 3))


@settings(deadline=None, max_examples=150)
@given(values=ARRAYS, data=st.data())
def test_describe_weight_against_brute_force(values, data):
    axis = data.draw(st.one_of(st.none(), st.integers(0, values.ndim - 1)))
    per_channel = axis is not None and values.shape[axis] > 1
    zeros = (
        data.draw(st.lists(st.integers(-2, 2), min_size=values.shape[axis], max_size=values.shape[axis])) if per_channel else [1]
    )
    told = describe_weight("w", values, channel_axis=axis, zero_point=np.array(zeros))
    items = list(np.ndenumerate(values))
    zero_of = [zeros[at[axis]] if per_channel else zeros[0] for at, _ in items]
    assert told.sparsity == pytest.approx(sum(int(v) == z for (_, v), z in zip(items, zero_of, strict=True)) / max(len(items), 1))
    assert told.unique == len({int(v) for _, v in items})
    if axis is None or values.ndim < 2:
        assert told.unique_per_channel == told.unique
    else:
        channels = {}
        for at, v in items:
            channels.setdefault(at[axis], set()).add(int(v))
        assert told.unique_per_channel == max((len(found) for found in channels.values()), default=0)


@settings(deadline=None)
@given(bits=st.sampled_from([1, 2, 4]), signed=st.booleans(), data=st.data())
def test_unpack_bits_inverts_packing(bits, signed, data):
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    per_byte = 8 // bits
    values = data.draw(st.lists(st.integers(low, high), max_size=40).map(lambda v: v[: len(v) // per_byte * per_byte]))
    packed = [
        sum((v & (1 << bits) - 1) << bits * k for k, v in enumerate(values[at : at + per_byte]))
        for at in range(0, len(values), per_byte)
    ]
    assert unpack_bits(np.array(packed, np.uint8), bits, signed=signed).tolist() == values
