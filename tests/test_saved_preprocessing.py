"""One declaration of preprocessing, wherever it is kept: in the sidecar, in the file itself, in open samples."""

import numpy as np
import pytest

from edgewright.conversion import convert
from edgewright.data import Data
from edgewright.errors import UsageError
from edgewright.preprocess import Preprocess
from edgewright.samples import open_samples
from edgewright.testing import plus_one_tflite
from edgewright.verification import convert_and_verify, verify

SCALED = Preprocess.parse("scale=1/127.5,offset=-1")


@pytest.fixture
def raw():
    """Raw samples, as a camera gives them."""
    return {"x": np.random.default_rng(0).integers(0, 256, (120, 4)).astype(np.uint8)}


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "one.tflite"
    plus_one_tflite(path)
    return path


def made(source, folder, raw, to="tflite", declared=SCALED):
    data = Data(raw, preprocess={"x": declared})
    return convert(source, folder / f"made_{to}", to=to, precision="int8", samples=data)


def sqnr(report):
    return report.value("sqnr")


@pytest.mark.parametrize("to", ["tflite", "openvino"])
@pytest.mark.parametrize("sidecar", [True, False])
@pytest.mark.parametrize("kind", ["arrays", "file"])
@pytest.mark.parametrize("side", ["candidate", "reference"])
def test_verify_applies_what_was_saved(tmp_path, source, raw, to, sidecar, kind, side):
    artifact = made(source, tmp_path, raw, to)
    if not sidecar:
        artifact.sidecar.unlink()
    np.savez(tmp_path / "raw.npz", **raw)
    samples = raw if kind == "arrays" else tmp_path / "raw.npz"
    pair = (artifact.path, source) if side == "candidate" else (source, artifact.path)
    assert sqnr(verify(*pair, samples=samples)) > 25


def test_open_samples_bring_theirs(tmp_path, source, raw):
    specs = made(source, tmp_path, raw).inputs
    opened = open_samples(raw, specs, preprocess=SCALED)
    artifact = convert(source, tmp_path / "opened", precision="int8", samples=opened)
    assert Preprocess.from_json(artifact.meta.preprocess["x"]) == SCALED


def test_two_declarations_that_differ(tmp_path, source, raw):
    one = made(source, tmp_path, raw)
    other = made(source, tmp_path, raw, "openvino", Preprocess.parse("scale=1/255"))
    with pytest.raises(UsageError, match=r"made_tflite.*made_openvino.*different preprocessing"):
        verify(one.path, other.path, samples=raw)
    assert sqnr(verify(one.path, other.path, samples=Data(raw, preprocess={"x": SCALED}))) > 0


def test_conversion_without_samples_is_compared_too(tmp_path, source):
    artifact, report = convert_and_verify(source, tmp_path / "half", samples=None, precision="float16")
    assert artifact.path.is_file() and report.settings["random_data"] and sqnr(report) > 60


@pytest.mark.parametrize(("out", "to"), [("a.xml", "tflite"), ("a.tflite", "openvino"), ("a.keras", "tflite")])
def test_a_name_of_another_format_is_refused(tmp_path, source, out, to):
    with pytest.raises(UsageError, match=rf"{out} is named as a"):
        convert(source, tmp_path / out, to=to)
    assert not list(tmp_path.glob("a.*"))
