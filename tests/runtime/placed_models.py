""".tflite files written op by op, for tests of placement and profiles: each shows one reason for an op to stay outside."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

RNG = np.random.default_rng(0)
VERSIONS = {"DEPTHWISE_CONV_2D": 6, "CONV_2D": 5}  # the first that takes float activations with int8 weights


@dataclass
class Graph:
    """One graph in the making; tensors are named, ops refer to them by name."""

    file: "File"
    tensors: dict[str, Any] = field(default_factory=dict)
    operators: list[Any] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)

    def tensor(self, name: str, shape: Any, dtype: str = "float32", data: Any = None, scale: Any = None, axis: int = 0) -> str:
        buffer, quantization = 0, None
        if data is not None:
            self.file.buffers.append(schema.BufferT(data=np.frombuffer(np.ascontiguousarray(data, dtype).tobytes(), np.uint8)))
            buffer = len(self.file.buffers) - 1
        if scale is not None:
            scales = np.atleast_1d(np.float32(scale))
            zeros = np.zeros(scales.size, np.int64)
            quantization = schema.QuantizationParametersT(scale=scales, zeroPoint=zeros, quantizedDimension=axis)
        kind = getattr(schema.TensorType, dtype.upper())
        self.tensors[name] = schema.TensorT(name=name, shape=list(shape), type=kind, buffer=buffer, quantization=quantization)
        return name

    def index(self, name: str | None) -> int:
        return -1 if name is None else list(self.tensors).index(name)

    def op(self, kind: str, inputs: list[str | None], outputs: list[str], options: Any = None) -> None:
        code = self.file.codes.setdefault(kind, len(self.file.codes))
        union = getattr(schema.BuiltinOptions, type(options).__name__[:-1]) if options is not None else 0
        self.operators.append(
            schema.OperatorT(
                opcodeIndex=code,
                inputs=[self.index(name) for name in inputs],
                outputs=[self.index(name) for name in outputs],
                builtinOptionsType=union,
                builtinOptions=options,
            )
        )

    def ends(self, inputs: list[str], outputs: list[str]) -> None:
        self.inputs, self.outputs = [self.index(name) for name in inputs], [self.index(name) for name in outputs]


class File:
    """A file in the making."""

    def __init__(self) -> None:
        self.codes: dict[str, int] = {}
        self.buffers = [schema.BufferT()]
        self.graphs: list[Graph] = []

    def graph(self) -> Graph:
        self.graphs.append(Graph(self))
        return self.graphs[-1]

    def write(self, path: Path) -> Path:
        codes = []
        for kind in self.codes:
            number = getattr(schema.BuiltinOperator, kind)
            version = VERSIONS.get(kind, 1)
            codes.append(schema.OperatorCodeT(builtinCode=number, deprecatedBuiltinCode=min(127, number), version=version))
        graphs = [
            schema.SubGraphT(
                tensors=list(graph.tensors.values()),
                inputs=graph.inputs,
                outputs=graph.outputs,
                operators=graph.operators,
                name=f"graph{at}",
            )
            for at, graph in enumerate(self.graphs)
        ]
        builder = flatbuffers.Builder(1024)
        model = schema.ModelT(version=3, operatorCodes=codes, subgraphs=graphs, buffers=self.buffers)
        builder.Finish(model.Pack(builder), b"TFL3")
        path.write_bytes(bytes(builder.Output()))
        return path


def floats(*shape: int) -> Any:
    return RNG.normal(0, 0.2, shape).astype(np.float32)


def integers(*shape: int) -> Any:
    return RNG.integers(-127, 128, shape).astype(np.int8)


def conv(**options: Any) -> Any:
    return schema.Conv2DOptionsT(strideW=1, strideH=1, dilationWFactor=1, dilationHFactor=1, **options)


def depthwise() -> Any:
    return schema.DepthwiseConv2DOptionsT(strideW=1, strideH=1, depthMultiplier=1, dilationWFactor=1, dilationHFactor=1)


def heavy(path: Path) -> Path:
    """A 5x5 convolution with 99.5 % of the multiply-adds, an activation, a 1x1 convolution."""
    file = File()
    graph = file.graph()
    graph.tensor("x", (1, 64, 64, 16))
    graph.tensor("w0", (64, 5, 5, 16), data=floats(64, 5, 5, 16))
    graph.tensor("b0", (64,), data=floats(64))
    graph.tensor("w1", (2, 1, 1, 64), data=floats(2, 1, 1, 64))
    graph.tensor("b1", (2,), data=floats(2))
    for name, channels in (("heavy", 64), ("active", 64), ("small", 2)):
        graph.tensor(name, (1, 64, 64, channels))
    graph.op("CONV_2D", ["x", "w0", "b0"], ["heavy"], conv())
    graph.op("RELU", ["heavy"], ["active"])
    graph.op("CONV_2D", ["active", "w1", "b1"], ["small"], conv())
    graph.ends(["x"], ["small"])
    return file.write(path)


def dynamic(path: Path) -> Path:
    """A float convolution, a depthwise and a 1x1 one with int8 weights; XNNPACK leaves the depthwise one alone."""
    file = File()
    graph = file.graph()
    graph.tensor("x", (1, 32, 32, 8))
    graph.tensor("w0", (16, 3, 3, 8), data=floats(16, 3, 3, 8))
    graph.tensor("w1", (1, 3, 3, 16), "int8", integers(1, 3, 3, 16), np.full(16, 0.01), 3)
    graph.tensor("w2", (8, 1, 1, 16), "int8", integers(8, 1, 1, 16), np.full(8, 0.01), 0)
    for at, channels in enumerate((16, 16, 8)):
        graph.tensor(f"b{at}", (channels,), data=floats(channels))
        graph.tensor(("first", "depthwise", "pointwise")[at], (1, 32, 32, channels))
    graph.op("CONV_2D", ["x", "w0", "b0"], ["first"], conv())
    graph.op("DEPTHWISE_CONV_2D", ["first", "w1", "b1"], ["depthwise"], depthwise())
    graph.op("CONV_2D", ["depthwise", "w2", "b2"], ["pointwise"], conv())
    graph.ends(["x"], ["pointwise"])
    return file.write(path)


def int16(path: Path) -> Path:
    """One convolution with int16 activations and int8 weights: no delegate."""
    file = File()
    graph = file.graph()
    graph.tensor("x", (1, 8, 8, 4), "int16", scale=0.01)
    graph.tensor("w", (6, 3, 3, 4), "int8", integers(6, 3, 3, 4), np.full(6, 0.01), 0)
    graph.tensor("b", (6,), "int64", np.zeros(6), np.full(6, 0.0001), 0)
    graph.tensor("y", (1, 8, 8, 6), "int16", scale=0.01)
    graph.op("CONV_2D", ["x", "w", "b"], ["y"], conv())
    graph.ends(["x"], ["y"])
    return file.write(path)


def islands(path: Path) -> Path:
    """Two dense layers with an op between them that XNNPACK does not have: two delegates."""
    file = File()
    graph = file.graph()
    for name, size in (("x", 64), ("first", 64), ("sums", 64), ("second", 8)):
        graph.tensor(name, (1, size))
    graph.tensor("w0", (64, 64), data=floats(64, 64))
    graph.tensor("axis", (), "int32", np.array(1))
    graph.tensor("w1", (8, 64), data=floats(8, 64))
    graph.op("FULLY_CONNECTED", ["x", "w0", None], ["first"], schema.FullyConnectedOptionsT())
    graph.op("CUMSUM", ["first", "axis"], ["sums"], schema.CumsumOptionsT())
    graph.op("FULLY_CONNECTED", ["sums", "w1", None], ["second"], schema.FullyConnectedOptionsT())
    graph.ends(["x"], ["second"])
    return file.write(path)


def loop(path: Path) -> Path:
    """A dense layer run three times in a WHILE, and one behind it."""
    file = File()
    main, condition, body = file.graph(), file.graph(), file.graph()
    main.tensor("x", (1, 16))
    main.tensor("zero", (1,), "int32", np.zeros(1))
    main.tensor("steps", (1,), "int32")
    main.tensor("state", (1, 16))
    main.tensor("w", (4, 16), data=floats(4, 16))
    main.tensor("y", (1, 4))
    main.op("WHILE", ["zero", "x"], ["steps", "state"], schema.WhileOptionsT(condSubgraphIndex=1, bodySubgraphIndex=2))
    main.op("FULLY_CONNECTED", ["state", "w", None], ["y"], schema.FullyConnectedOptionsT())
    main.ends(["x"], ["y"])
    condition.tensor("i", (1,), "int32")
    condition.tensor("s", (1, 16))
    condition.tensor("n", (1,), "int32", np.array([3]))
    condition.tensor("go", (1,), "bool")
    condition.op("LESS", ["i", "n"], ["go"], schema.LessOptionsT())
    condition.ends(["i", "s"], ["go"])
    body.tensor("i", (1,), "int32")
    body.tensor("s", (1, 16))
    body.tensor("one", (1,), "int32", np.ones(1))
    body.tensor("next", (1,), "int32")
    body.tensor("w", (16, 16), data=floats(16, 16))
    body.tensor("t", (1, 16))
    body.op("ADD", ["i", "one"], ["next"], schema.AddOptionsT())
    body.op("FULLY_CONNECTED", ["s", "w", None], ["t"], schema.FullyConnectedOptionsT())
    body.ends(["i", "s"], ["next", "t"])
    return file.write(path)


def every_counted_op(path: Path, batch: int = 1) -> Path:
    """One op of each kind that has multiply-adds and can stand in a file without a recurrent state, side by side."""
    file = File()
    graph = file.graph()
    graph.tensor("image", (batch, 8, 8, 4))
    graph.tensor("rows", (batch, 6, 5))
    graph.tensor("other", (batch, 6, 7))
    graph.tensor("wc", (3, 3, 3, 4), data=floats(3, 3, 3, 4))
    graph.tensor("bc", (3,), data=floats(3))
    graph.tensor("wd", (1, 3, 3, 4), data=floats(1, 3, 3, 4))
    graph.tensor("bd", (4,), data=floats(4))
    graph.tensor("size", (4,), "int32", np.array([batch, 16, 16, 2]))
    graph.tensor("wt", (2, 3, 3, 4), data=floats(2, 3, 3, 4))
    graph.tensor("conv", (batch, 8, 8, 3))
    graph.tensor("depthwise", (batch, 8, 8, 4))
    graph.tensor("transposed", (batch, 16, 16, 2))
    graph.tensor("product", (batch, 5, 7))
    graph.tensor("wf", (9, 5), data=floats(9, 5))
    graph.tensor("dense", (batch, 6, 9))
    graph.op("CONV_2D", ["image", "wc", "bc"], ["conv"], conv())
    graph.op("DEPTHWISE_CONV_2D", ["image", "wd", "bd"], ["depthwise"], depthwise())
    graph.op("TRANSPOSE_CONV", ["size", "wt", "image"], ["transposed"], schema.TransposeConvOptionsT(strideW=2, strideH=2))
    graph.op("BATCH_MATMUL", ["rows", "other"], ["product"], schema.BatchMatMulOptionsT(adjX=True))
    graph.op("FULLY_CONNECTED", ["rows", "wf", None], ["dense"], schema.FullyConnectedOptionsT(keepNumDims=True))
    graph.ends(["image", "rows", "other"], ["conv", "depthwise", "transposed", "product", "dense"])
    return file.write(path)


def small_onnx(path: Path) -> Path:
    """Convolution, activation, depthwise convolution, pooling, dense layer."""
    import onnx
    from onnx import helper, numpy_helper

    weights = {"w": (16, 3, 3, 3), "dw": (16, 1, 3, 3), "fc": (16, 10)}
    made = [numpy_helper.from_array(floats(*shape), name) for name, shape in weights.items()]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "dw"], ["c"], name="depthwise", group=16, pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["d"], name="pool"),
        helper.make_node("Flatten", ["d"], ["e"], name="flat"),
        helper.make_node("MatMul", ["e", "fc"], ["y"], name="dense"),
    ]
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 3, 32, 32]), ("y", [1, 10]))
    ]
    graph = helper.make_graph(nodes, "small", ends[:1], ends[1:], made)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path
