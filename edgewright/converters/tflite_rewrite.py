"""Rewrites of a TFLite graph that keep what it computes: float16 weights, integer forms of ops, borders, loose ends."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from edgewright.errors import needs

__all__ = [
    "affine",
    "declare_versions",
    "drop_unused_tensors",
    "float16_weights",
    "float32_weights",
    "general_scales",
    "integer_io",
    "rewrite",
    "settle_biases",
    "settle_unused_outputs",
    "unfuse_transposed",
    "use_integer_forms",
]

_LEVELS = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32767, 32767)}


def rewrite(data: bytes, change: Callable[[Any, Any], None]) -> bytes:
    """Apply a change to a file's object tree and pack it again, all buffers within the FlatBuffer.

    Args:
        data: content of a .tflite file.
        change: called with the LiteRT schema module and the `ModelT`.
    """
    with needs("convert"):
        import flatbuffers
        from ai_edge_litert import schema_py_generated as schema
    tree = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data))
    for buffer in tree.buffers:
        if buffer.offset > 1:  # the quantizer lets weights stand behind the FlatBuffer, whose size is about to change
            buffer.data = np.frombuffer(data, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    change(schema, tree)
    builder = flatbuffers.Builder(len(data) + (1 << 16))
    builder.Finish(tree.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def drop_unused_tensors(tree: Any) -> None:
    """Remove tensors that no op, input, output or signature names; their buffers stay, empty, where others have the next."""
    used_buffers = {0, *(entry.buffer for entry in tree.metadata or ())}
    for at, graph in enumerate(tree.subgraphs):
        lists = [indexes for op in graph.operators for indexes in (op.inputs, op.outputs, op.intermediates)]
        used = {int(i) for indexes in (*lists, graph.inputs, graph.outputs) if indexes is not None for i in indexes if i >= 0}
        borders = [
            entry
            for signature in tree.signatureDefs or ()
            if signature.subgraphIndex == at
            for entry in (*(signature.inputs or ()), *(signature.outputs or ()))
        ]
        used |= {int(entry.tensorIndex) for entry in borders}
        place = {old: new for new, old in enumerate(sorted(used))}

        def moved(indexes: Any, place: dict[int, int] = place) -> Any:
            return None if indexes is None else np.asarray([place.get(int(i), -1) for i in indexes], np.int32)

        for op in graph.operators:
            op.inputs, op.outputs, op.intermediates = moved(op.inputs), moved(op.outputs), moved(op.intermediates)
        graph.inputs, graph.outputs = moved(graph.inputs), moved(graph.outputs)
        for entry in borders:
            entry.tensorIndex = place[int(entry.tensorIndex)]
        graph.tensors = [graph.tensors[old] for old in sorted(used)]
        used_buffers |= {tensor.buffer for tensor in graph.tensors}
    for index, buffer in enumerate(tree.buffers):
        if index not in used_buffers:
            buffer.data = None


def float16_weights(schema: Any, tree: Any) -> None:
    """Store every float32 constant as float16 and let a DEQUANTIZE op restore it (how TFLite stores float16 models).

    Constants that float16 cannot hold (beyond 65,504), single values and constants that are results stay float32.
    """
    kinds = schema.TensorType
    # Tensors may share a buffer, across graphs too: it is halved for all of them or for none.
    halves = {graph.tensors[int(i)].buffer: False for graph in tree.subgraphs for i in graph.outputs}
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
    for graph in tree.subgraphs:  # a tensor that no op reads may name a buffer that is float16 now
        for tensor in graph.tensors:
            if tensor.type == kinds.FLOAT32 and halves.get(tensor.buffer):
                tensor.type = kinds.FLOAT16


def float32_weights(schema: Any, tree: Any) -> None:
    """The inverse of `float16_weights`: constants that a DEQUANTIZE op restores become float32 constants.

    A quantizer sees weights behind DEQUANTIZE as activations and leaves them as they are.
    """
    halves: list[Any] = []
    for graph in tree.subgraphs:
        kept = []
        for op in graph.operators:
            source = graph.tensors[op.inputs[0]] if len(op.inputs) else None
            data = tree.buffers[source.buffer].data if source is not None else None
            restores = _kind(tree, op) == schema.BuiltinOperator.DEQUANTIZE
            if source is None or source.type != schema.TensorType.FLOAT16 or data is None or not restores:
                kept.append(op)
                continue
            values = np.frombuffer(bytes(data), np.float16).astype(np.float32)
            tree.buffers.append(schema.BufferT(data=np.frombuffer(values.tobytes(), np.uint8)))
            graph.tensors[op.outputs[0]].buffer = len(tree.buffers) - 1
            halves.append(source)
        graph.operators = kept
    freed = {tensor.buffer for tensor in halves}
    for tensor in halves:
        tensor.buffer = 0
    for index in freed - {tensor.buffer for graph in tree.subgraphs for tensor in graph.tensors}:
        tree.buffers[index].data = None


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
            kind = _kind(tree, op)
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


def general_scales(schema: Any, tree: Any) -> None:
    """Have int16 ADD and SUB take scales of any size.

    The schema's default promises powers of two; scales that come near them (2/32767 and 1/32767, as a Rescaling to
    [-1, 1] gives) then take the kernels' other path, which refuses most of their combinations.
    """
    forms = {
        schema.BuiltinOperator.ADD: (schema.BuiltinOptions.AddOptions, schema.AddOptionsT),
        schema.BuiltinOperator.SUB: (schema.BuiltinOptions.SubOptions, schema.SubOptionsT),
    }
    for graph in tree.subgraphs:
        for op in graph.operators:
            kind = _kind(tree, op)
            if kind in forms and graph.tensors[op.outputs[0]].type == schema.TensorType.INT16:
                if op.builtinOptions is None:
                    op.builtinOptionsType, op.builtinOptions = forms[kind][0], forms[kind][1]()
                op.builtinOptions.potScaleInt16 = False


def unfuse_transposed(schema: Any, tree: Any) -> None:
    """Give the activation that is fused into a transposed convolution an op of its own: OpenVINO's reader drops it in silence."""
    fused = schema.ActivationFunctionType
    separate = {
        fused.RELU: schema.BuiltinOperator.RELU,
        fused.RELU6: schema.BuiltinOperator.RELU6,
        fused.RELU_N1_TO_1: schema.BuiltinOperator.RELU_N1_TO_1,
        fused.TANH: schema.BuiltinOperator.TANH,
    }
    for graph in tree.subgraphs:
        result = []
        for op in graph.operators:
            result.append(op)
            options = op.builtinOptions
            if _kind(tree, op) != schema.BuiltinOperator.TRANSPOSE_CONV or options is None:
                continue
            activation = separate.get(options.fusedActivationFunction)
            if activation is None:
                continue
            options.fusedActivationFunction = fused.NONE
            named = graph.tensors[op.outputs[0]]
            before = copy.deepcopy(named)
            before.name = _name(before.name, "_linear")
            graph.tensors.append(before)
            result.append(_operator(schema, tree, activation, [len(graph.tensors) - 1], list(op.outputs)))
            op.outputs = np.array([len(graph.tensors) - 1], np.int32)
        graph.operators = result


def settle_biases(schema: Any, tree: Any, biases: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Give output channels a scale in which their bias fits 32 bits.

    The quantizer derives a scale from a channel's largest weight, and a bias has the scale of input times weights. Where the
    weights are 0, or next to nothing, the bias would be cut off: the scale is raised and the weights are rounded anew.

    Args:
        schema: the LiteRT schema module.
        tree: of an integer file.
        biases: in float, by name.
    """
    for graph in tree.subgraphs:
        for op in graph.operators:
            if op.inputs is None or len(op.inputs) < 3 or int(op.inputs[-1]) < 0:
                continue
            *others, bias = (graph.tensors[int(index)] for index in op.inputs if int(index) >= 0)
            real = biases.get(bias.name.decode() if isinstance(bias.name, bytes) else bias.name)
            scaled = [tensor for tensor in others if tensor.quantization is not None and tensor.quantization.scale is not None]
            kernels = [tensor for tensor in scaled if tree.buffers[tensor.buffer].data is not None]
            given = [tensor for tensor in scaled if tree.buffers[tensor.buffer].data is None]
            if real is None or len(kernels) != 1 or len(given) != 1 or kernels[0].type != schema.TensorType.INT8:
                continue
            if bias.type == schema.TensorType.INT32 and len(kernels[0].quantization.scale) == len(real):
                _settle_bias(tree, float(given[0].quantization.scale[0]), kernels[0], bias, real)


def _settle_bias(tree: Any, given: float, kernel: Any, bias: Any, real: np.ndarray[Any, Any]) -> None:
    """Raise the scales of a kernel in which its bias does not fit; `given` is the scale of what the kernel multiplies."""
    old = np.asarray(kernel.quantization.scale, np.float64)
    small = np.abs(real) > given * old * 2.0**30
    if not small.any():
        return
    new = np.where(small, np.abs(real) / (given * 2.0**24), old).astype(np.float32)
    axis = int(kernel.quantization.quantizedDimension)
    values = np.frombuffer(bytes(tree.buffers[kernel.buffer].data), np.int8).reshape(kernel.shape)
    ratio = np.expand_dims(old / new.astype(np.float64), tuple(other for other in range(values.ndim) if other != axis))
    stored = np.frombuffer(bytes(tree.buffers[bias.buffer].data), np.int32).copy()
    stored[small] = np.round(real[small] / (given * new[small].astype(np.float64)))
    tree.buffers[kernel.buffer].data = np.frombuffer(np.round(values * ratio).astype(np.int8).tobytes(), np.uint8)
    tree.buffers[bias.buffer].data = np.frombuffer(stored.tobytes(), np.uint8)
    kernel.quantization.scale = new
    if bias.quantization is not None and bias.quantization.scale is not None and len(bias.quantization.scale) == len(real):
        bias.quantization.scale = np.where(small, given * new, bias.quantization.scale).astype(np.float32)


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


def declare_versions(schema: Any, tree: Any) -> None:
    """Say which version of its op a float product with int8 weights of several scales needs.

    The quantizer leaves version 1, and a runtime that is too old computes nonsense in silence (2.14 does): 12 is refused.
    """
    kinds, product = schema.TensorType, schema.BuiltinOperator.FULLY_CONNECTED
    for graph in tree.subgraphs:
        for op in graph.operators:
            data, weights = (graph.tensors[i] for i in op.inputs[:2]) if _kind(tree, op) == product else (None, None)
            scales = weights.quantization.scale if weights is not None and weights.quantization is not None else None
            if data is not None and data.type == kinds.FLOAT32 and scales is not None and len(scales) > 1:
                code = tree.operatorCodes[op.opcodeIndex]
                code.version = max(code.version, 12)


def affine(low: float, high: float, kind: str) -> tuple[float, int]:
    """Scale and zero point of an integer type for the values from `low` to `high`: real = scale * (stored - zero point).

    0 is always one of the values that are met exactly, as the TFLite quantization specification demands; int16 is
    symmetric around it.

    Args:
        low: smallest value; counted as 0 if it is above.
        high: largest value; counted as 0 if it is below.
        kind: "int8", "uint8" or "int16".
    """
    least, most = _LEVELS[kind]
    low, high = min(low, 0.0), max(high, 0.0)
    if kind == "int16":
        return max(-low, high, 1e-8) / most, 0
    scale = max(high - low, 1e-8) / (most - least)
    return scale, round(least - low / scale)


def integer_io(schema: Any, tree: Any, kind: str, ranges: Sequence[tuple[float, float] | None]) -> None:
    """Make every floating input and output an integer one, and int8 ones uint8 where that is asked for.

    A quantizer leaves those float that only ops without an integer kernel touch, or none: a DEQUANTIZE or QUANTIZE op
    stands between them and the graph then. uint8 is int8 with 128 added to the zero point, one QUANTIZE op away.

    Args:
        schema: the LiteRT schema module.
        tree: the `ModelT`, its borders int8 (for uint8 too) or int16 where the quantizer made them so.
        kind: "int8", "uint8" or "int16".
        ranges: smallest and largest value of each input, then of each output; None where it is no floating one.
    """
    kinds, ops = schema.TensorType, schema.BuiltinOperator
    graph = tree.subgraphs[tree.signatureDefs[0].subgraphIndex]
    restored = {int(op.outputs[0]): int(op.inputs[0]) for op in graph.operators if _kind(tree, op) == ops.DEQUANTIZE}
    inputs = [int(index) for index in graph.inputs]
    outputs = [
        source if (source := restored.get(int(i), -1)) >= 0 and graph.tensors[source].buffer == 0 else int(i)
        for i in graph.outputs
    ]
    limits = dict(zip([*inputs, *outputs], ranges, strict=True))

    def replacement(index: int) -> int | None:
        """A new tensor that stands for an old one outside of the graph; None if that is right as it is."""
        inner = graph.tensors[index]
        if inner.type == kinds.INT8 and kind == "uint8" and inner.quantization is not None:
            scale, zero = np.asarray(inner.quantization.scale), np.asarray(inner.quantization.zeroPoint) + 128
        elif inner.type == kinds.FLOAT32:
            found = affine(*(limits[index] or (0.0, 0.0)), kind)
            scale, zero = np.array(found[:1]), np.array(found[1:])
        else:
            return None
        outer = copy.copy(inner)
        outer.type, outer.buffer, outer.name = getattr(kinds, kind.upper()), 0, _name(inner.name, "/outside")
        outer.quantization = schema.QuantizationParametersT(
            scale=scale.astype(np.float32), zeroPoint=zero.astype(np.int64), quantizedDimension=0
        )
        graph.tensors.append(outer)
        return len(graph.tensors) - 1

    def convert(source: int, target: int) -> Any:
        restores = graph.tensors[target].type == kinds.FLOAT32
        return _operator(schema, tree, ops.DEQUANTIZE if restores else ops.QUANTIZE, [source], [target])

    outside = {index: replacement(index) for index in dict.fromkeys([*inputs, *outputs])}
    before = [convert(new, old) for old in dict.fromkeys(inputs) if (new := outside[old]) is not None]
    computed = [old for old in dict.fromkeys(outputs) if old not in inputs]
    after = [convert(old, new) for old in computed if (new := outside[old]) is not None]
    graph.operators = [*before, *graph.operators, *after]
    for ends, old in (("inputs", inputs), ("outputs", outputs)):
        setattr(graph, ends, np.array([index if (new := outside[index]) is None else new for index in old], np.int32))


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


def _kind(tree: Any, op: Any) -> int:
    code = tree.operatorCodes[op.opcodeIndex]
    return int(max(code.builtinCode, code.deprecatedBuiltinCode))


def _name(name: Any, suffix: str) -> Any:
    return name + suffix.encode() if isinstance(name, bytes) else f"{name}{suffix}"
