"""The history of a model as points in time, each with what changed since the one before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from edgewright.benchmarks.comparable import threads_of
from edgewright.benchmarks.compare import FIGURES, compare
from edgewright.benchmarks.gate import DEFAULT_LIMIT, Difference, judge
from edgewright.benchmarks.history import Entry, time_text
from edgewright.errors import UsageError
from edgewright.report import Metric

__all__ = ["Point", "points_of"]


@dataclass(frozen=True, slots=True)
class Point:
    """One thread count of one report, beside the one before it of the same series.

    Args:
        time: "2026-01-31 12:00", UTC.
        at: the same in seconds since 1970.
        model: the file's name.
        sha256: the file's digest.
        device: where it was measured.
        engine: the engine's name.
        library: the engine's package and release.
        threads: of one call.
        figures: by short name, a key of `FIGURES`.
        change: of the metric since the point before; None for the first of a series.
        regressed: whether that is more than 5 % and no chance (`gate.judge`).
        note: what else changed since the point before.
    """

    time: str
    at: float
    model: str
    sha256: str
    device: str
    engine: str
    library: str
    threads: int
    figures: Mapping[str, Metric]
    change: Difference | None = None
    regressed: bool = False
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain form for JSON."""
        return {
            "time": datetime.fromtimestamp(self.at, timezone.utc).isoformat(timespec="milliseconds"),
            **{key: getattr(self, key) for key in ("model", "sha256", "device", "engine", "library", "threads")},
            "figures": {name: metric.to_json() for name, metric in self.figures.items()},
            "change": None
            if self.change is None
            else {key: getattr(self.change, key) for key in ("change", "low", "high", "method")},
            "regressed": self.regressed,
            "note": self.note,
        }


def points_of(entries: Sequence[Entry], metric: str = "p90") -> list[Point]:
    """The figures of reports, each beside the one before of the same model, device, engine, threads, precision and machine.

    Args:
        entries: the oldest first.
        metric: the figure whose change is told, a key of `FIGURES`.

    Raises:
        UsageError: there is no such figure.
    """
    if metric not in FIGURES:
        raise UsageError(f"there is no figure '{metric}'", hint=f"known: {', '.join(FIGURES)}")
    before: dict[tuple[Any, ...], Entry] = {}
    points = []
    for entry in entries:
        for threads in threads_of(entry.report):
            execution = entry.report["model"]["execution"]
            key = (
                entry.model,
                entry.device,
                entry.engine,
                threads,
                execution["precision"],
                entry.report["settings"]["fingerprint"],
            )
            change, told = _since(before.get(key), entry, metric, threads)
            figures = _figures(entry.report, threads)
            points.append(
                Point(
                    time_text(entry.at),
                    entry.at,
                    entry.model,
                    entry.sha256,
                    entry.device,
                    entry.engine,
                    entry.library,
                    threads,
                    figures,
                    change,
                    change is not None and judge(change, DEFAULT_LIMIT) == "regressed",
                    told,
                )
            )
            before[key] = entry
    return points


def _since(before: Entry | None, now: Entry, metric: str, threads: int) -> tuple[Difference | None, str]:
    """How a figure changed since the report before, and what else did."""
    if before is None:
        return None, ""
    found = compare(before.report, now.report)
    change = next((one.found for one in found.changes if one.figure == metric and one.threads in (threads, 0)), None)
    told = [f"{before.library} before"] if before.library != now.library else []
    told += ["another file"] if before.sha256 != now.sha256 else []
    told += [text for name, text in found.differing.items() if name in ("governor", "throttled", "inputs")]
    return change, ", ".join(told)


def _figures(report: Mapping[str, Any], threads: int) -> dict[str, Metric]:
    """Each figure that a report has for a thread count."""
    subjects = {"", f"threads={threads}"} if len(threads_of(report)) > 1 else {""}
    found = {}
    for name, figure in FIGURES.items():
        metric = next((one for one in report["metrics"] if one["name"] == figure.metric and one["subject"] in subjects), None)
        if metric is not None and isinstance(metric["value"], (int, float)):
            found[name] = Metric.from_json(metric)
    return found
