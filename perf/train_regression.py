"""Train a network that tells from a wrist's acceleration alone how fast the wrist turns, on the shipped wearable windows.

The target is the mean length of the gyroscope's vector over a window of 100 readings, in the recorded unit (by its size
rad/s). The gyroscope itself is not an input: a device without one would save its power. The people of training (subjects
1-6), validation (7) and test (8-10) are different ones, as in the shipped data.

    .venv/bin/python perf/train_regression.py
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from training import (
    DEMO_DATA,
    ROOT,
    Arrays,
    Floats,
    calibration,
    command_line,
    demo_windows,
    features,
    finish,
    fit,
    outputs,
    parameters,
    print_table,
    rotations,
    save_model,
    save_sets,
    shuffled,
    start,
)

WINDOW, AXES = 100, 3
EPOCHS, BATCH, RATE, DECAY = 30, 64, 2e-3, 1e-2
DEGREES, NOISE = 10.0, 0.02  # a watch worn a little askew: standard deviation about each axis; noise in g


def turning(gyroscope: Floats) -> Floats:
    """Return the mean length of the angular velocity (n, time, 3) over each window, shape (n,)."""
    return np.asarray(np.linalg.norm(gyroscope, axis=2).mean(axis=1), np.float32)


def sets(windows: dict[str, Arrays], seed: int) -> dict[str, Arrays]:
    """Make the sets: acceleration (n, 100, 3) in g, the target, and the subject; shuffled."""
    made = {
        name: shuffled(
            {
                "acceleration": np.ascontiguousarray(arrays["imu"][..., :AXES]),
                "y": turning(arrays["imu"][..., AXES:]),
                "slice:subject": arrays["slice:subject"],
            },
            seed,
        )
        for name, arrays in windows.items()
    }
    return {**made, "calib": calibration(made["train"], seed, ("acceleration", "y"))}


def build() -> Any:
    """Make the network: four convolutions with BatchNorm, average pooling and two dense layers."""
    import keras

    acceleration = keras.Input((WINDOW, AXES), name="acceleration")
    x = acceleration
    for filters, kernel, strides in ((24, 7, 1), (36, 5, 2), (48, 5, 2), (72, 5, 2)):
        x = keras.layers.Conv1D(filters, kernel, strides=strides, padding="same", use_bias=False)(x)
        x = keras.layers.BatchNormalization(momentum=0.95)(x)
        x = keras.layers.ReLU()(x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    x = keras.layers.Dropout(0.2)(x)
    x = keras.layers.Dense(32, activation="relu")(x)
    return keras.Model(acceleration, keras.layers.Dense(1, name="intensity")(x), name="intensity")


def train(train_set: Arrays, epochs: int, seed: int) -> Any:
    """Train on a standardised target, then put its mean and deviation into the last layer: the model speaks the unit of y.

    Each window is turned a little and mirrored at random (left or right wrist), which leaves the target as it is.
    """
    start(seed)
    rng = np.random.default_rng(seed)
    windows, y = train_set["acceleration"], train_set["y"]
    mean, deviation = y.mean(), y.std()
    target = (y - mean) / deviation

    def draw() -> tuple[Floats, Floats]:
        which = rng.choice(len(windows), BATCH, replace=False)
        batch = windows[which]
        batch[rng.random(BATCH) < 0.5] *= np.array([-1, 1, 1], np.float32)
        batch = batch @ rotations(rng, BATCH, DEGREES) + rng.normal(0, NOISE, batch.shape)
        return batch.astype(np.float32), target[which]

    model = build()
    fit(model, draw, len(windows) // BATCH, epochs, RATE, DECAY, "mse")
    kernel, bias = model.get_layer("intensity").get_weights()
    model.get_layer("intensity").set_weights([kernel * deviation, bias * deviation + mean])
    finish(model, "mse", ("mae",))
    return model


def baselines(train_set: Arrays, seed: int) -> tuple[Any, Any]:
    """Fit a ridge regression and a random forest on summaries of the training windows."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    ridge = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 4, 13)))
    forest = RandomForestRegressor(200, random_state=seed, n_jobs=2)
    known = features(train_set["acceleration"])
    return ridge.fit(known, train_set["y"]), forest.fit(known, train_set["y"])


def r2(truth: Floats, guess: Floats) -> float:
    """Return the share of the target's variance that is explained; 0 is what its mean would reach."""
    return float(1 - np.square(truth - guess).sum() / np.square(truth - truth.mean()).sum())


def report(model: Any, data: dict[str, Arrays], epochs: int, seconds: float, seed: int) -> None:
    """Score the network and the two baselines on the validation and test subjects, and print all."""
    ridge, forest = baselines(data["train"], seed)
    valid, test = data["valid"], data["test"]
    guess = {
        name: (outputs(model, part["acceleration"])[:, 0], *(b.predict(features(part["acceleration"])) for b in (ridge, forest)))
        for name, part in (("valid", valid), ("test", test))
    }
    rows: list[tuple[Any, ...]] = [
        ("parameters", parameters(model), features(test["acceleration"][:1]).size + 1, None),
        ("epochs", epochs, None, None),
        ("seconds", round(seconds), None, None),
        ("R2, subject 7", *(r2(valid["y"], by) for by in guess["valid"])),
        ("R2, subjects 8-10", *(r2(test["y"], by) for by in guess["test"])),
    ]
    for subject in np.unique(test["slice:subject"]):
        own = test["slice:subject"] == subject
        rows.append((f"  subject {subject}", *(r2(test["y"][own], by[own]) for by in guess["test"])))
    rows.append(("mean error, 8-10", *(float(np.abs(test["y"] - by).mean()) for by in guess["test"])))
    print_table(("network", "ridge", "forest"), rows)


def main() -> None:
    """Parse the command line, train, save and report."""
    parser = command_line(__doc__, ROOT / "out" / "regression", EPOCHS)
    parser.add_argument("--data", type=Path, default=DEMO_DATA, help="folder of watch_*.npz (default: %(default)s)")
    args = parser.parse_args()
    data, began = sets(demo_windows(args.data), args.seed), time.perf_counter()
    model = train(data["train"], args.epochs, args.seed)
    seconds = time.perf_counter() - began
    save_model(args.out / "intensity.keras", model)
    save_sets(args.out, "intensity", {name: data[name] for name in ("train", "calib", "test")})
    report(model, data, args.epochs, seconds, args.seed)


if __name__ == "__main__":
    main()
