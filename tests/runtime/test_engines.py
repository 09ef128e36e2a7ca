"""What is particular to one engine: names, quantization, precision, messages."""

import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgewright import testing
from edgewright.artifact import TensorSpec
from edgewright.errors import EngineError, MissingPackageError, PluginError, ShapeError, UsageError
from edgewright.runtime import ENGINES, open_session

X = np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)


class TestChoice:
    def test_content_decides(self, models: dict[str, Path], tmp_path: Path) -> None:
        renamed = tmp_path / "model.onnx"
        renamed.write_bytes(models["tflite"].read_bytes())
        assert open_session(renamed).engine == "litert"
        assert open_session(str(models["onnx"])).engine == "onnxruntime"
        assert open_session(models["openvino"]).engine == "openvino"
        assert open_session(models["tflite"], engine="openvino").engine == "openvino"

    def test_refusals(self, models: dict[str, Path], tmp_path: Path) -> None:
        with pytest.raises(EngineError, match=r"litert takes tflite files.*is onnx"):
            open_session(models["onnx"], engine="litert")
        with pytest.raises(EngineError, match=r"onnxruntime takes onnx files.*is tflite"):
            open_session(models["tflite"], engine="onnxruntime")
        with pytest.raises(PluginError, match="no engine 'tensorrt'"):
            open_session(models["tflite"], engine="tensorrt")
        with pytest.raises(UsageError, match="threads is 0"):
            open_session(models["tflite"], threads=0)
        (tmp_path / "old.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
        with pytest.raises(EngineError, match=r"no engine runs .*old\.h5: it is h5.*convert it first"):
            open_session(tmp_path / "old.h5")
        (tmp_path / "notes.txt").write_text("not a model")
        with pytest.raises(EngineError, match="no known model format"):
            open_session(tmp_path / "notes.txt")
        with pytest.raises(EngineError, match="no model at"):
            open_session(tmp_path / "gone.tflite")

    def test_engine_not_installed(self, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
        with pytest.raises(MissingPackageError, match=r"edgewright\[onnx\]"):
            open_session(models["onnx"])

    def test_names(self) -> None:
        assert ENGINES.names() == ["litert", "onnxruntime", "openvino"]


class TestLiteRt:
    def test_names_of_the_signature_before_the_tensors(self, tmp_path: Path) -> None:
        path = testing.plus_one_tflite(tmp_path / "m.tflite", tensors=("serving_default_x:0", "StatefulPartitionedCall:0"))
        with open_session(path) as session:
            assert [spec.name for spec in session.inputs + session.outputs] == ["x", "y"]
            np.testing.assert_array_equal(session.run({"x": X})["y"], X + 1)

    def test_names_of_the_tensors_without_signature(self, tmp_path: Path) -> None:
        path = testing.plus_one_tflite(tmp_path / "m.tflite", signatures=(), tensors=("a", "b"))
        with open_session(path) as session:
            np.testing.assert_array_equal(session.run({"a": X})["b"], X + 1)

    def test_order_is_the_models_and_one_tensor_may_have_two_names(self, tmp_path: Path) -> None:
        def edit(model: Any, schema: Any) -> None:
            graph, signature = model.subgraphs[0], model.signatureDefs[0]
            second = schema.TensorT()
            second.name, second.shape, second.type = b"second", [1, 4], schema.TensorType.FLOAT32
            graph.tensors.append(second)
            graph.operators[0].inputs, graph.inputs = [0, 3], [3, 0]
            for names, name, index in ((signature.inputs, b"b", 3), (signature.outputs, b"again", 2)):
                made = schema.TensorMapT()
                made.name, made.tensorIndex = name, index
                names.append(made)
            signature.inputs[0].name = b"a"

        with open_session(_edit_tflite(testing.plus_one_tflite(tmp_path / "m.tflite"), edit)) as session:
            assert [spec.name for spec in session.inputs] == ["b", "a"]
            assert [spec.name for spec in session.outputs] == ["again", "y"]
            results = session.run({"a": X, "b": X * 10})
            np.testing.assert_array_equal(results["y"], X * 11)
            results["y"][...] = 0
            np.testing.assert_array_equal(results["again"], X * 11)

    def test_two_signatures_are_refused_by_name(self, tmp_path: Path) -> None:
        path = testing.plus_one_tflite(tmp_path / "m.tflite", signatures=("train", "infer"))
        with pytest.raises(EngineError, match=r"2 signatures.*infer, train"):
            open_session(path)

    def test_precision_and_delegate(self, models: dict[str, Path]) -> None:
        with open_session(models["tflite"]) as session:
            assert session.execution.precision == "float32"
            assert session.execution.device == "CPU, XNNPACK delegate"

    def test_quantized(self, tmp_path: Path) -> None:
        path = _edit_tflite(testing.plus_one_tflite(tmp_path / "m.tflite"), _quantize)
        with open_session(path) as session:
            assert session.inputs == (TensorSpec("x", (1, 4), "int8", 0.5, -3),)
            assert session.outputs == (TensorSpec("y", (1, 4), "int8", 0.25, 7),)
            assert session.execution.precision == "int8"
            stored = np.array([[-3, -1, 1, 5]], np.int8)
            # real = 0.5 * (stored + 3) = 0, 1, 2, 4; plus 1, stored again as real / 0.25 + 7
            np.testing.assert_array_equal(session.run({"x": stored})["y"], np.array([[11, 15, 19, 27]], np.int8))
            with pytest.raises(ShapeError, match=r"float32, the model takes int8.*quantize.*0\.5 \* \(stored - -3\)"):
                session.run({"x": X})

    @pytest.mark.parametrize(("name", "words"), [("FlexErf", "Select TensorFlow op"), ("MyOp", "unresolved custom op: MyOp")])
    def test_ops_that_the_runtime_lacks(self, tmp_path: Path, name: str, words: str) -> None:
        def custom(model: Any, schema: Any) -> None:
            code = model.operatorCodes[0]
            code.builtinCode, code.customCode = schema.BuiltinOperator.CUSTOM, name.encode()
            code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
            op = model.subgraphs[0].operators[0]
            op.builtinOptionsType, op.builtinOptions = 0, None

        path = _edit_tflite(testing.plus_one_tflite(tmp_path / "m.tflite"), custom)
        with pytest.raises(EngineError, match=words) as caught:
            open_session(path)
        assert "TensorFlow Lite" in caught.value.hint

    def test_op_newer_than_the_runtime(self, tmp_path: Path) -> None:
        def newer(model: Any, schema: Any) -> None:
            model.operatorCodes[0].version = 99

        with pytest.raises(EngineError, match="runtime is older than the file"):
            open_session(_edit_tflite(testing.plus_one_tflite(tmp_path / "m.tflite"), newer))

    def test_reset_clears_resource_variables(self, tmp_path: Path) -> None:
        path = _edit_tflite(testing.plus_one_tflite(tmp_path / "m.tflite"), _make_counter)
        with open_session(path) as session:
            assert [session.run({"x": X})["y"].tolist() for _ in range(3)] == [(X * n).tolist() for n in (1, 2, 3)]
            np.testing.assert_array_equal(session.clone().run({"x": X})["y"], X)
            session.reset()
            np.testing.assert_array_equal(session.run({"x": X})["y"], X)
            assert session.stateful
        with open_session(testing.plus_one_tflite(tmp_path / "plain.tflite")) as session:
            assert not session.stateful


class TestOpenVino:
    def test_quantization_from_rt_info(self, tmp_path: Path) -> None:
        note = {"x": {"scale": 0.5, "zero_point": -3}}
        with open_session(testing.plus_one_openvino(tmp_path / "m.xml", io=note)) as session:
            assert session.inputs == (TensorSpec("x", (1, 4), "float32", 0.5, -3),)
            assert session.outputs == (TensorSpec("y", (1, 4), "float32"),)

    @pytest.mark.parametrize(("note", "names"), [(None, ["x", "x"]), ({"inputs": ["x"], "outputs": ["yy"]}, ["x", "yy"])])
    def test_tensor_with_several_names(self, tmp_path: Path, note: Any, names: list[str]) -> None:
        import json

        from edgewright.runtime.engines.openvino import import_openvino

        ov = import_openvino()
        x = ov.opset13.parameter([1, 4], np.float32, name="x")
        x.output(0).set_names({"x", "yy"})
        model = ov.Model([ov.opset13.result(x)], [x], "same")
        if note:
            model.set_rt_info(json.dumps(note), ["edgewright", "names"])
        ov.save_model(model, str(tmp_path / "m.xml"))
        with open_session(tmp_path / "m.xml") as session:
            assert [spec.name for spec in session.inputs + session.outputs] == names
            first = session.run({"x": X})[names[1]]
            session.run({"x": X * 0})
            np.testing.assert_array_equal(first, X)

    @pytest.mark.parametrize("batch", [1, -1])
    def test_outputs_that_share_a_tensor_or_are_constant(self, tmp_path: Path, batch: int) -> None:
        from edgewright.runtime.engines.openvino import import_openvino

        ov = import_openvino()
        op = ov.opset13
        x = op.parameter([batch, 4], np.float32, name="x")
        x.output(0).set_names({"x"})
        y = op.add(x, op.constant(np.ones(1, np.float32)))
        y.output(0).set_names({"y"})
        same = op.reshape(y, op.constant(np.array([-1, 4])), special_zero=False)
        same.output(0).set_names({"same"})
        fixed = op.constant(np.arange(3, dtype=np.float32))
        fixed.output(0).set_names({"fixed"})
        results = [op.result(node) for node in (y, same, fixed, y)]
        ov.save_model(ov.Model(results, [x], "shared"), str(tmp_path / "m.xml"), compress_to_fp16=False)
        with open_session(tmp_path / "m.xml") as session:
            for scale in (1, 2):
                found = session.run({"x": X * scale})
                np.testing.assert_array_equal(found["y"], X * scale + 1)
                np.testing.assert_array_equal(found["same"], X * scale + 1)
                np.testing.assert_array_equal(found["fixed"], [0, 1, 2])

    @pytest.mark.parametrize("note", ["no json", "[]", '{"x": {"scale": 1}}'])
    def test_unreadable_rt_info(self, tmp_path: Path, note: str) -> None:
        with pytest.raises(EngineError, match="rt_info edgewright/io cannot be read"):
            open_session(testing.plus_one_openvino(tmp_path / "m.xml", io=note))

    def test_weights_left_behind_or_cut(self, tmp_path: Path) -> None:
        path = _conv_ir(tmp_path / "m.xml")
        weights = path.with_suffix(".bin")
        weights.write_bytes(weights.read_bytes()[:-8])
        with pytest.raises(EngineError, match=r"cannot load.*belong together"):
            open_session(path)
        weights.unlink()
        with pytest.raises(EngineError, match=r"weights m\.bin are not beside it"):
            open_session(path)

    def test_exact_is_float32_and_the_default_is_told(self, tmp_path: Path) -> None:
        path = _conv_ir(tmp_path / "m.xml")
        x = np.random.default_rng(0).standard_normal((1, 16, 8, 8)).astype(np.float32)
        with open_session(path, exact=True) as exact, open_session(path) as usual:
            assert exact.execution.precision == "float32"
            assert exact.clone().execution.precision == "float32"
            difference = np.abs(exact.run({"x": x})["y"] - usual.run({"x": x})["y"]).max()
            assert (difference < 1e-5) == (usual.execution.precision == "float32"), usual.execution

    def test_one_precision_is_named_only_if_all_that_computes_has_it(self, tmp_path: Path) -> None:
        with open_session(_int8_ir(tmp_path / "m.xml"), exact=True) as session:
            found = session.execution
        assert (found.precision, found.kinds) == ("mixed", ("float32", "int8"))
        assert re.search(r": 1 int8; others: \d float32$", found.detail)
        assert found.to_json()["kinds"] == ["float32", "int8"]

    @pytest.mark.parametrize(
        ("layers", "precision", "counts", "kinds"),
        [
            (["Convolution u8", "MatMul i8", "Reorder bf16", "FakeQuantize f32"], "int8", "2 int8", ["int8"]),
            (["Convolution u8", "Convolution bf16", "Reorder f32"], "mixed", "1 bf16, 1 int8", ["bf16", "int8"]),
            (["Convolution u8", "Eltwise f16"], "mixed", "1 int8; others: 1 float16", ["float16", "int8"]),
            (["Softmax bf16", "Gather i32", "Transpose f32"], "bf16", "1 bf16", ["bf16"]),
            (["Convolution f32", "Eltwise f32", "Eltwise i32"], "float32", "1 float32; others: 1 float32", ["float32"]),
            (["Reshape f32", "Const f32"], "unknown", None, []),
        ],
    )
    def test_precision_of_layers(self, layers: list[str], precision: str, counts: str | None, kinds: list[str]) -> None:
        from edgewright.runtime.engines.openvino import _execution

        found = _execution(_Compiled(layers))
        assert (found.precision, found.to_json()["kinds"]) == (precision, kinds)
        assert counts is None or found.detail == f"nodes of the execution graph: {counts}"

    def test_reset_clears_state(self, tmp_path: Path) -> None:
        path = _counter_ir(tmp_path / "m.xml")
        with open_session(path) as session:
            one = np.ones((1, 1), np.float32)
            assert [session.run({"x": one})["y"].item() for _ in range(3)] == [1, 2, 3]
            assert session.clone().run({"x": one})["y"].item() == 1
            session.reset()
            assert session.run({"x": one})["y"].item() == 1
            assert session.stateful


class TestOnnxRuntime:
    def test_precision(self, models: dict[str, Path], tmp_path: Path) -> None:
        assert open_session(models["onnx"]).execution.precision == "float32"
        onnx = pytest.importorskip("onnx")
        make = onnx.helper.make_node
        for nodes, word in (
            ([make("QuantizeLinear", ["x", "s"], ["q"]), make("DequantizeLinear", ["q", "s"], ["y"])], "QuantizeLinear"),
            ([make("Cast", ["x"], ["h"], to=10), make("Cast", ["h"], ["y"], to=1)], "Cast to another real type"),
        ):
            execution = open_session(_onnx(tmp_path / "m.onnx", nodes)).execution
            assert execution.precision == "unknown"
            assert word in execution.detail

    def test_output_whose_shape_depends_on_the_values(self, tmp_path: Path) -> None:
        onnx = pytest.importorskip("onnx")
        path = _onnx(tmp_path / "m.onnx", [onnx.helper.make_node("NonZero", ["x"], ["y"])], onnx.TensorProto.INT64, ["a", "b"])
        with open_session(path) as session:
            for values in ([1, 0, 0, 2], [1, 1, 1, 1], [0, 0, 0, 0]):
                x = np.array([values], np.float32)
                np.testing.assert_array_equal(session.run({"x": x})["y"], np.array(np.nonzero(x)))

    def test_input_passed_through(self, tmp_path: Path) -> None:
        """An output that is the input's own memory inside the engine is a copy outside."""
        onnx = pytest.importorskip("onnx")
        for shape in ([1, 4], ["n", 4]):
            path = _onnx(tmp_path / "m.onnx", [onnx.helper.make_node("Identity", ["x"], ["y"])], shape=shape)
            with open_session(path) as session:
                first = session.run({"x": X})["y"]
                session.run({"x": X * 0})
                first[0, 0] = 5
                np.testing.assert_array_equal(first, [[5, 2, 3, 4]])
                assert X[0, 0] == 1

    def test_failure_while_running(self, tmp_path: Path) -> None:
        onnx = pytest.importorskip("onnx")
        nodes = [onnx.helper.make_node("Reshape", ["x", "five"], ["y"])]
        with (
            open_session(_onnx(tmp_path / "m.onnx", nodes, shape=["n", 4])) as session,
            pytest.raises(EngineError, match="cannot run"),
        ):
            session.run({"x": X})


def _edit_tflite(path: Path, edit: Any) -> Path:
    """Apply a function of (ModelT, schema module) to a file."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(path.read_bytes())
    edit(model, schema)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def _quantize(model: Any, schema: Any) -> None:
    """int8 tensors for plus_one: x = 0.5 * (s + 3), one = 1/127 * s, y = 0.25 * (s - 7)."""
    for tensor, scale, zero in zip(model.subgraphs[0].tensors, (0.5, 1 / 127, 0.25), (-3, 0, 7), strict=True):
        tensor.type = schema.TensorType.INT8
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale, tensor.quantization.zeroPoint = [scale], [zero]
    model.buffers[1].data = np.array([127], np.int8).view(np.uint8)
    model.operatorCodes[0].version = 2


def _make_counter(model: Any, schema: Any) -> None:
    """Turn plus_one into y = the sum of all x since the last reset, kept in a resource variable as tf.Variable is."""
    names = ("VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE")
    for name in names:
        code = schema.OperatorCodeT()
        code.builtinCode, code.version = getattr(schema.BuiltinOperator, name), 1
        code.deprecatedBuiltinCode = 127
        model.operatorCodes.append(code)

    def op(opcode: int, inputs: list[int], outputs: list[int], options: str, **fields: Any) -> Any:
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = opcode, inputs, outputs
        made.builtinOptionsType = getattr(schema.BuiltinOptions, options)
        made.builtinOptions = getattr(schema, f"{options}T")()
        for key, value in fields.items():
            setattr(made.builtinOptions, key, value)
        return made

    def tensor(name: str, shape: list[int], kind: int, buffer: int = 0) -> Any:
        made = schema.TensorT()
        made.name, made.shape, made.type, made.buffer = name.encode(), shape, kind, buffer
        return made

    def handle(index: int) -> Any:
        return op(1, [], [index], "VarHandleOptions", container=b"", sharedName=b"sum")

    zeros, kinds = schema.BufferT(), schema.TensorType
    zeros.data = np.zeros(16, np.uint8)
    model.buffers.append(zeros)
    main, init = model.subgraphs[0], schema.SubGraphT()
    main.tensors += [tensor("handle", [], kinds.RESOURCE), tensor("before", [1, 4], kinds.FLOAT32)]
    add = main.operators[0]
    add.inputs = [0, 4]
    main.operators = [
        op(4, [], [], "CallOnceOptions", initSubgraphIndex=1),
        handle(3),
        op(2, [3], [4], "ReadVariableOptions"),
        add,
        op(3, [3, 2], [], "AssignVariableOptions"),
    ]
    init.name, init.inputs, init.outputs = b"init", [], []
    init.tensors = [tensor("handle", [], kinds.RESOURCE), tensor("zeros", [1, 4], kinds.FLOAT32, len(model.buffers) - 1)]
    init.operators = [handle(0), op(3, [0, 1], [], "AssignVariableOptions")]
    model.subgraphs.append(init)


def _conv_ir(path: Path) -> Path:
    from edgewright.runtime.engines.openvino import import_openvino

    ov = import_openvino()
    rng = np.random.default_rng(0)
    x = ov.opset13.parameter([1, 16, 8, 8], np.float32, name="x")
    weights = ov.opset13.constant(rng.standard_normal((16, 16, 3, 3)).astype(np.float32))
    y = ov.opset13.convolution(x, weights, [1, 1], [1, 1], [1, 1], [1, 1])
    x.output(0).set_names({"x"})
    y.output(0).set_names({"y"})
    ov.save_model(ov.Model([y], [x], "conv"), str(path), compress_to_fp16=False)
    return path


def _int8_ir(path: Path) -> Path:
    """A convolution between quantized values, and a softmax of its float result."""
    from edgewright.runtime.engines.openvino import import_openvino

    ov = import_openvino()
    op = ov.opset13
    low, high = np.array(-2, np.float32), np.array(2, np.float32)
    x = op.parameter([1, 16, 8, 8], np.float32, name="x")
    weights = op.constant(np.random.default_rng(0).standard_normal((16, 16, 3, 3)).astype(np.float32))
    x8, weights8 = (op.fake_quantize(value, low, high, low, high, levels) for value, levels in ((x, 256), (weights, 255)))
    y = op.softmax(op.convolution(x8, weights8, [1, 1], [1, 1], [1, 1], [1, 1]), 1)
    x.output(0).set_names({"x"})
    y.output(0).set_names({"y"})
    ov.save_model(ov.Model([y], [x], "int8"), str(path), compress_to_fp16=False)
    return path


class _Compiled:
    """A compiled model of OpenVINO as far as its execution graph: layers are "type precision"."""

    def __init__(self, layers: list[str]) -> None:
        self._layers = layers

    def get_property(self, name: str) -> Any:
        from edgewright.runtime.engines.openvino import import_openvino

        return ["CPU"] if name == "EXECUTION_DEVICES" else import_openvino().Type.bf16

    def get_runtime_model(self) -> "_Compiled":
        return self

    def get_ordered_ops(self) -> list[Any]:
        return [SimpleNamespace(get_rt_info=partial(_info, *layer.split())) for layer in self._layers]


def _info(kind: str, precision: str) -> dict[str, Any]:
    from edgewright.runtime.engines.openvino import import_openvino

    any_of = import_openvino().OVAny
    return {"layerType": any_of(kind), "runtimePrecision": any_of(precision)}


def _counter_ir(path: Path) -> Path:
    """y = the sum of all x since the last reset."""
    from edgewright.runtime.engines.openvino import import_openvino

    ov = import_openvino()
    op = ov.opset13
    x = op.parameter([1, 1], np.float32, name="x")
    x.output(0).set_names({"x"})
    before = op.read_value(op.constant(np.zeros((1, 1), np.float32)), "sum")
    y = op.add(x, before)
    y.output(0).set_names({"y"})
    model = ov.Model([op.result(y)], [op.assign(y, "sum")], [x], "counter")
    ov.save_model(model, str(path), compress_to_fp16=False)
    return path


def _onnx(path: Path, nodes: list[Any], out: int | None = None, shape: list[Any] | None = None) -> Path:
    import onnx
    from onnx import helper, numpy_helper

    given = shape if out is None else None
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, given or [1, 4])],
        [helper.make_tensor_value_info("y", out or onnx.TensorProto.FLOAT, shape or [1, 4])],
        [numpy_helper.from_array(np.float32(0.5), "s"), numpy_helper.from_array(np.array([5], np.int64), "five")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path
