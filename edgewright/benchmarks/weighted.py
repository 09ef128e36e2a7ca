"""Figures under sample weights, many weightings at once: what the bootstrap computes on every resample.

With weights of 1 each function equals its scikit-learn counterpart, with whole weights the counterpart on data in which
each sample occurs that often. Weights are float32 (samples, resamples); sums of whole numbers stay exact below 2^24.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from edgewright.benchmarks.intervals import RESAMPLES, Statistic
from edgewright.tasks import Scored

__all__ = ["auc_columns", "average_precision", "is_linearised", "mean_auc", "statistic_of", "top_hits", "top_k_of"]

Array = np.ndarray[Any, Any]
Figure = Callable[[Array], Array]

_LIMIT = 200_000_000  # scores times resamples: a few seconds; beyond it the linear part is resampled instead
_CHUNK = 2_000_000  # values of an intermediate array


def statistic_of(scored: Scored, names: Sequence[str]) -> Statistic:
    """The figures of some names as a function of weights.

    Args:
        scored: one output over the data.
        names: figures that the task has, for example "f1_macro"; see `edgewright.benchmarks.accuracy.metric_names`.

    Returns:
        a function from weights (samples, resamples) to {name: float64 (resamples,)}; NaN where a resample does not have
        the figure. Where `is_linearised` says so, roc_auc and r2 are their value plus the weighted sum of the samples'
        influences on it (Efron & Tibshirani, 1993, chapter 22; for AUC the placement values of DeLong, DeLong &
        Clarke-Pearson, 1988, Biometrics 44, 837-845), which differs by terms of the order of 1 / samples.
    """
    parts = [_decisions(scored, set(names))]
    singles: dict[str, Figure] = {}
    if "roc_auc" in names:
        singles["roc_auc"] = _linear(*auc_influence(scored)) if is_linearised(scored) else mean_auc(list(auc_columns(scored)))
    if "average_precision" in names:
        singles["average_precision"] = average_precision(scored.labels == 1, scored.scores)
    if scored.task == "regression":
        singles |= {name: figure for name, figure in _errors(scored).items() if name in names}
        if "r2" in names:
            singles["r2"] = _linear(*_r2_influence(scored)) if is_linearised(scored) else _r2(scored)

    def statistic(weights: Array) -> dict[str, Array]:
        found = {name: value for part in parts for name, value in part(weights).items()}
        found |= {name: figure(weights) for name, figure in singles.items()}
        return {name: found[name] for name in names}

    return statistic


def is_linearised(scored: Scored) -> bool:
    """Whether there are so many scores that only the linear part of roc_auc and r2 is resampled."""
    return scored.scores.size * RESAMPLES > _LIMIT


def top_k_of(name: str) -> int:
    """5 for "top5_accuracy", 0 for the name of anything else."""
    number = name.removeprefix("top").removesuffix("_accuracy")
    return int(number) if name == f"top{number}_accuracy" and number.isdigit() else 0


def top_hits(labels: Array, scores: Array, k: int) -> Array:
    """Whether the label is among the k classes of the largest scores; of equal scores the later class comes first.

    That order of equal scores is the one of `sklearn.metrics.top_k_accuracy_score`.

    Args:
        labels: int (samples,).
        scores: (samples, classes).
        k: at least 1.

    Returns:
        bool (samples,).
    """
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    later = np.arange(scores.shape[1]) > labels[:, None]
    return np.asarray(((scores > own) | ((scores == own) & later)).sum(axis=1) < k)


# --- counts of decisions ----------------------------------------------------------------------------------------------


def _decisions(scored: Scored, names: set[str]) -> Statistic:
    """Everything that is computed from decisions: shares of right samples, precision, recall, F1."""
    shares: dict[str, Array] = {name: scored.right for name in names & {"accuracy", "exact_match"}}
    shares |= {name: top_hits(scored.labels, scored.scores, k) for name in names if (k := top_k_of(name))}
    counted = names & {"balanced_accuracy", "precision_macro", "recall_macro", "f1_macro", "f1_micro"}

    def statistic(weights: Array) -> dict[str, Array]:
        total = weights.sum(axis=0, dtype=np.float64)
        found: dict[str, Array] = {n: weights[hits].sum(axis=0, dtype=np.float64) / total for n, hits in shares.items()}
        if counted and scored.task == "multilabel":
            return found | _macro(*_label_counts(scored, weights), every_class=True)
        return found | _macro(*_class_counts(scored, weights), every_class=False) if counted else found

    return statistic


def _class_counts(scored: Scored, weights: Array) -> tuple[Array, Array, Array]:
    """Weights of each class's right samples, samples and decisions: float64 (classes, resamples) each."""
    right, decisions = scored.right, np.asarray(scored.decisions)
    hits = _sums(weights[right], scored.labels[right], scored.classes)
    return hits, _sums(weights, scored.labels, scored.classes), _sums(weights, decisions, scored.classes)


def _label_counts(scored: Scored, weights: Array) -> tuple[Array, Array, Array]:
    """The same for multilabel, where a sample may count for several classes."""
    labels, decisions = scored.labels, np.asarray(scored.decisions)
    step = max(1, _CHUNK // len(labels))
    parts = []
    for start in range(0, scored.classes, step):
        truth, found = labels[:, start : start + step], decisions[:, start : start + step]
        parts.append([chosen.T.astype(np.float32) @ weights for chosen in (truth & found, truth, found)])
    hits, support, decided = (np.concatenate(part).astype(np.float64) for part in zip(*parts, strict=True))
    return hits, support, decided


def _sums(weights: Array, classes: Array, count: int) -> Array:
    """Sum of the weights of each class's samples: float64 (count, resamples)."""
    sums = np.zeros((count, weights.shape[1]))
    if len(classes):
        order = np.argsort(classes, kind="stable")
        starts = np.flatnonzero(np.diff(classes[order], prepend=-1))
        sums[classes[order][starts]] = np.add.reduceat(weights[order], starts, axis=0)
    return sums


def _macro(hits: Array, support: Array, decided: Array, *, every_class: bool) -> dict[str, Array]:
    """Means over classes; without `every_class` over those that occur in labels or decisions, as in scikit-learn.

    A quotient of nothing by nothing counts as 0 (zero_division=0); balanced accuracy is the mean recall of the classes
    that occur in the labels (Brodersen et al., 2010, ICPR, 3121-3124).
    """
    counts = np.ones_like(support) if every_class else ((support + decided) > 0).astype(np.float64)
    classes, recall = counts.sum(axis=0), _quotient(hits, support)
    return {
        "balanced_accuracy": _quotient(recall.sum(axis=0), (support > 0).sum(axis=0).astype(np.float64)),
        "precision_macro": _quotient(hits, decided).sum(axis=0) / classes,
        "recall_macro": recall.sum(axis=0) / classes,
        "f1_macro": _quotient(2 * hits, support + decided).sum(axis=0) / classes,
        "f1_micro": _quotient(2 * hits.sum(axis=0), (support + decided).sum(axis=0)),
    }


def _quotient(top: Array, bottom: Array) -> Array:
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)


# --- rankings ---------------------------------------------------------------------------------------------------------


def auc_columns(scored: Scored) -> Iterator[tuple[Array, Array]]:
    """What the AUC of an output is the mean of: (bool (samples,), scores (samples,)) for each class against the others."""
    if scored.scores.ndim == 1:
        yield scored.labels == 1, scored.scores
        return
    for at in range(scored.scores.shape[1]):
        yield scored.labels[:, at] == 1 if scored.labels.ndim == 2 else scored.labels == at, scored.scores[:, at]


def mean_auc(columns: Sequence[tuple[Array, Array]]) -> Figure:
    """The mean area under the ROC curve as a function of weights.

    The area is the share of (positive, negative) pairs that are in order, pairs of equal scores counting half: the
    Mann-Whitney statistic (Hanley & McNeil, 1982, Radiology 143, 29-36). The mean is over the columns that have both
    positives and negatives in a resample; NaN if none has.

    Args:
        columns: (bool (samples,), scores (samples,)) each.
    """
    ranked = [_Ranked(positive, scores) for positive, scores in columns]

    def figure(weights: Array) -> Array:
        total, counted = np.zeros(weights.shape[1]), np.zeros(weights.shape[1])
        for column in ranked:
            pairs, ordered = column.pairs(weights)
            total += _quotient(ordered, pairs)
            counted += pairs > 0
        return np.divide(total, counted, out=np.full_like(total, np.nan), where=counted > 0)

    return figure


class _Ranked:
    """Positives and negatives of one column and how they stand to each other: sorted once, weighted often."""

    def __init__(self, positive: Array, scores: Array) -> None:
        self.positive, negative = np.flatnonzero(positive), np.flatnonzero(~positive)
        self.negative = negative[np.argsort(scores[negative], kind="stable")]
        ranked, own = scores[self.negative], scores[self.positive]
        self.below, self.up_to = (np.searchsorted(ranked, own, side) for side in ("left", "right"))

    def pairs(self, weights: Array) -> tuple[Array, Array]:
        """Weights of all pairs and of the pairs in order, float64 (resamples,) each."""
        sums = np.zeros((len(self.negative) + 1, weights.shape[1]), np.float32)
        np.cumsum(weights[self.negative], axis=0, out=sums[1:])
        own = weights[self.positive].astype(np.float64)
        ordered = np.einsum("ij,ij->j", own, (sums[self.below] + sums[self.up_to]).astype(np.float64)) / 2
        return own.sum(axis=0) * sums[-1], ordered

    def placements(self) -> tuple[Array, Array]:
        """Share of negatives below each positive, and of positives above each negative (in the order of `negative`)."""
        below = (self.below + self.up_to) / 2 / len(self.negative)
        steps = np.zeros(len(self.negative) + 1)
        np.add.at(steps, self.below, 0.5)
        np.add.at(steps, self.up_to, 0.5)
        # A negative is below a positive if its place in the order is smaller than the positive's.
        return below, (np.cumsum(steps[::-1])[::-1] / len(self.positive))[1:]


def auc_influence(scored: Scored) -> tuple[float, Array]:
    """The mean AUC and each sample's influence on it, float64 (samples,), whose mean is 0; see `statistic_of`."""
    influence, total, count = np.zeros(len(scored)), 0.0, 0
    for positive, scores in auc_columns(scored):
        ranked = _Ranked(positive, scores)
        below, above = ranked.placements()
        area = float(below.mean())
        influence[ranked.positive] += (below - area) * len(scored) / len(ranked.positive)
        influence[ranked.negative] += (above - area) * len(scored) / len(ranked.negative)
        total, count = total + area, count + 1
    return total / count, influence / count


def average_precision(positive: Array, scores: Array) -> Figure:
    """Average precision as a function of weights.

    The sum of (recall at a threshold - recall at the next higher one) x precision, over all thresholds, without
    interpolation (Manning, Raghavan & Schütze, 2008, Introduction to Information Retrieval, section 8.4), as
    `sklearn.metrics.average_precision_score`; NaN where a resample has no positives.

    Args:
        positive: bool (samples,).
        scores: (samples,).
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    chosen = positive[order].astype(np.float32)[:, None]

    def figure(weights: Array) -> Array:
        ranked = weights[order]
        everything = np.cumsum(ranked, axis=0)[ends]
        ranked *= chosen
        hits = np.cumsum(ranked, axis=0)[ends]
        gained = np.diff(hits, axis=0, prepend=np.float32(0))
        area: Array = np.einsum("ij,ij->j", gained, _quotient(hits, everything), dtype=np.float64)
        return np.asarray(np.divide(area, hits[-1], out=np.full_like(area, np.nan), where=hits[-1] > 0))

    return figure


# --- errors of numbers ------------------------------------------------------------------------------------------------


def _errors(scored: Scored) -> dict[str, Figure]:
    """Mean absolute error and root mean squared error over all values."""
    error = np.asarray(scored.scores - scored.labels)
    absolute, squared = np.abs(error).mean(axis=1), (error * error).mean(axis=1)

    def mean(values: Array, weights: Array) -> Array:
        return np.asarray(values @ weights / weights.sum(axis=0, dtype=np.float64))

    return {"mae": lambda weights: mean(absolute, weights), "rmse": lambda weights: np.asarray(np.sqrt(mean(squared, weights)))}


def _r2(scored: Scored) -> Figure:
    """Mean over the values of 1 - sum of squared errors / sum of squares about the mean, as `sklearn.metrics.r2_score`.

    A value that is constant in a resample counts 1 if it is met exactly and 0 if not.
    """
    centred = scored.labels - scored.labels.mean(axis=0)  # of large numbers, differences of squares would keep no digits
    squares, errors = centred * centred, (scored.scores - scored.labels) ** 2

    def figure(weights: Array) -> Array:
        wide = weights.astype(np.float64)
        error, square, total = errors.T @ wide, squares.T @ wide, wide.sum(axis=0)
        spread = square - (centred.T @ wide) ** 2 / total
        constant = spread <= 1e-12 * square
        with np.errstate(divide="ignore", invalid="ignore"):
            values = np.where(constant, error == 0.0, 1.0 - error / spread)
        return np.asarray(values.mean(axis=0))

    return figure


def _r2_influence(scored: Scored) -> tuple[float, Array]:
    """The mean r2 and each sample's influence on it, float64 (samples,); values that are constant have none."""
    count, total, influence = scored.labels.shape[1], 0.0, np.zeros(len(scored))
    step = max(1, _CHUNK // len(scored))
    for start in range(0, count, step):
        labels, scores = scored.labels[:, start : start + step], scored.scores[:, start : start + step]
        squares, errors = (labels - labels.mean(axis=0)) ** 2, (scores - labels) ** 2
        error, spread = errors.mean(axis=0), squares.mean(axis=0)
        varies = spread > 0
        total += float((error[~varies] == 0).sum()) + float((1 - error[varies] / spread[varies]).sum())
        ratio = error[varies] / spread[varies]
        influence -= ((errors[:, varies] - ratio * squares[:, varies]) / spread[varies]).sum(axis=1)
    return total / count, influence / count


def _linear(value: float, influence: Array) -> Figure:
    return lambda weights: np.asarray(value + influence @ weights / weights.sum(axis=0, dtype=np.float64))
