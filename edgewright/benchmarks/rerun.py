"""Measure the files of two reports again, in turns: what an alarm, and a doubt, are decided by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgewright.artifact import file_sha256
from edgewright.benchmarks.bench import BenchTarget, bench_many
from edgewright.benchmarks.bench_settings import DEFAULTS, BenchSettings
from edgewright.benchmarks.comparable import device_of, differing, threads_of
from edgewright.benchmarks.compare import Comparison, as_json, compare
from edgewright.benchmarks.gate import EXACT, GATE_PROCESSES, MOST_AGAIN, Limit, enough_processes
from edgewright.errors import EdgewrightError, UsageError
from edgewright.report import Report
from edgewright.runtime.machine import fingerprint

__all__ = ["MeasureAgain", "rerun", "settings_again", "targets_again"]

Progress = Callable[[float, str], None]
MeasureAgain = Callable[
    [Sequence[Mapping[str, Any]], Sequence[str], int, "Progress | None"], Sequence["Report | Mapping[str, Any]"]
]
"""Measures the files of reports again, in turns: takes the reports, the figures that are wanted, and how many processes."""


def rerun(
    a: Mapping[str, Any] | Report,
    b: Mapping[str, Any] | Report,
    limits: Mapping[str, Limit],
    *,
    allow: Sequence[str] = (),
    processes: int | None = None,
    measure: MeasureAgain | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Measure both files again, in turns, and decide by that.

    Two reports of different hours may differ, or agree, by what the machine did meanwhile; files that take turns differ by
    themselves. So the new measurement alone decides.

    Args:
        a: the earlier report.
        b: the later one.
        limits: as for `compare`.
        allow: as for `compare`.
        processes: how many of each file and thread count; None: as the width of the reports' intervals asks for, see
            `gate.enough_processes`, and once more with the most that are taken if these leave a limit undecided.
        measure: how to measure; None does so on this machine.
        progress: called with a share between 0 and 1 and a text.

    Returns:
        The comparison of the new measurement, whose `before` is the one of the two reports.

    Raises:
        UsageError: a file is gone or has changed, or this machine, an engine's library or a precision is not the reports'.
        EdgewrightError: what measuring raises.
    """
    old = (as_json(a), as_json(b))
    before = compare(old[0], old[1], limits, allow=allow)

    def anew(count: int) -> Comparison:
        again = tuple(map(as_json, (measure or _measure_here)(old, list(limits), count, progress)))
        for earlier, later in zip(old, again, strict=True):
            if changed := {name: text for name, text in differing(earlier, later).items() if name != "throttled"}:
                raise UsageError(
                    f"{earlier['model']['path']} cannot be measured again as it was: {'; '.join(changed.values())}",
                    hint="measure both anew with 'edgewright bench', one after the other",
                )
        return compare(again[0], again[1], limits, allow=allow)

    count = processes or _enough(before)
    found = anew(count)
    if found.verdict == "undecided" and processes is None and count < MOST_AGAIN:
        found = anew(MOST_AGAIN)
    return replace(found, before=before)


def _enough(before: Comparison) -> int:
    """Processes that the figure with the widest interval asks for."""
    changes = [one for one in before.changes if one.limit is not None and one.found.method != EXACT]
    counts = [enough_processes(one.found, one.limit or 0.0, min(one.processes)) for one in changes]
    return max(counts, default=GATE_PROCESSES)


def targets_again(reports: Sequence[Mapping[str, Any]], how: str) -> list[BenchTarget]:
    """The files of reports as they were measured, if they are still those.

    Args:
        reports: of kind "bench".
        how: what to do about a file that is not.

    Raises:
        UsageError: a file cannot be read, or has changed since.
    """
    for report in reports:
        path, sha256 = Path(report["model"]["path"]), report["model"]["sha256"]
        try:
            now = file_sha256(path)
        except (OSError, EdgewrightError) as error:
            raise UsageError(f"{path} cannot be measured again: it cannot be read", hint=how) from error
        if now != sha256:
            raise UsageError(f"{path} has changed since its report: sha256 {now[:8]}, not {sha256[:8]}", hint=how)
    return [
        BenchTarget(one["model"]["path"], one["model"]["engine"], tuple(threads_of(one)), bool(one["settings"]["exact"]))
        for one in reports
    ]


def settings_again(report: Mapping[str, Any], figures: Sequence[str], processes: int) -> BenchSettings:
    """Settings of a report, with as many processes; energy and latency after idle gaps are measured only if they are wanted.

    Args:
        report: of kind "bench".
        figures: those that are wanted.
        processes: how many of each file and thread count.
    """
    settings = report["settings"]
    return BenchSettings(
        duration_s=float(settings["duration_s"]),
        repeats=processes,
        idle_gaps=int(settings.get("idle_gaps", 0)) if "after_idle" in figures else 0,
        gap_ms=float(settings.get("gap_ms", DEFAULTS.gap_ms)),
        meter=str(settings.get("meter", DEFAULTS.meter)) if "energy" in figures else "none",
    )


def _measure_here(
    reports: Sequence[Mapping[str, Any]], figures: Sequence[str], processes: int, progress: Progress | None
) -> list[Report]:
    """Measure the files of reports on this machine."""
    how = "measure both anew with 'edgewright bench'"
    for report in reports:
        path = report["model"]["path"]
        if (device := device_of(report)) not in (None, "", "local"):
            raise UsageError(f"{path} was measured on {device}, not here", hint=how)
        if report["settings"]["fingerprint"] != fingerprint():
            raise UsageError(f"{path} was measured on another machine: {report['settings']['machine']['cpu']}", hint=how)
    settings = settings_again(reports[0], figures, processes)
    return bench_many(targets_again(reports, how), settings, progress=progress)
