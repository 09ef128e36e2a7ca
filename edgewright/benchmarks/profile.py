"""How long each op of a model takes, as a share of all, with intervals, and what the ops do not explain."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgewright.runtime import Session

__all__ = ["median_interval", "profile"]

Array = np.ndarray[Any, Any]

_STEP_US = 1
"""Profilers of all three engines write whole microseconds."""

_TOO_MUCH = 1.1
"""When op times add up to more than this multiple of an inference, profiling itself has changed them."""


def profile(session: Session, feeds: Mapping[str, Array], runs: int) -> dict[str, Any]:
    """Time each op, and beside it whole inferences without a profiler.

    Args:
        session: a model; the profile is taken in a copy of it.
        feeds: as for `Session.run`.
        runs: inferences of each kind, at least 1.

    Returns:
        JSON values. `runs`; `total_ms`, the median inference without a profiler, half of them taken before and half after the
        profile; `ops_ms`, the median of the op times' sums; `ops`, in the order in which they ran, each with `name`, `op`,
        `device`, `kind` (the kernel, if told), `ms` (median), `share` (median over runs of its part of the run's op times),
        `low` and `high` (a distribution-free 95 % interval of that median); `unattributed_share`, the part of `total_ms` that
        `ops_ms` does not explain, 0 if it explains all; `coverage` of the intervals; `source`; `step_us`, the profiler's step,
        below which an op's time reads 0; `warnings`.

    Raises:
        UnsupportedError: the engine has no profiler that is known; the message says which is needed.
        EdgewrightError: what `Session.run` raises.
    """
    whole = _inferences_ns(session, feeds, (runs + 1) // 2)
    timed = session.profile(feeds, runs)
    whole += _inferences_ns(session, feeds, runs // 2)
    total_ns = max(1.0, float(np.median(whole)))
    times = np.array([op.times_ns for op in timed], np.float64) if timed else np.zeros((0, 1))
    sums = times.sum(axis=0)
    shares = np.divide(times, sums, out=np.zeros_like(times), where=sums > 0)
    low, high, coverage = _ranks(times.shape[1])
    ordered = np.clip(np.sort(shares, axis=1), 0.0, 1.0)  # single times may be less than 0: see OpTime
    ops_ns = float(np.median(sums))
    ops = [
        {
            "name": op.name,
            "op": op.op,
            "device": op.device,
            "kind": op.kind,
            "ms": max(0.0, float(np.median(times[at]))) / 1e6,
            "share": float(np.median(ordered[at])),
            "low": float(ordered[at, low]),
            "high": float(ordered[at, high]),
        }
        for at, op in enumerate(timed)
    ]
    return {
        "runs": runs,
        "total_ms": total_ns / 1e6,
        "ops_ms": ops_ns / 1e6,
        "ops": ops,
        "unattributed_share": max(0.0, 1.0 - ops_ns / total_ns),
        "coverage": coverage,
        "source": f"{session.profiler} ({session.version()})",
        "step_us": _STEP_US,
        "warnings": _warnings(ops, ops_ns, total_ns),
    }


def _inferences_ns(session: Session, feeds: Mapping[str, Array], runs: int) -> list[int]:
    """Times of inferences without a profiler; one that is not timed comes first."""
    session.run(feeds)
    taken = []
    for _ in range(runs):
        begun = time.perf_counter_ns()
        session.run(feeds)
        taken.append(time.perf_counter_ns() - begun)
    return taken


def _warnings(ops: Sequence[Mapping[str, Any]], ops_ns: float, total_ns: float) -> list[str]:
    """What a reader of the figures must know."""
    if not ops_ns:
        return [f"every op took less than the profiler's step of {_STEP_US} us: there are no shares"]
    found = []
    if ops_ns > _TOO_MUCH * total_ns:
        found.append(
            f"op times add up to {ops_ns / total_ns:.1f} times an inference without a profiler: profiling costs time, most in "
            "models of many small ops, loops or branches, or something else ran meanwhile"
        )
    below = sum(op["ms"] == 0 for op in ops)
    if below:
        found.append(f"{below} of {len(ops)} ops took less than the profiler's step of {_STEP_US} us and read 0")
    return found


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Interval of a median from its sorted values alone, whatever their distribution.

    Values below the true median are a binomial count with p = 1/2, so the k-th smallest and the k-th largest enclose it with
    a known probability (David & Nagaraja, 2003, Order Statistics, 3rd edition, section 7.1).

    Args:
        values: at least one.

    Returns:
        lower end, upper end, and the probability that they enclose the median: 0.95 or more from 6 values on, less for fewer.
    """
    low, high, coverage = _ranks(len(values))
    ordered = sorted(values)
    return ordered[low], ordered[high], coverage


def _ranks(count: int) -> tuple[int, int, float]:
    """Positions of the two ends in `count` sorted values and their coverage: the narrowest pair with 0.95 or more.

    Where no pair has as much, the least and the largest value are the ends.
    """
    all_ways, at, outside = 1 << count, 0, 1
    while at + 1 <= (count - 1) // 2 and 40 * (outside + math.comb(count, at + 1)) <= all_ways:
        at += 1
        outside += math.comb(count, at)
    return at, count - 1 - at, 1.0 - 2 * outside / all_ways
