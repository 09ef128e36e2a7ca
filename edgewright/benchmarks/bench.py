"""Benchmark model files: fresh processes, taken in turns, and figures that carry their interval."""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.artifact import deflated_bytes, file_sha256, looks_like, raw_bytes
from edgewright.errors import UsageError
from edgewright.report import Histogram, Metric, Report
from edgewright.worker import Limits, run

__all__ = ["BenchTarget", "batch_means", "bench", "bench_many", "histogram_of", "report_of", "t_interval", "t_quantile"]

Array = np.ndarray[Any, Any]
Progress = Callable[[float, str], None]
Runs = Mapping[int, Sequence[Mapping[str, Any]]]

WARMUP_S = 0.3
MOST_RUNS_PER_S = 20_000
MOST_RUNS = 1_000_000
"""Where a process's timed inferences end: so many per second of its duration (of one second at least), so many in all."""

BINS = 40
BATCHES = 20

_JOB = "edgewright.benchmarks.latency:measure"
_QUANTILES = (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9, 100)


@dataclass(frozen=True, slots=True)
class BenchTarget:
    """A file to measure, and how it is to be run.

    Args:
        path: a .tflite, .onnx or OpenVINO .xml file.
        engine: name of the engine; None takes the format's own.
        threads: thread counts, each measured by itself.
        exact: compute float ops in float32 even where the engine would choose a lower precision by itself.
    """

    path: str | Path
    engine: str | None = None
    threads: tuple[int, ...] = (1,)
    exact: bool = False


def bench(
    path: str | Path,
    *,
    engine: str | None = None,
    threads: Sequence[int] = (1,),
    exact: bool = False,
    duration_s: float = 1.0,
    repeats: int = 3,
    limits: Limits = Limits(),
    progress: Progress | None = None,
) -> Report:
    """Measure one file; see `BenchTarget` for the first arguments and `bench_many` for the others, the report and errors."""
    target = BenchTarget(path, engine, tuple(threads), exact)
    return bench_many([target], duration_s=duration_s, repeats=repeats, limits=limits, progress=progress)[0]


def bench_many(
    files: Sequence[BenchTarget],
    *,
    duration_s: float = 1.0,
    repeats: int = 3,
    limits: Limits = Limits(),
    progress: Progress | None = None,
    worked: bool = False,
) -> list[Report]:
    """Measure files so that they can be compared: round after round of all of them, each run in a process of its own.

    Machines drift (clocks, heat, neighbours): whatever changes from one round to the next changes for every file alike.
    A fresh process has its own memory layout, which shifts latencies for as long as it lives; so the interval of a
    latency is that between processes (T. Kalibera, R. Jones, "Rigorous benchmarking in reasonable time", ISMM 2013).

    Args:
        files: what to measure.
        duration_s: seconds of timed inferences in each process.
        repeats: rounds, that is processes per file and thread count.
        limits: time and memory of each process.
        progress: called with a share between 0 and 1 and a text.
        worked: whether the caller itself has been at work: the load average then says nothing of others.

    Returns:
        One report of kind "bench" per file, in order; see `report_of`.

    Raises:
        UsageError: a number is not positive.
        EdgewrightError: a file is missing, or an engine refuses it.
    """
    if repeats < 1:
        raise UsageError(f"repeats is {repeats}, 1 is the least", hint="leave it out to take 3")
    for target in files:
        if not target.threads or min(target.threads) < 1:
            raise UsageError(
                f"threads of {target.path} are {target.threads}, each must be at least 1", hint="write for example 1"
            )
    digests = [file_sha256(Path(target.path)) for target in files]  # reads every file: all are in the page cache from here on
    todo = [(index, n, count) for n in range(repeats) for index, target in enumerate(files) for count in _threads(target)]
    done: list[dict[int, list[dict[str, Any]]]] = [{count: [] for count in _threads(target)} for target in files]
    load = None
    for order, (index, n, count) in enumerate(todo):
        target = files[index]
        name = Path(target.path).name
        if progress:
            progress(order / len(todo), f"{name}, process {n + 1} of {repeats}")
        found = run(
            _JOB,
            what=f"measuring {name}",
            limits=limits,
            path=str(target.path),
            engine=target.engine,
            threads=count,
            exact=target.exact,
            warmup_s=WARMUP_S,
            duration_s=duration_s,
            max_runs=int(min(MOST_RUNS, MOST_RUNS_PER_S * max(1.0, duration_s))),
        )
        if order == 0:
            load = None if worked else found["load_average"]  # later ones count our own work
        done[index][count].append({**found, "order": order, "load_average": load})
    return [report_of(target.path, runs, sha256=digest) for target, runs, digest in zip(files, done, digests, strict=True)]


def _threads(target: BenchTarget) -> tuple[int, ...]:
    """Thread counts, each once."""
    return tuple(dict.fromkeys(target.threads))


def report_of(path: str | Path, runs: Runs, *, sha256: str | None = None) -> Report:
    """The report on one file from what `latency.measure` found, here or on a board.

    Latency is of one call, with the model's own batch size or 1. Values of latencies are means over processes of each
    process's own mean or percentile, with a 95 % interval of Student's t; with a single process the mean's interval comes
    from its batch means and percentiles have none. Values of load, first inference, import and memory are medians over
    processes, with their range.

    Args:
        path: the file, as it lies here.
        runs: results of `latency.measure` by thread count; a key "order" says when each took place among the others.
        sha256: the file's digest; None computes it.

    Returns:
        A report of kind "bench". Metrics have the subject "" for a single thread count, "threads=N" for several; so have
        `details` keys: `histogram`, `processes` (each process's own figures), `quantiles_ms` (of all timed inferences
        together), one such dictionary per thread count if there are several.
    """
    path = Path(path)
    first = next(iter(runs.values()))[0]
    several = len(runs) > 1
    metrics: list[Metric] = []
    warnings: list[str] = []
    details: dict[str, Any] = {}
    for count, found in runs.items():
        subject = f"threads={count}" if several else ""
        metrics += _metrics(found, subject)
        warnings += [f"{subject}: {text}" if several else text for text in _warnings_of_runs(found)]
        details |= {subject: _details(found)} if several else _details(found)
    beside = _weights_beside(path)
    metrics += [
        Metric("raw_bytes", "bytes", float(raw_bytes(path, *beside))),
        Metric("deflated_bytes", "bytes", float(deflated_bytes(path, *beside))),
    ]
    return Report(
        "bench",
        {
            "path": str(path),
            "format": looks_like(path),
            "sha256": sha256 or file_sha256(path),
            **{key: first[key] for key in ("engine", "library", "execution", "inputs", "batch")},
        },
        {
            "threads": list(runs),
            "duration_s": first["settings"]["duration_s"],
            "repeats": len(next(iter(runs.values()))),
            "exact": first["exact"],
            "warmup_s": first["settings"]["warmup_s"],
            "seed": first["settings"]["seed"],
            **{key: first[key] for key in ("machine", "fingerprint", "load_average", "python", "numpy")},
        },
        tuple(metrics),
        tuple(_warnings_of_file(path, runs) + warnings),
        details,
    )


def _in_ms(runs: Sequence[Mapping[str, Any]]) -> list[Array]:
    """Each process's latencies in ms."""
    return [np.asarray(run["latencies_ns"]) / 1e6 for run in runs]


def _metrics(runs: Sequence[Mapping[str, Any]], subject: str) -> list[Metric]:
    """All figures of one thread count but the file's sizes."""
    latencies = _in_ms(runs)
    count = sum(map(len, latencies))
    found = [
        _over_processes(f"latency_p{q}", [float(np.percentile(values, q)) for values in latencies], subject, count)
        for q in (50, 90, 99)
    ]
    mean = _over_processes("latency_mean", [float(values.mean()) for values in latencies], subject, count)
    if len(runs) == 1 and (within := batch_means(latencies[0])):
        mean = replace(mean, low=within[0], high=within[1], interval=f"95 % t over {BATCHES} batches")
    return [
        _range("load", "ms", [run["load_ns"] / 1e6 for run in runs], subject),
        _range("first_inference", "ms", [run["first_ns"] / 1e6 for run in runs], subject),
        *found,
        mean,
        _rate(mean, runs[0]["batch"]),
        *_memory(runs, subject),
        _range("import", "ms", [run["import_ns"] / 1e6 for run in runs], subject),
    ]


def _over_processes(name: str, values: Sequence[float], subject: str, samples: int) -> Metric:
    """A latency: the mean over processes with its interval, which a single process does not have."""
    found = Metric(name, "ms", float(np.mean(values)), subject, samples)
    if len(values) == 1:
        return found
    low, high = t_interval(values)
    # Few processes that differ much: the interval of the formula may reach below 0, where no latency is.
    return replace(found, low=max(0.0, low), high=high, interval=f"95 % t over {len(values)} processes")


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


def _details(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Distribution and single processes of one thread count."""
    latencies = _in_ms(runs)
    together = np.concatenate(latencies)
    return {
        "histogram": asdict(histogram_of(together)),
        "quantiles_ms": {f"p{q:g}": float(np.percentile(together, q)) for q in _QUANTILES},
        "processes": [
            {
                "p50_ms": float(np.percentile(values, 50)),
                "mean_ms": float(values.mean()),
                "load_ms": run["load_ns"] / 1e6,
                "first_ms": run["first_ns"] / 1e6,
                "runs": len(values),
                "cpu_share": run["cpu_share"],
                "pid": run["pid"],
                "order": run.get("order"),
            }
            for run, values in zip(runs, latencies, strict=True)
        ],
    }


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


_LOCATION = re.compile(rb"\x0a\x08location\x12([\x01-\x7f])")
"""How a TensorProto's external_data names a file: StringStringEntryProto key (1) "location", then value (2), its length first."""


def _weights_beside(path: Path) -> list[Path]:
    """The files below an .onnx file's folder that hold its weights; none for other formats, which `files_of` knows."""
    if looks_like(path) != "onnx":
        return []
    folder = path.parent.resolve()
    with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        places = [data[found.end() : found.end() + found[1][0]] for found in _LOCATION.finditer(data)]
    files = dict.fromkeys((folder / place.decode(errors="replace")).resolve() for place in places if b"\0" not in place)
    return [file for file in files if file.is_relative_to(folder) and file.is_file()]


def _warnings_of_file(path: Path, runs: Runs) -> list[str]:
    """What a reader must know of all figures alike."""
    first = next(iter(runs.values()))[0]
    execution, cores, load = first["execution"], first["machine"]["cores"], first["load_average"]
    found = []
    if lower := [kind for kind in execution["kinds"] if kind in {"bf16", "float16"} and not first["exact"]]:
        told = f"{path.name} was computed in {lower[0]} where it could be in float32 ({execution['detail']})"
        found.append(f"{told}; --exact forces float32")
    if first["batch"] > 1:
        found.append(f"a call computes a batch of {first['batch']}: latency is of the call, inferences per second count samples")
    if load is not None and load > 0.5 * cores:
        told = f"other work was running in the minute before: a load average of {load:.1f} on {cores} cores"
        found.append(f"{told}; measure again when the machine is idle")
    return found


def _warnings_of_runs(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader must know of the figures of one thread count."""
    latencies = _in_ms(runs)
    means = [float(values.mean()) for values in latencies]
    p50, p99 = (float(np.mean([np.percentile(values, q) for values in latencies])) for q in (50, 99))
    cores, threads, clock = runs[0]["machine"]["cores"], runs[0]["threads"], max(run["clock_ns"] for run in runs)
    found = []
    if threads > cores:
        found.append(f"{threads} threads shared {cores} cores")
    if max(means) - min(means) > 0.1 * np.mean(means):
        told = f"the processes' means differ by {(max(means) - min(means)) / np.mean(means):.0%}"
        found.append(f"{told} ({min(means):.4g} to {max(means):.4g} ms): differences smaller than that mean nothing")
    if threads == 1 and (share := min(run["cpu_share"] for run in runs)) < 0.9:
        found.append(
            f"a process had a core for only {share:.0%} of the time: other work was running; measure again when it is done"
        )
    if p99 > 3 * p50:
        found.append(
            f"the p99 of {p99:.4g} ms is {p99 / p50:.1f} times the p50 of {p50:.4g} ms: it counts where there is a deadline"
        )
    if p50 < 0.002:
        found.append(
            f"an inference takes {p50 * 1e6:.0f} ns and the clock has steps of {clock} ns: small differences mean nothing"
        )
    if (least := min(map(len, latencies))) < 100:
        found.append(f"a process timed {least} inferences: its p99 is hardly more than its slowest one; raise --duration")
    return found
