"""Compress a model by recipes: files for every target, what they are worth on held-out data, and how fast they run here."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from edgewright.artifact import (
    Artifact,
    TensorSpec,
    atomic_folder,
    file_digest,
    files_of,
    raw_bytes,
    sweep_leftovers,
    write_atomic,
)
from edgewright.benchmarks.bench import BenchTarget
from edgewright.cache import Cache, default_root
from edgewright.conversion import Data, Lowering, check_options, check_route, make_writer
from edgewright.converters.readers import find_reader
from edgewright.converters.writers import WRITERS, Writer
from edgewright.errors import (
    ConversionError,
    EdgewrightError,
    MissingPackageError,
    PluginError,
    SamplesError,
    UnsupportedError,
    UsageError,
    VerificationError,
    needs,
)
from edgewright.estimates import estimate
from edgewright.evaluation import require_budget
from edgewright.optimizers.passes import PASSES
from edgewright.pipeline import (
    BASELINE,
    Export,
    Made,
    Opened,
    Pending,
    PlannedStep,
    Run,
    Settings,
    Watch,
    evaluate_title,
    lower_title,
    make_file,
    pass_title,
    run_title,
)
from edgewright.recipe import EXPORT, LOWER, Recipe, find_recipe, with_overrides
from edgewright.report import CompressReport
from edgewright.runtime.engines import ENGINES
from edgewright.step import Step, checked
from edgewright.summary import Findings, Side, summarise

__all__ = [
    "TARGETS",
    "compress",
    "estimated",
    "make_exports",
    "plan",
    "recipe_schema",
    "require_success",
    "save_report",
]

log = logging.getLogger("edgewright")

TARGETS = ("tflite", "openvino")
"""What is written where nothing else is asked for."""


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
    chosen = replace(settings or Settings(), samples=_data(samples), evaluation=_data(evaluation))
    exports, notes = make_exports(path, folder, recipe, to, overrides or {}, chosen)
    sweep_leftovers(folder)
    with Cache(cache) as store, Run(path, chosen, store, watch) as run:
        findings = _find(run, exports, folder, notes)
        return summarise(findings, max_drop=max_drop, origins=origins or {})


def estimated(
    model: str | Path,
    out: str | Path,
    *,
    recipe: str | Recipe | Sequence[str | Recipe] = "int8",
    to: Sequence[str] | None = None,
    samples: Data | str | Path | Mapping[str, Any] | None = None,
    evaluation: Data | str | Path | Mapping[str, Any] | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    settings: Settings | None = None,
    cache: Path | None = None,
) -> list[dict[str, Any]]:
    """The steps of a run and what they will cost, without doing any of them; TensorFlow is not loaded.

    Arguments and errors are those of `compress`.

    Returns:
        For each step: what, kind, options, whether it is in the cache, and estimates of seconds and memory_bytes with
        their origin.
    """
    path = Path(model)
    chosen = replace(settings or Settings(), samples=_data(samples), evaluation=_data(evaluation))
    exports, _ = make_exports(path, Path(out), recipe, to, overrides or {}, chosen)
    with Cache(cache) as store, Run(path, chosen, store, dry=True) as run:
        earlier = store.entries()
        steps = [(step, estimate(step, earlier, chosen)) for step in plan(run, exports)]
    return [
        {
            "what": step.what,
            "kind": step.kind,
            "options": dict(step.options),
            "cached": bool(step.reused),
            "seconds": cost.seconds,
            "memory_bytes": cost.memory_bytes,
            "origin": "estimated",
            "from": cost.origin,
        }
        for step, cost in steps
    ]


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
    try:
        bundle = javascript_bundle((default_root() if cache is None else cache) / "vega")
        texts["report.html"] = render_html(report, bundle)
    except MissingPackageError as error:
        log.warning("report.html is not written: %s", error)
    for name, text in texts.items():
        write_atomic(out / name, text.encode())
    return [out / name for name in texts]


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema of recipes: for editors that check and complete TOML, and for the reference.

    Raises:
        MissingPackageError: pydantic is not installed.
    """
    with needs("convert"):
        from pydantic import TypeAdapter
    steps = []
    options: dict[str, list[type[Any]]] = {
        **{name: [PASSES.get(name).Options] for name in PASSES.names()},
        LOWER: [Lowering],
        EXPORT: [WRITERS.get(name).Options for name in WRITERS.names()],
    }
    for name, classes in options.items():
        properties: dict[str, Any] = {"step": {"const": name}}
        for cls in classes:
            for key, value in TypeAdapter(cls).json_schema().get("properties", {}).items():
                if key not in properties:
                    properties[key] = value
                elif "enum" in value:
                    properties[key]["enum"] = list(dict.fromkeys([*properties[key]["enum"], *value["enum"]]))
        steps.append({"type": "object", "properties": properties, "required": ["step"], "additionalProperties": False})
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Edgewright recipe",
        "type": "object",
        "properties": {
            "schema": {"const": 1},
            "title": {"type": "string", "description": "The recipe in a few words."},
            "about": {"type": "string", "description": "What it is good for, and what it costs."},
            "to": {"type": "array", "items": {"enum": WRITERS.names()}, "description": "Targets that it is for."},
            "steps": {"type": "array", "items": {"oneOf": steps}},
        },
        "additionalProperties": False,
    }


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


def make_exports(
    model: Path,
    out: Path,
    recipes: str | Recipe | Sequence[str | Recipe],
    to: Sequence[str] | None,
    overrides: Mapping[str, Mapping[str, Any]],
    settings: Settings,
) -> tuple[list[Export], list[str]]:
    """Every file that is to be made, checked before anything is done; and notes on what is left out.

    Args:
        model: the model.
        out: folder for the files.
        recipes: see `compress`, as for all arguments.
        to: targets.
        overrides: options by step.
        settings: further settings.

    Raises:
        UsageError: options contradict each other or the model, or are of no step.
        UnsupportedError: nothing that was asked for can be made of this model.
    """
    given = [recipes] if isinstance(recipes, (str, Recipe)) else list(recipes)
    found = [item if isinstance(item, Recipe) else find_recipe(item) for item in given]
    if not found:
        raise UsageError("no recipe is named", hint="add --recipe int8; 'edgewright recipes' lists what there is")
    if twice := [one.name for one in found if [other.name for other in found].count(one.name) > 1]:
        raise UsageError(f"the recipe '{twice[0]}' is named twice: its files would overwrite each other", hint="rename one")
    targets = None if to is None else list(dict.fromkeys(to))
    _check_overrides(found, overrides)
    exports: list[Export] = []
    left_out: list[EdgewrightError] = []
    for one in found:
        changed = with_overrides(one, overrides)
        for target in targets or one.to or TARGETS:
            if one.to and target not in one.to:
                left_out.append(UnsupportedError(f"the recipe {one.name} is not for {target}, only for {', '.join(one.to)}"))
                continue
            try:
                exports.append(_export(model, out, changed, target, overrides.get(target, {}), settings))
            except UnsupportedError as error:
                left_out.append(error)
    if not exports:
        raise left_out[0]
    return exports, [f"left out: {error.message}" for error in left_out]


def _export(model: Path, out: Path, recipe: Recipe, target: str, own: Mapping[str, Any], settings: Settings) -> Export:
    where = f"recipe {recipe.name}, step '{{}}'"
    lowering = checked(Lowering, recipe.lower.options, where.format(LOWER))
    reader = find_reader(model)
    check_options(reader, target, model, batch=lowering.batch, unroll=lowering.unroll, select_tf=False)
    options = {**recipe.export.options, **own}
    writer = _writer(target, options, lowering.batch, where.format(EXPORT))
    check_route(reader, target, writer, model)
    steps = tuple((spec.name, _pass(spec.name, spec.options, where.format(spec.name))) for spec in recipe.passes)
    if steps and reader != "keras":
        raise UnsupportedError(
            f"{model} is {reader}, the pass '{steps[0][0]}' takes a Keras model", hint="save the model as .keras, or leave it out"
        )
    needy = [name for name, step in (*steps, (EXPORT, writer)) if step.needs_samples()]
    if needy and settings.samples is None:
        raise SamplesError(
            f"the recipe {recipe.name} needs samples for {' and '.join(needy)}, none were given",
            hint="add --samples FILE (100 or more typical inputs), or take the recipe float16 or dynamic",
        )
    name = f"{model.resolve().name if model.is_dir() else model.stem}_{recipe.name}{writer.suffix}"
    if any((out / name).exists() and (out / name).samefile(file) for file in files_of(model)):
        raise UsageError(f"{out / name} is the model that is compressed", hint="name another folder with -o")
    return Export(recipe, steps, lowering, target, writer, name)


def _writer(target: str, options: Mapping[str, Any], batch: int | None, where: str) -> Writer:
    """The writer of a target with a recipe's options, each of its declared type."""
    cls = WRITERS.get(target)
    names = {field.name for field in fields(cls.Options)} - {"batch"}
    foreign = {field.name for other in WRITERS.names() for field in fields(WRITERS.get(other).Options)} - names
    own = checked(cls.Options, {key: value for key, value in options.items() if key not in foreign}, where)
    values = {key: getattr(own, key) for key in names}
    return make_writer(target, **values, **{key: options[key] for key in foreign & set(options)}, batch=batch)


def _pass(name: str, options: Mapping[str, Any], where: str) -> Step:
    try:
        cls = PASSES.get(name)
    except PluginError as error:
        known = [*PASSES.names(), LOWER, EXPORT]
        raise UsageError(f"{where}: there is no such step", hint=f"known: {', '.join(known)}") from error
    return cls(checked(cls.Options, options, where))


def _check_overrides(recipes: Sequence[Recipe], overrides: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse options of steps that none of the recipes has: they would be ignored."""
    known = list(dict.fromkeys([*(step.name for recipe in recipes for step in recipe.steps), *WRITERS.names()]))
    for step, options in overrides.items():
        if step not in known:
            raise UsageError(
                f"-O {step}.{next(iter(options))}: no recipe of this run has a step '{step}'", hint=f"known: {', '.join(known)}"
            )


def _data(given: Data | str | Path | Mapping[str, Any] | None) -> Data | None:
    return given if given is None or isinstance(given, Data) else Data(given)


def _find(run: Run, exports: Sequence[Export], out: Path, notes: Sequence[str]) -> Findings:
    """Do everything, and gather what was found."""
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


def plan(run: Run, exports: Sequence[Export]) -> list[PlannedStep]:
    """Every step of a run, in order, and whether its result is in the cache; nothing is done.

    Args:
        run: a dry run.
        exports: what is to be made.
    """
    seen: dict[str, PlannedStep] = {}

    class Look(Watch):
        def end(self, step: PlannedStep, seconds: float) -> None:
            seen.setdefault(step.what, step)

    run.watch = Look()
    with suppress(Pending):
        _find(run, exports, Path(), ())
    return [
        replace(seen.get(step.what, step), reused=step.what in seen and seen[step.what].reused) for step in _steps(run, exports)
    ]


def _steps(run: Run, exports: Sequence[Export]) -> list[PlannedStep]:
    """Every step of a run by name, as `_find` does them."""
    model, steps = run.model, list[PlannedStep]()
    size = raw_bytes(model)
    if run.trains:
        how = exports[0].lowering
        steps.append(PlannedStep(lower_title(model, how.batch or 1, False), "lower", {}, size))
    for export in exports:
        source = model
        for name, step in export.passes:
            steps.append(PlannedStep(pass_title(name, source), f"pass:{name}", asdict(step.options), size))
            source = Path(f"{model.stem}.keras")
        if run.trains:
            batch = 1 if export.lowering.batch is None and export.target == "tflite" else export.lowering.batch
            steps.append(PlannedStep(lower_title(source, batch, False), "lower", asdict(export.lowering), size))
        options = asdict(export.writer.options)
        steps.append(PlannedStep(f"write {export.name}", f"export:{export.target}", options, size))
    baseline = Path(f"{model.stem}_{BASELINE}.tflite") if run.trains else model
    engines = [_own_engine(export.writer.produces) for export in exports]
    sides = [
        *(
            (baseline, None if name == _own_engine(run.baseline_format) else name)
            for name in _takers(run.baseline_format, engines)
        ),
        *((Path(export.name), None) for export in exports),
    ]
    runs = dict.fromkeys([(model, None), *sides])
    steps += [PlannedStep(run_title(path, engine), "outputs", {}, size) for path, engine in runs]
    if run.settings.evaluation is not None:
        steps += [PlannedStep(evaluate_title(path, engine), "evaluate") for path, engine in runs]
    if run.settings.bench:
        steps.append(PlannedStep(f"measure {len(sides)} files", "bench", {"files": len(sides)}))
    return list({step.what: step for step in steps}.values())


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
    own = _own_engine(baseline.format)
    engines = _takers(baseline.format, [_own_engine(file.artifact.format) for file in made])
    return [(baseline, None if name == own else name) for name in engines]


def _takers(format: str, engines: Sequence[str]) -> list[str]:
    """Those of some engines that take a format; the format's own if none does."""
    return [name for name in dict.fromkeys(engines) if format in ENGINES.get(name).formats] or [_own_engine(format)]


def _own_engine(format: str) -> str:
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
    final = replace(made.with_meta(task=run.settings.judging.task or made.meta.task, labels=labels), path=out / made.path.name)
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
