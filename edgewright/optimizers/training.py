"""The one fit loop that all passes share: data, loss, distillation, schedule, resuming, progress. Needs Keras, in a child."""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgewright.errors import UsageError, needs
from edgewright.optimizers.graph import Array
from edgewright.optimizers.losses import Compiled, accuracy, output_loss
from edgewright.optimizers.training_data import TrainingData
from edgewright.worker import progress

__all__ = ["FitOptions", "TrainContext", "Trainer", "check_fit", "strategy_scope"]


HELD_BACK = 0.1
"""Share of the samples that early stopping judges by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitOptions:
    """How a pass trains; every pass has these options.

    Args:
        epochs: how often all samples are seen.
        batch: samples per step.
        learning_rate: at the start.
        schedule: how it goes on: "cosine" falls to nothing at the end, "constant" stays.
        patience: stop after so many epochs without a better loss on a tenth of the samples that is held back, and keep the
            best; 0 trains to the end on all samples.
        distill: share of the loss, from 0 to 1, that asks for the original's outputs instead of the labels; 1 where there
            are no labels.
        temperature: softens both outputs of a classifier in that part of the loss (G. Hinton, O. Vinyals, J. Dean,
            "Distilling the Knowledge in a Neural Network", 2015).
        own_compile: train with the loss and the optimizer that the model was compiled with, at the learning rate above; a
            model that was not compiled, and every model with False, gets Adam and a loss that fits its labels.
        train: `module:function` that does the training itself: `def train(model, samples, ctx) -> keras.Model`, see
            `TrainContext`.
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
    own_compile: bool = True
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
class TrainContext:
    """What a training function of the user's is told: `model.fit(ctx.inputs, ctx.targets, callbacks=ctx.callbacks, ...)`.

    Args:
        what: the pass, in words.
        seed: of everything random.
        options: of the pass, epochs and batch among them.
        inputs: of all samples, in the model's order.
        targets: what the losses take, in the order of the outputs of the model that the function is given.
        losses: one for each output; they ask for labels, the original's outputs or both, as the options say.
        callbacks: show progress, drive the pass's schedule and make a killed training go on; for `fit`.
    """

    what: str
    seed: int
    options: FitOptions
    inputs: list[Array]
    targets: list[Array]
    losses: list[Any]
    callbacks: list[Any]


class Trainer:
    """Trains a model on data as the options say.

    Args:
        options: of the pass.
        data: what to train on.
        seed: of everything random.
        resume: folder in which a killed training leaves what it needs to go on; None starts anew.
        compiled: loss and optimizer of the model itself.
        notes: what the user should know; appended to.
    """

    def __init__(
        self,
        options: FitOptions,
        data: TrainingData,
        seed: int,
        resume: Path | None = None,
        compiled: Compiled | None = None,
        notes: list[str] | None = None,
    ) -> None:
        check_fit(options)
        self.options, self.data, self.seed, self.resume = options, data, seed, resume
        self.compiled = compiled if options.own_compile else None
        self.notes = notes if notes is not None else []

    @property
    def steps(self) -> int:
        """Training steps in all; the samples that are held back for `patience` are not trained on."""
        count = int(len(self.data) * (1.0 - HELD_BACK)) if self.options.patience else len(self.data)
        return self.options.epochs * -(-count // self.options.batch)

    def show(self, model: Any, batches: int = 20) -> None:
        """Run a model on the first batches as in training, without training: layers that learn ranges get their first ones."""
        import keras

        flat = keras.Model(model.inputs, model.outputs)  # takes a list, also where the model takes inputs by name
        for start in range(0, min(len(self.data), batches * self.options.batch), self.options.batch):
            rows = slice(start, start + self.options.batch)
            flat([self.data.inputs[tensor._keras_history.operation.name][rows] for tensor in model.inputs], training=True)

    def fit(
        self,
        model: Any,
        what: str,
        each_step: Callable[[int], None] | None = None,
        hints: Sequence[tuple[Any, Array]] = (),
        judged_from: float = 0.0,
    ) -> Any:
        """Train; returns the model, or the one that a function of the user's gives.

        Args:
            model: functional, with the inputs and outputs that the data are for.
            what: the pass, for progress.
            each_step: called before every step with its number, from 0.
            hints: tensors of the model's graph, and what each should be on every sample: their mean squared error is part of
                the loss (A. Romero et al., "FitNets: Hints for thin deep nets", ICLR 2015).
            judged_from: share of the epochs before which early stopping neither ends the training nor takes weights for the best.
        """
        options = self.options
        if options.epochs == 0:
            return model
        import keras

        targets, losses, metrics = self._targets(model)
        targets += [wanted for _, wanted in hints]
        losses += ["mean_squared_error"] * len(hints)
        metrics += [[] for _ in hints]
        feeds = [self.data.inputs[tensor._keras_history.operation.name] for tensor in model.inputs]
        callbacks = self._callbacks(what, each_step, math.ceil(judged_from * options.epochs))
        flat = keras.Model(model.inputs, [*model.outputs, *(tensor for tensor, _ in hints)])
        if options.train:
            context = TrainContext(what, self.seed, options, feeds, targets, losses, callbacks)
            self._run_own(flat, context)
            return model
        flat.compile(self._optimizer(), losses, metrics=metrics, jit_compile=False)
        flat.fit(
            feeds,
            targets,
            batch_size=options.batch,
            epochs=options.epochs,
            shuffle=True,
            verbose=0,
            validation_split=HELD_BACK if options.patience else 0.0,
            callbacks=callbacks,
        )
        return model

    def _optimizer(self) -> Any:
        """The model's own, or Adam, with the rate and schedule of the options."""
        import keras

        rate: Any = self.options.learning_rate
        if self.options.schedule == "cosine":
            rate = keras.optimizers.schedules.CosineDecay(rate, max(1, self.steps))
        own = self.compiled.optimizer if self.compiled else None
        if own is None:
            return keras.optimizers.Adam(rate)
        return type(own).from_config({**own.get_config(), "learning_rate": rate})

    def _run_own(self, model: Any, context: TrainContext) -> None:
        """Let the user's function train the model.

        Raises:
            UsageError: it gives something else than a model of the same weights.
        """
        text = str(self.options.train)
        found = _own_function(text)(model, self.data, context)
        shapes = [tuple(weight.shape) for weight in model.weights]
        if [tuple(weight.shape) for weight in getattr(found, "weights", ())] != shapes:
            what = f"a model of {len(found.weights)} weights" if hasattr(found, "weights") else f"a {type(found).__name__}"
            raise UsageError(
                f"{text} gave {what}, the model that it was given has {len(shapes)}", hint="end it with: return model"
            )
        if found is not model:
            model.set_weights(found.get_weights())
        if not context.callbacks[0].began:
            self.notes.append(f"{text} did not hand ctx.callbacks to fit: no progress, no schedule within the training")

    def _callbacks(self, what: str, each_step: Callable[[int], None] | None, judged: int) -> list[Any]:
        import keras

        options, steps = self.options, max(1, self.steps)

        class Follow(keras.callbacks.Callback):
            """Tells how far the training is, and lets the pass act before each step."""

            def __init__(self) -> None:
                super().__init__()
                self.epoch, self.began = 0, False

            def on_train_begin(self, logs: Any = None) -> None:
                self.began = True

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
            found.append(
                keras.callbacks.EarlyStopping(patience=options.patience, restore_best_weights=True, start_from_epoch=judged)
            )
        if self.resume is not None:
            _mend(self.resume)
            found.append(keras.callbacks.BackupAndRestore(str(self.resume), double_checkpoint=True))
        if options.tensorboard:
            with needs("tensorboard"):
                import tensorboard  # noqa: F401
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
            own = self.compiled.losses[index] if self.compiled and label is not None else None
            losses.append(output_loss(kind, share, width, sums, self.options.temperature, own))
            metrics.append([accuracy] if kind == "classes" and share < 1.0 else [])
        return targets, losses, metrics


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


def strategy_scope(name: str) -> Any:
    """The scope that a model is loaded, changed and trained in: its variables belong to the devices of the strategy."""
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
