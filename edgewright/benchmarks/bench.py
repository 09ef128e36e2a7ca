"""Benchmark model files: fresh processes, taken in turns, and figures that carry their interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgewright.artifact import file_sha256
from edgewright.benchmarks.bench_figures import histogram_of
from edgewright.benchmarks.bench_report import report_of
from edgewright.benchmarks.student import batch_means, t_interval, t_quantile
from edgewright.errors import UsageError
from edgewright.report import Report
from edgewright.worker import Limits, run

__all__ = [
    "BenchTarget",
    "Measure",
    "batch_means",
    "bench",
    "bench_many",
    "histogram_of",
    "report_of",
    "t_interval",
    "t_quantile",
]

Progress = Callable[[float, str], None]

WARMUP_S = 0.3
MOST_RUNS_PER_S = 20_000
MOST_RUNS = 1_000_000
"""Where a process's timed inferences end: so many per second of its duration (of one second at least), so many in all."""

_JOB = "edgewright.benchmarks.latency:measure"


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


Measure = Callable[[BenchTarget, Mapping[str, Any]], dict[str, Any]]
"""Measures one process: a target, and the arguments of `latency.measure` that differ from one process to the next."""


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
    idle_gaps: int = 20,
    gap_ms: float = 100.0,
    profile: bool = False,
    meter: str = "auto",
    meter_root: str = "/",
    energy_s: float = 10.0,
    baseline_s: float = 3.0,
) -> Report:
    """Measure one file; see `BenchTarget` for the first arguments and `bench_many` for the others, the report and errors."""
    return bench_many(
        [BenchTarget(path, engine, tuple(threads), exact)],
        duration_s=duration_s,
        repeats=repeats,
        limits=limits,
        progress=progress,
        idle_gaps=idle_gaps,
        gap_ms=gap_ms,
        profile=profile,
        meter=meter,
        meter_root=meter_root,
        energy_s=energy_s,
        baseline_s=baseline_s,
    )[0]


def bench_many(
    files: Sequence[BenchTarget],
    *,
    duration_s: float = 1.0,
    repeats: int = 3,
    limits: Limits = Limits(),
    progress: Progress | None = None,
    worked: bool = False,
    idle_gaps: int = 0,
    gap_ms: float = 100.0,
    profile: bool = False,
    meter: str = "none",
    meter_root: str = "/",
    energy_s: float = 10.0,
    baseline_s: float = 3.0,
    measure: Measure | None = None,
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
        idle_gaps: inferences after idle gaps, in each process; 0 for none.
        gap_ms: length of a gap.
        profile: time every op too, in runs of their own.
        meter: a power meter NAME[:OPTION], "auto" for the first that can be read here, "none".
        meter_root: where meters, clocks and temperatures are read from.
        energy_s: seconds of inferences under the meter, in each process.
        baseline_s: seconds of idling under the meter, before and behind them each.
        measure: measures one process, on a board for example; None runs `latency.measure` in a child here. It answers for
            `limits` and for everything from `idle_gaps` on itself.

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
    more: dict[str, Any] = {"idle_gaps": idle_gaps, "gap_ms": gap_ms, "profile": profile}
    more |= {"meter": meter, "meter_root": meter_root, "energy_s": energy_s, "baseline_s": baseline_s}
    most = int(min(MOST_RUNS, MOST_RUNS_PER_S * max(1.0, duration_s)))
    load = None
    for order, (index, n, count) in enumerate(todo):
        target = files[index]
        name = Path(target.path).name
        if progress:
            progress(order / len(todo), f"{name}, process {n + 1} of {repeats}")
        settings: dict[str, Any] = {"threads": count, "warmup_s": WARMUP_S, "duration_s": duration_s, "max_runs": most}
        if measure is not None:
            found = measure(target, settings)
        else:
            how: dict[str, Any] = {"path": str(target.path), "engine": target.engine, "exact": target.exact}
            found = run(_JOB, what=f"measuring {name}", limits=limits, **how, **settings, **more)
        if order == 0:
            load = None if worked else found["load_average"]  # later ones count our own work
        done[index][count].append({**found, "order": order, "load_average": load})
    return [report_of(target.path, runs, sha256=digest) for target, runs, digest in zip(files, done, digests, strict=True)]


def _threads(target: BenchTarget) -> tuple[int, ...]:
    """Thread counts, each once."""
    return tuple(dict.fromkeys(target.threads))
