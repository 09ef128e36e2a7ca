"""The arithmetic of a comparison: the difference of two sets of processes with its interval, and what it says of a limit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from edgewright.errors import UsageError

__all__ = [
    "DEFAULT_LIMIT",
    "EXACT",
    "GATE_PROCESSES",
    "LEVEL",
    "MOST_AGAIN",
    "Difference",
    "Limit",
    "Verdict",
    "difference",
    "difference_of_intervals",
    "enough_processes",
    "exact_difference",
    "gate_level",
    "judge",
    "more_processes",
    "parse_limit",
    "t_quantile_of",
]

Array = np.ndarray[Any, Any]
Verdict = Literal["regressed", "kept", "undecided"]

LEVEL = 0.95
DEFAULT_LIMIT = 0.05

EXACT = "exact"
"""The method of a difference of figures that have no spread."""

GATE_PROCESSES = 15
"""Processes of each file that a gate of 5 % needs.

Simulated, 500 comparisons each, processes log-normal around their file's latency: with a standard deviation of 2 to 4 % 10
processes caught a slowdown of 10 % in 99.6 to 100 %; where every tenth process was disturbed as well (1.1 to 2.5 times slower)
10 caught 86 to 93 %, 15 caught 97 to 98 %, with at most 0.6 % of false alarms. Drawn from 47 real processes of MobileNetV2 in
int8 on a machine where others worked (p50 with 1.2 to 2.7 % of deviation) 15 raised no alarm in 600 and caught all of 600."""

MOST_AGAIN = 60
"""Processes of each file that measuring again takes at most: some minutes."""

_MARGIN = 1.5

_RANKED = 5
"""Processes of each side from which on ranks are used; below, an interval from ranks is wide or does not exist."""

_EXACT_PAIRS = 2500
_MOST = 1000


@dataclass(frozen=True, slots=True)
class Limit:
    """How much worse a figure may be.

    Args:
        figure: its short name, for example "p90".
        share: the allowed change: 0.05 is 5 %.
    """

    figure: str
    share: float


@dataclass(frozen=True, slots=True)
class Difference:
    """A relative change from A to B.

    Args:
        change: B / A - 1.
        low: lower end of its interval; None if there is none.
        high: upper end of it.
        method: level and method of the interval; the reason if there is none.
    """

    change: float
    low: float | None = None
    high: float | None = None
    method: str = ""


def parse_limit(text: str) -> Limit:
    """The limit that "p90=5%" stands for; "p90" alone allows 5 %.

    Raises:
        UsageError: it is no such text, or the number is not between 0 and 1000 %.
    """
    figure, equals, number = text.partition("=")
    figure, number = figure.strip(), number.strip()
    try:
        share = float(number.removesuffix("%")) / 100 if equals else DEFAULT_LIMIT
    except ValueError:
        share = math.nan
    if not figure or not 0 <= share <= 10 or (equals and not number.endswith("%")):
        raise UsageError(f"--max-regression {text} is no limit in per cent", hint="write for example p90=5%")
    return Limit("p999" if figure == "p99.9" else figure, share)  # reports print it as p99.9


def gate_level(figures: int) -> float:
    """The level of each interval, so that all figures together raise at most 5 false alarms in 100 comparisons.

    An alarm needs the lower end of a two-sided interval above 0. One or two figures keep 95 % each (2.5 in 100 each); more
    share the 5 in 100 (Bonferroni).

    Args:
        figures: how many figures have a limit.
    """
    return LEVEL if figures <= 2 else 1 - 2 * (1 - LEVEL) / figures


def difference(a: Sequence[float], b: Sequence[float], level: float = LEVEL) -> Difference:
    """The relative change from A to B, from figures of single processes.

    The change is the median of log(b) - log(a) over all pairs of processes (J. L. Hodges, E. L. Lehmann, 1963, Ann. Math.
    Stat. 34, 598-611), its interval holds the shifts that the exact Mann-Whitney test does not reject: no distribution is
    assumed, and a process that something disturbed moves it little. With fewer than 5 processes on a side Welch's t on the
    logarithms takes its place (B. L. Welch, 1947, Biometrika 34, 28-35).

    Args:
        a: the figures of A's processes, all positive.
        b: likewise of B.
        level: of the two-sided interval.

    Returns:
        A change without an interval where a side has a single process.
    """
    first, second = np.log(np.asarray(a, float)), np.log(np.asarray(b, float))
    if min(len(first), len(second)) < _RANKED:
        return _welch(first, second, level)
    pairs = np.sort(np.subtract.outer(second, first).ravel())
    middle = float(np.median(pairs))
    rank = _rank(len(first), len(second), (1 - level) / 2)
    counts = f"{len(first)} and {len(second)} processes"
    if rank == 0:
        return Difference(math.expm1(middle), method=f"{counts} are too few for an interval of {level:.4g}")
    name = f"{100 * level:.4g} % Hodges-Lehmann over {counts}"
    return Difference(math.expm1(middle), math.expm1(pairs[rank - 1]), math.expm1(pairs[len(pairs) - rank]), name)


def _welch(a: Array, b: Array, level: float) -> Difference:
    """The change between two means of logarithms."""
    change = float(b.mean() - a.mean())
    if min(len(a), len(b)) < 2:
        return Difference(math.expm1(change), method=f"{len(a)} and {len(b)} processes: an interval needs at least 2 of each")
    parts = [float(values.var(ddof=1)) / len(values) for values in (a, b)]
    error = math.sqrt(sum(parts))
    if error == 0:
        freedom = float(len(a) + len(b) - 2)
    else:
        freedom = sum(parts) ** 2 / sum(part**2 / (len(values) - 1) for part, values in zip(parts, (a, b), strict=True))
    half = t_quantile_of((1 + level) / 2, freedom) * error
    name = f"{100 * level:.4g} % Welch's t on logarithms over {len(a)} and {len(b)} processes"
    return Difference(math.expm1(change), math.expm1(change - half), _expm1(change + half), name)


def difference_of_intervals(a: tuple[float, float, float], b: tuple[float, float, float]) -> Difference:
    """The relative change between two independent estimates of which only the 95 % intervals are known.

    The distances of the logarithms' limits are added as squares (A. Donner, G. Y. Zou, 2012, Stat. Methods Med. Res. 21,
    347-359: MOVER), lower limit of one with upper limit of the other.

    Args:
        a: value, lower and upper end, positive.
        b: likewise.
    """
    (value_a, low_a, high_a), (value_b, low_b, high_b) = (tuple(map(math.log, found)) for found in (a, b))
    change = value_b - value_a
    low = change - math.hypot(value_b - low_b, high_a - value_a)
    high = change + math.hypot(high_b - value_b, value_a - low_a)
    return Difference(math.expm1(change), math.expm1(low), _expm1(high), "95 % from both reports' own intervals (MOVER)")


def exact_difference(a: float, b: float) -> Difference:
    """The change between two figures that have no spread, such as sizes of files."""
    change = b / a - 1
    return Difference(change, change, change, EXACT)


def judge(found: Difference, limit: float) -> Verdict:
    """What a change says of a limit.

    "regressed": the change is more than the limit, and its interval shows that it is no chance (the lower end is above 0).
    "kept": the whole interval lies within the limit. Everything else is "undecided".

    An alarm that asked for the whole interval to lie beyond the limit would need three times as many processes to catch a
    slowdown of twice the limit; an alarm by the interval alone would object to changes that the limit allows.

    Args:
        found: the change; positive is worse.
        limit: allowed change.
    """
    if found.low is None or found.high is None:
        return "undecided"
    # The least difference of the figures' last digits is no regression beyond a limit of 0 or of exactly that size.
    if found.change > limit + 1e-12 and found.low > 0:
        return "regressed"
    return "kept" if found.high <= limit + 1e-12 else "undecided"


def more_processes(found: Difference, limit: float, processes: int, ranked: bool = True) -> int | None:
    """How many more processes of each side would decide, if the change stayed what it is and the interval shrinks as 1 / sqrt(n).

    Args:
        found: an undecided change.
        limit: allowed change.
        processes: of the side that has fewer.
        ranked: whether the least number for an interval from ranks is to be reached, too.

    Returns:
        None if more than 1000 would be needed: the change lies at the limit.
    """
    least = (_RANKED if ranked else 2) - processes
    if found.low is None or found.high is None:
        return max(GATE_PROCESSES - processes, least, 1)
    middle = math.log1p(found.change)
    above = found.change > limit
    wanted = middle if above else math.log1p(limit) - middle
    half = middle - math.log1p(found.low) if above else math.log1p(found.high) - middle
    if wanted <= 0 or not math.isfinite(half):
        return None
    needed = processes * (_of_many(half, processes) / wanted) ** 2
    return None if needed > _MOST else max(math.ceil(needed) - processes, least, 1)


def enough_processes(found: Difference, limit: float, processes: int) -> int:
    """How many processes of each side tell a change of twice the limit from one within it.

    With n of them the interval reaches no further than the limit to either side, if it shrinks as 1 / sqrt(n). Its width is an
    estimate itself, and too small in half of all cases: 1.5 n are taken.

    Args:
        found: a change, of which the width of its interval counts.
        limit: allowed change.
        processes: of the side that has fewer, behind `found`.

    Returns:
        Between `GATE_PROCESSES` and 60.
    """
    if found.low is None or found.high is None or processes < 2:
        return GATE_PROCESSES
    half = _of_many((math.log1p(found.high) - math.log1p(found.low)) / 2, processes)
    reach = math.log1p(limit)
    if half > reach * math.sqrt(MOST_AGAIN / (_MARGIN * processes)):
        return MOST_AGAIN
    return max(GATE_PROCESSES, math.ceil(_MARGIN * processes * (half / reach) ** 2) if half else 0)


def _of_many(half: float, processes: int) -> float:
    """Half an interval's width without what Student's t adds to it where processes are few (`difference`)."""
    if processes >= _RANKED:
        return half
    return half * t_quantile_of((1 + LEVEL) / 2, 30) / t_quantile_of((1 + LEVEL) / 2, max(1, 2 * processes - 2))


def _expm1(value: float) -> float:
    """exp(value) - 1 that becomes infinite instead of failing."""
    return math.expm1(value) if value < 700 else math.inf


# ---- quantiles ----------------------------------------------------------------------------------------------------------


def _rank(m: int, n: int, tail: float) -> int:
    """Which pair from either end bounds the interval: the number of values that the statistic takes within the tail.

    Args:
        m: processes of A.
        n: processes of B.
        tail: probability outside of either end, at most.

    Returns:
        0 if even the least value of the statistic is likelier than that.
    """
    if m * n > _EXACT_PAIRS:
        spread = math.sqrt(m * n * (m + n + 1) / 12)
        return max(0, math.floor(m * n / 2 - t_quantile_of(1 - tail, 1e9) * spread + 0.5))
    return int(np.searchsorted(np.cumsum(_mann_whitney(m, n)), tail, side="right"))


@lru_cache(maxsize=64)
def _mann_whitney(m: int, n: int) -> Array:
    """Chances of each value of U = 0 ... m n where the m + n values are exchangeable.

    The largest value is one of A with chance m / (m + n), and then beats no B, or one of B and then beats all m of A
    (H. B. Mann, D. R. Whitney, 1947, Ann. Math. Stat. 18, 50-60).
    """
    rows = [np.ones(1) for _ in range(n + 1)]  # of i values of A = 0
    for i in range(1, m + 1):
        new = [np.ones(1)]
        for j in range(1, n + 1):
            chances = np.zeros(i * j + 1)
            chances[: (i - 1) * j + 1] += rows[j] * (i / (i + j))
            chances[i:] += new[j - 1] * (j / (i + j))
            new.append(chances)
        rows = new
    return rows[n]


@lru_cache(maxsize=256)
def t_quantile_of(chance: float, freedom: float) -> float:
    """The quantile of Student's t, by bisection of its distribution function, to 1e-9.

    Args:
        chance: between 0.5 and 1.
        freedom: degrees of freedom, positive, not only whole ones.
    """
    tail = 2 * (1 - chance)
    low, high = 0.0, 1.0
    while _two_tails(high, freedom) > tail and high < 1e12:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if high - low < 1e-10 * max(1.0, high):
            break
        low, high = (middle, high) if _two_tails(middle, freedom) > tail else (low, middle)
    return (low + high) / 2


def _two_tails(t: float, freedom: float) -> float:
    """Chance that Student's t lies beyond -t or t: I_x(freedom / 2, 1 / 2) with x = freedom / (freedom + t^2)."""
    if freedom > 1e6:
        return math.erfc(t / math.sqrt(2))
    return _beta_share(freedom / 2, 0.5, freedom / (freedom + t * t))


def _beta_share(a: float, b: float, x: float) -> float:
    """The regularized incomplete beta function by its continued fraction (Abramowitz, Stegun, 26.5.8), from its far end."""
    if x <= 0 or x >= 1:
        return min(1.0, max(0.0, x))
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_share(b, a, 1 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    below = 1.0
    for m in range(100 + 2 * math.isqrt(int(a)), 0, -1):
        odd = -(a + m) * (a + b + m) / ((a + 2 * m) * (a + 2 * m + 1)) * x
        even = m * (b - m) / ((a + 2 * m - 1) * (a + 2 * m)) * x
        below = 1 + even / (1 + odd / below)
    return front / (1 - (a + b) / (a + 1) * x / below)
