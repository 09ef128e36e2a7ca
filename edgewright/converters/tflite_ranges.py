"""Ranges that training has learned: read from the QUANTIZE and DEQUANTIZE pairs of a float TFLite graph, which lose them."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgewright.converters.tflite_rewrite import drop_unused_tensors, rewrite

__all__ = ["Ranges", "has_ranges", "override", "take_ranges"]

Ranges = dict[str, tuple[float, float]]

_PASSIVE = (
    "RESHAPE",
    "SQUEEZE",
    "EXPAND_DIMS",
    "TRANSPOSE",
    "MAX_POOL_2D",
    "AVERAGE_POOL_2D",
    "RESIZE_NEAREST_NEIGHBOR",
    "STRIDED_SLICE",
    "SLICE",
    "GATHER",
    "PAD",
    "TILE",
    "BROADCAST_TO",
    "REVERSE_V2",
    "DEPTH_TO_SPACE",
    "SPACE_TO_DEPTH",
)
"""Ops whose result has the range of their first input: both take one scale."""


def has_ranges(ops: dict[str, int]) -> bool:
    """Whether a float graph holds such pairs, from its ops by name."""
    return "QUANTIZE" in ops and "DEQUANTIZE" in ops


def take_ranges(data: bytes) -> tuple[bytes, Ranges]:
    """A float graph without its pairs, and the smallest and largest value of each tensor that had one, by name.

    Args:
        data: .tflite content as TensorFlow's converter writes a graph with fake quantization: every rounded tensor goes
            through QUANTIZE (which holds scale and zero point) and DEQUANTIZE.
    """
    ranges: Ranges = {}

    def change(schema: Any, tree: Any) -> None:
        for graph in tree.subgraphs:
            _unwrap(schema, tree, graph, ranges)
        drop_unused_tensors(tree)

    return rewrite(data, change), ranges


def _unwrap(schema: Any, tree: Any, graph: Any, ranges: Ranges) -> None:
    kinds = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}

    def kind(op: Any) -> str:
        code = tree.operatorCodes[op.opcodeIndex]
        return str(kinds.get(max(code.builtinCode, code.deprecatedBuiltinCode), ""))

    made = {int(index) for op in graph.operators for index in op.outputs}
    place: dict[int, int] = {}
    gone: set[int] = set()
    found: dict[int, tuple[float, float]] = {}
    for op in graph.operators:
        source = int(op.inputs[0]) if op.inputs is not None and len(op.inputs) else -1
        if kind(op) not in {"QUANTIZE", "DEQUANTIZE"}:
            continue
        if kind(op) == "DEQUANTIZE" and source not in made and source not in graph.inputs:
            continue  # a constant that is stored in another type
        result = int(op.outputs[0])
        place[result] = source
        gone.add(id(op))
        if kind(op) == "QUANTIZE" and graph.tensors[source].type == schema.TensorType.FLOAT32:
            found[source] = _range_of(schema, graph.tensors[result])
    graph.operators = [op for op in graph.operators if id(op) not in gone]
    _replace(tree, graph, place)
    # The converter moves transpositions and the like between the two ops of a pair: what they give is float again.
    integers = {getattr(schema.TensorType, name) for name in ("INT8", "UINT8", "INT16", "UINT16")}
    for op in graph.operators if gone else ():
        for index in op.outputs:
            tensor = graph.tensors[int(index)]
            if tensor.type in integers and _is_scaled(tensor):
                found[int(index)] = _range_of(schema, tensor)
                tensor.type, tensor.quantization = schema.TensorType.FLOAT32, None
    ranges |= {_text(graph.tensors[index].name): own for index, own in found.items()}
    _spread(graph, kind, ranges)


def _is_scaled(tensor: Any) -> bool:
    return tensor.quantization is not None and tensor.quantization.scale is not None and len(tensor.quantization.scale) > 0


def _range_of(schema: Any, tensor: Any) -> tuple[float, float]:
    low, high = {
        schema.TensorType.INT8: (-128, 127),
        schema.TensorType.UINT8: (0, 255),
        schema.TensorType.INT16: (-32768, 32767),
        schema.TensorType.UINT16: (0, 65535),
    }[tensor.type]
    scale, zero = float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0])
    return scale * (low - zero), scale * (high - zero)


def _replace(tree: Any, graph: Any, place: dict[int, int]) -> None:
    """Let everything that took a DEQUANTIZE's result take the QUANTIZE's input, which inherits the names of results."""

    def now(index: int) -> int:
        while index in place:
            index = place[index]
        return index

    for op in graph.operators:
        op.inputs = np.asarray([now(int(index)) for index in op.inputs], np.int32)
    for index in graph.outputs:
        if int(index) in place:
            kept, left = graph.tensors[now(int(index))], graph.tensors[int(index)]
            kept.name, left.name = left.name, kept.name
    graph.outputs = np.asarray([now(int(index)) for index in graph.outputs], np.int32)
    for signature in tree.signatureDefs or ():
        if tree.subgraphs[signature.subgraphIndex] is graph:
            for output in signature.outputs:
                output.tensorIndex = now(int(output.tensorIndex))


def _spread(graph: Any, kind: Any, ranges: Ranges) -> None:
    """Give tensors that a passive op ties to one with a range the same one.

    Where both have one and the first has that of what it was computed of, or joins several, the converter has moved the pair
    behind the passive op and put a pair with the scales it already knew in its place: the second is the learned one.
    """
    name = [_text(tensor.name) for tensor in graph.tensors]
    makers = {int(index): op for op in graph.operators for index in op.outputs}
    for op in reversed(graph.operators):
        first, result = name[int(op.inputs[0])], name[int(op.outputs[0])]
        maker = makers.get(int(op.inputs[0]))
        if kind(op) in _PASSIVE and maker is not None and first in ranges and result in ranges:
            known = [ranges.get(name[int(index)]) for index in maker.inputs]
            if kind(maker) == "CONCATENATION" or ranges[first] in known:
                ranges[first] = ranges[result]
    for op in (*graph.operators, *reversed(graph.operators)):
        if kind(op) not in _PASSIVE:
            continue
        first, result = name[int(op.inputs[0])], name[int(op.outputs[0])]
        if first in ranges and result not in ranges:
            ranges[result] = ranges[first]
        elif result in ranges and first not in ranges:
            ranges[first] = ranges[result]


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def override(found: dict[str, dict[str, np.ndarray[Any, Any]]], learned: Ranges) -> None:
    """Put learned ranges in the place of measured ones, where there are any.

    Args:
        found: smallest and largest value by tensor, as calibration gives them; changed in place.
        learned: by tensor.
    """
    for name, (low, high) in learned.items():
        if name in found:
            own = found[name]
            found[name] = {**own, "min": np.full_like(own["min"], low), "max": np.full_like(own["max"], high)}
