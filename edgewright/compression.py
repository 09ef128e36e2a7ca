"""Compress a model by recipes: files for every target, what they are worth on held-out data, and how fast they run here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgewright.artifact import (
    Artifact,
    TensorSpec,
    atomic_folder,
    file_digest,
    files_of,
    sweep_leftovers,
    write_atomic,
)
from edgewright.benchmarks.bench import BenchTarget
from edgewright.cache import Cache
from edgewright.chain import Made, make_file
from edgewright.data import Data
from edgewright.errors import ConversionError, EdgewrightError, UsageError, VerificationError
from edgewright.evaluation import require_budget
from edgewright.pipeline import Pending, Run
from edgewright.planning import Export, Opened, Settings, Watch, evaluate_title, make_exports
from edgewright.recipe import Recipe
from edgewright.report import CompressReport
from edgewright.runtime.engines import ENGINES
from edgewright.summary import Findings, Side, summarise

__all__ = ["compress", "data_of", "find_all", "own_engine", "require_success", "takers"]


def compress(
    model: str | Path,
    out: str | Path,
    *,
    recipe: str | Recipe | Sequence[str | Recipe] = "int8",
    to: Sequence[str] | None = None,
    samples: Data | str | Path | Mapping[str, Any] | None = None,
    evaluation: Data | str | Path | Mapping[str, Any] | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    max_drop: float | None = None,
    settings: Settings | None = None,
    cache: Path | None = None,
    watch: Watch | None = None,
    origins: Mapping[str, Any] | None = None,
) -> CompressReport:
    """Compress a model: the files of every recipe and target, evaluated and measured here, each with its receipts.

    Finished steps are kept in a cache: the same call again returns at once, and a call that was killed goes on where it
    was. A file that cannot be made does not keep the others from being made; the report names it in `failed`.

    Args:
        model: `.keras`, `.h5`, SavedModel folder, float `.tflite` or `.onnx`.
        out: folder for the files.
        recipe: names of shipped recipes, paths of .toml files, or recipes.
        to: targets; None takes those of the recipe, else TFLite and OpenVINO.
        samples: what to calibrate and train with.
        evaluation: labelled held-out data; None compares outputs only.
        overrides: options by step, as `recipe.parse_overrides` gives them.
        max_drop: most points that the primary metric may fall below the original's (errors: per cent).
        settings: further settings, None takes the defaults; their samples and evaluation are replaced by the arguments above.
        cache: folder of the cache; None takes `cache.default_root`.
        watch: follows the run.
        origins: every option and where it came from, for the report.

    Returns:
        What was made and measured. Limits that are broken do not raise; see `require_success`.

    Raises:
        UsageError: recipes, options and targets contradict each other.
        SamplesError: samples or labels are needed and are missing or do not fit.
        EdgewrightError: no file could be made.
    """
    path, folder = Path(model), Path(out)
    if max_drop is not None and evaluation is None:
        raise UsageError("--max-drop needs labelled data to compare on, none were given", hint="add --eval FILE")
    chosen = replace(settings or Settings(), samples=data_of(samples), evaluation=data_of(evaluation))
    exports, notes = make_exports(path, folder, recipe, to, overrides or {}, chosen)
    sweep_leftovers(folder)
    with Cache(cache) as store, Run(path, chosen, store, watch) as run:
        findings = find_all(run, exports, folder, notes)
        return summarise(findings, max_drop=max_drop, origins=origins or {})


def require_success(report: CompressReport, *, strict: bool = False) -> None:
    """Raise if a run did not do all that was asked.

    Args:
        report: what `compress` returned.
        strict: something that a receipt found lost counts as a failure.

    Raises:
        ConversionError: a file could not be made.
        BudgetError: `--max-drop` was broken (exit code 3).
        VerificationError: something was lost and `strict` is set (exit code 4).
    """
    if report.failed:
        more = f" (and {len(report.failed) - 1} more files)" if len(report.failed) > 1 else ""
        raise ConversionError(f"{report.failed[0]}{more}", hint="the other files are made and in the report")
    require_budget(report.failures)
    if strict and report.lost:
        more = f" (and {len(report.lost) - 1} more)" if len(report.lost) > 1 else ""
        raise VerificationError(
            f"--strict: something was lost: {report.lost[0]}{more}", hint="the receipts in the report show what and where"
        )


def data_of(given: Data | str | Path | Mapping[str, Any] | None) -> Data | None:
    """Data as a caller names them."""
    return given if given is None or isinstance(given, Data) else Data(given)


def find_all(run: Run, exports: Sequence[Export], out: Path, notes: Sequence[str]) -> Findings:
    """Do every step of a run, and gather what was found.

    Args:
        run: the run; a dry one stops with `Pending` at the first step that is not in the cache.
        exports: what to make.
        out: folder for the files.
        notes: what a reader must know of the whole run.

    Raises:
        EdgewrightError: no file could be made, or one that was made does not run.
    """
    how = exports[0].lowering
    baseline = run.lowered(run.model, run.sha256, how, batch=how.batch or 1, integer=False) if run.trains else run.source()
    samples = Calibration(run)
    data, random = run.fidelity_data(baseline.inputs)
    original = run.alongside(lambda: run.outputs(run.model, run.sha256, data))
    made: list[Made] = []
    failed: list[tuple[str, EdgewrightError]] = []
    for export in exports:
        try:
            found = make_file(run, export, samples)
            if not run.dry:
                _publish(found.artifact, out, run, data.classes)
            made.append(found)
        except EdgewrightError as error:
            failed.append((export.name, error))
        except Pending:
            continue
    if run.dry and len(made) < len(exports):
        raise Pending("a file")
    if not made:
        raise failed[0][1]
    sides = [*_baselines(baseline, made), *((file.artifact, None) for file in made)]
    reference = original.result()
    outputs = {(file.sha256, engine): run.outputs(file.path, file.sha256, data, engine) for file, engine in sides}
    judged: dict[Side, Mapping[str, Any]] = {}
    if run.settings.evaluation is not None:
        judged[run.sha256, None] = run.evaluated(evaluate_title(run.model, None), data, [reference])
        for file, engine in sides:
            both = [outputs[file.sha256, engine], reference]
            judged[file.sha256, engine] = run.evaluated(evaluate_title(file.path, engine), data, both)
    return Findings(
        run=run,
        out=out,
        original=run.inspected(run.model, run.sha256),
        baseline=baseline,
        infos={file.sha256: run.inspected(file.path, file.sha256) for file, _ in sides},
        sides=tuple((file.sha256, engine) for file, engine in sides),
        made=tuple(made),
        reference=reference,
        outputs=outputs,
        judged=judged,
        measured=_measured(run, sides),
        data=data,
        calibration=samples.text,
        random=random,
        failed=tuple(f"{name}: {error}" for name, error in failed),
        notes=tuple(notes),
    )


class Calibration:
    """The samples of a run for any inputs, opened once for each."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._opened: dict[tuple[TensorSpec, ...], Opened] = {}

    def __call__(self, inputs: tuple[TensorSpec, ...]) -> Opened | None:
        """The samples for these inputs; None if the run has none."""
        data = self._run.settings.samples
        if data is None:
            return None
        if inputs not in self._opened:
            self._opened[inputs] = self._run.data(data, inputs)
        return self._opened[inputs]

    @property
    def text(self) -> str:
        """What they are, in words; empty if nothing has asked for them."""
        return next((opened.text for opened in self._opened.values()), "")


def _baselines(baseline: Artifact, made: Sequence[Made]) -> list[tuple[Artifact, str | None]]:
    """The uncompressed model in every engine that runs a result and takes it: what speed is compared with."""
    own = own_engine(baseline.format)
    engines = takers(baseline.format, [own_engine(file.artifact.format) for file in made])
    return [(baseline, None if name == own else name) for name in engines]


def takers(format: str, engines: Sequence[str]) -> list[str]:
    """Those of some engines that take a format; the format's own if none does."""
    return [name for name in dict.fromkeys(engines) if format in ENGINES.get(name).formats] or [own_engine(format)]


def own_engine(format: str) -> str:
    """The engine that is made for a format."""
    return next(name for name in ENGINES.names() if ENGINES.get(name).formats[0] == format)


def _measured(run: Run, sides: Sequence[tuple[Artifact, str | None]]) -> dict[Side, Mapping[str, Any]]:
    """Latency and memory of every file, in turns, while nothing else of the run is at work."""
    if not run.settings.bench:
        return {}
    settings = run.settings
    targets = [BenchTarget(file.path, engine, (settings.threads,), settings.exact) for file, engine in sides]
    run.rest()
    reports = run.benched(targets, [file.sha256 for file, _ in sides])
    return {(file.sha256, engine): report for (file, engine), report in zip(sides, reports, strict=True)}


def _publish(made: Artifact, out: Path, run: Run, classes: Sequence[str]) -> None:
    """Copy a file from the cache to where the user wants it, with what is known of task and labels."""
    labels = made.meta.labels or tuple(classes)
    judging = run.settings.judging
    boxes = {} if judging.detection is None else {"detection": judging.detection.to_json()}
    meta = {"task": judging.task or made.meta.task, "labels": labels, "extra": {**made.meta.extra, **boxes}}
    final = replace(made.with_meta(**meta), path=out / made.path.name)
    sidecar = (json.dumps(final.to_json(), indent=2) + "\n").encode()
    files = {file.name: file for file in files_of(made.path)}
    if all((out / name).is_file() and file_digest(out / name) == file_digest(file) for name, file in files.items()):
        if not final.sidecar.is_file() or final.sidecar.read_bytes() != sidecar:
            write_atomic(final.sidecar, sidecar)
        return
    with atomic_folder(out) as folder:
        for name, file in files.items():
            shutil.copyfile(file, folder / name)
        (folder / final.sidecar.name).write_bytes(sidecar)
