"""What labels and outputs speak for, and what scores decide; scikit-learn's ROC curve is the oracle of Youden's threshold."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import roc_curve

from edgewright.errors import EdgewrightError, SamplesError, ShapeError, UsageError
from edgewright.tasks import (
    TASKS,
    Scored,
    check_task,
    decide,
    default_threshold,
    infer_task,
    labels_of,
    reconstruction_scores,
    require_finite,
    scores_of,
    youden_threshold,
)

RNG = np.random.default_rng(0)
EYE = np.eye(4)
MANY = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 1], [1, 0, 0, 0], [0, 1, 1, 1], [0, 0, 0, 1]])
ZERO_ONE = np.array([0, 1, 1, 0, 0, 1])
PROBABILITIES = np.array([[0.5, 0.25, 0.25, 0.0]] * 6)


def out(*shape):
    return RNG.normal(size=(6, *shape)).astype(np.float32)


@pytest.mark.parametrize(
    ("labels", "outputs", "input_shape", "task"),
    [
        (np.array([0, 3, 2, 1, 1, 0]), out(4), (8,), "classification"),
        (np.array([[0], [3], [2], [1], [1], [0]], np.float32), out(1, 1, 4), None, "classification"),
        (np.array([0, 3, 2, 1, 1, 0]), out(4), (4,), "classification"),
        (EYE[[0, 1, 2, 3, 3, 3]], out(4), (4,), "classification"),
        (ZERO_ONE, out(), (8,), "classification"),
        (ZERO_ONE.astype(bool), out(1), (8, 1), "classification"),
        (ZERO_ONE, out(1), (1,), "classification"),  # one value is no reconstruction
        (ZERO_ONE, out(2), (2,), "classification"),  # two classes of two features, rather than a reconstruction of two
        (ZERO_ONE, PROBABILITIES, (4,), "classification"),
        (MANY, out(4), (8,), "multilabel"),
        (ZERO_ONE, out(4), (4,), "anomaly"),
        (ZERO_ONE[:, None], out(3, 5, 1), (3, 5), "anomaly"),
        (np.array([0.5, 1, 2, 3, 4, 5]), out(1), (8,), "regression"),
        (np.array([20, 31, 45, 18, 60, 2]), out(), (8,), "regression"),
        (out(3, 5), out(3, 5), (3, 5), "regression"),
        (out(3), out(3, 1), None, "regression"),
    ],
)
def test_task_that_labels_and_outputs_speak_for(labels, outputs, input_shape, task):
    assert infer_task(labels, outputs, input_shape) == task
    check_task(task, labels, outputs, input_shape)


@pytest.mark.parametrize(
    ("labels", "outputs", "error", "parts"),
    [
        (np.array([0, 1, 2, 3, 4, 0]), out(4), SamplesError, ["label 4 of sample 4", "0 to 3"]),
        (np.array([0, 1, -1, 3, 2, 0]), out(4), SamplesError, ["label -1 of sample 2", "0 to 3"]),
        (np.array([0, 1, 1.5, 3, 2, 0]), out(4), SamplesError, ["label 1.5 of sample 2", "0 to 3"]),
        (np.array([0, 1, 2, 3, 2, 0]), out(5, 4), ShapeError, ["(6,)", "(6, 5, 4)"]),
        (EYE[[0, 1, 2, 3, 3, 3]], out(3), ShapeError, ["(6, 4)", "(6, 3)"]),
        (MANY, out(), ShapeError, ["(6, 4)", "(6,)"]),
        (out(4), out(3), ShapeError, ["(6, 4)", "(6, 3)"]),
        (np.ones((6, 2, 2), int), out(2, 2), ShapeError, ["(6, 2, 2)", "speak for no task"]),
        (np.zeros(5, int), out(4), ShapeError, ["(5,)", "(6, 4)", "numbers of samples"]),
        (np.array(["a"] * 6), out(4), SamplesError, ["<U1"]),
        (np.array([0, 1, np.nan, 3, 2, 0]), out(4), SamplesError, ["NaN"]),
        (np.zeros(0, int), out(4)[:0], SamplesError, ["0 samples"]),
    ],
)
def test_arrays_that_speak_for_no_task(labels, outputs, error, parts):
    with pytest.raises(error) as caught:
        infer_task(labels, outputs, None, output="probs")
    assert all(part in str(caught.value) for part in [*parts, "probs"]), str(caught.value)


@pytest.mark.parametrize(
    ("task", "labels", "outputs", "input_shape", "parts"),
    [
        ("classification", MANY, out(4), None, ["sample 0 is of 2 classes", "1 is expected"]),
        ("classification", np.array([0, 1, 2, 0, 1, 0]), out(1), None, ["label 2 of sample 2 is neither 0 nor 1"]),
        ("classification", out(4), out(3), None, ["(6, 4)", "(6, 3)", "--task"]),
        ("multilabel", ZERO_ONE, out(4), None, ["(6,)", "(6, 4)", "--task"]),
        ("multilabel", MANY * 2, out(4), None, ["label 2 of sample 0 is neither 0 nor 1"]),
        ("regression", ZERO_ONE, out(4), None, ["(6,)", "(6, 4)", "--task"]),
        ("anomaly", ZERO_ONE, out(4), (5,), ["(6, 4)", "(5,)", "--task"]),
        ("anomaly", ZERO_ONE, out(4), None, ["no single shape"]),
        ("anomaly", ZERO_ONE + 1, out(4), (4,), ["label 2 of sample 1 is neither 0 nor 1"]),
    ],
)
def test_declared_task_that_does_not_fit(task, labels, outputs, input_shape, parts):
    with pytest.raises(SamplesError) as caught:
        check_task(task, labels, outputs, input_shape, output="probs")
    assert all(part in str(caught.value) for part in [*parts, "probs"]), str(caught.value)


def test_unknown_task_names_the_known_ones():
    with pytest.raises(UsageError, match=r"'segmentation'.*classification, multilabel, regression, anomaly"):
        check_task("segmentation", ZERO_ONE, out(4))


@pytest.mark.parametrize(
    ("task", "labels", "outputs", "input_shape"),
    [("multilabel", EYE[[0, 1, 2, 3, 3, 3]], out(4), None), ("regression", ZERO_ONE, out(1), None)],
)
def test_declared_task_overrides_what_is_inferred(task, labels, outputs, input_shape):
    assert infer_task(labels, outputs, input_shape) != task
    check_task(task, labels, outputs, input_shape)


def test_labels_and_scores_in_one_form():
    one_hot = labels_of("classification", EYE[[2, 0, 3]])
    assert one_hot.tolist() == [2, 0, 3] and one_hot.dtype == np.int64
    assert labels_of("classification", np.array([[2.0], [0.0]])).tolist() == [2, 0]
    assert labels_of("multilabel", MANY.astype(float)).dtype == np.int8
    assert labels_of("regression", np.float32([1.5, 2])).tolist() == [[1.5], [2.0]]
    assert scores_of("classification", out(1, 4)).shape == (6, 4)
    assert scores_of("classification", out(1)).shape == (6,)
    assert scores_of("regression", out(2, 3)).shape == (6, 6)
    assert scores_of("classification", np.uint8([[1, 200]])).dtype == np.float64  # -200 must not wrap around


def test_decisions():
    assert decide("classification", np.array([[0.1, 0.7, 0.7], [0.9, 0.05, 0.05]])).tolist() == [1, 0]
    assert decide("classification", np.array([0.5, 0.51, 0.2]), 0.5).tolist() == [0, 1, 0]
    assert decide("multilabel", np.array([[-1.0, 2.0], [0.5, 0.0]]), 0.0).tolist() == [[0, 1], [1, 0]]
    assert decide("anomaly", np.array([0.1, 3.0]), 1.0).tolist() == [0, 1]
    assert decide("regression", out(2)) is None
    with pytest.raises(UsageError, match="threshold"):
        decide("multilabel", out(2))


@pytest.mark.parametrize(("scores", "limit"), [([0.0, 1.0, 0.3], 0.5), ([-0.1, 0.9], 0.0), ([0.2, 1.1], 0.0)])
def test_threshold_of_probabilities_and_of_logits(scores, limit):
    assert default_threshold(np.array(scores)) == limit
    scored = Scored.of("classification", np.zeros(len(scores), int), np.array(scores))
    assert scored.threshold == limit
    assert scored.decisions.tolist() == [int(score > limit) for score in scores]


def test_threshold_that_was_asked_for():
    scored = Scored.of("classification", np.array([0, 1, 1]), np.array([0.1, 0.3, 0.6]), 0.2)
    assert scored.threshold == 0.2 and scored.right.tolist() == [True, True, True] and scored.classes == 2


def test_right_decisions_of_several_labels_are_right_in_all():
    scored = Scored.of("multilabel", np.int8([[1, 0], [1, 1]]), np.array([[0.9, 0.1], [0.9, 0.2]]))
    assert scored.right.tolist() == [True, False]
    assert scored.subset(np.array([False, True])).right.tolist() == [False]


@settings(deadline=None)
@given(
    hnp.arrays(np.int64, st.integers(2, 30), elements=st.integers(0, 1)).filter(lambda y: 0 < y.sum() < len(y)),
    st.integers(0, 2**32 - 1),
)
def test_youden_threshold_is_the_best_of_the_roc_curve(labels, seed):
    scores = np.random.default_rng(seed).integers(0, 6, len(labels)) / 4  # with ties
    false_alarms, hits, _ = roc_curve(labels, scores)
    found = scores > youden_threshold(labels, scores)
    gain = found[labels == 1].mean() - found[labels == 0].mean()
    assert gain == pytest.approx(np.max(hits - false_alarms), abs=1e-12)


def test_youden_threshold_lies_between_scores():
    assert youden_threshold(np.array([0, 0, 1, 1]), np.array([1.0, 2.0, 4.0, 5.0])) == 3.0
    assert youden_threshold(np.array([0, 1, 0, 1]), np.array([1.0, 2.0, 3.0, 4.0])) == 3.5  # as good as 1.5, and higher
    neighbours = np.array([1.0, np.nextafter(1.0, 2.0)])
    assert (neighbours > youden_threshold(np.array([0, 1]), neighbours)).tolist() == [False, True]
    assert (neighbours > youden_threshold(np.array([1, 1]), neighbours)).all()
    assert not (neighbours > youden_threshold(np.array([0, 0]), neighbours)).any()


def test_reconstruction_scores():
    given_, found = np.array([[[1.0, 2.0]], [[0.0, 0.0]]], np.float32), np.array([[1.0, 4.0], [3.0, 1.0]], np.float32)
    assert reconstruction_scores(given_, found).tolist() == [2.0, 5.0]
    with pytest.raises(ShapeError, match=r"\(2, 3\).*\(2, 1, 2\)"):
        reconstruction_scores(given_, np.zeros((2, 3)))


def test_outputs_that_are_not_finite_are_named():
    require_finite(np.ones((2, 3)), "probs", "m.tflite")
    with pytest.raises(EdgewrightError, match=r"'probs' of m\.tflite holds 2 NaN or infinite values of 6") as caught:
        require_finite(np.array([[1, np.nan, 1], [1, 1, -np.inf]]), "probs", "m.tflite")
    assert caught.value.hint


def test_runs_with_numpy_alone():
    code = """
import sys, edgewright.tasks
print(sorted({"sklearn", "scipy", "tensorflow", "pandas"} & {name.partition(".")[0] for name in sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
    assert len(TASKS) == 4
