"""A .tflite file as plain Python values, every length and index checked before it is used; no interpreter, no TensorFlow."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.converters.model_info import corrupt, reading, unpack_bits
from edgewright.errors import ModelError, UnsupportedError, needs

__all__ = ["DTYPES", "Graph", "Op", "Signature", "Tensor", "TfliteFile", "op_name", "parse"]

Array = np.ndarray[Any, Any]

DTYPES: dict[int, tuple[str, int]] = {
    0: ("float32", 32),
    1: ("float16", 16),
    2: ("int32", 32),
    3: ("uint8", 8),
    4: ("int64", 64),
    5: ("string", 0),
    6: ("bool", 8),
    7: ("int16", 16),
    8: ("complex64", 64),
    9: ("int8", 8),
    10: ("float64", 64),
    11: ("complex128", 128),
    12: ("uint64", 64),
    13: ("resource", 0),
    14: ("variant", 0),
    15: ("uint32", 32),
    16: ("uint16", 16),
    17: ("int4", 4),
    18: ("bfloat16", 16),
    19: ("int2", 2),
    20: ("uint4", 4),
    21: ("float8_e4m3fn", 8),
    22: ("float8_e5m2", 8),
}
"""TensorType of the LiteRT schema: name and bits per value, 0 bits for what has no fixed size."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a graph.

    Args:
        name: as written in the file.
        shape: sizes, free ones as 1.
        signature: sizes, free ones as None.
        dtype: a name of `DTYPES`.
        bits: bits per value, 0 if values have no fixed size.
        buffer: index of the buffer that holds a constant's values; buffers without data mean "not constant".
        scales: quantization steps, one or one per channel; empty if not quantized.
        zero_points: stored values of 0.0, as many as scales.
        channel_axis: the axis that `scales` runs along.
        sparse: whether the buffer holds only the values that are not zero.
    """

    name: str
    shape: tuple[int, ...]
    signature: tuple[int | None, ...]
    dtype: str
    bits: int
    buffer: int
    scales: Array
    zero_points: Array
    channel_axis: int
    sparse: bool

    @property
    def is_float(self) -> bool:
        """Whether values are computed with in floating point."""
        return self.dtype.startswith(("float", "bfloat", "complex"))


@dataclass(frozen=True, slots=True)
class Op:
    """One operator of a graph.

    Args:
        name: builtin name in capitals, or the custom op's own name.
        custom: whether it is a custom op.
        inputs: tensor indexes, -1 for an operand that is left out.
        outputs: tensor indexes.
        graphs: indexes of the graphs it calls: the body first, then the condition.
        adj_x: BATCH_MATMUL takes its first operand transposed.
    """

    name: str
    custom: bool
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    graphs: tuple[int, ...]
    adj_x: bool


@dataclass(frozen=True, slots=True)
class Graph:
    """One subgraph: its tensors, its operators in execution order, and which tensors go in and out."""

    tensors: tuple[Tensor, ...]
    ops: tuple[Op, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """A SignatureDef: names for the inputs and outputs of one graph, as (name, tensor index)."""

    key: str
    graph: int
    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class TfliteFile:
    """A parsed file. Buffers are views of the file's bytes, also those behind the FlatBuffer: nothing is copied."""

    graphs: tuple[Graph, ...]
    buffers: tuple[Array, ...]
    signatures: tuple[Signature, ...]
    metadata: dict[str, int]

    def constant(self, tensor: Tensor) -> bool:
        """Whether a tensor's values stand in the file."""
        return tensor.buffer > 0 and self.buffers[tensor.buffer].size > 0

    def values(self, tensor: Tensor) -> Array:
        """Stored values of a constant, in the tensor's shape.

        2- and 4-bit values are unpacked to int8 or uint8, bfloat16 is widened to float32, 8-bit floats are raw uint8.
        Values of a sparse tensor come first, in storage order, and zeros fill up.
        """
        raw = self.buffers[tensor.buffer]
        count = math.prod(tensor.shape)
        if tensor.bits < 8:
            stored = unpack_bits(raw, tensor.bits, signed=not tensor.dtype.startswith("u"))
        elif tensor.dtype == "bfloat16":
            stored = (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            stored = raw.view(np.uint8 if tensor.dtype.startswith("float8") else np.dtype(tensor.dtype).newbyteorder("<"))
        if tensor.sparse:
            stored = np.concatenate([stored, np.zeros(max(count - stored.size, 0), stored.dtype)])
        return stored[:count].reshape(tensor.shape)


@cache
def _op_names() -> dict[int, str]:
    with needs("convert"):
        from ai_edge_litert import schema_py_generated as schema
    return {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}


def op_name(builtin: int, deprecated: int, custom: str | None, path: Path | None = None) -> str:
    """An operator's name from its OperatorCode: old files have the code in `deprecated_builtin_code`, a signed byte.

    Args:
        builtin: the code.
        deprecated: the code of old files.
        custom: the custom operator's name.
        path: the file, for the message.

    Raises:
        ModelError: the schema has no operator of this number.
    """
    name = _op_names().get(max(builtin, deprecated))
    if name is None:
        raise ModelError(
            f"operator code {max(builtin, deprecated)}{f' in {path}' if path else ''} "
            "is not in the LiteRT schema that is installed",
            hint="the file is corrupt, or newer than the installed ai-edge-litert",
        )
    return (custom or "CUSTOM") if name == "CUSTOM" else name


def parse(path: Path, data: bytes | None = None) -> TfliteFile:
    """Read a .tflite file.

    Args:
        path: the file; only named in messages if `data` is given.
        data: the file's content, if it is in memory.

    Raises:
        ModelError: the file is corrupt or truncated.
        UnsupportedError: weights are stored in another file.
    """
    with reading(path):
        return _Parser(path, path.read_bytes() if data is None else data).file()


class _Parser:
    """Walks the FlatBuffer; `path` names the file in errors."""

    def __init__(self, path: Path, data: bytes) -> None:
        with needs("convert"):
            from ai_edge_litert import schema_py_generated as schema
        self.path = path
        self.data = data
        self.size = len(data)
        self.schema = schema
        if self.size < 16 or data[4:8] != b"TFL3":
            raise corrupt(path, "it does not start with the TFLite file identifier TFL3")
        self.model = schema.Model.GetRootAs(data)

    def check(self, good: bool, why: str) -> None:
        if not good:
            raise corrupt(self.path, why)

    def each(self, count: int, get: Callable[[int], Any]) -> Iterator[Any]:
        """The tables of a vector, whose length must fit into the file."""
        self.check(count * 4 <= self.size, f"a list of {count} entries cannot fit into {self.size} bytes")
        for index in range(count):
            yield get(index)

    def ints(self, values: Any, low: int, high: int, what: str) -> tuple[int, ...]:
        """An integer vector with every value in [low, high); the accessors give 0 for an absent one."""
        found = tuple(int(v) for v in values) if isinstance(values, np.ndarray) else ()
        self.check(all(low <= v < high for v in found), f"a {what} is outside of {low}..{high - 1}")
        return found

    def file(self) -> TfliteFile:
        model = self.model
        self.check(model.Version() == 3, f"schema version {model.Version()}, expected 3")
        buffers = tuple(self.buffer(b) for b in self.each(model.BuffersLength(), model.Buffers))
        codes = [
            (op_name(c.BuiltinCode(), c.DeprecatedBuiltinCode(), _text(c.CustomCode()), self.path), bool(c.CustomCode()))
            for c in self.each(model.OperatorCodesLength(), model.OperatorCodes)
        ]
        count = model.SubgraphsLength()
        self.check(count > 0, "it has no graph")
        graphs = tuple(self.graph(g, codes, count, buffers) for g in self.each(count, model.Subgraphs))
        signatures = tuple(self.signature(s, graphs) for s in self.each(model.SignatureDefsLength(), model.SignatureDefs))
        metadata = {}
        for entry in self.each(model.MetadataLength(), model.Metadata):
            self.check(entry.Buffer() < len(buffers), f"metadata names buffer {entry.Buffer()} of {len(buffers)}")
            metadata[_text(entry.Name())] = int(entry.Buffer())
        return TfliteFile(graphs, buffers, signatures, metadata)

    def buffer(self, table: Any) -> Array:
        if table.Offset() > 1:
            start, size = int(table.Offset()), int(table.Size())
            self.check(start + size <= self.size, f"a buffer ends at byte {start + size} of {self.size}")
            return np.frombuffer(self.data, np.uint8, size, start)
        data = table.DataAsNumpy()
        return data if isinstance(data, np.ndarray) else np.empty(0, np.uint8)

    def graph(self, table: Any, codes: list[tuple[str, bool]], graphs: int, buffers: tuple[Array, ...]) -> Graph:
        tensors = tuple(self.tensor(t, buffers) for t in self.each(table.TensorsLength(), table.Tensors))
        ops = tuple(self.op(o, codes, len(tensors), graphs) for o in self.each(table.OperatorsLength(), table.Operators))
        inputs = self.ints(table.InputsAsNumpy(), 0, len(tensors), "graph input")
        outputs = self.ints(table.OutputsAsNumpy(), 0, len(tensors), "graph output")
        return Graph(tensors, ops, inputs, outputs)

    def tensor(self, table: Any, buffers: tuple[Array, ...]) -> Tensor:
        name = _text(table.Name())
        shape = self.ints(table.ShapeAsNumpy(), 0, 1 << 31, f"size of tensor '{name}'")
        free = self.ints(table.ShapeSignatureAsNumpy(), -1, 1 << 31, f"free size of tensor '{name}'") or shape
        self.check(len(free) == len(shape), f"tensor '{name}' has {len(shape)} sizes but {len(free)} free ones")
        self.check(table.Type() in DTYPES, f"tensor '{name}' has the unknown type {table.Type()}")
        self.check(table.Buffer() < len(buffers), f"tensor '{name}' has buffer {table.Buffer()} of {len(buffers)}")
        if table.ExternalBuffer():
            raise UnsupportedError(
                f"{self.path} keeps the weights of tensor '{name}' in another file",
                hint="export the model as one file",
            )
        dtype, bits = DTYPES[table.Type()]
        scales, zeros, axis = self.quantization(table.Quantization(), name, shape)
        tensor = Tensor(
            name,
            shape,
            tuple(None if size < 0 else size for size in free),
            dtype,
            bits,
            int(table.Buffer()),
            scales,
            zeros,
            axis,
            table.Sparsity() is not None,
        )
        stored, expected = buffers[tensor.buffer].size, (math.prod(shape) * bits + 7) // 8
        fits = stored <= expected and stored * 8 % bits == 0 if tensor.sparse and bits else stored == expected
        if tensor.buffer and stored and bits:
            self.check(fits, f"tensor '{name}' takes {expected} bytes, its buffer has {stored}")
        return tensor

    def quantization(self, table: Any, name: str, shape: tuple[int, ...]) -> tuple[Array, Array, int]:
        scales = np.empty(0, np.float32)
        if table is None or not table.ScaleLength():
            return scales, np.empty(0, np.int64), 0
        scales, zeros, axis = table.ScaleAsNumpy(), table.ZeroPointAsNumpy(), int(table.QuantizedDimension())
        zeros = zeros if isinstance(zeros, np.ndarray) and zeros.size else np.zeros(scales.size, np.int64)
        self.check(zeros.size == scales.size, f"tensor '{name}' has {scales.size} scales but {zeros.size} zero points")
        if scales.size > 1:
            good = 0 <= axis < len(shape) and shape[axis] == scales.size
            self.check(good, f"tensor '{name}' of shape {shape} has {scales.size} scales along axis {axis}")
        self.check(bool(np.isfinite(scales).all()), f"tensor '{name}' has a scale that is no finite number")
        return scales, zeros, axis

    def op(self, table: Any, codes: list[tuple[str, bool]], tensors: int, graphs: int) -> Op:
        self.check(table.OpcodeIndex() < len(codes), f"an operator has code {table.OpcodeIndex()} of {len(codes)}")
        name, custom = codes[table.OpcodeIndex()]
        inputs = self.ints(table.InputsAsNumpy(), -1, tensors, f"operand of {name}")
        outputs = self.ints(table.OutputsAsNumpy(), 0, tensors, f"result of {name}")
        called: tuple[int, ...] = ()
        getters = {
            "WHILE": ("WhileOptions", "BodySubgraphIndex", "CondSubgraphIndex"),
            "IF": ("IfOptions", "ThenSubgraphIndex", "ElseSubgraphIndex"),
            "CALL_ONCE": ("CallOnceOptions", "InitSubgraphIndex"),
        }
        if name in getters:
            options = self.options(table, getters[name][0])
            called = tuple(int(getattr(options, get)()) for get in getters[name][1:])
            self.check(all(0 <= index < graphs for index in called), f"{name} calls graph {called} of {graphs}")
        adj_x = name == "BATCH_MATMUL" and bool(self.options(table, "BatchMatMulOptions").AdjX())
        return Op(name, custom, inputs, outputs, called, adj_x)

    def options(self, table: Any, kind: str) -> Any:
        raw = table.BuiltinOptions()
        options = getattr(self.schema, kind)()
        if raw is None or table.BuiltinOptionsType() != getattr(self.schema.BuiltinOptions, kind):
            raise corrupt(self.path, f"an operator lacks its {kind}")
        options.Init(raw.Bytes, raw.Pos)
        return options

    def signature(self, table: Any, graphs: tuple[Graph, ...]) -> Signature:
        key, index = _text(table.SignatureKey()), int(table.SubgraphIndex())
        self.check(index < len(graphs), f"signature '{key}' names graph {index} of {len(graphs)}")
        count = len(graphs[index].tensors)
        inputs = tuple((_text(m.Name()), int(m.TensorIndex())) for m in self.each(table.InputsLength(), table.Inputs))
        outputs = tuple((_text(m.Name()), int(m.TensorIndex())) for m in self.each(table.OutputsLength(), table.Outputs))
        self.check(all(t < count for _, t in (*inputs, *outputs)), f"signature '{key}' names a tensor that is not there")
        return Signature(key, index, inputs, outputs)


def _text(raw: bytes | None) -> str:
    return (raw or b"").decode("utf-8")
