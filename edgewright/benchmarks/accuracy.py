"""Accuracy of a classifier, with its interval."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgewright.errors import ShapeError

__all__ = ["accuracy", "wilson_interval"]


def accuracy(scores: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> float:
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


def wilson_interval(share: float, samples: int, z: float = 1.959964) -> tuple[float, float]:
    """Confidence interval of a share of independent trials (E. B. Wilson, 1927, JASA 22, 209-212).

    Args:
        share: successes / samples, between 0 and 1.
        samples: number of trials, at least 1.
        z: quantile of the normal distribution; the default gives 95 %.

    Raises:
        ShapeError: there are no trials.
    """
    if samples < 1:
        raise ShapeError(f"an interval of {samples} samples was asked for, 1 is the least")
    centre = share + z * z / (2 * samples)
    half = z * math.sqrt(share * (1 - share) / samples + z * z / (4 * samples * samples))
    scale = 1 + z * z / samples
    # The ends enclose the share; rounding must not undo that at 0 and 1.
    return max(0.0, min(share, (centre - half) / scale)), min(1.0, max(share, (centre + half) / scale))
