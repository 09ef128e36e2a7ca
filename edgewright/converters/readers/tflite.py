"""Reads .tflite files through the LiteRT schema: nothing is executed, no TensorFlow, no interpreter."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from edgewright.artifact import TensorSpec, deflated_bytes, looks_like, raw_bytes
from edgewright.converters.macs import MacCount, conv_macs, matmul_macs, recurrent_macs, transposed_conv_macs
from edgewright.converters.model_info import ModelInfo, WeightInfo, describe_weight, reading
from edgewright.converters.readers import READERS
from edgewright.converters.tflite_file import read_metadata, several_signatures
from edgewright.converters.tflite_parse import Graph, Op, Tensor, TfliteFile, parse

__all__ = ["TfliteReader"]

_CHANNEL_AXIS = {
    "CONV_2D": 0,
    "DEPTHWISE_CONV_2D": 3,
    "FULLY_CONNECTED": 0,
    "TRANSPOSE_CONV": 0,
    "CONV_3D": 4,
    "CONV_3D_TRANSPOSE": 3,
}
"""Axis of the output channels in the filter (operand 1)."""

_SEQUENCE_RNN = {
    "UNIDIRECTIONAL_SEQUENCE_LSTM",
    "BIDIRECTIONAL_SEQUENCE_LSTM",
    "UNIDIRECTIONAL_SEQUENCE_RNN",
    "BIDIRECTIONAL_SEQUENCE_RNN",
    "LSTM",
    "RNN",
}
_WEIGHTED = {*_CHANNEL_AXIS, *_SEQUENCE_RNN, "SVDF"}
_NOT_COUNTED = {"STABLEHLO_CONVOLUTION", "STABLEHLO_DOT_GENERAL", "STABLEHLO_COMPOSITE"}
_DECODERS = {"DEQUANTIZE", "DENSIFY"}
"""Ops through which a constant stays the same weight in another encoding."""


@dataclass(frozen=True, slots=True)
class _Use:
    """A constant and the operator that takes it as operand number `position`, behind any decoder."""

    tensor: Tensor
    op: Op
    position: int


@READERS.register("tflite")
class TfliteReader:
    """A .tflite file.

    Args:
        path: the file.
        trust: ignored, the format carries no code.
        custom: ignored.

    Raises:
        ModelError: the file is corrupt, truncated, or not TFLite.
        UnsupportedError: the file has more than one signature, or weights in another file.
    """

    format: ClassVar[str] = "tflite"
    consumes_code: ClassVar[bool] = False

    def __init__(self, path: Path, *, trust: bool = False, custom: str | None = None) -> None:
        self.path = path
        self._file = parse(path)
        signatures = self._file.signatures
        if len(signatures) > 1:
            raise several_signatures(path, [signature.key for signature in signatures])
        self._signature = signatures[0] if signatures else None
        self._main = self._signature.graph if self._signature else 0

    @staticmethod
    def sniff(path: Path) -> bool:
        """Whether the file has TFLite's file identifier."""
        return looks_like(path) == "tflite"

    def specs(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs in the main graph's order, named by the signature where there is one, else by tensor."""
        graph, signed = self._file.graphs[self._main], self._signature
        return (
            _specs(graph, graph.inputs, signed.inputs if signed else ()),
            _specs(graph, graph.outputs, signed.outputs if signed else ()),
        )

    def preprocess(self) -> dict[str, Any]:
        """The preprocessing that Edgewright stored in the file, by input name; empty if there is none."""
        return dict((read_metadata(self.path) or {}).get("preprocess") or {})

    def info(self) -> ModelInfo:
        """All that `inspect` shows; ops of loop bodies are counted once."""
        with reading(self.path):
            inputs, outputs = self.specs()
            weights, parameters, notes = self._weights()
            count = MacCount()
            self._macs(self._main, count, frozenset())
            macs, macs_note = count.result(inputs, outputs)
            ops = Counter(op.name for graph in self._file.graphs for op in graph.ops)
            custom = sorted({op.name for graph in self._file.graphs for op in graph.ops if op.custom})
            if custom:
                notes.append(f"custom ops: {', '.join(custom)}")
            if len(self._file.graphs) > 1:
                notes.append(f"{len(self._file.graphs)} graphs: ops of loop and branch bodies are counted once")
            return ModelInfo(
                format=self.format,
                inputs=inputs,
                outputs=outputs,
                ops=dict(sorted(ops.items())),
                weights=weights,
                parameters=parameters,
                macs=macs,
                macs_note=macs_note,
                raw_bytes=raw_bytes(self.path),
                deflated_bytes=deflated_bytes(self.path),
                notes=tuple(notes),
            )

    def _uses(self) -> Iterator[_Use]:
        """The first use of every constant that operators take as data; tensors that share a buffer count once."""
        for graph in self._file.graphs:
            source = {op.outputs[0]: op.inputs[0] for op in graph.ops if op.name in _DECODERS and op.inputs and op.outputs}
            for op in graph.ops:
                if op.name in _DECODERS:
                    continue
                for position, index in enumerate(op.inputs):
                    seen = {index}
                    while index in source and source[index] not in seen:
                        index = source[index]
                        seen.add(index)
                    if index >= 0 and self._file.constant(graph.tensors[index]):
                        yield _Use(graph.tensors[index], op, position)

    def _weights(self) -> tuple[tuple[WeightInfo, ...], int, list[str]]:
        found: dict[int, _Use] = {}
        for use in filter(_is_data, self._uses()):
            if use.op.graphs and not self._file.values(use.tensor).any():
                continue  # the state that a loop starts from
            known = found.get(use.tensor.buffer)
            if known is None or (use.op.name in _WEIGHTED and known.op.name not in _WEIGHTED):
                found[use.tensor.buffer] = use
        described, parameters, sparse = [], 0, 0
        for use in found.values():
            size = math.prod(use.tensor.shape)
            if size > 1 or use.op.name in _WEIGHTED:
                parameters += size
            if size > 1:
                described.append(self._describe(use))
                sparse += use.tensor.sparse
        notes = [f"{sparse} weights are stored in TFLite's sparse encoding"] if sparse else []
        return tuple(sorted(described, key=lambda w: -math.prod(w.shape))), parameters, notes

    def _describe(self, use: _Use) -> WeightInfo:
        tensor = use.tensor
        axis: int | None = None
        if tensor.scales.size > 1:
            axis = tensor.channel_axis
        elif use.position == 1 and use.op.name in _CHANNEL_AXIS:
            axis = _CHANNEL_AXIS[use.op.name]
        if tensor.sparse or (axis is not None and axis >= len(tensor.shape)):
            axis = None  # values of a sparse tensor are not in their places
        zeros = tensor.zero_points if axis is not None or tensor.zero_points.size == 1 else 0
        values = self._file.values(tensor)
        return describe_weight(tensor.name, values, channel_axis=axis, dtype=tensor.dtype, bits=tensor.bits, zero_point=zeros)

    def _macs(self, index: int, count: MacCount, outer: frozenset[int]) -> None:
        """Add one graph and the graphs that it calls, each call once."""
        graph = self._file.graphs[index]
        for op in graph.ops:
            if op.graphs:
                if op.name == "WHILE":
                    count.note("loop bodies are counted for one iteration")
                elif op.name == "IF":
                    count.note("both branches are counted")
                for callee in op.graphs:
                    if callee in outer or callee == index:
                        count.fail("graphs call each other in a circle")
                    else:
                        self._macs(callee, count, outer | {index})
            elif op.custom or op.name in _NOT_COUNTED:
                count.note(f"{op.name} is not counted")
            else:
                count.total += _op_macs(op, graph, self._file)


def _specs(graph: Graph, indexes: tuple[int, ...], named: tuple[tuple[str, int], ...]) -> tuple[TensorSpec, ...]:
    """Specs of some tensors; a tensor that stands there twice takes its names in the signature's order."""
    names: dict[int, list[str]] = {}
    for name, index in named:
        names.setdefault(index, []).append(name)
    specs = []
    for index in indexes:
        tensor, own = graph.tensors[index], names.get(index, [])
        quantized = tensor.scales.size == 1 and not tensor.is_float
        specs.append(
            TensorSpec(
                name=(own.pop(0) if len(own) > 1 else own[0]) if own else tensor.name,
                shape=tensor.signature,
                dtype=tensor.dtype,
                scale=float(tensor.scales[0]) if quantized else None,
                zero_point=int(tensor.zero_points[0]) if quantized else None,
            )
        )
    return tuple(specs)


def _is_data(use: _Use) -> bool:
    """Whether a constant is a weight, a bias or a table: shapes, axes, paddings and indexes are plain int32 or int64."""
    tensor = use.tensor
    if tensor.dtype in {"string", "resource", "variant", "bool"}:
        return False
    plain_integer = tensor.dtype in {"int32", "int64", "uint32", "uint64"} and not tensor.scales.size
    return not plain_integer or (use.op.name in _WEIGHTED and use.position == 2 and use.op.name != "TRANSPOSE_CONV")


def _op_macs(op: Op, graph: Graph, file: TfliteFile) -> int:
    """Multiply-adds of one operator; layouts are those of the TFLite op set (filters OHWI, DHWIO, dense OI)."""

    def shape(position: int) -> tuple[int, ...]:
        return graph.tensors[op.inputs[position]].shape

    out = graph.tensors[op.outputs[0]].shape if op.outputs else ()
    if op.name == "CONV_2D":
        return conv_macs(out, shape(1)[1:])
    if op.name == "DEPTHWISE_CONV_2D":
        return conv_macs(out, shape(1)[1:3])
    if op.name == "CONV_3D":
        return conv_macs(out, shape(1)[:4])
    if op.name == "TRANSPOSE_CONV":
        return transposed_conv_macs(shape(2), shape(1)[:3])
    if op.name == "CONV_3D_TRANSPOSE":
        return transposed_conv_macs(shape(2), shape(1)[:4])
    if op.name == "FULLY_CONNECTED":
        return matmul_macs(out, shape(1)[-1])
    if op.name == "BATCH_MATMUL":
        return matmul_macs(out, shape(0)[-2 if op.adj_x else -1])
    if op.name in _SEQUENCE_RNN or op.name == "SVDF":
        operands = [graph.tensors[i] for i in op.inputs[1:] if i >= 0]
        matrices = [tensor.shape for tensor in operands if len(tensor.shape) == 2 and file.constant(tensor)]
        return recurrent_macs(math.prod(shape(0)[:-1]), matrices)
    return 0
