"""What an ONNX graph computes and which of its constants are weights, read from its nodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.converters.macs import MacCount, conv_macs, matmul_macs, recurrent_macs, transposed_conv_macs
from edgewright.converters.model_info import WeightInfo, describe_weight

__all__ = ["constants_of", "graph_macs", "graphs_of", "weights_of"]

Shape = tuple[int, ...]

_WEIGHTS: dict[str, tuple[int, int | None]] = {
    "Conv": (1, 0),
    "ConvTranspose": (1, 1),
    "ConvInteger": (1, 0),
    "QLinearConv": (3, 0),
    "Gemm": (1, 1),
    "MatMul": (1, -1),
    "MatMulInteger": (1, -1),
    "QLinearMatMul": (3, -1),
    "LSTM": (1, None),
    "GRU": (1, None),
    "RNN": (1, None),
}
"""Operand that holds the weights and its axis of output channels."""

_BIASES = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2, "QLinearConv": 8, "LSTM": 3, "GRU": 3, "RNN": 3}
_SETTINGS: dict[str, frozenset[int]] = {
    "BatchNormalization": frozenset({3, 4}),
    "QuantizeLinear": frozenset({1, 2}),
    "DequantizeLinear": frozenset({1, 2}),
    "QLinearConv": frozenset({1, 2, 4, 5, 6, 7}),
    "QLinearMatMul": frozenset({1, 2, 4, 5, 6, 7}),
    "ConvInteger": frozenset({2, 3}),
    "MatMulInteger": frozenset({2, 3}),
    "Resize": frozenset({1, 2, 3}),
    "Upsample": frozenset({1}),
    "Clip": frozenset({1, 2}),
    "Pad": frozenset({1, 2, 3}),
}
"""Operands that are no trained values: statistics, quantization constants, sizes."""

_ZERO_POINTS = {"QLinearConv": 5, "QLinearMatMul": 5, "ConvInteger": 3, "MatMulInteger": 3}
_DECODERS = {"DequantizeLinear", "QuantizeLinear", "Identity", "Cast"}
_NOT_COUNTED = {"Einsum", "Attention", "DeformConv", "LinearAttention"}


@dataclass(frozen=True, slots=True)
class _Use:
    """A constant, the node that takes it as operand `position`, and the DequantizeLinear between them, if any."""

    tensor: Any
    node: Any
    position: int
    dequantize: Any


def graphs_of(graph: Any) -> Iterator[Any]:
    """A graph and the bodies of its loops and branches, outermost first."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node or inner.output:
                    yield from graphs_of(inner)


def constants_of(graph: Any) -> dict[str, Any]:
    """Initializers and tensors of Constant nodes by name; bodies of loops have their own."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.output:
            for attribute in node.attribute:
                if attribute.name == "value" and attribute.HasField("t"):
                    found[node.output[0]] = attribute.t
    return found


def attribute(node: Any, name: str, default: int) -> int:
    """An integer attribute of a node."""
    return next((int(entry.i) for entry in node.attribute if entry.name == name), default)


def weights_of(model: Any, folder: Path) -> tuple[tuple[WeightInfo, ...], int]:
    """Constants that nodes take as data, largest first, and the number of trained values.

    Args:
        model: a ModelProto.
        folder: where files with weights are.
    """
    found: dict[int, tuple[str, _Use, Any]] = {}
    for name, use, zero in _data_uses(model.graph, {}):
        known = found.get(id(use.tensor))
        if known is None or (use.node.op_type in _WEIGHTS and known[1].node.op_type not in _WEIGHTS):
            found[id(use.tensor)] = (name, use, zero)
    parameters, described = 0, []
    for name, use, zero in found.values():
        size = math.prod(use.tensor.dims)
        if size > 1 or use.node.op_type in _WEIGHTS:
            parameters += size
        if size > 1:
            described.append(_describe(name, use, zero, folder))
    return tuple(sorted(described, key=lambda weight: -math.prod(weight.shape))), parameters


def _data_uses(graph: Any, outer: Mapping[str, Any]) -> Iterator[tuple[str, _Use, Any]]:
    """Name, use and zero point of every constant that a node takes as data, loop bodies included."""
    constants = {**outer, **constants_of(graph)}
    decoders = {node.output[0]: node for node in graph.node if node.op_type in _DECODERS and node.input and node.output}
    for node in graph.node:
        for entry in node.attribute:
            for inner in (entry.g, *entry.graphs):
                yield from _data_uses(inner, constants)
        if node.op_type in _DECODERS:
            continue
        for position, operand in enumerate(node.input):
            name, decoder, seen = operand, None, {operand}
            while name in decoders and decoders[name].input[0] not in seen:
                decoder = decoders[name] if decoders[name].op_type == "DequantizeLinear" else decoder
                name = decoders[name].input[0]
                seen.add(name)
            if name in constants and _is_data(constants[name], node, position, decoder is not None):
                use = _Use(constants[name], node, position, decoder)
                yield name, use, _zero_point(use, constants)


def _is_data(tensor: Any, node: Any, position: int, dequantized: bool) -> bool:
    if position in _SETTINGS.get(node.op_type, ()) or tensor.data_type in {tensor.STRING, tensor.BOOL}:
        return False
    integer = tensor.data_type in {tensor.INT32, tensor.INT64, tensor.UINT32, tensor.UINT64}
    return not integer or dequantized or _BIASES.get(node.op_type) == position


def _zero_point(use: _Use, constants: Mapping[str, Any]) -> Any:
    """The tensor that holds a weight's zero point, None if there is none."""
    if use.dequantize is not None:
        names = use.dequantize.input
        return constants.get(names[2]) if len(names) > 2 else None
    at = _ZERO_POINTS.get(use.node.op_type)
    if at is None or use.position != _WEIGHTS[use.node.op_type][0] or len(use.node.input) <= at:
        return None
    return constants.get(use.node.input[at])


def _describe(name: str, use: _Use, zero: Any, folder: Path) -> WeightInfo:
    import onnx

    values = onnx.numpy_helper.to_array(use.tensor, str(folder))
    dtype = onnx.TensorProto.DataType.Name(use.tensor.data_type).lower()
    dtype = {"float": "float32", "double": "float64"}.get(dtype, dtype)
    if values.dtype.kind not in "biufc":
        values = values.astype(np.int8 if "int" in dtype else np.float32)
    zeros: Any = 0 if zero is None else onnx.numpy_helper.to_array(zero, str(folder)).astype(np.int64)
    axis = _channel_axis(use)
    if use.dequantize is not None and np.size(zeros) > 1:
        axis = attribute(use.dequantize, "axis", 1)
    if axis is not None:
        axis = axis + values.ndim if axis < 0 else axis
        axis = axis if 0 <= axis < values.ndim else None
    if np.size(zeros) > 1 and (axis is None or values.shape[axis] != np.size(zeros)):
        zeros = 0  # blockwise quantization has several zero points per channel
    digits = "".join(letter for letter in dtype.partition("e")[0] if letter.isdigit())
    bits = 8 if dtype.startswith("float8") else int(digits or 8)
    return describe_weight(name, values, channel_axis=axis, dtype=dtype, bits=bits, zero_point=zeros)


def _channel_axis(use: _Use) -> int | None:
    position, axis = _WEIGHTS.get(use.node.op_type, (-1, None))
    if use.node.op_type == "Gemm":
        return 1 - attribute(use.node, "transB", 0) if use.position == 1 else None
    return axis if use.position == position else None


def graph_macs(graph: Any, count: MacCount, outer: Mapping[str, Shape]) -> None:
    """Add the multiply-adds of a graph whose shapes were inferred, and of its inner graphs once.

    Args:
        graph: a GraphProto with value_info.
        count: the sum.
        outer: shapes of tensors of the enclosing graphs.
    """
    shapes = {**outer, **_shapes(graph)}
    for node in graph.node:
        inner = [g for entry in node.attribute for g in (entry.g, *entry.graphs) if g.node]
        if inner:
            once = "both branches are counted" if node.op_type == "If" else "loop bodies are counted for one iteration"
            count.note(once)
        for body in inner:
            graph_macs(body, count, shapes)
        if node.op_type in {"LSTM", "GRU", "RNN"} and not attribute(node, "layout", 0):
            count.time_major |= any(value.name == node.input[0] for value in graph.input)
        if node.op_type in _NOT_COUNTED or node.domain not in {"", "ai.onnx", "ai.onnx.ml"}:
            count.note(f"{node.op_type} is not counted")
        elif node.op_type in _FORMULAS:
            try:
                count.total += _FORMULAS[node.op_type](node, [shapes[name] for name in node.input if name], shapes)
            except (KeyError, IndexError):
                count.fail(f"the shapes at {node.op_type} '{node.name or node.output[0]}' cannot be inferred")


def _shapes(graph: Any) -> dict[str, Shape]:
    found = {tensor.name: tuple(int(size) for size in tensor.dims) for tensor in constants_of(graph).values() if tensor.name}
    found |= {name: tuple(int(size) for size in tensor.dims) for name, tensor in constants_of(graph).items()}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            found[value.name] = tuple(int(dim.dim_value) for dim in tensor.shape.dim)
    return found


Formula = Callable[[Any, list[Shape], Mapping[str, Shape]], int]


def _conv(at: int) -> Formula:
    return lambda node, operands, shapes: conv_macs(shapes[node.output[0]], operands[at][1:])


def _matmul(node: Any, operands: list[Shape], shapes: Mapping[str, Shape]) -> int:
    return matmul_macs(shapes[node.output[0]], operands[0][-1])


def _gemm(node: Any, operands: list[Shape], shapes: Mapping[str, Shape]) -> int:
    return matmul_macs(shapes[node.output[0]], operands[0][0 if attribute(node, "transA", 0) else 1])


def _recurrent(node: Any, operands: list[Shape], shapes: Mapping[str, Shape]) -> int:
    return recurrent_macs(math.prod(operands[0][:2]), operands[1:3])


_FORMULAS: dict[str, Formula] = {
    "Conv": _conv(1),
    "ConvInteger": _conv(1),
    "QLinearConv": _conv(3),
    "ConvTranspose": lambda node, operands, shapes: transposed_conv_macs(operands[0], operands[1][1:]),
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearMatMul": _matmul,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
}
