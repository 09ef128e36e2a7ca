"""What the training scripts in this folder have in common: writing files, compiling, wearable windows, the printed table.

Nothing here imports TensorFlow until a model is made, so that the handling of data can be tested without it.
"""

from __future__ import annotations

import argparse
import io
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
Arrays = dict[str, npt.NDArray[Any]]

ROOT = Path(__file__).resolve().parent.parent
DEMO_DATA = ROOT / "edgewright" / "demo_data"
CALIBRATION_SAMPLES = 400


# --- files ------------------------------------------------------------------------------------------------------------


def replace_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def npz(arrays: Arrays) -> bytes:
    """Return the bytes of a compressed .npz, the same for the same arrays: no clock, no pickles."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            archive.writestr(entry, member.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=9)
    return buffer.getvalue()


def read_npz(path: Path) -> Arrays:
    """Read all arrays of an .npz; nothing is unpickled."""
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def save_model(path: Path, model: Any) -> None:
    """Write a .keras file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.parent / f".part-{os.getpid()}.keras"
    try:
        model.save(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def save_sets(out: Path, prefix: str, sets: dict[str, Arrays]) -> None:
    """Write each set of samples as PREFIX_SET.npz."""
    for name, arrays in sets.items():
        replace_file(out / f"{prefix}_{name}.npz", npz(arrays))


def save_labels(out: Path, labels: Sequence[str]) -> None:
    """Write the names of the classes beside the samples, one a line."""
    replace_file(out / "labels.txt", "".join(f"{label}\n" for label in labels).encode())


# --- samples ----------------------------------------------------------------------------------------------------------


def of(arrays: Arrays, index: npt.NDArray[Any]) -> Arrays:
    """Return some of the samples: `index` is a mask or positions."""
    return {name: array[index] for name, array in arrays.items()}


def shuffled(arrays: Arrays, seed: int) -> Arrays:
    """Return the samples in a random order, so that the first hundred are a fair sample of all."""
    return of(arrays, np.random.default_rng(seed).permutation(len(next(iter(arrays.values())))))


def calibration(arrays: Arrays, seed: int, names: Sequence[str]) -> Arrays:
    """Draw the calibration samples from a training set, in its order, and keep the named arrays only."""
    count = len(next(iter(arrays.values())))
    drawn = np.sort(np.random.default_rng(seed).choice(count, CALIBRATION_SAMPLES, replace=False))
    return of({name: arrays[name] for name in names}, drawn)


def demo_windows(folder: Path) -> dict[str, Arrays]:
    """Read the wearable windows: train (subjects 1-6), valid (7) and test (8-10); `imu`, `y` and `slice:subject` each."""
    return {name: read_npz(folder / f"watch_{name}.npz") for name in ("train", "valid", "test")}


def rotations(rng: np.random.Generator, count: int, degrees: float) -> Floats:
    """Draw rotation matrices (count, 3, 3) whose rotation vectors are normal with this deviation about each axis."""
    vector = rng.normal(0.0, np.deg2rad(degrees), (count, 3))
    angle = np.linalg.norm(vector, axis=1)[:, None, None] + 1e-9
    x, y, z = vector.T / angle[:, 0, 0]
    zero = np.zeros(count)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=1).reshape(count, 3, 3)
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross, np.float32)


def features(windows: Floats) -> Floats:
    """Summarise windows for the baselines: mean, deviation, extremes, quartiles and mean step of each channel."""
    quartiles = np.quantile(windows, [0.25, 0.5, 0.75], axis=1)
    steps = np.abs(np.diff(windows, axis=1)).mean(axis=1)
    parts = [windows.mean(axis=1), windows.std(axis=1), windows.min(axis=1), windows.max(axis=1), *quartiles, steps]
    return np.concatenate(parts, axis=1).astype(np.float32)


# --- models -----------------------------------------------------------------------------------------------------------


def start(seed: int) -> None:
    """Make all that follows repeat itself: clear Keras, seed everything, ask TensorFlow for deterministic ops."""
    import keras
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)


def finish(model: Any, loss: str = "sparse_categorical_crossentropy", metrics: Sequence[str] = ("accuracy",)) -> None:
    """Compile plainly, so that whoever loads the model can evaluate or fine-tune it at once."""
    import keras

    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=list(metrics), jit_compile=False)


def fit(model: Any, draw: Callable[[], tuple[Any, Any]], batches: int, epochs: int, rate: float, decay: float, loss: str) -> None:
    """Train on freshly drawn batches with AdamW, the rate falling along a cosine to nothing."""
    import keras

    class Drawn(keras.utils.PyDataset):
        def __len__(self) -> int:
            return batches

        def __getitem__(self, index: int) -> tuple[Any, Any]:
            return draw()

    fall = keras.optimizers.schedules.CosineDecay(rate, epochs * batches)
    model.compile(keras.optimizers.AdamW(fall, weight_decay=decay), loss, jit_compile=False)
    model.fit(Drawn(), epochs=epochs, verbose=0)


def outputs(model: Any, windows: Floats) -> Floats:
    """Return what the model computes for each sample."""
    return np.asarray(model.predict(windows, batch_size=512, verbose=0), np.float32)


def guesses(model: Any, windows: Floats) -> Ints:
    """Return the class the model finds likeliest for each sample."""
    return np.asarray(outputs(model, windows).argmax(axis=1), np.int32)


def parameters(model: Any) -> int:
    """Return the number of trained parameters, as `edgewright inspect` counts them: without BatchNorm statistics."""
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


# --- command line and table -------------------------------------------------------------------------------------------


def command_line(description: str | None, out: Path, epochs: int) -> argparse.ArgumentParser:
    """Make the parser with the options that every script has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=out, help="folder to write to (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=epochs)
    return parser


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print names to the left and figures to the right; None prints as a dash, fractions with four decimals."""

    def cell(value: Any) -> str:
        return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)

    for name, *values in (("", *columns), *rows):
        print(f"{name:24}" + "".join(f"{cell(value):>12}" for value in values))
