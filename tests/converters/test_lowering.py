"""Lowering to float32 TFLite: LiteRT must compute what Keras computed, and what cannot be lowered is named."""

import numpy as np
import pytest
from keras_helpers import Models, run_tflite

from edgewright.converters.readers.tflite import TfliteReader
from edgewright.errors import UnsupportedError

TRUSTED = {"trust": True, "custom": "custom_layers"}
PLAIN = ["cnn.keras", "cnn3.h5", "cnn2.h5", "two.keras", "dict_inputs.keras", "nested.keras", "shared.keras", "tokens.keras"]
MORE = ["echo.keras", "lstm.keras", "tf_ops.h5", "exported", "module", "subclassed.keras", "pair.keras", "scaled.keras"]


@pytest.fixture
def models(tensorflow_child, keras_files, tmp_path):
    return Models(tensorflow_child, keras_files, tmp_path)


@pytest.mark.parametrize("name", PLAIN + MORE)
def test_litert_computes_what_keras_does(models, name):
    trust = TRUSTED if name.startswith(("subclassed", "pair", "scaled")) else {}
    feeds, outputs = models.expected("cnn" if name == "cnn3.h5" else name.partition(".")[0])
    file, said = models.lower(name, **trust)
    assert said["warnings"] == []
    inputs, results = TfliteReader(file).specs()
    assert [(s.name, s.shape[1:], s.dtype) for s in inputs] == [
        (s["name"], tuple(s["shape"][1:]), s["dtype"]) for s in said["inputs"]
    ]
    assert [s.name for s in results] == [s["name"] for s in said["outputs"]]
    assert {s.shape[0] for s in inputs} == {1}
    found = run_tflite(file, feeds)
    for spec, wanted in zip(results, outputs, strict=True):
        np.testing.assert_allclose(found[spec.name], wanted, rtol=1e-4, atol=2e-6, err_msg=spec.name)


@pytest.mark.parametrize("batch", [4, None])
def test_batch(models, batch):
    file, said = models.lower("two.keras", batch=batch)
    inputs, outputs = TfliteReader(file).specs()
    assert {spec.shape[0] for spec in (*inputs, *outputs)} == {batch}
    assert said["warnings"] == []


def test_layers_are_told(models):
    _, said = models.lower("nested.keras")
    assert {"x", "inner_dense", "narrow", "ln", "head"} < set(said["layers"])
    assert len(said["layers"]) == len(set(said["layers"]))


@pytest.mark.parametrize(("name", "text"), [("lstm.keras", "LSTM"), ("gru_long.keras", "GRU")])
def test_float_recurrent_models_keep_their_loop(models, name, text):
    feeds, (wanted,) = models.expected(name.partition(".")[0])
    file, _ = models.lower(name)
    found = run_tflite(file, feeds)["cls"]
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)
    ops = TfliteReader(file).info().ops
    assert any("WHILE" in op or "LSTM" in op for op in ops), (text, ops)


def test_integer_precisions_unroll_recurrent_layers(models):
    feeds, (wanted,) = models.expected("lstm")
    file, _ = models.lower("lstm.keras", integer=True)
    ops = TfliteReader(file).info().ops
    assert not any("WHILE" in op or "LSTM" in op for op in ops)
    np.testing.assert_allclose(run_tflite(file, feeds)["cls"], wanted, rtol=1e-4, atol=1e-6)


def test_a_sequence_too_long_for_integers_is_refused_with_its_length(models):
    with pytest.raises(UnsupportedError, match=r"recurrent layer 'memory' has 200 steps.*unrolled.*up to 128 steps") as caught:
        models.lower("gru_long.keras", integer=True)
    assert "float16 or dynamic" in caught.value.hint
    assert "--unroll 200" in caught.value.hint
    with pytest.raises(UnsupportedError, match=r"'memory' has 6 steps.*up to 5 steps"):
        models.lower("lstm.keras", integer=True, unroll=5)


def test_a_free_sequence_is_refused_for_integers(models):
    with pytest.raises(UnsupportedError, match=r"recurrent layer 'memory' has an unknown or free length"):
        models.lower("lstm_free.keras", integer=True)


def test_a_loop_of_a_saved_model_is_refused_for_integers(models):
    with pytest.raises(UnsupportedError, match=r"has an unknown or free length"):
        models.lower("exported_gru", integer=True)


def test_a_loop_of_a_saved_model_is_lowered_at_batch_1(models):
    file, _ = models.lower("exported_gru")
    assert TfliteReader(file).specs()[0][0].shape == (1, 5, 3)
    run_tflite(file, {"imu": np.zeros((1, 5, 3), np.float32)})


def test_a_loop_fixes_a_free_batch_and_says_so(models):
    file, said = models.lower("gru_long.keras", batch=None)
    assert said["warnings"] == ["the batch size is fixed to 1: the model has a loop that needs it"]
    assert TfliteReader(file).specs()[0][0].shape == (1, 200, 3)


def test_free_sizes_name_the_input(models):
    with pytest.raises(UnsupportedError, match=r"input 'recording' has free sizes besides the batch") as caught:
        models.lower("free.keras")
    assert "fixed sizes" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("erfinv.keras", "TFLite cannot express Erfinv in layer 'erfinv'"),
        ("fft.keras", "FFT in layer '.*FFT'"),
        ("beta", "TFLite cannot express Betainc in layer 'my_block'"),
    ],
)
def test_ops_that_tflite_lacks_are_named(models, name, text):
    with pytest.raises(UnsupportedError, match=text) as caught:
        models.lower(name)
    assert "--select-tf" in caught.value.hint
    assert not (models.out / "lowered.tflite").exists()


def test_ops_of_tensorflow_may_be_allowed(models):
    file, _ = models.lower("fft.keras", select_tf=True)
    assert any(op.startswith("Flex") for op in TfliteReader(file).info().ops)


@pytest.mark.parametrize(
    ("name", "text"), [("erfinv.keras", "Erfinv in layer 'erfinv'"), ("beta", "Betainc in layer 'my_block'")]
)
def test_ops_that_flex_lacks_too_are_named_without_that_hint(models, name, text):
    with pytest.raises(UnsupportedError, match=f"neither TFLite nor its Flex delegate can express {text}") as caught:
        models.lower(name, select_tf=True)
    assert "--select-tf" not in caught.value.hint
