"""Answers over time: single scores that are smoothed, gaps, thresholds that are learned."""

from itertools import pairwise

import numpy as np
import pytest

from edgewright.artifact import ModelMeta
from edgewright.errors import UsageError
from edgewright.runtime.answers import Answerer, Meaning
from edgewright.runtime.decisions import Smoothing


def answered(answerer, scores):
    """Answers to single scores; those of an anomaly are squares, as a reconstruction of 0 has them."""
    return [answerer({"y": np.array([score], np.float32)}, np.zeros(1, np.float32), None) for score in scores]


@pytest.mark.parametrize(
    ("smoothing", "threshold", "scores", "classes"),
    [
        ("mean:2", None, [0.25, 0.75, 1.0, 0.0, 0.0], [0, 1, 1, 1, 0]),
        ("mean:2", 0.75, [1.0, 0.5, 1.0, 0.875], [1, 0, 0, 1]),
        ("none,enter=0.75,leave=0.25", None, [0.5, 0.75, 0.5, 0.25, 0.125], [0, 1, 1, 1, 0]),
        ("none,enter=0.75", 0.25, [0.5, 0.75], [0, 1]),
    ],
)
def test_a_single_score_is_smoothed_and_has_two_thresholds(smoothing, threshold, scores, classes):
    meaning = Meaning("classification", ("no", "yes"), threshold=threshold, smoothing=Smoothing.parse(smoothing))
    found = answered(Answerer(meaning, ["y"], None), scores)
    assert [one["class"] for one in found] == classes
    assert [one["label"] for one in found] == [meaning.labels[one] for one in classes]
    assert [one["changed"] for one in found] == [True, *(a != b for a, b in pairwise(classes))]
    if smoothing == "mean:2":
        assert [one["score"] for one in found] == [
            scores[0],
            *((a + b) / 2 for a, b in pairwise(scores)),
        ]


def test_a_learned_threshold_outlives_a_gap_and_what_was_smoothed_does_not():
    answerer = Answerer(Meaning("anomaly", learn=100, smoothing=Smoothing.parse("mean:5")), ["y"], None)
    learning = answered(answerer, [0.0] * 60)
    answerer.reset()
    learning += answered(answerer, [0.0] * 40)
    assert all(one["anomaly"] is None for one in learning)
    assert answered(answerer, [2.0, 0.0]) == [
        {"anomaly": True, "score": 0.8, "threshold": 0.0},
        {"anomaly": True, "score": 0.8, "threshold": 0.0},
    ]
    answerer.reset()
    assert answered(answerer, [0.0]) == [{"anomaly": False, "score": 0.0, "threshold": 0.0}]


def test_a_declared_threshold_is_learned_anew_if_that_is_asked_for():
    meta = ModelMeta(task="anomaly", extra={"threshold": 0.5})
    assert Meaning.of(meta).threshold == 0.5 and Meaning.of(meta, threshold=0.25).threshold == 0.25
    (answer,) = answered(Answerer(Meaning.of(meta, learn=100), ["y"], None), [0.0])
    assert answer["learning"]
    with pytest.raises(UsageError, match=r"threshold of an anomaly is 0\.25, and is to be learned from 100 windows"):
        Meaning.of(meta, learn=100, threshold=0.25)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": "regression", "smoothing": Smoothing.parse("mean:3")}, "smoothing is given, which the task regression"),
        ({"smoothing": Smoothing.parse("mean:3")}, "smoothing is given, which a model without a task"),
        ({"task": "multilabel", "track": True}, "track is given, which the task multilabel"),
        ({"labels": ("no", "yes"), "learn": 5}, "learn is given, which the task classification"),
        ({"task": "regression", "threshold": 0.5}, "threshold is given, which the task regression"),
    ],
)
def test_what_a_task_has_no_use_for_is_refused(given, message):
    with pytest.raises(UsageError, match=message) as caught:
        Meaning.of(ModelMeta(), **given)
    assert "leave --" in caught.value.hint


def test_what_an_artifact_declares_is_no_mistake_of_the_users():
    declared = ModelMeta(task="regression", extra={"threshold": 0.5, "smoothing": Smoothing.parse("mean:3").to_json()})
    assert Meaning.of(declared).task == "regression"


def test_scores_are_logits_from_the_first_one_on_that_is_no_probability():
    answerer = Answerer(Meaning(task="classification"), ["y"], None)
    found = [answerer({"y": np.array([score])}, np.empty(0), None)["class"] for score in (0.2, 0.6, 1.5, 0.2, -0.2, 0.4)]
    assert found == [0, 1, 1, 1, 0, 1]


@pytest.mark.parametrize("threshold", [float("nan"), float("inf")])
def test_thresholds_that_nothing_reaches_are_refused(threshold):
    with pytest.raises(UsageError, match="it must be a finite number"):
        Meaning(task="anomaly", threshold=threshold)
