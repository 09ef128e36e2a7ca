"""Intervals of latencies: of blocks of one process's inferences, of processes, and which of them holds for how many.

A process keeps its memory layout, so its latencies are shifted as a whole: processes, not inferences, are what a figure
varies over. A percentile bootstrap over few processes cannot say so, since it never leaves their range: in a simulation
with shifts of 3 % its 95 % intervals held the true p50 in 59 % of all cases with 2 processes, 73 % with 3, 86 % with 5 and
94 % with 10, where Student's t held it in 96, 96, 94 and 97 % (tests/benchmarks/test_bootstrap.py has a smaller one). Hence
`interval`: the bootstrap within a process for one, t for few of them, never narrower than the bootstrap within, and the
hierarchical bootstrap for many.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgewright.benchmarks.student import t_interval

__all__ = ["FIGURES", "MANY", "Figures", "Resampled", "block_length", "figures_of", "hierarchical", "interval", "resample"]

Array = np.ndarray[Any, Any]

QUANTILES = {"p25": 0.25, "p50": 0.5, "p75": 0.75, "p90": 0.9, "p99": 0.99, "p999": 0.999}
"""Figures that are quantiles of a process's latencies."""

FIGURES = (*QUANTILES, "mean", "iqr", "jitter")
"""All figures of a process's latencies, in the order of `Resampled.draws`."""

MANY = 10
"""Processes from which on a bootstrap over them holds its level."""

RESAMPLES = 400
"""Resamples of each process's blocks."""

OUTER = 2000
"""Resamples of the processes."""

STARTS = 1000
"""Blocks to choose from, at most: where they start is rounded to as many places."""

LEAST_BLOCKS = 20
BEYOND = 10
"""Inferences that must be slower than a quantile before a bootstrap within one process can tell its interval."""

_EDGES = 33
_SPAN = 5.0

Figures = Mapping[str, float]
"""A process's figures by the names in `FIGURES`, in ms."""


@dataclass(frozen=True, slots=True)
class Resampled:
    """One process's figures, recomputed from resamples of its blocks.

    Args:
        draws: float64 (resamples, len(FIGURES)), in ms; NaN in the columns of quantiles with too few inferences beyond.
        block: inferences in a block.
    """

    draws: Array
    block: int


def figures_of(values: Array) -> dict[str, float]:
    """Figures of one process's latencies.

    `iqr` is p75 - p25, the width of the middle half (J. W. Tukey, "Exploratory Data Analysis", 1977). `jitter` is
    p99 - p50: by how much the slowest one in a hundred is later than usual. It is the variation of delays as a
    difference to a reference delay (RFC 5481, 4.2, which takes the minimum), with the median for reference, because the
    minimum of a latency hangs on a single inference.

    Args:
        values: in ms, shape (inferences,).
    """
    found = dict(zip(QUANTILES, np.quantile(values, list(QUANTILES.values())).tolist(), strict=True))
    return {
        **found,
        "mean": float(values.mean()),
        "iqr": found["p75"] - found["p25"],
        "jitter": found["p99"] - found["p50"],
    }


def block_length(values: Array) -> int:
    """Inferences of a block that is long enough for blocks to be nearly independent of each other.

    Starts at the cube root of their number, the order that is best for the bootstrap's variance (S. N. Lahiri,
    "Theoretical comparisons of block bootstrap methods", Annals of Statistics 27, 1999), and doubles while the means of
    neighbouring blocks of ranks correlate by more than chance (95 % quantile of one side), as batch sizes are chosen in
    G. S. Fishman, "Grouping observations in digital simulation", Management Science 24, 1978; 20 blocks are left.

    Args:
        values: shape (inferences,), in the order in which they were measured.
    """
    count = len(values)
    length, longest = max(1, round(math.pow(count, 1 / 3))), max(1, count // LEAST_BLOCKS)
    if length >= longest:
        return longest
    _, place, times = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(times) - times / 2)[place]  # equal values have equal ranks: a coarse clock makes no trend
    while length < longest:
        blocks = count // length
        means = ranks[: blocks * length].reshape(blocks, length).mean(axis=1)
        means -= means.mean()
        power = float(means @ means)
        if power == 0 or float(means[1:] @ means[:-1]) / power <= 1.645 / blocks**0.5:
            return length
        length = min(longest, 2 * length)
    return length


def resample(values: Array, *, seed: int, resamples: int = RESAMPLES) -> Resampled:
    """Resample blocks of one process's latencies and compute its figures anew each time.

    The circular block bootstrap (D. N. Politis, J. P. Romano, "A circular block-resampling procedure for stationary
    data", 1992), with starts rounded to at most 1000 places. A quantile of a resample is read off the counts of
    inferences at or below 33 values around it, 5 standard deviations of its rank to each side, with a straight line
    between them: exact but for that line, and fast for a million inferences.

    Args:
        values: in ms, shape (inferences,), in the order in which they were measured.
        seed: the same seed gives the same draws.
        resamples: how many.
    """
    count = len(values)
    step = max(1, count // STARTS)
    length = max(1, round(block_length(values) / step)) * step
    parts, width = -(-count // step), length // step
    edges = _edges(values, length)
    table = np.concatenate(edges)
    bins = np.searchsorted(table_sorted := np.unique(table), values, side="left")
    shape = (parts, len(table_sorted) + 1)
    cell = (np.arange(count) // step) * shape[1] + bins
    counts = np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape).cumsum(axis=1)
    sums = np.bincount(np.arange(count) // step, weights=values, minlength=parts)
    blocks = _circular(np.column_stack([counts, sums]).astype(np.float64), width)
    drawn = _draw(parts, max(1, round(parts / width)), resamples, seed) @ blocks
    size = drawn[:, -2]  # the last count: all inferences of the resample
    found = {"mean": drawn[:, -1] / size}
    for (name, q), own in zip(QUANTILES.items(), edges, strict=True):
        if (1 - q) * count < BEYOND:
            found[name] = np.full(resamples, np.nan)
        else:
            found[name] = _crossings(own, drawn[:, np.searchsorted(table_sorted, own)], q * size)
    found["iqr"], found["jitter"] = found["p75"] - found["p25"], found["p99"] - found["p50"]
    return Resampled(np.column_stack([found[name] for name in FIGURES]), length)


def _edges(values: Array, length: int) -> list[Array]:
    """Values around each quantile, increasing: where a resample's quantile can be."""
    count, ordered = len(values), np.sort(values)
    blocks = max(1, count // length)
    found = []
    for q in QUANTILES.values():
        at = ordered[min(count - 1, int(q * count))]
        below = (values[: blocks * length] <= at).reshape(blocks, length).mean(axis=1)
        spread = max(float(below.std()) / blocks**0.5, (q * (1 - q) / count) ** 0.5)
        ranks = np.linspace(max(0.0, q - _SPAN * spread), min(1.0, q + _SPAN * spread), _EDGES) * (count - 1)
        found.append(np.unique(ordered[ranks.round().astype(np.int64)]))
    return found


def _circular(parts: Array, width: int) -> Array:
    """Sums of every `width` neighbouring rows, around the end."""
    summed = np.concatenate([np.zeros((1, parts.shape[1])), np.concatenate([parts, parts[:width]]).cumsum(axis=0)])
    return np.asarray(summed[width : width + len(parts)] - summed[: len(parts)])


def _draw(places: int, blocks: int, resamples: int, seed: int) -> Array:
    """How often each block is in each resample, float64 (resamples, places)."""
    drawn = np.random.default_rng(seed).integers(0, places, (resamples, blocks))
    drawn += (np.arange(resamples) * places)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * places).reshape(resamples, places).astype(np.float64)


def _crossings(edges: Array, counts: Array, wanted: Array) -> Array:
    """Where the counts at or below the edges reach what is wanted, row by row, with straight lines between edges."""
    high = np.minimum((counts < wanted[:, None]).sum(axis=1), len(edges) - 1)
    low = np.maximum(high - 1, 0)
    rows = np.arange(len(counts))
    span = counts[rows, high] - counts[rows, low]
    share = np.divide(wanted - counts[rows, low], span, out=np.ones(len(rows)), where=span > 0)
    return np.asarray(edges[low] + np.clip(share, 0, 1) * (edges[high] - edges[low]))


def hierarchical(processes: Sequence[Resampled], *, seed: int, resamples: int = OUTER) -> dict[str, tuple[float, float]]:
    """Percentile intervals of the mean over processes: processes are drawn anew, and blocks within each of them.

    A. C. Davison, D. V. Hinkley, "Bootstrap Methods and their Application", 1997, 3.8. For a few processes they are far
    too narrow, see the module's first lines.

    Args:
        processes: at least 1.
        seed: of the draws.
        resamples: how many.

    Returns:
        95 % intervals in ms by figure, without those that cannot be told.
    """
    rng = np.random.default_rng(seed)
    stack = np.stack([process.draws for process in processes])
    number = len(processes)
    picked = rng.integers(0, number, (resamples, number)), rng.integers(0, stack.shape[1], (resamples, number))
    return _percentiles(stack[picked].mean(axis=1))


def _percentiles(draws: Array) -> dict[str, tuple[float, float]]:
    """The middle 95 % of each column that has no NaN."""
    low, high = np.percentile(draws, (2.5, 97.5), axis=0)
    return {name: (float(a), float(b)) for name, a, b in zip(FIGURES, low, high, strict=True) if np.isfinite(a + b)}


def interval(name: str, values: Sequence[float], within: Sequence[Resampled], *, seed: int) -> tuple[float, float, str] | None:
    """The 95 % interval of a figure's mean over processes, and what it is.

    One process: the block bootstrap within it, which knows nothing of how processes differ. Up to 9: Student's t over
    the processes, widened to the block bootstrap within them where that is wider, as when few processes agree by chance.
    From 10 on: the hierarchical bootstrap.

    Args:
        name: one of `FIGURES`.
        values: the figure of each process, in ms.
        within: the same processes, resampled.
        seed: of the draws.

    Returns:
        Lower end (0 at least), upper end, name of the interval; None where there are too few inferences for one.
    """
    number = len(values)
    column = FIGURES.index(name)
    means = np.mean([process.draws[:, column] for process in within], axis=0)
    told_within = bool(np.isfinite(means).all())
    value = float(np.mean(values))
    if number == 1 and not told_within:
        return None
    if number == 1 or (number >= MANY and told_within):
        low, high = np.percentile(means, (2.5, 97.5)).tolist() if number == 1 else hierarchical(within, seed=seed)[name]
        told = "95 % block bootstrap within 1 process" if number == 1 else f"95 % hierarchical bootstrap, {number} processes"
        return max(0.0, min(low, value)), max(high, value), told
    low, high = t_interval(values)
    told = f"95 % t over {number} processes"
    if told_within:
        inner = np.percentile(means, (2.5, 97.5)).tolist()
        low, high, told = min(low, inner[0]), max(high, inner[1]), f"{told}, block bootstrap within"
    # Few processes that differ much: the interval of the formula may reach below 0, where no latency is.
    return max(0.0, low), high, told
