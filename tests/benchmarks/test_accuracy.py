"""Figures against scikit-learn, their intervals and changes; Wilson's against published values and the definition."""

import math
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics

from edgewright import errors
from edgewright.benchmarks.accuracy import (
    PRIMARY,
    accuracy,
    change_of,
    change_unit,
    figures_of,
    is_error,
    metric_names,
    task_metrics,
    unit_of,
    wilson_interval,
)
from edgewright.errors import MissingPackageError, ShapeError, UsageError
from edgewright.report import find_metric
from edgewright.tasks import TASKS, Scored

Z = 1.959964
SEEDS = st.integers(0, 2**32 - 1)
UNTIMED = settings(deadline=None, max_examples=30)


# --- accuracy and Wilson's interval -----------------------------------------------------------------------------------


@UNTIMED
@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 40), st.integers(1, 9)), elements=st.floats(-9, 9, width=32)),
    SEEDS,
)
def test_accuracy_equals_scikit_learn(scores, seed):
    labels = np.random.default_rng(seed).integers(0, scores.shape[1], len(scores))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = metrics.accuracy_score(labels, scores.argmax(axis=1))
    assert accuracy(scores, labels) == pytest.approx(expected, abs=1e-12)


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


# --- figures ----------------------------------------------------------------------------------------------------------


def classes_of(seed, classes=12, samples=200, levels=16):
    """Labels in which every class occurs, and scores that are better than chance, have ties and do not sum to 1."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(samples) % classes)
    scores = rng.random((samples, classes)) + 0.4 * np.eye(classes)[labels]
    return labels, (np.round(scores * levels) / levels).astype(np.float32)


@UNTIMED
@given(SEEDS)
def test_figures_of_classes_equal_scikit_learn(seed):
    labels, scores = classes_of(seed)
    p = scores.argmax(axis=1)
    scored = Scored.of("classification", labels, scores)
    assert figures_of(scored, metric_names(scored)) == pytest.approx(
        {
            "accuracy": metrics.accuracy_score(labels, p),
            "top5_accuracy": metrics.top_k_accuracy_score(labels, scores, k=5),
            "balanced_accuracy": metrics.balanced_accuracy_score(labels, p),
            "precision_macro": metrics.precision_score(labels, p, average="macro", zero_division=0),
            "recall_macro": metrics.recall_score(labels, p, average="macro", zero_division=0),
            "f1_macro": metrics.f1_score(labels, p, average="macro", zero_division=0),
            "roc_auc": metrics.roc_auc_score(np.eye(12)[labels], scores, average="macro"),
        },
        abs=1e-12,
    )


@UNTIMED
@given(SEEDS, st.booleans())
def test_figures_of_two_classes_with_one_score_equal_scikit_learn(seed, logits):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(50) % 2)
    scores = rng.integers(0, 9, 50) / 8 - 0.5 * logits
    p = (scores > (0.0 if logits else 0.5)).astype(int)
    scored = Scored.of("classification", labels, scores)
    found = figures_of(scored, metric_names(scored))
    assert list(found) == ["accuracy", "balanced_accuracy", "precision_macro", "recall_macro", "f1_macro", "roc_auc"]
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(labels, p))
    assert found["f1_macro"] == pytest.approx(metrics.f1_score(labels, p, average="macro", zero_division=0))
    assert found["roc_auc"] == pytest.approx(metrics.roc_auc_score(labels, scores))


@UNTIMED
@given(SEEDS)
def test_figures_of_several_labels_equal_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    labels, scores = rng.integers(0, 2, (60, 5)).astype(np.int8), rng.integers(0, 9, (60, 5)) / 8
    labels[0], labels[1], p = 0, 1, scores > 0.5
    scored = Scored.of("multilabel", labels, scores)
    assert figures_of(scored, metric_names(scored)) == pytest.approx(
        {
            "f1_macro": metrics.f1_score(labels, p, average="macro"),
            "f1_micro": metrics.f1_score(labels, p, average="micro"),
            "precision_macro": metrics.precision_score(labels, p, average="macro"),
            "recall_macro": metrics.recall_score(labels, p, average="macro"),
            "exact_match": metrics.accuracy_score(labels, p),
            "roc_auc": metrics.roc_auc_score(labels, scores, average="macro"),
        },
        abs=1e-12,
    )


@UNTIMED
@given(SEEDS)
def test_figures_of_numbers_equal_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(30, 3)) * [1, 10, 100]
    p = y + rng.normal(size=(30, 3))
    assert figures_of(Scored.of("regression", y, p), ("mae", "rmse", "r2")) == pytest.approx(
        {
            "mae": np.abs(y - p).mean(),
            "rmse": np.sqrt(((y - p) ** 2).mean()),  # not the mean of each column's
            "r2": metrics.r2_score(y, p, multioutput="uniform_average"),
        }
    )


@UNTIMED
@given(SEEDS)
def test_figures_of_anomalies_equal_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    labels, scores = rng.permutation(np.arange(60) % 3 == 0).astype(int), rng.integers(0, 9, 60) / 8
    assert figures_of(Scored.of("anomaly", labels, scores), ("roc_auc", "average_precision")) == pytest.approx(
        {"roc_auc": metrics.roc_auc_score(labels, scores), "average_precision": metrics.average_precision_score(labels, scores)}
    )


@pytest.mark.parametrize(
    ("task", "labels", "scores", "name", "why"),
    [
        ("classification", [0, 1, 1], np.eye(3), "roc_auc", "no sample is of class 2"),
        ("classification", [1, 1], np.array([0.2, 0.3]), "roc_auc", "no sample is of class 0"),
        ("classification", [0, 1, 2], np.eye(3), "top3_accuracy", "3 classes"),
        ("multilabel", [[1, 0], [1, 1]], np.eye(2), "roc_auc", "all samples are of class 0"),
        ("multilabel", [[1, 0], [0, 0]], np.eye(2), "roc_auc", "no samples are of class 1"),
        ("anomaly", [0, 0], np.array([0.1, 0.2]), "average_precision", "no sample is of class 1"),
        ("regression", [[1.0]], np.array([[1.5]]), "r2", "one sample"),
    ],
)
def test_figure_that_there_is_not_has_a_reason(task, labels, scores, name, why):
    """And scikit-learn's warnings of it do not escape: they would be errors here."""
    scored = Scored.of(task, np.array(labels), scores)
    first, change = task_metrics(scored, scored, names=[name], count=20)
    assert first.value is None and change.value is None
    assert why in first.why_absent and why in change.why_absent
    assert not first.interval and not change.interval


def test_rare_classes_and_unused_decisions_raise_no_warning():
    """Fewer samples than twice the classes, a decision for a class without label, a class without decision."""
    scored = Scored.of("classification", np.array([0, 1, 2]), np.eye(5)[[0, 1, 4]])
    found = {metric.name: metric.value for metric in task_metrics(scored, scored, count=50)}
    assert found["balanced_accuracy"] == pytest.approx(2 / 3) and found["recall_macro"] == pytest.approx(2 / 4)


@pytest.mark.parametrize(
    ("classes", "top_k", "expected"),
    [(2, None, None), (3, None, None), (4, None, 3), (9, None, 3), (10, None, 5), (10, 2, 2), (3, 7, 7)],
)
def test_names_of_top_k(classes, top_k, expected):
    names = metric_names(Scored.of("classification", np.zeros(1, int), np.zeros((1, classes))), top_k)
    assert [name for name in names if name.startswith("top")] == ([f"top{expected}_accuracy"] if expected else [])
    assert names[0] == "accuracy"


def test_top_1_is_refused():
    with pytest.raises(UsageError, match=r"top-1.*2 is the least"):
        metric_names(Scored.of("classification", np.zeros(1, int), np.zeros((1, 4))), 1)


def test_missing_scikit_learn_is_one_line(monkeypatch):
    monkeypatch.setitem(errors.EXTRAS, "metrics", ("sklearn",))
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)

    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name == "sklearn":
                raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    with pytest.raises(MissingPackageError, match=r"'sklearn' is not installed.*edgewright\[metrics\]"):
        figures_of(Scored.of("regression", np.zeros((2, 1)), np.zeros((2, 1))), ["mae"])


# --- changes and intervals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "original", "file", "change"),
    [
        ("accuracy", 0.9, 0.88, -2.0),
        ("roc_auc", 0.5, 0.75, 25.0),
        ("r2", 0.5, 0.4, -10.0),
        ("rmse", 2.0, 2.06, -3.0),
        ("mae", 2.0, 1.0, 50.0),
        ("mae", 0.0, 0.0, 0.0),
    ],
)
def test_negative_change_is_worse(name, original, file, change):
    assert change_of(name, original, file) == pytest.approx(change)
    assert change_unit(name) == ("%" if is_error(name) else "points")


def test_every_figure_has_its_change_and_its_unit():
    labels, scores = classes_of(1)
    worse = scores.copy()
    worse[:40] = worse[:40, ::-1]
    file, original = Scored.of("classification", labels, worse), Scored.of("classification", labels, scores)
    found = task_metrics(file, original, subject="probs", count=200)
    names = metric_names(file)
    assert [metric.name for metric in found] == [part for name in names for part in (name, f"{name}_change")]
    assert {metric.subject for metric in found} == {"probs"} and {metric.samples for metric in found} == {200}
    figures = figures_of(original, names)
    for name in names:
        figure, change = find_metric(found, name), find_metric(found, f"{name}_change")
        assert figure.unit == unit_of(name) == ("" if name == "roc_auc" else "share")
        assert change.unit == "points" and change.value == pytest.approx(100 * (figure.value - figures[name]))
        assert figure.low < figure.value < figure.high and change.low < change.value < change.high
        wilson = name in {"accuracy", "top5_accuracy"}
        assert figure.interval == ("95 % Wilson" if wilson else "95 % bootstrap, 200 resamples")
        assert change.interval == "95 % paired bootstrap, 200 resamples"
    assert (find_metric(found, "accuracy").low, find_metric(found, "accuracy").high) == wilson_interval(
        find_metric(found, "accuracy").value, 200
    )


def test_without_an_original_there_are_no_changes():
    labels, scores = classes_of(2)
    scored = Scored.of("classification", labels, scores)
    assert [metric.name for metric in task_metrics(scored, count=20)] == list(metric_names(scored))


def test_change_is_paired_over_samples():
    """Two samples of 400 differ: the interval of the change is far narrower than those of the figures."""
    labels, scores = classes_of(3, samples=400)
    other = scores.copy()
    other[:2] = 0
    file, original = (Scored.of("classification", labels, values) for values in (other, scores))
    figure, change = task_metrics(file, original, names=["f1_macro"])
    assert change.high - change.low < 0.2 * 100 * (figure.high - figure.low)


def test_same_seed_same_interval():
    labels, scores = classes_of(4)
    scored = Scored.of("classification", labels, scores)
    first, again, other = (task_metrics(scored, names=["f1_macro"], seed=seed)[0] for seed in (1, 1, 2))
    assert first == again and first != other


def test_change_of_an_error_that_was_none_has_a_reason():
    labels = np.array([[1.0], [2.0], [3.0]])
    file, original = Scored.of("regression", labels, labels + 0.5), Scored.of("regression", labels, labels)
    change = find_metric(task_metrics(file, original, count=20), "rmse_change")
    assert change.value is None and "rmse is 0" in change.why_absent and "0.5" in change.why_absent
    none = find_metric(task_metrics(original, original, count=20), "rmse_change")
    assert (none.value, none.low, none.high) == (0.0, 0.0, 0.0)


def test_interval_of_too_few_resamples_is_left_out():
    """One positive of many: a third of all resamples lack it; with one more such class the mean is over the other."""
    scored = Scored.of("anomaly", np.eye(30, dtype=int)[0], np.arange(30.0)[::-1])
    found = task_metrics(scored, names=["roc_auc"])[0]
    assert found.value == 1.0 and found.interval.startswith("95 % bootstrap, 6")


def test_interval_holds_its_figure():
    """Means over classes of two samples each are lower in nearly all resamples than in the data."""
    rng, labels = np.random.default_rng(0), np.arange(1000) // 2
    decided = np.where(rng.random(1000) < 0.5, labels, rng.integers(0, 500, 1000))
    original, perfect = (Scored.of("classification", labels, np.eye(500)[made]) for made in (decided, labels))
    (found,) = task_metrics(original, names=["f1_macro"])
    assert found.low < found.high == found.value
    change = task_metrics(perfect, original, names=["f1_macro"])[1]
    assert change.value == change.low < change.high


def test_large_data_say_that_only_the_linear_part_is_drawn(monkeypatch):
    labels, scores = classes_of(5)
    monkeypatch.setattr("edgewright.benchmarks.weighted._LIMIT", 0)
    scored = Scored.of("classification", labels, scores)
    auc, change, f1, _ = task_metrics(scored, scored, names=["roc_auc", "f1_macro"], count=20)
    assert auc.interval == "95 % linearised bootstrap, 20 resamples"
    assert change.interval == "95 % paired linearised bootstrap, 20 resamples"
    assert f1.interval == "95 % bootstrap, 20 resamples"


def test_every_task_has_a_primary_figure():
    assert set(PRIMARY) == set(TASKS)
    assert PRIMARY == {"classification": "accuracy", "multilabel": "f1_macro", "regression": "rmse", "anomaly": "roc_auc"}
