"""verify() on small real files: figures computed by hand, limits, pairing of outputs, notes."""

import math
from pathlib import Path

import numpy as np
import pytest

from edgewright import testing
from edgewright.artifact import Artifact, ModelMeta, TensorSpec
from edgewright.data import Data
from edgewright.errors import EdgewrightError, SamplesError, ShapeError, UsageError, VerificationError
from edgewright.preprocess import Preprocess
from edgewright.report import Metric
from edgewright.verification import check, require, verify

X = np.array([[0.0, 1.0, 2.0, 3.0], [4.0, 0.0, 1.0, 2.0], [-1.0, 3.0, 1.0, 0.0]], np.float32)


def onnx_model(path: Path, nodes, outputs, constants=None, shape=("batch", 4), dtype="FLOAT") -> Path:
    """An ONNX file of one input "x"; nodes are (op, inputs, outputs), constants arrays by name."""
    import onnx
    from onnx import helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node(op, ins, outs) for op, ins, outs in nodes],
        "g",
        [helper.make_tensor_value_info("x", getattr(onnx.TensorProto, dtype), shape)],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, size) for name, size in outputs],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in (constants or {}).items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path


def adds(path: Path, value, output="y") -> Path:
    """y = x + value."""
    return onnx_model(path, [("Add", ["x", "c"], [output])], [(output, ("batch", 4))], {"c": value})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def one(folder):
    return testing.plus_one_onnx(folder / "one.onnx", batch=None)


@pytest.fixture(scope="module")
def tflite(folder):
    return testing.plus_one_tflite(folder / "one.tflite")


def test_equal_models_of_two_formats(tflite, one):
    report = verify(tflite, one, samples={"x": X}, exact=True)
    assert report.value("sqnr") == math.inf
    assert report.value("max_abs_error") == 0.0
    assert report.value("top1_agreement") == 1.0
    assert report.settings["passed"] is None and report.warnings == ()
    assert [m.samples for m in report.metrics] == [3] * 5
    sides = report.model
    assert (sides["candidate"]["format"], sides["reference"]["format"]) == ("tflite", "onnx")
    assert sides["candidate"]["computed_by"]["engine"] == "litert"
    require(report)


def test_a_perturbed_model_has_the_figure_of_a_hand_computation(folder, one):
    candidate = adds(folder / "off.onnx", [1.0, 1.0, 1.0, 1.5])
    report = verify(candidate, one, samples={"x": X})
    signal = ((X.astype(float) + 1) ** 2).sum()
    assert report.value("sqnr") == pytest.approx(10 * math.log10(signal / (3 * 0.25)), abs=1e-6)
    assert report.value("max_abs_error") == 0.5
    assert report.value("mean_abs_error") == 0.125


@pytest.mark.parametrize(
    ("least_db", "least_share", "broken"),
    [
        (5.0, None, []),
        (5.0, 0.6, []),
        (40.0, None, ["sqnr"]),
        (5.0, 0.7, ["top1_agreement"]),
        (40.0, 0.7, ["sqnr", "top1_agreement"]),
    ],
)
def test_limits(folder, one, least_db, least_share, broken):
    """The last constant changes the top class of the second sample only: 2 of 3 agree, at 11.2 dB."""
    candidate = adds(folder / "limits.onnx", [1.0, 1.0, 1.0, 3.5])
    report = verify(candidate, one, samples={"x": X}, min_sqnr_db=least_db, min_agreement=least_share)
    signal = ((X.astype(float) + 1) ** 2).sum()
    assert report.value("sqnr") == pytest.approx(10 * math.log10(signal / (3 * 2.5**2)), abs=1e-6)
    assert report.value("top1_agreement") == pytest.approx(2 / 3)
    assert report.settings["passed"] is (not broken)
    assert [text.split()[0] for text in report.settings["failures"]] == broken
    if broken:
        with pytest.raises(VerificationError, match="is required") as caught:
            require(report)
        assert caught.value.exit_code == 4
    else:
        require(report)


def test_check_counts_what_could_not_be_computed():
    def metrics(*values):
        return [Metric("sqnr", "dB", v, f"o{i}", 1, why_absent="" if v is not None else "NaN") for i, v in enumerate(values)]

    assert check(metrics(30.0, 50.0), 30.0, None) == (True, [])
    assert check(metrics(29.9, 50.0), 30.0, None)[0] is False
    assert check(metrics(50.0, None), 30.0, None)[0] is False
    assert check(metrics(math.inf), 300.0, None) == (True, [])
    assert check(metrics(-math.inf), -1e9, None)[0] is False
    assert check(metrics(10.0), None, None) == (None, [])


@pytest.mark.parametrize("name", ["min_sqnr_db", "min_agreement"])
def test_a_limit_of_nan_is_refused(tflite, one, name):
    with pytest.raises(UsageError, match="NaN"):
        verify(tflite, one, **{name: math.nan})


def test_other_output_names_are_paired_by_position(folder, one):
    report = verify(adds(folder / "named.onnx", [1.0] * 4, output="scores"), one, samples={"x": X})
    assert report.value("sqnr", "scores") == math.inf
    assert [w for w in report.warnings if "scores" in w and "y" in w and "by position" in w]


def test_equal_names_in_another_order_are_paired_by_name(folder):
    def two(path, order):
        sizes = {"a": ("batch", 4), "b": ("batch", 4)}
        nodes = [("Add", ["x", "c"], ["a"]), ("Mul", ["x", "c"], ["b"])]
        return onnx_model(path, nodes, [(name, sizes[name]) for name in order], {"c": [2.0]})

    report = verify(two(folder / "ba.onnx", "ba"), two(folder / "ab.onnx", "ab"), samples={"x": X})
    assert [(m.subject, m.value) for m in report.metrics if m.name == "sqnr"] == [("a", math.inf), ("b", math.inf)]
    assert report.warnings == ()


def test_another_number_of_outputs_is_an_error(folder, one):
    nodes = [("Add", ["x", "c"], ["y"]), ("Mul", ["x", "c"], ["z"])]
    two = onnx_model(folder / "two.onnx", nodes, [("y", ("batch", 4)), ("z", ("batch", 4))], {"c": [1.0]})
    with pytest.raises(ShapeError, match=r"two\.onnx has 2 outputs \(y, z\), one\.onnx has 1 \(y\)"):
        verify(two, one, samples={"x": X})


def test_random_inputs_say_so_and_give_no_agreement(tflite, one):
    report = verify(tflite, one)
    assert report.settings["samples"] == "16 random inputs"
    assert report.settings["random_data"] is True
    assert any("random inputs" in text for text in report.warnings)
    assert report.value("sqnr") == math.inf
    assert report.value("top1_agreement") is None
    assert {m.samples for m in report.metrics} == {16}
    assert verify(tflite, one, min_agreement=0.5).settings["passed"] is False


def test_only_the_first_hundred_samples_are_used(folder, one):
    """The candidate differs for inputs above 150 only, and these come later."""
    step = [("Sub", ["x", "border"], ["d"]), ("Relu", ["d"], ["r"]), ("Add", ["x", "c"], ["s"]), ("Add", ["s", "r"], ["y"])]
    candidate = onnx_model(folder / "late.onnx", step, [("y", ("batch", 4))], {"border": [150.0], "c": [1.0]})
    x = np.repeat(np.arange(300, dtype=np.float32)[:, None], 4, axis=1)
    report = verify(candidate, one, samples={"x": x})
    assert report.value("sqnr") == math.inf
    assert {m.samples for m in report.metrics} == {100}
    assert verify(candidate, one, samples={"x": x[100:]}).value("sqnr") < 100


def test_outputs_that_are_nan_have_no_figure_and_break_limits(folder, one):
    nodes = [("Add", ["x", "c"], ["s"]), ("Log", ["s"], ["y"])]
    candidate = onnx_model(folder / "nan.onnx", nodes, [("y", ("batch", 4))], {"c": [-1.0]})
    report = verify(candidate, one, samples={"x": X}, min_sqnr_db=0.0)
    assert report.value("sqnr") is None
    assert "not finite" in next(m.why_absent for m in report.metrics)
    assert report.settings["passed"] is False and "could not be computed" in report.settings["failures"][0]


def test_quantized_inputs_and_outputs_are_encoded_and_decoded(folder, one):
    """int8 in and out, scales 0.5 and 0.25: multiples of 0.5 survive, so an exact copy of x + 1 is expected, and 0.3 is not."""
    path = quantized_identity(folder / "int8.tflite")
    reference = onnx_model(folder / "same.onnx", [("Identity", ["x"], ["y"])], [("y", ("batch", 4))])
    assert verify(path, reference, samples={"x": X / 2}).value("sqnr") == math.inf
    off = np.full((3, 4), 0.3, np.float32)
    report = verify(path, reference, samples={"x": off})
    assert report.value("max_abs_error") == pytest.approx(0.2)  # 0.3 is stored as 0.5
    assert report.value("sqnr") == pytest.approx(20 * math.log10(0.3 / 0.2), abs=1e-4)


def quantized_identity(path: Path) -> Path:
    """A .tflite of one RESHAPE to the same shape: int8 (1, 4), scale 0.5, zero point 3."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as S

    def tensor(name, shape, kind, buffer, quantized):
        parameters = S.QuantizationParametersT(scale=np.array([0.5], np.float32), zeroPoint=np.array([3], np.int64))
        return S.TensorT(
            name=name, shape=np.asarray(shape, np.int32), type=kind, buffer=buffer, quantization=parameters if quantized else None
        )

    def named(name, index):
        return S.TensorMapT(name=name, tensorIndex=index)

    shape = S.BufferT(data=np.frombuffer(np.array([1, 4], np.int32).tobytes(), np.uint8))
    int8, int32 = S.TensorType.INT8, S.TensorType.INT32
    tensors = [tensor("x", [1, 4], int8, 0, True), tensor("s", [2], int32, 1, False), tensor("y", [1, 4], int8, 0, True)]
    op = S.OperatorT(opcodeIndex=0, inputs=np.array([0, 1], np.int32), outputs=np.array([2], np.int32))
    code = S.OperatorCodeT(deprecatedBuiltinCode=S.BuiltinOperator.RESHAPE, builtinCode=S.BuiltinOperator.RESHAPE, version=1)
    graph = S.SubGraphT(
        tensors=tensors, operators=[op], inputs=np.array([0], np.int32), outputs=np.array([2], np.int32), name="main"
    )
    signature = S.SignatureDefT(inputs=[named("x", 0)], outputs=[named("y", 2)], signatureKey="serving_default", subgraphIndex=0)
    model = S.ModelT(version=3, operatorCodes=[code], subgraphs=[graph], buffers=[S.BufferT(), shape], signatureDefs=[signature])
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def test_the_precision_that_an_engine_chose_is_told(folder):
    """A matmul in OpenVINO: computed in bf16 where the CPU can, with a warning; `exact` forces float32."""
    weights = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    model = onnx_model(
        folder / "dense.onnx", [("MatMul", ["x", "w"], ["y"])], [("y", ("batch", 64))], {"w": weights}, ("batch", 64)
    )
    x = np.random.default_rng(1).standard_normal((4, 64)).astype(np.float32)
    import openvino as ov

    ov.save_model(ov.convert_model(str(model)), str(folder / "dense.xml"), compress_to_fp16=False)
    report = verify(folder / "dense.xml", model, samples={"x": x})
    execution = report.model["candidate"]["computed_by"]["execution"]
    lower = bool({"bf16", "float16"} & set(execution["kinds"]))
    assert any("dense.xml was computed in" in text and "--exact" in text for text in report.warnings) is lower
    assert (report.value("sqnr") > 90) is not lower
    exact = verify(folder / "dense.xml", model, samples={"x": x}, exact=True)
    assert exact.model["candidate"]["computed_by"]["execution"]["precision"] == "float32"
    assert exact.value("sqnr") > 90 and exact.warnings == ()


def test_preprocessing_declared_in_the_sidecar_is_used(tmp_path, one):
    """Raw samples are doubled for both sides."""
    path = testing.plus_one_tflite(tmp_path / "one.tflite")
    np.savez(tmp_path / "raw.npz", x=X)
    spec = TensorSpec("x", (1, 4), "float32"), TensorSpec("y", (1, 4), "float32")
    meta = ModelMeta({"x": Preprocess(scale=2.0).to_json()})
    Artifact.of(path, "tflite", spec[:1], spec[1:], meta=meta).save()
    doubled = onnx_model(tmp_path / "off.onnx", [("Add", ["x", "c"], ["y"])], [("y", ("batch", 4))], {"c": [2.0]})
    declared = verify(path, doubled, samples=tmp_path / "raw.npz")
    expected = 10 * math.log10(((2 * X.astype(float) + 2) ** 2).sum() / 12)
    assert declared.value("sqnr") == pytest.approx(expected, abs=1e-5)
    named = verify(path, doubled, samples=Data(tmp_path / "raw.npz", preprocess={"": Preprocess(scale=2.0)}))
    assert named.value("sqnr") == declared.value("sqnr")


def test_a_fixed_batch_is_filled_up_and_cut(folder, one):
    """Five samples through a file of batch 4: every one is compared, no repeated one is."""
    x = np.arange(20, dtype=np.float32).reshape(5, 4)
    four = testing.plus_one_onnx(folder / "four.onnx", batch=4)
    off = adds(folder / "half.onnx", [1.5] * 4)
    report = verify(four, off, samples={"x": x})
    assert {m.samples for m in report.metrics} == {5}
    assert report.value("sqnr") == pytest.approx(10 * math.log10(((x.astype(float) + 1.5) ** 2).sum() / (20 * 0.25)), abs=1e-6)


def test_outputs_without_a_batch_axis_are_compared_whole(folder):
    """Some exporters leave the axis out of models of batch 1; a cut at the first value would hide all others."""

    def vector(name, factor):
        nodes = [("Squeeze", ["x"], ["s"]), ("Mul", ["s", "c"], ["y"])]
        return onnx_model(folder / name, nodes, [("y", (4,))], {"c": factor}, (1, 4))

    def scalar(name, factor):
        nodes = [("ReduceSum", ["x"], ["s"]), ("Squeeze", ["s"], ["q"]), ("Mul", ["q", "c"], ["y"])]
        return onnx_model(folder / name, nodes, [("y", ())], {"c": factor}, (1, 4))

    report = verify(vector("vector_off.onnx", [1, 1, 1, 1.5]), vector("vector.onnx", [1, 1, 1, 1]), samples={"x": X})
    assert report.value("max_abs_error") == 1.5
    assert report.value("mean_abs_error") == pytest.approx((1.5 + 1.0 + 0.0) / 12)
    report = verify(scalar("scalar_off.onnx", 1.5), scalar("scalar.onnx", 1.0), samples={"x": X})
    assert report.value("max_abs_error") == 3.5  # half of 4 + 0 + 1 + 2
    assert report.value("top1_agreement") is None


def test_samples_that_do_not_fit_are_named(tflite, one):
    with pytest.raises(ShapeError, match=r"'x' have shape \(5,\)"):
        verify(tflite, one, samples={"x": np.zeros((2, 5), np.float32)})
    with pytest.raises(SamplesError, match=r"none\.npz"):
        verify(tflite, one, samples="none.npz")


def test_a_failure_of_one_side_ends_the_other(tmp_path, tflite, one, monkeypatch):
    """The reference's samples take long to come; nobody waits for them when the candidate cannot be opened."""
    (tmp_path / "slow_samples.py").write_text(
        "import os, time, numpy\n"
        "def slow():\n"
        "    time.sleep(6)\n"
        f"    open({str(tmp_path / 'waited')!r}, 'w').close()\n"
        "    return {'x': numpy.zeros((2, 4), numpy.float32)}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(tflite.read_bytes()[:200])
    with pytest.raises(EdgewrightError, match=r"broken\.tflite"):
        verify(broken, one, samples="slow_samples:slow")
    assert not (tmp_path / "waited").exists()
