"""Rewrites of TFLite graphs against NumPy, run by LiteRT's interpreter; the arithmetic of scales by hypothesis."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgewright.converters.tflite_file import set_signature
from edgewright.converters.tflite_rewrite import affine, float16_weights, integer_io, rewrite, use_integer_forms

LEVELS = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32767, 32767)}
REAL = st.floats(-(2.0**100), 2.0**100, width=32)


def execute(content, *feeds):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    for detail, values in zip(interpreter.get_input_details(), feeds, strict=True):
        interpreter.set_tensor(detail["index"], values)
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


@given(REAL, REAL, st.sampled_from(["int8", "uint8", "int16"]))
@example(0.0, 0.0, "int8")
@example(-1e-12, 1e-12, "uint8")
@example(5.0, 6.0, "int8")
@example(-6.0, -5.0, "uint8")
def test_affine(one, other, kind):
    """0 is met exactly, the range is covered to half a step, and everything within it comes back within half a step."""
    low, high = sorted((one, other))
    scale, zero = affine(low, high, kind)
    least, most = LEVELS[kind]
    assert scale > 0 and least <= zero <= most and (kind != "int16" or zero == 0)
    assert scale * (least - zero) <= min(low, 0) + scale * 0.501
    assert scale * (most - zero) >= max(high, 0) - scale * 0.501
    values = np.linspace(min(low, 0), max(high, 0), 50)
    stored = np.clip(np.rint(values / scale) + zero, least, most)
    assert np.abs((stored - zero) * scale - values).max() <= scale * 1.001
    assert (np.rint(0 / scale) + zero - zero) * scale == 0


def test_float16_weights_share_buffers(build_tflite):
    """A constant that is a result keeps its type, whatever shares its buffer; the others are restored by DEQUANTIZE."""
    w, table = np.arange(4, dtype=np.float32) / 3, np.arange(4, dtype=np.float32) / 7
    content = build_tflite(
        [
            ("x", (1, 4), "FLOAT32", None),
            ("w", (4,), "FLOAT32", w.tobytes()),
            ("y", (1, 4), "FLOAT32", None),
            ("table", (4,), "FLOAT32", table.tobytes()),
            ("z", (1, 4), "FLOAT32", None),
        ],
        [("ADD", [0, 1], [2]), ("ADD", [2, 3], [4])],
        [0],
        [4, 3],
    )

    def share(schema, tree):
        graph = tree.subgraphs[0]
        twin = schema.TensorT(name="twin", shape=[4], type=schema.TensorType.FLOAT32, buffer=graph.tensors[3].buffer)
        graph.tensors.append(twin)
        graph.operators[1].inputs = np.array([2, len(graph.tensors) - 1], np.int32)
        float16_weights(schema, tree)
        assert sorted(t.name for t in graph.tensors if t.type == schema.TensorType.FLOAT16) == [b"w/float16"]

    x = np.ones((1, 4), np.float32)
    z, kept = execute(rewrite(content, share), x)
    np.testing.assert_array_equal(kept, table)
    np.testing.assert_array_equal(z, x + w.astype(np.float16).astype(np.float32) + table)


@pytest.mark.parametrize("bits", [8, 16])
def test_integer_forms(build_tflite, bits):
    """-x and (a - b)^2 in other words compute the same; integers are left alone."""
    content = build_tflite(
        [
            ("a", (1, 4), "FLOAT32", None),
            ("b", (1, 4), "FLOAT32", None),
            ("minus", (1, 4), "FLOAT32", None),
            ("square", (1, 4), "FLOAT32", None),
        ],
        [("NEG", [0], [2]), ("SQUARED_DIFFERENCE", [2, 1], [3])],
        [0, 1],
        [2, 3],
    )
    changed = rewrite(content, lambda schema, tree: use_integer_forms(schema, tree, bits=bits))
    a, b = np.random.default_rng(0).normal(size=(2, 1, 4)).astype(np.float32)
    minus, square = execute(changed, a, b)
    np.testing.assert_array_equal(minus, -a)
    np.testing.assert_allclose(square, (-a - b) ** 2, rtol=1e-6)


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16"])
def test_integer_io_of_float_ops(build_tflite, kind):
    """A float graph gets integer borders of the ranges given; whole numbers, and an input that is an output, stay right."""
    content = build_tflite(
        [("x", (1, 4), "FLOAT32", None), ("n", (1,), "INT32", None), ("y", (1, 4), "FLOAT32", None)],
        [("SIN", [0], [2])],
        [0, 1],
        [2, 0, 1, 2],
    )
    content = set_signature(content, ["x", "n"], ["y", "same", "count", "twin"])
    ranges = [(-2.0, 3.0), None, (-1.0, 1.0), (-2.0, 3.0), None, (-1.0, 1.0)]
    changed = rewrite(content, lambda schema, tree: integer_io(schema, tree, kind, ranges))
    scale, zero = affine(-2.0, 3.0, kind)
    x = np.array([[-2.0, 0.0, 1.5, 3.0]])
    stored = (np.rint(x / scale) + zero).astype(kind)
    y, same, count, twin = execute(changed, stored, np.array([7], np.int32))
    assert {y.dtype.name, same.dtype.name} == {kind} and count.tolist() == [7]
    np.testing.assert_array_equal(same, stored)
    np.testing.assert_array_equal(y, twin)
    out_scale, out_zero = affine(-1.0, 1.0, kind)
    np.testing.assert_allclose((y.astype(float) - out_zero) * out_scale, np.sin(x), atol=out_scale + scale)
