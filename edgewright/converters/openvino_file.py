"""OpenVINO IR from a float32 TFLite or ONNX file: names, precision, integer inputs and outputs; no TensorFlow."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.artifact import TensorSpec
from edgewright.converters.openvino_rounding import float_ops, narrowed, nodes_of, set_ranges
from edgewright.converters.openvino_source import Source, read_source
from edgewright.converters.quantize import Calibration, kept_ops, open_calibration, specs_digest, used
from edgewright.converters.readers import READERS, find_reader
from edgewright.converters.tflite_file import NamedOp
from edgewright.converters.tflite_rewrite import affine
from edgewright.errors import ConversionError, EdgewrightError, ModelError, UnsupportedError, needs

__all__ = ["warm_up", "write_ir"]

_COMPARED = 64
"""Batches that two candidates are compared on, spread over all samples."""

_UNLIKELY = 1e-6
"""Probability below which it does not matter how small one is."""

_NEAR = 1e-3
"""Noise (30 dB) below which a model is quantized well enough without bias correction."""

_SAME = 1e-3
"""Noise between two ways of computing one model (30 dB): rounding stays far below it."""


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
    layers: Sequence[str] = (),
    batch: int | None = None,
    keep_float: Sequence[str] = (),
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
        keep_float: patterns of the layers that compute in float in an int8 model.

    Returns:
        As `quantize.quantize_tflite`.

    Raises:
        UsageError: a pattern matches no layer.
        ModelError: OpenVINO cannot read the source.
        ConversionError: the quantizer failed.
    """
    with needs("convert"):
        import openvino as ov
    reader = READERS.get(find_reader(Path(source)))(Path(source))
    inputs, found = reader.specs()
    outputs, renamed = _distinct(inputs, found)
    if any(spec.quantized for spec in (*inputs, *outputs)) or any(w.bits < 16 for w in reader.info().weights):
        raise UnsupportedError(f"{source} is quantized already", hint="convert from the float model it was made of")
    try:
        read = read_source(reader)
        model = read.model
        _fix_batch(model, batch)
    except RuntimeError as error:
        raise ModelError(f"OpenVINO cannot read {source}: {_first_line(error)}", hint="-v shows its log") from error
    if len(model.inputs) != len(inputs) or len(model.outputs) != len(outputs):
        raise ConversionError(
            f"OpenVINO sees {len(model.inputs)} inputs and {len(model.outputs)} outputs in {source}, "
            f"the file has {len(inputs)} and {len(outputs)}"
        )
    _number(model)
    ranges: dict[str, tuple[float, float]] = {}
    notes: list[str] = []
    kept: list[NamedOp] = []
    opened = open_calibration(samples, inputs)
    if opened is not None and precision == "int8":
        sized = [replace(spec, shape=(batch, *spec.shape[1:])) for spec in inputs] if batch else inputs
        feeds = Calibration(opened, sized, share=0.25)
        ranges = _ranges(model, inputs, outputs, feeds) if io != "float32" else {}
        kept = read.kept(keep_float, layers)
        model = _quantize(read, inputs, feeds, nodes_of(model, kept), notes)
        if _wrong_when_free(model, inputs, feeds):
            notes.append("the batch size is fixed to 1: with a free one OpenVINO's CPU plug-in computes this int8 model wrongly")
            _fix_batch(model, 1)
    elif precision == "dynamic":
        model = _weights_only(model, notes)
    asked = {name for op in kept for name in op.outputs}
    left = [found for found in float_ops(model, list(layers)) if found[1] not in asked] if precision == "int8" else []
    _name(model, [spec.name for spec in inputs], [spec.name for spec in outputs])
    scales: dict[str, dict[str, float]] = {}
    if io != "float32":
        scales = {name: dict(zip(("scale", "zero_point"), affine(*found, io), strict=True)) for name, found in ranges.items()}
        model = _integer_io(model, inputs, outputs, scales, io)
    model = ov.Model(model.get_results(), model.get_sinks(), model.get_parameters(), "model")  # without what NNCF notes in it
    meta = {**metadata, "specs": specs_digest(inputs, outputs)}
    model.set_rt_info(json.dumps(meta, sort_keys=True), ["edgewright", "meta"])
    names = {"inputs": [spec.name for spec in inputs], "outputs": [spec.name for spec in outputs]}
    model.set_rt_info(json.dumps(names), ["edgewright", "names"])
    model.set_rt_info(json.dumps(scales, sort_keys=True), ["edgewright", "io"])
    _number(model)
    _shorten(model)
    ov.save_model(model, out, compress_to_fp16=precision == "float16")
    written = READERS.get("openvino")(Path(out)).specs()
    return {
        "inputs": [spec.to_json() for spec in written[0]],
        "outputs": [spec.to_json() for spec in written[1]],
        "float_ops": [[op, tensor, layer] for op, tensor, layer in left],
        "kept": kept_ops({"keep_float": kept}),
        "samples": used(opened),
        "warnings": [*(opened.warnings if opened else []), *renamed, *notes],
    }


def _distinct(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> tuple[tuple[TensorSpec, ...], list[str]]:
    """Outputs under names that no input has, which OpenVINO would change on writing; and what was renamed, in words."""
    taken = {spec.name for spec in (*inputs, *outputs)}
    result, notes = [], []
    for spec in outputs:
        name, count = spec.name, 0
        while any(name == other.name for other in inputs) or (count and name in taken):
            count += 1
            name = f"{spec.name}_{count}"
        if count:
            taken.add(name)
            notes.append(f"the output '{spec.name}' is called '{name}': OpenVINO has an input of that name")
        result.append(replace(spec, name=name))
    return tuple(result), notes


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


def _quantize(
    source: Source,
    inputs: Sequence[TensorSpec],
    samples: Calibration,
    kept: Collection[str],
    notes: list[str],
) -> Any:
    """Post-training quantization; where that is not near enough, whichever variant is nearest.

    Ranges are the smallest and largest value over all samples: the mean of each sample's, NNCF's default, clips small
    models hard. Ranges that training has learned take their place. Bias correction takes a mean per channel, which helps
    wide convolutional models and harms others; a trained model needs none. On CPUs without VNNI or AMX, sums of two 8-bit
    products saturate in 16 bits; weights of 7 bits keep them from it, in the first layer those of models that were not
    trained for 8.

    Args:
        source: the model in float.
        inputs: of the model.
        samples: to measure ranges with.
        kept: names of the nodes that stay float.
        notes: what the user should know; one is appended where the weights have 7 bits.
    """
    import nncf
    from nncf.quantization.advanced_parameters import OverflowFix
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    names = [spec.name for spec in inputs]

    def feed(item: Mapping[str, Any]) -> dict[int, Any]:
        return {index: item[name] for index, name in enumerate(names)}

    def candidate(fix: OverflowFix, *, correct: bool = False) -> Any:
        advanced = nncf.AdvancedQuantizationParameters(
            disable_bias_correction=not correct,
            overflow_fix=fix,
            activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
        )
        found = nncf.quantize(
            source.model.clone(),
            nncf.Dataset(samples, feed),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(samples),
            ignored_scope=nncf.IgnoredScope(names=list(kept)) if kept else None,
            advanced_parameters=advanced,
        )
        if source.trained is not None:
            set_ranges(found, source.ranges)
        return found

    try:
        plain = candidate(OverflowFix.FIRST_LAYER if source.trained is None else OverflowFix.DISABLE)
        feeds = [list(feed(item).values()) for item in islice(samples, 0, None, -(-len(samples) // _COMPARED))]
        reference = _run(source.model if source.trained is None else _with_batch_1(source.trained), feeds)

        def noise(found: Any) -> float:
            return _noise(reference, _run(_with_batch_1(found), feeds))

        least = noise(plain)
        if least < _NEAR:
            return plain
        if source.trained is not None:
            others = {"narrow": narrowed(plain)}
        else:
            corrected = candidate(OverflowFix.FIRST_LAYER, correct=True)
            others = {"narrow": candidate(OverflowFix.ENABLE), "corrected": corrected}
        found = {**{name: noise(other) for name, other in others.items()}, "plain": least}
        best = min(found, key=lambda name: found[name])
        if best == "narrow":
            told = "on this CPU sums of 8-bit products saturate, as on all without VNNI or AMX"
            notes.append(f"weights have 7 of 8 bits in the int8 file: {told}")
        return {**others, "plain": plain}[best]
    except (EdgewrightError, MemoryError):
        raise
    except Exception as error:  # NNCF and OpenVINO raise their own and built-in types
        raise ConversionError(
            f"NNCF failed: {_first_line(error)}", hint="try --precision float16 or dynamic; -v shows its log"
        ) from error


def _wrong_when_free(model: Any, inputs: Sequence[TensorSpec], samples: Calibration) -> bool:
    """Whether the CPU plug-in computes something else for a free batch than for a batch of 1.

    OpenVINO 2026.4.1 does for some int8 models, by up to 8 dB of signal to noise (a dilated Conv1D with BatchNormalization,
    EfficientNetB0).
    """
    if not any(port.partial_shape.is_dynamic for port in model.inputs):
        return False
    feeds = [[item[spec.name] for spec in inputs] for item in islice(samples, 0, None, -(-len(samples) // _COMPARED))]
    return _noise(_run(_with_batch_1(model), feeds), _run(model, feeds)) > _SAME


def _with_batch_1(model: Any) -> Any:
    """A copy whose free batch is 1, which the CPU plug-in computes faithfully."""
    fixed = model.clone()
    _fix_batch(fixed, 1)
    return fixed


def _noise(reference: Sequence[np.ndarray[Any, Any]], found: Sequence[np.ndarray[Any, Any]]) -> float:
    """Mean over the outputs of the squared error relative to the output's own power."""
    shares = []
    for wanted, given in zip(reference, found, strict=True):
        power = float(np.square(wanted).sum())
        shares.append(float(np.square(wanted - given).sum()) / power if power else 0.0)
    return float(np.mean(shares))


def _run(model: Any, feeds: Sequence[Any]) -> list[np.ndarray[Any, Any]]:
    """All results as float64, in the model's order, one after another along the first axis.

    Probabilities are given as logarithms: what a softmax is fed shows noise that its result hides where it is sure.
    """
    import openvino as ov

    makers = [port.get_node().input_value(0).get_node().get_type_name() for port in model.outputs]
    compiled = ov.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found: list[list[np.ndarray[Any, Any]]] = [[] for _ in compiled.outputs]
    for values in feeds:
        answer = compiled(values)
        for index, results in enumerate(found):
            results.append(np.asarray(answer[index], np.float64).reshape(-1))
    joined = [np.concatenate(results) for results in found]
    return [np.log(np.maximum(v, _UNLIKELY)) if kind == "Softmax" else v for kind, v in zip(makers, joined, strict=True)]


def _weights_only(model: Any, notes: list[str]) -> Any:
    """Int8 weights, float computation; what the CPU plug-in cannot compile in that form stays float, and is noted."""
    import nncf

    def compressed(ignored: Sequence[str]) -> Any:
        scope = nncf.IgnoredScope(names=list(ignored)) if ignored else None
        return nncf.compress_weights(model.clone(), mode=nncf.CompressWeightsMode.INT8_SYM, ignored_scope=scope)

    try:
        result = compressed(())
        if _compiles(result):
            return result
        single = [op for op in model.get_ordered_ops() if op.get_type_name() == "Convolution" and _on_one_position(op)]
        result = compressed([op.get_friendly_name() for op in single])
    except MemoryError:
        raise
    except Exception as error:  # as above
        raise ConversionError(f"NNCF failed: {_first_line(error)}", hint="try --precision float16; -v shows its log") from error
    if not _compiles(result):
        raise ConversionError("OpenVINO cannot compile the model with int8 weights", hint="use --precision float16 or int8")
    notes.append(
        f"{len(single)} convolutions on maps of 1x1 keep float32 weights: OpenVINO's CPU plug-in cannot compile them in int8"
    )
    return result


def _compiles(model: Any) -> bool:
    import openvino as ov

    try:
        ov.compile_model(model, "CPU")
    except RuntimeError:
        return False
    return True


def _on_one_position(convolution: Any) -> bool:
    """Whether a convolution computes one position only, as those in squeeze-and-excite blocks do."""
    return all(size.is_static and size.get_length() == 1 for size in list(convolution.output(0).get_partial_shape())[2:])


def _name(model: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Give inputs and outputs exactly one tensor name each; a tensor that stands in several places has all of theirs."""
    for port in [*model.inputs, *model.outputs]:
        port.get_tensor().set_names(set())
    for port, name in zip(model.inputs, inputs, strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_friendly_name(name)
    for port, name in zip(model.outputs, outputs, strict=True):
        tensor = port.get_node().input_value(0).get_tensor()
        shared = {id_ for id_ in tensor.get_names() if id_ in inputs or id_ in outputs}
        tensor.set_names(shared | {name})


def _number(model: Any) -> None:
    """Number the nodes that OpenVINO names by itself anew: its count goes on through a process, the bytes must not."""
    for index, op in enumerate(model.get_ordered_ops()):
        if found := re.fullmatch(r"([A-Z][A-Za-z]*)_\d+", op.get_friendly_name()):
            op.set_friendly_name(f"{found[1]}_{index}")


def _shorten(model: Any) -> None:
    """Name nodes and tensors within the model after the last op of those that were fused into them: an IR of so many words."""
    borders = {name for port in (*model.inputs, *model.outputs) for name in port.get_names()}
    taken = set(borders) | {op.get_friendly_name() for op in model.get_ordered_ops()}
    for op in model.get_ordered_ops():
        short = op.get_friendly_name().partition(";")[0]
        if short not in taken:
            taken.add(short)
            op.set_friendly_name(short)
        for output in op.outputs():
            if any(";" in name for name in output.get_names()) and not borders & output.get_names():
                first = sorted(output.get_names())[0].partition(";")[0]
                output.get_tensor().set_names(set() if first in taken - {short} else {first})
                taken.add(first)


def _ranges(
    model: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], samples: Calibration
) -> dict[str, tuple[float, float]]:
    """Smallest and largest value over the samples by name; an input and an output of one name share their range."""
    import openvino as ov

    compiled = ov.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found: dict[str, tuple[float, float]] = {}
    for sample in samples:
        results = compiled([sample[spec.name] for spec in inputs])
        values = [(spec, sample[spec.name]) for spec in inputs]
        values += [(spec, results[index]) for index, spec in enumerate(outputs)]
        for spec, value in values:
            if spec.dtype.startswith("float"):
                low, high = found.get(spec.name, (0.0, 0.0))
                found[spec.name] = min(low, float(np.min(value))), max(high, float(np.max(value)))
    return found


def _integer_io(
    model: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], scales: Mapping[str, Mapping[str, float]], io: str
) -> Any:
    """The model with integer inputs and outputs in the place of floating ones, those that `scales` has."""
    import openvino as ov
    from openvino.preprocess import PrePostProcessor

    kind = ov.Type.i8 if io == "int8" else ov.Type.u8
    low = -128 if io == "int8" else 0
    steps = PrePostProcessor(model)
    for index, spec in enumerate(inputs):
        if spec.dtype.startswith("float"):
            own, step = scales[spec.name], steps.input(index)
            step.tensor().set_element_type(kind)
            step.preprocess().convert_element_type(ov.Type.f32).mean(float(own["zero_point"])).scale(1.0 / own["scale"])
    for index, spec in enumerate(outputs):
        if spec.dtype.startswith("float"):
            steps.output(index).postprocess().custom(_to_integer(scales[spec.name], low))
            steps.output(index).tensor().set_element_type(kind)
    built = steps.build()
    _name(built, [spec.name for spec in inputs], [spec.name for spec in outputs])
    return built


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
