"""From a TensorFlow computation to a float32 TFLite file: traced once with fixed shapes, frozen, converted."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgewright.artifact import TensorSpec
from edgewright.converters.readers import READERS, LowerOptions, ReferenceReader
from edgewright.converters.tflite_file import layer_of, set_signature
from edgewright.converters.tflite_rewrite import rewrite
from edgewright.errors import ConversionError, EdgewrightError, UnsupportedError, WorkerMemoryError, needs

__all__ = ["count_lowered", "lower_function"]

CODE_OPS = frozenset(
    {"PyFunc", "EagerPyFunc", "PyFuncStateless", "ReadFile", "WriteFile", "MatchingFiles", "ImmutableConst", "DecodeProtoV2"}
    | {f"{kind}Reader{version}" for kind in ("WholeFile", "TextLine", "TFRecord", "FixedLengthRecord") for version in ("", "V2")}
)
"""Graph ops that run Python code or touch files."""


def lower_function(
    call: Callable[..., Sequence[Any]],
    inputs: Sequence[TensorSpec],
    output_names: Sequence[str],
    out: Path,
    *,
    batch: int | None,
    select_tf: bool,
    marks: Mapping[str, str] | None = None,
) -> None:
    """Trace a function and write it as a float32 TFLite file with one signature.

    Args:
        call: takes one tensor per input and returns a flat sequence with one tensor per output name.
        inputs: names, shapes and dtypes; a free leading size becomes `batch`.
        output_names: signature names of the results, in order.
        out: the file to write.
        batch: fixed batch size, None keeps it free.
        select_tf: allow ops that need the Flex delegate.
        marks: the model's layers, if it has any: their names by what they are called while the function is traced.

    Raises:
        UnsupportedError: an op or a shape cannot be expressed in TFLite; op and layer are named.
        ConversionError: the converter failed otherwise.
    """
    with needs("convert"):
        import tensorflow as tf
    specs = [tf.TensorSpec(_fixed(spec, batch), spec.dtype, name=f"input_{index}") for index, spec in enumerate(inputs)]
    traced = tf.function(lambda *tensors: [tf.identity(t) for t in call(*tensors)], autograph=False, jit_compile=False)
    try:
        frozen = _freeze(traced.get_concrete_function(*specs))
    except (EdgewrightError, MemoryError):
        raise
    except Exception as error:  # layers raise what they like
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
        raise ConversionError(
            f"TensorFlow cannot trace the model with inputs {', '.join(map(str, specs))}: {type(error).__name__}: {first[:300]}",
            hint="check that the model can be called on data of these shapes",
        ) from error
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
    converter._experimental_default_to_single_batch_in_tensor_list_ops = batch == 1  # loops of SavedModels forget the batch
    if select_tf:
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    try:
        data = converter.convert()
    except MemoryError as error:
        raise WorkerMemoryError("TensorFlow's converter ran out of memory", hint="use a machine with more memory") from error
    except Exception as error:  # the converter raises its own private types, and plain ones
        raise _explain(str(error), frozen, marks or {}, select_tf) from error
    named = rewrite(bytes(data), lambda _, tree: _name_layers(tree, marks)) if marks else bytes(data)
    out.write_bytes(set_signature(named, [spec.name for spec in inputs], list(output_names), None))


def count_lowered(reader: ReferenceReader, options: LowerOptions) -> tuple[int | None, str]:
    """Multiply-adds of a model, counted in the TFLite graph it lowers to; or None and why."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "lowered.tflite"
        try:
            reader.lower(file, options)
            info = READERS.get("tflite")(file).info()
        except EdgewrightError as error:
            return None, str(error)
    return info.macs, info.macs_note


def _name_layers(tree: Any, marks: Mapping[str, str]) -> None:
    """Give tensors their layers' own names; of a layer that was called several times the later calls are numbered."""
    tensors = [tensor for graph in tree.subgraphs for tensor in graph.tensors]
    names = [tensor.name.decode() if isinstance(tensor.name, bytes) else tensor.name for tensor in tensors]
    pattern = re.compile(rf"({'|'.join(marks)})((?:_\d+)*)(?=[/;:]|$)")
    calls: dict[str, list[str]] = {mark: [] for mark in marks}
    for mark, ending in sorted(
        {found for name in names for found in pattern.findall(name)}, key=lambda pair: (len(pair[1]), pair)
    ):
        calls[mark].append(ending)

    def own(found: re.Match[str]) -> str:
        call = calls[found[1]].index(found[2])
        return marks[found[1]] + (f"/call{call + 1}" if call else "")

    for tensor, name in zip(tensors, names, strict=True):
        tensor.name = pattern.sub(own, name)


def _fixed(spec: TensorSpec, batch: int | None) -> list[int | None]:
    shape = list(spec.shape)
    if shape and shape[0] is None:
        shape[0] = batch
    free = [axis for axis, size in enumerate(shape) if size is None and axis > 0]
    if free:
        raise UnsupportedError(
            f"input '{spec.name}' has free sizes besides the batch: {spec}",
            hint="rebuild the model with fixed sizes: keras.Input(shape=(...)) without None",
        )
    return shape


def _freeze(concrete: Any) -> Any:
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    return convert_variables_to_constants_v2(concrete, lower_control_flow=False)


def _explain(message: str, frozen: Any, marks: Mapping[str, str], select_tf: bool) -> UnsupportedError | ConversionError:
    """Name the ops that TFLite lacks and the layers they stand in, from the converter's message and the graph."""
    missing = set(re.findall(r"\btf\.(\w+)\((?:tensor|\)|.*->)", message)) | set(re.findall(r"error: '?tf\.(\w+)' op", message))
    for listing in re.findall(r"(?:TF Select ops|Flex ops|Custom ops|TF Custom ops): ([\w, ]+)", message):
        missing |= {op.strip().removeprefix("Flex") for op in listing.split(",") if op.strip()}
    if not missing:
        first = next((line.strip() for line in message.splitlines() if "error:" in line), message.strip().splitlines()[0])
        return ConversionError(f"TensorFlow's converter failed: {first[:300]}", hint="run again with -v to see its log")
    places = [
        f"{op} in layer {', '.join(repr(layer) for layer in _layers(op, frozen, marks)[:3]) or 'unknown'}"
        for op in sorted(missing)
    ]
    if select_tf:
        return UnsupportedError(f"neither TFLite nor its Flex delegate can express {'; '.join(places)}", hint="replace the layer")
    return UnsupportedError(
        f"TFLite cannot express {'; '.join(places)}",
        hint="replace the layer, or allow TensorFlow's own ops with --select-tf (the device then needs the Flex delegate)",
    )


def _layers(op: str, frozen: Any, marks: Mapping[str, str]) -> list[str]:
    """Layers of the graph (and of its functions' bodies) in which ops of a type stand, in graph order."""
    graph = frozen.graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return list(dict.fromkeys(_place(node.name, marks) for node in nodes if node.op == op))


def _place(node: str, marks: Mapping[str, str]) -> str:
    """A node's layer, or its whole name where there is no scope but the model's."""
    layer = layer_of(node, marks) if node.count("/") > 1 else ""
    return marks.get(layer, layer) or node
