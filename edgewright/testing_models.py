"""Small models that the contract suites run on, written without a training framework."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["plus_one_onnx", "plus_one_openvino", "plus_one_tflite", "two_by_two_tflite"]


def plus_one_tflite(
    path: Path,
    *,
    batch: int | None = 1,
    sample: tuple[int, ...] = (4,),
    signatures: tuple[str, ...] = ("serving_default",),
    tensors: tuple[str, str] = ("x", "y"),
) -> Path:
    """Write a .tflite file that computes y = x + 1; needs ai-edge-litert and flatbuffers.

    Args:
        path: where to write.
        batch: first size of x and y, float32 (batch, *sample); None leaves it free.
        sample: the other sizes.
        signatures: keys of the signatures, each naming the input "x" and the output "y".
        tensors: the tensors' own names, which engines without signatures go by.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    def tensor(name: str, shape: list[int], buffer: int) -> Any:
        made = schema.TensorT()
        made.name, made.shape, made.buffer, made.type = name.encode(), [abs(n) for n in shape], buffer, schema.TensorType.FLOAT32
        made.shapeSignature = shape if -1 in shape else None
        return made

    def named(name: str, index: int) -> Any:
        made = schema.TensorMapT()
        made.name, made.tensorIndex = name.encode(), index
        return made

    size = -1 if batch is None else batch
    code, add, graph, model = schema.OperatorCodeT(), schema.OperatorT(), schema.SubGraphT(), schema.ModelT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.ADD
    code.version = 1
    add.opcodeIndex, add.inputs, add.outputs = 0, [0, 1], [2]
    add.builtinOptionsType, add.builtinOptions = schema.BuiltinOptions.AddOptions, schema.AddOptionsT()
    graph.tensors = [tensor(tensors[0], [size, *sample], 0), tensor("one", [1], 1), tensor(tensors[1], [size, *sample], 0)]
    graph.inputs, graph.outputs, graph.operators = [0], [2], [add]
    empty, one = schema.BufferT(), schema.BufferT()
    one.data = np.frombuffer(np.ones(1, np.float32).tobytes(), np.uint8)
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [code], [graph], [empty, one]
    model.signatureDefs = []
    for key in signatures:
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = key.encode(), 0
        signature.inputs, signature.outputs = [named("x", 0)], [named("y", 2)]
        model.signatureDefs.append(signature)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def plus_one_onnx(path: Path, *, batch: int | None = 1) -> Path:
    """Write an .onnx file that computes y = x + 1, float32 (batch, 4), None for a free batch; needs onnx."""
    import onnx
    from onnx import helper, numpy_helper

    shape = ["batch" if batch is None else batch, 4]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "one"], ["y"])],
        "plus_one",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.ones(1, np.float32), "one")],
    )
    # Versions that every ONNX Runtime of the last years reads, whatever the newest of the onnx package are.
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path


def plus_one_openvino(path: Path, *, batch: int | None = 1, io: dict[str, Any] | str | None = None) -> Path:
    """Write an OpenVINO .xml and .bin that compute y = x + 1, float32 (batch, 4); needs openvino.

    Args:
        path: where to write the .xml.
        batch: first size of x and y; None leaves it free.
        io: what to note in rt_info at ("edgewright", "io"): a dictionary becomes JSON.
    """
    from edgewright.runtime.engines.openvino import import_openvino

    ov = import_openvino()
    x = ov.opset13.parameter([-1 if batch is None else batch, 4], np.float32, name="x")
    x.output(0).set_names({"x"})
    y = ov.opset13.add(x, ov.opset13.constant(np.ones(1, np.float32)))
    y.output(0).set_names({"y"})
    model = ov.Model([y], [x], "plus_one")
    if io is not None:
        model.set_rt_info(io if isinstance(io, str) else json.dumps(io), ["edgewright", "io"])
    ov.save_model(model, str(path), compress_to_fp16=False)
    return path


def two_by_two_tflite(path: Path) -> Path:
    """Write a float32 .tflite file with two inputs and two outputs; needs ai-edge-litert and flatbuffers.

    Inputs "zeta" (1, 4) and "alpha" (1, 3), outputs "sum" = zeta W + alpha and "product" = (zeta W) * alpha, both (1, 3):
    neither is in alphabetical order, and W is fixed.

    Args:
        path: where to write.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    def op(code: int, inputs: list[int], output: int, options: Any) -> Any:
        kind = getattr(schema.BuiltinOptions, type(options).__name__[:-1])
        return schema.OperatorT(
            opcodeIndex=code, inputs=inputs, outputs=[output], builtinOptionsType=kind, builtinOptions=options
        )

    kinds = [schema.BuiltinOperator.FULLY_CONNECTED, schema.BuiltinOperator.ADD, schema.BuiltinOperator.MUL]
    weights = np.random.default_rng(0).normal(0, 0.5, (3, 4)).astype(np.float32)
    shapes = {"zeta": [1, 4], "alpha": [1, 3], "weights": [3, 4], "dense": [1, 3], "sum": [1, 3], "product": [1, 3]}
    graph = schema.SubGraphT(
        tensors=[
            schema.TensorT(name=name, shape=shape, type=schema.TensorType.FLOAT32, buffer=int(name == "weights"))
            for name, shape in shapes.items()
        ],
        inputs=[0, 1],
        outputs=[4, 5],
        operators=[
            op(0, [0, 2, -1], 3, schema.FullyConnectedOptionsT()),
            op(1, [3, 1], 4, schema.AddOptionsT()),
            op(2, [3, 1], 5, schema.MulOptionsT()),
        ],
        name="main",
    )
    signature = schema.SignatureDefT(
        inputs=[schema.TensorMapT("zeta", 0), schema.TensorMapT("alpha", 1)],
        outputs=[schema.TensorMapT("sum", 4), schema.TensorMapT("product", 5)],
        signatureKey="serving_default",
        subgraphIndex=0,
    )
    model = schema.ModelT(
        version=3,
        operatorCodes=[schema.OperatorCodeT(builtinCode=kind, deprecatedBuiltinCode=kind, version=1) for kind in kinds],
        subgraphs=[graph],
        buffers=[schema.BufferT(), schema.BufferT(data=np.frombuffer(weights.tobytes(), np.uint8))],
        signatureDefs=[signature],
    )
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path
