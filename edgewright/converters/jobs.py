"""Jobs on models of any format that run in a child process: inspect, lower to TFLite, compute reference outputs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np

from edgewright.artifact import files_of
from edgewright.converters.readers import READERS, LowerOptions, Reader, ReferenceReader, find_reader
from edgewright.errors import UnsupportedError
from edgewright.samples import SamplesSpec, open_samples
from edgewright.worker import progress

__all__ = ["inspect_model", "lower_model", "model_specs", "reference_outputs"]

UNROLL_LIMIT = 128
"""Longest sequence that recurrent layers are unrolled for, unless the user asks for more."""


REFERENCE_BATCH = 8
"""Samples per call of the original: more cost memory and, in a traced function, save no time."""


def inspect_model(path: str, *, trust: bool, custom: str | None) -> dict[str, Any]:
    """JSON of a file's `ModelInfo`."""
    return _open(path, trust, custom).info().to_json()


def model_specs(path: str, *, trust: bool, custom: str | None) -> dict[str, Any]:
    """JSON of a file's inputs and outputs, and the preprocessing that is stored in the file itself."""
    reader = _open(path, trust, custom)
    stored = reader.preprocess() if hasattr(reader, "preprocess") else {}
    return {**_specs(reader), "preprocess": stored}


def lower_model(
    path: str, out: str, *, batch: int | None, unroll: int | None, integer: bool, select_tf: bool, trust: bool, custom: str | None
) -> dict[str, Any]:
    """Write a Keras model or SavedModel as a float32 TFLite file.

    Args:
        path: the model.
        out: the .tflite file to write.
        batch: fixed batch size; None keeps it free where the graph can (loops need a fixed one and get 1).
        unroll: longest sequence to unroll recurrent layers for; None means `UNROLL_LIMIT`.
        integer: the file is to be quantized to integer activations, which loops forbid.
        select_tf: allow ops that need the Flex delegate.
        trust: run code that the model carries.
        custom: module that registers custom objects.

    Returns:
        inputs and outputs of the model itself, `layers`: names of its layers, `recurrent`: whether it has recurrent layers
        (without any, `integer` and `unroll` change nothing), `warnings`.

    Raises:
        UnsupportedError: a recurrent layer cannot be unrolled but must be, or an op has no TFLite form.
    """
    reader = cast("ReferenceReader", _open(path, trust, custom))
    progress(0.3, "model loaded")
    limit = UNROLL_LIMIT if unroll is None else unroll
    steps = reader.recurrent_steps()
    too_long = {name: count for name, count in steps.items() if count is None or count > limit}
    warnings = []
    if integer and too_long:
        name, count = next(iter(too_long.items()))
        length = "an unknown or free length" if count is None else f"{count} steps"
        raise UnsupportedError(
            f"the recurrent layer '{name}' has {length}; integer precisions need it unrolled, which is done up to {limit} steps",
            hint=f"use float16 or dynamic{f', or --unroll {count}' if count else ', or convert from Keras with a fixed length'}",
        )
    if batch is None and steps and (too_long or not limit):
        warnings.append("the batch size is fixed to 1: the model has a loop that needs it")
        batch = 1
    wants_unroll = integer or batch is None
    reader.lower(Path(out), LowerOptions(batch=batch, unroll=limit if wants_unroll else 0, select_tf=select_tf))
    return {**_specs(reader), "layers": reader.layer_names(), "recurrent": bool(steps), "warnings": warnings}


def reference_outputs(path: str, out: str, samples: Mapping[str, Any], *, trust: bool, custom: str | None) -> dict[str, Any]:
    """Compute a training-format model's own outputs over samples and store them as .npz, one array per output."""
    reader = cast("ReferenceReader", _open(path, trust, custom))
    inputs, outputs = reader.specs()
    opened = open_samples(SamplesSpec.from_json(samples), inputs)
    results: dict[str, list[np.ndarray[Any, Any]]] = {spec.name: [] for spec in outputs}
    done = 0
    by_sample = all(spec.shape[:1] == (None,) for spec in outputs)
    for batch in opened.batches(REFERENCE_BATCH if by_sample else 1):
        for name, value in reader.reference(batch).items():
            whole = value.shape[:1] == (len(next(iter(batch.values()))),)
            results[name].append(value if whole else value[np.newaxis])
        done += len(next(iter(batch.values())))
        progress(done / len(opened), f"reference outputs, sample {done} of {len(opened)}")
    np.savez(out, allow_pickle=False, **{f"{i}": np.concatenate(results[spec.name]) for i, spec in enumerate(outputs)})
    return {**_specs(reader), "samples": opened.describe(), "warnings": opened.warnings}


def _open(path: str, trust: bool, custom: str | None) -> Reader:
    """The reader of a file; the one opened last is kept, so that lowering and reference outputs load a model once."""
    stamp = tuple((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files_of(Path(path)))
    return _reader(path, trust, custom, stamp)


@lru_cache(maxsize=1)
def _reader(path: str, trust: bool, custom: str | None, stamp: tuple[tuple[str, int, int], ...]) -> Reader:
    return READERS.get(find_reader(Path(path)))(Path(path), trust=trust, custom=custom)


def _specs(reader: Any) -> dict[str, Any]:
    inputs, outputs = reader.specs()
    return {"inputs": [spec.to_json() for spec in inputs], "outputs": [spec.to_json() for spec in outputs]}
