"""What passes do in their child process, on small models: prints one JSON object of findings; run as a script."""

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")

import keras
import numpy as np

from edgewright.errors import UnsupportedError
from edgewright.keras_layers import FakeQuant
from edgewright.optimizers.losses import compiled_of
from edgewright.optimizers.passes import Task
from edgewright.optimizers.passes.distill import shortened
from edgewright.optimizers.passes.qat import Qat, QatOptions
from edgewright.optimizers.training import FitOptions, Trainer
from edgewright.optimizers.training_data import TrainingData

L = keras.layers
RNG = np.random.default_rng(0)


def data_for(model, samples=48):
    inputs = {t._keras_history.operation.name: RNG.normal(size=(samples, *t.shape[1:])).astype(np.float32) for t in model.inputs}
    soft = tuple(np.asarray(value) for value in (keras.tree.flatten(model(list(inputs.values())))))
    return TrainingData(inputs, (None,) * len(soft), ("values",) * len(soft), soft, (False,) * len(soft))


def residual():
    x = keras.Input((8, 8, 3), name="x")
    y = L.Conv2D(8, 3, padding="same", name="stem")(x)
    for block in range(4):
        z = L.Conv2D(8, 3, padding="same", name=f"first{block}")(y)
        z = L.Conv2D(8, 3, padding="same", name=f"second{block}")(L.ReLU()(L.BatchNormalization()(z)))
        y = L.ReLU(name=f"end{block}")(L.Add()([y, z]))
    return keras.Model(x, L.Dense(4, name="kind")(L.GlobalAveragePooling2D()(y)))


def shortening():
    model = residual()
    found = {}
    for depth in (0.75, 0.5, 0.25):
        short = shortened(model, depth)
        found[str(depth)] = [layer.name for layer in short.layers if hasattr(layer, "kernel")]
    widening = keras.Sequential([keras.Input((4,)), L.Dense(8), L.Dense(16), L.Dense(2)])
    try:
        shortened(widening, 0.5)
        found["refused"] = ""
    except UnsupportedError as error:
        found["refused"] = str(error)
    return found


def own_losses():
    """The model's own losses decide, which differ from those that labels of these kinds usually get."""
    x = keras.Input((3,), name="x")
    model = keras.Model(x, {"a": L.Dense(2, name="a")(x), "b": L.Dense(3, "softmax", name="b")(x)})
    smooth = keras.losses.CategoricalCrossentropy(label_smoothing=0.3)
    model.compile(keras.optimizers.SGD(0.5, momentum=0.9), {"a": "huber", "b": smooth})
    notes = []
    compiled = compiled_of(model, model.get_compile_config(), notes)
    labels = (np.full((16, 2), 5.0, np.float32), np.arange(16) % 3)
    inputs = {"x": RNG.normal(size=(16, 3)).astype(np.float32)}
    data = TrainingData(inputs, labels, ("values", "classes"), None, (False, True))
    trainer = Trainer(FitOptions(epochs=1, learning_rate=1e-3), data, 0, None, compiled, notes)
    targets, losses, _ = trainer._targets(model)
    out = model(inputs["x"])
    ours = [float(np.mean(loss(target, out[name]))) for name, loss, target in zip("ab", losses, targets, strict=True)]
    wanted = [
        float(keras.losses.Huber()(labels[0], out["a"])),
        float(smooth(np.eye(3)[labels[1]], out["b"])),
    ]
    optimizer = trainer._optimizer()
    unknown = {"loss": {"module": "nosuch", "class_name": "Lost", "config": {}, "registered_name": "nosuch>Lost"}}
    broken = []
    return {
        "ours": ours,
        "wanted": wanted,
        "optimizer": [type(optimizer).__name__, float(optimizer.momentum), float(np.asarray(optimizer.learning_rate))],
        "unknown": [compiled_of(model, unknown, broken) is None, broken],
        "uncompiled": compiled_of(model, None, []) is None,
    }


def recurrent(kind, **more):
    x = keras.Input((6, 4), name="x")
    y = getattr(L, kind)(5, return_sequences=True, name="memory", **more)(x)
    return keras.Model(x, L.Dense(2, name="out")(L.GlobalAveragePooling1D()(y)))


def inner():
    """What layers give that round within themselves, beside the layers whose place they take."""
    x = keras.Input((6, 8), name="x")
    attention = L.MultiHeadAttention(2, 4, name="attention")(x, x, use_causal_mask=True)
    swish = L.Conv1D(6, 3, activation="swish", padding="same", name="conv")(attention)
    both = L.Bidirectional(L.LSTM(3, return_sequences=True), name="both")(swish)
    models = {
        "attention": keras.Model(x, L.Dense(2, name="out")(L.Flatten()(both))),
        "lstm": recurrent("LSTM"),
        "gru": recurrent("GRU"),
        "gru_before": recurrent("GRU", reset_after=False),
        "simple": recurrent("SimpleRNN"),
    }
    found = {}
    for name, model in models.items():
        data = data_for(model)
        wanted = np.asarray(data.soft[0])
        notes = []
        trainer = Trainer(QatOptions(epochs=0), data, 0, None, None, notes)
        done = Qat(QatOptions(epochs=0)).transform(Task(model, trainer, model, 0, notes)).model
        given = np.asarray(done(list(data.inputs.values())))
        with tempfile.TemporaryDirectory() as folder:
            done.save(Path(folder) / "m.keras")
            again = keras.models.load_model(Path(folder) / "m.keras", compile=False)
        back = np.asarray(again(list(data.inputs.values())))
        quants = [one for one in done._flatten_layers(include_self=False) if isinstance(one, FakeQuant)]
        found[name] = {
            "error": float(np.abs(given - wanted).max() / np.abs(wanted).max()),
            "reload": float(np.abs(given - back).max()),
            "unset": [one.path for one in quants if float(np.asarray(one.low)) == float(np.asarray(one.high))],
            "ranges": len(quants),
            "weights": sorted(w.path for w in done.weights if w.name in {"kernel", "recurrent_kernel"}),
        }
    return found


def endless():
    """What is said of values that are no finite numbers."""
    x = keras.Input((4,), name="x")
    model = keras.Model(x, L.Dense(2, name="out")(L.Activation("exponential", name="grows")(x)))
    inputs = {"x": np.full((8, 4), 200.0, np.float32)}
    data = TrainingData(inputs, (None,), ("values",), (np.zeros((8, 2), np.float32),), (False,))
    trainer = Trainer(QatOptions(epochs=0), data, 0)
    try:
        Qat(QatOptions(epochs=0)).transform(Task(model, trainer, model, 0, []))
    except UnsupportedError as error:
        return str(error)
    return ""


def named():
    """Ranges of a model that takes its inputs by name, in another order than that of the alphabet."""
    z, a = keras.Input((4,), name="z"), keras.Input((2,), name="a")
    model = keras.Model({"z": z, "a": a}, L.Dense(2, name="out")(L.Concatenate(name="both")([z, a])))
    inputs = {"z": np.full((8, 4), 3.0, np.float32), "a": np.full((8, 2), -1.0, np.float32)}
    data = TrainingData(inputs, (np.zeros((8, 2), np.float32),), ("values",), None, (False,))
    options = QatOptions(epochs=1)
    trained = Qat(options).transform(Task(model, Trainer(options, data, 0), model, 0, [])).model
    quant = trained.get_layer("both_range")
    return [float(quant.low), float(quant.high)]


def percentiles():
    values = np.concatenate([np.linspace(0, 1, 9999), [100.0]]).astype(np.float32).reshape(1, -1)
    found = {}
    for percentile in (100.0, 99.9):
        quant = FakeQuant(percentile=percentile)
        quant(values, training=True)
        found[str(percentile)] = float(np.asarray(quant.high))
    wide = FakeQuant(bits=16)
    wide(np.array([[-1.0, 3.0]], np.float32), training=True)
    return {**found, "wide": [float(np.asarray(wide.low)), float(np.asarray(wide.high))]}


if __name__ == "__main__":
    keras.utils.set_random_seed(0)
    parts = (shortening, own_losses, inner, percentiles, endless, named)
    sys.stdout.write(json.dumps({part.__name__: part() for part in parts}) + "\n")
