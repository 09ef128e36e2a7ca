"""Fidelity metrics against independent arithmetic."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics.pairwise import cosine_similarity

from edgewright.benchmarks.fidelity import compare_outputs, cosine, sqnr_db, top1_agreement
from edgewright.errors import ShapeError

FINITE = st.floats(-1e6, 1e6, width=32)


def pairs(least_dims=1, elements=FINITE):
    """Two float32 arrays of one shape."""
    shapes = hnp.array_shapes(min_dims=least_dims, max_dims=3, max_side=5)
    return shapes.flatmap(lambda shape: st.tuples(*(hnp.arrays(np.float32, shape, elements=elements) for _ in range(2))))


@given(pairs())
def test_sqnr_equals_exact_arithmetic(pair):
    r, c = ([Fraction(float(v)) for v in array.ravel()] for array in pair)
    noise, signal = sum((a - b) ** 2 for a, b in zip(r, c, strict=True)), sum(a * a for a in r)
    found = sqnr_db(*pair)
    if noise == 0:
        assert found == math.inf
    elif signal == 0:
        assert found == -math.inf
    else:
        assume(float(noise) > 1e-280 and float(signal) > 1e-280)
        assert found == pytest.approx(10 * (math.log10(signal) - math.log10(noise)), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_sqnr_does_not_depend_on_the_scale(scale):
    r = np.array([3.0, 4.0]) * scale
    assert sqnr_db(r, r * 1.1) == pytest.approx(20.0, abs=1e-9)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_extreme_float64_outputs_neither_overflow_nor_vanish(scale):
    """Squares of these leave float64's range."""
    r = np.array([3.0, 4.0]) * scale
    assert sqnr_db(r, r * 1.1) == pytest.approx(20.0, abs=1e-9)
    assert cosine(r, r) == pytest.approx(1.0)


@given(pairs())
def test_cosine_equals_scikit_learn(pair):
    r, c = (array.astype(np.float64).ravel() for array in pair)
    assume(np.abs(r).max() > 1e-10 and np.abs(c).max() > 1e-10)  # scikit-learn takes shorter ones for zero
    assert cosine(*pair) == pytest.approx(float(cosine_similarity(r[None], c[None])[0, 0]), abs=1e-9)


@pytest.mark.parametrize(("r", "c", "expected"), [([0, 0], [0, 0], 1.0), ([0, 0], [1, 0], 0.0), ([1, 0], [0, 0], 0.0)])
def test_cosine_of_zeros(r, c, expected):
    assert cosine(np.array(r, np.float32), np.array(c, np.float32)) == expected


@given(pairs(least_dims=2, elements=st.sampled_from([0.0, 1.0, 2.0])))
def test_agreement_equals_a_plain_loop(pair):
    r, c = (array.reshape(-1, array.shape[-1]) for array in pair)
    same = sum(row[other.tolist().index(max(other))] == max(row) for row, other in zip(r, c, strict=True))
    assert top1_agreement(*pair) == pytest.approx(same / len(r), abs=1e-12)


def test_ties_of_the_reference_allow_any_of_them():
    reference = np.array([[1.0, 1.0, 0.0]])
    assert top1_agreement(reference, np.array([[0.0, 2.0, 1.0]])) == 1.0
    assert top1_agreement(reference, np.array([[0.0, 1.0, 2.0]])) == 0.0


def test_compare_names_units_and_values():
    r = np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)
    c = np.array([[3.0, 4.0], [0.5, 0.0]], np.float32)
    found = {m.name: m for m in compare_outputs("y", r, c)}
    assert {name: (m.unit, m.subject, m.samples) for name, m in found.items()} == {
        "max_abs_error": ("", "y", 2),
        "mean_abs_error": ("", "y", 2),
        "sqnr": ("dB", "y", 2),
        "cosine": ("", "y", 2),
        "top1_agreement": ("", "y", 2),
    }
    assert found["max_abs_error"].value == 0.5
    assert found["mean_abs_error"].value == 0.125
    assert found["sqnr"].value == pytest.approx(20.0)  # 25 / 0.25
    assert found["cosine"].value == pytest.approx(25 / (5 * math.sqrt(25.25)))
    assert found["top1_agreement"].value == 1.0


@pytest.mark.parametrize(
    ("candidate", "reference", "said"),
    [
        ([math.nan, 0.0], [1.0, 2.0], "1 values of the candidate and 0 of the reference"),
        ([1.0, 2.0], [math.inf, -math.inf], "0 values of the candidate and 2 of the reference"),
    ],
)
def test_values_that_are_not_finite_leave_no_figure(candidate, reference, said):
    metrics = compare_outputs("y", np.array([reference], np.float32), np.array([candidate], np.float32))
    assert [m.value for m in metrics] == [None] * 5
    assert all(said in m.why_absent for m in metrics)


def test_other_shapes_are_an_error():
    with pytest.raises(ShapeError, match=r"'y' has shape \(2, 3\), the reference has \(2, 4\)"):
        compare_outputs("y", np.zeros((2, 4)), np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("shape", "random", "said"), [((5, 3), True, "random"), ((5, 1), False, "no classes"), ((5,), False, "no classes")]
)
def test_agreement_is_left_out_where_it_means_nothing(shape, random, said):
    found = {m.name: m for m in compare_outputs("y", np.ones(shape), np.ones(shape), random_data=random)}
    assert found["top1_agreement"].value is None
    assert said in found["top1_agreement"].why_absent
    assert found["sqnr"].value == math.inf


def test_integer_and_bool_outputs_are_compared_as_numbers():
    r = np.array([[200, 3], [0, 255]], np.uint8)
    found = {m.name: m.value for m in compare_outputs("y", r, r[:, ::-1].copy())}
    assert found["max_abs_error"] == 255
    assert {m.name: m.value for m in compare_outputs("y", r > 9, r > 9)}["sqnr"] == math.inf
