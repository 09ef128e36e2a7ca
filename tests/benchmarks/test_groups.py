"""Groups and flips on arrays small enough to count by hand."""

import numpy as np
import pytest
from sklearn import metrics

from edgewright.benchmarks.groups import Pair, class_groups, find_flips, slice_groups
from edgewright.tasks import Scored


def pair_of(task, labels, file, original=None, classes=("cat", "dog", "owl"), threshold=None, output="probs"):
    scored = [
        None if scores is None else Scored.of(task, np.array(labels), np.array(scores, float), threshold)
        for scores in (file, original)
    ]
    return Pair(output, *scored, classes)


def sure(*decisions, score=1.0):
    """Scores that decide for given classes."""
    return [[score if at == decision else 0.0 for at in range(3)] for decision in decisions]


LABELS = [0, 0, 0, 0, 1, 1]
ORIGINAL = sure(0, 0, 0, 1, 0, 1)
FILE = sure(0, 1, 2, 0, 1, 1)


def test_classes_worst_change_first():
    cat, dog, owl = [
        next(g for g in class_groups([pair_of("classification", LABELS, FILE, ORIGINAL)]) if g.value == name)
        for name in ("cat", "dog", "owl")
    ]
    assert (cat.samples, cat.original, cat.file, cat.change, cat.broken, cat.fixed) == (4, 0.75, 0.5, -25.0, 2, 1)
    assert cat.low <= -75 and cat.high >= 25 and cat.low < cat.change < cat.high
    assert (dog.samples, dog.original, dog.file, dog.change, dog.broken, dog.fixed) == (2, 0.5, 1.0, 50.0, 0, 1)
    assert (owl.samples, owl.original, owl.file, owl.change, owl.low) == (0, None, None, None, None)
    assert (cat.kind, cat.group, cat.metric, cat.unit) == ("class", "probs", "recall", "share")
    assert [g.value for g in class_groups([pair_of("classification", LABELS, FILE, ORIGINAL)])] == ["cat", "dog", "owl"]


def test_classes_of_all_outputs_are_sorted_together():
    first = pair_of("classification", LABELS, FILE, ORIGINAL)
    second = pair_of("classification", LABELS, sure(1, 1, 1, 1, 1, 1), sure(0, 0, 0, 0, 0, 1), output="other")
    found = [(g.group, g.value, g.change) for g in class_groups([first, second])]
    assert found[:4] == [("other", "cat", -100.0), ("probs", "cat", -25.0), ("probs", "dog", 50.0), ("other", "dog", 50.0)]


def test_classes_without_an_original_lowest_first():
    found = class_groups([pair_of("classification", [0, 0, 1, 1], sure(0, 0, 1, 0))])
    assert [(g.value, g.file, g.original, g.change, g.low) for g in found] == [
        ("dog", 0.5, None, None, None),
        ("cat", 1.0, None, None, None),
        ("owl", None, None, None, None),
    ]


def test_classes_of_several_labels_and_of_anomalies():
    found = class_groups(
        [pair_of("multilabel", [[1, 0], [1, 1], [0, 1]], [[0.9, 0.9], [0.1, 0.9], [0.9, 0.9]], classes=("a", "b"))]
    )
    assert [(g.value, g.samples, g.file) for g in found] == [("a", 2, 0.5), ("b", 2, 1.0)]
    anomaly = pair_of("anomaly", [0, 0, 0, 1], [0.1, 0.2, 3.0, 4.0], classes=("normal", "anomaly"), threshold=1.0)
    assert [(g.value, g.samples, g.file) for g in class_groups([anomaly])] == [("normal", 3, 2 / 3), ("anomaly", 1, 1.0)]


def test_numbers_have_no_classes_and_no_flips():
    pair = pair_of("regression", [[1.0], [2.0]], [[1.0], [2.0]], [[1.0], [9.0]], ())
    assert class_groups([pair]) == [] and find_flips([pair], {}) is None


def test_slices_worst_change_first():
    slices = {"site": np.array(["b", "b", "a", "a", "a", "b"]), "size": np.array([1, 2, 1, 2, 1, 2])}
    found, warnings = slice_groups(pair_of("classification", LABELS, FILE, ORIGINAL), slices, "accuracy")
    assert not warnings and {g.kind for g in found} == {"slice"} and {g.unit for g in found} == {"share"}
    by_name = {(g.group, g.value): g for g in found}
    site = by_name["site", "a"]  # samples 2, 3, 4: original right, wrong, wrong; file wrong, right, right
    assert (site.samples, site.original, site.file, site.broken, site.fixed) == (
        3,
        pytest.approx(1 / 3),
        pytest.approx(2 / 3),
        1,
        2,
    )
    assert site.change == pytest.approx(100 / 3) and site.low < site.change < site.high
    changes = [g.change for g in found]
    assert changes == sorted(changes) and len(found) == 4
    assert by_name["site", "b"].change == pytest.approx(-100 / 3)


def test_slices_by_error_have_relative_changes_and_the_worst_first():
    labels, original = np.zeros((8, 1)), np.ones((8, 1))
    file = np.array([[1.0]] * 4 + [[1.5]] * 4)
    slices = {"site": np.array(["a"] * 4 + ["b"] * 4)}
    found, _ = slice_groups(pair_of("regression", labels, file, original, ()), slices, "rmse")
    assert [(g.value, g.unit, g.original, g.file, g.change) for g in found] == [
        ("b", "", 1.0, 1.5, pytest.approx(-50.0)),
        ("a", "", 1.0, 1.0, 0.0),
    ]
    assert (found[0].broken, found[0].fixed) == (0, 0)
    alone, _ = slice_groups(pair_of("regression", labels, file, None, ()), slices, "rmse")
    assert [(g.value, g.file, g.original) for g in alone] == [("b", 1.5, None), ("a", 1.0, None)]


def test_slices_by_auc_and_a_slice_that_has_none():
    labels, scores = [0, 1, 0, 1, 0, 0], [0.1, 0.4, 0.35, 0.3, 0.2, 0.1]
    pair = pair_of("anomaly", labels, scores, [0.0, 1, 0, 1, 0, 0], ("normal", "anomaly"))
    found, _ = slice_groups(pair, {"site": np.array(["a"] * 4 + ["b"] * 2)}, "roc_auc")
    assert [(g.value, g.original) for g in found] == [("a", 1.0), ("b", None)]
    assert found[0].file == pytest.approx(metrics.roc_auc_score(labels[:4], scores[:4]))
    assert found[1].file is None and found[1].change is None and found[1].samples == 2


def test_slices_that_are_no_grouping_are_left_out_with_a_warning():
    labels = np.zeros(120, int)
    pair = pair_of("classification", labels, sure(*labels))
    slices = {"id": np.arange(120) % 51, "box": np.zeros((120, 2)), "site": np.array([b"a"] * 120)}
    found, warnings = slice_groups(pair, slices, "accuracy")
    assert [(g.group, g.value, g.samples) for g in found] == [("site", "a", 120)]
    assert len(warnings) == 2 and "'id' has 51" in warnings[0] and "more than 50" in warnings[0] and "(120, 2)" in warnings[1]


def test_flips_broken_first_and_the_surest_first():
    file = sure(0, 1, 2, 0, 1, 1)
    file[1], file[2] = [0.2, 0.6, 0.2], [0.1, 0.0, 0.9]
    labels = [0, 0, 0, 0, 1, 2]
    original = sure(0, 0, 0, 1, 0, 0, score=0.7)
    flips = find_flips([pair_of("classification", labels, file, original)], {"site": np.array(list("abcdef"))})
    assert (flips.samples, flips.broken, flips.fixed, flips.neither) == (6, 2, 2, 1)
    assert [(f.index, f.effect, f.label, f.original, f.file) for f in flips.listed] == [
        (2, "broken", "cat", "cat", "owl"),
        (1, "broken", "cat", "cat", "dog"),
        (3, "fixed", "cat", "dog", "cat"),
        (4, "fixed", "dog", "cat", "dog"),
        (5, "neither", "owl", "cat", "dog"),
    ]
    first = flips.listed[0]
    assert (first.output, first.original_score, first.file_score, first.slices) == ("probs", 0.7, 0.9, {"site": "c"})


def test_flips_are_counted_in_full_and_listed_in_part():
    labels = np.zeros(300, int)
    pair = pair_of("classification", labels, sure(*labels + 1), sure(*labels))
    flips = find_flips([pair], {})
    assert (flips.broken, len(flips.listed)) == (300, 200)
    assert [f.index for f in flips.listed] == list(range(200))
    unequal = pair_of("classification", [0] * 3, [*sure(1, score=0.6), *sure(1, score=0.9), *sure(1, score=0.7)], sure(0, 0, 0))
    assert [f.index for f in find_flips([unequal], {}, listed=1).listed] == [1]


def test_flips_of_all_outputs_are_listed_together():
    first = pair_of("classification", [0], sure(1, score=0.6), sure(0))
    second = pair_of("classification", [0], sure(1, score=0.8), sure(0), output="other")
    flips = find_flips([first, second], {})
    assert flips.samples == 2 and [f.output for f in flips.listed] == ["other", "probs"]


def test_no_original_no_flips():
    assert find_flips([pair_of("classification", LABELS, FILE)], {}) is None


@pytest.mark.parametrize(
    ("scores", "threshold", "expected"),
    [
        ([0.9, 0.2], 0.5, [("broken", 0.8), ("broken", 0.9)]),  # probabilities; the surer one is farther from 0.5
        ([3.0, -5.0], 0.0, [("broken", 5.0), ("broken", 3.0)]),  # logits
    ],
)
def test_flips_of_one_score_per_sample(scores, threshold, expected):
    other = [2 * threshold - score for score in scores]
    pair = pair_of("classification", [0, 1], scores, other, ("no", "yes"), threshold)
    listed = find_flips([pair], {}).listed
    assert sorted((f.effect, f.file_score) for f in listed) == [(e, pytest.approx(s)) for e, s in sorted(expected)]
    assert listed[0].index == int(np.argmax(np.abs(np.array(scores) - threshold)))
    assert {(f.label, f.file) for f in listed} == {("no", "yes"), ("yes", "no")}


def test_flips_of_several_labels_compare_sets():
    pair = pair_of("multilabel", [[1, 1], [0, 0]], [[0.9, 0.3], [0.1, 0.2]], [[0.9, 0.8], [0.9, 0.1]], ("a", "b"))
    broken, fixed = find_flips([pair], {}).listed
    assert (broken.label, broken.original, broken.file, broken.effect) == ("a, b", "a, b", "a", "broken")
    assert broken.file_score == pytest.approx(0.7)  # of the class that is nearest to the threshold: not b
    assert (fixed.label, fixed.original, fixed.file, fixed.effect) == ("none", "a", "none", "fixed")


def test_flips_of_anomalies_show_the_anomaly_score():
    pair = pair_of("anomaly", [0, 1], [2.5, 0.5], [0.1, 4.0], ("normal", "anomaly"), 1.0)
    listed = find_flips([pair], {}).listed
    assert [(f.index, f.label, f.original, f.file, f.original_score, f.file_score) for f in listed] == [
        (0, "normal", "normal", "anomaly", 0.1, 2.5),
        (1, "anomaly", "anomaly", "normal", 4.0, 0.5),
    ]
