"""Benchmark model files: fresh processes, taken in turns, and figures that carry their interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgewright.artifact import file_sha256
from edgewright.benchmarks.bench_figures import histogram_of
from edgewright.benchmarks.bench_report import report_of
from edgewright.benchmarks.bench_settings import DEFAULTS, BenchSettings
from edgewright.benchmarks.student import batch_means, t_interval, t_quantile
from edgewright.errors import UsageError
from edgewright.report import Report
from edgewright.worker import run

__all__ = [
    "BenchTarget",
    "MeasureProcess",
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


MeasureProcess = Callable[[BenchTarget, Mapping[str, Any]], dict[str, Any]]
"""Measures one process: takes a target and the other arguments of `latency.measure`, gives what that gives."""


def bench(
    path: str | Path,
    settings: BenchSettings = DEFAULTS,
    *,
    engine: str | None = None,
    threads: Sequence[int] = (1,),
    exact: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Measure one file; see `BenchTarget` for how it is run, and `bench_many` for the others, the report and errors."""
    return bench_many([BenchTarget(path, engine, tuple(threads), exact)], settings, progress=progress)[0]


def bench_many(
    files: Sequence[BenchTarget],
    settings: BenchSettings = DEFAULTS,
    *,
    progress: Progress | None = None,
    worked: bool = False,
    measure: MeasureProcess | None = None,
) -> list[Report]:
    """Measure files so that they can be compared: round after round of all of them, each run in a process of its own.

    Machines drift (clocks, heat, neighbours): whatever changes from one round to the next changes for every file alike.
    A fresh process has its own memory layout, which shifts latencies for as long as it lives; so the interval of a
    latency is that between processes (T. Kalibera, R. Jones, "Rigorous benchmarking in reasonable time", ISMM 2013).

    Args:
        files: what to measure.
        settings: what is measured, and how often.
        progress: called with a share between 0 and 1 and a text.
        worked: whether the caller itself has been at work: the load average then says nothing of others.
        measure: measures one process, on a board for example, and answers for `settings.limits`; None runs `latency.measure`
            in a child here.

    Returns:
        One report of kind "bench" per file, in order; see `report_of`.

    Raises:
        UsageError: a number of threads is not positive.
        EdgewrightError: a file is missing, or an engine refuses it.
    """
    for target in files:
        if not target.threads or min(target.threads) < 1:
            raise UsageError(
                f"threads of {target.path} are {target.threads}, each must be at least 1", hint="write for example 1"
            )
    digests = [file_sha256(Path(target.path)) for target in files]  # reads every file: all are in the page cache from here on
    todo = [
        (index, n, count) for n in range(settings.repeats) for index, target in enumerate(files) for count in _threads(target)
    ]
    done: list[dict[int, list[dict[str, Any]]]] = [{count: [] for count in _threads(target)} for target in files]
    most = int(min(MOST_RUNS, MOST_RUNS_PER_S * max(1.0, settings.duration_s)))
    same = {**settings.of_a_process(), "warmup_s": WARMUP_S, "max_runs": most}
    load = None
    for order, (index, n, count) in enumerate(todo):
        target = files[index]
        name = Path(target.path).name
        if progress:
            progress(order / len(todo), f"{name}, process {n + 1} of {settings.repeats}")
        how = {**same, "threads": count}
        if measure is not None:
            found = measure(target, how)
        else:
            of_target: dict[str, Any] = {"path": str(target.path), "engine": target.engine, "exact": target.exact}
            found = run(_JOB, what=f"measuring {name}", limits=settings.limits, **of_target, **how)
        if order == 0:
            load = None if worked else found["load_average"]  # later ones count our own work
        done[index][count].append({**found, "order": order, "load_average": load})
    return [report_of(target.path, runs, sha256=digest) for target, runs, digest in zip(files, done, digests, strict=True)]


def _threads(target: BenchTarget) -> tuple[int, ...]:
    """Thread counts, each once."""
    return tuple(dict.fromkeys(target.threads))
