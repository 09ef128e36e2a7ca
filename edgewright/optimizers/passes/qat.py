"""Quantization-aware training: weights and activations are rounded while the model trains, as the int8 file will round them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

import numpy as np

from edgewright.errors import UnsupportedError, UsageError
from edgewright.optimizers.graph import Kernel, consumers, fold_batch_norm, kernels_of, leaf_layers, rebuilt
from edgewright.optimizers.inner_ranges import fused_by, with_inner_ranges
from edgewright.optimizers.passes import PASSES, STRICT, KerasPass, Outcome, Task
from edgewright.optimizers.shaping import Shape, bake, preserving, rounding, shaped
from edgewright.optimizers.training import FitOptions

__all__ = ["Qat", "QatOptions"]

_PASSIVE = frozenset(
    (
        "InputLayer Dropout SpatialDropout1D SpatialDropout2D SpatialDropout3D GaussianNoise GaussianDropout AlphaDropout "
        "ActivityRegularization Identity Reshape Flatten Permute RepeatVector MaxPooling1D MaxPooling2D MaxPooling3D "
        "GlobalMaxPooling1D GlobalMaxPooling2D AveragePooling1D AveragePooling2D Cropping1D Cropping2D ZeroPadding1D "
        "ZeroPadding2D UpSampling1D UpSampling2D Masking FakeQuant RNN"
    ).split()
)
"""Layers whose output has the range of their input, has none, or is rounded within them."""

_BOUNDED = frozenset(("softmax", "sigmoid", "tanh"))
"""Activations whose output scale the specification fixes: no range is learned for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QatOptions(FitOptions):
    """How a model is trained for int8.

    Args:
        momentum: of the moving average of activation ranges.
        percentile: what a batch's range is: from the (100 - percentile)-th to the percentile-th percentile of its values;
            100 is from the smallest to the largest, 99.99 leaves outliers out.
        freeze: share of the training after which ranges are frozen.
        preserve: keep zeros and clusters that the model has: "auto" where there are any, "no" forgets them.
        keep_float: patterns of the layers that are left in float, in training and in the file.
        int16: patterns of the layers whose activations have 16 bits, in training and in the file (TFLite only).
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT

    learning_rate: float = 3e-4
    momentum: float = 0.95
    percentile: float = 100.0
    freeze: float = 0.8
    preserve: Literal["auto", "no"] = "auto"
    keep_float: tuple[str, ...] = ()
    int16: tuple[str, ...] = ()


@PASSES.register("qat")
class Qat(KerasPass):
    """Folds BatchNorm, rounds kernels per output channel and activations per tensor, and trains.

    The model that comes out is a plain Keras model whose kernels lie on the grid of their scales, with `FakeQuant` layers
    that hold the learned ranges; the export takes scales from both. What a model had of zeros and clusters is kept.
    """

    name: ClassVar[str] = "qat"
    Options: ClassVar[type[QatOptions]] = QatOptions

    def __init__(self, options: QatOptions) -> None:
        super().__init__(options)
        for name, low, high in (("momentum", 0.0, 1.0), ("freeze", 0.0, 1.0), ("percentile", 50.0, 100.0)):
            if not low <= getattr(options, name) <= high:
                raise UsageError(f"option '{name}' is {getattr(options, name)}, it must be from {low:g} to {high:g}")

    def needs_samples(self) -> bool:
        """Ranges are learned from data even where nothing is trained."""
        return True

    def transform(self, task: Task) -> Outcome:
        """The trained model; see `KerasPass.transform`."""
        from edgewright.keras_layers import FakeQuant

        model, folded = fold_batch_norm(task.model)
        if folded:
            task.notes.append(f"{len(folded)} BatchNorms were folded and are frozen")
        left = [layer for layer in model.layers if type(layer).__name__ == "BatchNormalization" and layer.trainable]
        if left:
            names = ", ".join(layer.name for layer in left)
            task.notes.append(f"BatchNorms that follow no convolution or dense layer of their own are frozen: {names}")
        for layer in left:
            layer.trainable = False
        floats, wide = self._named(model, "keep_float"), self._named(model, "int16")
        how = {"momentum": self.options.momentum, "percentile": self.options.percentile}
        model = with_inner_ranges(model, how, floats | wide, task.notes)
        real = _computed_float(model, floats)
        kernels = kernels_of(model)
        shapes = [self._shape(kernel, rounded=id(kernel.layer) not in real) for kernel in kernels]
        shapes = [shape for shape in shapes if shape.functions]
        model = self._with_ranges(model, real, wide)
        quants = [layer for layer in model._flatten_layers(include_self=False) if isinstance(layer, FakeQuant)]
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
        for layer in left:
            layer.trainable = True
        wild = [str(quant.path) for quant in quants if not np.isfinite(quant.get_weights()).all()]
        if wild:
            raise UnsupportedError(
                f"values behind '{wild[0].removesuffix('_range')}' are no finite numbers: they cannot be rounded to 8 bits",
                hint="check the samples, or leave the layer in float: keep_float",
            )
        for quant in quants:
            quant.frozen = True
            quant.momentum_now.assign(quant.momentum)
        return Outcome(model, mixed={"keep_float": tuple(sorted(floats)), "int16": tuple(sorted(wide))})

    def _named(self, model: Any, option: str) -> set[str]:
        """Names of the layers that match an option's patterns.

        Raises:
            UsageError: a pattern matches none.
        """
        names = [layer.name for layer in leaf_layers(model)]
        found: set[str] = set()
        for pattern in getattr(self.options, option):
            own = {name for name in names if fnmatchcase(name, pattern)}
            if not own:
                raise UsageError(f"{option}: no layer is called '{pattern}'", hint=f"layers: {', '.join(names[:30])}")
            found |= own
        return found

    def _shape(self, kernel: Kernel, *, rounded: bool) -> Shape:
        """How a kernel is computed in training: its zeros and clusters kept, then rounded."""
        kept = preserving(kernel) if self.options.preserve != "no" else None
        functions, state = (kept.functions, kept.state) if kept else ([], [])
        if rounded:
            functions.append(rounding(kernel, per_channel=not kernel.path.endswith("embeddings")))
        return Shape(kernel, functions, state)

    def _with_ranges(self, model: Any, real: set[int], wide: set[str]) -> Any:
        """The model with a `FakeQuant` behind every tensor that the int8 file rounds.

        Args:
            model: with BatchNorm folded.
            real: ids of the operations that compute in float.
            wide: names of the layers whose outputs have 16 bits.
        """
        from edgewright.keras_layers import FakeQuant

        silent = _without_rounding(model, real)
        counts: dict[str, int] = {}

        def quantized(layer: Any, result: Any) -> Any:
            if id(layer) in silent or not hasattr(result, "shape"):
                return result
            if str(result.dtype) != "float32":
                return result
            counts[layer.name] = counts.get(layer.name, 0) + 1
            suffix = "" if counts[layer.name] == 1 else f"_{counts[layer.name]}"
            bits = 16 if layer.name in wide else 8
            quant = FakeQuant(bits, self.options.momentum, self.options.percentile, name=f"{layer.name}_range{suffix}")
            return quant(result)

        def entry(tensor: Any) -> Any:
            return quantized(tensor._keras_history.operation, tensor)

        def call(layer: Any, _: Any, *args: Any, **kwargs: Any) -> Any:
            return quantized(layer, layer(*args, **kwargs))

        return rebuilt(model, lambda layer: layer, call, entry)


def _computed_float(model: Any, names: set[str]) -> set[int]:
    """Ids of the operations that compute in float: those of these names, and those that are fused with one of them."""
    takers = consumers(model)
    found = {id(operation) for operation in model.operations if operation.name in names}
    return found | {id(op) for op in model.operations if _fuses(op, takers) and id(takers[id(op)][0]) in found}


def _without_rounding(model: Any, real: set[int]) -> set[int]:
    """Ids of operations whose output gets no range: passive ones, those that a fused activation follows, bounded ones.

    Args:
        model: with BatchNorm folded.
        real: ids of the operations that compute in float; what only they take is not rounded either, if they give it.
    """
    found = set()
    takers = consumers(model)
    for operation in model.operations:
        kind = type(operation).__name__
        activation = _activation(operation)
        after = takers.get(id(operation), [])
        fuses = _fuses(operation, takers)
        if None in after:  # the model's output is called after it; the export measures its range
            found.add(id(operation))
        if id(operation) in real and all(id(one) in real for one in after):
            found.add(id(operation))
        if kind == "InputLayer":
            continue
        if kind in _PASSIVE or activation in _BOUNDED or (fuses and hasattr(operation, "kernel")):
            found.add(id(operation))
        if "SeparableConv" in kind and fuses:
            found.add(id(operation))
    return found


def _fuses(operation: Any, takers: dict[int, list[Any]]) -> bool:
    """Whether an activation that alone takes this operation's output is computed within it."""
    after = takers.get(id(operation), [])
    if _activation(operation) != "linear" or len(after) != 1 or after[0] is None or hasattr(after[0], "kernel"):
        return False
    return _activation(after[0]) in fused_by(operation)


def _activation(operation: Any) -> str:
    kind = type(operation).__name__
    if kind == "ReLU":
        plain = not operation.negative_slope and not operation.threshold and operation.max_value in (None, 6.0)
        return "relu" if plain else "other"
    if kind in {"Softmax", "Sigmoid", "Tanh", "Relu", "Relu6"}:
        return kind.lower()
    found = getattr(operation, "activation", None)
    return str(getattr(found, "__name__", "linear"))
