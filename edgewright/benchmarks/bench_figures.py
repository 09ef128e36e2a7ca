"""Figures of one file with one thread count, from what single processes measured, each with its interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from edgewright.benchmarks.bootstrap import MANY, OUTER, Resampled, figures_of, hierarchical, interval, resample
from edgewright.benchmarks.student import BATCHES, batch_means, t_interval
from edgewright.report import Histogram, Metric

__all__ = ["figures_of_runs", "histogram_of"]

Array = np.ndarray[Any, Any]
Record = Mapping[str, Any]

BINS = 40

LEAST_OF_P999 = 1000
"""Inferences of a process without which its p99.9 is its slowest one."""

SEED = 0
"""Of the bootstrap: the same measurements give the same report."""

_QUANTILES = (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9, 100)

_LATENCIES = {
    "p50": "latency_p50",
    "p90": "latency_p90",
    "p99": "latency_p99",
    "p999": "latency_p99.9",
    "mean": "latency_mean",
    "iqr": "latency_iqr",
    "jitter": "latency_jitter",
}
"""Metrics by their names in `bootstrap.FIGURES`."""


@dataclass(frozen=True, slots=True)
class _Series:
    """Latencies of one kind, process by process.

    Args:
        values: each process's latencies in ms, in order.
        figures: of each process.
        within: each process, resampled.
    """

    values: tuple[Array, ...]
    figures: tuple[Mapping[str, float], ...]
    within: tuple[Resampled, ...]

    @classmethod
    def of(cls, nanoseconds: Sequence[Sequence[int]]) -> _Series:
        """From latencies in ns."""
        values = tuple(np.asarray(one) / 1e6 for one in nanoseconds)
        return cls(values, tuple(map(figures_of, values)), tuple(resample(v, seed=SEED + n) for n, v in enumerate(values)))

    def metric(self, figure: str, name: str, subject: str) -> Metric:
        """A figure's mean over processes with its interval."""
        each = [process[figure] for process in self.figures]
        found = Metric(name, "ms", float(np.mean(each)), subject, sum(map(len, self.values)))
        ends = interval(figure, each, self.within, seed=SEED)
        return replace(found, low=ends[0], high=ends[1], interval=ends[2]) if ends else found


def figures_of_runs(runs: Sequence[Record], subject: str) -> tuple[list[Metric], dict[str, Any]]:
    """All figures of one thread count but the file's sizes; see `bench_report.report_of`.

    Args:
        runs: records of `latency.measure`, at least 1.
        subject: of the metrics.

    Returns:
        The metrics, and what goes into the report's details.
    """
    steady = _Series.of([run["latencies_ns"] for run in runs])
    gaps = [run["after_idle_ns"]["latencies_ns"] for run in runs]
    idle = _Series.of(gaps) if all(gaps) else None
    return _metrics(runs, steady, idle, subject), _details(runs, steady, idle)


def _metrics(runs: Sequence[Record], steady: _Series, idle: _Series | None, subject: str) -> list[Metric]:
    """In the order of the report."""
    latencies = {figure: steady.metric(figure, name, subject) for figure, name in _LATENCIES.items()}
    if (least := min(map(len, steady.values))) < LEAST_OF_P999:
        seconds = math.ceil(runs[0]["settings"]["duration_s"] * LEAST_OF_P999 / least)
        why = f"a p99.9 needs {LEAST_OF_P999:,} inferences in each process, one had {least:,} (--duration {seconds} would do)"
        latencies["p999"] = Metric("latency_p99.9", "ms", None, subject, why_absent=why)
    if len(runs) == 1 and (within := batch_means(steady.values[0])):
        mean = replace(latencies["mean"], low=within[0], high=within[1], interval=f"95 % t over {BATCHES} batches")
        latencies["mean"] = mean
    return [
        _range("load", "ms", [run["load_ns"] / 1e6 for run in runs], subject),
        _range("first_inference", "ms", [run["first_ns"] / 1e6 for run in runs], subject),
        *latencies.values(),
        *([idle.metric("p50", "latency_after_idle", subject)] if idle else []),
        _rate(latencies["mean"], runs[0]["batch"]),
        *_memory(runs, subject),
        _arena(runs, subject),
        *_energy(runs, subject),
        _range("import", "ms", [run["import_ns"] / 1e6 for run in runs], subject),
    ]


def _rate(mean: Metric, batch: int) -> Metric:
    """Samples per second from the mean latency of a call; the interval's ends change places."""
    found = replace(mean, name="inferences_per_second", unit="1/s", low=None, high=None, interval="")
    if not mean.value:
        return replace(found, value=None, why_absent="inferences are shorter than the clock's step")
    found = replace(found, value=batch * 1000 / mean.value)
    if not mean.low or not mean.high:
        return found
    return replace(found, low=batch * 1000 / mean.high, high=batch * 1000 / mean.low, interval=mean.interval)


def _range(name: str, unit: str, values: Sequence[float], subject: str) -> Metric:
    """A figure that each process has one of: the median, and the range."""
    found = Metric(name, unit, float(np.median(values)), subject, len(values))
    if len(values) == 1:
        return found
    return replace(found, low=min(values), high=max(values), interval=f"range of {len(values)} processes")


def _memory(runs: Sequence[Mapping[str, Any]], subject: str) -> list[Metric]:
    """Peak of resident memory, and what of it the engine and the model brought."""
    rss = [run["rss"] for run in runs]
    why = next((state["why_absent"] for state in rss if state["why_absent"]), "")
    peaks = [float(state["peak_bytes"]) for state in rss if state["peak_bytes"] is not None]
    grown = [float(s["peak_bytes"] - s["before_bytes"]) for s in rss if None not in (s["peak_bytes"], s["before_bytes"])]
    return [
        _range(name, "bytes", values, subject) if values else Metric(name, "bytes", None, subject, why_absent=why or "not told")
        for name, values in (("peak_rss", peaks), ("model_rss", grown))
    ]


def _arena(runs: Sequence[Record], subject: str) -> Metric:
    """What the engine plans for activations: a promise of the file and the engine, so equal in every process."""
    found = [float(run["arena_bytes"]) for run in runs if run["arena_bytes"] is not None]
    if not found:
        return Metric("arena_bytes", "bytes", None, subject, why_absent=runs[0]["arena_why_absent"] or "not told")
    return replace(_range("arena_bytes", "bytes", found, subject), low=None, high=None, interval="")


_ENERGY = {
    "energy_per_inference": ("mJ", "mj_per_inference"),
    "energy_per_inference_gross": ("mJ", "mj_per_inference_gross"),
    "power_idle": ("W", "baseline_watts"),
    "power_active": ("W", "active_watts"),
}
"""Metrics with their unit and their key in what `energy.measure_energy` found."""


def _energy(runs: Sequence[Record], subject: str) -> list[Metric]:
    """Energy net of idle power, with idle power in it, and both powers; only the reason where there is none."""
    if runs[0]["settings"]["meter"] == "none":
        return []
    found = [run["energy"] for run in runs if "mj_per_inference" in run["energy"]]
    if not found:
        why = next((run["energy"]["why_absent"] for run in runs if run["energy"].get("why_absent")), "")
        why = why or "another machine reads the meter; its trace was not added"
        return [Metric("energy_per_inference", "mJ", None, subject, why_absent=why)]
    inferences = sum(one["inferences"] for one in found)
    metrics = [
        Metric(name, unit, float(np.mean([one[key] for one in found])), subject, inferences, found[0]["origin"])
        for name, (unit, key) in _ENERGY.items()
    ]
    low, high = (float(np.mean([one[end] for one in found])) for end in ("low", "high"))
    told = found[0]["interval"]
    if len(found) > 1:
        ends = t_interval([one["mj_per_inference"] for one in found])
        low, high, told = min(low, ends[0]), max(high, ends[1]), f"95 % t over {len(found)} processes, at least that of each"
    return [replace(metrics[0], low=low, high=high, interval=told), *metrics[1:]]


def _details(runs: Sequence[Record], steady: _Series, idle: _Series | None) -> dict[str, Any]:
    """Distribution and single processes of one thread count."""
    together = np.concatenate(steady.values)
    names = {figure: name for figure, name in _LATENCIES.items() if figure != "p999" or _enough_for_p999(steady)}
    drawn = hierarchical(steady.within, seed=SEED)
    found: dict[str, Any] = {
        "histogram": asdict(histogram_of(together)),
        "quantiles_ms": {f"p{q:g}": float(np.percentile(together, q)) for q in _QUANTILES},
        "bootstrap": {
            "method": "95 % percentiles of a hierarchical bootstrap: processes, and blocks of inferences within each",
            "resamples": OUTER,
            "seed": SEED,
            "blocks": [process.block for process in steady.within],
            "intervals_ms": {name: list(drawn[figure]) for figure, name in names.items() if figure in drawn},
            "note": "" if len(runs) >= MANY else f"too narrow: fewer than {MANY} processes do not show how processes differ",
        },
        "processes": [_process(run, steady, idle, n) for n, run in enumerate(runs)],
        "conditions": [run["conditions"] for run in runs],
        "placement": runs[0]["placement"],
        "profile": _profile(runs),
        "energy": [run["energy"] for run in runs],
    }
    if idle:
        pooled = np.concatenate(idle.values)
        quantiles = {f"p{q}_ms": float(np.percentile(pooled, q)) for q in (50, 90, 100)}
        found["after_idle"] = {"gap_ms": runs[0]["after_idle_ns"]["gap_ms"], "runs": len(pooled), **quantiles}
    return found


def _enough_for_p999(steady: _Series) -> bool:
    return min(map(len, steady.values)) >= LEAST_OF_P999


def _process(run: Record, steady: _Series, idle: _Series | None, n: int) -> dict[str, Any]:
    """One process's own figures."""
    figures, rss = steady.figures[n], run["rss"]
    count = len(steady.values[n])
    both = None not in (rss["peak_bytes"], rss["before_bytes"])
    return {
        **{f"{figure}_ms": figures[figure] for figure in _LATENCIES},
        "p999_ms": figures["p999"] if count >= LEAST_OF_P999 else None,
        "after_idle_ms": idle.figures[n]["p50"] if idle else None,
        "load_ms": run["load_ns"] / 1e6,
        "first_ms": run["first_ns"] / 1e6,
        "peak_rss_bytes": rss["peak_bytes"],
        "model_rss_bytes": rss["peak_bytes"] - rss["before_bytes"] if both else None,
        "mj_per_inference": run["energy"].get("mj_per_inference"),
        "throttled": run["conditions"]["throttled"],
        "runs": count,
        "cpu_share": run["cpu_share"],
        "pid": run["pid"],
        "order": run.get("order"),
    }


def _profile(runs: Sequence[Record]) -> dict[str, Any]:
    """The profile of the process whose total is the median: shares of one process add up."""
    found = [(n, run["profile"]) for n, run in enumerate(runs) if "ops" in run["profile"]]
    if not found:
        return dict(runs[0]["profile"])
    order = sorted(found, key=lambda one: float(one[1]["total_ms"]))
    n, profile = order[(len(order) - 1) // 2]
    return {**profile, "process": n + 1, "processes": len(runs)}


def histogram_of(values: Array, bins: int = BINS) -> Histogram:
    """Distribution of latencies from the least to the 97.5th percentile; the few slowest would flatten it.

    Args:
        values: in ms, shape (inferences,).
        bins: at most; no more than there are nanoseconds in the span, which is the clock's unit.
    """
    low, high = float(values.min()), float(np.percentile(values, 97.5))
    bins = max(1, min(bins, round((high - low) * 1e6)))
    edges = np.linspace(low, high if high > low else low + 1e-6, bins + 1)
    counts, _ = np.histogram(values, edges)
    below, above = int((values < edges[0]).sum()), int((values > edges[-1]).sum())
    return Histogram("ms", tuple(map(float, edges)), tuple(map(int, counts)), below, above)
