"""Evaluate a model file on labelled data through its engine, beside the original on the same samples."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgewright.artifact import ModelMeta, file_sha256
from edgewright.conversion import Progress, Trust, described, silent
from edgewright.converters.readers import find_reader
from edgewright.data import Data
from edgewright.detection import Detection
from edgewright.errors import BudgetError, UsageError
from edgewright.report import Metric, Report, find_metric
from edgewright.samples import SamplesSpec
from edgewright.verification import one_preprocessing, store_outputs, tells
from edgewright.worker import Limits, Worker

__all__ = ["Judging", "broken_budgets", "evaluate", "judge", "require_budget", "with_boxes"]


@dataclass(frozen=True, slots=True)
class Judging:
    """How outputs are judged.

    Args:
        task: "classification", "multilabel", "regression", "anomaly" or "detection"; None finds it out from what the model's
            artifact declares, from labels and outputs.
        metric: name of the primary metric; None takes the task's own.
        top_k: k of the top-k accuracy; None chooses by the number of classes.
        threshold: score above which a binary decision is positive; None finds it out.
        seed: of the resampling that the intervals are made with.
        detection: how boxes are read from the outputs; None takes what the model's artifact declares.
    """

    task: str | None = None
    metric: str | None = None
    top_k: int | None = None
    threshold: float | None = None
    seed: int = 0
    detection: Detection | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain form for JSON; without `detection` the arguments of `benchmarks.evaluation.evaluate_outputs`."""
        plain = {name: getattr(self, name) for name in self.__slots__ if name != "detection"}
        return plain if self.detection is None else {**plain, "detection": self.detection.to_json()}


def evaluate(
    file: str | Path,
    data: Data | str | Path | Mapping[str, Any],
    *,
    against: str | Path | None = None,
    judging: Judging = Judging(),
    max_drop: float | None = None,
    engine: str | None = None,
    exact: bool = False,
    trust: Trust = Trust(),
    limits: Limits = Limits(),
    progress: Progress | None = None,
) -> Report:
    """How good a model is on labelled data, and how it differs from the original.

    Args:
        file: a model; a .tflite, .onnx or OpenVINO file runs in an engine, a Keras model or SavedModel in TensorFlow.
        data: the labelled data; labels are `y` or `y:<output>`, slices `slice:<name>`.
        against: the original; None gives the file's own figures alone.
        judging: task, primary metric, thresholds.
        max_drop: most points that the primary metric may fall below the original's (errors: per cent); see `require_budget`.
        engine: engine for the file; None takes its format's own.
        exact: make the engine compute float ops in float32.
        trust: what the model files may do on loading.
        limits: time and memory of each child process.
        progress: called with a share between 0 and 1 and a text.

    Returns:
        A report of kind "evaluate": `metrics` with intervals and, with an original, their changes; `details` has groups
        (per class and per slice) and flips; `settings["passed"]` is None if no limit was set.

    Raises:
        UsageError: `max_drop` is given without an original, or is negative.
        SamplesError: there are no labels, or they do not fit the outputs.
        EdgewrightError: a model cannot be opened or run.
    """
    if max_drop is not None and against is None:
        raise UsageError("--max-drop compares with an original, none is named", hint="add --against ORIGINAL")
    _check_limit(max_drop)
    report = progress or silent
    paths = [Path(file), *([Path(against)] if against is not None else [])]
    formats = [find_reader(path) for path in paths]
    given = data if isinstance(data, Data) else Data(data)
    with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        work = Path(folder)
        spec, labels, declared = _spec(given, paths, trust, limits, work)
        judging = with_boxes(judging, declared)
        # The children are closed before the pool waits for its threads: a failure on one side ends the other's work.
        with ThreadPoolExecutor(2) as pool, Worker(limits) as first, Worker(limits) as second:
            jobs = [
                pool.submit(
                    store_outputs,
                    child,
                    path,
                    work / f"{index}.npz",
                    spec,
                    engine=None if index else engine,
                    exact=exact,
                    trust=trust,
                    progress=report if index == len(paths) - 1 else silent,
                )
                for index, (path, child) in enumerate(zip(paths, (first, second), strict=False))
            ]
            hows = [job.result() for job in jobs]
            sides = [(work / f"{index}.npz", how) for index, how in enumerate(hows)]
            found = judge(first, spec, sides, judging, labels)
    metrics = tuple(Metric.from_json(metric) for metric in found["metrics"])
    failures = broken_budgets(metrics, found["primary"], max_drop, paths[0].name)
    model: dict[str, Any] = {
        "path": str(paths[0]),
        "format": formats[0],
        "sha256": file_sha256(paths[0]),
        **{key: hows[0][key] for key in ("engine", "execution") if key in hows[0]},
    }
    if against is not None:
        model["against"] = {"path": str(paths[1]), "format": formats[1], "sha256": file_sha256(paths[1])}
    return Report(
        "evaluate",
        model,
        {
            **judging.to_json(),
            "task": found["task"],
            "primary": found["primary"],
            "samples": found["samples"],
            "exact": exact,
            "max_drop": max_drop,
            "passed": None if max_drop is None else not failures,
            "failures": failures,
        },
        metrics,
        tuple(dict.fromkeys([*(w for how in hows for w in how.get("warnings", ())), *found["warnings"]])),
        {"groups": found["groups"], "flips": found["flips"], "notes": found["notes"]},
    )


def judge(
    child: Worker,
    spec: SamplesSpec,
    sides: list[tuple[Path, dict[str, Any]]],
    judging: Judging,
    labels: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Compare stored outputs with the labels, and with the original's outputs if there are any.

    Args:
        child: a process that runs already.
        spec: the samples.
        sides: the .npz and what `verification.store_outputs` returned, of the file and, second, of the original.
        judging: how.
        labels: names of the model's classes in the order of its outputs, if they are known; those of the data are matched
            to them.

    Returns:
        See `benchmarks.evaluation.evaluate_outputs`.
    """
    reference, how = sides[1] if len(sides) > 1 else (None, {})
    job = "evaluation:evaluate_outputs" if judging.detection is None else "detection_evaluation:evaluate_detections"
    return dict(
        child.call(
            f"edgewright.benchmarks.{job}",
            what="evaluating",
            candidate=str(sides[0][0]),
            reference=str(reference) if reference else None,
            samples=spec.to_json(),
            inputs=sides[0][1]["inputs"],
            outputs=sides[0][1]["outputs"],
            reference_outputs=how.get("outputs"),
            class_names=list(labels) or None,
            **judging.to_json(),
        )
    )


def broken_budgets(metrics: tuple[Metric, ...], primary: Mapping[str, str], max_drop: float | None, name: str) -> list[str]:
    """The budget that a file breaks, in words; empty if it keeps it or there is none.

    A change that could not be computed breaks the budget: what is not known is not kept.
    """
    _check_limit(max_drop)
    if max_drop is None:
        return []
    change = find_metric(metrics, f"{primary['name']}_change", primary["subject"])
    if change is None or change.value is None:
        why = "it was not computed" if change is None else change.why_absent
        return [f"the change of {primary['name']} of {name} is not known: {why}"]
    if change.value >= -max_drop:
        return []
    unit = " points" if change.unit == "points" else " %"
    return [f"{primary['name']} of {name} is {-change.value:.2f}{unit} worse than the original, at most {max_drop:g} are allowed"]


def require_budget(failures: list[str] | tuple[str, ...]) -> None:
    """Raise if a budget was broken.

    Raises:
        BudgetError: with every broken budget.
    """
    if failures:
        raise BudgetError("; ".join(failures), hint="take a finer recipe (int16x8, float16), or more and better samples")


def _check_limit(max_drop: float | None) -> None:
    if max_drop is not None and not max_drop >= 0:
        raise UsageError(f"--max-drop is {max_drop}, it must be 0 or more points", hint="write for example --max-drop 1.0")


def with_boxes(judging: Judging, declared: Mapping[str, Any] | None) -> Judging:
    """How outputs are judged, with the detection that an artifact declares where none was given.

    Raises:
        UsageError: boxes are asked for and nothing says how they are read, or the other way round.
    """
    if judging.task not in (None, "detection"):
        if judging.detection is not None:
            raise UsageError(f"the task is {judging.task}, and --detection says how boxes are read", hint="leave one of them out")
        return judging
    detection = judging.detection or (Detection.from_json(declared) if declared is not None else None)
    if detection is None and judging.task == "detection":
        raise UsageError(
            "detection needs to be told how boxes are read",
            hint="add --detection head=ssd,... or declare it in the artifact (edgewright run --declare)",
        )
    return judging if detection is None else replace(judging, task="detection", detection=detection)


def _spec(
    data: Data, paths: list[Path], trust: Trust, limits: Limits, work: Path
) -> tuple[SamplesSpec, tuple[str, ...], Mapping[str, Any] | None]:
    """The data as both models open them, the names of the models' classes, and how boxes are read.

    Data have the preprocessing that the models were saved with, unless they come with their own.
    """
    known = [described(path, trust, limits) for path in paths if tells(path)]
    completed = data.completed(one_preprocessing(known) if not data.preprocess else ModelMeta())
    needed = completed.preprocess or isinstance(completed.source, Mapping)
    inputs = (known[0] if known else described(paths[0], trust, limits)).inputs if needed else ()
    labels = next((model.meta.labels for model in known if model.meta.labels), ())
    return (
        completed.spec(inputs, work),
        labels,
        next((m.meta.extra["detection"] for m in known if "detection" in m.meta.extra), None),
    )
