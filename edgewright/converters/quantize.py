"""Post-training quantization of float32 TFLite files: calibration and the quantizer's recipe; no TensorFlow."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.artifact import TensorSpec
from edgewright.converters.readers import READERS
from edgewright.converters.tflite_file import NamedOp, float_ops, named_ops, names_in, set_signature
from edgewright.converters.tflite_parse import parse
from edgewright.converters.tflite_ranges import Ranges as LearnedRanges
from edgewright.converters.tflite_ranges import has_ranges, override, take_ranges
from edgewright.converters.tflite_rewrite import (
    declare_versions,
    float16_weights,
    float32_weights,
    general_scales,
    integer_io,
    rewrite,
    settle_biases,
    settle_unused_outputs,
    use_integer_forms,
)
from edgewright.errors import ConversionError, SamplesError, UnsupportedError, needs
from edgewright.samples import Samples, SamplesSpec, open_samples
from edgewright.worker import progress

__all__ = [
    "Calibration",
    "calibrate",
    "kept_ops",
    "open_calibration",
    "quantize_tflite",
    "specs_digest",
    "used",
    "warm_up",
]

Ranges = dict[str, dict[str, np.ndarray[Any, Any]]]

MIN_RANGE = 2e-4
"""Narrowest range given to an int16 tensor: the kernels hold a fused ReLU6's bound, 6 / scale, in 32 bits."""


def warm_up() -> None:
    """Import what quantizing needs, while another process still does something else."""
    with needs("convert"):
        from ai_edge_litert import interpreter, schema_py_generated  # noqa: F401
        from ai_edge_quantizer import quantizer  # noqa: F401


def quantize_tflite(
    source: str,
    out: str,
    *,
    precision: str,
    io: str,
    samples: Mapping[str, Any] | None,
    metadata: Mapping[str, Any],
    layers: Sequence[str] = (),
    min_runtime: str | None = None,
    keep_float: Sequence[str] = (),
    int16: Sequence[str] = (),
) -> dict[str, Any]:
    """Write a float32 TFLite file in another precision. Runs in a worker; arguments and result are JSON values.

    Args:
        source: a float32 .tflite file with one signature or none.
        out: the file to write.
        precision: "float32", "float16", "dynamic", "int8" or "int16x8".
        io: dtype of inputs and outputs: "float32", "int8", "uint8" or "int16".
        samples: JSON of a `SamplesSpec` for calibration; needed for int8 and int16x8.
        metadata: JSON object to embed in the file.
        layers: names of the Keras model's layers, to name those that stay float.
        min_runtime: "tflite-2.14" writes what that release can load: per-tensor scales of fully connected layers.
        keep_float: patterns of the layers that compute in float in an int8 or int16x8 file.
        int16: patterns of the layers whose activations have 16 bits in an int8 file.

    Returns:
        inputs and outputs (JSON of `TensorSpec`); `float_ops`: [op, tensor, layer] of every op that stays float in an
        int8 or int16x8 file without being asked to; `kept`: what does as asked, see `kept_ops`; `samples`: what was
        calibrated with, or None; `warnings`.

    Raises:
        UnsupportedError: the file is quantized already, or has loops that the quantizer cannot take.
        UsageError: a pattern matches no layer.
        ConversionError: the quantizer failed.
    """
    reader = READERS.get("tflite")(Path(source))
    inputs, outputs = reader.specs()
    info = reader.info()
    if any(spec.quantized for spec in (*inputs, *outputs)) or any(weight.bits < 16 for weight in info.weights):
        raise UnsupportedError(f"{source} is quantized already", hint="convert from the float model it was made of")
    names = [spec.name for spec in inputs], [spec.name for spec in outputs]
    data = set_signature(Path(source), *names)
    learned: LearnedRanges = {}
    if has_ranges(dict(info.ops)):
        data, learned = take_ranges(data)
    if any(weight.bits == 16 for weight in info.weights):
        data = rewrite(data, float32_weights)
    opened = open_calibration(samples, inputs)
    mixed: dict[str, list[NamedOp]] = {}
    if precision == "float16":
        data = rewrite(data, float16_weights)
    elif precision == "dynamic":
        data = _dynamic(data, min_runtime)
    elif opened is None:
        if precision != "float32":
            raise SamplesError(f"precision {precision} needs samples to calibrate with", hint="add --samples")
    else:
        bits = 8 if precision == "int8" else 16
        _refuse_loops(info.ops, precision)
        data = rewrite(data, lambda schema, tree: use_integer_forms(schema, tree, bits=bits))
        mixed = {how: named_ops(data, how, p, layers) for how, p in (("int16", int16), ("keep_float", keep_float)) if p}
        data = _static(data, Calibration(opened, inputs), learned, mixed, bits=bits, io=io, min_runtime=min_runtime)
    described = {**metadata, "specs": specs_digest(inputs, outputs)}
    Path(out).write_bytes(set_signature(data, *names, metadata=_compact(described)))
    left = float_ops(Path(out), list(layers)) if precision in {"int8", "int16x8"} else []
    asked = {layer for op in mixed.get("keep_float", ()) for layer in op.layers}
    written = READERS.get("tflite")(Path(out)).specs()
    return {
        "inputs": [spec.to_json() for spec in written[0]],
        "outputs": [spec.to_json() for spec in written[1]],
        "float_ops": [[op.op, op.tensor_name, op.layer] for op in left if not asked & names_in(op.tensor_name, layers)],
        "kept": kept_ops(mixed),
        "samples": used(opened),
        "warnings": opened.warnings if opened else [],
    }


def kept_ops(mixed: Mapping[str, Sequence[NamedOp]]) -> list[dict[str, Any]]:
    """What a writer's job tells of ops that differ from the rest of the file as was asked for.

    Args:
        mixed: ops by the option that named their layers, "keep_float" or "int16".

    Returns:
        For each op: `how` (the option), `layer`, `op`, and `kernel`: whether it has one.
    """
    return [
        {"how": how, "layer": " + ".join(op.layers), "op": op.op, "kernel": op.kernel} for how, ops in mixed.items() for op in ops
    ]


def open_calibration(samples: Mapping[str, Any] | None, inputs: tuple[TensorSpec, ...]) -> Samples | None:
    """Samples to calibrate with, enough of them; None if there are none to open."""
    if samples is None:
        return None
    opened = open_samples(SamplesSpec.from_json(samples), inputs)
    opened.require(1, "calibration")
    return opened


def used(samples: Samples | None) -> dict[str, Any] | None:
    """What lineage keeps of calibration: how many samples of what, without the folder they were in, and their digest."""
    if samples is None:
        return None
    folder = str(Path(samples.to_spec().source).parent) + os.sep
    return {"what": samples.describe().replace(folder, ""), "digest": samples.digest()}


def _refuse_loops(ops: Mapping[str, int], precision: str) -> None:
    loops = [op for op in ("WHILE", "UNIDIRECTIONAL_SEQUENCE_LSTM", "IF") if op in ops]
    if loops:
        raise UnsupportedError(
            f"the graph has {loops[0]} ops (a recurrent layer or loop), which cannot be quantized to {precision}",
            hint="convert from the Keras model with --unroll at least as long as its sequence, or use float16 or dynamic",
        )


def _dynamic(data: bytes, min_runtime: str | None) -> bytes:
    with needs("convert"):
        from ai_edge_quantizer import qtyping, quantizer
    tool = quantizer.Quantizer(data)
    names = qtyping.TFLOperationName
    tool.add_dynamic_config(".*", names.ALL_SUPPORTED, 8)
    if min_runtime:
        tool.add_dynamic_config(".*", names.FULLY_CONNECTED, 8, qtyping.QuantGranularity.TENSORWISE)
    try:
        return rewrite(bytes(tool.quantize().quantized_model), declare_versions)
    except Exception as error:  # the quantizer raises plain ValueErrors and RuntimeErrors
        raise _failed(error) from error


def _static(
    data: bytes,
    samples: Calibration,
    learned: LearnedRanges,
    mixed: Mapping[str, Sequence[NamedOp]],
    *,
    bits: int,
    io: str,
    min_runtime: str | None,
) -> bytes:
    with needs("convert"):
        from ai_edge_quantizer import algorithm_manager, qtyping, quantizer
    names = qtyping.TFLOperationName
    tool = quantizer.Quantizer(data)
    tool.add_static_config(".*", names.ALL_SUPPORTED, bits, 8)
    if min_runtime:
        tool.add_static_config(".*", names.FULLY_CONNECTED, bits, 8, qtyping.QuantGranularity.TENSORWISE)
    for op in mixed.get("int16", ()):
        tool.add_static_config(_scope(op), names.ALL_SUPPORTED, 16, 8)
    for op in mixed.get("keep_float", ()):
        tool.update_quantization_recipe(_scope(op), names.ALL_SUPPORTED, None, algorithm_manager.AlgorithmName.NO_QUANTIZE)
    if io == "float32":
        for border in (names.INPUT, names.OUTPUT):
            tool.update_quantization_recipe("^.*$", border, None, algorithm_manager.AlgorithmName.NO_QUANTIZE)  # after all others
    try:
        ranges = calibrate(data, samples, tool.get_quantization_recipe())
        override(ranges, learned)
        if bits == 16:
            ranges = {name: _wide_enough(found) for name, found in ranges.items()}
        biases = _float_biases(data)
        result = rewrite(bytes(tool.quantize(ranges).quantized_model), lambda schema, tree: _settle(schema, tree, biases))
    except (ValueError, RuntimeError, KeyError, IndexError, TypeError) as error:
        raise _failed(error) from error
    if io == "float32":
        return result
    limits = _border_ranges(data, ranges, samples)
    return rewrite(result, lambda schema, tree: integer_io(schema, tree, io, limits))


def _scope(op: NamedOp) -> str:
    """The quantizer's regular expression for this op alone."""
    return "^" + re.escape(";".join(op.outputs) + ";") + "$"


def _settle(schema: Any, tree: Any, biases: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Mend what the quantizer leaves in a form that engines refuse, or compute wrongly."""
    settle_unused_outputs(schema, tree)
    general_scales(schema, tree)
    settle_biases(schema, tree, biases)


def _float_biases(data: bytes) -> dict[str, np.ndarray[Any, Any]]:
    """Biases of a float file by name."""
    file = parse(Path("model.tflite"), data)
    found = {}
    for graph in file.graphs:
        for op in graph.ops:
            bias = graph.tensors[op.inputs[-1]] if len(op.inputs) > 2 and op.inputs[-1] >= 0 else None
            if bias is not None and len(bias.shape) == 1 and bias.is_float and file.constant(bias):
                found[bias.name] = np.asarray(file.values(bias), np.float64)
    return found


def _border_ranges(data: bytes, ranges: Ranges, samples: Calibration) -> list[tuple[float, float] | None]:
    """Smallest and largest value of every input, then of every output; None for those that are no floating ones."""
    file = parse(Path("model.tflite"), data)
    graph = file.graphs[file.signatures[0].graph]
    fed = samples.ranges()
    result: list[tuple[float, float] | None] = []
    for index in (*graph.inputs, *graph.outputs):
        tensor = graph.tensors[index]
        if not tensor.is_float:
            result.append(None)
        elif tensor.name in ranges:
            result.append((float(np.min(ranges[tensor.name]["min"])), float(np.max(ranges[tensor.name]["max"]))))
        elif file.constant(tensor):
            values = file.values(tensor)
            result.append((float(values.min()), float(values.max())))
        else:
            result.append(fed.get(tensor.name, (0.0, 0.0)))
    return result


def calibrate(data: bytes, samples: Calibration, recipe: Any) -> Ranges:
    """Smallest and largest value of every tensor over all samples.

    The whole range counts: the quantizer's own moving average of per-sample ranges clips small tensors hard (a
    two-input model lost 30 dB to it).

    Args:
        data: float32 .tflite content with one signature.
        samples: what to run it with.
        recipe: the quantizer's recipe.
    """
    from ai_edge_quantizer import calibrator, recipe_manager
    from ai_edge_quantizer.utils import qsv_utils

    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(recipe)
    collector = calibrator.Calibrator(
        data,
        num_threads=os.cpu_count() or 1,
        mode=calibrator.CalibrationMode.CALIBRATION_PROFILER_BASED,
        qsv_update_func=qsv_utils.min_max_update,
    )
    collector.calibrate({"serving_default": samples}, manager)
    return dict(collector.get_model_qsvs())


class Calibration:
    """Samples in batches of the size that the model has, re-iterable and sized; reports progress as they are used.

    The last batch is filled up with its own last sample, which changes no range.

    Args:
        samples: for the model's inputs.
        inputs: the model's inputs; a free batch size counts as 1.
        share: share of the whole progress that one pass over the samples is worth.
    """

    def __init__(self, samples: Samples, inputs: Sequence[TensorSpec], share: float = 0.5) -> None:
        sizes = {spec.shape[0] or 1 for spec in inputs if spec.shape}
        self.batch = sizes.pop() if len(sizes) == 1 else 1
        self.samples, self.share, self.passes = samples, share, 0
        self._seen: dict[str, tuple[float, float]] = {}

    def __len__(self) -> int:
        return -(-len(self.samples) // self.batch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        done, count, start = 0, len(self.samples), self.share * self.passes
        self.passes += 1
        for feeds in self.samples.batches(self.batch):
            size = len(next(iter(feeds.values())))
            progress(min(1.0, start + self.share * done / count), f"calibrating, sample {done + 1} of {count}")
            done += size
            filled = {k: np.concatenate([v, *[v[-1:]] * (self.batch - size)]) for k, v in feeds.items()}
            for name, values in feeds.items():
                low, high = self._seen.get(name, (np.inf, -np.inf))
                self._seen[name] = min(low, float(np.min(values))), max(high, float(np.max(values)))
            yield filled

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Smallest and largest value of every input over all samples; reads them once if nobody has."""
        if not self._seen:
            for _ in self:
                pass
        return dict(self._seen)


def _wide_enough(found: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    return {**found, "min": np.minimum(found["min"], -MIN_RANGE), "max": np.maximum(found["max"], MIN_RANGE)}


def specs_digest(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> str:
    """Digest of names, order and shapes of inputs and outputs, which are the same in every format of a model."""
    plain = [[[spec.name, list(spec.shape)] for spec in specs] for specs in (inputs, outputs)]
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:16]


def _compact(metadata: Mapping[str, Any]) -> bytes:
    """JSON of at most 512 bytes: what cannot fit (preprocessing of many inputs) is left to the sidecar."""
    data = json.dumps(metadata, separators=(",", ":"), sort_keys=True).encode()
    if len(data) > 512:
        data = json.dumps(
            {k: v for k, v in metadata.items() if k != "preprocess"}, separators=(",", ":"), sort_keys=True
        ).encode()
    return data


def _failed(error: Exception) -> ConversionError:
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return ConversionError(f"the quantizer failed: {first[:300]}", hint="try --precision float16 or dynamic; -v shows its log")
