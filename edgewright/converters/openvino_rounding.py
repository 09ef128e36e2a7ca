"""What an OpenVINO graph rounds: ops that compute on values that were not quantized, nodes of a layer, learned ranges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from edgewright.converters.tflite_file import NamedOp, layer_of

__all__ = ["float_ops", "narrowed", "nodes_of", "set_ranges"]

MOVES = frozenset(
    (
        "Reshape Transpose Concat Split VariadicSplit Squeeze Unsqueeze StridedSlice Slice Gather Pad Tile Broadcast MaxPool "
        "ReduceMax ReduceMin Minimum Maximum Relu Clamp Interpolate ShuffleChannels SpaceToDepth DepthToSpace Convert"
    ).split()
)
"""Ops that keep the quantized values they are given, or are fused into the op before them."""

MOVED_ONLY = frozenset("Reshape Transpose Squeeze Unsqueeze".split())
"""Ops whose result holds the values that it is given, all of them."""

JOINS = frozenset({"Concat", "Maximum", "Minimum"})
"""Those of them whose result is quantized only if all of their inputs are."""

CLIPS = frozenset({"Relu", "Clamp"})
"""Those of them that are computed within the op before them."""

CHOICES = frozenset({"MaxPool", "Maximum", "Minimum", "ReduceMax", "ReduceMin", "Interpolate", "Concat"}) | CLIPS
"""Those of them that run in float when they are given float values, instead of passing any bytes on."""

PRODUCTS = frozenset({"Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul"})

PLUMBING = frozenset("Parameter Result Constant FakeQuantize ShapeOf Range ConvertLike Assign ReadValue".split())


def float_ops(model: Any, layers: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Ops that compute on values that were not quantized: (type, tensor, layer), in topological order.

    An op computes in int8 when each of its floating inputs comes from a FakeQuantize or a constant, directly or through
    ops that only move or clip values; the bias of a convolution or matrix product is added within that op, and what
    comes from an op is clipped within it.
    """
    real: set[str] = set()
    for op in model.get_ordered_ops():
        kind = op.get_type_name()
        if kind in PLUMBING | (MOVES - CHOICES) or not op.outputs() or not _floating(op.output(0)):
            continue
        sources = _unmoved(_variable(op))
        if all(source.get_type_name() == "FakeQuantize" for source in sources):
            continue
        if kind == "Add" and len(_variable(op)) == 1 and all(source.get_type_name() in PRODUCTS for source in sources):
            continue
        if kind in CLIPS and all(_computed_quantized(source, real) for source in sources):
            continue
        real.add(op.get_friendly_name())
        name = _tensor_name(op)
        yield kind, name, layer_of(name, layers)


def nodes_of(model: Any, ops: Sequence[NamedOp]) -> list[str]:
    """Names of the nodes that OpenVINO made of ops of a .tflite file, in topological order.

    Args:
        model: in float, as read from the file.
        ops: of the file.
    """
    tensors = {name for op in ops for name in op.outputs}
    found = [op for op in model.get_ordered_ops() if op.get_type_name() not in PLUMBING and op.outputs()]
    return [str(op.get_friendly_name()) for op in found if _floating(op.output(0)) and _tensor_name(op) in tensors]


def set_ranges(model: Any, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Give FakeQuantize ops of activations the ranges of the tensors that they round, where these are known.

    Args:
        model: quantized; changed in place.
        ranges: smallest and largest value by tensor.
    """
    from openvino import opset13 as ops

    for op in model.get_ordered_ops():
        if op.get_type_name() != "FakeQuantize" or _from_constant(op.input_value(0).get_node()):
            continue
        known = next((ranges[name] for name in _names_around(op) if name in ranges), None)
        if known is None:
            continue
        for index, value in enumerate((*known, *known), start=1):
            shape = [1] * len(op.input_value(index).get_partial_shape())
            constant = ops.constant(np.full(shape, value, np.float32))
            op.input(index).replace_source_output(constant.output(0))


def narrowed(model: Any) -> Any:
    """A copy whose 8-bit weights are halved to 7 bits, in scales twice as large.

    Equal weights stay equal: halves are rounded to even numbers, which dividing by a new scale would leave to chance.
    Depthwise kernels stay as they are: their sums are short.
    """
    from openvino import opset13 as ops

    result = model.clone()
    for op in result.get_ordered_ops():
        if op.get_type_name() not in PRODUCTS or not _from_constant(op.input_value(1).get_node()):
            continue
        scaled = op.input_value(1).get_node()
        convert = scaled.input_value(0).get_node() if scaled.get_type_name() == "Multiply" else None
        if convert is None or convert.get_type_name() != "Convert":
            continue
        kernel = convert.input_value(0).get_node()
        if kernel.get_type_name() != "Constant" or kernel.get_element_type().get_type_name() != "i8":
            continue
        values = kernel.get_data()
        if op.get_type_name().startswith("Group") and int(np.prod(values.shape[1:3])) == 1:
            continue
        half = ops.constant(np.round(values / 2.0).astype(np.int8))
        half.set_friendly_name(kernel.get_friendly_name())
        scale = ops.constant(np.asarray(scaled.input_value(1).get_node().get_data() * 2.0, np.float32))
        scale.set_friendly_name(scaled.input_value(1).get_node().get_friendly_name())
        convert.input(0).replace_source_output(half.output(0))
        scaled.input(1).replace_source_output(scale.output(0))
    return result


def _names_around(op: Any) -> list[str]:
    """Names of the tensor that an op takes first, before and after it was only moved or rounded."""
    found: list[str] = []
    source = op.input_value(0)
    while True:
        found += sorted(source.get_names())
        node = source.get_node()
        if node.get_type_name() not in MOVED_ONLY or not node.inputs():
            break
        source = node.input_value(0)
    queue = [source]
    while queue:
        for taker in queue.pop().get_target_inputs():
            node = taker.get_node()
            if taker.get_index() == 0 and node.get_type_name() in MOVED_ONLY | {"FakeQuantize"}:
                found += sorted(node.output(0).get_names())
                queue.append(node.output(0))
    return found


def _computed_quantized(op: Any, real: set[str]) -> bool:
    """Whether an op or its bias is a product, which reports for both, or an op that computes on quantized values.

    Args:
        op: an op that stands before the one in question.
        real: names of the ops found so far that compute on values that were not quantized.
    """
    kind = op.get_type_name()
    return kind in PRODUCTS | {"FakeQuantize"} or (kind not in PLUMBING and op.get_friendly_name() not in real)


def _tensor_name(op: Any) -> str:
    """The name of an op's result, or of the nearest result behind it that has one; the op's own name if there is none."""
    queue = [op]
    seen: set[str] = set()
    while queue and len(seen) < 50:
        node = queue.pop(0)
        names = sorted(name for output in node.outputs() for name in output.get_names())
        if names:
            return str(min(names, key=len))
        seen.add(node.get_friendly_name())
        following = [target.get_node() for output in node.outputs() for target in output.get_target_inputs()]
        queue += [node for node in following if node.get_friendly_name() not in seen]
    return str(op.get_friendly_name())


def _floating(output: Any) -> bool:
    return bool(output.get_element_type().is_real())


def _variable(op: Any) -> list[Any]:
    """Nodes of an op's floating inputs that depend on the model's inputs."""
    sources = [value.get_source_output().get_node() for value in op.inputs() if _floating(value.get_source_output())]
    return [source for source in sources if not _from_constant(source)]


def _unmoved(nodes: Iterable[Any]) -> list[Any]:
    """The nodes whose values these are, before they were moved, joined or clipped; each once."""
    queue, found = list(nodes), []
    seen: set[str] = set()
    while queue:
        node = queue.pop()
        name, kind = node.get_friendly_name(), node.get_type_name()
        if name in seen:
            continue
        seen.add(name)
        if kind in JOINS:
            queue += _variable(node)
        elif kind in MOVES and node.inputs():
            queue.append(node.input_value(0).get_node())
        else:
            found.append(node)
    return found


def _from_constant(node: Any) -> bool:
    """Whether a value does not depend on the model's inputs."""
    if node.get_type_name() in {"Constant"}:
        return True
    if node.get_type_name() in {"Parameter", "ReadValue"} or not node.inputs():
        return False
    return all(_from_constant(value.get_source_output().get_node()) for value in node.inputs())
