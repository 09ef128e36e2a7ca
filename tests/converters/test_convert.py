"""Conversion, judged by LiteRT, OpenVINO and Keras: every precision, target and dtype, names, batches, lineage, failures."""

import json
import os
import shutil

import numpy as np
import pytest
from convert_helpers import NARROW, borders, has_vnni, known, run, sqnr

from edgewright.artifact import Artifact, file_sha256
from edgewright.conversion import convert
from edgewright.converters.tflite_file import read_metadata, set_signature
from edgewright.data import Data
from edgewright.errors import (
    EdgewrightError,
    ModelError,
    SamplesError,
    ShapeError,
    UnsupportedError,
    UsageError,
    WorkerMemoryError,
    WorkerTimeoutError,
)
from edgewright.preprocess import Preprocess
from edgewright.runtime.engines.openvino import import_openvino
from edgewright.testing import plus_one_onnx, two_by_two_tflite
from edgewright.worker import Limits

# Least SQNR in dB on models whose weights keep the scale. int16x8 and dynamic are bound by their 8-bit weights.
FLOOR = {"float32": 100, "float16": 55, "dynamic": 35, "int8": 30, "int16x8": 38}
NEEDS = {"int8", "int16x8"}
ALL = [
    *(("tflite", p, "float32") for p in FLOOR),
    *(("tflite", "int8", io) for io in ("int8", "uint8")),
    ("tflite", "int16x8", "int16"),
    *(("openvino", p, "float32") for p in FLOOR if p != "int16x8"),
    *(("openvino", "int8", io) for io in ("int8", "uint8")),
]
SOME = [
    ("tflite", "float16", "float32"),
    ("tflite", "int8", "uint8"),
    ("tflite", "int16x8", "float32"),
    ("openvino", "int8", "int8"),
]
RERUN = [
    ("tflite", "int8", "uint8"),
    ("tflite", "float16", "float32"),
    ("openvino", "int8", "int8"),
    ("openvino", "dynamic", "float32"),
]


def make(folder, name, out, to="tflite", precision="float32", io="float32", **options):
    samples = known(folder, name)[0] if precision in NEEDS else None
    return convert(folder / f"{name}.tflite", out, to=to, precision=precision, io=io, samples=samples, **options)


@pytest.mark.parametrize(
    ("name", "to", "precision", "io"),
    [("two", *case) for case in ALL] + [(name, *case) for name in ("conv", "tokens", "lstm") for case in SOME],
)
def test_equals_keras(convert_files, tmp_path, name, to, precision, io):
    """Names, order, shapes and values are Keras' in every format; scales in artifact and file are one."""
    feeds, wanted = known(convert_files, name)
    artifact = make(convert_files, name, tmp_path / "made", to, precision, io)
    original = Artifact.load(convert_files / f"{name}.tflite")
    assert [(s.name, s.shape) for s in artifact.inputs] == [(s.name, s.shape) for s in original.inputs]
    assert [(s.name, s.shape) for s in artifact.outputs] == [(s.name, s.shape) for s in original.outputs]
    assert [s.name for s in artifact.inputs] == list(feeds) and [s.name for s in artifact.outputs] == list(wanted)
    for spec in (*artifact.inputs, *artifact.outputs):
        assert spec.dtype == ("int32" if spec.name == "tokens" else io)
        assert (spec.scale is None) == (spec.dtype in {"float32", "int32"})
    assert {(s.name, s.dtype, s.scale, s.zero_point) for s in (*artifact.inputs, *artifact.outputs)} == borders(artifact.path)
    found = run(artifact, feeds)
    for output, values in wanted.items():
        assert found[output].shape == values.shape
        assert sqnr(values, found[output]) >= FLOOR[precision]


def test_lineage_and_metadata(convert_files, tmp_path):
    """A file tells what it was made of, in its sidecar and in itself; a second step adds one record."""
    source = convert_files / "two.tflite"
    first = make(convert_files, "two", tmp_path / "a", precision="int8", io="int8")
    assert Artifact.load(first.path) == first
    assert [record.step for record in first.lineage] == ["read:keras", "write:tflite"]
    last = first.lineage[-1]
    assert last.parent_sha256 == file_sha256(source)
    assert last.options["precision"] == "int8" and last.options["samples"]["digest"]
    assert {"ai-edge-quantizer", "ai-edge-litert"} <= set(last.versions)
    found = read_metadata(first.path)
    assert found["parent"] == last.parent_sha256 and len(found["specs"]) == 16 and found["preprocess"] == {}

    declared = {name: Preprocess(scale=1 / 255) for name in ("zeta", "alpha")}
    second = convert(source, tmp_path / "b", samples=Data(known(convert_files, "two")[0], preprocess=declared))
    assert second.meta.preprocess == {name: value.to_json() for name, value in declared.items()}
    content = second.path.read_bytes()
    entry = json.dumps(read_metadata(second.path), separators=(",", ":"), sort_keys=True).encode()
    assert entry in content and len(entry) <= 512


@pytest.mark.parametrize(("to", "precision", "io"), RERUN)
def test_reruns_are_identical(convert_files, tmp_path, to, precision, io):
    made = [make(convert_files, "two", tmp_path / str(n) / "made", to, precision, io) for n in range(2)]
    assert made[0].path.read_bytes() == made[1].path.read_bytes()
    assert made[0].sha256 == made[1].sha256
    assert made[0].sidecar.read_bytes() == made[1].sidecar.read_bytes()
    assert sorted(p.name for p in made[0].path.parent.iterdir()) == sorted(p.name for p in made[1].path.parent.iterdir())


def test_from_keras(convert_files, tmp_path):
    """The whole way: lowered, quantized, written, with progress from 0 to 1; twice the same bytes."""
    feeds, wanted = known(convert_files, "two")
    shares = []
    artifact = convert(
        convert_files / "two.keras",
        tmp_path / "größe 1" / "two model",
        precision="int8",
        io="int8",
        samples=feeds,
        progress=lambda share, text: shares.append(share),
    )
    assert artifact.path == tmp_path / "größe 1" / "two model.tflite"
    assert shares == sorted(shares) and shares[0] >= 0 and shares[-1] == 1.0 and len(set(shares)) > 10
    found = run(artifact, feeds)
    assert all(sqnr(values, found[name]) > FLOOR["int8"] for name, values in wanted.items())
    assert artifact.lineage[0].parent_sha256 == file_sha256(convert_files / "two.keras")
    again = convert(convert_files / "two.keras", tmp_path / "again.tflite", precision="int8", io="int8", samples=feeds)
    assert again.path.read_bytes() == artifact.path.read_bytes()


def test_dynamic_batch(convert_files, tmp_path):
    """A free batch stays free in OpenVINO, and --batch fixes it there and in TFLite."""
    feeds, wanted = known(convert_files, "conv")
    free = convert(convert_files / "conv.keras", tmp_path / "free", to="openvino")
    assert free.inputs[0].shape == (None, 12, 12, 3) and free.outputs[0].shape == (None, 5)
    for batch in (1, 3):
        assert sqnr(wanted["scores"], run(free, feeds, batch)["scores"]) > FLOOR["float32"]
    four = convert(convert_files / "conv.keras", tmp_path / "four_float.tflite", batch=4).path
    for source, to in ((four, "tflite"), (convert_files / "conv_free.tflite", "openvino")):
        fixed = convert(source, tmp_path / "four", to=to, batch=4, precision="int8", io="int8", samples=feeds)
        assert fixed.inputs[0].shape == (4, 12, 12, 3) and fixed.outputs[0].shape == (4, 5)
        assert sqnr(wanted["scores"], run(fixed, feeds, 4)["scores"]) > FLOOR["int8"]
    odd = {"image": feeds["image"][:10]}
    last = convert(four, tmp_path / "rest", precision="int8", samples=odd)
    assert sqnr(wanted["scores"], run(last, feeds, 4)["scores"]) > FLOOR["int8"]
    with pytest.raises(UsageError, match=r"--batch 2 cannot be set: .*image: float32\[4, 12, 12, 3\]"):
        convert(four, tmp_path / "other", to="openvino", batch=2)


def test_int8_with_a_free_batch_is_computed_right_or_fixed(convert_files, tmp_path):
    """OpenVINO computes some int8 models wrongly while their batch is free: the file must not be one of them."""
    feeds, wanted = known(convert_files, "dilated")
    warnings = []
    artifact = convert(
        convert_files / "dilated_free.tflite", tmp_path / "d", to="openvino", precision="int8", samples=feeds, warnings=warnings
    )
    assert sqnr(wanted["scores"], run(artifact, feeds)["scores"]) > FLOOR["int8"]
    fixed = artifact.inputs[0].shape[0] == 1
    assert any("batch size is fixed to 1" in warning for warning in warnings) == fixed


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_activations_of_transposed_convolutions_survive_in_openvino(convert_files, tmp_path, precision):
    feeds, wanted = known(convert_files, "upward")
    artifact = make(convert_files, "upward", tmp_path / "u", "openvino", precision)
    assert sqnr(wanted["image"], run(artifact, feeds)["image"]) > FLOOR[precision]


def test_int16_scales_near_powers_of_two(convert_files, tmp_path):
    """The kernels take 2/32767 for a power of two, and refuse the file unless it says that its scales are general."""
    feeds, wanted = known(convert_files, "scaled")
    artifact = convert(convert_files / "scaled.tflite", tmp_path / "s", precision="int16x8", samples=feeds)
    assert sqnr(wanted["scores"], run(artifact, feeds)["scores"]) > FLOOR["int16x8"]


def test_float16_in_loops(convert_files, tmp_path):
    """A recurrent layer keeps its loop in float16, whose graphs share constants."""
    feeds, wanted = known(convert_files, "lstm")
    artifact = convert(convert_files / "lstm.keras", tmp_path / "loop", precision="float16")
    assert sqnr(wanted["cls"], run(artifact, feeds)["cls"]) > FLOOR["float16"]


@pytest.mark.parametrize("name", [pytest.param("lstm", marks=pytest.mark.slow), "gru"])
def test_no_kernel_of_a_recurrent_layer_stays_float_in_int8(convert_files, tmp_path, name):
    """The first step's state is 0, and OpenVINO's quantizer leaves what multiplies constants as it is."""
    feeds, wanted = known(convert_files, name)
    artifact = convert(convert_files / f"{name}.keras", tmp_path / "int8", to="openvino", precision="int8", samples=feeds)
    assert sqnr(wanted["cls"], run(artifact, feeds)["cls"]) > FLOOR["int8"]
    model = import_openvino().Core().read_model(str(artifact.path))
    constants = [op.get_data() for op in model.get_ordered_ops() if op.get_type_name() == "Constant"]
    kernels = [values for values in constants if values.ndim == 2 and min(values.shape) > 1]
    assert [values.dtype.name for values in kernels] == ["int8"] * 3


@pytest.mark.parametrize(
    ("to", "precision", "ops"),
    [
        ("tflite", "int8", {"ABS": "soft", "SQUARE": "unit"}),
        ("tflite", "int16x8", {"ABS": "soft"}),
        ("openvino", "int8", {"Abs": "soft"}),
    ],
)
def test_float_ops_are_named(convert_files, tmp_path, to, precision, ops):
    """An op that the quantizer leaves float is named with the Keras layer that it stands in, those that are integer are not."""
    notes = []
    artifact = make(convert_files, "wavy", tmp_path / "made", to, precision, warnings=notes)
    for op, layer in ops.items():
        assert any(note.startswith(f"{op} in layer '{layer}' stays float32 in the {precision} file") for note in notes)
        assert any(found[0] == op and found[2] == layer for found in artifact.meta.extra["float_ops"])
    assert not any("'before'" in note or "'after'" in note for note in notes)
    notes.clear()
    make(convert_files, "conv", tmp_path / "made", to, precision, warnings=notes)
    assert not any("stays float32" in note for note in notes)


@pytest.mark.parametrize("to", ["tflite", "openvino"])
@pytest.mark.parametrize("io", ["float32", "int8", "uint8"])
def test_odd_outputs(convert_files, tmp_path, to, io):
    """An input that is an output, one tensor twice, a constant, whole numbers, truth values and an unused input."""
    feeds, wanted = known(convert_files, "odd")
    artifact = make(convert_files, "odd", tmp_path / "made", to, "float32" if io == "float32" else "int8", io)
    assert [spec.name for spec in artifact.outputs] == list(wanted)
    kinds = {spec.name: spec.dtype for spec in (*artifact.inputs, *artifact.outputs)}
    assert kinds == {**dict.fromkeys(kinds, io), "d_steps": "int32", "e_positive": "bool"}
    found = run(artifact, feeds)
    floor = 100 if io == "float32" else 35 if to == "tflite" or has_vnni() else 25
    for name in ("a_same", "b_twin", "c_twin", "f_constant"):
        assert sqnr(wanted[name], found[name]) > floor, name
    np.testing.assert_allclose(found["d_steps"], wanted["d_steps"], atol=0 if io == "float32" else 1)
    assert (found["e_positive"] == wanted["e_positive"]).mean() > 0.97
    np.testing.assert_array_equal(found["b_twin"], found["c_twin"])


def test_rank_one_without_parameters(convert_files, tmp_path):
    feeds, wanted = known(convert_files, "row")
    for to, precision in (("tflite", "float16"), ("tflite", "int8"), ("openvino", "int8")):
        artifact = make(convert_files, "row", tmp_path / f"{to}{precision}", to, precision)
        assert [spec.shape for spec in (*artifact.inputs, *artifact.outputs)] == [(1,), (1,)]
        (output,) = wanted
        assert sqnr(wanted[output], run(artifact, feeds)[output]) > 35


def test_samples_count(convert_files, tmp_path):
    """Every sample counts: an outlier in the last one widens the range; equal samples and few of them are warned of."""
    feeds, _ = known(convert_files, "conv")
    feeds["image"][-1] *= 10
    high = np.abs(feeds["image"]).max()
    for to in ("tflite", "openvino"):
        notes = []
        artifact = convert(
            convert_files / "conv.tflite", tmp_path / "made", to=to, precision="int8", io="int8", samples=feeds, warnings=notes
        )
        spec = artifact.inputs[0]
        assert spec.scale * (127 - spec.zero_point) >= high * 0.98 or spec.scale * (128 + spec.zero_point) >= high * 0.98
        plain = [note for note in notes if not note.startswith(NARROW)]
        assert plain == ["calibration has 24 samples for input 'image', 100 or more are recommended"]
        notes.clear()
        same = {"image": np.repeat(feeds["image"][:1], 3, axis=0)}
        convert(convert_files / "conv.tflite", tmp_path / "made", to=to, precision="int8", samples=same, warnings=notes)
        assert any("all 3 samples of input 'image'" in note and "are equal" in note for note in notes)
        one = {"image": feeds["image"][:1]}
        convert(convert_files / "conv.tflite", tmp_path / "made", to=to, precision="int8", samples=one)


@pytest.mark.parametrize("to", ["tflite", "openvino"])
def test_bad_samples(convert_files, tmp_path, to):
    """Missing, misshapen, misnamed and NaN samples name the input; the output that was there stays, nothing else is left."""
    feeds, _ = known(convert_files, "two")
    old = make(convert_files, "two", tmp_path / "out" / "made", to)
    before = {path.name: path.read_bytes() for path in old.path.parent.iterdir()}

    def attempt(samples):
        convert(convert_files / "two.tflite", old.path, to=to, precision="int8", samples=samples)

    nan = {name: values.copy() for name, values in feeds.items()}
    nan["alpha"][7, 0, 0, 0] = np.nan
    for samples, error, words in (
        (None, SamplesError, ("int8", "needs samples")),
        ({"zeta": feeds["zeta"]}, SamplesError, ("alpha",)),
        ({**feeds, "zeta": feeds["zeta"][:, :5]}, ShapeError, ("'zeta'", "(5,)", "(8,)")),
        ({**feeds, "zeta": feeds["zeta"][:9]}, SamplesError, ("zeta", "9", "24")),
        (nan, SamplesError, ("sample 7", "'alpha'", "NaN")),
        (tmp_path / "none.npz", SamplesError, ("none.npz",)),
    ):
        with pytest.raises(error) as caught:
            attempt(samples)
        for word in words:
            assert word in str(caught.value)
        assert {path.name: path.read_bytes() for path in old.path.parent.iterdir()} == before


def test_limits(convert_files, tmp_path):
    """Time and memory limits are named errors, for the child that lowers and for the one that writes."""
    for name in ("conv.keras", "conv.tflite"):
        with pytest.raises(WorkerTimeoutError, match=r"took longer than the limit of 0.2 s"):
            convert(convert_files / name, tmp_path / "out" / "made", limits=Limits(timeout_s=0.2))
        with pytest.raises(WorkerMemoryError, match="needed more than 30 MiB"):
            convert(convert_files / name, tmp_path / "out" / "made", limits=Limits(memory_bytes=30 << 20))
    assert not list(tmp_path.rglob("*made*"))


def test_select_tf(convert_files, tmp_path):
    """An op that TFLite lacks is refused by name and layer, unless TensorFlow's own ops are allowed."""
    with pytest.raises(UnsupportedError, match=r"Sinh in layer .*--select-tf"):
        convert(convert_files / "sinh.keras", tmp_path / "made")
    assert not list(tmp_path.iterdir())
    artifact = convert(convert_files / "sinh.keras", tmp_path / "made", select_tf=True)
    assert b"FlexSinh" in artifact.path.read_bytes()


def test_onnx(tmp_path):
    source = plus_one_onnx(tmp_path / "free.onnx", batch=None)
    x = np.linspace(-3, 3, 96, dtype=np.float32).reshape(24, 4)
    for precision, least in (("float32", 200), ("float16", 50), ("int8", 35)):
        artifact = convert(source, tmp_path / precision, to="openvino", precision=precision, samples={"x": x})
        assert artifact.inputs[0].shape == (None, 4)
        assert sqnr(x + 1, run(artifact, {"x": x}, batch=3)["y"]) > least
    assert convert(source, tmp_path / "b", to="openvino", batch=2).inputs[0].shape == (2, 4)
    with pytest.raises(UnsupportedError, match=r"onnx, which cannot be converted to tflite: .*layout"):
        convert(source, tmp_path / "made")


def test_refusals(convert_files, tmp_path):
    """What has no route, what contradicts itself and what would be ignored is refused with the reason; nothing is written."""
    source = tmp_path / "in" / "two.tflite"
    source.parent.mkdir()
    shutil.copy(convert_files / "two.tflite", source)
    quantized = make(convert_files, "two", tmp_path / "int8", precision="int8").path
    dynamic = make(convert_files, "two", tmp_path / "dynamic", precision="dynamic").path
    ir = make(convert_files, "two", tmp_path / "ir", "openvino").path
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    feeds, _ = known(convert_files, "two")
    for model, options, error, words in (
        (quantized, {"precision": "float16"}, UnsupportedError, "quantized already"),
        (dynamic, {"to": "openvino"}, UnsupportedError, "quantized already"),
        (ir, {}, UnsupportedError, "finished export"),
        (ir, {"to": "openvino"}, UnsupportedError, "finished export"),
        (source, {"to": "openvino", "precision": "int16x8", "samples": feeds}, UnsupportedError, "no int16x8"),
        (source, {"to": "firmwares"}, EdgewrightError, "no writer 'firmwares'"),
        (source, {"precision": "int4"}, UsageError, "unknown precision 'int4'"),
        (source, {"io": "int8"}, UsageError, "--io int8 does not go with --precision float32"),
        (source, {"precision": "int16x8", "io": "int8", "samples": feeds}, UsageError, "--io int8"),
        (source, {"min_runtime": "tflite-1.0"}, UsageError, "unknown runtime"),
        (source, {"min_runtime": "tflite-2.14", "to": "openvino"}, UsageError, "--min-runtime tflite-2.14 does not go with"),
        (source, {"select_tf": True}, UsageError, "--select-tf"),
        (source, {"unroll": 8}, UsageError, "--unroll"),
        (source, {"batch": 0}, UsageError, "--batch 0"),
        (source, {"batch": 4}, UsageError, "--batch 4 cannot be set"),
        (tmp_path / "absent.keras", {}, ModelError, "no model at"),
    ):
        with pytest.raises(error, match=words):
            convert(model, tmp_path / "made", **options)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_never_destroys_its_input(convert_files, tmp_path, monkeypatch):
    """The output may not be the model, however it is spelled; other places are made as needed."""
    model = tmp_path / "a b" / "moдель.tflite"
    model.parent.mkdir()
    shutil.copy(convert_files / "two.tflite", model)
    before = model.read_bytes()
    monkeypatch.chdir(model.parent)
    (tmp_path / "link.tflite").symlink_to(model)
    os.link(model, tmp_path / "hard.tflite")
    for out in (model, "moдель.tflite", "../a b/moдель", tmp_path / "link.tflite", tmp_path / "hard.tflite"):
        with pytest.raises(UsageError, match="is the model that is converted"):
            convert("moдель.tflite", out, precision="float16")
        assert model.read_bytes() == before
    assert convert("moдель.tflite", precision="float16").path.resolve() == model.with_name("moдель_float16.tflite")
    assert convert("moдель.tflite", "new/folder/", precision="float16").path.name == "moдель_float16.tflite"
    assert convert(model, tmp_path, to="openvino").path == tmp_path / "moдель_float32.xml"
    assert convert(model, "v1.2").path.name == "v1.2.tflite"
    (tmp_path / "file").write_text("")
    with pytest.raises(EdgewrightError, match="cannot write to"):
        convert(model, tmp_path / "file" / "made")


def _foreign(build_tflite, path, **changes):
    """A .tflite file of someone else: no signature, names with slashes, colons and letters beyond ASCII."""
    weights = np.random.default_rng(0).normal(0, 0.5, (4, 4)).astype(np.float32)
    weights = changes.get("weights", weights)
    tensors = [
        ("model/in:0", (1, 4), "FLOAT32", None),
        ("w/größe:1", (4, 4), "FLOAT32", weights.tobytes()),
        ("StatefulPartitionedCall:0", (1, 4), "FLOAT32", None),
        ("axis", (), "INT32", np.array(1, np.int32).tobytes()),
        ("am/größter", (1,), "INT64", None),
    ]
    path.write_bytes(
        build_tflite(tensors, [("FULLY_CONNECTED", [0, 1, -1], [2]), ("ARG_MAX", [2, 3], [4])], [0], [2, 4], options=_options())
    )
    return path, weights


def _options():
    from ai_edge_litert import schema_py_generated as schema

    best = schema.ArgMaxOptionsT()
    best.outputType = schema.TensorType.INT64
    return {0: schema.FullyConnectedOptionsT(), 1: best}


@pytest.mark.parametrize(
    ("to", "precision", "io"), [("tflite", "int8", "uint8"), ("tflite", "int16x8", "int16"), ("openvino", "int8", "int8")]
)
def test_foreign_file(build_tflite, tmp_path, to, precision, io):
    """A file without signature keeps its tensors' names, whatever they are; the index of the largest value stays one."""
    path, weights = _foreign(build_tflite, tmp_path / "foreign.tflite")
    x = np.random.default_rng(1).normal(size=(40, 4)).astype(np.float32)
    notes = []
    artifact = convert(path, tmp_path / "made", to=to, precision=precision, io=io, samples={"model/in:0": x}, warnings=notes)
    assert [spec.name for spec in artifact.inputs] == ["model/in:0"]
    assert [(spec.name, spec.dtype) for spec in artifact.outputs] == [("StatefulPartitionedCall:0", io), ("am/größter", "int64")]
    found = run(artifact, {"model/in:0": x})
    wanted = x @ weights.T
    assert sqnr(wanted, found["StatefulPartitionedCall:0"]) > 33
    assert (found["am/größter"] == wanted.argmax(1)).mean() > 0.9
    assert artifact.lineage[0].step == f"write:{to}" and len(artifact.lineage) == 1


@pytest.mark.parametrize("to", ["tflite", "openvino"])
@pytest.mark.parametrize("kind", ["beyond float16", "tiny", "zero"])
def test_extreme_weights(build_tflite, tmp_path, to, kind):
    """Weights that float16 cannot hold, ranges near nothing and constant zeros convert to finite values in every precision."""
    scale = {"beyond float16": 1e6, "tiny": 1e-7, "zero": 0.0}[kind]
    base = np.random.default_rng(0).normal(0, 0.5, (4, 4)).astype(np.float32)
    path, weights = _foreign(build_tflite, tmp_path / "foreign.tflite", weights=(base * scale).astype(np.float32))
    x = np.random.default_rng(1).normal(size=(8, 4)).astype(np.float32)
    for precision in FLOOR if to == "tflite" else ("float16", "dynamic", "int8"):
        artifact = convert(path, tmp_path / precision, to=to, precision=precision, samples={"model/in:0": x})
        found = run(artifact, {"model/in:0": x})["StatefulPartitionedCall:0"]
        assert np.isfinite(found).all()
        if kind == "zero":
            assert np.abs(found).max() < 1e-6
        elif kind == "beyond float16" and to == "tflite":
            assert sqnr(x @ weights.T, found) > 30


def test_larger_than_the_quantizers_small(build_tflite, tmp_path):
    """Beyond 256 KiB the quantizer puts weights behind the FlatBuffer: they still arrive."""
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 0.04, (700, 700)).astype(np.float32)
    tensors = [
        ("x", (1, 700), "FLOAT32", None),
        ("w", (700, 700), "FLOAT32", weights.tobytes()),
        ("y", (1, 700), "FLOAT32", None),
    ]
    path = tmp_path / "wide.tflite"
    path.write_bytes(build_tflite(tensors, [("FULLY_CONNECTED", [0, 1, -1], [2])], [0], [2], options={0: _options()[0]}))
    x = rng.normal(size=(10, 700)).astype(np.float32)
    for precision, io in (("dynamic", "float32"), ("int8", "uint8"), ("int16x8", "float32")):
        artifact = convert(path, tmp_path / precision, precision=precision, io=io, samples={"x": x})
        assert sqnr(x @ weights.T, run(artifact, {"x": x})["y"]) > 30
        assert artifact.path.stat().st_size < 520_000


def test_from_float16_file(convert_files, tmp_path):
    """Weights that are float16 already count as weights: int8 and dynamic shrink them."""
    feeds, wanted = known(convert_files, "conv")
    half = make(convert_files, "conv", tmp_path / "half", precision="float16").path
    for precision in ("dynamic", "int8", "int16x8"):
        artifact = convert(half, tmp_path / "made", precision=precision, samples=feeds)
        assert sqnr(wanted["scores"], run(artifact, feeds)["scores"]) >= FLOOR[precision]
        direct = make(convert_files, "conv", tmp_path / "direct", precision=precision)
        assert artifact.path.stat().st_size < direct.path.stat().st_size * 1.2


def test_one_name_twice(tmp_path):
    """An input and an output of one name stay that in TFLite; OpenVINO cannot have it and says what the output is called."""
    path = two_by_two_tflite(tmp_path / "model.tflite")
    path.write_bytes(set_signature(path, ["signal", "alpha"], ["signal", "product"]))
    rng = np.random.default_rng(0)
    feeds = {name: rng.normal(size=(20, n)).astype(np.float32) for name, n in (("signal", 4), ("alpha", 3))}
    wanted = run(convert(path, tmp_path / "float"), feeds)
    for to, name in (("tflite", "signal"), ("openvino", "signal_1")):
        notes = []
        artifact = convert(path, tmp_path / "made", to=to, precision="int8", io="int8", samples=feeds, warnings=notes)
        assert [spec.name for spec in artifact.outputs] == [name, "product"]
        assert any("'signal' is called 'signal_1'" in note for note in notes) == (to == "openvino")
        assert sqnr(wanted["signal"], run(artifact, feeds)[name]) > 30
