"""Compare two benchmark reports: the change of each figure with its interval, what differs beside the model, and limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from edgewright.benchmarks.comparable import REASONS, differing, threads_of, warnings_of
from edgewright.benchmarks.gate import (
    EXACT,
    LEVEL,
    Difference,
    Limit,
    Verdict,
    difference,
    difference_of_intervals,
    exact_difference,
    gate_level,
    judge,
    more_processes,
)
from edgewright.benchmarks.saved_reports import read_reports
from edgewright.errors import UsageError
from edgewright.report import Report

__all__ = ["FIGURES", "Change", "Comparison", "as_json", "compare", "read_report"]

SCHEMA = 1


class Figure(NamedTuple):
    """Where a figure stands in a report: its metric, and the key of each process's own value; "" where there is none."""

    title: str
    metric: str
    process: str = ""


FIGURES = {
    "p50": Figure("latency p50", "latency_p50", "p50_ms"),
    "p90": Figure("latency p90", "latency_p90", "p90_ms"),
    "p99": Figure("latency p99", "latency_p99", "p99_ms"),
    "p999": Figure("latency p99.9", "latency_p99.9", "p999_ms"),
    "mean": Figure("latency mean", "latency_mean", "mean_ms"),
    "jitter": Figure("jitter", "latency_jitter", "jitter_ms"),
    "after_idle": Figure("latency after idle gaps", "latency_after_idle", "after_idle_ms"),
    "first": Figure("first inference", "first_inference", "first_ms"),
    "load": Figure("load", "load", "load_ms"),
    "memory": Figure("peak memory", "peak_rss", "peak_rss_bytes"),
    "model_memory": Figure("memory of engine and model", "model_rss", "model_rss_bytes"),
    "arena": Figure("arena", "arena_bytes"),
    "energy": Figure("energy per inference", "energy_per_inference", "mj_per_inference"),
    "size": Figure("file", "raw_bytes"),
    "deflated": Figure("file, deflated", "deflated_bytes"),
}
"""What is compared, in the order of the table; of each of them less is better."""

_EXACT = frozenset({"raw_bytes", "deflated_bytes", "arena_bytes"})
_METERED = frozenset({"energy_per_inference"})
"""What a single process has an interval of that counts: from many readings of a meter."""


@dataclass(frozen=True, slots=True)
class Change:
    """One figure in both reports.

    Args:
        figure: its short name, a key of `FIGURES`.
        threads: of one call; 0 for figures of the file itself.
        unit: of `a` and `b`.
        a: the figure in the first report: the median over processes where these are known.
        b: in the second.
        found: the relative change with its interval.
        processes: of the first and of the second report; 0 where the figure has none.
        limit: the allowed change; None without a limit.
        verdict: what the change says of the limit; None without a limit.
        more: how many more processes of each file would decide an undecided one; None if that is not known.
    """

    figure: str
    threads: int
    unit: str
    a: float
    b: float
    found: Difference
    processes: tuple[int, int] = (0, 0)
    limit: float | None = None
    verdict: Verdict | None = None
    more: int | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two reports beside each other.

    Args:
        a: path, sha256, engine and library of the first file.
        b: of the second.
        changes: of each figure that both have, thread count by thread count.
        differing: what else differs than the model, in words with both values, by name (`REASONS`).
        warnings: what a reader must know.
        verdict: the worst of the changes' verdicts; None without limits.
        before: where all this is a new measurement of both files in turns (see `rerun`): what their reports showed; else None.
    """

    a: Mapping[str, Any]
    b: Mapping[str, Any]
    changes: tuple[Change, ...]
    differing: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    verdict: Verdict | None = None
    before: Comparison | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain form for JSON; changes are shares, 0.05 is 5 %."""
        changes = [
            {**{k: v for k, v in asdict(one).items() if k != "found"}, **asdict(one.found), "processes": list(one.processes)}
            for one in self.changes
        ]
        return {
            "schema": SCHEMA,
            "kind": "compare",
            "a": dict(self.a),
            "b": dict(self.b),
            "verdict": self.verdict,
            "changes": changes,
            "differing": dict(self.differing),
            "warnings": list(self.warnings),
            "before": self.before.to_json() if self.before else None,
        }

    @property
    def regressed(self) -> tuple[Change, ...]:
        """The figures that became worse by more than their limit."""
        return tuple(change for change in self.changes if change.verdict == "regressed")

    @property
    def doubtful(self) -> bool:
        """Whether a new measurement could tell more: a figure that varies from process to process is not within its limit."""
        return any(change.verdict in ("regressed", "undecided") and change.found.method != EXACT for change in self.changes)


def read_report(path: Path) -> dict[str, Any]:
    """The one report of a file; see `saved_reports.read_reports`.

    Raises:
        UsageError: the file holds no benchmark report, or several.
    """
    reports = read_reports(path)
    if len(reports) > 1:
        raise UsageError(
            f"{path} holds {len(reports)} benchmark reports, one is compared with one",
            hint="measure one board at a time, or set them side by side with: edgewright report",
        )
    if missing := [part for part in ("model", "settings", "metrics", "details") if part not in reports[0]]:
        raise UsageError(f"{path} is no whole benchmark report: it has no {', '.join(missing)}", hint="measure it again")
    return dict(reports[0])


def compare(
    a: Mapping[str, Any] | Report,
    b: Mapping[str, Any] | Report,
    limits: Mapping[str, Limit] | None = None,
    *,
    allow: Sequence[str] = (),
) -> Comparison:
    """Set a report against an earlier one.

    The unit is the process: its own percentile, mean or load time is one observation (T. Kalibera, R. Jones, "Rigorous
    benchmarking in reasonable time", ISMM 2013). See `gate.difference` for the interval, `gate.judge` for the verdicts.

    Args:
        a: the earlier report of kind "bench", or its JSON.
        b: the later one.
        limits: how much worse figures may be, by their names in `FIGURES`.
        allow: names in `REASONS` of what may differ although there are limits; "all" for all of them.

    Raises:
        UsageError: a figure with a limit is missing or unknown, no thread count is in both, or something of `REASONS` differs
            that is not allowed while there are limits.
    """
    a, b, limits = as_json(a), as_json(b), limits or {}
    if unknown := [name for name in limits if name not in FIGURES]:
        raise UsageError(f"there is no figure '{unknown[0]}'", hint=f"known: {', '.join(FIGURES)}")
    if unknown := [name for name in allow if name not in REASONS and name != "all"]:
        raise UsageError(f"there is nothing called '{unknown[0]}' that may differ", hint=f"known: {', '.join(REASONS)}, all")
    counts = [count for count in threads_of(a) if count in threads_of(b)]
    if not counts:
        told = [", ".join(map(str, threads_of(report))) for report in (a, b)]
        raise UsageError(
            f"no thread count is in both reports: {told[0]} and {told[1]}", hint="measure both with the same --threads"
        )
    found = differing(a, b)
    strict = [name for name in found if name not in allow and "all" not in allow] if limits else []
    if strict:
        raise UsageError(
            f"the reports differ in more than the model: {'; '.join(found[name] for name in strict)}",
            hint=f"measure again under the same conditions, or say --allow {','.join(strict)}",
        )
    level = gate_level(len(limits) * len(counts))
    changes: list[Change] = []
    for name in FIGURES:
        wanted = limits.get(name)
        mine = [change for count in (*counts, 0) if (change := _change(a, b, name, count, wanted, level))]
        if wanted and not mine:
            raise UsageError(_missing(name, a, b), hint="leave its limit out, or measure it in both")
        changes += mine
    return Comparison(_file(a), _file(b), tuple(changes), found, tuple(warnings_of(a, b, found)), _worst(changes))


def as_json(report: Mapping[str, Any] | Report) -> Mapping[str, Any]:
    """A report's plain form."""
    return report.to_json() if isinstance(report, Report) else report


def _worst(changes: Sequence[Change]) -> Verdict | None:
    """The verdict on all changes together; None if none has a limit."""
    verdicts = {change.verdict for change in changes}
    order: tuple[Verdict, ...] = ("regressed", "undecided", "kept")
    return next((verdict for verdict in order if verdict in verdicts), None)


def _file(report: Mapping[str, Any]) -> dict[str, Any]:
    return {key: report["model"].get(key) for key in ("path", "sha256", "engine", "library")}


def _subject(report: Mapping[str, Any], threads: int) -> str:
    """What a report calls a thread count: nothing if it has only one."""
    return f"threads={threads}" if threads and len(threads_of(report)) > 1 else ""


def _metric(report: Mapping[str, Any], name: str, threads: int) -> Mapping[str, Any] | None:
    """A report's metric of a thread count; sizes are those of no thread count."""
    if (name in ("raw_bytes", "deflated_bytes")) != (threads == 0):
        return None
    subject = _subject(report, threads)
    return next((one for one in report["metrics"] if one["name"] == name and one["subject"] == subject), None)


def _of_processes(report: Mapping[str, Any], threads: int) -> list[Mapping[str, Any]]:
    """What a report keeps of each process of a thread count."""
    subject = _subject(report, threads)
    found = report["details"].get(subject, {}) if subject else report["details"]
    return list(found.get("processes", ()))


def _process_values(report: Mapping[str, Any], figure: str, threads: int) -> list[float]:
    """Each process's own value of a figure; empty if the report does not keep them, or if one is no positive number."""
    key = FIGURES[figure].process
    values = [process.get(key) for process in _of_processes(report, threads)]
    good = [float(value) for value in values if isinstance(value, (int, float)) and value > 0]
    return good if key and len(good) == len(values) else []


def _change(
    a: Mapping[str, Any], b: Mapping[str, Any], name: str, threads: int, limit: Limit | None, level: float
) -> Change | None:
    """A figure's change; None if a report does not have it."""
    first, second = (_metric(report, FIGURES[name].metric, threads) for report in (a, b))
    if first is None or second is None or not _positive(first["value"]) or not _positive(second["value"]):
        return None
    values = [_process_values(report, name, threads) for report in (a, b)]
    counts = (0, 0)
    ends = (float(first["value"]), float(second["value"]))
    if FIGURES[name].metric in _EXACT:
        found = exact_difference(*ends)
    elif all(values) and not (FIGURES[name].metric in _METERED and min(map(len, values)) == 1):
        found = difference(values[0], values[1], level if limit else LEVEL)
        ends = (_median(values[0]), _median(values[1]))
        counts = (len(values[0]), len(values[1]))
    else:
        found = _from_metrics(first, second)
        if found.low is not None and FIGURES[name].process:
            counts = (len(_of_processes(a, threads)), len(_of_processes(b, threads)))
    verdict = judge(found, limit.share) if limit else None
    more = more_processes(found, limit.share, min(counts)) if limit and verdict == "undecided" and min(counts) else None
    return Change(name, threads, first["unit"], *ends, found, counts, limit.share if limit else None, verdict, more)


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and value > 0


def _median(values: Sequence[float]) -> float:
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _from_metrics(a: Mapping[str, Any], b: Mapping[str, Any]) -> Difference:
    """The change of figures whose processes are not known: from their intervals where these are confidence intervals."""
    change = b["value"] / a["value"] - 1
    if not all(one["interval"].startswith("95 %") for one in (a, b)):
        kept = "a report keeps no value of each process" if all(one["interval"] for one in (a, b)) else "a report has no interval"
        return Difference(change, method=f"{kept} of this figure")
    if not all(_positive(one["low"]) for one in (a, b)):
        return Difference(change, method="a report's interval of this figure reaches down to 0")
    ends_a, ends_b = ((one["value"], one["low"], one["high"]) for one in (a, b))
    return difference_of_intervals(ends_a, ends_b)


def _missing(name: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """Why a figure cannot be compared."""
    reasons = {}
    for word, report in (("first", a), ("second", b)):
        metrics = [one for one in report["metrics"] if one["name"] == FIGURES[name].metric]
        reasons[word] = next((one["why_absent"] for one in metrics if one["why_absent"]), "" if metrics else "it is not in it")
    if reasons["first"] and reasons["first"] == reasons["second"]:
        told = f"neither report has it ({reasons['first']})"
    else:
        told = ", ".join(f"the {word} has none ({why})" for word, why in reasons.items() if why) or "a report has it as 0"
    return f"{FIGURES[name].title} cannot be compared: {told}"
