"""The loss that passes train with: for labels, the original's outputs or both, the model's own where it has one. Needs Keras."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Compiled", "accuracy", "compiled_of", "output_loss"]


@dataclass(frozen=True, slots=True)
class Compiled:
    """What a model was compiled with.

    Args:
        losses: per output, in the model's order; None where there is none.
        optimizer: None if it cannot be made again.
    """

    losses: tuple[Any, ...]
    optimizer: Any


def compiled_of(model: Any, config: Mapping[str, Any] | None, notes: list[str]) -> Compiled | None:
    """The losses and the optimizer of a model's compile configuration; None if it has none that can be used.

    Args:
        model: functional or Sequential.
        config: as Keras saves it: "loss" (for all outputs, by order, or by name), "optimizer".
        notes: what cannot be used is named here.
    """
    import keras

    names = list((getattr(model, "_functional", None) or model).output_names)
    try:
        found = keras.saving.deserialize_keras_object((config or {}).get("loss"))
        if isinstance(found, Mapping):
            losses = [found.get(name) for name in names]
        else:
            losses = list(found) if isinstance(found, (list, tuple)) else [found] * len(names)
        made = tuple(None if loss is None else keras.losses.get(loss) for loss in losses)
        optimizer = (config or {}).get("optimizer")
        own = keras.optimizers.get(keras.saving.deserialize_keras_object(optimizer)) if optimizer else None
    except Exception as error:  # Keras raises any type on what is not registered
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        notes.append(f"what the model was compiled with cannot be loaded, Adam and a usual loss are used: {first[:200]}")
        return None
    return Compiled(made, own) if any(loss is not None for loss in made) and len(made) == len(names) else None


def accuracy(target: Any, found: Any) -> Any:
    """Share of samples whose largest score stands at the label, which is the target's first column."""
    import keras

    return keras.metrics.sparse_categorical_accuracy(target[..., :1], found)


def output_loss(
    kind: str, share: float, width: int, sums: bool, temperature: float, own: Any = None
) -> Callable[[Any, Any], Any]:
    """The loss of one output: (1 - share) of what the labels ask for, and share of what the original gives.

    Args:
        kind: of the labels, see `TrainingData.hard`.
        share: of the original's outputs.
        width: of the output.
        sums: whether the output holds probabilities.
        temperature: see `FitOptions`.
        own: the model's own loss for the labels.
    """
    import keras

    ops = keras.ops

    def hard(target: Any, found: Any) -> Any:
        if own is not None:
            name = str(getattr(own, "name", "") or getattr(own, "__name__", ""))
            one_hot = kind == "classes" and not name.startswith("sparse")
            return own(ops.one_hot(ops.cast(target[..., 0], "int32"), width) if one_hot else target, found)
        if kind == "classes":
            return keras.losses.sparse_categorical_crossentropy(target, found, from_logits=not sums)
        if kind == "shares":
            return keras.losses.binary_crossentropy(target, found)
        return keras.losses.mean_squared_error(target, found)

    def soft(target: Any, found: Any) -> Any:
        if not sums:
            return keras.losses.mean_squared_error(target, found)
        wanted = ops.softmax(ops.log(ops.maximum(target, 1e-7)) / temperature)
        given = ops.log_softmax(ops.log(ops.maximum(found, 1e-7)) / temperature)
        return temperature**2 * ops.sum(wanted * (ops.log(ops.maximum(wanted, 1e-12)) - given), axis=-1)

    def loss(target: Any, found: Any) -> Any:
        if share >= 1.0:
            return soft(target, found)
        if share <= 0.0:
            return hard(target, found)
        return (1.0 - share) * hard(target[..., :-width], found) + share * soft(target[..., -width:], found)

    return loss
