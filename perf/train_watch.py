"""Train the wearable-IMU demo classifier shipped in edgewright/demo_data, and write the windows that go with it."""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import os
import time
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]

WINDOW, STRIDE, CHANNELS = 100, 50, 6
TRAIN_SUBJECTS, VALID_SUBJECTS, TEST_SUBJECTS = (1, 2, 3, 4, 5, 6), (7,), (8, 9, 10)
CALIBRATION_WINDOWS = 400
OUT = Path(__file__).resolve().parent.parent / "edgewright" / "demo_data"


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


def rotations(rng: np.random.Generator, count: int, degrees: float) -> Floats:
    """Draw rotation matrices (count, 3, 3) whose rotation vectors are normal with this deviation about each axis."""
    vector = rng.normal(0.0, np.deg2rad(degrees), (count, 3))
    angle = np.linalg.norm(vector, axis=1)[:, None, None] + 1e-9
    x, y, z = vector.T / angle[:, 0, 0]
    zero = np.zeros(count)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=1).reshape(count, 3, 3)
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross, np.float32)


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


def finish(model: keras.Model) -> None:
    """Compile plainly, so that whoever loads the model can evaluate or fine-tune it at once."""
    adam = keras.optimizers.Adam(1e-3)
    model.compile(adam, "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)


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


def guesses(model: keras.Model, imu: Floats) -> Ints:
    """Return the class the model finds likeliest for each window."""
    return np.asarray(model.predict(imu, batch_size=512, verbose=0).argmax(axis=1), np.int32)


def cross_validate(data: Recordings, recipe: Recipe, seed: int) -> None:
    """Leave out each of subjects 1-7 in turn and print how well it is recognised; the test subjects are not touched."""
    pool, scores = TRAIN_SUBJECTS + VALID_SUBJECTS, []
    for subject in pool:
        left = data.of((subject,)).windows()
        model = train(data.of(tuple(other for other in pool if other != subject)), recipe, seed)
        scores.append(float(np.mean(guesses(model, left["imu"]) == left["y"])))
        print(f"subject {subject} left out  {scores[-1]:.4f}", flush=True)
    print(f"mean                {np.mean(scores):.4f}")


def features(imu: Floats) -> Floats:
    """Summarise windows for the forest: mean, deviation, extremes, quartiles and mean step of each channel."""
    quartiles = np.quantile(imu, [0.25, 0.5, 0.75], axis=1)
    steps = np.abs(np.diff(imu, axis=1)).mean(axis=1)
    parts = [imu.mean(axis=1), imu.std(axis=1), imu.min(axis=1), imu.max(axis=1), *quartiles, steps]
    return np.concatenate(parts, axis=1).astype(np.float32)


def forest(train_set: dict[str, npt.NDArray[Any]], imu: Floats, seed: int) -> Ints:
    """Fit a random forest on the summaries of the training windows and classify others: the bar to clear."""
    from sklearn.ensemble import RandomForestClassifier

    model = RandomForestClassifier(500, random_state=seed, n_jobs=2)
    model.fit(features(train_set["imu"]), train_set["y"])
    return np.asarray(model.predict(features(imu)), np.int32)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def npz(arrays: dict[str, npt.NDArray[Any]]) -> bytes:
    """Return the bytes of a compressed .npz, the same for the same arrays: no clock, no pickles."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            archive.writestr(entry, member.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=9)
    return buffer.getvalue()


def save(out: Path, model: keras.Model, data: Recordings, seed: int) -> None:
    """Write the model, its labels and the four sets of windows."""
    out.mkdir(parents=True, exist_ok=True)
    part = out / f".part-{os.getpid()}.keras"
    try:
        model.save(part)
        part.replace(out / "watch.keras")
    finally:
        part.unlink(missing_ok=True)
    train_set = data.of(TRAIN_SUBJECTS).windows()
    drawn = np.sort(np.random.default_rng(seed).choice(len(train_set["y"]), CALIBRATION_WINDOWS, replace=False))
    sets = {
        "calib": {name: train_set[name][drawn] for name in ("imu", "y")},
        "train": train_set,
        "valid": data.of(VALID_SUBJECTS).windows(),
        "test": data.of(TEST_SUBJECTS).windows(),
    }
    for name, arrays in sets.items():
        replace_file(out / f"watch_{name}.npz", npz(arrays))
    replace_file(out / "labels.txt", "".join(f"{label}\n" for label in data.labels).encode())


def macro_f1(truth: Ints, guess: Ints, labels: int) -> float:
    """Return the F1 score averaged over the classes, each counting the same."""
    classes = np.arange(labels)[:, None]
    both = ((truth == classes) & (guess == classes)).sum(axis=1)
    either = (truth == classes).sum(axis=1) + (guess == classes).sum(axis=1)
    return float(np.mean(2 * both / np.maximum(either, 1)))


def parameters(model: keras.Model) -> int:
    """Return the number of trained parameters, as `edgewright inspect` counts them: without BatchNorm statistics."""
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


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
