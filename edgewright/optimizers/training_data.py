"""What passes train on: samples in memory, their labels, and the original's own outputs. Needs Keras, in a child."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgewright.errors import SamplesError, ShapeError
from edgewright.optimizers.graph import Array
from edgewright.samples import Samples

__all__ = ["TrainingData", "predict", "training_data"]


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Samples in memory.

    Args:
        inputs: arrays by input name, shape (samples, ...).
        labels: per output of the model, in its order: shape (samples, ...), or None where there are none.
        hard: per output, what the labels are: "classes" (indexes), "shares" (0 and 1, or probabilities), "values".
        soft: per output, the original's own outputs; None if nothing asks for them.
        probabilities: per output, whether the original's outputs are probabilities of classes that exclude each other.
    """

    inputs: Mapping[str, Array]
    labels: tuple[Array | None, ...]
    hard: tuple[str, ...]
    soft: tuple[Array, ...] | None
    probabilities: tuple[bool, ...]

    def __len__(self) -> int:
        """Number of samples."""
        return len(next(iter(self.inputs.values())))


def training_data(samples: Samples, model: Any, outputs: Sequence[str], *, soft: bool) -> TrainingData:
    """All samples with their labels, and what a model computes on them.

    Args:
        samples: for the model's inputs.
        model: the original, functional or Sequential.
        outputs: names of its outputs, in order.
        soft: compute its outputs even where there are labels.

    Raises:
        SamplesError: labels are of no output.
        ShapeError: labels do not fit the outputs.
    """
    parts: dict[str, list[Array]] = {name: [] for name in samples.inputs}
    for batch in samples.batches(256):
        for name, values in batch.items():
            parts[name].append(values)
    inputs = {name: np.concatenate(values) for name, values in parts.items()}
    labels = _labels(samples, outputs)
    wanted = soft or any(one is None for one in labels)
    found = predict(model, inputs) if wanted else None
    shapes = [tuple(tensor.shape[1:]) for tensor in model.outputs]
    hard = tuple(_kind(label, shape, name) for label, shape, name in zip(labels, shapes, outputs, strict=True))
    sums = [_are_probabilities(values) for values in found] if found else [_softmax_ends(t) for t in model.outputs]
    return TrainingData(inputs, labels, hard, tuple(found) if found else None, tuple(sums))


def predict(model: Any, inputs: Mapping[str, Array]) -> list[Array]:
    """A model's outputs over samples, in the order of `model.outputs`."""
    import keras

    feeds = [inputs[tensor._keras_history.operation.name] for tensor in model.inputs]
    flat = keras.Model(model.inputs, model.outputs)  # whatever structure the outputs have
    flat.compile(jit_compile=False)
    found = flat.predict(feeds, batch_size=256, verbose=0)
    return list(found) if isinstance(found, (list, tuple)) else [found]


def _labels(samples: Samples, outputs: Sequence[str]) -> tuple[Array | None, ...]:
    known = dict(samples.labels)
    if set(known) == {"y"} and "y" not in outputs:
        if len(outputs) > 1:
            raise SamplesError(
                f"labels are called y, the model has the outputs {', '.join(outputs)}", hint="name them y:<output>"
            )
        known = {outputs[0]: known["y"]}
    if unknown := sorted(set(known) - set(outputs)):
        raise SamplesError(f"there are labels for {', '.join(unknown)}, the model has the outputs {', '.join(outputs)}")
    return tuple(known.get(name) for name in outputs)


def _kind(label: Array | None, shape: tuple[int, ...], name: str) -> str:
    if label is None:
        return "values"
    size = shape[-1] if shape else 1
    if label.dtype.kind in "iub" and label.shape[1:] in ((), (1,)) and size > 1:
        if label.min() < 0 or label.max() >= size:
            raise ShapeError(f"labels of output '{name}' reach from {label.min()} to {label.max()}, it has {size} classes")
        return "classes"
    if label.shape[1:] != shape and not (label.ndim == 1 and shape == (1,)):
        raise ShapeError(f"labels of output '{name}' have shape {label.shape[1:]}, the output has {shape}")
    return "shares" if label.dtype.kind in "iub" else "values"


def _are_probabilities(values: Array) -> bool:
    """Whether the last axis holds probabilities of classes that exclude each other."""
    return values.shape[-1] > 1 and bool(values.min() >= 0 and np.allclose(values.sum(axis=-1), 1.0, atol=1e-3))


def _softmax_ends(tensor: Any) -> bool:
    layer = tensor._keras_history.operation
    name = getattr(getattr(layer, "activation", None), "__name__", type(layer).__name__.lower())
    return "softmax" in name
