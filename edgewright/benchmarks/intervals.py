"""Intervals of figures: Wilson's for shares, the percentile bootstrap over samples for everything else."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from edgewright.errors import ShapeError

__all__ = ["RESAMPLES", "Statistic", "bootstrap", "percentile_interval", "resamples", "share_change_interval", "wilson_interval"]

Array = np.ndarray[Any, Any]

Statistic = Callable[[Array], Mapping[str, Array]]
"""Figures by name, each of shape (resamples,), from weights of shape (samples, resamples); NaN where there is none."""

RESAMPLES = 1000
"""How many times a bootstrap draws: Efron & Tibshirani (1993) advise 1000 or more for percentiles."""

_BLOCK = 1_600_000  # weights at a time: about ten arrays of this size are alive at the peak, in all less than 100 MB


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


def resamples(samples: int, count: int, seed: int) -> Iterator[Array]:
    """How often each sample occurs in random resamples of the same size, drawn with replacement.

    Args:
        samples: how many there are, at least 1.
        count: how many resamples to draw.
        seed: the same seed draws the same resamples, however large the blocks.

    Returns:
        blocks of weights, float32 (samples, some resamples), `count` columns in all; whole numbers, each column's sum is
        `samples` (a multinomial draw).
    """
    generator = np.random.default_rng(seed)
    width = max(1, min(64, _BLOCK // samples))  # narrow blocks also stay in the processor's cache
    for start in range(0, count, width):
        columns = min(width, count - start)
        drawn = generator.integers(0, samples, size=(columns, samples))
        drawn += (np.arange(columns) * samples)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=columns * samples).reshape(columns, samples)
        yield np.ascontiguousarray(counts.T, dtype=np.float32)


def bootstrap(samples: int, statistics: Sequence[Statistic], *, count: int = RESAMPLES, seed: int = 0) -> list[dict[str, Array]]:
    """Several statistics of the same resamples (Efron & Tibshirani, 1993, An Introduction to the Bootstrap, chapter 13).

    All of them see the same resamples, so differences between their results are paired over samples.

    Args:
        samples: how many samples there are.
        statistics: functions of weights.
        count: number of resamples.
        seed: of the draw.

    Returns:
        for each statistic its figures by name, each float64 (count,).
    """
    found: list[dict[str, list[Array]]] = [{} for _ in statistics]
    for weights in resamples(samples, count, seed):
        for results, statistic in zip(found, statistics, strict=True):
            for name, values in statistic(weights).items():
                results.setdefault(name, []).append(values)
    return [{name: np.concatenate(parts) for name, parts in results.items()} for results in found]


def percentile_interval(values: Array) -> tuple[float, float, int] | None:
    """The 2.5 % and 97.5 % quantiles of a figure's resamples, and how many of them have the figure.

    Args:
        values: float (resamples,); NaN where a resample does not have the figure, for example the AUC of one class only.

    Returns:
        None if less than half of the resamples have it: what is left would describe other data.
    """
    usable = values[np.isfinite(values)]
    if len(usable) * 2 < len(values) or not len(usable):
        return None
    low, high = np.percentile(usable, (2.5, 97.5))
    return float(low), float(high), len(usable)


def share_change_interval(fixed: int, broken: int, samples: int, *, count: int = RESAMPLES, seed: int = 0) -> tuple[float, float]:
    """Paired percentile bootstrap of a change of a share of right decisions, in points.

    The change depends on the numbers of fixed and broken samples only, so those are drawn instead of the samples: the
    distribution is the same.

    Args:
        fixed: samples that became right.
        broken: samples that became wrong.
        samples: all samples, at least 1.
        count: number of resamples.
        seed: of the draw.
    """
    shares = np.array([fixed, broken, samples - fixed - broken]) / samples
    drawn = np.random.default_rng(seed).multinomial(samples, shares, size=count)
    low, high = np.percentile(100.0 * (drawn[:, 0] - drawn[:, 1]) / samples, (2.5, 97.5))
    return float(low), float(high)
