"""The float graph that an OpenVINO file is made of, read from a .tflite or .onnx file; what training has learned for it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.converters.openvino_rounding import MOVED_ONLY
from edgewright.converters.tflite_file import NamedOp, named_ops
from edgewright.converters.tflite_parse import parse
from edgewright.converters.tflite_ranges import Ranges, has_ranges, take_ranges
from edgewright.converters.tflite_rewrite import rewrite, unfuse_transposed
from edgewright.errors import ConversionError, UnsupportedError

__all__ = ["Source", "read_source"]

_SPREAD = MOVED_ONLY | {"Broadcast", "Tile"}
"""Ops that give zeros for zeros."""


@dataclass(frozen=True, slots=True)
class Source:
    """A model in float.

    Args:
        path: of the file.
        model: its graph, without the ranges that training has learned.
        plain: the bytes of the .tflite file without these ranges; empty for other formats.
        ranges: smallest and largest value of tensors, by name.
        trained: the graph that rounds to these ranges; None if there are none.
    """

    path: Path
    model: Any
    plain: bytes = b""
    ranges: Ranges = field(default_factory=dict)
    trained: Any = None

    def kept(self, patterns: Sequence[str], layers: Sequence[str]) -> list[NamedOp]:
        """Ops of the layers that are to stay float.

        Raises:
            UsageError: a pattern matches no layer.
            UnsupportedError: the file is no .tflite.
        """
        if patterns and not self.plain:
            raise UnsupportedError(
                f"keep_float names layers of a Keras model, {self.path} is none and was not made of one",
                hint="convert from the Keras model",
            )
        return named_ops(self.plain, "keep_float", patterns, layers) if patterns else []


def read_source(reader: Any) -> Source:
    """Read a file; activations that are fused into transposed convolutions get ops of their own: OpenVINO 2026.4 drops them.

    Args:
        reader: of the file.

    Raises:
        ConversionError: OpenVINO lost an output.
        RuntimeError: OpenVINO cannot read the file.
    """
    import openvino as ov

    if reader.format != "tflite":
        return Source(reader.path, ov.Core().read_model(str(reader.path)))
    with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:

        def read(data: bytes) -> Any:
            file = Path(folder) / "model.tflite"
            file.write_bytes(rewrite(data, unfuse_transposed))
            model = _complete(ov.Core().read_model(str(file)), file)
            _drop_products_of_zeros(model)
            return model

        data = reader.path.read_bytes()
        if not has_ranges(dict(reader.info().ops)):
            return Source(reader.path, read(data), data)
        plain, ranges = take_ranges(data)
        return Source(reader.path, read(plain), plain, ranges, read(data))


def _drop_products_of_zeros(model: Any) -> None:
    """Put zeros for zeros times a kernel, or nothing where they are added: the first state of an unrolled recurrent layer.

    NNCF does not quantize such a product, and its kernel would stay in the file in float beside the integer one.
    """
    from openvino import opset13 as ops

    for op in model.get_ordered_ops():
        result = op.output(0).get_partial_shape() if op.get_type_name() == "MatMul" else None
        if result is None or len(result) != 2 or result[1].is_dynamic or not _zeros(op.input_value(0).get_node()):
            continue
        for taker in op.output(0).get_target_inputs():
            total = taker.get_node()
            other = total.input_value(1 - taker.get_index()) if total.get_type_name() == "Add" else None
            if other is not None and other.get_partial_shape() == total.output(0).get_partial_shape():
                total.output(0).replace(other)
        rows = ops.gather(ops.shape_of(op.input_value(0), "i64"), np.array([0]), np.array(0))
        shape = ops.concat([rows, ops.constant(np.array([result[1].get_length()]))], 0)
        zeros = ops.broadcast(ops.constant(np.float32(0.0)), shape)
        zeros.set_friendly_name(op.get_friendly_name())
        op.output(0).replace(zeros.output(0))


def _zeros(node: Any) -> bool:
    """Whether a result is 0 everywhere, whatever the model is given."""
    while node.get_type_name() in _SPREAD:
        node = node.input_value(0).get_node()
    return node.get_type_name() == "Constant" and not np.any(node.get_data())


def _complete(model: Any, source: Path) -> Any:
    """The model with all results of a .tflite file in its order; OpenVINO drops constant ones and second ones of a tensor."""
    from openvino import Model
    from openvino import opset13 as ops

    file = parse(source)
    graph = file.graphs[file.signatures[0].graph if file.signatures else 0]
    names = [graph.tensors[index].name for index in graph.outputs]
    known = {name: port.get_node().input_value(0) for port in model.outputs for name in port.get_names()}
    known |= {name: port for port in model.inputs for name in port.get_names()}
    if len(names) == len(model.outputs) == len(set(names)):
        return model
    results = []
    for name, index in zip(names, graph.outputs, strict=True):
        tensor = graph.tensors[index]
        if name not in known and file.constant(tensor):
            known[name] = ops.constant(file.values(tensor).reshape(tensor.shape)).output(0)
        if name not in known:
            raise ConversionError(f"OpenVINO lost the output '{name}' of {source}")
        results.append(ops.result(known[name]))
    return Model(results, model.get_parameters(), "model")
