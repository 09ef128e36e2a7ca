"""What a run is asked to do: settings, steps and files, all checked before anything is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from edgewright.artifact import files_of
from edgewright.conversion import Lowering, Trust, check_options, check_route, make_writer
from edgewright.converters.readers import find_reader
from edgewright.converters.writers import WRITERS, Writer
from edgewright.data import Data
from edgewright.errors import EdgewrightError, PluginError, SamplesError, UnsupportedError, UsageError, needs
from edgewright.evaluation import Judging
from edgewright.optimizers.passes import PASSES
from edgewright.recipe import EXPORT, LOWER, Recipe, find_recipe, with_overrides
from edgewright.samples import SamplesSpec
from edgewright.step import Step, checked
from edgewright.worker import Limits

__all__ = [
    "BASELINE",
    "TARGETS",
    "Export",
    "Opened",
    "PlannedStep",
    "Settings",
    "Watch",
    "evaluate_title",
    "lower_title",
    "make_exports",
    "pass_title",
    "recipe_schema",
    "run_title",
]

BASELINE = "float32"
"""What the uncompressed model is called in file names and reports."""


TARGETS = ("tflite", "openvino")
"""What is written where nothing else is asked for."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run is to do, beside the recipes.

    Args:
        samples: what passes train and calibrate with; None where no step needs any.
        evaluation: labelled data that files are judged on; None leaves that out.
        judging: how they are judged.
        bench: measure latency and memory here.
        bench_s: seconds of timed inferences in each process.
        repeats: processes per file.
        threads: threads of the measured engines.
        exact: make engines compute float ops in float32.
        fresh: measure again even if this machine has measured the same files before.
        train: `module:function` that trains in the place of the passes' own loop; see `optimizers.training.TrainContext`.
        seed: of everything random.
        trust: what the model file may do on loading.
        limits: time and memory of each child process.
    """

    samples: Data | None = None
    evaluation: Data | None = None
    judging: Judging = field(default_factory=Judging)
    bench: bool = True
    bench_s: float = 1.0
    repeats: int = 3
    threads: int = 1
    exact: bool = False
    fresh: bool = False
    train: str | None = None
    seed: int = 0
    trust: Trust = Trust()
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One step of a run, before it is done or after.

    Args:
        what: the step in words, which no other step of the run has.
        kind: what sort of step it is.
        options: its options.
        model_bytes: size of the model that it works on, None if that is not known yet.
        reused: whether its result is in the cache; None if that is not known yet.
    """

    what: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    model_bytes: int | None = None
    reused: bool | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """Samples that a run uses.

    Args:
        spec: how children open them.
        digest: of all that they hold; None if it cannot be known.
        text: what they are, in words.
        classes: names of the classes; empty if not known.
    """

    spec: SamplesSpec
    digest: str | None
    text: str
    classes: tuple[str, ...] = ()

    def first(self, count: int) -> Opened:
        """The first few of them."""
        digest = f"{self.digest} first {count}" if self.digest else None
        return replace(self, spec=self.spec.pick(count, None), digest=digest, text=f"{self.text}; first {count}")


class Watch:
    """Follows a run; does nothing by itself. Methods may be called from several threads."""

    def begin(self, step: PlannedStep) -> None:
        """A step begins."""

    def progress(self, step: PlannedStep, share: float, text: str) -> None:
        """A step goes on: share between 0 and 1."""

    def end(self, step: PlannedStep, seconds: float) -> None:
        """A step is done; `step.reused` says whether it was in the cache."""


@dataclass(frozen=True, slots=True)
class Export:
    """One file that a run is to make.

    Args:
        recipe: how.
        passes: the recipe's passes by name, ready to run.
        lowering: how the model is traced.
        target: the writer's name.
        writer: ready to run.
        name: of the file.
    """

    recipe: Recipe
    passes: tuple[tuple[str, Step], ...]
    lowering: Lowering
    target: str
    writer: Writer
    name: str


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
    if settings.train and not any(one.passes for one in found):
        raise UsageError(
            f"--train {settings.train}: no step of {', '.join(one.name for one in found)} trains", hint="leave it out"
        )
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
    steps = tuple((spec.name, _pass(spec.name, spec.options, settings.train, where.format(spec.name))) for spec in recipe.passes)
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


def _pass(name: str, options: Mapping[str, Any], train: str | None, where: str) -> Step:
    try:
        cls = PASSES.get(name)
    except PluginError as error:
        known = [*PASSES.names(), LOWER, EXPORT]
        raise UsageError(f"{where}: there is no such step", hint=f"known: {', '.join(known)}") from error
    own = {"train": train} if train and any(field.name == "train" for field in fields(cls.Options)) else {}
    return cls(checked(cls.Options, {**own, **options}, where))


def _check_overrides(recipes: Sequence[Recipe], overrides: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse options of steps that none of the recipes has: they would be ignored."""
    known = list(dict.fromkeys([*(step.name for recipe in recipes for step in recipe.steps), *WRITERS.names()]))
    for step, options in overrides.items():
        if step not in known:
            raise UsageError(
                f"-O {step}.{next(iter(options))}: no recipe of this run has a step '{step}'", hint=f"known: {', '.join(known)}"
            )


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
        "required": ["steps"],
        "additionalProperties": False,
    }


def lower_title(model: Path, batch: int | None, integer: bool) -> str:
    """What lowering a model is called."""
    how = [*(["free batch"] if batch is None else []), *(["unrolled"] if integer else [])]
    return f"{model.name} to float32 TFLite" + (f" ({', '.join(how)})" if how else "")


def pass_title(name: str, model: Path) -> str:
    """What a pass is called."""
    return f"{name} {model.name}"


def run_title(model: Path, engine: str | None) -> str:
    """What running a model over the data is called."""
    return f"run {model.name} on the data" + (f" in {engine}" if engine else "")


def evaluate_title(model: Path, engine: str | None) -> str:
    """What judging a model is called."""
    return f"evaluate {model.name}" + (f" in {engine}" if engine else "")
