"""What the writers do to .tflite files besides converting: signature, metadata, and which ops stayed in floating point."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from edgewright.converters.model_info import corrupt
from edgewright.converters.tflite_parse import TfliteFile, op_name, parse
from edgewright.errors import UnsupportedError, UsageError, needs

__all__ = [
    "METADATA",
    "FloatOp",
    "NamedOp",
    "float_ops",
    "layer_of",
    "named_ops",
    "names_in",
    "op_name",
    "read_metadata",
    "set_signature",
]

METADATA = "edgewright"
"""Name of the Model.metadata entry that Edgewright writes."""

_ALIGNMENT = 16  # schema.fbs: Buffer.data is force_align'ed to 16; kernels on Arm rely on it
_MAX_BYTES = (1 << 31) - (1 << 20)  # FlatBuffers end at 2 GB
_BORDER_OPS = {"QUANTIZE", "DEQUANTIZE", "FAKE_QUANT"}
_NO_COMPUTE = {"RESHAPE", "SQUEEZE", "EXPAND_DIMS", "SHAPE", "RANK"}
_CALL_SCOPE = re.compile(r"(Stateful)?PartitionedCall(_\d+)?$")
_LOOP_SCOPE = re.compile(r"(while|cond|while_body|while_cond)(_\d+)?$")
_OP_SCOPES = re.compile(
    r"(batchnorm|batch_normalization/batchnorm|convolution|conv_transpose|depthwise|separable_conv2d|einsum|Einsum|"
    r"moments|Tensordot|tensordot|transpose|stack|unstack|strided_slice|embedding_lookup|MaxPool1d|AvgPool1d|"
    r"TensorArrayV2Read|TensorArrayV2Write|TensorArrayUnstack|TensorArrayV2Stack|normalize|resize|clip_by_value|"
    r"LogicalAnd|gelu|Gelu|softmax|Softmax)(_\d+)?$"
)


@dataclass(frozen=True, slots=True)
class FloatOp:
    """An operator that computes in floating point.

    Args:
        op: builtin name, for example "LOGISTIC".
        tensor_name: name of its first output tensor.
        layer: the Keras layer that the tensor's name tells of, see `layer_of`; empty if it tells of none.
    """

    op: str
    tensor_name: str
    layer: str


def float_ops(path: Path, layers: Collection[str] = ()) -> list[FloatOp]:
    """The operators of a file that compute in floating point, in execution order, bodies of loops included.

    QUANTIZE and DEQUANTIZE are left out, and so are operators that only relabel a shape.

    Args:
        path: a .tflite file.
        layers: names of the Keras model's layers, if they are known; see `layer_of`.

    Raises:
        ModelError: the file is corrupt.
    """
    file = parse(path)
    found = []
    for graph in file.graphs:
        for op in graph.ops:
            if op.name in _BORDER_OPS or op.name in _NO_COMPUTE or op.graphs:
                continue
            touched = [graph.tensors[i] for i in (*op.inputs, *op.outputs) if i >= 0]
            if any(tensor.is_float and not file.constant(tensor) for tensor in touched):
                name = graph.tensors[op.outputs[0]].name if op.outputs else ""
                found.append(FloatOp(op.name, name, layer_of(name, layers)))
    return found


def layer_of(tensor_name: str, layers: Collection[str] = ()) -> str:
    """The Keras layer that a tensor's name tells of, empty if it tells of none.

    The converter joins the names of ops that it fused with ";", the last op of the graph first: the first name counts.
    A name is a path of scopes; the model's own scope in front and the scopes that ops open within a layer are left out.
    TensorFlow makes scopes unique by "_1", "_2", so without `layers` the result may be the layer's name with such an
    ending; inner layers keep the outer one in front ("block/conv").

    Args:
        tensor_name: for example "functional_1/conv2d_1/Relu;functional_1/conv2d_1/BiasAdd".
        layers: names of the model's layers; the innermost scope that is one of them, as it stands or with an ending
            taken off, is the result where there is one.
    """
    path = tensor_name.partition(";")[0].partition(":")[0].split("/")
    scopes = [part for part in path[:-1] if part and not _CALL_SCOPE.match(part)]
    for scope in reversed(scopes):
        known = [name for name in (scope, re.sub(r"_\d+$", "", scope)) if name in layers]
        if known:
            return known[0]
    loop = next((at for at, part in enumerate(scopes) if _LOOP_SCOPE.match(part)), len(scopes))
    scopes = scopes[:loop]
    while len(scopes) > 1 and _OP_SCOPES.match(scopes[-1]):
        scopes.pop()
    return "/".join(scopes[1:] if len(scopes) > 1 else scopes)


@dataclass(frozen=True, slots=True)
class NamedOp:
    """An operator that was found by its layer's name.

    Args:
        op: builtin name.
        outputs: names of its output tensors.
        layers: those whose names matched, one but for ops into which several were fused.
        kernel: whether one of its inputs is a constant of more than one dimension.
    """

    op: str
    outputs: tuple[str, ...]
    layers: tuple[str, ...]
    kernel: bool


def names_in(tensor_name: str, layers: Collection[str] = ()) -> set[str]:
    """Every layer that a tensor's name tells of: those of all ops that were fused into the one that gives it."""
    parts = [part.partition(":")[0] for part in tensor_name.split(";")]
    return {part if part in layers else layer_of(part, layers) for part in parts} - {""}


def named_ops(data: bytes, how: str, patterns: Sequence[str], layers: Sequence[str]) -> list[NamedOp]:
    """The operators of the layers whose names match a pattern, in execution order.

    An operator into which several layers were fused is found by the name of any, its kernel's included.

    Args:
        data: .tflite content with tensors as TensorFlow's converter names them.
        how: the option that holds the patterns, for messages.
        patterns: of layers' names, as `fnmatch` has them.
        layers: names of the Keras model's layers; empty if they are not known.

    Raises:
        UsageError: a pattern matches no operator's layer.
    """
    found = _named_ops(data, patterns, layers)
    for pattern in patterns:
        if not any(fnmatchcase(layer, pattern) for op in found for layer in op.layers):
            raise UsageError(
                f"{how}: no op of the file belongs to a layer called '{pattern}'",
                hint=f"layers: {', '.join(layers[:30]) or 'not known, the model is no Keras model'}",
            )
    return found


def _named_ops(data: bytes, patterns: Sequence[str], layers: Sequence[str]) -> list[NamedOp]:
    file = parse(Path("model.tflite"), data)
    found = []
    for graph in file.graphs:
        uses = Counter(index for op in graph.ops for index in op.inputs)
        for op in graph.ops:
            kernels = [i for i in op.inputs if i >= 0 and _is_kernel(file, graph.tensors[i])]
            results = [graph.tensors[i] for i in op.outputs]
            telling = [*results, *(graph.tensors[i] for i in kernels if uses[i] == 1)]
            own = set().union(*(names_in(tensor.name, layers) for tensor in telling))
            matched = sorted(layer for layer in own if any(fnmatchcase(layer, pattern) for pattern in patterns))
            if matched:
                found.append(NamedOp(op.name, tuple(tensor.name for tensor in results), tuple(matched), bool(kernels)))
    return found


def _is_kernel(file: TfliteFile, tensor: Any) -> bool:
    return tensor.is_float and len(tensor.shape) > 1 and file.constant(tensor)


def read_metadata(path: Path) -> dict[str, Any] | None:
    """The JSON object that Edgewright stored in a .tflite file, None if there is none.

    Raises:
        ModelError: the file is corrupt, or the entry is no JSON object.
    """
    file = parse(path)
    index = file.metadata.get(METADATA)
    if index is None:
        return None
    try:
        found = json.loads(file.buffers[index].tobytes())
    except ValueError as error:
        raise corrupt(path, f"its metadata '{METADATA}' is no JSON ({error})") from error
    if not isinstance(found, dict):
        raise corrupt(path, f"its metadata '{METADATA}' is a {type(found).__name__}, not a JSON object")
    return found


def set_signature(model: Path | bytes, inputs: Sequence[str], outputs: Sequence[str], metadata: bytes | None = None) -> bytes:
    """Give a .tflite file one signature "serving_default", tensor names and an Edgewright metadata entry.

    Values, ops, quantization and other metadata stay as they are; buffers that stood behind the FlatBuffer move into
    it, and all are aligned to 16 bytes. The same arguments give the same bytes.

    Args:
        model: the file or its content.
        inputs: names in the order of the main graph's inputs.
        outputs: names in the order of the main graph's outputs.
        metadata: content of the entry "edgewright", replacing an older one; None leaves what is there.

    Returns:
        The new file's content. The tensors carry the names too, so that tools without signatures show them. A tensor
        that is both input and output keeps its input's name; where two different tensors would get the same name, or a
        tensor within the graph has it, the later one is renamed.

    Raises:
        ModelError: the file is corrupt.
        UnsupportedError: the file has several signatures, or passes 2 GB.
        UsageError: names are missing, too many or not unique.
    """
    with needs("convert"):
        from ai_edge_litert import schema_py_generated as schema
    path = model if isinstance(model, Path) else Path("model.tflite")
    data = model.read_bytes() if isinstance(model, Path) else model
    file = parse(path, data)
    if len(file.signatures) > 1:
        raise several_signatures(path, [signature.key for signature in file.signatures])
    if sum(buffer.size for buffer in file.buffers) > _MAX_BYTES:
        raise UnsupportedError(f"{path} has over 2 GB of weights", hint="export a smaller model")
    tree = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data))
    if any(op.largeCustomOptionsOffset for graph in tree.subgraphs for op in graph.operators or ()):
        raise UnsupportedError(f"{path} keeps options of a custom op behind its FlatBuffer", hint="export a smaller model")
    at = file.signatures[0].graph if file.signatures else 0
    graph = file.graphs[at]
    _check_names("input", inputs, len(graph.inputs))
    _check_names("output", outputs, len(graph.outputs))
    named_inputs = tuple(zip(inputs, graph.inputs, strict=True))
    named_outputs = tuple(zip(outputs, graph.outputs, strict=True))
    names = _tensor_names([t.name for t in graph.tensors], (*named_inputs, *named_outputs))
    for tensor, old, new in zip(tree.subgraphs[at].tensors, graph.tensors, names, strict=True):
        tensor.name = tensor.name if old.name == new else new
    tree.signatureDefs = [
        schema.SignatureDefT(
            inputs=[schema.TensorMapT(name, index) for name, index in named_inputs],
            outputs=[schema.TensorMapT(name, index) for name, index in named_outputs],
            signatureKey="serving_default",
            subgraphIndex=at,
        )
    ]
    return _pack(schema, tree, file, metadata)


def _pack(schema: Any, tree: Any, file: TfliteFile, metadata: bytes | None) -> bytes:
    """The bytes of an object tree whose buffers have the contents that were parsed, plus the metadata entry."""
    with needs("convert"):
        import flatbuffers
    contents: list[Any] = list(file.buffers)
    present = [buffer.data is not None or buffer.offset > 1 for buffer in tree.buffers]
    if metadata is not None:
        _set_metadata(schema, tree, file.metadata, contents, present, metadata)
    tree.buffers = [_AlignedBuffer(data, given) for data, given in zip(contents, present, strict=True)]
    builder = flatbuffers.Builder(sum(len(content) for content in contents) + (1 << 16))
    builder.Finish(tree.Pack(builder), b"TFL3")
    return bytes(builder.Output())


class _AlignedBuffer:
    """A Buffer that packs itself at the alignment of the schema, which the generated Python code does not."""

    def __init__(self, data: Any, given: bool) -> None:
        self.data = data
        self.given = given

    def Pack(self, builder: Any) -> int:
        with needs("convert"):
            from ai_edge_litert import schema_py_generated as schema
        at = 0
        if self.given:
            raw = bytes(self.data)
            builder.StartVector(1, len(raw), _ALIGNMENT)
            builder.head -= len(raw)
            builder.Bytes[builder.head : builder.head + len(raw)] = raw
            at = builder.EndVector()
        schema.BufferStart(builder)
        if self.given:
            schema.BufferAddData(builder, at)
        return int(schema.BufferEnd(builder))


def _set_metadata(
    schema: Any, tree: Any, known: dict[str, int], contents: list[Any], present: list[bool], metadata: bytes
) -> None:
    """Put the entry into a buffer of its own: the old one's if there is one."""
    if METADATA in known:
        contents[known[METADATA]], present[known[METADATA]] = metadata, True
        return
    tree.metadata = [*(tree.metadata or ()), schema.MetadataT(METADATA, len(contents))]
    contents.append(metadata)
    present.append(True)


def _tensor_names(old: Sequence[str], wanted: Iterable[tuple[str, int]]) -> list[str]:
    """New names of all tensors: the wanted ones first come first served, the others kept unless one is taken."""
    new: dict[int, str] = {}
    for name, index in wanted:
        if index not in new:
            new[index] = _free(name, set(new.values()))
    taken = set(new.values())
    return [new[i] if i in new else _free(name, taken) if name in taken else name for i, name in enumerate(old)]


def _free(name: str, taken: Collection[str]) -> str:
    found, count = name, 0
    while found in taken:
        count += 1
        found = f"{name}_tensor{count}"
    return found


def _check_names(kind: str, names: Sequence[str], expected: int) -> None:
    if len(names) != expected:
        raise UsageError(f"the model has {expected} {kind}s, {len(names)} names were given: {', '.join(names)}")
    if len(set(names)) != len(names) or not all(names):
        raise UsageError(f"names of {kind}s must be unique and not empty, given: {', '.join(names)}")


def several_signatures(path: Path, keys: Sequence[str]) -> UnsupportedError:
    """The error for a file with more than one signature."""
    return UnsupportedError(
        f"{path} has {len(keys)} signatures ({', '.join(keys)}), only files with one are supported",
        hint="export the model with the one signature that is to be deployed",
    )
