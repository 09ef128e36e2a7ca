"""How good an output is on labelled data: figures by scikit-learn, each with a 95 % interval and its change."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from edgewright.benchmarks.intervals import RESAMPLES, bootstrap, percentile_interval, wilson_interval
from edgewright.benchmarks.weighted import is_linearised, statistic_of, top_k_of
from edgewright.errors import ShapeError, UsageError, needs
from edgewright.report import Metric
from edgewright.tasks import Scored

__all__ = [
    "PRIMARY",
    "accuracy",
    "change_of",
    "change_unit",
    "figures_of",
    "is_error",
    "metric_names",
    "task_metrics",
    "unit_of",
    "wilson_interval",
]

Array = np.ndarray[Any, Any]

PRIMARY = {"classification": "accuracy", "multilabel": "f1_macro", "regression": "rmse", "anomaly": "roc_auc"}
"""The figure that stands for a task where no other is asked for."""

_NAMES = {
    "classification": ("accuracy", "balanced_accuracy", "precision_macro", "recall_macro", "f1_macro", "roc_auc"),
    "multilabel": ("f1_macro", "f1_micro", "precision_macro", "recall_macro", "exact_match", "roc_auc"),
    "regression": ("mae", "rmse", "r2"),
    "anomaly": ("roc_auc", "average_precision"),
}
_PLAIN = {"roc_auc", "average_precision", "r2", "mae", "rmse"}
_ERRORS = {"mae", "rmse"}
_SHARES_OF_SAMPLES = {"accuracy", "exact_match"}  # and top-k accuracy: Wilson's interval is made for those


def accuracy(scores: Array, labels: Array) -> float:
    """Share of samples whose largest score stands at the label, between 0 and 1.

    Args:
        scores: shape (samples, classes), real.
        labels: shape (samples,), class indexes.

    Raises:
        ShapeError: the shapes do not go together, or there are no samples.
    """
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ShapeError(f"scores of shape {scores.shape} and labels of shape {labels.shape} do not go together")
    if not len(labels):
        raise ShapeError("there are no samples to compute an accuracy of", hint="check that the data are not empty")
    return float(np.mean(np.argmax(scores, axis=1) == labels))


def metric_names(scored: Scored, top_k: int | None = None) -> tuple[str, ...]:
    """The figures of an output, in the order of a report.

    Args:
        scored: one output over the data.
        top_k: the k of "top<k>_accuracy"; None takes 5 from 10 classes on, 3 from 4 on, and leaves it out below.

    Raises:
        UsageError: top_k is below 2.
    """
    if top_k is not None and top_k < 2:
        raise UsageError(f"top-{top_k} accuracy was asked for, 2 is the least", hint="top-1 accuracy is 'accuracy'")
    names = _NAMES[scored.task]
    if scored.task != "classification" or scored.scores.ndim != 2:
        return names
    k = top_k or (5 if scored.classes >= 10 else 3 if scored.classes >= 4 else 0)
    return (names[0], f"top{k}_accuracy", *names[1:]) if k else names


def unit_of(name: str) -> str:
    """Unit of a figure: "share" between 0 and 1, or "" for plain numbers (AUC, average precision, r2, errors)."""
    return "" if name in _PLAIN else "share"


def change_unit(name: str) -> str:
    """Unit of a figure's change: "%" for errors, "points" for everything else."""
    return "%" if name in _ERRORS else "points"


def is_error(name: str) -> bool:
    """Whether a smaller figure is a better one."""
    return name in _ERRORS


def change_of(name: str, original: Array | float, file: Array | float) -> Array:
    """How much better a file is than the original: a negative change is worse, whatever the figure.

    Args:
        name: the figure.
        original: the original's figure, a number or an array.
        file: the file's.

    Returns:
        100 (file - original) in points; for errors, where more is worse, 100 (original - file) / original in per cent: an
        rmse that grows by 3 % has the change -3. Without any error in both it is 0, in the original alone NaN.
    """
    before, after = np.asarray(original, np.float64), np.asarray(file, np.float64)
    if name not in _ERRORS:
        return np.asarray(100.0 * (after - before))
    gained = 100.0 * (before - after)
    relative = np.divide(gained, before, out=np.full_like(gained, np.nan), where=before != 0.0)
    return np.where((before == 0.0) & (after == 0.0), 0.0, relative)


def task_metrics(
    scored: Scored,
    original: Scored | None = None,
    *,
    subject: str = "",
    names: Sequence[str] | None = None,
    count: int = RESAMPLES,
    seed: int = 0,
) -> list[Metric]:
    """All figures of one output with their 95 % intervals, and how each differs from the original's.

    Plain shares of samples (accuracy, top-k accuracy, exact match) have Wilson's interval (1927); all other figures, and
    all changes, that of a percentile bootstrap over samples (Efron & Tibshirani, 1993, chapter 13). A change is computed on
    the same resamples for both models, so the samples' own difficulty cancels out.

    Args:
        scored: the file's output.
        original: the original's output on the same samples, with the same threshold; None leaves changes out.
        subject: name of the output.
        names: figures to compute; None takes `metric_names`.
        count: resamples of the bootstrap.
        seed: of the bootstrap.

    Returns:
        each figure, followed by "<name>_change" if there is an original; see `change_of`.

    Raises:
        MissingPackageError: scikit-learn is not installed.
    """
    names = metric_names(scored) if names is None else names
    file = figures_of(scored, names)
    before = {} if original is None else figures_of(original, names)
    drawn = [name for name in names if not isinstance(file[name], str)]
    if original is None:
        drawn = [name for name in drawn if not _is_share_of_samples(name)]
    both = [item for item in (scored, original) if item is not None]
    resampled = bootstrap(len(scored), [statistic_of(item, drawn) for item in both], count=count, seed=seed) if drawn else []
    metrics = []
    for name in names:
        how = "linearised bootstrap" if is_linearised(scored) and name in {"roc_auc", "r2"} else "bootstrap"
        values = [results[name] for results in resampled if name in results]
        metrics.append(_figure(name, file[name], subject, len(scored), values[:1], how))
        if original is not None:
            metrics.append(_change(name, before[name], file[name], subject, len(scored), values, how))
    return metrics


def _is_share_of_samples(name: str) -> bool:
    return name in _SHARES_OF_SAMPLES or top_k_of(name) > 0


def _figure(name: str, value: float | str, subject: str, samples: int, resampled: Sequence[Array], how: str) -> Metric:
    unit = unit_of(name)
    if isinstance(value, str):
        return Metric(name, unit, None, subject, samples, why_absent=value)
    if _is_share_of_samples(name):
        low, high = wilson_interval(value, samples)
        return Metric(name, unit, value, subject, samples, low=low, high=high, interval="95 % Wilson")
    return Metric(name, unit, value, subject, samples, **_interval(value, resampled[0], how))


def _change(
    name: str, before: float | str, file: float | str, subject: str, samples: int, resampled: Sequence[Array], how: str
) -> Metric:
    what, unit = f"{name}_change", change_unit(name)
    if isinstance(before, str) or isinstance(file, str):
        return Metric(what, unit, None, subject, samples, why_absent=next(v for v in (file, before) if isinstance(v, str)))
    value = float(change_of(name, before, file))
    if not np.isfinite(value):
        return Metric(what, unit, None, subject, samples, why_absent=f"the original's {name} is 0, {file:g} is no multiple of it")
    changes = change_of(name, resampled[1], resampled[0])
    return Metric(what, unit, value, subject, samples, **_interval(value, changes, f"paired {how}"))


def _interval(value: float, resampled: Array, how: str) -> dict[str, Any]:
    """Fields of a metric's interval; none if too few resamples have the figure.

    Means over classes of a few samples each are lower in resamples than in the data; the interval is then extended to the
    figure, which can only raise its coverage.
    """
    found = percentile_interval(resampled)
    if found is None:
        return {}
    low, high, usable = found
    return {"low": min(low, value), "high": max(high, value), "interval": f"95 % {how}, {usable} resamples"}


# --- point figures ----------------------------------------------------------------------------------------------------


def figures_of(scored: Scored, names: Sequence[str]) -> dict[str, float | str]:
    """Figures of an output by scikit-learn; a text says why there is none.

    Precision, recall and F1 are scikit-learn's with zero_division=0. roc_auc of several classes is the mean of each class
    against the others on the raw scores, `roc_auc_score(one_hot, scores, average="macro")`: rows need not sum to 1, which
    those of an int8 softmax do not. mae and rmse are over all values of an output, r2 is the mean over them.

    Args:
        scored: one output over the data.
        names: figures of the task, see `metric_names`.

    Raises:
        MissingPackageError: scikit-learn is not installed.
    """
    with needs("metrics"):
        import sklearn.metrics  # noqa: F401  # a missing package is to be named before anything is computed
    with _silence():
        if scored.task == "regression":
            return {name: _regression(name, scored) for name in names}
        averages = _averages(scored, names)
        return {name: averages[name] if name in averages else _figure_of(name, scored) for name in names}


@contextmanager
def _silence() -> Iterator[None]:
    """No warnings of scikit-learn's: what they warn of has been looked at, or is in `why_absent`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _figure_of(name: str, scored: Scored) -> float | str:
    from sklearn import metrics

    labels, scores = scored.labels, scored.scores
    if name in _SHARES_OF_SAMPLES:
        return float(metrics.accuracy_score(labels, scored.decisions))
    if k := top_k_of(name):
        if k >= scored.classes:
            return f"the output has {scored.classes} classes, among {k} there is every one"
        return float(metrics.top_k_accuracy_score(labels, scores, k=k, labels=np.arange(scored.classes)))
    if why := _one_sided(scored):
        return why
    if name == "average_precision":
        return float(metrics.average_precision_score(labels, scores))
    if scores.ndim == 2 and labels.ndim == 1:
        labels = (labels[:, None] == np.arange(scored.classes)).astype(np.int8)
    return float(metrics.roc_auc_score(labels, scores, average="macro"))


def _one_sided(scored: Scored) -> str:
    """Why there is no ranking of some class against the others, "" if there is one of every class."""
    if scored.labels.ndim == 2:
        positives = scored.labels.sum(axis=0, dtype=np.int64)
        if (odd := (positives == 0) | (positives == len(scored))).any():
            at = int(np.argmax(odd))
            return f"{'all' if positives[at] else 'no'} samples are of class {at}: there is nothing to rank"
        return ""
    counts = np.bincount(scored.labels, minlength=scored.classes)
    absent = np.flatnonzero(counts == 0)
    return f"no sample is of class {absent[0]}: there is nothing to rank" if len(absent) else ""


def _averages(scored: Scored, names: Sequence[str]) -> Mapping[str, float]:
    """Those of the asked figures that are means over classes."""
    from sklearn import metrics

    found: dict[str, float] = {}
    for average in ("macro", "micro"):
        wanted = [f"{part}_{average}" for part in ("precision", "recall", "f1")]
        if set(wanted) & set(names):
            values = metrics.precision_recall_fscore_support(scored.labels, scored.decisions, average=average, zero_division=0)
            found |= dict(zip(wanted, map(float, values[:3]), strict=True))
    if "balanced_accuracy" in names:
        # The same as balanced_accuracy_score, which builds a matrix of classes x classes.
        present = np.unique(scored.labels)
        recall = metrics.recall_score(scored.labels, scored.decisions, labels=present, average="macro", zero_division=0)
        found["balanced_accuracy"] = float(recall)
    return found


def _regression(name: str, scored: Scored) -> float | str:
    from sklearn import metrics

    if name == "mae":
        return float(metrics.mean_absolute_error(scored.labels.ravel(), scored.scores.ravel()))
    if name == "rmse":
        return float(np.sqrt(metrics.mean_squared_error(scored.labels.ravel(), scored.scores.ravel())))
    if len(scored) < 2:
        return "one sample has no spread to explain, r2 takes 2 or more"
    return float(metrics.r2_score(scored.labels, scored.scores))
