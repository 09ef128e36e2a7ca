"""The SavedModel reader against what TensorFlow computed when it saved the models."""

import shutil

import numpy as np
import pytest
from keras_helpers import Models

from edgewright.converters.readers import find_reader
from edgewright.errors import ModelError, UnsupportedError, UntrustedCodeError

F = "float32"


@pytest.fixture
def models(tensorflow_child, keras_files, tmp_path):
    return Models(tensorflow_child, keras_files, tmp_path)


def test_sniff(keras_files, tmp_path):
    assert find_reader(keras_files / "exported") == "saved_model"
    with pytest.raises(ModelError, match=r"is of no known model format.*a folder of one of these formats"):
        find_reader(tmp_path)


@pytest.mark.parametrize(
    ("name", "specs"),
    [
        ("exported", ([("image", (None, 12, 12, 3), F)], [("output_0", (None, 5), F)])),
        (
            "module",
            ([("narrow", (None, 3), F), ("wide", (None, 4), F)], [("difference", (None, 3), F), ("product", (None, 3), F)]),
        ),
    ],
)
def test_specs_and_reference(models, name, specs):
    assert models.specs(name) == specs
    feeds, outputs = models.expected(name)
    found = models.reference(name, feeds)
    for (label, value), wanted in zip(found.items(), outputs, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6, err_msg=label)


def test_info(models):
    found = models.info("exported")
    assert found["format"] == "saved_model"
    assert found["macs"] == 12 * 12 * 8 * 27 + 6 * 6 * 8 * 9 + 6 * 6 * 6 * 8 + 6 * 5
    assert found["parameters"] == 27 * 8 + 2 * 8 + (9 * 8 + 8) + (8 * 6 + 6) + (6 * 5 + 5)
    assert found["ops"]["Conv2D"] == 2
    assert found["raw_bytes"] == sum(f.stat().st_size for f in (models.folder / "exported").rglob("*") if f.is_file())
    module = models.info("module")
    assert (module["parameters"], module["macs"]) == (12, 12)


@pytest.mark.parametrize(("name", "op"), [("python", "PyFunc"), ("writes", "WriteFile")])
def test_ops_that_run_code_need_trust(models, name, op, monkeypatch):
    with pytest.raises(UntrustedCodeError, match=rf"has ops that run code or touch files: {op}$|{op} ") as caught:
        models.info(name)
    assert "--trust" in caught.value.hint
    assert not list(models.folder.glob("must_not_appear*"))


def test_trusted_code_may_be_inspected(models):
    assert models.info("writes", trust=True)["ops"]["WriteFile"] == 1


def test_several_signatures_are_named(models):
    with pytest.raises(UnsupportedError, match="several signatures: one, two; one is expected"):
        models.info("several")


def test_no_signature(models):
    with pytest.raises(ModelError, match="no_signature has no signature to call") as caught:
        models.info("no_signature")
    assert "model.export" in caught.value.hint


def test_missing_variables(models):
    folder = shutil.copytree(models.folder / "exported", models.out / "broken")
    shutil.rmtree(folder / "variables")
    with pytest.raises(ModelError, match=r"broken is truncated or corrupt"):
        models.info(folder)


def test_short_variables(models):
    folder = shutil.copytree(models.folder / "exported", models.out / "broken")
    data = next((folder / "variables").glob("*.data-*"))
    data.write_bytes(data.read_bytes()[:40])
    with pytest.raises(ModelError, match=r"broken is truncated or corrupt"):
        models.info(folder)
