"""The report of a benchmark, from what single processes measured."""

from __future__ import annotations

import mmap
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgewright.artifact import deflated_bytes, file_sha256, looks_like, raw_bytes
from edgewright.benchmarks.bench_figures import figures_of_runs
from edgewright.benchmarks.bench_warnings import warnings_of_file, warnings_of_runs
from edgewright.report import Metric, Report

__all__ = ["report_of"]

Runs = Mapping[int, Sequence[Mapping[str, Any]]]


def report_of(path: str | Path, runs: Runs, *, sha256: str | None = None) -> Report:
    """The report on one file from what `latency.measure` found, here or on a board.

    Latency is of one call, with the model's own batch size or 1. Values of latencies, also those after idle gaps, are
    means over processes of each process's own mean or percentile, with the 95 % interval of `bootstrap.interval`; with a
    single process the mean's interval comes from its batch means. `latency_jitter` and `latency_iqr` are defined at
    `bootstrap.figures_of`. The p99.9 is there from 1000 inferences in each process on. Values of load, first inference,
    import and memory are medians over processes, with their range. Energy is a mean over processes, with an interval that
    holds Student's t over processes and those of the single processes. Energy and latency after idle gaps are there if
    they were asked for.

    Args:
        path: the file, as it lies here.
        runs: results of `latency.measure` by thread count; a key "order" says when each took place among the others.
        sha256: the file's digest; None computes it.

    Returns:
        A report of kind "bench". Metrics have the subject "" for a single thread count, "threads=N" for several; so have
        `details` keys: `histogram`, `quantiles_ms` (of all timed inferences together), `processes` (each process's own
        figures), `bootstrap` (intervals of the hierarchical bootstrap, and its settings), `after_idle`, `conditions` and
        `energy` (one entry per process), `placement`, `profile` (of the process whose total is the median); one such
        dictionary per thread count if there are several.
    """
    path = Path(path)
    first = next(iter(runs.values()))[0]
    several = len(runs) > 1
    metrics: list[Metric] = []
    warnings: list[str] = []
    details: dict[str, Any] = {}
    for count, found in runs.items():
        subject = f"threads={count}" if several else ""
        figures, rest = figures_of_runs(found, subject)
        metrics += figures
        warnings += [f"{subject}: {text}" if several else text for text in warnings_of_runs(found)]
        details |= {subject: rest} if several else rest
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
            **{key: first["settings"][key] for key in ("seed", "idle_gaps", "gap_ms", "profile", "meter")},
            **{key: first[key] for key in ("machine", "fingerprint", "load_average", "python", "numpy")},
        },
        tuple(metrics),
        tuple(warnings_of_file(path, runs) + warnings),
        details,
    )


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
