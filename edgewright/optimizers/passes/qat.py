"""Quantization-aware training: weights and activations are rounded while the model trains, as the int8 file will round them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from edgewright.optimizers.graph import Kernel, consumers, fold_batch_norm, kernels_of, rebuilt
from edgewright.optimizers.passes import PASSES, STRICT, KerasPass, Outcome, Task
from edgewright.optimizers.shaping import Shape, bake, clustering_of, mask_shape, rounding, shaped
from edgewright.optimizers.training import FitOptions

__all__ = ["Qat", "QatOptions"]

_PASSIVE = frozenset(
    (
        "InputLayer Dropout SpatialDropout1D SpatialDropout2D SpatialDropout3D GaussianNoise GaussianDropout AlphaDropout "
        "ActivityRegularization Identity Reshape Flatten Permute RepeatVector MaxPooling1D MaxPooling2D MaxPooling3D "
        "GlobalMaxPooling1D GlobalMaxPooling2D Cropping1D Cropping2D Masking FakeQuant"
    ).split()
)
"""Layers whose output has the range of their input, or has none: what TFLite gives the same scale."""

_FUSED = frozenset(("relu", "relu6", "relu_n1_to_1"))
"""Activations that the kernels compute on the accumulator: nothing is rounded before them."""

_BOUNDED = frozenset(("softmax", "sigmoid", "tanh"))
"""Activations whose output scale the specification fixes: no range is learned for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QatOptions(FitOptions):
    """How a model is trained for int8.

    Args:
        momentum: of the moving average of activation ranges.
        freeze: share of the training after which ranges are frozen.
        preserve: keep zeros and clusters that the model has: "auto" where there are any, "no" forgets them.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT

    learning_rate: float = 3e-4
    momentum: float = 0.95
    freeze: float = 0.8
    preserve: Literal["auto", "no"] = "auto"


@PASSES.register("qat")
class Qat(KerasPass):
    """Folds BatchNorm, rounds kernels per output channel and activations per tensor, and trains.

    The model that comes out is a plain Keras model whose kernels lie on the grid of their scales, with `FakeQuant` layers
    that hold the learned ranges; the export takes scales from both. What a model had of zeros and clusters is kept.
    """

    name: ClassVar[str] = "qat"
    Options: ClassVar[type[QatOptions]] = QatOptions

    def transform(self, task: Task) -> Outcome:
        """The trained model; see `KerasPass.transform`."""
        model, folded = fold_batch_norm(task.model)
        if folded:
            task.notes.append(f"{len(folded)} BatchNorms were folded and are frozen")
        left = [layer.name for layer in model.layers if type(layer).__name__ == "BatchNormalization"]
        if left:
            task.notes.append(f"BatchNorms that follow no convolution or dense layer are trained as they are: {', '.join(left)}")
        kernels = kernels_of(model)
        shapes = [self._shape(kernel) for kernel in kernels]
        model, quants = self._with_ranges(model)
        trained = shaped(model, shapes)
        trainer = task.trainer
        if trainer is not None:
            frozen: list[bool] = []

            def freeze(step: int) -> None:
                if step >= round(self.options.freeze * trainer.steps) and not frozen:
                    frozen.append(True)
                    for quant in quants:
                        quant.momentum_now.assign(1.0)

            trainer.show(trained)
            trainer.fit(trained, "quantization-aware training", freeze)
        bake(shapes)
        for kernel in kernels:
            kernel.variable.trainable = True
        for quant in quants:
            quant.frozen = True
            quant.momentum_now.assign(quant.momentum)
        return Outcome(model)

    def _shape(self, kernel: Kernel) -> Shape:
        """How a kernel is computed in training: its zeros and clusters kept, then rounded."""
        values = kernel.values()
        functions, state = [], []
        if self.options.preserve != "no":
            clusters = clustering_of(values, kernel.inputs)
            if clusters is not None:
                function, centroids = clusters.shape(zero=bool(np.any(values == 0.0)))
                kernel.variable.trainable = False
                functions.append(function)
                state.append(centroids)
            elif np.mean(values == 0.0) >= 0.05:
                function, mask = mask_shape(kernel, values != 0.0)
                functions.append(function)
                state.append(mask)
        per_channel = not kernel.path.endswith("embeddings")
        return Shape(kernel, [*functions, rounding(kernel, per_channel)], state)

    def _with_ranges(self, model: Any) -> tuple[Any, list[Any]]:
        """The model with a `FakeQuant` behind every tensor that the int8 file rounds, and these layers."""
        from edgewright.keras_layers import FakeQuant

        silent = _without_rounding(model)
        made: list[Any] = []
        counts: dict[str, int] = {}

        def quantized(layer: Any, result: Any) -> Any:
            if id(layer) in silent or not hasattr(result, "shape"):
                return result
            if str(result.dtype) != "float32":
                return result
            counts[layer.name] = counts.get(layer.name, 0) + 1
            suffix = "" if counts[layer.name] == 1 else f"_{counts[layer.name]}"
            quant = FakeQuant(momentum=self.options.momentum, name=f"{layer.name}_range{suffix}")
            made.append(quant)
            return quant(result)

        def entry(tensor: Any) -> Any:
            return quantized(tensor._keras_history.operation, tensor)

        def call(layer: Any, _: Any, *args: Any, **kwargs: Any) -> Any:
            return quantized(layer, layer(*args, **kwargs))

        return rebuilt(model, lambda layer: layer, call, entry), made


def _without_rounding(model: Any) -> set[int]:
    """Ids of operations whose output gets no range: passive ones, those that a fused activation follows, bounded ones."""
    found = set()
    takers = consumers(model)
    for operation in model.operations:
        kind = type(operation).__name__
        activation = _activation(operation)
        after = takers.get(id(operation), [])
        fuses = activation == "linear" and len(after) == 1 and _is_fused(after[0])
        if None in after:  # the model's output is called after it; the export measures its range
            found.add(id(operation))
        if kind == "InputLayer":
            continue
        if kind in _PASSIVE or activation in _BOUNDED or (fuses and hasattr(operation, "kernel")):
            found.add(id(operation))
        if kind in {"SeparableConv1D", "SeparableConv2D"} and fuses:
            found.add(id(operation))
    return found


def _is_fused(operation: Any) -> bool:
    return operation is not None and not hasattr(operation, "kernel") and _activation(operation) in _FUSED


def _activation(operation: Any) -> str:
    kind = type(operation).__name__
    if kind == "ReLU":
        plain = not operation.negative_slope and not operation.threshold and operation.max_value in (None, 6.0)
        return "relu" if plain else "other"
    if kind in {"Softmax", "Sigmoid", "Tanh", "Relu", "Relu6"}:
        return kind.lower()
    found = getattr(operation, "activation", None)
    return str(getattr(found, "__name__", "linear"))
