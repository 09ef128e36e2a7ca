"""Trains a classifier, a regressor and an autoencoder in seconds; run as a script, once per test session.

Usage: python small_models.py FOLDER. Writes NAME.keras, NAME_calib.npz and NAME_test.npz for each of the three, and
sparse.keras: the classifier with 75 % exact zeros in its largest kernel.
"""

import os
import sys
from pathlib import Path

os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")

import keras
import numpy as np

L = keras.layers


def save(folder, name, model, x, y, **slices):
    """The model; 100 samples to calibrate with, 400 others to test on."""
    model.save(folder / f"{name}.keras")
    key = model.inputs[0].name
    np.savez(folder / f"{name}_calib.npz", **{key: x[:100]})
    np.savez(
        folder / f"{name}_test.npz", **{key: x[100:500]}, y=y[100:500], **{f"slice:{k}": v[100:500] for k, v in slices.items()}
    )


def classifier(folder, rng):
    x = rng.normal(size=(900, 12)).astype(np.float32)
    y = np.argmax(x[:, :4] + 0.7 * rng.normal(size=(900, 4)), axis=1)
    features = keras.Input((12,), name="features")
    model = keras.Model(features, L.Dense(4, "softmax", name="kind")(L.Dense(24, "relu", name="hidden")(features)))
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    model.fit(x[500:], y[500:], epochs=25, verbose=0)
    save(folder, "classifier", model, x, y, half=np.where(np.arange(900) % 2, "odd", "even"))
    hidden = model.get_layer("hidden")
    kernel, bias = hidden.get_weights()
    kernel[np.abs(kernel) < np.quantile(np.abs(kernel), 0.75)] = 0.0
    hidden.set_weights([kernel, bias])
    model.save(folder / "sparse.keras")


def regressor(folder, rng):
    x = rng.normal(size=(900, 8)).astype(np.float32)
    y = (x[:, :3].sum(axis=1) + 0.2 * rng.normal(size=900)).astype(np.float32)
    sensors = keras.Input((8,), name="sensors")
    model = keras.Model(sensors, L.Dense(1, name="level")(L.Dense(16, "relu")(sensors)))
    model.compile("adam", "mse", jit_compile=False)
    model.fit(x[500:], y[500:], epochs=40, verbose=0)
    save(folder, "regressor", model, x, y)


def autoencoder(folder, rng):
    mixing = rng.normal(size=(3, 16))
    normal = rng.normal(size=(900, 3)) @ mixing
    odd = rng.normal(size=(900, 16)) * normal.std()
    y = (np.arange(900) % 4 == 0).astype(np.int64)
    y[:100] = 0
    y[500:] = 0
    x = np.where(y[:, None] == 1, odd, normal).astype(np.float32)
    signal = keras.Input((16,), name="signal")
    model = keras.Model(signal, L.Dense(16, name="again")(L.Dense(3)(signal)))
    model.compile("adam", "mse", jit_compile=False)
    model.fit(x[500:], x[500:], epochs=60, verbose=0)
    save(folder, "autoencoder", model, x, y)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    for make in (classifier, regressor, autoencoder):
        keras.utils.set_random_seed(0)
        make(target, np.random.default_rng(0))
