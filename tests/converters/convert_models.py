"""Builds the models that the conversion tests start from; run as a script, once per test session.

Usage: python convert_models.py FOLDER. For every model there is `<name>.keras`, `<name>.npz` with samples ("in:<name>")
and what Keras itself computed of them ("out:<name>", in the order of the outputs), and the float32 TFLite artifacts
`<name>.tflite` (batch 1) and `<name>_free.tflite` (free batch), as `convert` lowers them.
"""

import contextlib
import os
import sys
from pathlib import Path

os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1", KERAS_HOME=f"{os.devnull}/x")

import keras
import numpy as np

from edgewright.artifact import Artifact, ModelMeta, StepRecord, TensorSpec, file_sha256
from edgewright.converters.jobs import lower_model, model_specs

L = keras.layers


def randomize(model):
    """Weights that keep the scale of what flows through the model, variances positive."""
    rng = np.random.default_rng(1)
    for weight in model.weights:
        spread = 1 / np.sqrt(max(1, np.prod(weight.shape[:-1])))
        values = rng.normal(0, spread, weight.shape)
        name = weight.path.rpartition("/")[2]
        if "seed" in name:
            continue
        if "variance" in name or name == "gamma":
            values = np.abs(values) + 0.7
        weight.assign(values)
    return model


def conv():
    image = keras.Input((12, 12, 3), name="image")
    x = L.Conv2D(8, 3, padding="same", use_bias=False, name="first")(image)
    x = L.ReLU(name="act")(L.BatchNormalization(name="norm")(x))
    x = L.Conv2D(8, 3, strides=2, activation="relu", name="second")(x)
    return keras.Model(image, L.Dense(5, name="scores")(L.GlobalAveragePooling2D(name="pool")(x)), name="conv")


def two():
    speed, image = keras.Input((8,), name="zeta"), keras.Input((4, 4, 3), name="alpha")
    x = L.Concatenate()([L.Dense(8, activation="relu")(speed), L.Flatten()(L.Conv2D(4, 3)(image))])
    return keras.Model([speed, image], {"zz": L.Dense(3, name="hz")(x), "aa": L.Dense(2, name="ha")(x)}, name="two")


def tokens():
    x = keras.Input((7,), dtype="int32", name="tokens")
    return keras.Model(x, L.Dense(2, name="cls")(L.Flatten()(L.Embedding(20, 4, name="table")(x))), name="tokens")


def lstm():
    x = keras.Input((6, 3), name="imu")
    return keras.Model(x, L.Dense(2, name="cls")(L.LSTM(4, name="memory")(x)), name="lstm")


def gru():
    x = keras.Input((6, 3), name="imu")
    return keras.Model(x, L.Dense(2, name="cls")(L.GRU(4, name="memory")(x)), name="gru")


def wavy():
    """With layers that the quantizers leave float."""
    x = keras.Input((6,), name="x")
    y = L.Dense(6, name="before")(x)
    y = L.UnitNormalization(name="unit")(L.Activation("softsign", name="soft")(keras.ops.cumsum(y, axis=1)))
    return keras.Model(x, L.Dense(3, name="after")(y), name="wavy")


def odd():
    """Outputs of other kinds: the input itself, a constant, one tensor twice, integers, booleans; and an unused input."""
    x, unused = keras.Input((4,), name="x"), keras.Input((2,), name="unused")
    y = L.Dense(4, name="d")(x)
    outputs = {
        "a_same": x,
        "b_twin": y,
        "c_twin": y,
        "d_steps": keras.ops.cast(y, "int32"),
        "e_positive": keras.ops.greater(y, 0.0),
        "f_constant": keras.ops.ones_like(x) * 3.0,
    }
    return keras.Model([x, unused], outputs, name="odd")


def row():
    """Batch only: rank 1, no parameters."""
    x = keras.Input((), name="x")
    return keras.Model(x, keras.ops.relu(x) * 2.0, name="row")


def scaled():
    """Rescaling to [-1, 1]: in int16 its scales come near powers of two."""
    image = keras.Input((8, 8, 3), name="image")
    x = L.Rescaling(1 / 127.5, offset=-1.0)(image)
    return keras.Model(image, L.Dense(3, name="scores")(L.Flatten()(L.Conv2D(4, 3, padding="same")(x))), name="scaled")


def dilated():
    """Convolutions that OpenVINO's CPU plug-in computes wrongly in int8 while the batch is free."""
    x = series = keras.Input((64, 6), name="series")
    for filters, options in ((16, {"padding": "same"}), (24, {"padding": "causal", "dilation_rate": 2}), (32, {"strides": 2})):
        x = L.Conv1D(filters, 3, use_bias=False, **options)(x)
        x = L.ReLU()(L.BatchNormalization()(x))
    return keras.Model(series, L.Dense(10, name="scores")(L.GlobalAveragePooling1D()(x)), name="dilated")


def upward():
    """Transposed convolutions whose activation is fused into them: OpenVINO's reader drops it."""
    x = series = keras.Input((10, 6), name="series")
    x = L.ReLU()(L.BatchNormalization()(L.Conv1DTranspose(8, 4, strides=2, padding="same", use_bias=False)(x)))
    x = L.Reshape((20, 4, 2))(x)
    return keras.Model(series, L.Conv2DTranspose(3, 3, activation="relu", name="image")(x), name="upward")


def sinh():
    """An op that TFLite lacks and its Flex delegate has."""
    x = keras.Input((4,), name="x")
    return keras.Model(x, keras.ops.sinh(L.Activation("tanh", name="squash")(x)), name="erfinv")


def save(folder, name, model, lower):
    randomize(model).save(folder / f"{name}.keras")
    rng = np.random.default_rng(3)
    feeds = {
        t.name: rng.integers(0, 20, (24, *t.shape[1:])).astype(np.int32)
        if "int" in str(t.dtype)
        else (rng.uniform(0, 255, (24, *t.shape[1:])) if name == "scaled" else rng.normal(size=(24, *t.shape[1:]))).astype(
            np.float32
        )
        for t in model.inputs
    }
    found = model(list(feeds.values()) if len(feeds) > 1 else next(iter(feeds.values())), training=False)
    # Keras flattens a dict by sorted keys: model.outputs is in that order.
    found = dict(sorted(found.items())) if isinstance(found, dict) else {model.output_names[0]: found}
    arrays = {f"in:{key}": value for key, value in feeds.items()} | {f"out:{key}": np.asarray(v) for key, v in found.items()}
    np.savez(folder / f"{name}.npz", **arrays)
    for batch, suffix in ((1, ""), (None, "_free")) if lower else ():
        path, out = folder / f"{name}.keras", folder / f"{name}{suffix}.tflite"
        done = lower_model(
            str(path), str(out), batch=batch, unroll=None, integer=batch == 1, select_tf=False, trust=True, custom=None
        )
        specs = model_specs(str(out), trust=False, custom=None)
        inputs, outputs = ([TensorSpec.from_json(spec) for spec in specs[key]] for key in ("inputs", "outputs"))
        record = StepRecord("read:keras", {"batch": batch}, file_sha256(path))
        meta = ModelMeta(extra={"layers": done["layers"]})
        Artifact.of(out, "tflite", tuple(inputs), tuple(outputs), (record,), meta).save()


def main(folder):
    for make in (conv, two, tokens, lstm, gru, wavy, odd, row, scaled, dilated, upward):
        save(folder, make.__name__, make(), lower=True)
    save(folder, "sinh", sinh(), lower=False)


if __name__ == "__main__":
    import logging
    import warnings

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with contextlib.redirect_stdout(sys.stderr):
        main(Path(sys.argv[1]))
