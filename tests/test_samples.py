"""Samples: every source, every check, re-iterable, seeded, streamed, and opened again in another process."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgewright import sample_arrays as module
from edgewright.artifact import TensorSpec
from edgewright.errors import SamplesError, ShapeError, UsageError
from edgewright.preprocess import Preprocess
from edgewright.samples import Samples, SamplesSpec, open_samples

IMU = (TensorSpec("imu", (None, 4, 2), "float32"),)
ROW = (TensorSpec("row", (1, 3), "float32"),)
PAIR = (TensorSpec("a", (1, 2), "float32"), TensorSpec("b", (1, 3), "float32"))
IMAGE = (TensorSpec("image", (1, 8, 8, 3), "float32"),)
IDS = (TensorSpec("ids", (1, 3), "int32"),)
SMALL = Preprocess(size=(8, 8), color="rgb", scale=1 / 255)


def windows(count: int = 20) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 4, 2)).astype(np.float32)


def joined(samples: Samples, name: str, size: int = 7) -> np.ndarray:
    return np.concatenate([batch[name] for batch in samples.batches(size)])


def save(path: Path, **arrays: object) -> Path:
    np.savez(path, **{name.replace("__", ":"): np.asarray(values) for name, values in arrays.items()})
    return path


def fails(kind: type[Exception], call: Callable[[], object], *parts: str) -> None:
    """The call raises and its text holds every part."""
    with pytest.raises(kind) as caught:
        call()
    for part in parts:
        assert part in str(caught.value)


@pytest.fixture
def write_csv(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "rec.csv"
        path.write_bytes(text.encode())
        return path

    return write


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """A module of a unique name in the current folder, with a function `data`."""

    def write(body: str) -> str:
        name = f"user_{tmp_path.name}"
        (tmp_path / f"{name}.py").write_text(f"import numpy as np\n{body}\n")
        monkeypatch.chdir(tmp_path)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return f"{name}:data"

    return write


def image_folder(root: Path, per_class: int = 3, classes: tuple[str, ...] = ("cat", "ant")) -> Path:
    rng = np.random.default_rng(1)
    for name in classes:
        (root / name).mkdir(parents=True)
        for at in range(per_class):
            cv2.imwrite(str(root / name / f"{at:05}.png"), rng.integers(0, 256, (12, 10, 3), dtype=np.uint8))
    return root


# --- .npz, mappings, .npy


def test_npz_by_input_name_with_labels_slices_and_class_names(tmp_path: Path):
    data = windows()
    path = save(tmp_path / "d.npz", imu=data, y=np.arange(20) % 3, y__aux=np.ones((20, 2)), slice__subject=np.arange(20) // 5)
    (tmp_path / "labels.txt").write_text("sit\nrun\njump\n")
    samples = open_samples(path, IMU)
    assert len(samples) == 20 and samples.inputs == ("imu",)
    assert np.array_equal(joined(samples, "imu"), data)
    assert [len(batch["imu"]) for batch in samples.batches(7)] == [7, 7, 6]
    assert [one["imu"].shape for one in samples] == [(1, 4, 2)] * 20
    assert samples.labels["y"].tolist() == [n % 3 for n in range(20)] and samples.labels["aux"].shape == (20, 2)
    assert samples.slices["subject"].tolist() == [n // 5 for n in range(20)]
    assert samples.class_names == ("sit", "run", "jump")
    assert samples.describe().startswith(f"20 samples from {path}: imu (4, 2); labels y, aux")


def test_samples_are_re_iterable_even_interleaved(tmp_path: Path):
    samples = open_samples(save(tmp_path / "d.npz", imu=windows()), IMU)
    first, second = iter(samples), iter(samples)
    next(first)
    assert np.array_equal(next(first)["imu"], [*second][1]["imu"])
    assert np.array_equal(joined(samples, "imu"), joined(samples, "imu"))


def test_one_unnamed_array_is_taken_for_the_only_input(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "edgewright")
    assert len(open_samples(save(tmp_path / "d.npz", x=windows(), y=np.zeros(20)), IMU)) == 20
    assert "'x'" in caplog.text and "'imu'" in caplog.text


def test_other_names_are_named_with_the_inputs(tmp_path: Path):
    data = np.zeros((5, 2))
    fails(SamplesError, lambda: open_samples(save(tmp_path / "d.npz", a=data, c=data), PAIR), "a, c", "a, b")
    fails(SamplesError, lambda: open_samples({"imu": windows(), "extra": windows()}, IMU), "extra, imu", "inputs imu")
    fails(SamplesError, lambda: open_samples({"y": [1]}, IMU), "none", "imu")


def test_two_inputs(tmp_path: Path):
    arrays = {"a": np.arange(10.0).reshape(5, 2), "b": np.arange(15.0).reshape(5, 3)}
    samples = open_samples(save(tmp_path / "d.npz", **arrays), PAIR)
    assert all(np.array_equal(joined(samples, name, 2), values) for name, values in arrays.items())
    fails(SamplesError, lambda: open_samples({**arrays, "b": np.zeros((4, 3))}, PAIR), "'b'", "4", "5")


def test_wrong_number_of_labels_names_both(tmp_path: Path):
    fails(SamplesError, lambda: open_samples({"imu": windows(), "y": np.zeros(19)}, IMU), "'y'", "19", "20")
    fails(SamplesError, lambda: open_samples({"imu": windows(), "slice:s": np.zeros(3)}, IMU), "slice:s", "3", "20")


def test_text_labels_become_indices_and_nan_labels_are_refused():
    samples = open_samples({"imu": windows(3), "y": ["run", "ant", "run"]}, IMU)
    assert samples.labels["y"].tolist() == [1, 0, 1] and samples.class_names == ("ant", "run")
    fails(SamplesError, lambda: open_samples({"imu": windows(2), "y": [0.0, np.nan]}, IMU), "'y'", "NaN")


def test_no_samples_is_an_error(tmp_path: Path):
    np.save(tmp_path / "d.npy", np.zeros((0, 4, 2)))
    for source in ({"imu": np.zeros((0, 4, 2))}, tmp_path / "d.npy"):
        fails(SamplesError, lambda source=source: open_samples(source, IMU), "0 samples")


def test_npy_is_mapped_not_read(tmp_path: Path):
    array = np.lib.format.open_memmap(tmp_path / "d.npy", "w+", np.float32, (100_000, 64))  # 25.6 MB
    array[:, 0] = np.arange(100_000)
    array.flush()
    tracemalloc.start()
    samples = open_samples(tmp_path / "d.npy", (TensorSpec("x", (1, 64), "float32"),))
    assert sum(batch["x"][:, 0].sum(dtype=np.float64) for batch in samples.take(50_000).batches(100)) == sum(range(50_000))
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    fails(SamplesError, lambda: open_samples(tmp_path / "d.npy", PAIR), "a, b")


@pytest.mark.parametrize("name", ["d.npz", "d.npy"])
def test_truncated_files_are_errors_not_tracebacks(tmp_path: Path, name: str):
    path = tmp_path / name
    if name == "d.npz":
        np.savez_compressed(path, imu=windows(500))
    else:
        np.save(path, windows(500))
    whole = path.read_bytes()
    for cut in (0, 4, 60, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:cut])
        fails(SamplesError, lambda: open_samples(path, IMU), name)
    path.write_bytes(whole[: len(whole) // 2] + b"\x00\x01\x02" * 20 + whole[len(whole) // 2 + 60 :])
    if name == "d.npz":
        fails(SamplesError, lambda: open_samples(path, IMU), name)


def test_pickles_are_never_loaded(tmp_path: Path):
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    np.save(tmp_path / "d.npy", np.array([Bomb()], dtype=object))
    np.savez(tmp_path / "d.npz", imu=np.array([Bomb()], dtype=object))
    (tmp_path / "exploded").unlink(missing_ok=True)
    for name in ("d.npy", "d.npz"):
        fails(SamplesError, lambda name=name: open_samples(tmp_path / name, IMU), name)
    assert not (tmp_path / "exploded").exists()


def test_a_zip_bomb_is_refused_before_it_unpacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    np.savez_compressed(tmp_path / "d.npz", imu=np.zeros((1000, 4, 2), np.float32))
    monkeypatch.setattr(module, "NPZ_LIMIT_BYTES", 10_000)
    fails(SamplesError, lambda: open_samples(tmp_path / "d.npz", IMU), "GiB", ".npy")
    monkeypatch.undo()
    monkeypatch.setattr(module, "_free_memory_bytes", lambda: 10_000)
    fails(SamplesError, lambda: open_samples(tmp_path / "d.npz", IMU), "GiB")


def test_a_member_that_is_no_array_is_named(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    fails(SamplesError, lambda: open_samples(tmp_path / "d.npz", IMU), "readme.txt")


# --- selection, digest, spec


def test_take_and_draw():
    data = windows(50)
    samples = open_samples({"imu": data, "y": np.arange(50), "slice:s": np.arange(50)}, IMU)
    assert samples.take(5).labels["y"].tolist() == [0, 1, 2, 3, 4] and len(samples.take(99)) == 50
    drawn = samples.draw(10, seed=3)
    picked = drawn.labels["y"].tolist()
    assert picked == sorted(set(picked)) and len(picked) == 10
    assert picked == samples.draw(10, seed=3).labels["y"].tolist() == drawn.slices["s"].tolist()
    assert picked != samples.draw(10, seed=4).labels["y"].tolist()
    assert np.array_equal(joined(drawn, "imu"), data[picked])
    assert drawn.draw(5, 0).take(3).labels["y"].tolist() == drawn.draw(5, 0).labels["y"].tolist()[:3]
    assert "10 drawn with seed 3" in drawn.describe()
    for same in (samples.take(50), samples.draw(99, 1).take(60)):  # nothing was left out
        assert same.describe() == samples.describe() and same.digest() == samples.digest()
    assert drawn.take(10).draw(4, 1).take(7).describe().endswith("; 10 drawn with seed 3; 4 drawn with seed 1")
    fails(UsageError, lambda: samples.take(0), "0", "1")
    fails(UsageError, lambda: samples.batches(0), "0", "1")


def test_digest_changes_with_content_and_options(tmp_path: Path):
    data = windows()
    samples = open_samples({"imu": data, "y": np.zeros(20)}, IMU)
    changed = data.copy()
    changed[3, 2, 1] += 1
    others = [
        open_samples({"imu": changed, "y": np.zeros(20)}, IMU),
        open_samples({"imu": data, "y": np.ones(20)}, IMU),
        open_samples({"imu": data, "y": np.zeros(20)}, IMU, preprocess=Preprocess(scale=2.0)),
        open_samples({"imu": data.reshape(-1, 2)}, IMU, window=4),
        open_samples({"imu": data.reshape(-1, 2)}, IMU, window=4, stride=2),
        samples.take(5),
        samples.draw(5, 0),
        samples.draw(5, 1),
    ]
    digests = [samples.digest(), *(other.digest() for other in others)]
    assert len(set(digests)) == len(digests) and None not in digests
    assert open_samples(save(tmp_path / "d.npz", imu=data, y=np.zeros(20)), IMU).digest() == samples.digest()


CHILD = """
import json, sys, hashlib
import numpy as np
from edgewright.artifact import TensorSpec
from edgewright.samples import SamplesSpec
spec, inputs = json.loads(sys.stdin.read())
samples = SamplesSpec.from_json(spec).open(tuple(TensorSpec.from_json(i) for i in inputs))
total = hashlib.sha256(b"".join(np.ascontiguousarray(v).tobytes() for one in samples for v in one.values())).hexdigest()
print(json.dumps([len(samples), total, samples.digest(), {k: v.tolist() for k, v in samples.labels.items()}]))
"""


@pytest.mark.parametrize("kind", ["npz", "memory", "images", "csv", "function"])
def test_a_child_process_sees_the_same_samples(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, write_module: Callable[[str], str]
):
    import hashlib

    inputs = IMU
    if kind == "npz":
        samples = open_samples(save(tmp_path / "d.npz", imu=windows(), y=np.arange(20)), IMU, preprocess=Preprocess(scale=2.0))
    elif kind == "memory":
        samples = open_samples({"imu": windows(), "y": ["b", "a"] * 10}, IMU)
        fails(SamplesError, samples.to_spec, "folder")
    elif kind == "images":
        inputs = IMAGE
        samples = open_samples(image_folder(tmp_path / "images", 10), IMAGE, preprocess=SMALL)
    elif kind == "csv":
        (tmp_path / "d.csv").write_text("\n".join(f"{n},{n * n}" for n in range(99)))
        monkeypatch.chdir(tmp_path)
        samples = open_samples("d.csv", IMU, window=4, stride=3)
    else:
        samples = open_samples(write_module("def data():\n    for n in range(20): yield np.full((4, 2), n), n"), IMU)
    samples = samples.draw(15, seed=1).take(9)
    spec = samples.to_spec(tmp_path / "work")
    assert spec == SamplesSpec.from_json(json.loads(json.dumps(spec.to_json())))
    text = json.dumps([spec.to_json(), [spec.to_json() for spec in inputs]])
    cwd = tmp_path if kind == "function" else Path("/")
    done = subprocess.run([sys.executable, "-c", CHILD], input=text, capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    total = hashlib.sha256(b"".join(v.tobytes() for one in samples for v in one.values())).hexdigest()
    labels = {name: values.tolist() for name, values in samples.labels.items()}
    assert json.loads(done.stdout) == [9, total, samples.digest(), labels]


def test_an_input_may_have_any_name_in_memory(tmp_path: Path):
    odd = (TensorSpec("file", (1, 2), "float32"), TensorSpec("in/x:0", (1, 2), "float32"))
    samples = open_samples({"file": np.ones((3, 2)), "in/x:0": np.eye(3, 2)}, odd)
    again = samples.to_spec(tmp_path).open(odd)
    assert again.digest() == samples.digest() and np.array_equal(joined(again, "in/x:0"), np.eye(3, 2))


def test_open_samples_pass_through():
    samples = open_samples({"imu": windows()}, IMU)
    assert open_samples(samples, IMU) is samples
    fails(SamplesError, lambda: open_samples(samples, ROW), "imu", "row")
    fails(UsageError, lambda: open_samples(samples, IMU, window=3), "open already")


# --- shapes, dtypes, values


def test_a_wrong_shape_names_the_input_and_both_shapes():
    fails(
        ShapeError,
        lambda: open_samples({"imu": np.zeros((5, 3, 2))}, IMU),
        "samples for input 'imu' have shape (3, 2), the model takes (4, 2)",
        "cut windows of 4 rows, these have 3",
    )
    fails(ShapeError, lambda: open_samples({"imu": np.zeros((50, 2))}, IMU), "(2,)", "(4, 2)", "--window 4")
    fails(ShapeError, lambda: open_samples({"imu": np.zeros((5, 4, 2, 1))}, IMU), "(4, 2, 1)", "size 1 only")
    fails(ShapeError, lambda: open_samples({"x": np.zeros((5, 3))}, (TensorSpec("x", (1, None, 2), "float32"),)), "(?, 2)")


def test_free_sizes_match_anything():
    free = (TensorSpec("x", (None, None, 2), "float32"),)
    assert joined(open_samples({"x": np.ones((3, 7, 2))}, free), "x").shape == (3, 7, 2)


@pytest.mark.parametrize("values", [np.zeros((3, 3), complex), np.array([["a"] * 3]), np.array([[None] * 3])])
def test_dtypes_that_are_no_numbers(values: np.ndarray):
    fails(ShapeError, lambda: open_samples({"row": values}, ROW), "'row'", str(values.dtype), "float32")


def test_float64_and_integers_become_float32(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "edgewright")
    assert joined(open_samples({"row": np.eye(3)}, ROW), "row").dtype == np.float32
    assert "int64" not in caplog.text
    samples = open_samples({"row": np.eye(3, dtype=np.int64)}, ROW)
    assert joined(samples, "row").dtype == np.float32 and not samples.warnings
    assert caplog.text.count("'row' are int64") == 1


def test_token_ids_keep_their_dtype_and_must_be_whole():
    big = np.array([[1, 2, 2**24 + 1]])
    ready = joined(open_samples({"ids": big}, IDS), "ids")
    assert ready.dtype == np.int32 and np.array_equal(ready, big)
    fails(ShapeError, lambda: open_samples({"ids": [[0.5, 1, 2]]}, IDS), "0.5", "int32")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_names_input_sample_and_count(bad: float):
    data = windows()
    data[13, 2] = bad
    samples = open_samples({"imu": data}, IMU)
    fails(SamplesError, samples.check, "sample 13", "'imu'", "2 NaN or infinite values of 8")
    data[0] = bad
    fails(SamplesError, lambda: open_samples({"imu": data}, IMU), "sample 0", "8 NaN")


def test_float64_beyond_float32_is_an_error():
    fails(SamplesError, lambda: open_samples({"row": [[1e39, 0, 0]]}, ROW), "'row'", "1e+39")


def test_constant_inputs_are_warned_of(caplog: pytest.LogCaptureFixture):
    samples = open_samples({"a": np.full((9, 2), 0.5), "b": np.tile([1.0, 2, 3], (9, 1))}, PAIR)
    warnings = samples.check()
    assert warnings == samples.warnings and len(warnings) == 2
    assert "all 9 samples of input 'a'" in warnings[0] and "(0.5)" in warnings[0]
    assert "'b'" in warnings[1] and "(1 to 3)" in warnings[1]
    samples.check()
    assert len(samples.warnings) == 2 and caplog.text.count("'a'") == 1
    assert not open_samples({"imu": windows()}, IMU).check()


def test_too_few_samples():
    samples = open_samples({"imu": windows(12)}, IMU)
    samples.require(1, "calibration")
    assert samples.warnings == ["calibration has 12 samples for input 'imu', 100 or more are recommended"]
    fails(SamplesError, lambda: samples.require(13, "training"), "training has 12 samples", "13")
    enough = open_samples({"imu": windows(100)}, IMU)
    enough.require(1, "calibration")
    assert not enough.warnings


def test_raw_pixels_without_preprocessing_are_warned_of():
    raw = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    (warning,) = open_samples({"image": raw}, IMAGE).warnings
    assert "'image'" in warning and f"uint8 from {raw[0].min()} to {raw[0].max()}" in warning
    assert not open_samples({"image": raw}, IMAGE, preprocess=SMALL).warnings
    assert not open_samples({"image": raw // 32}, IMAGE).warnings
    takes_pixels = (TensorSpec("image", (1, 8, 8, 3), "uint8", 1.0, 0),)
    assert not open_samples({"image": raw}, takes_pixels).warnings


# --- preprocessing


def test_preprocessing_applies_to_arrays_windows_and_images_alike(tmp_path: Path, write_csv: Callable[[str], Path]):
    scaled = Preprocess(scale=(2.0, 3.0), offset=1.0)
    data = windows()
    assert np.allclose(joined(open_samples({"imu": data}, IMU, preprocess=scaled), "imu"), data * [2, 3] + 1)
    recording = open_samples(write_csv("1,2\n" * 8), IMU, window=4, preprocess={"imu": scaled.to_json()})
    assert joined(recording, "imu").reshape(-1, 2).tolist() == [[3, 7]] * 8
    raw = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)
    expected = [cv2.resize(one, (8, 8))[..., ::-1] / 255 for one in raw]
    assert np.allclose(joined(open_samples({"image": raw}, IMAGE, preprocess=SMALL), "image"), expected)


def test_preprocessing_for_unknown_inputs():
    fails(UsageError, lambda: open_samples({"imu": windows()}, IMU, preprocess={"imo": Preprocess()}), "imo", "imu")
    fails(UsageError, lambda: open_samples({"a": [[1, 2]], "b": [[1, 2, 3]]}, PAIR, preprocess=Preprocess()), "a, b")
    fails(ShapeError, lambda: open_samples({"imu": windows()}, IMU, preprocess=SMALL), "sample 0", "'imu'", "uint8")


# --- folders of images


def test_classes_are_the_sorted_folders(tmp_path: Path):
    root = image_folder(tmp_path / "images")
    (root / "ant" / "notes.txt").write_text("no image")
    (root / ".cache").mkdir()
    samples = open_samples(root, IMAGE, preprocess=SMALL)
    assert samples.class_names == ("ant", "cat") and samples.labels["y"].tolist() == [0, 0, 0, 1, 1, 1]
    first = cv2.resize(cv2.imread(str(root / "ant" / "00000.png")), (8, 8))[..., ::-1] / 255
    assert np.allclose(next(iter(samples))["image"][0], first)


def test_labels_txt_orders_the_classes(tmp_path: Path):
    root = image_folder(tmp_path / "images", 1)
    (root / "labels.txt").write_text("dog\ncat\nant\n")
    samples = open_samples(root, IMAGE, preprocess=SMALL)
    assert samples.class_names == ("dog", "cat", "ant") and samples.labels["y"].tolist() == [2, 1]
    (root / "labels.txt").write_text("dog\ncat\n")
    fails(SamplesError, lambda: open_samples(root, IMAGE, preprocess=SMALL), "ant", "dog, cat")


def test_a_flat_folder_has_no_labels(tmp_path: Path):
    root = image_folder(tmp_path / "images") / "cat"
    samples = open_samples(root, IMAGE, preprocess=SMALL)
    assert len(samples) == 3 and not samples.labels and not samples.class_names
    (tmp_path / "empty").mkdir()
    fails(SamplesError, lambda: open_samples(tmp_path / "empty", IMAGE), "0 images", ".png")
    (tmp_path / "empty" / "class").mkdir()
    fails(SamplesError, lambda: open_samples(tmp_path / "empty", IMAGE), "0 images")
    fails(SamplesError, lambda: open_samples(root, PAIR), "a, b")
    fails(ShapeError, lambda: open_samples(root, IMAGE), "(12, 10, 3)", "(8, 8, 3)", "size=224x224")
    fails(UsageError, lambda: open_samples(root, IMAGE, window=3), "window of 3")


def test_a_broken_image_is_named_by_its_path(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    root = image_folder(tmp_path / "images")
    broken = root / "cat" / "00001.png"
    broken.write_bytes(broken.read_bytes()[:100])
    samples = open_samples(root, IMAGE, preprocess=SMALL)
    fails(SamplesError, samples.check, str(broken))
    assert samples.digest() is not None


def test_a_folder_of_images_is_streamed(tmp_path: Path):
    root = image_folder(tmp_path / "images", 1000)
    inputs = (TensorSpec("image", (1, 96, 96, 3), "float32"),)  # 110 kB a sample, 221 MB all together
    tracemalloc.start()
    samples = open_samples(root, inputs, preprocess=Preprocess(size=(96, 96), scale=1 / 255))
    seen = 0
    for batch in samples.batches(16):
        seen += len(batch["image"])
    assert seen == len(samples) == 2000
    assert tracemalloc.get_traced_memory()[1] < 12 << 20
    tracemalloc.stop()


# --- CSV


def test_csv_windows_equal_slices_of_the_recording(write_csv: Callable[[str], Path]):
    path = write_csv("\n".join(f"{n},{-n}" for n in range(11)) + "\n")
    recording = np.stack([np.arange(11), -np.arange(11)], 1)
    assert np.array_equal(joined(open_samples(path, IMU, window=4), "imu"), [recording[0:4], recording[4:8]])
    assert np.array_equal(joined(open_samples(path, IMU, window=4, stride=3), "imu"), [recording[s : s + 4] for s in (0, 3, 6)])


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("head", ["x,y,z,label", "\ufeffx,y,z,label", "1,2,3,label"])
def test_csv_header_delimiters_and_text_labels(write_csv: Callable[[str], Path], delimiter: str, head: str):
    text = head.replace("x,y,z", "ax,ay,az") + "\r\n1,2,3,walk\r\n4,5,6,sit\r\n\r\n"
    samples = open_samples(write_csv(text.replace(",", delimiter)), ROW)
    assert joined(samples, "row").tolist() == [[1, 2, 3], [4, 5, 6]]
    assert samples.class_names == ("sit", "walk") and samples.labels["y"].tolist() == [1, 0]


def test_csv_labels_by_labels_txt(write_csv: Callable[[str], Path], tmp_path: Path):
    (tmp_path / "labels.txt").write_text("walk\nsit\n")
    path = write_csv("a,b,c,y\n1,2,3,walk\n4,5,6,sit\n")
    assert open_samples(path, ROW).labels["y"].tolist() == [0, 1]
    fails(SamplesError, lambda: open_samples(write_csv("a,b,c,y\n1,2,3,fly\n"), ROW), "fly", "walk, sit")


def test_windows_stay_inside_a_slice_and_take_the_commonest_label(write_csv: Callable[[str], Path]):
    recordings = [0] * 6 + [1] * 3 + [2] * 9
    labels = [5, 5, 6, 5, 6, 6, 1, 1, 1, 7, 7, 7, 8, 8, 8, 8, 8, 8]
    rows = "".join(f"{n},{n},{y},{s}\n" for n, (y, s) in enumerate(zip(labels, recordings, strict=True)))
    samples = open_samples(write_csv("a,b,y,slice:rec\n" + rows), IMU, window=4, stride=2)
    assert joined(samples, "imu")[:, 0, 0].tolist() == [0, 2, 9, 11, 13]
    assert samples.slices["rec"].tolist() == [0, 0, 2, 2, 2]
    assert samples.labels["y"].tolist() == [5, 6, 7, 8, 8]


def test_no_window_fits(write_csv: Callable[[str], Path]):
    text = "a,b,slice:rec\n" + "1,2,a\n" * 3 + "1,2,b\n" * 2
    fails(SamplesError, lambda: open_samples(write_csv(text), IMU, window=4), "window of 4", "longest", "3")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ("empty", "0 rows")),
        ("\n\n", ("empty", "0 rows")),
        ("a,b,c\n", ("0 samples",)),
        ("a,b,c\n1,2,3\n4,5\n", ("rec.csv row 3", "2 columns", "expected are 3", "take it out")),
        ("a,b,c\n1,2,3\n4,x5,6\n", ("row 3", "column 'b'", "'x5'", "a finite number")),
        ("1,2,3\n4,5,\n", ("row 2", "column 2 (counted from 0)", "''")),
        ("1,2,3\n4,nan,6\n", ("row 2", "column 1", "'nan'")),
        ("1,2,3\n4,-inf,6\n", ("row 2", "column 1", "'-inf'", "float32")),
        ("1,2,3\n4,1e39,6\n", ("row 2", "column 1", "'1e39'", "float32")),
        ("1,2,3\n4,1_000,6\n", ("row 2", "column 1", "'1_000'")),
        ("\n  \na,b,c\n\n1,2,3\n4,,6\n", ("row 6", "column 'b'")),
        ("1,oops,3\n4,5,6\n", ("row 1", "column 1", "'oops'")),
        ("a,b,c,y,label\n1,2,3,4,5\n", ("more than one", "y, label", "for example ay")),
        ("y\n1\n", ("columns y", "channel")),
        ("a,b,c,y\n1,2,3,sit\n1,2,3,\n", ("row 3", "column 'y'", "empty")),
        ("1,2\x00,3\n", ("rec.csv",)),
    ],
)
def test_csv_errors_name_row_and_column(write_csv: Callable[[str], Path], text: str, parts: tuple[str, ...]):
    fails(SamplesError, lambda: open_samples(write_csv(text), ROW), *parts)


def test_csv_that_is_no_utf8_is_refused_with_its_row(tmp_path: Path):
    path = tmp_path / "d.csv"
    path.write_bytes(b"\xff\xfe\x80,1\n")
    fails(SamplesError, lambda: open_samples(path, ROW), "d.csv row 1", "UTF-8")
    path.write_bytes(b"ax,ay,az,label\n" + b"1,2,3,sit\r\n" * 5000 + "1,2,3,öffnen\n".encode("latin-1"))
    fails(SamplesError, lambda: open_samples(path, ROW), "d.csv row 5002: it is not UTF-8", "save the file as UTF-8")


def test_labels_with_underscores_are_texts(write_csv: Callable[[str], Path]):
    samples = open_samples(write_csv("a,b,c,slice:subject,y\n1,2,3,1_2,0\n4,5,6,12,1\n"), ROW)
    assert samples.slices["subject"].tolist() == ["1_2", "12"] and samples.labels["y"].tolist() == [0, 1]


def test_an_axis_called_y_is_explained(write_csv: Callable[[str], Path]):
    fails(ShapeError, lambda: open_samples(write_csv("x,y,z\n1,2,3\n"), ROW), "(2,)", "(3,)", "for example ay")


def test_a_class_name_that_is_there_twice(write_csv: Callable[[str], Path], tmp_path: Path):
    (tmp_path / "labels.txt").write_text("crane\nsit\ncrane\n")
    assert open_samples(write_csv("a,b,c,y\n1,2,3,sit\n"), ROW).labels["y"].tolist() == [1]
    fails(SamplesError, lambda: open_samples(write_csv("a,b,c,y\n1,2,3,crane\n"), ROW), "'crane' is named 2 times", "once")


def test_a_file_of_class_names(write_csv: Callable[[str], Path], tmp_path: Path):
    (tmp_path / "labels.txt").write_bytes("\ufeffwalk\r\n\r\n  gehen, schnell \r\n".encode())
    samples = open_samples(write_csv("a,b,c,y\n1,2,3,1\n"), ROW)
    assert samples.class_names == ("walk", "gehen, schnell")
    (tmp_path / "labels.txt").write_bytes("gehen\nöffnen\n".encode("latin-1"))
    fails(SamplesError, lambda: open_samples(tmp_path / "rec.csv", ROW), "labels.txt is not UTF-8 (byte 0xf6 at 6)", "save it")


def test_a_csv_with_a_column_too_many_lists_its_columns(write_csv: Callable[[str], Path]):
    path = write_csv("time,ax,ay,y\n" + "1,2,3,0\n" * 9)
    listed = "the columns are time, ax, ay: remove those that are no input, it has 2"
    fails(ShapeError, lambda: open_samples(path, IMU, window=4), "(4, 3)", "(4, 2)", listed)
    fails(ShapeError, lambda: open_samples(path, IMU), f"{listed}, and add --window 4")
    with pytest.raises(ShapeError) as caught:
        open_samples(write_csv("ax,ay\n1,2\n"), IMU)
    assert caught.value.hint == "pass windows of 4 samples, or add --window 4 to cut them from a recording"


def test_windows_of_another_length_are_not_cut_again():
    with pytest.raises(ShapeError) as caught:
        open_samples({"imu": np.zeros((5, 7, 2))}, IMU)
    assert caught.value.hint == "cut windows of 4 rows, these have 7"


@pytest.mark.parametrize("options", [{"window": 0}, {"window": 4, "stride": 0}, {"stride": 2}, {"window": -1}])
def test_impossible_windows(options: dict[str, int]):
    fails(UsageError, lambda: open_samples({"imu": np.zeros((9, 2))}, IMU, **options), "window is", "stride is")


def test_windows_are_cut_from_arrays_too(tmp_path: Path):
    data = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    np.save(tmp_path / "d.npy", data)
    for source in (tmp_path / "d.npy", {"imu": data}):
        assert np.array_equal(joined(open_samples(source, IMU, window=4), "imu"), data.reshape(5, 4, 2))


# --- functions


def test_a_generator_function_is_called_anew_for_each_pass(write_module: Callable[[str], str]):
    name = write_module("def data():\n    for n in range(6): yield {'imu': np.full((1, 4, 2), n)}")
    samples = open_samples(name, IMU)
    assert len(samples) == 6 and not samples.labels
    for _ in range(2):
        assert joined(samples, "imu")[:, 0, 0].tolist() == list(range(6))
    picked = joined(samples.draw(3, 0), "imu")[:, 0, 0].tolist()
    assert picked == sorted(set(picked)) and len(picked) == 3


@pytest.mark.parametrize(
    "body",
    [
        "def data(): return [np.full((4, 2), n) for n in range(6)]",
        "def data(): return np.arange(6)[:, None, None] * np.ones((6, 4, 2))",
        "def data(): return [({'imu': np.full((1, 4, 2), n)}, n % 2) for n in range(6)]",
        "def data(): return ((np.full((4, 2), n), {'y': n % 2}) for n in range(6))",
    ],
)
def test_what_a_function_may_give(write_module: Callable[[str], str], body: str):
    samples = open_samples(write_module(body), IMU)
    assert joined(samples, "imu")[:, 3, 1].tolist() == list(range(6)) and len(samples) == 6
    if samples.labels:
        assert samples.labels["y"].tolist() == [0, 1] * 3


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        ("def data():\n    yield np.zeros((4, 2))\n    raise KeyError('sensor')", ("KeyError", "sensor", ":data")),
        ("def data(): return None", ("NoneType", ":data")),
        ("data = 3", ("int", "function")),
        ("def other(): pass", ("AttributeError", "data")),
        ("import nonsense_package", ("ModuleNotFoundError", "nonsense_package")),
        ("def data(): return []", ("0 samples",)),
        ("def data(): yield {'x': np.zeros((4, 2))}", ("arrays x", "inputs imu")),
        ("def data(): yield np.zeros((3, 2))", ("(3, 2)", "(4, 2)")),
        ("def data():\n    yield np.zeros((4, 2)), 1\n    yield np.zeros((4, 2))", ("2 samples", "1 of them")),
        ("def data():\n    yield np.zeros((4, 2)), [1]\n    yield np.zeros((4, 2)), [1, 2]", ("labels", "shape")),
    ],
)
def test_errors_of_functions_have_their_name_and_cause(write_module: Callable[[str], str], body: str, parts: tuple[str, ...]):
    name = write_module(body)
    fails(SamplesError, lambda: open_samples(name, IMU), name.partition(":")[0], *parts)


def test_a_function_that_gives_fewer_the_second_time(write_module: Callable[[str], str]):
    body = "left = [4, 4, 2]\ndef data():\n    yield from (np.zeros((4, 2)) for _ in range(left.pop(0)))"
    samples = open_samples(write_module(body), IMU)
    fails(SamplesError, samples.check, "gave 2 samples", "4 before")


def test_function_digest_follows_the_source(write_module: Callable[[str], str], monkeypatch: pytest.MonkeyPatch):
    name = write_module("def data(): return np.zeros((5, 4, 2))")
    samples = open_samples(name, IMU)
    first = samples.digest()
    assert first is not None and len(first) == 64
    monkeypatch.setattr("inspect.getsource", lambda _: (_ for _ in ()).throw(OSError("no source")))
    assert samples.digest() is None


def test_a_function_is_streamed(write_module: Callable[[str], str]):
    name = write_module("def data():\n    for n in range(400): yield np.full((256, 256), n, np.float32)")  # 105 MB
    tracemalloc.start()
    samples = open_samples(name, (TensorSpec("x", (1, 256, 256), "float32"),))
    assert sum(batch["x"].shape[0] for batch in samples.batches(4)) == 400
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


# --- unknown sources


def test_what_is_no_source(tmp_path: Path):
    fails(SamplesError, lambda: open_samples(tmp_path / "no.npz", IMU), "does not exist", ".npz, .npy or .csv")
    (tmp_path / "a.txt").write_text("1")
    fails(SamplesError, lambda: open_samples(tmp_path / "a.txt", IMU), "no known kind", "package.module:function")
