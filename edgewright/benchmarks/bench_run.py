"""One file benchmarked here or on boards, with the same settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgewright.benchmarks.bench import BenchTarget, bench_many
from edgewright.benchmarks.bench_settings import DEFAULTS, BenchSettings
from edgewright.benchmarks.energy import EXTERNAL
from edgewright.benchmarks.energy_estimate import estimate
from edgewright.benchmarks.placement import Expectation, check
from edgewright.errors import EdgewrightError, PlacementError, UsageError
from edgewright.report import Metric, Report, find_metric

__all__ = ["measure", "misplaced"]

Progress = Callable[[float, str], None]


def measure(
    target: BenchTarget,
    settings: BenchSettings = DEFAULTS,
    *,
    boards: Sequence[str] = (),
    wheels: Path | None = None,
    wait_s: float = 0.0,
    estimated: bool = False,
    progress: Progress | None = None,
    finished: Callable[[Report], None] | None = None,
) -> tuple[list[Report], dict[str, EdgewrightError]]:
    """Measure a file on this machine, or on each board after the other.

    A board that cannot be measured does not keep others from it, and takes nothing from what they gave.

    Args:
        target: the file, and how it is run.
        settings: what is measured, and how often.
        boards: names that `edgewright devices` lists; none means this machine, without its lock.
        wheels: see `device_bench.bench_on`.
        wait_s: see `device_bench.bench_on`.
        estimated: add an estimate of the energy by published figures.
        progress: called with a share between 0 and 1 and a text.
        finished: called with each report as soon as it is there.

    Returns:
        One report for each board, in order, and the errors of boards that gave none, by name.

    Raises:
        UsageError: there is no such board or meter, or there are wheels or a wait without a board.
        EdgewrightError: what `bench_many` raises, and `bench_on` if there is one board only.
    """
    boards = tuple(dict.fromkeys(boards))
    for option, given in (("--wheels", wheels), ("--wait", wait_s)):
        if given and not boards:
            raise UsageError(f"{option} {given} is for a board, none is named", hint="add --device NAME, or leave it out")
    from edgewright.benchmarks.device_bench import bench_on, is_beside
    from edgewright.devices.boards import find_board

    is_beside(settings.meter)  # a meter that there is not shows before anything is measured
    reports: list[Report] = []
    failed: dict[str, EdgewrightError] = {}

    def done(report: Report) -> None:
        report = _with_meter(report, settings.meter)
        reports.append(_with_estimate(report) if estimated else report)
        if finished:
            finished(reports[-1])

    if not boards:
        done(bench_many([target], settings, progress=progress)[0])
        return reports, failed
    for board in [find_board(name) for name in boards]:  # a wrong name shows before anything is measured
        try:
            done(bench_on(board, [target], settings, wheels=wheels, wait_s=wait_s, progress=progress)[0])
        except EdgewrightError as error:
            if len(boards) == 1 or (isinstance(error, UsageError) and not reports):
                raise
            failed[board.name] = error
    return reports, failed


def misplaced(reports: Sequence[Report], expectations: Sequence[Expectation]) -> list[PlacementError]:
    """Errors of reports of a model of which less runs where it was expected to run, with any thread count.

    Returns:
        See `placement.check`; one for all thread counts of which the same is true. Each names the thread counts if several
        were measured, and the board if there are several reports.
    """
    found = []
    for report in reports:
        counts = report.settings["threads"]
        board = [report.settings["device"]["name"]] if len(reports) > 1 else []
        for expectation in expectations:
            missed: dict[tuple[str, str], list[int]] = {}
            for count in counts:
                details = report.details if len(counts) == 1 else report.details[f"threads={count}"]
                try:
                    check(details["placement"], expectation)
                except PlacementError as error:
                    missed.setdefault((error.message, error.hint), []).append(count)
            for (message, hint), of in missed.items():
                threads = [f"threads {', '.join(map(str, of))}"] if len(counts) > 1 else []
                found.append(PlacementError(": ".join([*board, *threads, message]), hint))
    return found


def _with_meter(report: Report, meter: str) -> Report:
    """The report, with a warning if a meter was named and gave nothing: it would else stand in a note alone."""
    energy = find_metric(report.metrics, "energy_per_inference")
    if meter in ("auto", "none", *EXTERNAL) or energy is None or energy.value is not None:
        return report
    return replace(report, warnings=(*report.warnings, f"energy was not measured with {meter}: {energy.why_absent}"))


def _with_estimate(report: Report) -> Report:
    """The report with what published energies per operation make of its model; typed and marked as an estimate."""
    details = report.details if len(report.settings["threads"]) == 1 else next(iter(report.details.values()))
    placement = details.get("placement") or {}
    if "macs" not in placement:
        why = f"the multiply-adds are not known: {placement.get('why_absent', 'the engine does not tell')}"
        absent = Metric("energy_per_inference_estimate", "mJ", None, origin="estimated", why_absent=why)
        return replace(report, metrics=(*report.metrics, absent))
    moved = _moved_bytes(report)
    found = estimate(int(placement["macs"]), moved, _precision(report.model["execution"]))
    metric = Metric.from_json({key: found[key] for key in Metric.__slots__})
    told: dict[str, Any] = {key: found[key] for key in ("source", "terms_mj", "constants_pj", "statement") if key in found}
    told["leaves_out"] = [*found["leaves_out"], _NOT_MOVED]
    return replace(
        report,
        metrics=(*report.metrics, metric),
        details={**report.details, "energy_estimate": {**told, "macs": placement["macs"], "bytes_moved": moved}},
        warnings=(*report.warnings, f"energy: {found['statement'][:1].lower()}{found['statement'][1:]}"),
    )


_NOT_MOVED = "activations between ops, which move too"


def _moved_bytes(report: Report) -> int:
    """The file, that is its weights, read once, and inputs; activations are not known here, which the report says."""
    size = next(metric.value for metric in report.metrics if metric.name == "raw_bytes") or 0.0
    return int(size) + sum(_bytes_of(spec) for spec in report.model["inputs"])


def _bytes_of(spec: Mapping[str, Any]) -> int:
    import numpy as np

    return int(np.prod(spec["fed"])) * int(np.dtype(spec["dtype"]).itemsize)


def _precision(execution: Mapping[str, Any]) -> str:
    """The precision of the multiply-adds, by the engine's own word; the widest that ran where several did.

    A word that nobody has published energies for stays as it is: the estimate then says so.
    """
    widest = ("float32", "float16", "int8")
    found = next((kind for kind in widest if kind in execution["kinds"]), execution["precision"])
    return "int8" if found == "dynamic int8" else str(found)
