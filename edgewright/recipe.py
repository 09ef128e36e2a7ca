"""A TOML recipe as a checked list of steps; parsing imports no plug-in."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from edgewright.errors import UsageError

__all__ = [
    "EXPORT",
    "LOWER",
    "Recipe",
    "StepSpec",
    "find_recipe",
    "parse_overrides",
    "parse_recipe",
    "recipe_names",
    "with_overrides",
]

EXPORT = "export"
"""The last step of every recipe: writes the file of each target."""

LOWER = "lower"
"""The step before it: a Keras model or SavedModel becomes a float32 TFLite file. It stands in a recipe for its options only."""

SCHEMA = 1

_KEYS = ("schema", "title", "about", "to", "steps")
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, slots=True)
class StepSpec:
    """One step of a recipe.

    Args:
        name: of the step: "export", or a pass.
        options: those that the recipe sets, as plain values; they are checked against the step's own when it is planned.
        origins: where each option was set: the recipe's name, or "-O" on the command line.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is done to a model, step by step.

    Args:
        name: file name without ending.
        title: in a few words.
        about: what it is good for, what it costs.
        steps: in order; the last two are the lowering and the export, whether the recipe names them or not.
        to: targets that it is for; empty for all.
        source: the file.
        text: the file's content.
    """

    name: str
    title: str
    about: str
    steps: tuple[StepSpec, ...]
    to: tuple[str, ...] = ()
    source: str = ""
    text: str = ""

    @property
    def passes(self) -> tuple[StepSpec, ...]:
        """The steps before lowering and export."""
        return self.steps[:-2]

    @property
    def lower(self) -> StepSpec:
        """The step before the last."""
        return self.steps[-2]

    @property
    def export(self) -> StepSpec:
        """The last step."""
        return self.steps[-1]

    def to_json(self) -> dict[str, Any]:
        """Plain form for JSON."""
        return {
            "name": self.name,
            "title": self.title,
            "about": self.about,
            "to": list(self.to),
            "source": self.source,
            "steps": [{"step": s.name, "options": dict(s.options), "origins": dict(s.origins)} for s in self.steps],
        }


def recipe_names() -> list[str]:
    """Names of the shipped recipes, sorted."""
    return sorted(file.name.removesuffix(".toml") for file in _shipped().iterdir() if file.name.endswith(".toml"))


def find_recipe(name: str) -> Recipe:
    """A shipped recipe by name, or the one in a .toml file.

    Raises:
        UsageError: there is none, or the file is no valid recipe; file, key and both values are named.
    """
    if name in recipe_names():
        file = _shipped().joinpath(f"{name}.toml")
        return parse_recipe(name, file.read_text(encoding="utf-8"), f"{name}.toml")
    path = Path(name)
    if path.suffix != ".toml" and not os.path.lexists(path):
        near = difflib.get_close_matches(name, recipe_names(), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(
            f"there is no recipe '{name}'", hint=f"{hint}known: {', '.join(recipe_names())}; or name a .toml file of your own"
        )
    try:
        return parse_recipe(path.stem, path.read_text(encoding="utf-8-sig"), str(path))
    except OSError as error:
        raise UsageError(f"the recipe {path} cannot be read: {error.strerror}", hint="check the path") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the recipe {path} is no text in UTF-8: {error.reason}", hint="save it as UTF-8") from error


def parse_recipe(name: str, text: str, source: str) -> Recipe:
    """A recipe from TOML text.

    Args:
        name: what the files that it makes are called after.
        text: the TOML.
        source: what messages call it.

    Raises:
        UsageError: it is no valid TOML or lacks something; file, key and both values are named.
    """
    data = _toml(text, source)
    if unknown := sorted(set(data) - set(_KEYS)):
        near = difflib.get_close_matches(unknown[0], _KEYS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(f"{source} has '{unknown[0]}', which recipes do not have", hint=f"{hint}known: {', '.join(_KEYS)}")
    schema = data.get("schema", SCHEMA)
    if type(schema) is not int or schema != SCHEMA:
        newer = isinstance(schema, int) and schema > SCHEMA
        raise UsageError(
            f"{source} is written in schema {schema!r}, this Edgewright reads schema {SCHEMA}",
            hint="upgrade Edgewright" if newer else f"write schema = {SCHEMA}",
        )
    for key, kind in (("title", str), ("about", str), ("to", list), ("steps", list)):
        if key in data and not isinstance(data[key], kind):
            word, example = _WORDS[key]
            raise UsageError(f"{source}: '{key}' is {data[key]!r}, {word} is expected", hint=f"write for example {example}")
    if not data.get("steps"):
        raise UsageError(f"{source} has no steps, at least one is expected", hint=_EXAMPLE)
    steps = [_step(item, number, source, name) for number, item in enumerate(data["steps"], 1)]
    ends = [steps.pop() for name in (EXPORT, LOWER) if steps and steps[-1].name == name]
    for number, step in enumerate(steps, 1):
        if step.name in {EXPORT, LOWER}:
            raise UsageError(
                f"{source}: step {number} of {len(steps) + len(ends)} is '{step.name}', it must stand at the end and once",
                hint=f"put the passes first, then '{LOWER}' if it has options, then '{EXPORT}'",
            )
    named = {step.name: step for step in ends}
    steps += [named.get(name, StepSpec(name)) for name in (LOWER, EXPORT)]
    to = data.get("to", [])
    if not all(isinstance(item, str) for item in to):
        word, example = _WORDS["to"]
        raise UsageError(f"{source}: 'to' is {to!r}, {word} is expected", hint=f"write for example {example}")
    targets = tuple(dict.fromkeys(to))
    return Recipe(name, data.get("title", name), data.get("about", "").strip(), tuple(steps), targets, source, text)


_EXAMPLE = 'write [[steps]] and below it step = "export"'

_WORDS = {
    "title": ("a text", 'title = "8-bit integers"'),
    "about": ("a text", 'about = "Small and fast."'),
    "to": ("a list of targets", 'to = ["tflite"]'),
    "steps": ("a list of steps", _EXAMPLE.removeprefix("write ")),
}


def _step(item: Any, number: int, source: str, recipe: str) -> StepSpec:
    where = f"{source}: step {number}"
    if not isinstance(item, dict):
        raise UsageError(f"{where} is {item!r}, a table is expected", hint=_EXAMPLE)
    if "step" not in item:
        raise UsageError(f"{where} has no name, only {', '.join(item) or 'an empty table'}", hint=_EXAMPLE)
    if not isinstance(item["step"], str):
        raise UsageError(f"{where}: 'step' is {item['step']!r}, a step's name is expected", hint=_EXAMPLE)
    options = {key: value for key, value in item.items() if key != "step"}
    for key, value in options.items():
        if not _plain(value):
            raise UsageError(
                f"{where}: option '{key}' is {value!r}, which no option can be",
                hint="options are texts, numbers, true or false, and lists of these",
            )
    return StepSpec(item["step"], options, dict.fromkeys(options, recipe))


def _plain(value: Any) -> bool:
    """Whether a TOML value can be an option's: no dates and times."""
    if isinstance(value, dict):
        return all(map(_plain, value.values()))
    if isinstance(value, list):
        return all(map(_plain, value))
    return isinstance(value, (str, int, float, bool))


def parse_overrides(texts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Options by step from `step.option=value` texts; values are TOML, or texts where they are none.

    Raises:
        UsageError: a text is of another form, or sets an option twice.
    """
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        step, dot, option = (part.strip().replace("-", "_") for part in key.partition("."))
        if not (equals and dot and _NAME.fullmatch(step) and _NAME.fullmatch(option)):
            raise UsageError(f"-O {text} is not of the form step.option=value", hint="for example -O export.io=int8")
        parsed = _value(value.strip())
        if option in found.setdefault(step, {}):
            raise UsageError(f"-O sets {step}.{option} twice, to {found[step][option]!r} and to {parsed!r}", hint="give it once")
        found[step][option] = parsed
    return found


def _value(text: str) -> Any:
    """A text as the one TOML value that it is, else itself; in brackets, since a comment or a second line would pass without."""
    try:
        data = _toml(f"value = [{text}]", "")
    except UsageError:
        return text
    single = list(data) == ["value"] and len(data["value"]) == 1 and not text.endswith(",")
    return data["value"][0] if single and _plain(data["value"]) else text


def with_overrides(recipe: Recipe, overrides: Mapping[str, Mapping[str, Any]]) -> Recipe:
    """The recipe with options of `-O`; those of steps that it does not have are left out."""

    def changed(step: StepSpec) -> StepSpec:
        own = overrides.get(step.name, {})
        return replace(step, options={**step.options, **own}, origins={**step.origins, **dict.fromkeys(own, "-O")})

    return replace(recipe, steps=tuple(map(changed, recipe.steps)))


def _shipped() -> Any:
    return resources.files("edgewright").joinpath("optimizers").joinpath("recipes")


def _toml(text: str, source: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return dict(tomllib.loads(text))
    except (ValueError, RecursionError) as error:  # of TOML itself, or of a number or nesting that Python refuses
        raise UsageError(f"{source} is no valid TOML: {error}", hint="see 'edgewright recipes int8' for a whole one") from error
