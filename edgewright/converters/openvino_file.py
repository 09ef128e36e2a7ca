"""OpenVINO IR from a float32 TFLite or ONNX file: names, precision, integer inputs and outputs; no TensorFlow."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.artifact import TensorSpec
from edgewright.converters.quantize import open_calibration
from edgewright.converters.readers import READERS, find_reader
from edgewright.converters.tflite_file import layer_of
from edgewright.errors import ConversionError, ModelError, UnsupportedError, needs
from edgewright.samples import Samples
from edgewright.worker import progress

__all__ = ["warm_up", "write_ir"]

MOVES = frozenset(
    (
        "Reshape Transpose Concat Split VariadicSplit Squeeze Unsqueeze StridedSlice Slice Gather Pad Tile Broadcast MaxPool "
        "ReduceMax ReduceMin Minimum Maximum Relu Clamp Interpolate ShuffleChannels SpaceToDepth DepthToSpace Convert"
    ).split()
)
"""Ops that keep the quantized values they are given, or are fused into the op before them."""

PRODUCTS = frozenset({"Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul"})

PLUMBING = frozenset("Parameter Result Constant FakeQuantize ShapeOf Range ConvertLike Assign ReadValue".split())


def warm_up() -> None:
    """Import what writing needs, while another process still does something else."""
    with needs("convert"):
        import nncf  # noqa: F401
        import openvino  # noqa: F401


def write_ir(
    source: str,
    out: str,
    *,
    precision: str,
    io: str,
    samples: Mapping[str, Any] | None,
    metadata: Mapping[str, Any],
    layers: Iterable[str] = (),
    batch: int | None = None,
) -> dict[str, Any]:
    """Write `out` (.xml, with .bin beside it). Runs in a worker; arguments and result are JSON values.

    Args:
        source: a float32 .tflite file, or an .onnx file.
        out: path of the .xml file.
        precision: "float32", "float16" (weights), "dynamic" (int8 weights, float computation) or "int8".
        io: dtype of inputs and outputs: "float32", "int8" or "uint8".
        samples: JSON of a `SamplesSpec` for calibration; needed for int8.
        metadata: kept in the model's rt_info under "edgewright".
        layers: names of the Keras model's layers, to name those that stay float.
        batch: fixed batch size for a model with a free one; None keeps it free.

    Returns:
        As `quantize.quantize_tflite`.

    Raises:
        ModelError: OpenVINO cannot read the source.
        ConversionError: the quantizer failed.
    """
    with needs("convert"):
        import openvino as ov
    reader = READERS.get(find_reader(Path(source)))(Path(source))
    inputs, outputs = reader.specs()
    if any(spec.quantized for spec in (*inputs, *outputs)) or any(w.bits < 16 for w in reader.info().weights):
        raise UnsupportedError(f"{source} is quantized already", hint="convert from the float model it was made of")
    try:
        model = ov.Core().read_model(source)
    except RuntimeError as error:
        raise ModelError(f"OpenVINO cannot read {source}: {_first_line(error)}", hint="-v shows its log") from error
    _fix_batch(model, batch)
    if len(model.inputs) != len(inputs) or len(model.outputs) != len(outputs):
        raise ConversionError(
            f"OpenVINO sees {len(model.inputs)} inputs and {len(model.outputs)} outputs in {source}, "
            f"the file has {len(inputs)} and {len(outputs)}"
        )
    ranges: dict[str, tuple[float, float]] = {}
    opened = open_calibration(samples, inputs)
    if opened is not None and io != "float32":
        ranges = _ranges(model, inputs, outputs, opened)
    if precision == "int8" and opened is not None:
        model = _quantize(model, inputs, opened)
    elif precision == "dynamic":
        model = _weights_only(model)
    left = list(float_ops(model, list(layers))) if precision == "int8" else []
    _name(model, [spec.name for spec in inputs], [spec.name for spec in outputs])
    scales = _integer_io(model, inputs, outputs, ranges, io) if io != "float32" else {}
    model.set_rt_info(json.dumps(dict(metadata), sort_keys=True), ["edgewright", "meta"])
    names = {"inputs": [spec.name for spec in inputs], "outputs": [spec.name for spec in outputs]}
    model.set_rt_info(json.dumps(names), ["edgewright", "names"])
    model.set_rt_info(json.dumps(scales, sort_keys=True), ["edgewright", "io"])
    ov.save_model(model, out, compress_to_fp16=precision == "float16")
    written = READERS.get("openvino")(Path(out)).specs()
    return {
        "inputs": [spec.to_json() for spec in written[0]],
        "outputs": [spec.to_json() for spec in written[1]],
        "float_ops": [[op, tensor, layer] for op, tensor, layer in left],
        "samples": {"what": opened.describe(), "digest": opened.digest()} if opened else None,
        "warnings": opened.warnings if opened else [],
    }


def float_ops(model: Any, layers: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Ops that compute on values that were not quantized: (type, tensor, layer), in topological order.

    An op computes in int8 when each of its floating inputs comes from a FakeQuantize or a constant, directly or through
    ops that only move or clip values; the bias of a convolution or matrix product is added within that op.
    """
    for op in model.get_ordered_ops():
        kind = op.get_type_name()
        if kind in PLUMBING | MOVES or not op.outputs() or not _floating(op.output(0)):
            continue
        sources = [value.get_source_output().get_node() for value in op.inputs() if _floating(value.get_source_output())]
        variable = [source for source in sources if not _from_constant(source)]
        bias = kind == "Add" and len(variable) == 1 and _unmoved(variable[0]).get_type_name() in PRODUCTS
        if variable and not bias and not all(_unmoved(source).get_type_name() == "FakeQuantize" for source in variable):
            name = _tensor_name(op)
            yield kind, name, layer_of(name, layers)


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


def _unmoved(node: Any) -> Any:
    """The node whose values these are, before they were moved or clipped."""
    while node.get_type_name() in MOVES and node.inputs():
        node = node.input_value(0).get_node()
    return node


def _from_constant(node: Any) -> bool:
    """Whether a value does not depend on the model's inputs."""
    if node.get_type_name() in {"Constant"}:
        return True
    if node.get_type_name() in {"Parameter", "ReadValue"} or not node.inputs():
        return False
    return all(_from_constant(value.get_source_output().get_node()) for value in node.inputs())


def _fix_batch(model: Any, batch: int | None) -> None:
    if batch is None:
        return
    shapes = {}
    for index, port in enumerate(model.inputs):
        shape = port.partial_shape
        if shape.rank.is_static and len(shape) and shape[0].is_dynamic:
            shape[0] = batch
            shapes[index] = shape
    if shapes:
        model.reshape(shapes)


def _quantize(model: Any, inputs: Sequence[TensorSpec], samples: Samples) -> Any:
    import nncf

    names = [spec.name for spec in inputs]
    count = len(samples)

    def feed(item: tuple[int, dict[str, Any]]) -> dict[int, Any]:
        progress(item[0] / (2 * count), "calibrating")
        return {index: item[1][name] for index, name in enumerate(names)}

    try:
        return nncf.quantize(
            model,
            nncf.Dataset(_Numbered(samples), feed),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=count,
        )
    except Exception as error:  # NNCF and OpenVINO raise their own and built-in types
        raise ConversionError(
            f"NNCF failed: {_first_line(error)}", hint="try --precision float16 or dynamic; -v shows its log"
        ) from error


def _weights_only(model: Any) -> Any:
    import nncf

    try:
        return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
    except Exception as error:  # as above
        raise ConversionError(f"NNCF failed: {_first_line(error)}", hint="try --precision float16; -v shows its log") from error


class _Numbered:
    """Samples with their index, re-iterable."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        return iter(enumerate(self.samples))


def _name(model: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Give inputs and outputs exactly one tensor name each."""
    for port in [*model.inputs, *model.outputs]:
        port.get_tensor().set_names(set())
    for port, name in zip(model.inputs, inputs, strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_friendly_name(name)
    for port, name in zip(model.outputs, outputs, strict=True):
        source = port.get_node().input_value(0)
        source.get_tensor().set_names(
            source.get_tensor().get_names() | {name} if source.get_node().get_type_name() == "Parameter" else {name}
        )


def _ranges(
    model: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], samples: Samples
) -> dict[str, tuple[float, float]]:
    """Smallest and largest value of every input and output over the samples."""
    import openvino as ov

    compiled = ov.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found: dict[str, tuple[float, float]] = {}
    for sample in samples:
        results = compiled([sample[spec.name] for spec in inputs])
        values = {spec.name: sample[spec.name] for spec in inputs}
        values |= {spec.name: results[index] for index, spec in enumerate(outputs)}
        for name, value in values.items():
            low, high = found.get(name, (0.0, 0.0))
            found[name] = min(low, float(np.min(value))), max(high, float(np.max(value)))
    return found


def _integer_io(
    model: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], ranges: Mapping[str, tuple[float, float]], io: str
) -> dict[str, dict[str, float]]:
    """Make floating inputs and outputs integer ones; returns {name: {"scale", "zero_point"}}."""
    import openvino as ov
    from openvino.preprocess import PrePostProcessor

    kind = ov.Type.i8 if io == "int8" else ov.Type.u8
    low = -128 if io == "int8" else 0
    scales: dict[str, dict[str, float]] = {}
    for spec in (*inputs, *outputs):
        if spec.dtype.startswith("float"):
            smallest, largest = ranges[spec.name]
            scale = max(largest - smallest, 1e-8) / 255.0
            scales[spec.name] = {"scale": scale, "zero_point": round(low - smallest / scale)}
    steps = PrePostProcessor(model)
    for spec in inputs:
        if spec.name in scales:
            step = steps.input(spec.name)
            step.tensor().set_element_type(kind)
            own = scales[spec.name]
            step.preprocess().convert_element_type(ov.Type.f32).mean(float(own["zero_point"])).scale(1.0 / own["scale"])
    for spec in outputs:
        if spec.name in scales:
            steps.output(spec.name).postprocess().custom(_to_integer(scales[spec.name], low))
            steps.output(spec.name).tensor().set_element_type(kind)
    built = steps.build()
    for port, spec in zip(built.outputs, outputs, strict=True):
        port.get_tensor().set_names({spec.name})
    return scales


def _to_integer(own: Mapping[str, float], low: int) -> Any:
    """Map real values to clip(round(real / scale) + zero point), still as float; the element type is set afterwards."""
    from openvino import opset13 as ops

    def step(output: Any) -> Any:
        scaled = ops.divide(output, np.float32(own["scale"]))
        shifted = ops.add(ops.round(scaled, "half_to_even"), np.float32(own["zero_point"]))
        return ops.clamp(shifted, float(low), float(low + 255)).output(0)

    return step


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
