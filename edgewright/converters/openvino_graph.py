"""What an OpenVINO graph computes and which of its constants are weights, read from its nodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgewright.converters.macs import MacCount, conv_macs, matmul_macs, recurrent_macs, transposed_conv_macs
from edgewright.converters.model_info import WeightInfo, describe_weight, unpack_bits

__all__ = ["ELEMENT_TYPES", "bodies_of", "nodes_of", "ov_macs", "ov_weights"]

ELEMENT_TYPES = {
    "f16": "float16",
    "f32": "float32",
    "f64": "float64",
    "bf16": "bfloat16",
    "boolean": "bool",
    **{f"{sign}{bits}": f"{name}{bits}" for sign, name in (("i", "int"), ("u", "uint")) for bits in (2, 4, 8, 16, 32, 64)},
}
"""OpenVINO's element types by their NumPy names."""

_RNN_WEIGHTS = {
    "LSTMSequence": (4, 5),
    "GRUSequence": (3, 4),
    "RNNSequence": (3, 4),
    "LSTMCell": (3, 4),
    "GRUCell": (2, 3),
    "RNNCell": (2, 3),
}
"""Operands that hold the input and recurrent matrices."""

_WEIGHTED = {
    "Convolution",
    "GroupConvolution",
    "ConvolutionBackpropData",
    "GroupConvolutionBackpropData",
    "MatMul",
    *_RNN_WEIGHTS,
}
_SETTINGS = {
    "FakeQuantize": frozenset({1, 2, 3, 4}),
    "BatchNormInference": frozenset({3, 4}),
    "Interpolate": frozenset({1, 2, 3}),
    "Pad": frozenset({1, 2, 3}),
}
"""Operands that are no trained values: ranges, statistics, sizes."""

_PASSING = {"Convert", "Subtract", "Multiply", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "FakeQuantize", "FakeConvert"}
"""Ops through which a constant stays a weight in another encoding or layout, if operand 0 is the constant."""

_NOT_COUNTED = {"Einsum", "ScaledDotProductAttention", "DeformableConvolution", "BinaryConvolution"}


@dataclass(frozen=True, slots=True)
class _Weight:
    """A constant, the node that computes with it as operand `position`, and the nodes between them, first one first.

    `scope` tells constants of the same name in different bodies apart.
    """

    constant: Any
    node: Any
    position: int
    between: tuple[Any, ...]
    scope: str


def nodes_of(model: Any) -> Iterator[Any]:
    """All nodes in execution order; the bodies of loops and branches follow their node."""
    for node in model.get_ordered_ops():
        yield node
        for body in bodies_of(node):
            yield from nodes_of(body)


def bodies_of(node: Any) -> list[Any]:
    """Graphs that a node calls."""
    kind = node.get_type_name()
    if kind in {"Loop", "TensorIterator"}:
        return [node.get_function()]
    return [node.get_function(0), node.get_function(1)] if kind == "If" else []


def ov_weights(model: Any) -> tuple[tuple[WeightInfo, ...], int]:
    """Constants that ops take as data, largest first, and the number of trained values."""
    found: dict[tuple[str, str], _Weight] = {}
    for weight in _weights(model, ""):
        key = (weight.scope, weight.constant.get_friendly_name())
        known = found.get(key)
        if known is None or (_type(weight.node) in _WEIGHTED and _type(known.node) not in _WEIGHTED):
            found[key] = weight
    parameters, described = 0, []
    for (_, name), weight in found.items():
        size = math.prod(weight.constant.shape)
        if size > 1 or _type(weight.node) in _WEIGHTED or _is_bias(weight):
            parameters += size
        if size > 1:
            described.append(_describe(name, weight))
    return tuple(sorted(described, key=lambda info: -math.prod(info.shape))), parameters


def _is_bias(weight: _Weight) -> bool:
    """Whether a constant is added to what a convolution or matrix product gives."""
    if _type(weight.node) != "Add":
        return False
    return _type(weight.node.input_value(1 - weight.position).get_node()) in _WEIGHTED


def _weights(model: Any, scope: str) -> Iterator[_Weight]:
    """Every use of a constant as data, loop bodies included."""
    encoded: dict[str, _Weight] = {}
    for node in model.get_ordered_ops():
        for at, body in enumerate(bodies_of(node)):
            yield from _weights(body, f"{scope}/{node.get_friendly_name()}.{at}")
        kind = _type(node)
        if kind in {"Constant", "Parameter", "Result"}:
            continue
        sources = [value.get_source_output().get_node() for value in node.inputs()]
        if kind in _PASSING and sources and all(_constant_behind(source, encoded, scope) is not None for source in sources):
            inner = _constant_behind(sources[0], encoded, scope)
            if inner is not None:
                encoded[node.get_friendly_name()] = replace(inner, between=(*inner.between, node))
                continue
        for position, source in enumerate(sources):
            inner = _constant_behind(source, encoded, scope)
            if inner is None or position in _SETTINGS.get(kind, ()):
                continue
            if _is_data(inner):
                yield replace(inner, node=node, position=position)


def _constant_behind(node: Any, encoded: dict[str, _Weight], scope: str) -> _Weight | None:
    """The constant that a node is, or that it passes on."""
    if _type(node) == "Constant":
        return _Weight(node, node, 0, (), scope)
    return encoded.get(node.get_friendly_name())


def _type(node: Any) -> str:
    return str(node.get_type_name())


def _is_data(weight: _Weight) -> bool:
    kind = weight.constant.get_element_type().to_string()
    if kind in {"boolean", "string"}:
        return False
    integer = kind in {"i16", "i32", "i64", "u16", "u32", "u64"}
    return not integer or any(_type(node) == "Multiply" for node in weight.between)


def _values(constant: Any) -> Any:
    """Stored values in the constant's shape; types of less than a byte unpacked, bfloat16 widened to float32."""
    element = constant.get_element_type()
    kind, shape = element.to_string(), tuple(constant.shape)
    data = constant.data
    if element.bitwidth in {1, 2, 4}:
        raw = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        values = unpack_bits(raw, element.bitwidth, signed=kind.startswith("i"))
        return values[: math.prod(shape)].reshape(shape)
    if kind == "bf16":
        raw = np.ascontiguousarray(data).reshape(-1).view(np.uint16)
        return (raw.astype(np.uint32) << 16).view(np.float32).reshape(shape)
    return data.reshape(shape)


def _describe(name: str, weight: _Weight) -> WeightInfo:
    constant = weight.constant
    values = _values(constant)
    element = constant.get_element_type()
    axis = _channel_axis(weight, values.shape)
    info = describe_weight(
        name,
        values,
        channel_axis=axis,
        dtype=ELEMENT_TYPES.get(element.to_string(), element.to_string()),
        bits=int(element.bitwidth),
    )
    zero = _zero_point(weight)
    if zero is None:
        return info
    zeros = int(np.count_nonzero(values.astype(np.float32) == zero))
    return replace(info, sparsity=zeros / max(values.size, 1))


def _zero_point(weight: _Weight) -> Any:
    """The stored value of 0.0 from the Subtract that follows the constant, broadcastable to it; None if there is none."""
    for node in weight.between:
        if _type(node) == "Subtract":
            source = node.input_value(1).get_node()
            while _type(source) == "Convert":
                source = source.input_value(0).get_node()
            if _type(source) == "Constant":
                return _values(source).astype(np.float32)
        elif _type(node) != "Convert":
            return None
    return None


def _channel_axis(weight: _Weight, shape: tuple[int, ...]) -> int | None:
    """The constant's axis of output channels; None where channels are not one axis of it."""
    kind, rank = _type(weight.node), len(shape)
    axis: int | None = None
    if weight.position == 1 and kind == "Convolution":
        axis = 0
    elif weight.position == 1 and kind == "ConvolutionBackpropData":
        axis = 1
    elif weight.position == 1 and kind in {"GroupConvolution", "GroupConvolutionBackpropData"}:
        per_group = weight.node.input_value(1).get_shape()[1 if kind == "GroupConvolution" else 2]
        axis = 0 if per_group == 1 else None
    elif weight.position == 1 and kind == "MatMul" and rank > 1:
        axis = rank - 2 if weight.node.get_attributes().get("transpose_b") else rank - 1
    elif weight.position == 0 and kind == "Gather":  # a table whose rows have scales of their own
        axis = _scaled_axis(weight, shape)
    if axis is None or not all(_type(node) in {"Reshape", "Transpose", "Squeeze", "Unsqueeze"} for node in _moves(weight)):
        return None
    kept = axis == 0 and all(_type(n) != "Transpose" and n.get_output_shape(0)[:1] == [*shape][:1] for n in _moves(weight))
    return axis if axis < rank and (not _moves(weight) or kept) else None


def _scaled_axis(weight: _Weight, shape: tuple[int, ...]) -> int | None:
    """The axis along which a quantized constant's scales differ; None if there is one scale, or none."""
    for node in weight.between:
        if _type(node) == "Multiply" and len(node.get_input_shape(1)) == len(shape):
            axes = [axis for axis, size in enumerate(node.get_input_shape(1)) if size > 1]
            return axes[0] if len(axes) == 1 else None
    return None


def _moves(weight: _Weight) -> list[Any]:
    """The nodes behind the constant that change its layout."""
    return [node for node in weight.between if _type(node) in {"Reshape", "Transpose", "Squeeze", "Unsqueeze"}]


def ov_macs(model: Any, count: MacCount) -> None:
    """Add the multiply-adds of a model whose shapes are all fixed; bodies of loops once."""
    for node in model.get_ordered_ops():
        kind = _type(node)
        for body in bodies_of(node):
            count.note("both branches are counted" if kind == "If" else "loop bodies are counted for one iteration")
            ov_macs(body, count)
        if kind in _NOT_COUNTED:
            count.note(f"{kind} is not counted")
        elif kind in _FORMULAS:
            try:
                count.total += _FORMULAS[kind](node, [list(v.get_shape()) for v in node.input_values()], _output(node))
            except (RuntimeError, IndexError):
                count.fail(f"the shapes at {kind} '{node.get_friendly_name()}' are not fixed")


def _output(node: Any) -> list[int]:
    return list(node.get_output_shape(0))


Formula = Callable[[Any, list[list[int]], list[int]], int]


def _recurrent(node: Any, operands: list[list[int]], output: list[int]) -> int:
    matrices = [operands[at] for at in _RNN_WEIGHTS[_type(node)]]
    return recurrent_macs(math.prod(operands[0][:-1]), matrices)


def _matmul(node: Any, operands: list[list[int]], output: list[int]) -> int:
    transposed = bool(node.get_attributes().get("transpose_a")) and len(operands[0]) > 1
    return matmul_macs(output, operands[0][-2 if transposed else -1])


_FORMULAS: dict[str, Formula] = {
    "Convolution": lambda node, operands, output: conv_macs(output, operands[1][1:]),
    "GroupConvolution": lambda node, operands, output: conv_macs(output, operands[1][2:]),
    "ConvolutionBackpropData": lambda node, operands, output: transposed_conv_macs(operands[0], operands[1][1:]),
    "GroupConvolutionBackpropData": lambda node, operands, output: transposed_conv_macs(operands[0], operands[1][2:]),
    "MatMul": _matmul,
    **dict.fromkeys(_RNN_WEIGHTS, _recurrent),
}
