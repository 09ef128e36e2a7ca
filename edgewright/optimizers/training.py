"""The one fit loop that all passes share: data, loss, distillation, schedule, resuming, progress. Needs Keras, in a child."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgewright.errors import SamplesError, ShapeError, UsageError
from edgewright.samples import Samples
from edgewright.worker import progress

__all__ = ["FitOptions", "Trainer", "TrainingData", "training_data"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class FitOptions:
    """How a pass trains; every pass has these options.

    Args:
        epochs: how often all samples are seen.
        batch: samples per step.
        learning_rate: of Adam, at the start.
        schedule: how it goes on: "cosine" falls to nothing at the end, "constant" stays.
        patience: stop after so many epochs without a better loss on a tenth of the samples that is held back, and keep the
            best; 0 trains to the end on all samples.
        distill: share of the loss, from 0 to 1, that asks for the original's outputs instead of the labels; 1 where there
            are no labels.
        temperature: softens both outputs of a classifier in that part of the loss (G. Hinton, O. Vinyals, J. Dean,
            "Distilling the Knowledge in a Neural Network", 2015).
        train: `module:function` that does the training itself: `def train(model, samples, ctx) -> keras.Model`.
        tensorboard: folder for TensorBoard's log; None writes none.
        strategy: "mirrored" trains on all GPUs by tf.distribute.MirroredStrategy.
    """

    epochs: int = 10
    batch: int = 64
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    patience: int = 0
    distill: float = 0.0
    temperature: float = 4.0
    train: str | None = None
    tensorboard: str | None = None
    strategy: Literal["none", "mirrored"] = "none"


def check_fit(options: FitOptions) -> None:
    """Refuse what cannot be trained with.

    Raises:
        UsageError: an option is out of its range; both values are named.
    """
    limits = {"epochs": (0, None), "batch": (1, None), "patience": (0, None), "distill": (0.0, 1.0)}
    for name, (low, high) in limits.items():
        value = getattr(options, name)
        if value < low or (high is not None and value > high):
            allowed = f"{low} or more" if high is None else f"from {low:g} to {high:g}"
            raise UsageError(f"option '{name}' is {value}, it must be {allowed}")
    for name in ("learning_rate", "temperature"):
        if not getattr(options, name) > 0:
            raise UsageError(f"option '{name}' is {getattr(options, name)}, it must be above 0")


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


class Trainer:
    """Trains a model on data as the options say.

    Args:
        options: of the pass.
        data: what to train on.
        seed: of everything random.
        resume: folder in which a killed training leaves what it needs to go on; None starts anew.
    """

    def __init__(self, options: FitOptions, data: TrainingData, seed: int, resume: Path | None = None) -> None:
        check_fit(options)
        self.options, self.data, self.seed, self.resume = options, data, seed, resume

    @property
    def steps(self) -> int:
        """Training steps in all."""
        return self.options.epochs * -(-len(self.data) // self.options.batch)

    def show(self, model: Any, batches: int = 20) -> None:
        """Run a model on the first batches as in training, without training: layers that learn ranges get their first ones."""
        for start in range(0, min(len(self.data), batches * self.options.batch), self.options.batch):
            rows = slice(start, start + self.options.batch)
            model([self.data.inputs[tensor._keras_history.operation.name][rows] for tensor in model.inputs], training=True)

    def fit(
        self,
        model: Any,
        what: str,
        each_step: Callable[[int], None] | None = None,
        hints: Sequence[tuple[Any, Array]] = (),
    ) -> Any:
        """Train; returns the model, or the one that a function of the user's gives.

        Args:
            model: functional, with the inputs and outputs that the data are for.
            what: the pass, for progress.
            each_step: called before every step with its number, from 0.
            hints: tensors of the model's graph, and what each should be on every sample: their mean squared error is part of
                the loss (A. Romero et al., "FitNets: Hints for thin deep nets", ICLR 2015).
        """
        options = self.options
        if options.epochs == 0:
            return model
        import keras

        if options.train:
            return _own_function(options.train)(model, self.data, {"seed": self.seed, "epochs": options.epochs, "pass": what})
        targets, losses, metrics = self._targets(model)
        rate: Any = options.learning_rate
        if options.schedule == "cosine":
            rate = keras.optimizers.schedules.CosineDecay(rate, max(1, self.steps))
        targets += [wanted for _, wanted in hints]
        losses += ["mean_squared_error"] * len(hints)
        metrics += [[] for _ in hints]
        with _strategy(options.strategy):
            flat = keras.Model(model.inputs, [*model.outputs, *(tensor for tensor, _ in hints)])
            flat.compile(keras.optimizers.Adam(rate), losses, metrics=metrics, jit_compile=False)
        feeds = [self.data.inputs[tensor._keras_history.operation.name] for tensor in model.inputs]
        flat.fit(
            feeds,
            targets,
            batch_size=options.batch,
            epochs=options.epochs,
            shuffle=True,
            verbose=0,
            validation_split=0.1 if options.patience else 0.0,
            callbacks=self._callbacks(what, each_step),
        )
        return model

    def _callbacks(self, what: str, each_step: Callable[[int], None] | None) -> list[Any]:
        import keras

        options, steps = self.options, max(1, self.steps)

        class Follow(keras.callbacks.Callback):
            """Tells how far the training is, and lets the pass act before each step."""

            def __init__(self) -> None:
                super().__init__()
                self.epoch = 0

            def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
                self.epoch = epoch

            def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
                if each_step:
                    each_step(self.epoch * (steps // options.epochs) + batch)

            def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
                if batch % 10 == 0:
                    told = ", ".join(f"{name} {float(value):.4g}" for name, value in (logs or {}).items())
                    done = self.epoch * (steps // options.epochs) + batch + 1
                    progress(0.1 + 0.85 * done / steps, f"{what}, epoch {self.epoch + 1} of {options.epochs}: {told}")

        found: list[Any] = [Follow()]
        if options.patience:
            found.append(keras.callbacks.EarlyStopping(patience=options.patience, restore_best_weights=True))
        if self.resume is not None:
            _mend(self.resume)
            found.append(keras.callbacks.BackupAndRestore(str(self.resume), double_checkpoint=True))
        if options.tensorboard:
            found.append(keras.callbacks.TensorBoard(options.tensorboard))
        return found

    def _targets(self, model: Any) -> tuple[list[Array], list[Any], list[Any]]:
        """Per output: labels and the original's outputs side by side, and the loss that takes them apart."""
        targets, losses, metrics = [], [], []
        for index, tensor in enumerate(model.outputs):
            label, kind = self.data.labels[index], self.data.hard[index]
            soft = self.data.soft[index] if self.data.soft is not None else None
            share = 1.0 if label is None else self.options.distill
            width = int(tensor.shape[-1])
            parts = []
            if label is not None and share < 1.0:
                parts.append(label.reshape(len(label), *([1] if kind == "classes" else tensor.shape[1:])).astype(np.float32))
            if soft is not None and share > 0.0:
                parts.append(soft.astype(np.float32))
            targets.append(np.concatenate(parts, axis=-1))
            sums = self.data.probabilities[index]
            losses.append(_loss(kind, share, width, sums, self.options.temperature))
            metrics.append([_accuracy] if kind == "classes" and share < 1.0 else [])
        return targets, losses, metrics


def _accuracy(target: Any, found: Any) -> Any:
    """Share of samples whose largest score stands at the label, which is the target's first column."""
    import keras

    return keras.metrics.sparse_categorical_accuracy(target[..., :1], found)


_accuracy.__name__ = "accuracy"


def _loss(kind: str, share: float, width: int, sums: bool, temperature: float) -> Callable[[Any, Any], Any]:
    """The loss of one output: (1 - share) of what the labels ask for, and share of what the original gives."""
    import keras

    ops = keras.ops

    def hard(target: Any, found: Any) -> Any:
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


def _mend(folder: Path) -> None:
    """Remove what a kill left half-written of Keras' two backups: it starts anew where neither is whole."""
    import h5py

    for end in ("", ".bkp"):
        weights, state = folder / f"latest.weights.h5{end}", folder / f"training_metadata.json{end}"
        try:
            with h5py.File(weights) as file:
                file.visititems(lambda _, node: node[()] if isinstance(node, h5py.Dataset) else None)
            json.loads(state.read_text())
        except (OSError, ValueError, RuntimeError, KeyError):
            weights.unlink(missing_ok=True)
            state.unlink(missing_ok=True)
    if not (folder / "latest.weights.h5").is_file() and (folder / "latest.weights.h5.bkp").is_file():
        for name in ("latest.weights.h5", "training_metadata.json"):
            (folder / f"{name}.bkp").rename(folder / name)


def _strategy(name: str) -> Any:
    """The scope that a model is compiled in."""
    if name == "none":
        return nullcontext()
    import tensorflow as tf

    return tf.distribute.MirroredStrategy().scope()


def _own_function(text: str) -> Callable[..., Any]:
    """The user's training function.

    Raises:
        UsageError: it is not there.
    """
    module, colon, name = text.partition(":")
    if not colon:
        raise UsageError(f"train is '{text}', module:function is expected", hint="for example train=my_training:train")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:
        raise UsageError(f"the function {text} cannot be loaded: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise UsageError(f"{text} is a {type(found).__name__}, it must be a function")
    return found  # type: ignore[no-any-return]
