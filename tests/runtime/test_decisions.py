"""Smoothed decisions and learned thresholds, against plain arithmetic."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewright.errors import SamplesError, ShapeError, UsageError
from edgewright.runtime.decisions import AnomalyThreshold, Decider, Decision, Smoothing, learn_threshold, threshold_interval
from edgewright.runtime.frames import Array


def decided(text: str, scores: Array) -> list[Decision]:
    decider = Decider(Smoothing.parse(text))
    return [decider.update(row) for row in scores]


def classes(decisions: list[Decision]) -> list[int]:
    return [decision.class_index for decision in decisions]


def singles(*scores: float) -> Array:
    return np.array(scores)[:, np.newaxis]


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(2, 5), st.floats(0.05, 1.0))
def test_means_and_votes_are_plain_arithmetic(seed, size, count, alpha):
    scores = np.random.default_rng(seed).dirichlet(np.ones(count), 40)
    means = np.stack([scores[max(0, at - size + 1) : at + 1].mean(axis=0) for at in range(40)])
    found = decided(f"mean:{size}", scores)
    assert classes(found) == means.argmax(axis=1).tolist()
    np.testing.assert_allclose([decision.score for decision in found], means.max(axis=1), rtol=1e-12)

    level, levels = scores[0], []
    for row in scores:
        level = row if not levels else alpha * row + (1 - alpha) * level
        levels.append(level)
    found = decided(f"ema:{alpha}", scores)
    np.testing.assert_allclose([decision.score for decision in found], np.max(levels, axis=1), rtol=1e-9)

    best = scores.argmax(axis=1).tolist()
    for at, decision in enumerate(decided(f"vote:{size}", scores)):
        votes = best[max(0, at - size + 1) : at + 1]
        counts = Counter(votes)
        tied = [vote for vote in votes if counts[vote] == max(counts.values())]
        assert decision.class_index == tied[-1]
        assert decision.score == counts[tied[-1]] / len(votes)

    found = decided("none", scores)
    assert classes(found) == best
    assert [decision.changed for decision in found] == [True, *(one != other for one, other in pairwise(best))]


def test_another_class_needs_enter_or_the_present_one_below_leave():
    scores = np.array([[0.6, 0.4], [0.45, 0.55], [0.3, 0.7], [0.55, 0.45], [0.75, 0.25]])
    assert classes(decided("none", scores)) == [0, 1, 1, 0, 0]
    assert classes(decided("none,enter=0.7", scores)) == [0, 0, 1, 1, 0]
    assert classes(decided("none,leave=0.4", scores)) == [0, 0, 1, 1, 0]
    assert classes(decided("none,enter=0.7,leave=0.46", scores)) == [0, 1, 1, 0, 0]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 6))
def test_a_decision_stays_as_long_as_is_declared(seed, hold):
    scores = np.random.default_rng(seed).uniform(size=(60, 3))
    changes = [at for at, decision in enumerate(decided(f"none,hold={hold}", scores)) if decision.changed]
    assert min(np.diff(changes), default=99) >= max(1, hold)
    assert hold > 1 or changes[1:] == (np.flatnonzero(np.diff(scores.argmax(axis=1))) + 1).tolist()


def test_a_single_score_has_two_thresholds():
    scores = singles(0.1, 0.65, 0.7, 0.5, 0.41, 0.39, 0.6)
    assert classes(decided("none,enter=0.7,leave=0.4", scores)) == [0, 0, 1, 1, 1, 0, 0]
    assert classes(decided("none", scores)) == [0, 1, 1, 1, 0, 0, 1]
    assert decided("none", scores)[0].score == pytest.approx(0.1)
    found = decided("vote:3,enter=0.6", singles(0, 1, 0, 1, 1, 0, 0))
    assert classes(found) == [0, 1, 0, 1, 1, 1, 0]
    assert [decision.score for decision in found] == pytest.approx([1, 1 / 2, 2 / 3, 2 / 3, 2 / 3, 2 / 3, 2 / 3])


def test_reset_forgets_all():
    decider = Decider(Smoothing.parse("mean:5,enter=0.9"))
    decider.update(np.array([1.0, 0.0]))
    decider.reset()
    assert decider.update(np.array([0.1, 0.7, 0.2])) == Decision(1, pytest.approx(0.7), True)


def test_scores_that_decide_nothing_are_refused_and_change_nothing():
    decider = Decider(Smoothing.parse("ema:0.5"))
    decider.update(np.array([0.0, 1.0]))
    with pytest.raises(SamplesError, match="1 NaN or infinite values of 2"):
        decider.update(np.array([np.nan, 1.0]))
    with pytest.raises(ShapeError, match=r"\(3,\), those before have \(2,\)"):
        decider.update(np.zeros(3))
    with pytest.raises(ShapeError, match=r"expected are numbers of shape \(classes,\)"):
        decider.update(np.zeros((1, 2)))
    assert decider.update(np.array([1.0, 1.0])).score == 1.0


def test_a_declaration_is_read_from_text_and_json():
    for text, wanted in {
        "none": Smoothing(),
        "mean:5, enter=0.7, leave=0.4, hold=3": Smoothing("mean", 5, enter=0.7, leave=0.4, hold=3),
        "ema:0.25": Smoothing("ema", alpha=0.25),
        "vote:7": Smoothing("vote", 7),
    }.items():
        assert Smoothing.parse(text) == wanted
        assert Smoothing.from_json(wanted.to_json()) == wanted
    with pytest.raises(UsageError, match="unknown settings: window"):
        Smoothing.from_json({"method": "none", "window": 3})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "smoothing '' is unknown.*mean:N"),
        ("median:3", "'median:3' is unknown"),
        ("mean", "'mean' is unknown"),
        ("none:3", "'none:3' is unknown"),
        ("mean:x", "must be a whole number"),
        ("vote:0", "size is 0"),
        ("ema:0", "alpha is 0"),
        ("ema:1.1", "alpha is 1.1"),
        ("none,enter=nan", "enter is nan"),
        ("none,enter=0.3,leave=0.5", "leave must not be above enter"),
        ("none,hold=-1", "hold is -1"),
        ("none,hold=1,hold=2", "sets hold twice"),
        ("none,size=1", "no setting 'size=1'"),
    ],
)
def test_a_wrong_declaration_is_refused(text, message):
    with pytest.raises(UsageError, match=message):
        Smoothing.parse(text)


# --- thresholds -------------------------------------------------------------------------------------------------------


def test_a_threshold_is_an_order_statistic():
    scores = np.random.default_rng(0).permutation(np.arange(1, 1000))  # 999 scores: (n + 1) * 0.99 is 990
    assert learn_threshold(scores) == 990
    assert learn_threshold(np.arange(100.0)) == 99
    assert learn_threshold(np.arange(10), 0.1) == 9
    assert learn_threshold(np.zeros(100)) == 0


def test_the_share_of_false_alarms_holds_on_average():
    rng = np.random.default_rng(1)
    shares = [np.mean(rng.normal(size=2000) > learn_threshold(rng.normal(size=199), 0.05)) for _ in range(400)]
    assert np.mean(shares) == pytest.approx(0.05, abs=0.003)


def test_the_interval_is_the_binomial_one_and_covers():
    def below(limit: int, count: int, share: float) -> float:
        return sum(math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(limit))

    for count, share in ((200, 0.05), (500, 0.01), (60, 0.3)):
        low, high = threshold_interval(np.arange(count), share)
        few = max(k for k in range(count) if below(k, count, share) <= 0.025)
        many = min(k for k in range(count) if 1 - below(k + 1, count, share) <= 0.025)
        assert high == (math.inf if few == 0 else count - few)
        assert low == count - 1 - many
        assert low <= learn_threshold(np.arange(count), share) <= high
    rng, true = np.random.default_rng(2), 1.6448536269514722  # the normal distribution's 95 % quantile
    covered = [low <= true < high for low, high in (threshold_interval(rng.normal(size=200), 0.05) for _ in range(500))]
    assert np.mean(covered) >= 0.93
    assert threshold_interval(np.arange(100), 0.01)[1] == math.inf


def test_too_few_scores_and_wrong_ones_are_refused():
    with pytest.raises(SamplesError, match=r"1\.000% false alarms needs 100 scores of normal data or more, there are 99"):
        learn_threshold(np.zeros(99))
    with pytest.raises(SamplesError, match="1 of 100 scores are NaN"):
        learn_threshold(np.append(np.zeros(99), np.nan))
    with pytest.raises(ShapeError, match="expected are numbers"):
        learn_threshold(np.zeros((10, 10)))
    for share in (0.0, 1.0, float("nan")):
        with pytest.raises(UsageError, match="above 0 and below 1"):
            learn_threshold(np.zeros(100), share)
    with pytest.raises(UsageError, match="confidence"):
        threshold_interval(np.zeros(100), 0.01, 1.0)


@pytest.mark.parametrize("method", ["none", "mean:4", "ema:0.5", "vote:5"])
def test_a_streaming_threshold_learns_then_decides(method):
    rng = np.random.default_rng(3)
    learner = AnomalyThreshold(400, 0.02, Smoothing.parse(method))
    normal = rng.gamma(2.0, size=2400)
    found = [learner.update(float(score)) for score in normal]
    assert found[:400] == [None] * 400
    assert all(found[400:])
    alarms = np.mean([decision.class_index for decision in found[400:] if decision])
    assert alarms < 0.05
    assert learner.interval is not None
    assert learner.threshold is not None
    assert learner.interval[0] <= learner.threshold <= learner.interval[1]
    last = [learner.update(50.0) for _ in range(5)][-1]
    assert last is not None
    assert last.class_index == 1


def test_equal_normal_scores_are_no_anomalies():
    learner = AnomalyThreshold(100)
    for _ in range(100):
        assert learner.update(0.25) is None
    assert learner.threshold == 0.25
    for score, wanted in ((0.25, 0), (0.2501, 1), (0.25, 0)):
        decision = learner.update(score)
        assert decision is not None
        assert decision.class_index == wanted


def test_a_streaming_threshold_refuses_what_it_cannot_do():
    with pytest.raises(UsageError, match=r"learned from 50 windows, 1\.000% false alarms need 100 or more"):
        AnomalyThreshold(50)
    with pytest.raises(UsageError, match="declares enter or leave"):
        AnomalyThreshold(100, smoothing=Smoothing(enter=0.5))
    learner = AnomalyThreshold(100)
    with pytest.raises(SamplesError, match="NaN"):
        learner.update(float("nan"))
