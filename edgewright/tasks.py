"""What a model's outputs mean: the task, labels and scores in one form, and the decision that a score leads to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgewright.errors import EdgewrightError, SamplesError, ShapeError, UsageError

__all__ = [
    "TASKS",
    "Scored",
    "check_task",
    "decide",
    "default_threshold",
    "infer_task",
    "labels_of",
    "reconstruction_scores",
    "require_finite",
    "scores_of",
    "youden_threshold",
]

Array = np.ndarray[Any, Any]

TASKS = ("classification", "multilabel", "regression", "anomaly")
"""What can be evaluated: one class of several, a yes or no per class, real numbers, anomalies by reconstruction."""

_TAKES = {
    "classification": "class indexes of shape (samples,) and an output of (samples, classes), labels 0 or 1 and one score "
    "per sample, or one-hot labels of the output's shape",
    "multilabel": "labels 0 or 1 of the output's shape (samples, classes)",
    "regression": "labels of the output's shape",
    "anomaly": "labels of shape (samples,), 1 for an anomaly, and an output of the shape of the model's only input",
}


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """One output over the evaluation data, in the form that all figures are computed from; made by `Scored.of`.

    Args:
        task: one of `TASKS`.
        labels: int64 (samples,) class indexes or 0/1; int8 (samples, classes) for multilabel; float64 (samples, values)
            for regression.
        scores: real, (samples, classes), or (samples,) for one score per sample, or (samples, values) for regression.
        threshold: scores above it decide for 1; None where no threshold is used.
        decisions: what the scores decide, of the labels' shape; None for regression.
    """

    task: str
    labels: Array
    scores: Array
    threshold: float | None
    decisions: Array | None

    @classmethod
    def of(cls, task: str, labels: Array, scores: Array, threshold: float | None = None) -> Scored:
        """Decide on scores.

        Args:
            task: one of `TASKS`.
            labels: from `labels_of`.
            scores: from `scores_of`, or `reconstruction_scores` for anomalies.
            threshold: scores above it decide for 1; None takes `default_threshold` where one is needed, and
                `youden_threshold` for anomalies.
        """
        limit: float | None = None
        if task == "anomaly":
            limit = youden_threshold(labels, scores) if threshold is None else threshold
        elif task == "multilabel" or (task == "classification" and scores.ndim == 1):
            limit = default_threshold(scores) if threshold is None else threshold
        return cls(task, labels, scores, limit, decide(task, scores, limit))

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.labels)

    @property
    def classes(self) -> int:
        """Number of classes that can be decided for; 0 for regression."""
        if self.task == "regression":
            return 0
        return self.scores.shape[1] if self.scores.ndim == 2 else 2

    @property
    def right(self) -> Array:
        """Whether the decision is the label, for multilabel in all classes: bool (samples,), all False for regression."""
        if self.decisions is None:
            return np.zeros(len(self), bool)
        equal: Array = self.decisions == self.labels
        return equal if equal.ndim == 1 else np.asarray(equal.all(axis=1))

    def subset(self, index: Array) -> Scored:
        """Only some samples, with the same decisions; `index` is a mask or positions, shape (samples,)."""
        decisions = None if self.decisions is None else self.decisions[index]
        return Scored(self.task, self.labels[index], self.scores[index], self.threshold, decisions)


def infer_task(labels: Array, outputs: Array, input_shape: tuple[int, ...] | None = None, *, output: str = "output") -> str:
    """The task that labels and an output of the same samples speak for; axes of size 1 do not count.

    - Whole numbers (samples,) beside an output (samples, classes), labels 0 or 1 beside one score per sample, and one-hot
      labels beside an output of their shape: classification.
    - Labels 0 or 1 of the output's shape (samples, classes) that are not one-hot: multilabel.
    - Labels 0 or 1 of shape (samples,) beside an output that has the shape of the model's only input, of more than one
      value: anomaly. A flat output that could be classes as well is taken for them if there are two or if its rows are
      probabilities (not negative, sum 1 within 0.1).
    - Other numbers of the output's shape: regression.

    Args:
        labels: shape (samples, ...), numbers.
        outputs: shape (samples, ...), real.
        input_shape: the model's only input without batch axis; None if it has several.
        output: the output's name, for messages.

    Raises:
        ShapeError: shapes fit no task.
        SamplesError: labels hold values that fit no task, for example a class that the output does not have.
    """
    _check_arrays(labels, outputs, output)
    task = _guess(labels, outputs, input_shape)
    if not task:
        raise ShapeError(
            f"{_described(labels)} and output '{output}' of shape {outputs.shape} speak for no task",
            hint=f"declare it with --task: {', '.join(TASKS)}",
        )
    if error := _misfit(task, labels, outputs, input_shape, output):
        raise error
    return task


def check_task(
    task: str, labels: Array, outputs: Array, input_shape: tuple[int, ...] | None = None, *, output: str = "output"
) -> None:
    """Refuse a declared task that labels and an output do not fit; arguments as in `infer_task`.

    Raises:
        UsageError: there is no such task.
        ShapeError: shapes do not fit the task.
        SamplesError: labels hold values that do not fit the task.
    """
    if task not in TASKS:
        raise UsageError(f"task '{task}' is unknown", hint=f"known are {', '.join(TASKS)}")
    _check_arrays(labels, outputs, output)
    if error := _misfit(task, labels, outputs, input_shape, output):
        raise error


def labels_of(task: str, labels: Array) -> Array:
    """Labels that fit a task (see `check_task`) in the form of `Scored.labels`."""
    bare = _bare(labels)
    if task == "classification" and bare.ndim == 2:
        return np.asarray(np.argmax(bare, axis=1), np.int64)
    if task == "regression":
        return _flat(bare)
    return np.asarray(bare.astype(np.int8 if task == "multilabel" else np.int64))


def scores_of(task: str, outputs: Array) -> Array:
    """An output that fits a task in the form of `Scored.scores`; anomalies take `reconstruction_scores` instead."""
    if task == "regression":
        return _flat(outputs)
    bare = _bare(outputs)
    return bare if bare.dtype in (np.float32, np.float64) else bare.astype(np.float64)


def decide(task: str, scores: Array, threshold: float | None = None) -> Array | None:
    """What scores decide.

    Args:
        task: one of `TASKS`.
        scores: (samples, classes) or (samples,), real.
        threshold: for one score per sample and for multilabel.

    Returns:
        int64 (samples,): the class of the largest score, the first of equal ones, or 1 for a score above the threshold;
        int8 (samples, classes) for multilabel; None for regression.

    Raises:
        UsageError: a threshold is needed and missing.
    """
    if task == "regression":
        return None
    if task == "classification" and scores.ndim == 2:
        return np.asarray(np.argmax(scores, axis=1), np.int64)
    if threshold is None:
        raise UsageError(f"scores of shape {scores.shape} need a threshold for {task}")
    return np.asarray((scores > threshold).astype(np.int8 if task == "multilabel" else np.int64))


def default_threshold(scores: Array) -> float:
    """0.5 if all scores lie between 0 and 1, which makes them probabilities, else 0, the threshold of logits."""
    return 0.5 if scores.size and scores.min() >= 0.0 and scores.max() <= 1.0 else 0.0


def youden_threshold(labels: Array, scores: Array) -> float:
    """The threshold with the largest sensitivity + specificity - 1 (W. J. Youden, 1950, Cancer 3, 32-35).

    It lies halfway between two neighbouring scores, so that small errors of a file do not move a sample across it; the
    highest of equally good ones is taken. Above all scores (nothing is an anomaly) and below all count as well.

    Args:
        labels: int (samples,), 1 for an anomaly.
        scores: float (samples,), larger for anomalies; at least one.
    """
    values, places = np.unique(scores.astype(np.float64), return_inverse=True)
    positives = np.bincount(places, labels == 1, len(values))
    negatives = np.bincount(places, labels != 1, len(values))
    above = [np.append(np.cumsum(counts[::-1])[::-1], 0.0) / max(1.0, counts.sum()) for counts in (positives, negatives)]
    gain = above[0] - above[1]  # entry i: all scores from the i-th on count as anomalies
    cut = len(gain) - 1 - int(np.argmax(gain[::-1]))
    if cut == len(values):
        return float(values[-1])
    if cut == 0:
        return float(np.nextafter(values[0], -math.inf))
    low, high = float(values[cut - 1]), float(values[cut])
    middle = low + (high - low) / 2
    return middle if low <= middle < high else low


def reconstruction_scores(inputs: Array, outputs: Array) -> Array:
    """Mean squared error of each sample between a model's input and its output: float64 (samples,).

    Args:
        inputs: model-ready, shape (samples, ...), real.
        outputs: the same shape; axes of size 1 do not count.

    Raises:
        ShapeError: the shapes differ.
    """
    given, found = _bare(inputs), _bare(outputs)
    if given.shape != found.shape:
        raise ShapeError(f"a reconstruction has shape {outputs.shape}, the input has {inputs.shape}")
    error = given.reshape(len(given), -1).astype(np.float64) - found.reshape(len(found), -1)
    return np.asarray(np.mean(error * error, axis=1))


def require_finite(outputs: Array, output: str, whose: str) -> None:
    """Refuse an output that is not all finite.

    Args:
        outputs: shape (samples, ...), real.
        output: the output's name.
        whose: the file it is of, for the message.

    Raises:
        EdgewrightError: there are NaN or infinite values; the message has the output's name and their number.
    """
    finite = np.isfinite(outputs)
    if not finite.all():
        raise EdgewrightError(
            f"output '{output}' of {whose} holds {finite.size - int(finite.sum())} NaN or infinite values of {finite.size}, "
            "nothing can be decided on them",
            hint="look at the file with 'edgewright verify'; float16 overflows above 65504",
        )


# --- what fits --------------------------------------------------------------------------------------------------------


def _bare(values: Array) -> Array:
    """Without axes of size 1 after the first."""
    return np.asarray(values.reshape(values.shape[0], *(size for size in values.shape[1:] if size != 1)))


def _flat(values: Array) -> Array:
    return np.asarray(values.reshape(values.shape[0], -1).astype(np.float64))


def _check_arrays(labels: Array, outputs: Array, output: str) -> None:
    if labels.dtype.kind not in "fiub":
        raise SamplesError(f"labels for output '{output}' have dtype {labels.dtype}, they must be numbers")
    if not labels.ndim or not outputs.ndim or len(labels) != len(outputs):
        raise ShapeError(
            f"labels of shape {labels.shape} and output '{output}' of shape {outputs.shape} have different numbers of samples"
        )
    if not len(labels):
        raise SamplesError(f"there are 0 samples with labels for output '{output}', 1 is the least")
    if not np.isfinite(labels).all():
        raise SamplesError(f"labels for output '{output}' hold NaN or infinite values", hint="remove those samples")


def _guess(labels: Array, outputs: Array, input_shape: tuple[int, ...] | None) -> str:
    """The task that shapes and values speak for, "" if there is none; its details are still to be checked."""
    bare, found, zero_one = _bare(labels), _bare(outputs), _zero_one(labels)
    if bare.ndim == 1:
        if zero_one and _is_reconstruction(found, input_shape) and not _are_classes(found):
            return "anomaly"
        if found.ndim == 1:
            return "classification" if zero_one else "regression"
        return "classification" if found.ndim == 2 else ""
    if zero_one:
        if bare.ndim > 2:  # masks: 0 and 1 there are decisions, not measurements
            return ""
        return "classification" if bool((bare.sum(axis=1) == 1).all()) else "multilabel"
    return "regression"


def _is_reconstruction(found: Array, input_shape: tuple[int, ...] | None) -> bool:
    wanted = None if input_shape is None else tuple(size for size in input_shape if size != 1)
    return bool(wanted) and found.shape[1:] == wanted


def _are_classes(found: Array) -> bool:
    """Whether an output could be scores of classes rather than a reconstruction."""
    if found.ndim != 2:
        return False
    return found.shape[1] == 2 or bool(found.min() >= 0.0 and (np.abs(found.sum(axis=1) - 1.0) <= 0.1).all())


def _misfit(
    task: str, labels: Array, outputs: Array, input_shape: tuple[int, ...] | None, output: str
) -> SamplesError | ShapeError | None:
    """Why labels and an output do not fit a task; None if they do."""
    bare, found = _bare(labels), _bare(outputs)
    if task == "anomaly":
        shapes = bare.ndim == 1 and _is_reconstruction(found, input_shape)
    elif task == "classification" and bare.ndim == 1:
        shapes = found.ndim <= 2
    elif task in {"classification", "multilabel"}:
        shapes = bare.ndim == 2 and bare.shape == found.shape
    else:
        shapes = bare.shape == found.shape
    if not shapes:
        beside = f", the model's input has {'no single shape' if input_shape is None else input_shape}"
        return ShapeError(
            f"labels of shape {labels.shape} and output '{output}' of shape {outputs.shape} do not fit {task}"
            + (beside if task == "anomaly" else ""),
            hint=f"{task} takes {_TAKES[task]}; declare another task with --task",
        )
    value = _wrong_value(task, bare, found)
    if not value:
        return None
    return SamplesError(
        f"{_described(labels)} for output '{output}' of shape {outputs.shape}: {value}",
        hint=f"{task} takes {_TAKES[task]}; declare another task with --task",
    )


def _wrong_value(task: str, bare: Array, found: Array) -> str:
    """What is wrong with the values of labels whose shape fits a task, "" if nothing is."""
    if task == "regression":
        return ""
    if task == "classification" and found.ndim == 2 and bare.ndim == 1:
        wrong = (bare < 0) | (bare >= found.shape[1])
        if bare.dtype.kind == "f":
            wrong |= bare != np.round(bare)
        known = f"no class, the classes are 0 to {found.shape[1] - 1}"
    else:
        wrong = (bare != 0) & (bare != 1)
        known = "neither 0 nor 1"
    if wrong.any():
        return f"label {float(bare[wrong].flat[0]):g} of sample {int(np.argwhere(wrong)[0][0])} is {known}"
    if task == "classification" and bare.ndim == 2 and (odd := bare.sum(axis=1) != 1).any():
        at = int(np.argmax(odd))
        return f"sample {at} is of {int(bare[at].sum())} classes, 1 is expected"
    return ""


def _zero_one(values: Array) -> bool:
    return bool(((values == 0) | (values == 1)).all())


def _described(labels: Array) -> str:
    return f"labels of shape {labels.shape} ({labels.dtype} from {float(labels.min()):g} to {float(labels.max()):g})"
