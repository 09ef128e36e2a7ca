"""One file benchmarked here or on boards, under one set of conditions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgewright.benchmarks.bench import BenchTarget, bench_many
from edgewright.benchmarks.energy_estimate import estimate
from edgewright.benchmarks.placement import Expectation, check
from edgewright.errors import PlacementError
from edgewright.report import Metric, Report
from edgewright.worker import Limits

__all__ = ["Conditions", "measure", "require_placement"]

Progress = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class Conditions:
    """How a file is measured; see `bench.bench_many`.

    Args:
        engine: name of the engine; None takes the format's own.
        threads: thread counts, each measured by itself.
        exact: compute float ops in float32 even where the engine would choose a lower precision by itself.
        duration_s: seconds of timed inferences in each process.
        repeats: processes per thread count.
        profile: time every op too.
        idle_gaps: inferences after idle gaps, in each process.
        meter: power meter.
        energy_s: seconds of inferences under the meter.
        estimate: add an estimate of the energy by published figures.
    """

    engine: str | None = None
    threads: tuple[int, ...] = (1,)
    exact: bool = False
    duration_s: float = 1.0
    repeats: int = 3
    profile: bool = False
    idle_gaps: int = 20
    meter: str = "auto"
    energy_s: float = 10.0
    estimate: bool = False


def measure(
    file: str | Path,
    how: Conditions,
    *,
    boards: Sequence[str] = (),
    wheels: Path | None = None,
    wait_s: float = 0.0,
    limits: Limits = Limits(),
    progress: Progress | None = None,
) -> list[Report]:
    """Measure a file on this machine, or on each board after the other.

    Args:
        file: a .tflite, .onnx or OpenVINO .xml file.
        how: what is measured.
        boards: names that `edgewright devices` lists; none means this machine, without its lock.
        wheels: see `device_bench.bench_on`.
        wait_s: see `device_bench.bench_on`.
        limits: of each process; on a board only the time counts.
        progress: called with a share between 0 and 1 and a text.

    Returns:
        One report for each board, in order.

    Raises:
        EdgewrightError: what `bench_many` and `bench_on` raise; what other boards gave is lost then.
    """
    target = BenchTarget(file, how.engine, how.threads, how.exact)
    settings: dict[str, Any] = {
        name: getattr(how, name) for name in ("duration_s", "repeats", "profile", "idle_gaps", "meter", "energy_s")
    }
    if boards:
        from edgewright.benchmarks.device_bench import bench_on

        more: dict[str, Any] = {"wheels": wheels, "wait_s": wait_s, "timeout_s": limits.timeout_s, "progress": progress}
        reports = [bench_on(board, [target], **settings, **more)[0] for board in dict.fromkeys(boards)]
    else:
        reports = bench_many([target], **settings, limits=limits, progress=progress)
    return [_with_estimate(report) for report in reports] if how.estimate else reports


def require_placement(reports: Sequence[Report], expectation: Expectation) -> None:
    """Refuse reports of a model of which less runs where it was expected to run.

    Raises:
        PlacementError: see `placement.check`; names the board if there are several.
    """
    for report in reports:
        counts = report.settings["threads"]
        details = report.details if len(counts) == 1 else report.details[f"threads={counts[0]}"]
        try:
            check(details["placement"], expectation)
        except PlacementError as error:
            if len(reports) == 1:
                raise
            raise PlacementError(f"{report.settings['device']['name']}: {error.message}", error.hint) from error


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
    told = {key: found[key] for key in ("source", "terms_mj", "constants_pj", "leaves_out", "statement")}
    return replace(
        report,
        metrics=(*report.metrics, metric),
        details={**report.details, "energy_estimate": {**told, "macs": placement["macs"], "bytes_moved": moved}},
        warnings=(*report.warnings, f"energy: {found['statement'][:1].lower()}{found['statement'][1:]}"),
    )


def _moved_bytes(report: Report) -> int:
    """The file, that is its weights, read once, and inputs; activations between ops are not known here and left out."""
    size = next(metric.value for metric in report.metrics if metric.name == "raw_bytes") or 0.0
    return int(size) + sum(_bytes_of(spec) for spec in report.model["inputs"])


def _bytes_of(spec: Mapping[str, Any]) -> int:
    import numpy as np

    return int(np.prod(spec["fed"])) * int(np.dtype(spec["dtype"]).itemsize)


def _precision(execution: Mapping[str, Any]) -> str:
    """The precision whose energy stands for the multiply-adds: the name in the table, the widest that ran where it is mixed."""
    known = {"int8": "int8", "dynamic int8": "int8", "int16x8": "int32", "float16": "float16", "bf16": "float16"}
    kinds = [execution["precision"], *execution["kinds"]]
    found = [known[kind] for kind in kinds if kind in known]
    return found[0] if len(set(found)) == 1 and "float32" not in kinds else "float32"
