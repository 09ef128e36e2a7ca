"""Student's t: intervals of means of few values, and of means of one series in batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["BATCHES", "batch_means", "t_interval", "t_quantile"]

Array = np.ndarray[Any, Any]

BATCHES = 20


def t_interval(values: Sequence[float] | Array) -> tuple[float, float]:
    """95 % confidence interval of a mean: m -+ t(k - 1) s / sqrt(k), s the sample's standard deviation (k - 1).

    A. Georges, D. Buytaert, L. Eeckhout, "Statistically rigorous Java performance evaluation", OOPSLA 2007.

    Args:
        values: at least 2, one per process or batch: independent of each other.
    """
    count = len(values)
    mean = float(np.mean(values))
    half = t_quantile(count - 1) * float(np.std(values, ddof=1)) / count**0.5
    return mean - half, mean + half


def batch_means(values: Array, batches: int = BATCHES) -> tuple[float, float] | None:
    """95 % interval of the mean of one process's latencies in order, which are not independent of their neighbours.

    Means of long batches nearly are, so `t_interval` holds for these (A. M. Law, "Simulation Modeling and Analysis",
    5th ed., 9.5.3). What does not fill a batch is left out at the start.

    Args:
        values: shape (inferences,), in the order in which they were measured.
        batches: number of batches.

    Returns:
        None if there are fewer than 2 values per batch.
    """
    size = len(values) // batches
    return t_interval(values[len(values) - size * batches :].reshape(batches, size).mean(axis=1)) if size >= 2 else None


_T = tuple(
    map(
        float,
        (
            "12.7062 4.3027 3.1824 2.7764 2.5706 2.4469 2.3646 2.3060 2.2622 2.2281 2.2010 2.1788 2.1604 2.1448 2.1314 "
            "2.1199 2.1098 2.1009 2.0930 2.0860 2.0796 2.0739 2.0687 2.0639 2.0595 2.0555 2.0518 2.0484 2.0452 2.0423"
        ).split(),
    )
)
"""Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom."""


def t_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t.

    Above 30 degrees of freedom by the expansion around the normal's z (M. Abramowitz, I. A. Stegun, "Handbook of
    Mathematical Functions", 26.7.5), to 1e-4.

    Args:
        freedom: degrees of freedom, at least 1.
    """
    if freedom <= len(_T):
        return _T[freedom - 1]
    z = 1.959964
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
