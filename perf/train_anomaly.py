"""Train an autoencoder that knows some shoulder exercises and rebuilds the others badly, on the shipped wearable windows.

Normal are four exercises that move the arm forwards and backwards; anomalies are the three that move it sideways or turn
it. The score is the mean squared error of a rebuilt window. Training sees the normal windows of subjects 1-6 only; which
exercises are normal was chosen by subject 7 and by leaving out subjects 1-6 in turn, and the test (8-10) had no part in it.
Pendulum, trapezius extension and row as normal are easier, but there validation was at 1.0 and could show no loss.

    .venv/bin/python perf/train_anomaly.py
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
    finish,
    fit,
    of,
    outputs,
    parameters,
    print_table,
    save_model,
    save_sets,
    shuffled,
    start,
)

NORMAL = ("PEN", "FEL", "TRAP", "ROW")  # pendulum, forward elevation, trapezius extension, row
WINDOW, CHANNELS, CODE, FILTERS = 100, 6, 8, 24
EPOCHS, BATCH, RATE, DECAY, NOISE = 20, 64, 3e-3, 1e-3, 0.05


def anomalous(exercises: np.ndarray[Any, Any], labels: list[str]) -> np.ndarray[Any, Any]:
    """Return 1 for each window whose exercise is not a normal one, else 0; int32 (n,).

    Raises:
        ValueError: a normal exercise has no label.
    """
    if unknown := sorted(set(NORMAL) - set(labels)):
        raise ValueError(f"{', '.join(unknown)} are not among the exercises {', '.join(labels)}")
    return (~np.isin(exercises, [labels.index(name) for name in NORMAL])).astype(np.int32)


def sets(windows: dict[str, Arrays], labels: list[str], seed: int) -> dict[str, Arrays]:
    """Make the sets: windows (n, 100, 6), 1 for an anomaly, and the subject; shuffled. Training has normal windows only."""
    made = {name: shuffled({**arrays, "y": anomalous(arrays["y"], labels)}, seed) for name, arrays in windows.items()}
    made["train"] = of(made["train"], made["train"]["y"] == 0)
    return {**made, "calib": calibration(made["train"], seed, ("imu", "y"))}


def build() -> Any:
    """Make the network: two strided convolutions, a code of eight numbers, and the way back.

    A step back makes two readings out of one: a convolution with twice the filters, then a Reshape that lays the halves one
    after the other. UpSampling1D would stay float32 in an int8 TFLite file (TILE).
    """
    import keras

    layers = keras.layers

    def relu(x: Any) -> Any:
        return layers.ReLU()(layers.BatchNormalization(momentum=0.95)(x))

    imu = keras.Input((WINDOW, CHANNELS), name="imu")
    x = imu
    for kernel in (7, 5):
        x = relu(layers.Conv1D(FILTERS, kernel, strides=2, padding="same", use_bias=False)(x))
    x = layers.Dense(CODE, name="code")(layers.Flatten()(x))
    x = relu(layers.Dense(WINDOW // 4 * FILTERS, use_bias=False)(x))
    x = layers.Reshape((WINDOW // 4, FILTERS))(x)
    for length in (WINDOW // 2, WINDOW):
        x = relu(layers.Conv1D(2 * FILTERS, 5, padding="same", use_bias=False)(x))
        x = layers.Reshape((length, FILTERS))(x)
    return keras.Model(imu, layers.Conv1D(CHANNELS, 5, padding="same", name="rebuilt")(x), name="motion")


def train(normal: Floats, epochs: int, seed: int) -> Any:
    """Train to rebuild clean windows from slightly noisy ones."""
    start(seed)
    rng = np.random.default_rng(seed)

    def draw() -> tuple[Floats, Floats]:
        batch = normal[rng.choice(len(normal), BATCH, replace=False)]
        return (batch + rng.normal(0, NOISE, batch.shape)).astype(np.float32), batch

    model = build()
    fit(model, draw, len(normal) // BATCH, epochs, RATE, DECAY, "mse")
    finish(model, "mse", ())
    return model


def scores(windows: Floats, rebuilt: Floats) -> Floats:
    """Return the mean squared error of each window."""
    return np.asarray(np.square(windows - rebuilt).mean(axis=(1, 2)), np.float32)


def principal(normal: Floats, seed: int) -> Any:
    """Fit as many principal components as the code has numbers, and return what rebuilds windows by them: the bar to clear."""
    from sklearn.decomposition import PCA

    components = PCA(CODE, random_state=seed).fit(normal.reshape(len(normal), -1))

    def rebuild(windows: Floats) -> Floats:
        flat = windows.reshape(len(windows), -1)
        return np.asarray(components.inverse_transform(components.transform(flat)), np.float32).reshape(windows.shape)

    return rebuild


def report(model: Any, data: dict[str, Arrays], epochs: int, seconds: float, seed: int) -> None:
    """Score the network and the principal components on the validation and test subjects, and print both."""
    from sklearn.metrics import roc_auc_score

    rebuild = principal(data["train"]["imu"], seed)
    valid, test = data["valid"], data["test"]
    found = {
        name: (scores(part["imu"], outputs(model, part["imu"])), scores(part["imu"], rebuild(part["imu"])))
        for name, part in (("valid", valid), ("test", test))
    }
    rows: list[tuple[Any, ...]] = [
        ("parameters", parameters(model), (CODE + 1) * WINDOW * CHANNELS),
        ("epochs", epochs, None),
        ("seconds", round(seconds), None),
        ("ROC AUC, subject 7", *(float(roc_auc_score(valid["y"], by)) for by in found["valid"])),
        ("ROC AUC, subjects 8-10", *(float(roc_auc_score(test["y"], by)) for by in found["test"])),
    ]
    for subject in np.unique(test["slice:subject"]):
        own = test["slice:subject"] == subject
        rows.append((f"  subject {subject}", *(float(roc_auc_score(test["y"][own], by[own])) for by in found["test"])))
    for name, kind in (("error, normal", 0), ("error, anomaly", 1)):
        rows.append((name, *(float(by[test["y"] == kind].mean()) for by in found["test"])))
    print_table(("network", "PCA"), rows)


def main() -> None:
    """Parse the command line, train, save and report."""
    parser = command_line(__doc__, ROOT / "out" / "anomaly", EPOCHS)
    parser.add_argument("--data", type=Path, default=DEMO_DATA, help="folder of watch_*.npz (default: %(default)s)")
    args = parser.parse_args()
    labels = (args.data / "labels.txt").read_text(encoding="utf-8").split()
    data, began = sets(demo_windows(args.data), labels, args.seed), time.perf_counter()
    model = train(data["train"]["imu"], args.epochs, args.seed)
    seconds = time.perf_counter() - began
    save_model(args.out / "motion.keras", model)
    save_sets(args.out, "motion", {name: data[name] for name in ("train", "calib", "test")})
    report(model, data, args.epochs, seconds, args.seed)


if __name__ == "__main__":
    main()
