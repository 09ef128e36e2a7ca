"""Figures under weights against scikit-learn, on whole weights and on the data repeated; the bootstrap against simulation."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from edgewright.benchmarks import intervals, weighted
from edgewright.benchmarks.accuracy import metric_names
from edgewright.benchmarks.intervals import bootstrap, percentile_interval, resamples, share_change_interval
from edgewright.benchmarks.weighted import auc_influence, average_precision, mean_auc, statistic_of, top_hits, top_k_of
from edgewright.tasks import Scored

SEEDS = st.integers(0, 2**32 - 1)
UNTIMED = settings(deadline=None, max_examples=30)


def draw(seed, classes=4, samples=40):
    """Labels in which every class occurs, scores with many ties, weights some of which are 0."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, samples - classes)])
    scores = rng.integers(0, 5, (samples, classes)).astype(np.float32) / 4
    weights = rng.integers(0, 4, (samples, 3)).astype(np.float32)
    weights[:classes] = 1
    return rng, labels, scores, weights


def repeated(values, weights):
    return np.repeat(values, weights.astype(int), axis=0)


@UNTIMED
@given(SEEDS)
def test_auc_equals_scikit_learn_with_weights_and_ties(seed):
    rng, _, _, weights = draw(seed)
    labels = rng.permutation(np.arange(40) % 2)
    weights[np.r_[np.argmax(labels == 0), np.argmax(labels == 1)]] = 2
    scores = rng.integers(0, 6, 40) / 5
    found = mean_auc([(labels == 1, scores)])(weights)
    for column in range(3):
        expected = metrics.roc_auc_score(labels, scores, sample_weight=weights[:, column])
        assert found[column] == pytest.approx(expected, abs=1e-12)


@UNTIMED
@given(SEEDS)
def test_average_precision_equals_scikit_learn_with_weights_and_ties(seed):
    rng, _, _, weights = draw(seed)
    labels = rng.permutation(np.arange(40) % 2)
    weights[np.argmax(labels)] = 2
    scores = rng.integers(0, 6, 40) / 5
    found = average_precision(labels == 1, scores)(weights)
    for column in range(3):
        expected = metrics.average_precision_score(labels, scores, sample_weight=weights[:, column])
        assert found[column] == pytest.approx(expected, abs=1e-6)


def test_rankings_without_one_side_are_absent():
    weights = np.array([[1, 0, 1], [0, 1, 1], [1, 0, 0]], np.float32)
    positive, scores = np.array([True, False, True]), np.array([0.9, 0.1, 0.2])
    assert np.isnan(mean_auc([(positive, scores)])(weights)).tolist() == [True, True, False]
    assert np.isnan(average_precision(positive, scores)(weights)).tolist() == [False, True, False]
    second = (np.array([True, False, False]), np.array([0.0, 1.0, 1.0]))
    assert mean_auc([(positive, scores), second])(np.ones((3, 1), np.float32)).tolist() == [0.5]
    # Where one column has no positives, the mean is over the other.
    assert mean_auc([(positive, scores), second])(np.array([[0], [1], [1]], np.float32)).tolist() == [1.0]


@UNTIMED
@given(SEEDS)
def test_classification_equals_scikit_learn_on_repeated_samples(seed):
    _, labels, scores, weights = draw(seed)
    weights[labels == 3, 0] = 0  # a class that is in decisions only must count as scikit-learn counts it
    weights[0, 0] = 1
    scored = Scored.of("classification", labels, scores)
    names = [name for name in metric_names(scored) if name != "roc_auc"]
    found = statistic_of(scored, names)(weights)
    assert set(found) == set(names) and "top3_accuracy" in names
    for column in range(3):
        y, p, s = (repeated(values, weights[:, column]) for values in (labels, scored.decisions, scores))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = {
                "accuracy": metrics.accuracy_score(y, p),
                "top3_accuracy": metrics.top_k_accuracy_score(y, s, k=3, labels=range(4)),
                "balanced_accuracy": metrics.balanced_accuracy_score(y, p),
                "precision_macro": metrics.precision_score(y, p, average="macro", zero_division=0),
                "recall_macro": metrics.recall_score(y, p, average="macro", zero_division=0),
                "f1_macro": metrics.f1_score(y, p, average="macro", zero_division=0),
            }
        for name, value in expected.items():
            assert found[name][column] == pytest.approx(value, abs=1e-12), name


@UNTIMED
@given(SEEDS)
def test_auc_of_classes_equals_scikit_learn_on_repeated_samples(seed):
    _, labels, scores, weights = draw(seed)
    found = statistic_of(Scored.of("classification", labels, scores), ["roc_auc"])(weights)["roc_auc"]
    for column in range(3):
        y, s = (repeated(values, weights[:, column]) for values in (np.eye(4)[labels], scores))
        assert found[column] == pytest.approx(metrics.roc_auc_score(y, s, average="macro"), abs=1e-12)


@UNTIMED
@given(SEEDS)
def test_multilabel_equals_scikit_learn_on_repeated_samples(seed):
    rng, _, scores, weights = draw(seed)
    labels = rng.integers(0, 2, scores.shape).astype(np.int8)
    labels[0], labels[1] = 1, 0
    scored = Scored.of("multilabel", labels, scores)
    names = metric_names(scored)
    found = statistic_of(scored, names)(weights)
    for column in range(3):
        y, p, s = (repeated(values, weights[:, column]) for values in (labels, scored.decisions, scores))
        expected = {
            "f1_macro": metrics.f1_score(y, p, average="macro", zero_division=0),
            "f1_micro": metrics.f1_score(y, p, average="micro", zero_division=0),
            "precision_macro": metrics.precision_score(y, p, average="macro", zero_division=0),
            "recall_macro": metrics.recall_score(y, p, average="macro", zero_division=0),
            "exact_match": metrics.accuracy_score(y, p),
            "roc_auc": metrics.roc_auc_score(y, s, average="macro"),
        }
        assert set(expected) == set(names)
        for name, value in expected.items():
            assert found[name][column] == pytest.approx(value, abs=1e-12), name


def test_multilabel_counts_classes_that_do_not_occur():
    """As scikit-learn does, unlike for classes of which each sample has one."""
    scored = Scored.of("multilabel", np.int8([[1, 0], [1, 0]]), np.array([[0.9, 0.1], [0.1, 0.1]]))
    found = statistic_of(scored, ["f1_macro", "recall_macro"])(np.ones((2, 1), np.float32))
    assert found["f1_macro"][0] == pytest.approx(
        metrics.f1_score(scored.labels, scored.decisions, average="macro", zero_division=0)
    )
    assert found["recall_macro"][0] == 0.25


def test_multilabel_in_pieces_is_the_same(monkeypatch):
    rng, _, scores, weights = draw(7)
    labels = rng.integers(0, 2, scores.shape).astype(np.int8)
    statistic = statistic_of(Scored.of("multilabel", labels, scores), ["f1_macro"])
    whole = statistic(weights)["f1_macro"]
    monkeypatch.setattr(weighted, "_CHUNK", 40)
    assert statistic(weights)["f1_macro"] == pytest.approx(whole, abs=0)


@UNTIMED
@given(SEEDS, st.sampled_from([0.0, 1e9]))
def test_regression_equals_scikit_learn_on_repeated_samples(seed, offset):
    rng, _, _, weights = draw(seed)
    labels = rng.normal(size=(40, 3)) + offset
    labels[:, 2] = 4.0  # constant
    outputs = labels + rng.normal(size=(40, 3)) * np.array([0.1, 2.0, seed % 2])
    found = statistic_of(Scored.of("regression", labels, outputs), ("mae", "rmse", "r2"))(weights)
    for column in range(3):
        y, p = (repeated(values, weights[:, column]) for values in (labels, outputs))
        assert found["mae"][column] == pytest.approx(metrics.mean_absolute_error(y.ravel(), p.ravel()), rel=1e-9)
        assert found["rmse"][column] == pytest.approx(metrics.mean_squared_error(y.ravel(), p.ravel()) ** 0.5, rel=1e-9)
        assert found["r2"][column] == pytest.approx(metrics.r2_score(y, p), abs=1e-6 if offset else 1e-9)


@UNTIMED
@given(SEEDS, st.integers(1, 3))
def test_top_hits_have_the_order_of_scikit_learn(seed, k):
    _, labels, scores, _ = draw(seed)
    expected = metrics.top_k_accuracy_score(labels, scores, k=k, labels=range(4), normalize=False)
    assert top_hits(labels, scores, k).sum() == expected


def test_names_of_top_k_accuracy():
    assert [top_k_of(name) for name in ("top5_accuracy", "top12_accuracy", "accuracy", "top_accuracy", "topx_accuracy")] == [
        5,
        12,
        0,
        0,
        0,
    ]


# --- the linear part --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["classification", "anomaly", "multilabel", "regression"])
def test_linear_part_has_the_value_and_nearly_the_interval(monkeypatch, task):
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, 900)
    scores = rng.normal(size=(900, 3)) + 1.5 * np.eye(3)[labels]
    if task == "anomaly":
        labels, scores = (labels == 2).astype(int), scores[:, 2]
    elif task == "multilabel":
        labels = np.eye(3)[labels].astype(np.int8)
    elif task == "regression":
        labels = scores + rng.normal(size=(900, 3))
    scored = Scored.of(task, labels, np.round(scores, 1))  # with ties
    name = "r2" if task == "regression" else "roc_auc"
    ones = np.ones((900, 1), np.float32)
    (exact,) = bootstrap(900, [statistic_of(scored, [name])])
    value = statistic_of(scored, [name])(ones)[name][0]
    monkeypatch.setattr(weighted, "_LIMIT", 0)
    assert weighted.is_linearised(scored)
    (linear,) = bootstrap(900, [statistic_of(scored, [name])])
    assert statistic_of(scored, [name])(ones)[name][0] == pytest.approx(value, abs=1e-9)
    assert not np.array_equal(linear[name], exact[name])  # it is another computation
    assert np.corrcoef(linear[name], exact[name])[0, 1] > 0.99
    assert linear[name].std() == pytest.approx(exact[name].std(), rel=0.05)


@UNTIMED
@given(SEEDS)
def test_influence_on_auc_is_its_derivative(seed):
    """Against a numerical derivative of the weighted AUC."""
    rng = np.random.default_rng(seed)
    labels, scores = rng.permutation(np.arange(12) % 2), rng.integers(0, 5, 12) / 4
    scored = Scored.of("anomaly", labels, scores)
    value, influence = auc_influence(scored)
    assert value == pytest.approx(metrics.roc_auc_score(labels, scores), abs=1e-12)
    assert influence.sum() == pytest.approx(0.0, abs=1e-9)
    step = 1.0 / 512  # exact in float32
    moved = np.float32(1.0) + np.float32(step) * np.eye(12, dtype=np.float32)
    slope = (mean_auc([(labels == 1, scores)])(moved) - value) / step
    assert slope * 12 == pytest.approx(influence, abs=0.02)


# --- resamples and intervals ------------------------------------------------------------------------------------------


def test_resamples_are_draws_with_replacement_and_do_not_depend_on_blocks(monkeypatch):
    whole = np.concatenate(list(resamples(30, 200, 5)), axis=1)
    assert whole.shape == (30, 200) and whole.dtype == np.float32
    assert (whole.sum(axis=0) == 30).all() and (whole >= 0).all()
    assert whole.var() == pytest.approx(1 - 1 / 30, rel=0.1)  # multinomial: n p (1 - p)
    assert abs(whole.mean(axis=1) - 1).max() < 0.4
    monkeypatch.setattr(intervals, "_BLOCK", 30 * 7)
    blocks = list(resamples(30, 200, 5))
    assert len(blocks) == 29
    assert np.array_equal(np.concatenate(blocks, axis=1), whole)
    assert not np.array_equal(next(resamples(30, 200, 6)), blocks[0])


def test_bootstrap_interval_covers_the_truth():
    """The mean error of 80 draws of an exponential distribution, 200 times: about 95 % of all intervals hold 1."""
    rng, inside = np.random.default_rng(1), 0
    for trial in range(200):
        outputs = rng.exponential(size=(80, 1))
        (found,) = bootstrap(80, [statistic_of(Scored.of("regression", np.zeros((80, 1)), outputs), ["mae"])], seed=trial)
        low, high, usable = percentile_interval(found["mae"])
        inside += low <= 1.0 <= high
        assert usable == 1000
    assert 0.88 <= inside / 200 <= 0.99


def test_paired_statistics_see_the_same_resamples():
    rng = np.random.default_rng(2)
    labels, outputs = np.zeros((50, 1)), rng.normal(size=(50, 1))
    scored = [Scored.of("regression", labels, values) for values in (outputs, outputs * 2)]
    first, second = bootstrap(50, [statistic_of(item, ["rmse"]) for item in scored], count=100)
    assert second["rmse"] == pytest.approx(2 * first["rmse"])


def test_interval_of_resamples_that_lack_the_figure():
    values = np.arange(101.0)
    assert percentile_interval(values) == pytest.approx((2.5, 97.5, 101))
    assert percentile_interval(np.append(values, [np.nan] * 101)) == pytest.approx((2.5, 97.5, 101))
    assert percentile_interval(np.append(values, [np.nan] * 102)) is None
    assert percentile_interval(np.array([])) is None


def test_interval_of_a_change_of_shares_is_that_of_drawn_samples():
    right = np.array([0] * 20 + [1] * 80)
    after = np.array([1] * 8 + [0] * 12 + [0] * 14 + [1] * 66)
    drawn = np.random.default_rng(0).integers(0, 100, (4000, 100))
    expected = np.percentile(100 * (after - right)[drawn].mean(axis=1), (2.5, 97.5))
    assert share_change_interval(8, 14, 100, count=4000) == pytest.approx(tuple(expected), abs=1.01)
    assert share_change_interval(0, 0, 100) == (0.0, 0.0)
    assert share_change_interval(0, 5, 5) == (-100.0, -100.0)
