"""One report of a run: every figure of every file, with its unit, interval and origin."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from edgewright.artifact import Artifact, write_atomic
from edgewright.benchmarks.bench import t_interval
from edgewright.benchmarks.fidelity import compare_outputs
from edgewright.cache import Cache, Entry, code_digest
from edgewright.chain import Made
from edgewright.converters.model_info import ModelInfo
from edgewright.converters.writers import versions
from edgewright.errors import MissingPackageError
from edgewright.evaluation import broken_budgets
from edgewright.pipeline import Run
from edgewright.planning import BASELINE, Opened
from edgewright.receipts import size_metrics
from edgewright.report import CompressReport, FileReport, Flip, Flips, GroupChange, Histogram, Metric, find_metric
from edgewright.runtime.machine import machine
from edgewright.verification import VERIFY_SAMPLES, ModelOutputs, pair_outputs, stored_outputs

__all__ = ["Findings", "Side", "save_report", "summarise"]

log = logging.getLogger("edgewright")

Side: TypeAlias = tuple[str, "str | None"]
"""A file in an engine: its sha256, and the engine's name where it is not the format's own."""

PACKAGES = (
    "tensorflow",
    "keras",
    "ai-edge-litert",
    "ai-edge-quantizer",
    "openvino",
    "nncf",
    "onnxruntime",
    "scikit-learn",
    "numpy",
)
"""Whose releases a report names."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What a run has made and measured, before it is put into words.

    Args:
        run: the run.
        out: folder of the files.
        original: the model, read back.
        baseline: the uncompressed model as a traced file.
        infos: every file read back, by sha256.
        sides: what was run: baselines first, then the results.
        made: the results.
        reference: the original's outputs.
        outputs: every side's outputs.
        judged: every side's evaluation, and the original's; empty without evaluation data.
        measured: every side's benchmark; empty if nothing was measured.
        data: what outputs were computed on.
        calibration: what was calibrated with, in words; empty if nothing was.
        random: whether that are random inputs.
        failed: files that could not be made, each with the reason.
        notes: what a reader must know of the whole run.
    """

    run: Run
    out: Path
    original: ModelInfo
    baseline: Artifact
    infos: Mapping[str, ModelInfo]
    sides: tuple[Side, ...]
    made: tuple[Made, ...]
    reference: Entry
    outputs: Mapping[Side, Entry]
    judged: Mapping[Side, Mapping[str, Any]]
    measured: Mapping[Side, Mapping[str, Any]]
    data: Opened
    calibration: str
    random: bool
    failed: tuple[str, ...]
    notes: tuple[str, ...]


def summarise(found: Findings, *, max_drop: float | None, origins: Mapping[str, Any]) -> CompressReport:
    """The report of a run.

    Args:
        found: what was made and measured.
        max_drop: the budget, None if there is none.
        origins: every option and where it came from.
    """
    run = found.run
    judged = found.judged.get((run.sha256, None), {})
    baselines = [side for side in found.sides if side[0] == found.baseline.sha256]
    results = [(file, (file.artifact.sha256, None)) for file in found.made]
    files = [
        _original(found),
        *(_baseline(found, side) for side in baselines),
        *(_result(found, file, side, baselines) for file, side in results),
    ]
    failures = [
        failure
        for report in files
        if report.role == "file" and judged
        for failure in broken_budgets(report.metrics, judged["primary"], max_drop, report.name)
    ]
    named = {"evaluation" if run.settings.evaluation else "comparison": found.data.text}
    return CompressReport(
        title=run.model.name,
        task=judged.get("task", ""),
        primary=judged["primary"]["name"] if judged else "",
        files=tuple(files),
        recipes={file.export.recipe.name: file.export.recipe.to_json() for file in found.made},
        data={**named, **({"samples": found.calibration} if found.calibration else {})},
        settings=origins,
        environment=_environment(found),
        max_drop=max_drop,
        passed=None if max_drop is None else not failures,
        failures=tuple(failures),
        lost=tuple(f"{r.name}: {text}" for r in files for receipt in r.receipts[-1:] for text in receipt.lost),
        failed=found.failed,
        warnings=tuple(dict.fromkeys([*found.notes, *_common_warnings(found)])),
    )


def _common_warnings(found: Findings) -> list[str]:
    warnings = list(found.reference.value["how"].get("warnings", ()))
    if found.random:
        warnings.append("no samples were given: files were compared on random inputs, which say little about accuracy")
    return [*warnings, *found.judged.get((found.run.sha256, None), {}).get("warnings", ())]


def _environment(found: Findings) -> dict[str, Any]:
    measured = next(iter(found.measured.values()), None)
    return {
        "machine": measured["settings"]["machine"] if measured else machine(),
        "python": platform.python_version(),
        "edgewright": versions("edgewright").get("edgewright", "unknown"),
        "packages": versions(*PACKAGES),
        **({"measured_at": measured["measured_at"]} if measured else {}),
    }


def _original(found: Findings) -> FileReport:
    """The model as the user gave it."""
    run, side = found.run, (found.run.sha256, None)
    how = found.reference.value["how"]
    why = f"{run.format} models run in TensorFlow, which no device does" if run.trains else "it was not measured"
    measured = found.measured.get(side)
    metrics = [*size_metrics(found.original), *_judged(found, side)]
    metrics += _measured(measured) if measured else [Metric("latency_p50", "ms", None, why_absent=why)]
    return FileReport(
        name=run.model.name,
        role="original",
        path=str(run.model),
        format=run.format,
        sha256=run.sha256,
        engine=how.get("engine", "tensorflow"),
        computed_in=how.get("execution", {}).get("precision", "float32"),
        device=how.get("execution", {}).get("device", "CPU"),
        metrics=tuple(metrics),
        groups=_groups(found, side),
        lineage=tuple(record.to_json() for record in (run.known.lineage if run.known else ())),
    )


def _baseline(found: Findings, side: Side) -> FileReport:
    """The uncompressed model in one engine."""
    report = _file(found, side, "baseline", found.baseline, "" if found.run.trains else str(found.run.model))
    return replace(report, precision=BASELINE)


def _result(found: Findings, made: Made, side: Side, baselines: Sequence[Side]) -> FileReport:
    """A file that the run made."""
    report = _file(found, side, "file", made.artifact, str(found.out / made.artifact.path.name))
    own = found.infos[found.baseline.sha256]
    info = found.infos[side[0]]
    ratios = [
        Metric("smaller", "x", own.raw_bytes / info.raw_bytes),
        Metric("deflated_smaller", "x", own.deflated_bytes / info.deflated_bytes),
        _speedup(found, side, baselines),
    ]
    return replace(
        report,
        recipe=made.export.recipe.name,
        precision=str(getattr(made.export.writer.options, "precision", "")),
        metrics=(*report.metrics, *ratios),
        receipts=made.receipts,
        warnings=tuple(dict.fromkeys([*made.warnings, *report.warnings])),
    )


def _file(found: Findings, side: Side, role: Any, artifact: Artifact, path: str) -> FileReport:
    how = found.outputs[side].value["how"]
    measured = found.measured.get(side)
    histogram = measured["details"]["histogram"] if measured else None
    metrics = [
        *size_metrics(found.infos[side[0]]),
        *_judged(found, side),
        *_fidelity(found, side),
        *(_measured(measured) if measured else [Metric("latency_p50", "ms", None, why_absent="measuring was switched off")]),
    ]
    warnings = [*how.get("warnings", ()), *(measured["warnings"] if measured else ())]
    return FileReport(
        name=artifact.path.name,
        role=role,
        path=path,
        format=artifact.format,
        sha256=artifact.sha256,
        engine=how["engine"],
        computed_in=how["execution"]["precision"],
        device=how["execution"]["device"],
        metrics=tuple(metrics),
        groups=_groups(found, side),
        flips=_flips(found, side),
        latency=Histogram(**{**histogram, "edges": tuple(histogram["edges"]), "counts": tuple(histogram["counts"])})
        if histogram
        else None,
        lineage=tuple(record.to_json() for record in artifact.lineage),
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _judged(found: Findings, side: Side) -> list[Metric]:
    """How good a side is on the evaluation data."""
    judged = found.judged.get(side)
    return [Metric.from_json(metric) for metric in judged["metrics"]] if judged else []


def _groups(found: Findings, side: Side) -> tuple[GroupChange, ...]:
    judged = found.judged.get(side)
    return tuple(GroupChange(**group) for group in judged["groups"]) if judged else ()


def _flips(found: Findings, side: Side) -> Flips | None:
    flips = (found.judged.get(side) or {}).get("flips")
    return Flips(**{**flips, "listed": tuple(Flip(**flip) for flip in flips["listed"])}) if flips else None


def _fidelity(found: Findings, side: Side) -> list[Metric]:
    """How near a side's outputs are to the original's, on the first samples."""
    own, theirs = (
        stored_outputs(path, entry.folder / "outputs.npz", dict(entry.value["how"]))
        for path, entry in ((_path(found, side), found.outputs[side]), (found.run.model, found.reference))
    )
    pairs, _ = pair_outputs(_first(own), _first(theirs))
    return [metric for name, r, c in pairs for metric in compare_outputs(name, r, c, random_data=found.random)]


def _first(outputs: ModelOutputs) -> ModelOutputs:
    return replace(outputs, arrays=tuple(array[:VERIFY_SAMPLES] for array in outputs.arrays))


def _path(found: Findings, side: Side) -> Path:
    return next((file.artifact.path for file in found.made if file.artifact.sha256 == side[0]), found.baseline.path)


def _measured(report: Mapping[str, Any]) -> list[Metric]:
    """A benchmark's figures; sizes are read back from the file already."""
    metrics = [Metric.from_json(metric) for metric in report["metrics"]]
    return [metric for metric in metrics if metric.name not in {"raw_bytes", "deflated_bytes"}]


def _speedup(found: Findings, side: Side, baselines: Sequence[Side]) -> Metric:
    """How many times faster than the uncompressed model in the same engine: the mean ratio of medians, round by round.

    Files are measured in turns, so each round gives one ratio in which the machine's drift cancels; the interval is
    Student's t over the logarithms of these (see `bench.t_interval`).
    """
    if not found.measured:
        return Metric("speedup", "x", None, why_absent="measuring was switched off")
    own = found.measured[side]
    beside = [found.measured[base] for base in baselines if found.measured[base]["model"]["engine"] == own["model"]["engine"]]
    if not beside:
        return Metric("speedup", "x", None, why_absent=f"the uncompressed model does not run in {own['model']['engine']}")
    rounds = [[process["p50_ms"] for process in report["details"]["processes"]] for report in (beside[0], own)]
    logs = [math.log(base / file) for base, file in zip(*rounds, strict=True) if base > 0 and file > 0]
    if not logs:
        return Metric("speedup", "x", None, why_absent="inferences are shorter than the clock's step")
    value = math.exp(sum(logs) / len(logs))
    samples = find_metric(_measured(own), "latency_p50")
    count = samples.samples if samples else 0
    if len(logs) < 2:
        return Metric("speedup", "x", value, samples=count)
    low, high = (math.exp(end) for end in t_interval(logs))
    return Metric("speedup", "x", value, samples=count, low=low, high=high, interval=f"95 % t over {len(logs)} rounds")


def save_report(report: CompressReport, out: Path, cache: Path | None = None) -> list[Path]:
    """Write report.json, report.csv, report.md and report.html.

    Args:
        report: what `compress` returned.
        out: folder for the files.
        cache: folder of the cache, which keeps what every HTML report has in common.

    Returns:
        The files; without report.html where the packages that draw it are not installed, which is logged.

    Raises:
        ArtifactError: the folder cannot be written.
    """
    from edgewright.benchmarks.report_html import javascript_bundle, render_html
    from edgewright.benchmarks.report_text import render_csv, render_markdown

    texts = {
        "report.json": json.dumps(report.to_json(), indent=1, allow_nan=False) + "\n",
        "report.csv": render_csv(report),
        "report.md": render_markdown(report),
    }

    def draw(folder: Path) -> dict[str, Any]:
        html = render_html(report, javascript_bundle(store.root / "vega"))
        (folder / "report.html").write_text(html, encoding="utf-8")
        return {}

    with Cache(cache) as store:
        parts = {
            "report": hashlib.sha256(texts["report.json"].encode()).hexdigest(),
            "code": code_digest("benchmarks", "report"),
            "versions": versions("jinja2", "vl-convert-python"),
        }
        try:
            drawn = store.step("report", f"report of {report.title}", parts, draw)
            texts["report.html"] = (drawn.folder / "report.html").read_text(encoding="utf-8")
        except MissingPackageError as error:
            log.warning("report.html is not written: %s", error)
    for name, text in texts.items():
        write_atomic(out / name, text.encode())
    return [out / name for name in texts]
