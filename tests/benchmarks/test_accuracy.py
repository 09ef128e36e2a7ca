"""Accuracy against scikit-learn, its interval against published values and the definition it comes from."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import accuracy_score

from edgewright.benchmarks.accuracy import accuracy, wilson_interval
from edgewright.errors import ShapeError

Z = 1.959964


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 40), st.integers(1, 9)), elements=st.floats(-9, 9, width=32)),
    st.integers(0, 2**32 - 1),
)
def test_accuracy_equals_scikit_learn(scores, seed):
    labels = np.random.default_rng(seed).integers(0, scores.shape[1], len(scores))
    assert accuracy(scores, labels) == pytest.approx(accuracy_score(labels, scores.argmax(axis=1)), abs=1e-12)


@pytest.mark.parametrize(("scores", "labels"), [((4, 3), (3,)), ((4,), (4,)), ((4, 3), (4, 1)), ((4, 2, 3), (4,))])
def test_shapes_that_do_not_go_together(scores, labels):
    with pytest.raises(ShapeError) as caught:
        accuracy(np.zeros(scores), np.zeros(labels, int))
    assert str(scores) in str(caught.value) and str(labels) in str(caught.value)


def test_no_samples_have_no_accuracy():
    with pytest.raises(ShapeError, match="no samples"):
        accuracy(np.zeros((0, 3)), np.zeros(0, int))


@pytest.mark.parametrize(
    ("successes", "samples", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_equals_newcombe(successes, samples, low, high):
    """R. G. Newcombe (1998), Statistics in Medicine 17, 857-872, table I, method 3 (score without continuity correction)."""
    found = wilson_interval(successes / samples, samples)
    assert found == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 5000), st.floats(0, 1))
def test_wilson_inverts_the_score_test(samples, part):
    """Its ends are the shares p at which |share - p| is exactly z standard errors of p; found here by bisection."""
    share = round(part * samples) / samples

    def distance(p):
        return abs(share - p) - Z * math.sqrt(p * (1 - p) / samples)

    def root(inside, outside):
        for _ in range(200):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if distance(middle) <= 0 else (inside, middle)
        return inside

    low, high = wilson_interval(share, samples)
    assert 0.0 <= low <= share <= high <= 1.0
    assert low == pytest.approx(0.0 if share == 0 else root(share, 0.0), abs=1e-9)
    assert high == pytest.approx(1.0 if share == 1 else root(share, 1.0), abs=1e-9)


def test_wilson_of_nothing_is_refused():
    with pytest.raises(ShapeError, match="0 samples"):
        wilson_interval(0.0, 0)
