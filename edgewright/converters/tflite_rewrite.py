"""Rewrites of a TFLite graph that keep what it computes: float16 weights, integer forms of ops, loose ends."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from edgewright.errors import needs

__all__ = ["float16_weights", "rewrite", "settle_unused_outputs", "use_integer_forms"]


def rewrite(data: bytes, change: Callable[[Any, Any], None]) -> bytes:
    """Apply a change to a file's object tree and pack it again.

    Args:
        data: content of a .tflite file.
        change: called with the LiteRT schema module and the `ModelT`.
    """
    with needs("convert"):
        import flatbuffers
        from ai_edge_litert import schema_py_generated as schema
    tree = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data))
    change(schema, tree)
    builder = flatbuffers.Builder(len(data) + (1 << 16))
    builder.Finish(tree.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def float16_weights(schema: Any, tree: Any) -> None:
    """Store every float32 constant as float16 and let a DEQUANTIZE op restore it (how TFLite stores float16 models).

    Constants that float16 cannot hold (beyond 65,504) and single values stay float32.
    """
    kinds = schema.TensorType
    halves: dict[int, bool] = {}
    for graph in tree.subgraphs:
        used = {int(i) for op in graph.operators for i in op.inputs}
        outputs = {int(i) for i in graph.outputs}
        restore = []
        for index in sorted(used - outputs):
            tensor = graph.tensors[index] if index >= 0 else None
            data = tree.buffers[tensor.buffer].data if tensor is not None else None
            if tensor is None or tensor.type != kinds.FLOAT32 or data is None or not _halve(tree, tensor.buffer, halves):
                continue
            stored = copy.copy(tensor)
            stored.type, stored.name = kinds.FLOAT16, tensor.name + b"/float16" if isinstance(tensor.name, bytes) else tensor.name
            tensor.buffer = 0
            graph.tensors.append(stored)
            restore.append(_operator(schema, tree, schema.BuiltinOperator.DEQUANTIZE, [len(graph.tensors) - 1], [index]))
        graph.operators = [*restore, *graph.operators]


def _halve(tree: Any, buffer: int, halves: dict[int, bool]) -> bool:
    """Turn a buffer of float32 values into float16 once; whether it is float16 now."""
    if buffer not in halves:
        values = np.frombuffer(bytes(tree.buffers[buffer].data), np.float32)
        fits = values.size > 1 and bool(np.abs(values).max() <= np.finfo(np.float16).max)
        halves[buffer] = fits
        if fits:
            tree.buffers[buffer].data = np.frombuffer(values.astype(np.float16).tobytes(), np.uint8)
    return halves[buffer]


def use_integer_forms(schema: Any, tree: Any, *, bits: int) -> None:
    """Write ops that have no integer kernel as ops that have one: -x as x * (-1), (a - b)^2 as (a - b) * (a - b).

    LayerNormalization lowers to these. NEG has neither an int8 nor an int16 kernel, SQUARED_DIFFERENCE no int16 one.

    Args:
        schema: the LiteRT schema module.
        tree: the `ModelT`, with float32 activations.
        bits: width of the activations after quantization, 8 or 16.
    """
    ops = schema.BuiltinOperator
    for graph in tree.subgraphs:
        result = []
        for op in graph.operators:
            code = tree.operatorCodes[op.opcodeIndex]
            kind = max(code.builtinCode, code.deprecatedBuiltinCode)
            floating = graph.tensors[op.outputs[0]].type == schema.TensorType.FLOAT32 if len(op.outputs) else False
            if kind == ops.NEG and floating:
                result.append(_multiply(schema, tree, [op.inputs[0], _minus_one(schema, tree, graph)], list(op.outputs)))
            elif kind == ops.SQUARED_DIFFERENCE and floating and bits == 16:
                difference = copy.copy(graph.tensors[op.outputs[0]])
                difference.name, difference.buffer = _name(difference.name, "/difference"), 0
                graph.tensors.append(difference)
                at = len(graph.tensors) - 1
                sub = _operator(schema, tree, ops.SUB, list(op.inputs), [at])
                sub.builtinOptionsType, sub.builtinOptions = schema.BuiltinOptions.SubOptions, schema.SubOptionsT()
                result += [sub, _multiply(schema, tree, [at, at], list(op.outputs))]
            else:
                result.append(op)
        graph.operators = result


def settle_unused_outputs(schema: Any, tree: Any) -> None:
    """Give outputs that nothing reads the type of their siblings; a quantizer leaves them float and engines refuse that."""
    for graph in tree.subgraphs:
        read = {int(i) for op in graph.operators for i in op.inputs} | {int(i) for i in graph.outputs}
        for op in graph.operators:
            quantized = [
                graph.tensors[i] for i in op.outputs if graph.tensors[i].type in (schema.TensorType.INT8, schema.TensorType.INT16)
            ]
            for index in op.outputs:
                tensor = graph.tensors[index]
                if quantized and int(index) not in read and tensor.type == schema.TensorType.FLOAT32:
                    tensor.type, tensor.quantization = quantized[0].type, copy.deepcopy(quantized[0].quantization)


def _multiply(schema: Any, tree: Any, inputs: list[int], outputs: list[int]) -> Any:
    op = _operator(schema, tree, schema.BuiltinOperator.MUL, inputs, outputs)
    op.builtinOptionsType, op.builtinOptions = schema.BuiltinOptions.MulOptions, schema.MulOptionsT()
    return op


def _minus_one(schema: Any, tree: Any, graph: Any) -> int:
    """Index of a new constant tensor that holds -1."""
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(np.array([-1.0], np.float32).tobytes(), np.uint8)
    tree.buffers.append(buffer)
    tensor = schema.TensorT()
    tensor.shape, tensor.type = np.array([1], np.int32), schema.TensorType.FLOAT32
    tensor.buffer, tensor.name = len(tree.buffers) - 1, f"minus_one_{len(graph.tensors)}"
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _operator(schema: Any, tree: Any, kind: int, inputs: list[int], outputs: list[int]) -> Any:
    """A new op of a kind, its code added to the model's list if it is not there."""
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in tree.operatorCodes]
    if kind not in codes:
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = kind, min(kind, 127), 1
        tree.operatorCodes.append(code)
        codes.append(kind)
    op = schema.OperatorT()
    op.opcodeIndex = codes.index(kind)
    op.inputs, op.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
    return op


def _name(name: Any, suffix: str) -> Any:
    return name + suffix.encode() if isinstance(name, bytes) else f"{name}{suffix}"
