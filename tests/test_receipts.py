"""Receipts: what is read back from a file beside the model before, and every promise kept and broken."""

import math
from dataclasses import replace

import numpy as np
import pytest

from edgewright.artifact import Artifact, ModelMeta, TensorSpec
from edgewright.conversion import convert, inspect
from edgewright.converters.model_info import ModelInfo, WeightInfo, describe_weight
from edgewright.receipts import Claimed, is_kernel, match_tensors, receipt, size_metrics
from edgewright.step import Claim
from edgewright.testing_models import two_by_two_tflite


def weight(name, shape, axis=None, *, bits=32, zeros=0.0, unique=None, per_channel=None):
    """A tensor of a model, with chance values unless told otherwise."""
    size = math.prod(shape)
    unique = min(size, 2**bits) if unique is None else unique
    per_channel = min(size // (shape[axis] if axis is not None else 1), unique) if per_channel is None else per_channel
    dtype = {32: "float32", 16: "float16", 8: "int8", 4: "int4"}[bits]
    return WeightInfo(name, shape, dtype, bits, zeros, unique, per_channel, axis)


def info(*weights, **more):
    figures = {"parameters": 10, "macs": 20, "macs_note": "", "raw_bytes": 1000, "deflated_bytes": 500, **more}
    return ModelInfo("tflite", (), (), {}, weights, **figures)


def artifact(tmp_path, *, inputs=(), outputs=(), **extra):
    return Artifact(tmp_path / "m.tflite", "tflite", tuple(inputs), tuple(outputs), "0" * 64, meta=ModelMeta(extra=extra))


def pairs(before, after):
    return [(row.name, row.name_now) for row in match_tensors(info(*before), info(*after))]


# --- which tensor is which ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "axis", "kernel"),
    [
        ((3, 3, 8, 16), 3, True),
        ((3, 3, 8, 1), 2, True),
        ((1, 3, 3, 8), 3, True),
        ((64, 10), 1, True),
        ((64, 1), 1, True),
        ((1, 64), 0, True),
        ((1, 1, 8, 16), 3, True),
        ((16,), None, False),
        ((16,), 0, False),
        ((1, 16), 1, False),
        ((1, 1, 1, 16), 3, False),
        ((100, 16), None, False),
    ],
)
def test_kernels_have_channels_of_several_values(shape, axis, kernel):
    assert is_kernel(weight("w", shape, axis)) == kernel


def test_renamed_and_transposed_tensors_are_found():
    before = [weight("conv/kernel", (3, 3, 8, 16), 3), weight("dense/kernel", (64, 10), 1), weight("dense/bias", (10,))]
    after = [weight("Conv2D", (16, 3, 3, 8), 0), weight("MatMul", (10, 64), 0), weight("BiasAdd", (10,), 0, bits=32)]
    assert pairs(before, after) == [("conv/kernel", "Conv2D"), ("dense/kernel", "MatMul"), ("dense/bias", "BiasAdd")]


def test_ones_in_a_shape_do_not_count():
    before = [weight("dw/kernel", (3, 3, 8, 1), 2), weight("one/kernel", (64, 1), 1), weight("bn/gamma", (64,))]
    after = [weight("b", (1, 64), 0), weight("a", (1, 3, 3, 8), 3), weight("g", (1, 64, 1, 1))]
    assert pairs(before, after) == [("dw/kernel", "a"), ("one/kernel", "b"), ("bn/gamma", "g")]


def test_tensors_of_one_size_are_matched_in_order():
    before = [weight(f"dense_{i}/kernel", (32, 32), 1) for i in range(3)]
    after = [weight(f"MatMul_{i}", (32, 32), 0) for i in (7, 5, 6)]
    assert pairs(before, after) == [
        ("dense_0/kernel", "MatMul_7"),
        ("dense_1/kernel", "MatMul_5"),
        ("dense_2/kernel", "MatMul_6"),
    ]


def test_a_name_that_stayed_goes_before_the_order():
    before = [weight(name, (32, 32), 1) for name in ("a", "b", "c")]
    after = [weight(name, (32, 32), 1) for name in ("b", "x", "a")]
    assert pairs(before, after) == [("a", "a"), ("b", "b"), ("c", "x")]
    assert pairs(before[:2], after[:2]) == [("a", "x"), ("b", "b")], "whose name stayed is not given to one before it"


def test_the_same_name_on_another_size_is_another_tensor():
    assert pairs([weight("w", (32, 32), 1)], [weight("w", (32, 8), 1)]) == [("w", ""), ("", "w")]


def test_kernels_whose_axes_a_format_joins_are_found_by_their_place_or_their_number_of_values():
    before = [weight(f"attention/{part}/kernel", (32, 2, 16), 2) for part in ("query", "key")]
    after = [weight(f"net_1/attention/{part}/MatMul", (32, 32), 0) for part in ("key", "query")]
    nameless = [weight(f"Constant_{i}", (32, 32), 0) for i in (3, 9)]
    other = weight("MatMul", (32, 16), 0)
    assert pairs(before, after) == [
        ("attention/query/kernel", "net_1/attention/query/MatMul"),
        ("attention/key/kernel", "net_1/attention/key/MatMul"),
    ]
    assert pairs(before, nameless) == [("attention/query/kernel", "Constant_3"), ("attention/key/kernel", "Constant_9")]
    assert pairs(before[:1], [other]) == [("attention/query/kernel", ""), ("", "MatMul")]


def test_missing_and_extra_tensors_are_shown():
    before = [weight("kernel", (8, 4), 1), weight("bn/mean", (4,)), weight("bn/variance", (4,))]
    after = [
        weight("folded", (4, 8), 0, bits=8, zeros=0.25, unique=9, per_channel=3),
        weight("bias", (4,), 0),
        weight("new", (6,)),
    ]
    rows = match_tensors(info(*before), info(*after))
    assert [(row.name, row.name_now) for row in rows] == [
        ("kernel", "folded"),
        ("", "new"),
        ("bn/mean", "bias"),
        ("bn/variance", ""),
    ]
    first, extra, _, gone = rows
    assert (first.shape, first.shape_now, first.bits, first.bits_now) == ((8, 4), (4, 8), 32, 8)
    assert (first.sparsity, first.sparsity_now, first.unique, first.unique_now) == (0.0, 0.25, 32, 9)
    assert (first.unique_per_channel, first.unique_per_channel_now) == (8, 3)
    assert (extra.shape, extra.bits, extra.sparsity, extra.unique, extra.unique_per_channel) == ((), None, None, None, None)
    assert (gone.shape_now, gone.bits_now, gone.sparsity_now, gone.unique_now, gone.unique_per_channel_now) == ((), *[None] * 4)
    assert all(row.kept and row.lost == "" for row in rows)
    assert match_tensors(info(), info()) == ()


def test_kernels_and_other_tensors_of_the_same_size_are_kept_apart():
    before = [weight("one/kernel", (16, 1), 1), weight("bias", (16,))]
    after = [weight("bias_now", (16,), 0), weight("kernel_now", (1, 16), 0)]
    assert pairs(before, after) == [("one/kernel", "kernel_now"), ("bias", "bias_now")]


def test_a_table_that_only_one_format_takes_for_a_kernel():
    before = [weight("embedding", (100, 16), 1, zeros=0.5), weight("dense/kernel", (16, 100), 1, zeros=0.7)]
    after = [weight("MatMul", (100, 16), 0, zeros=0.7), weight("Gather", (100, 16), None, zeros=0.5)]
    rows = {row.name: row for row in match_tensors(info(*reversed(before)), info(*after))}
    assert rows["dense/kernel"].name_now == "MatMul" and rows["embedding"].name_now == "Gather"
    assert rows["embedding"].kept and rows["dense/kernel"].kept


def test_every_tensor_is_in_exactly_one_row():
    rng = np.random.default_rng(0)
    shapes = [(4, 8), (8, 4), (8,), (4,), (1, 8), (8, 1), (2, 16)]
    for _ in range(50):
        before, after = (
            [weight(f"{side}{i}", shapes[k], rng.choice([None, len(shapes[k]) - 1])) for i, k in enumerate(rng.integers(0, 7, n))]
            for side, n in (("b", rng.integers(0, 12)), ("a", rng.integers(0, 12)))
        )
        found = pairs(before, after)
        assert sorted(name for name, _ in found if name) == sorted(w.name for w in before)
        assert sorted(name for _, name in found if name) == sorted(w.name for w in after)


# --- what was lost ------------------------------------------------------------------------------------------------------

BEFORE = weight("k", (16, 64), 1, zeros=0.8, unique=16, per_channel=5)


@pytest.mark.parametrize(
    ("old", "new", "lost"),
    [
        ({}, {"bits": 8}, ""),
        ({}, {"bits": 8, "zeros": 0.796}, ""),
        ({}, {"bits": 8, "zeros": 0.9}, ""),
        ({}, {"zeros": 0.79}, "80.0% zeros before, 79.0% in the file"),
        ({}, {"zeros": 0.0, "unique": 17}, "80.0% zeros before, 0.0% in the file; 16 different values before, 17 in the file"),
        ({}, {"unique": 17}, "16 different values before, 17 in the file"),
        ({}, {"bits": 16, "unique": 200}, "16 different values before, 200 in the file"),
        ({}, {"bits": 8, "unique": 200, "per_channel": 5}, ""),
        ({}, {"bits": 8, "unique": 200, "per_channel": 16}, ""),
        ({}, {"bits": 8, "unique": 200, "per_channel": 17}, "16 different values before, 17 in the file"),
        ({}, {"bits": 4, "unique": 15}, ""),
        # chance: a few zeros, or few values because the tensor is small
        ({"zeros": 0.049, "unique": 1024}, {"zeros": 0.0, "unique": 1024}, ""),
        ({"zeros": 0.05, "unique": 1024}, {"zeros": 0.0, "unique": 1024}, "5.0% zeros before, 0.0% in the file"),
        ({"zeros": 0.0, "unique": 256}, {"zeros": 0.0, "unique": 257}, "256 different values before, 257 in the file"),
        ({"zeros": 0.0, "unique": 257}, {"zeros": 0.0, "unique": 1024}, ""),
    ],
)
def test_what_a_kernel_has_lost(old, new, lost):
    old, new = ({"zeros": 0.8, "unique": 16, "per_channel": None, **given} for given in (old, new))
    (row,) = match_tensors(info(weight("k", (16, 64), 1, **old)), info(weight("now", (64, 16), 0, **new)))
    assert (row.lost, row.kept) == (lost, not lost)


def test_a_small_tensor_has_few_values_by_chance():
    for shape, lost in (((8, 4), ""), ((8, 8), "16 different values before, 32 in the file")):
        old, new = (weight("k", shape, 1, unique=unique) for unique in (16, 32))
        assert match_tensors(info(old), info(new))[0].lost == lost


def test_a_kernel_that_cannot_be_found_is_lost_only_if_there_was_something_to_lose():
    said = "it is not in the file, where its zeros and clusters could be checked"
    plain, other = weight("plain", (16, 64), 1), weight("clustered", (32, 64), 1, unique=16)
    rows = match_tensors(info(BEFORE, plain, other), info())
    assert {row.name: row.lost for row in rows} == {"k": said, "plain": "", "clustered": said}


def test_only_kernels_can_lose():
    rows = match_tensors(info(weight("bias", (64,), zeros=1.0, unique=1)), info(weight("bias", (64,), 0)))
    assert rows[0].kept


# --- promises -----------------------------------------------------------------------------------------------------------


def promise(claim, before, after, made, *, claimed_by="prune", step="export:tflite"):
    made_receipt = receipt(step, info(*before), info(*after), made, [Claimed(claimed_by, claim)])
    assert made_receipt.step == step
    (found,) = made_receipt.promises
    assert found.step == claimed_by
    assert bool(found.why) == (not found.kept) or claim.quantity in {"io", "float_ops"}
    broken = [f"{found.what}: promised {found.promised}, found {found.found}"] if not found.kept else []
    assert made_receipt.lost[: len(broken)] == broken
    return found


KERNELS = [weight("a/kernel", (8, 16), 1), weight("b/kernel", (16, 32), 1), weight("a/bias", (16,))]


@pytest.mark.parametrize(
    ("bits", "promised", "found", "why"),
    [
        ([8, 8], "8 bits in 2 of 2", "8 bits in 2 of 2", ""),
        ([8, 4], "8 bits in 2 of 2", "4 bits in 1 of 2, 8 bits in 1 of 2", ""),
        ([8, 32], "8 bits in 2 of 2", "8 bits in 1 of 2, 32 bits in 1 of 2", "wider: now1"),
        ([16, 32], "8 bits in 2 of 2", "16 bits in 1 of 2, 32 bits in 1 of 2", "wider: now0, now1"),
    ],
)
def test_stored_bits(tmp_path, bits, promised, found, why):
    after = [weight(f"now{i}", (16, 8 * (3 * i + 1)), 0, bits=b) for i, b in enumerate(bits)] + [weight("bias", (16,))]
    kept = promise(Claim("bits", 8), KERNELS, after, artifact(tmp_path))
    assert (kept.promised, kept.found, kept.kept, kept.why) == (promised, found, not why, why)


def test_many_wide_kernels_are_cut_off(tmp_path):
    after = [weight(f"now{i}", (16, 8), 0) for i in range(5)]
    assert promise(Claim("bits", 8), KERNELS, after, artifact(tmp_path)).why == "wider: now0, now1, now2 and 2 more"


def test_kernels_that_nobody_sees_any_more_break_the_promise_of_their_width(tmp_path):
    gone = promise(Claim("bits", 8), KERNELS, [weight("bias", (16,))], artifact(tmp_path))
    assert (gone.found, gone.kept, gone.why) == ("no kernels", False, "the model before had kernels")
    assert promise(Claim("bits", 8), [weight("bias", (16,))], [weight("bias", (16,))], artifact(tmp_path)).kept


INT8 = {"dtype": "int8", "scale": 0.1, "zero_point": 3}


@pytest.mark.parametrize(
    ("dtype", "specs", "found", "kept"),
    [
        ("float32", [{"dtype": "float32"}, {"dtype": "float32"}], "float32 t0, float32 t1", True),
        ("int8", [INT8, INT8], "int8 t0, int8 t1", True),
        ("int8", [INT8, {"dtype": "float32"}], "int8 t0, float32 t1", False),
        ("float32", [{"dtype": "float32"}, INT8], "float32 t0, int8 t1", False),
        ("uint8", [INT8], "int8 t0", False),
        ("int8", [{"dtype": "int32"}, INT8], "int8 t1", True),
        ("float32", [{"dtype": "int64"}, {"dtype": "float16"}], "float16 t1", False),
        ("int8", [{"dtype": "int32"}], "no real numbers", True),
    ],
)
def test_inputs_and_outputs(tmp_path, dtype, specs, found, kept):
    tensors = [TensorSpec(f"t{i}", (1, 4), **spec) for i, spec in enumerate(specs)]
    made = artifact(tmp_path, inputs=tensors[:1], outputs=tensors[1:])
    result = promise(Claim("io", dtype), [], [], made)
    assert (result.promised, result.found, result.kept) == (dtype, found, kept)


def test_float_ops(tmp_path):
    softmax, resize = ["Softmax", "StatefulPartitionedCall:0", "kind"], ["Resize", "up", ""]
    none = promise(Claim("float_ops", 0), [], [], artifact(tmp_path, float_ops=[]))
    assert (none.promised, none.found, none.kept) == ("0", "0", True)
    some = promise(Claim("float_ops", 0), [], [], artifact(tmp_path, float_ops=[softmax, resize, softmax]))
    assert (some.found, some.kept) == ("3: Softmax in 'kind', Resize in 'up'", False)
    assert promise(Claim("float_ops", 3), [], [], artifact(tmp_path, float_ops=[softmax, resize, softmax])).kept
    many = promise(Claim("float_ops", 0), [], [], artifact(tmp_path, float_ops=[["Op", str(i), ""] for i in range(5)]))
    assert many.found == "5: Op in '0', Op in '1', Op in '2' ..."


def test_float_ops_that_nobody_counted_are_no_kept_promise(tmp_path):
    unknown = promise(Claim("float_ops", 0), [], [], artifact(tmp_path))
    assert (unknown.kept, unknown.found) == (False, "not known") and unknown.why


def sparse(*shares, names=("Conv", "MatMul"), bits=8):
    return [weight(name, shape, 0, bits=bits, zeros=z) for name, shape, z in zip(names, [(16, 8), (32, 16)], shares, strict=True)]


@pytest.mark.parametrize(
    ("tensors", "shares", "promised", "found", "why"),
    [
        ("*/kernel", (0.8, 0.9), "80.0% or more in 2 tensors", "80.0% or more in 2", ""),
        ("*/kernel", (0.796, 0.9), "80.0% or more in 2 tensors", "79.6% or more in 2", ""),
        ("*/kernel", (0.79, 0.9), "80.0% or more in 2 tensors", "1 of 2 tensors, least 79.0%", "below: a/kernel"),
        ("*/kernel", (0.0, 0.0), "80.0% or more in 2 tensors", "0 of 2 tensors, least 0.0%", "below: b/kernel, a/kernel"),
        ("b/kernel", (0.0, 0.8), "80.0% or more in 1 tensors", "80.0% or more in 1", ""),
        ("[!b]/kernel", (0.0, 0.8), "80.0% or more in 1 tensors", "0 of 1 tensors, least 0.0%", "below: a/kernel"),
        ("c/*", (0.8, 0.8), "in tensors called c/*", "no such tensor", "no tensor is called c/*"),
        ("A/kernel", (0.8, 0.8), "in tensors called A/kernel", "no such tensor", "no tensor is called A/kernel"),
        ("Conv", (0.8, 0.8), "in tensors called Conv", "no such tensor", "no tensor is called Conv"),
        ("", (0.8, 0.8), "in tensors called ", "no such tensor", "no tensor is called "),
    ],
)
def test_zeros_of_an_earlier_step_by_the_names_that_it_gave(tmp_path, tensors, shares, promised, found, why):
    result = promise(Claim("sparsity", 0.8, tensors), KERNELS, sparse(*shares), artifact(tmp_path))
    assert (result.promised, result.found, result.why, result.kept) == (promised, found, why, not why)


def test_a_tensor_that_is_gone_keeps_no_promise(tmp_path):
    after = sparse(0.9, 0.9)[:1]
    result = promise(Claim("sparsity", 0.8, "*/kernel"), KERNELS, after, artifact(tmp_path))
    assert (result.kept, result.why) == (False, "below: b/kernel")
    result = promise(Claim("unique", 16, "*/kernel"), KERNELS, after, artifact(tmp_path))
    assert not result.kept and "b/kernel" in result.why


def test_a_steps_own_promise_goes_by_the_names_that_it_gave(tmp_path):
    """A pass may rename what it wraps: its claim speaks of the new names, which later receipts see as the old ones."""
    after = sparse(0.8, 0.9, names=("wrapped_a/kernel", "wrapped_b/kernel"))
    claim = Claim("sparsity", 0.8, "wrapped_*")
    assert promise(claim, KERNELS, after, artifact(tmp_path), step="prune").kept
    assert not promise(claim, KERNELS, after, artifact(tmp_path), step="qat").kept
    assert promise(claim, after, sparse(0.8, 0.9), artifact(tmp_path), step="export:tflite").kept
    assert not promise(Claim("sparsity", 0.8, "a/kernel"), KERNELS, after, artifact(tmp_path), step="prune").kept


@pytest.mark.parametrize(
    ("bits", "unique", "per_channel", "found", "why"),
    [
        (32, 16, 9, "16 or fewer in 1", ""),
        (32, 17, 9, "0 of 1 tensors, most 17", "above: b/kernel"),
        (16, 17, 9, "0 of 1 tensors, most 17", "above: b/kernel"),
        (8, 200, 16, "16 or fewer in 1", ""),
        (8, 200, 17, "0 of 1 tensors, most 17", "above: b/kernel"),
        (4, 16, 16, "16 or fewer in 1", ""),
    ],
)
def test_different_values_count_per_tensor_in_float_and_per_channel_in_integers(tmp_path, bits, unique, per_channel, found, why):
    after = [weight("MatMul", (32, 16), 0, bits=bits, unique=unique, per_channel=per_channel)]
    result = promise(Claim("unique", 16, "b/*"), KERNELS, after, artifact(tmp_path))
    assert (result.promised, result.found, result.why) == ("16 or fewer in 1 tensors", found, why)


def test_different_values_of_tensors_without_channels_and_of_the_same_name(tmp_path):
    table = weight("table", (100, 16), None, bits=8, unique=16, per_channel=16)
    assert promise(Claim("unique", 16, "table"), [table], [table], artifact(tmp_path)).kept
    twins = [weight("k", (16, 8), 1, unique=unique) for unique in (4, 100)]
    result = promise(Claim("unique", 16, "k"), twins, twins, artifact(tmp_path))
    assert (result.kept, result.found) == (False, "1 of 2 tensors, most 100")
    result = promise(Claim("unique", 16, "nobody"), twins, twins, artifact(tmp_path))
    assert (result.kept, result.found) == (False, "no such tensor")
    twins = [weight("k", (16, 8), 1, zeros=zeros) for zeros in (0.1, 0.9)]
    assert promise(Claim("sparsity", 0.8, "k"), twins, twins, artifact(tmp_path)).found == "1 of 2 tensors, least 10.0%"


def test_a_receipt_holds_every_claim_in_order_and_all_that_was_lost(tmp_path):
    before = [weight("k", (16, 64), 1, zeros=0.8)]
    after = [weight("now", (64, 16), 0, bits=8, zeros=0.1)]
    claims = [
        Claimed("prune", Claim("sparsity", 0.8, "k")),
        Claimed("export:tflite", Claim("bits", 8)),
        Claimed("export:tflite", Claim("bits", 4)),
    ]
    found = receipt("export:tflite", info(*before), info(*after), artifact(tmp_path), claims)
    assert [(p.step, p.kept) for p in found.promises] == [("prune", False), ("export:tflite", True), ("export:tflite", False)]
    assert found.lost == [
        "zeros in the weights: promised 80.0% or more in 1 tensors, found 0 of 1 tensors, least 10.0%",
        "stored width of the kernels: promised 4 bits in 1 of 1, found 8 bits in 1 of 1",
        "k: 80.0% zeros before, 10.0% in the file",
    ]
    assert found.metrics == size_metrics(info(*after))


# --- sizes --------------------------------------------------------------------------------------------------------------


def test_size_metrics():
    weights = [weight("a", (8, 16), 1, zeros=0.5), weight("b", (16, 32), 1, zeros=0.25), weight("bias", (32,), zeros=1.0)]
    found = {metric.name: metric for metric in size_metrics(info(*weights))}
    assert {name: (m.value, m.unit) for name, m in found.items()} == {
        "raw_bytes": (1000.0, "bytes"),
        "deflated_bytes": (500.0, "bytes"),
        "parameters": (10.0, ""),
        "macs": (20.0, ""),
        "sparsity": ((128 * 0.5 + 512 * 0.25) / 640, "share"),
    }


def test_sizes_that_are_not_known_say_why():
    for note, why in (("a loop", "a loop"), ("", "not countable")):
        found = {metric.name: metric for metric in size_metrics(info(macs=None, macs_note=note))}
        assert (found["macs"].value, found["macs"].why_absent) == (None, why)
        assert (found["sparsity"].value, found["sparsity"].why_absent) == (None, "the model has no kernels")


# --- against what others read from the files ----------------------------------------------------------------------------


def with_weights(path, values):
    """The two-by-two model with other values in its kernel, (3, 4)."""
    old = np.random.default_rng(0).normal(0, 0.5, (3, 4)).astype(np.float32).tobytes()
    data = two_by_two_tflite(path).read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, values.astype(np.float32).tobytes()))
    return path


def stored_in_tflite(path, bits):
    """The kernel as LiteRT's interpreter holds it."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    tensors = [t for t in interpreter.get_tensor_details() if list(t["shape"]) == [3, 4]]
    (found,) = [t["index"] for t in tensors if np.dtype(t["dtype"]).itemsize * 8 == bits]
    return interpreter.get_tensor(found)


def stored_in_openvino(path, bits):
    """The kernel as OpenVINO's runtime holds it."""
    import openvino as ov

    nodes = [node for node in ov.Core().read_model(str(path)).get_ordered_ops() if node.get_type_name() == "Constant"]
    (found,) = [node.data for node in nodes if node.data.shape == (3, 4) and node.data.itemsize * 8 == bits]
    return found


CLUSTERS = np.array([[0.5, 0.0, -0.25, 0.0], [0.0, 0.5, 0.5, 0.0], [-0.25, 0.0, 0.0, 0.5]])


@pytest.mark.parametrize(
    ("to", "precision", "bits"),
    [("tflite", "float16", 16), ("tflite", "int8", 8), ("openvino", "float16", 16), ("openvino", "dynamic", 8)],
)
def test_a_receipt_tells_what_the_engines_own_readers_see(tmp_path, to, precision, bits):
    rng = np.random.default_rng(1)
    source = with_weights(tmp_path / "clustered.tflite", CLUSTERS)
    calibration = {"zeta": rng.normal(size=(64, 4)).astype(np.float32), "alpha": rng.normal(size=(64, 3)).astype(np.float32)}
    suffix = ".tflite" if to == "tflite" else ".xml"
    samples = calibration if precision == "int8" else None
    made = convert(source, tmp_path / f"out{suffix}", to=to, precision=precision, samples=samples)
    values = (stored_in_tflite if to == "tflite" else stored_in_openvino)(made.path, bits)
    claims = [Claim("bits", bits), Claim("sparsity", 0.5, "weights"), Claim("unique", 3, "weights"), Claim("io", "float32")]
    found = receipt("export", inspect(source), inspect(made.path), made, [Claimed("pass", claim) for claim in claims])
    assert [p.kept for p in found.promises] == [True] * 4, found.promises
    (row,) = found.tensors
    per_channel = max(len(np.unique(channel)) for channel in values.reshape(3, 4))
    assert (row.sparsity, row.unique, row.unique_per_channel) == (0.5, 3, 3)
    assert (row.bits_now, row.sparsity_now, row.unique_now) == (bits, np.mean(values == 0), len(np.unique(values)))
    assert (row.unique_per_channel_now, row.kept) == (per_channel, True)


def test_a_receipt_sees_one_lost_zero_and_one_more_value(tmp_path):
    source = with_weights(tmp_path / "clustered.tflite", CLUSTERS)
    worse = CLUSTERS.copy()
    worse[0, 1] = 0.125
    after = with_weights(tmp_path / "worse.tflite", worse)
    np.testing.assert_array_equal(stored_in_tflite(after, 32), worse)
    made = artifact(tmp_path)
    claims = [Claimed("pass", Claim("sparsity", 0.5, "weights")), Claimed("pass", Claim("unique", 3, "weights"))]
    found = receipt("export", inspect(source), inspect(after), made, claims)
    assert [p.kept for p in found.promises] == [False, False]
    assert found.tensors[0].lost == "50.0% zeros before, 41.7% in the file; 3 different values before, 4 in the file"
    sparsity = next(metric for metric in found.metrics if metric.name == "sparsity")
    assert sparsity.value == pytest.approx(5 / 12)


def test_hand_made_tensors_are_like_those_that_readers_describe():
    values = np.array([[0, 1, 1, 0], [0, 2, 3, 0], [0, 4, 5, 6]], np.int8)
    found = describe_weight("w", values, channel_axis=0)
    made = weight("w", (3, 4), 0, bits=8, zeros=5 / 12, unique=7, per_channel=4)
    assert found == replace(made, sparsity=found.sparsity) and found.sparsity == pytest.approx(5 / 12)
