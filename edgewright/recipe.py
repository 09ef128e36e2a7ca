"""A TOML recipe as a checked list of steps; parsing imports no plug-in."""

from __future__ import annotations

import difflib
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
    if path.suffix != ".toml" and not path.exists():
        near = difflib.get_close_matches(name, recipe_names(), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(
            f"there is no recipe '{name}'", hint=f"{hint}known: {', '.join(recipe_names())}; or name a .toml file of your own"
        )
    try:
        return parse_recipe(path.stem, path.read_text(encoding="utf-8"), str(path))
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
    if data.get("schema", SCHEMA) != SCHEMA:
        raise UsageError(
            f"{source} is written in schema {data['schema']}, this Edgewright reads schema {SCHEMA}", hint="upgrade Edgewright"
        )
    for key, kind in (("title", str), ("about", str), ("to", list), ("steps", list)):
        if key in data and not isinstance(data[key], kind):
            raise UsageError(f"{source}: '{key}' is {data[key]!r}, a {_WORDS[kind]} is expected")
    steps = [_step(item, number, source, name) for number, item in enumerate(data.get("steps", []), 1)]
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
        raise UsageError(f"{source}: 'to' is {to!r}, a list of targets is expected", hint='write for example to = ["tflite"]')
    return Recipe(name, data.get("title", name), data.get("about", "").strip(), tuple(steps), tuple(to), source, text)


_WORDS = {str: "text", list: "list"}


def _step(item: Any, number: int, source: str, recipe: str) -> StepSpec:
    where = f"{source}: step {number}"
    if not isinstance(item, dict) or not isinstance(item.get("step"), str):
        raise UsageError(f"{where} has no name", hint='write [[steps]] and below it step = "export"')
    options = {key: value for key, value in item.items() if key != "step"}
    for key, value in options.items():
        if not _plain(value):
            raise UsageError(f"{where}: option '{key}' is {value!r}, which no option can be", hint="texts, numbers, true, lists")
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
        step, dot, option = (part.strip() for part in key.partition("."))
        if not (equals and dot and _NAME.fullmatch(step) and _NAME.fullmatch(option.replace("-", "_"))):
            raise UsageError(f"-O {text} is not of the form step.option=value", hint="for example -O export.io=int8")
        option = option.replace("-", "_")
        if option in found.setdefault(step, {}):
            raise UsageError(f"-O sets {step}.{option} twice, to {found[step][option]!r} and to {value}", hint="give it once")
        found[step][option] = _value(value.strip())
    return found


def _value(text: str) -> Any:
    try:
        value = _toml(f"value = {text}", "")["value"]
    except UsageError:
        return text
    return value if _plain(value) else text


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
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{source} is no valid TOML: {error}", hint="see 'edgewright recipes int8' for a whole one") from error
