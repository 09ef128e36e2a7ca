"""How good boxes are: average precision and recall as COCO defines them, each with an interval and its change.

Detections are matched with true boxes greedily, best score first, at ten IoU thresholds from 0.50 to 0.95 (T.-Y. Lin et al.,
"Microsoft COCO: Common Objects in Context", ECCV 2014, and its reference evaluation; at most 100 detections of an image and
class). Precision is made monotone and read at 101 recalls. Crowds take any number of detections, which then count for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from edgewright.benchmarks.intervals import RESAMPLES, bootstrap, percentile_interval
from edgewright.detection import Boxes
from edgewright.report import GroupChange, Metric

__all__ = ["FIGURES", "Matched", "detection_groups", "detection_metrics", "figures_under", "match"]

Array = np.ndarray[Any, Any]

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MOST = 100

FIGURES = ("map", "map_50", "map_75", "recall_100")
"""Mean average precision over all thresholds, at IoU 0.50, at 0.75; mean of the largest recalls with 100 detections."""


@dataclass(frozen=True, slots=True, eq=False)
class _Class:
    """All detections of one class, best first.

    Args:
        right: bool (10, detections): matched with a true box at each threshold.
        ignored: bool (10, detections): matched with a crowd.
        image: int (detections,): number of the image.
        truths: int (images,): how many true boxes that are no crowds each image has.
    """

    right: Array
    ignored: Array
    image: Array
    truths: Array


@dataclass(frozen=True, slots=True)
class Matched:
    """The detections of a model, matched with the truth.

    Args:
        classes: one entry per class.
        images: how many images there are.
        invalid: candidates that were dropped for NaN or infinite values.
    """

    classes: tuple[_Class, ...]
    images: int
    invalid: int = 0


def match(found: Sequence[Boxes], truth: Array, classes: int) -> Matched:
    """Match what was found in each image with what is there.

    Args:
        found: one per image.
        truth: (images, most, 5 or 6): left, top, right, bottom, class, 1 for a crowd; NaN behind an image's last box.
        classes: number of classes; boxes of other classes are wrong ones of no class and are left out.
    """
    parts: list[list[tuple[Array, Array, Array, int]]] = [[] for _ in range(classes)]
    truths = np.zeros((classes, len(found)), np.int64)
    for at, (boxes, rows) in enumerate(zip(found, truth, strict=True)):
        there = rows[np.isfinite(rows[:, :5]).all(axis=1)]
        kinds = there[:, 4].astype(np.int64)
        crowd = there[:, 5] > 0 if there.shape[1] > 5 else np.zeros(len(there), bool)
        for kind in np.union1d(np.unique(kinds), np.unique(boxes.classes)):
            if not 0 <= kind < classes:
                continue
            mine, own = kinds == kind, boxes.classes == kind
            truths[kind, at] = int((mine & ~crowd).sum())
            order = np.argsort(-boxes.scores[own], kind="mergesort")[:MOST]
            if len(order):
                right, ignored = _matched(boxes.boxes[own][order], there[mine, :4], crowd[mine])
                parts[kind].append((boxes.scores[own][order], right, ignored, at))
    joined = tuple(_joined(parts[kind], truths[kind]) for kind in range(classes))
    return Matched(joined, len(found), sum(boxes.invalid for boxes in found))


def _matched(boxes: Array, truths: Array, crowd: Array) -> tuple[Array, Array]:
    """Which detections of one image and class, best first, are right, and which fall on a crowd: bool (10, detections) each."""
    right, ignored = np.zeros((2, len(IOUS), len(boxes)), bool)
    if not len(truths):
        return right, ignored
    first = np.argsort(crowd, kind="mergesort")  # crowds last
    truths, crowd = truths[first], crowd[first]
    overlap = _overlaps(boxes.astype(np.float64), truths, crowd)
    for level, least in enumerate(IOUS):
        taken = np.zeros(len(truths), bool)
        for at in range(len(boxes)):
            best, where = min(least, 1 - 1e-10), -1
            for candidate in range(len(truths)):
                if taken[candidate] and not crowd[candidate]:
                    continue
                if where >= 0 and not crowd[where] and crowd[candidate]:
                    break
                if overlap[at, candidate] >= best:
                    best, where = overlap[at, candidate], candidate
            if where >= 0:
                taken[where] = True
                (ignored if crowd[where] else right)[level, at] = True
    return right, ignored


def _overlaps(boxes: Array, truths: Array, crowd: Array) -> Array:
    """IoU (boxes, truths); with a crowd the share of the box that lies in it."""
    inner = np.minimum(boxes[:, None, 2:], truths[:, 2:]) - np.maximum(boxes[:, None, :2], truths[:, :2])
    shared = np.prod(np.maximum(inner, 0.0), axis=2)
    own, other = (np.prod(corners[:, 2:] - corners[:, :2], axis=1) for corners in (boxes, truths))
    union = np.where(crowd, own[:, None], own[:, None] + other - shared)
    return np.asarray(shared / np.where(union > 0, union, 1.0))


def _joined(parts: Sequence[tuple[Array, Array, Array, int]], truths: Array) -> _Class:
    """The detections of all images, best first; equal scores in the order of the images."""
    if not parts:
        none = np.zeros((len(IOUS), 0), bool)
        return _Class(none, none, np.zeros(0, np.int64), truths)
    order = np.argsort(-np.concatenate([part[0] for part in parts]), kind="mergesort")
    image = np.repeat([part[3] for part in parts], [len(part[0]) for part in parts])[order]
    right, ignored = (np.concatenate([part[place] for part in parts], axis=1)[:, order] for place in (1, 2))
    return _Class(right, ignored, image, truths)


# --- figures ----------------------------------------------------------------------------------------------------------


def figures_under(matched: Matched, weights: Array) -> dict[str, Array]:
    """Figures when each image counts with a weight; with weights of 1 those of the reference evaluation.

    Args:
        matched: of `match`.
        weights: (images, resamples).

    Returns:
        `FIGURES`, and `ap:N` for each class N, float64 (resamples,); NaN where there is no true box.
    """
    averages, recalls = zip(*(_of_class(one, weights) for one in matched.classes), strict=True)
    precision, recall = np.stack(averages), np.stack(recalls)  # (classes, 10, resamples)
    with np.errstate(invalid="ignore"):
        per_class = precision.mean(axis=1)
        found = {
            "map": _mean(per_class),
            "map_50": _mean(precision[:, 0]),
            "map_75": _mean(precision[:, 5]),
            "recall_100": _mean(recall.mean(axis=1)),
        }
    return found | {f"ap:{kind}": per_class[kind] for kind in range(len(matched.classes))}


def _mean(values: Array) -> Array:
    """Mean over the classes that have a value."""
    known = np.isfinite(values)
    counts = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.where(counts > 0, total / np.maximum(counts, 1), np.nan)


def _of_class(one: _Class, weights: Array) -> tuple[Array, Array]:
    """Average precision and largest recall at each threshold: float64 (10, resamples) each; NaN without true boxes."""
    weights = weights.astype(np.float64)
    positives = one.truths @ weights
    average, largest = np.zeros((2, len(IOUS), weights.shape[1]))
    own = weights[one.image]
    for level in range(len(IOUS)):
        hits = np.cumsum(own * one.right[level][:, None], axis=0)
        misses = np.cumsum(own * (~one.right[level] & ~one.ignored[level])[:, None], axis=0)
        if not len(hits):
            continue
        recall = hits / np.maximum(positives, 1e-300)
        precision = hits / np.maximum(hits + misses, np.spacing(1))
        precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        largest[level] = recall[-1]
        for column in range(weights.shape[1]):
            places = np.searchsorted(recall[:, column], RECALLS, side="left")
            inside = places < len(precision)
            average[level, column] = precision[places[inside], column].sum() / len(RECALLS)
    average[:, positives == 0] = largest[:, positives == 0] = np.nan
    return average, largest


def detection_metrics(
    file: Matched, original: Matched | None, subject: str, *, count: int = RESAMPLES, seed: int = 0
) -> tuple[list[Metric], dict[str, tuple[float, float, float] | None]]:
    """The figures with 95 % percentile intervals over resampled images, and their changes, paired over images.

    Args:
        file: the file's detections.
        original: the original's on the same images.
        subject: of the metrics.
        count: resamples.
        seed: of the draw.

    Returns:
        The metrics; and the change in points with its interval for `ap:N` of each class, None where it has none.
    """
    sides = [file] if original is None else [file, original]
    ones = np.ones((file.images, 1))
    plain = [figures_under(side, ones) for side in sides]
    drawn = bootstrap(file.images, [partial(figures_under, side) for side in sides], count=count, seed=seed)
    metrics = []
    for name in FIGURES:
        metrics.append(_metric(name, "share", float(plain[0][name][0]), drawn[0][name], subject, file.images))
        if original is not None:
            change = 100 * (plain[0][name][0] - plain[1][name][0])
            metrics.append(
                _metric(f"{name}_change", "points", float(change), 100 * (drawn[0][name] - drawn[1][name]), subject, file.images)
            )
    changes: dict[str, tuple[float, float, float] | None] = {}
    for kind in range(len(file.classes)) if original is not None else ():
        name = f"ap:{kind}"
        change = float(100 * (plain[0][name][0] - plain[1][name][0]))
        ends = percentile_interval(100 * (drawn[0][name] - drawn[1][name]))
        changes[name] = (change, ends[0], ends[1]) if ends and np.isfinite(change) else None
    return metrics, changes


def _metric(name: str, unit: str, value: float, drawn: Array, subject: str, images: int) -> Metric:
    if not np.isfinite(value):
        return Metric(name, unit, None, subject, images, why_absent="there is no true box")
    ends = percentile_interval(drawn)
    if ends is None:
        return Metric(name, unit, value, subject, images)
    return Metric(name, unit, value, subject, images, low=ends[0], high=ends[1], interval="95 % bootstrap over images")


def detection_groups(
    file: Matched,
    original: Matched | None,
    names: Sequence[str],
    subject: str,
    changes: Mapping[str, tuple[float, float, float] | None],
) -> list[GroupChange]:
    """Average precision of each class, the worst change first; those without true boxes last. `samples` counts true boxes."""
    ones = np.ones((file.images, 1))
    after = figures_under(file, ones)
    before = None if original is None else figures_under(original, ones)
    groups = []
    for kind, name in enumerate(names):
        key, truths = f"ap:{kind}", int(file.classes[kind].truths.sum())
        value = after[key][0]
        if not np.isfinite(value):
            groups.append(GroupChange("class", subject, name, truths, "ap", "share", None, None))
            continue
        ends = changes.get(key)
        groups.append(
            GroupChange(
                "class",
                subject,
                name,
                truths,
                "ap",
                "share",
                None if before is None else float(before[key][0]),
                float(value),
                *(ends or (None, None, None)),
            )
        )
    return sorted(groups, key=lambda g: (g.file is None, g.change if g.change is not None else 0.0, g.file or 0.0))
