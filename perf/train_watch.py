"""Train the wearable-IMU demo classifier shipped in edgewright/demo_data, and write the windows that go with it."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from training import (
    DEMO_DATA,
    Floats,
    Ints,
    calibration,
    features,
    finish,
    guesses,
    parameters,
    rotations,
    save_labels,
    save_model,
    save_sets,
)

WINDOW, STRIDE, CHANNELS = 100, 50, 6
TRAIN_SUBJECTS, VALID_SUBJECTS, TEST_SUBJECTS = (1, 2, 3, 4, 5, 6), (7,), (8, 9, 10)
OUT = DEMO_DATA


@dataclass(frozen=True)
class Recipe:
    """The training recipe; the test subjects had no part in it.

    Rotation and mirror were compared by leaving out some of subjects 1-7 in turn (`--cross-validate` leaves out each of
    the seven), and no setting stood out from the noise between runs. The rest are customary values, not searched.
    """

    epochs: int = 30
    batch: int = 64
    rate: float = 2e-3
    decay: float = 1e-2
    smoothing: float = 0.1
    dropout: float = 0.4
    rotation: float = 10.0  # degrees, standard deviation about each axis
    speed: float = 0.2  # largest relative change of tempo
    gain: float = 0.1  # largest relative change of a sensor's scale
    noise: float = 0.05  # standard deviation, in recorded units
    mirror: bool = True  # left wrist <-> right wrist


@dataclass(frozen=True)
class Recordings:
    """Whole recordings: a signal (time, 6), an exercise and a subject for each."""

    signals: list[Floats]
    exercises: Ints
    subjects: Ints
    labels: list[str]

    def of(self, subjects: tuple[int, ...]) -> Recordings:
        """Return the recordings of the given subjects."""
        keep = np.flatnonzero(np.isin(self.subjects, subjects))
        return Recordings([self.signals[i] for i in keep], self.exercises[keep], self.subjects[keep], self.labels)

    def windows(self) -> dict[str, npt.NDArray[Any]]:
        """Cut every recording into half-overlapping windows, in the order of the recordings."""
        parts = [
            np.lib.stride_tricks.sliding_window_view(signal, WINDOW, axis=0)[::STRIDE].transpose(0, 2, 1)
            for signal in self.signals
        ]
        counts = [len(part) for part in parts]
        return {
            "imu": np.ascontiguousarray(np.concatenate(parts)),
            "y": np.repeat(self.exercises, counts),
            "slice:subject": np.repeat(self.subjects, counts),
        }


def find_data() -> Path:
    """Locate the recordings inside an installed seglearn, without importing it."""
    try:
        files = importlib.metadata.files("seglearn") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if path.name == "watch_dataset.npy" and path.is_file():
            return path
    raise FileNotFoundError(
        "watch_dataset.npy was not found: run `pip install --no-deps seglearn==1.2.5`, or point at the file with --data"
    )


def load(path: Path) -> Recordings:
    """Read the seglearn watch data set (a pickled dictionary: only open a file you trust)."""
    raw = np.load(path, allow_pickle=True).item()
    return Recordings(
        [np.asarray(signal, np.float32) for signal in raw["X"]],
        np.asarray(raw["y"], np.int32),
        np.asarray(raw["subject"], np.int32),
        [str(label) for label in raw["y_labels"]],
    )


class Augmented(keras.utils.PyDataset):
    """Fresh random windows each epoch: any offset and tempo, a watch worn a little askew, either wrist, some noise."""

    def __init__(self, recordings: Recordings, recipe: Recipe, seed: int) -> None:
        """Lay the recordings end to end and remember where each one starts."""
        super().__init__()
        self.recipe, self.rng = recipe, np.random.default_rng(seed)
        self.signal = np.concatenate(recordings.signals)
        self.lengths = np.array([len(signal) for signal in recordings.signals])
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.exercises = recordings.exercises
        self.batches = int(self.lengths.sum() / STRIDE / recipe.batch)

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return self.batches

    def __getitem__(self, index: int) -> tuple[Floats, Ints]:
        """Draw one batch; the index is of no matter."""
        size, recipe, rng = self.recipe.batch, self.recipe, self.rng
        which = rng.choice(len(self.lengths), size, p=self.lengths / self.lengths.sum())
        tempo = (1 + recipe.speed) ** rng.uniform(-1, 1, size)
        offset = rng.uniform(0, self.lengths[which] - 1.001 - tempo * (WINDOW - 1))
        moment = (self.starts[which] + offset)[:, None] + tempo[:, None] * np.arange(WINDOW)
        before = moment.astype(np.int64)
        part = (moment - before)[..., None].astype(np.float32)
        imu = (1 - part) * self.signal[before] + part * self.signal[before + 1]
        imu[..., 3:] *= tempo[:, None, None]  # turning faster is turning at a higher rate
        if recipe.mirror:  # a reflection in x: true vectors flip x, axial vectors flip the other two
            imu[rng.random(size) < 0.5] *= np.array([-1, 1, 1, 1, -1, -1], np.float32)
        imu = (imu.reshape(size, 2 * WINDOW, 3) @ rotations(rng, size, recipe.rotation)).reshape(size, WINDOW, CHANNELS)
        gain = rng.uniform(1 - recipe.gain, 1 + recipe.gain, (size, 1, 2)).repeat(3, axis=2)
        imu = imu * gain + rng.normal(0, recipe.noise, imu.shape)
        return imu.astype(np.float32), self.exercises[which]


def build(labels: int, recipe: Recipe) -> keras.Model:
    """Make the network: two convolutions, then separable ones, average pooling and a classifier."""
    imu = keras.Input((WINDOW, CHANNELS), name="imu")

    def block(x: Any, filters: int, kernel: int, strides: int, separable: bool) -> Any:
        kind = keras.layers.SeparableConv1D if separable else keras.layers.Conv1D
        x = kind(filters, kernel, strides=strides, padding="same", use_bias=False)(x)
        x = keras.layers.BatchNormalization(momentum=0.95)(x)
        return keras.layers.ReLU()(x)

    x = block(imu, 48, 7, 1, False)
    x = block(x, 64, 5, 2, False)
    x = block(x, 96, 5, 2, False)
    x = block(x, 128, 5, 2, True)
    x = block(x, 160, 5, 1, True)
    x = keras.layers.GlobalAveragePooling1D()(x)
    x = keras.layers.Dropout(recipe.dropout)(x)
    exercise = keras.layers.Dense(labels, activation="softmax", name="exercise")(x)
    return keras.Model(imu, exercise, name="watch")


def train(recordings: Recordings, recipe: Recipe, seed: int) -> keras.Model:
    """Train on these recordings for the recipe's fixed number of epochs, the rate falling along a cosine to nothing."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    batches = Augmented(recordings, recipe, seed)
    labels = len(recordings.labels)
    model = build(labels, recipe)
    smooth = keras.losses.CategoricalCrossentropy(label_smoothing=recipe.smoothing)

    def loss(y: Any, guess: Any) -> Any:
        return smooth(keras.ops.one_hot(keras.ops.cast(keras.ops.reshape(y, (-1,)), "int32"), labels), guess)

    rate = keras.optimizers.schedules.CosineDecay(recipe.rate, recipe.epochs * len(batches))
    model.compile(keras.optimizers.AdamW(rate, weight_decay=recipe.decay), loss, jit_compile=False)
    model.fit(batches, epochs=recipe.epochs, verbose=0)
    finish(model)
    return model


def cross_validate(data: Recordings, recipe: Recipe, seed: int) -> None:
    """Leave out each of subjects 1-7 in turn and print how well it is recognised; the test subjects are not touched."""
    pool, scores = TRAIN_SUBJECTS + VALID_SUBJECTS, []
    for subject in pool:
        left = data.of((subject,)).windows()
        model = train(data.of(tuple(other for other in pool if other != subject)), recipe, seed)
        scores.append(float(np.mean(guesses(model, left["imu"]) == left["y"])))
        print(f"subject {subject} left out  {scores[-1]:.4f}", flush=True)
    print(f"mean                {np.mean(scores):.4f}")


def forest(train_set: dict[str, npt.NDArray[Any]], imu: Floats, seed: int) -> Ints:
    """Fit a random forest on the summaries of the training windows and classify others: the bar to clear."""
    from sklearn.ensemble import RandomForestClassifier

    model = RandomForestClassifier(500, random_state=seed, n_jobs=2)
    model.fit(features(train_set["imu"]), train_set["y"])
    return np.asarray(model.predict(features(imu)), np.int32)


def save(out: Path, model: keras.Model, data: Recordings, seed: int) -> None:
    """Write the model, its labels and the four sets of windows."""
    save_model(out / "watch.keras", model)
    train_set = data.of(TRAIN_SUBJECTS).windows()
    sets = {
        "calib": calibration(train_set, seed, ("imu", "y")),
        "train": train_set,
        "valid": data.of(VALID_SUBJECTS).windows(),
        "test": data.of(TEST_SUBJECTS).windows(),
    }
    save_sets(out, "watch", sets)
    save_labels(out, data.labels)


def macro_f1(truth: Ints, guess: Ints, labels: int) -> float:
    """Return the F1 score averaged over the classes, each counting the same."""
    classes = np.arange(labels)[:, None]
    both = ((truth == classes) & (guess == classes)).sum(axis=1)
    either = (truth == classes).sum(axis=1) + (guess == classes).sum(axis=1)
    return float(np.mean(2 * both / np.maximum(either, 1)))


def report(model: keras.Model, data: Recordings, recipe: Recipe, seed: int) -> None:
    """Score the finished model and the forest on the validation and test subjects, and print both."""
    train_set, valid, test = (data.of(who).windows() for who in (TRAIN_SUBJECTS, VALID_SUBJECTS, TEST_SUBJECTS))
    truth, subjects = test["y"], test["slice:subject"]
    print(f"{'':24}{'network':>10}{'forest':>10}")
    print(f"{'parameters':24}{parameters(model):>10}{'-':>10}")
    print(f"{'epochs':24}{recipe.epochs:>10}{'-':>10}")
    network = guesses(model, valid["imu"]), guesses(model, test["imu"])
    trees = forest(train_set, valid["imu"], seed), forest(train_set, test["imu"], seed)
    rows = [("validation, subject 7", *(float(np.mean(by[0] == valid["y"])) for by in (network, trees)))]
    rows.append(("test, subjects 8-10", *(float(np.mean(by[1] == truth)) for by in (network, trees))))
    for subject in TEST_SUBJECTS:
        own = subjects == subject
        rows.append((f"  subject {subject}", *(float(np.mean((by[1] == truth)[own])) for by in (network, trees))))
    rows.append(("test, macro F1", *(macro_f1(truth, by[1], len(data.labels)) for by in (network, trees))))
    for name, ours, theirs in rows:
        print(f"{name:24}{ours:>10.4f}{theirs:>10.4f}")


def main() -> None:
    """Parse the command line, then either cross-validate or train, save and report."""
    recipe = Recipe()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="watch_dataset.npy (default: the one in an installed seglearn)")
    parser.add_argument("--out", type=Path, default=OUT, help="folder to write to (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=recipe.epochs)
    parser.add_argument("--cross-validate", action="store_true", help="score subjects 1-7, each left out; write nothing")
    args = parser.parse_args()
    if args.data is not None and not args.data.is_file():
        raise FileNotFoundError(f"--data {args.data}: no such file")
    tf.config.experimental.enable_op_determinism()
    recipe, data, began = replace(recipe, epochs=args.epochs), load(args.data or find_data()), time.perf_counter()
    if args.cross_validate:
        cross_validate(data, recipe, args.seed)
    else:
        model = train(data.of(TRAIN_SUBJECTS), recipe, args.seed)
        save(args.out, model, data, args.seed)
        report(model, data, recipe, args.seed)
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
