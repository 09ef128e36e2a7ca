"""Preprocessing: declared, parsed, saved, applied like cv2, encoded like NumPy says."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgewright.artifact import TensorSpec
from edgewright.errors import SamplesError, ShapeError, UsageError
from edgewright.preprocess import Placement, Preprocess, decode, encode, read_image


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth BGR image whose channels differ."""
    noise = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def photos() -> list[np.ndarray]:
    """Real photos if scikit-image is installed, else generated pictures."""
    try:
        files = [f for f in metadata.files("scikit-image") or [] if f.match("skimage/data/*.png")]
        real = [read_image(Path(str(f.locate()))) for f in files if f.stem in {"astronaut", "chelsea", "coffee"}]
    except metadata.PackageNotFoundError:
        real = []
    return real or [picture(120, 200), picture(300, 90, 1)]


# --- declaration


def test_parse_of_the_documented_example():
    parsed = Preprocess.parse("size=224x192, color=rgb, scale=1/127.5, offset=-1")
    assert parsed == Preprocess(size=(224, 192), color="rgb", scale=1 / 127.5, offset=-1.0)


def test_mean_and_std_after_scale_equal_the_usual_formula():
    parsed = Preprocess.parse("color=rgb,scale=1/255,mean=0.485:0.456:0.406,std=0.229;0.224;0.225")
    raw = picture(8, 6)
    expected = (raw[..., ::-1] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(parsed.apply(raw), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("sice=2x2", "known: size, resize, pad, color"),
        ("size=224", "HEIGHTxWIDTH"),
        ("size=0x4", "1 to 32767"),
        ("color=hsv", "one of rgb, bgr, gray"),
        ("resize=fill", "one of stretch, letterbox, crop"),
        ("layout=nhwc", "one of hwc, chw"),
        ("scale=abc", "'abc'"),
        ("scale=1/0", "1/0"),
        ("scale=nan", "'nan'"),
        ("std=0", "std is 0"),
        ("pad=1.5", "whole number"),
        ("pad=256", "0 to 255"),
        ("scale=1:2,offset=1:2:3", "different numbers of channels"),
        ("mean=1:2,std=1:2:3", "different numbers of channels"),
        ("scale=1,scale=2", "twice"),
        ("scale", "key=value"),
        ("", "empty"),
    ],
)
def test_parse_errors_name_what_is_known(text: str, part: str):
    with pytest.raises(UsageError) as caught:
        Preprocess.parse(text)
    assert part in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["size=4x6,resize=letterbox,pad=114,color=gray,layout=chw", "scale=1:2:3,offset=0.5", "mean=3"])
def test_json_round_trip(text: str):
    declared = Preprocess.parse(text)
    assert Preprocess.from_json(json.loads(json.dumps(declared.to_json()))) == declared


def test_from_json_refuses_what_it_does_not_know():
    with pytest.raises(UsageError, match="gamma"):
        Preprocess.from_json({"scale": 1.0, "gamma": 2.2})
    with pytest.raises(UsageError, match="wrong kind"):
        Preprocess.from_json({"scale": {}})


# --- images


@pytest.mark.parametrize("number", range(2))
def test_stretch_equals_cv2_and_recolours_after_the_resize(number: int):
    raw = photos()[number]
    expected = cv2.cvtColor(cv2.resize(raw, (64, 48), interpolation=cv2.INTER_LINEAR), cv2.COLOR_BGR2RGB)
    ready = Preprocess.parse("size=48x64,color=rgb,scale=1/127.5,offset=-1").apply(raw)
    assert ready.dtype == np.float32
    np.testing.assert_allclose(ready, expected / np.float64(127.5) - 1, atol=1e-6)


def test_without_color_channels_stay_as_cv2_gives_them():
    raw = picture(10, 12)
    assert np.array_equal(Preprocess(size=(10, 12)).apply(raw), raw)


def test_gray_equals_cv2_and_keeps_an_axis():
    raw = picture(30, 40)
    expected = cv2.cvtColor(cv2.resize(raw, (20, 10)), cv2.COLOR_BGR2GRAY)
    assert np.array_equal(Preprocess(size=(10, 20), color="gray").apply(raw)[..., 0], expected)
    assert Preprocess(size=(10, 20), color="gray", layout="chw").apply(raw).shape == (1, 10, 20)


def test_a_gray_image_becomes_three_equal_channels():
    gray = picture(8, 8)[..., 0]
    ready = Preprocess(color="rgb").apply(gray)
    assert ready.shape == (8, 8, 3)
    assert all(np.array_equal(ready[..., c], gray) for c in range(3))


def test_chw_is_the_transposed_hwc_and_scale_is_per_channel():
    raw = picture(8, 10)
    hwc = Preprocess(color="rgb", scale=(1.0, 2.0, 3.0)).apply(raw)
    assert np.array_equal(Preprocess(color="rgb", scale=(1.0, 2.0, 3.0), layout="chw").apply(raw), hwc.transpose(2, 0, 1))
    assert np.array_equal(hwc[..., 2], raw[..., 0] * 3.0)


def test_letterbox_keeps_the_aspect_and_pads():
    raw = picture(50, 100)
    declared = Preprocess(size=(64, 64), resize="letterbox", pad=114)
    ready = declared.apply(raw)
    assert declared.placement(50, 100) == Placement(32, 64, 16, 0)
    assert np.array_equal(ready[16:48], cv2.resize(raw, (64, 32)))
    assert (ready[:16] == 114).all() and (ready[48:] == 114).all()


def test_crop_keeps_the_aspect_and_cuts_the_centre():
    raw = picture(50, 100)
    declared = Preprocess(size=(40, 40), resize="crop")
    assert declared.placement(50, 100) == Placement(40, 80, 0, -20)
    assert np.array_equal(declared.apply(raw), cv2.resize(raw, (80, 40))[:, 20:60])


@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from(["stretch", "letterbox", "crop"]), st.sampled_from([1, 3]))
def test_any_image_comes_out_in_the_declared_size(height: int, width: int, resize: str, channels: int):
    raw = np.zeros((height, width, channels), np.uint8)
    assert Preprocess(size=(17, 23), resize=resize).apply(raw).shape == (17, 23, channels)


@pytest.mark.parametrize("raw", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 2), np.uint8), np.zeros(4, np.uint8)])
def test_what_is_no_image_is_a_shape_error_with_both_values(raw: np.ndarray):
    with pytest.raises(ShapeError) as caught:
        Preprocess(size=(2, 2)).apply(raw)
    assert str(raw.shape) in caught.value.message and "uint8" in caught.value.message and str(raw.dtype) in caught.value.message


# --- sensors


def test_sensor_values_scale_along_the_last_axis():
    raw = np.arange(12, dtype=np.int16).reshape(4, 3)
    ready = Preprocess.parse("scale=1:2:4,offset=0:1:0").apply(raw)
    assert np.array_equal(ready, raw * [1, 2, 4] + [0, 1, 0]) and ready.dtype == np.float32


def test_wrong_number_of_channels_names_both():
    with pytest.raises(ShapeError, match=r"scale has 3 values, the sample of shape \(4, 2\) has 2 channels"):
        Preprocess(scale=(1.0, 2.0, 3.0)).apply(np.zeros((4, 2)))


def test_texts_are_no_raw_samples():
    with pytest.raises(ShapeError, match="<U1"):
        Preprocess(scale=2.0).apply(np.array(["a"]))


def test_sensors_and_recolouring_need_no_cv2():
    code = (
        "import sys; sys.modules['cv2'] = None\n"
        "import numpy as np\n"
        "from edgewright.preprocess import Preprocess\n"
        "Preprocess(scale=2.0).apply(np.ones(3)); Preprocess(color='rgb').apply(np.ones((2, 2, 3), np.uint8))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- encode and decode

INTEGERS = st.sampled_from(["int8", "uint8", "int16"])
SCALES = st.floats(1e-6, 1e3)
VALUES = hnp.arrays(np.float32, hnp.array_shapes(max_dims=2, max_side=8), elements=st.floats(-1e6, 1e6, width=32))


def quantized(dtype: str, scale: float, share: float) -> TensorSpec:
    limits = np.iinfo(dtype)
    return TensorSpec("x", (1,), dtype, scale, round(limits.min + share * (int(limits.max) - limits.min)))


@given(INTEGERS, SCALES, st.floats(0, 1), VALUES)
def test_encode_equals_a_numpy_oracle(dtype: str, scale: float, share: float, values: np.ndarray):
    spec, limits = quantized(dtype, scale, share), np.iinfo(dtype)
    oracle = [max(limits.min, min(limits.max, round(float(v) / scale) + spec.zero_point)) for v in values.flat]
    stored = encode(spec, values)
    assert stored.dtype == dtype and stored.shape == values.shape
    assert stored.ravel().tolist() == oracle


@given(INTEGERS, SCALES, st.floats(0, 1), st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_decode_of_encode_is_within_half_a_step(dtype: str, scale: float, share: float, places: list[float]):
    spec, limits = quantized(dtype, scale, share), np.iinfo(dtype)
    low, high = ((limit - spec.zero_point) * scale for limit in (limits.min, limits.max))
    values = low + np.asarray(places) * (high - low)
    error = np.abs(decode(spec, encode(spec, values)) - values)
    assert (error <= scale / 2 + 1e-6 * max(abs(low), abs(high))).all()


@given(INTEGERS, SCALES, st.floats(0, 1))
def test_values_outside_are_clipped(dtype: str, scale: float, share: float):
    spec, limits = quantized(dtype, scale, share), np.iinfo(dtype)
    assert encode(spec, np.array([-np.inf, -1e12, 1e12, np.inf])).tolist() == [limits.min] * 2 + [limits.max] * 2


def test_halves_round_to_even():
    spec = TensorSpec("x", (1,), "int8", 1.0, 0)
    assert encode(spec, np.array([0.5, 1.5, 2.5, -0.5, -1.5])).tolist() == [0, 2, 2, 0, -2]


def test_unquantized_tensors_are_cast():
    for dtype in ("float32", "float16", "float64"):
        assert encode(TensorSpec("x", (1,), dtype), np.array([0.5, -2.0])).dtype == dtype
    ids = TensorSpec("ids", (None, 4), "int32")
    assert encode(ids, np.array([1.0, 2.0], np.float32)).tolist() == [1, 2]
    assert encode(TensorSpec("b", (1,), "bool"), np.array([0, 1])).tolist() == [False, True]


def test_a_lossy_cast_is_refused_with_the_value():
    with pytest.raises(ShapeError, match=r"'ids' hold 1.5, the model takes int32"):
        encode(TensorSpec("ids", (1,), "int32"), np.array([1.0, 1.5]))
    with pytest.raises(ShapeError, match=r"300"):
        encode(TensorSpec("ids", (1,), "uint8"), np.array([300]))
    with pytest.raises(SamplesError, match=r"1e\+06, float16 ends at 65504"):
        encode(TensorSpec("x", (1,), "float16"), np.array([1e6]))


def test_nan_cannot_be_an_integer():
    for spec in (TensorSpec("x", (1,), "int8", 0.1, 0), TensorSpec("x", (1,), "int32")):
        with pytest.raises(SamplesError, match="NaN"):
            encode(spec, np.array([np.nan]))


@pytest.mark.parametrize("dtype", ["int4", "complex64", "str"])
def test_unknown_dtypes_are_refused(dtype: str):
    with pytest.raises(ShapeError, match=dtype):
        encode(TensorSpec("x", (1,), dtype), np.zeros(1))


@pytest.mark.parametrize(
    ("dtype", "real"), [("float16", "f4"), ("float32", "f4"), ("int8", "f4"), ("int64", "f8"), ("float64", "f8")]
)
def test_decode_of_unquantized_values_is_exact(dtype: str, real: str):
    stored = np.array([0, 1, 77], dtype)
    assert decode(TensorSpec("x", (1,), dtype), stored).dtype == real
    assert np.array_equal(decode(TensorSpec("x", (1,), dtype), stored), stored)


# --- image files


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
def test_broken_images_are_named(tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]):
    path = tmp_path / f"cat{suffix}"
    cv2.imwrite(str(path), picture(80, 60))
    assert np.array_equal(read_image(path), cv2.imread(str(path)))
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(SamplesError, match=f"cat{suffix}"):
        read_image(path)


def jpeg_with_thumbnail() -> bytes:
    """A JPEG with a whole JPEG in a comment segment before its first scan, as cameras embed previews."""
    inner = cv2.imencode(".jpg", picture(8, 8))[1].tobytes()
    data = cv2.imencode(".jpg", picture(80, 60))[1].tobytes()
    return data[:2] + b"\xff\xfe" + (len(inner) + 2).to_bytes(2, "big") + inner + data[2:]


@pytest.mark.parametrize("cut", [2, 300])
def test_a_truncated_jpeg_is_found_even_if_cv2_would_fill_it(tmp_path: Path, cut: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: np.zeros((80, 60, 3), np.uint8))  # what cv2 4 does
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg_with_thumbnail() + b"appended by a phone")
    read_image(path)
    path.write_bytes(jpeg_with_thumbnail()[:-cut])
    with pytest.raises(SamplesError, match="truncated"):
        read_image(path)


def test_empty_and_missing_images(tmp_path: Path):
    (tmp_path / "e.png").touch()
    for name in ("e.png", "none.png"):
        with pytest.raises(SamplesError, match=name):
            read_image(tmp_path / name)
