"""Recipes: what is shipped, what is wrong with those of users, options from the command line, and options of their types."""

import json
import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewright.errors import UsageError
from edgewright.recipe import Recipe, StepSpec, find_recipe, parse_overrides, parse_recipe, recipe_names, with_overrides
from edgewright.step import checked

FOLDER = Path(__file__).parents[1] / "edgewright" / "optimizers" / "recipes"


def parse(text):
    return parse_recipe("mine", text, "mine.toml")


# --- shipped ones -------------------------------------------------------------------------------------------------------


def test_names_are_those_of_the_files():
    assert recipe_names() == sorted(file.stem for file in FOLDER.iterdir())
    assert {"int8", "int16x8", "float16", "dynamic"} <= set(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes(name):
    recipe = find_recipe(name)
    assert (recipe.name, recipe.source) == (name, f"{name}.toml")
    assert recipe.text == (FOLDER / f"{name}.toml").read_text()
    assert recipe.title and recipe.about and "schema = 1" in recipe.text
    assert [step.name for step in recipe.steps[-2:]] == ["lower", "export"]
    assert (recipe.lower, recipe.export, recipe.passes) == (recipe.steps[-2], recipe.steps[-1], recipe.steps[:-2])
    assert all(origin == name for step in recipe.steps for origin in step.origins.values())
    assert json.loads(json.dumps(recipe.to_json()))["steps"][-1]["step"] == "export"


@pytest.mark.parametrize("name", ["int8", "int16x8", "float16", "dynamic"])
def test_recipes_that_only_export_say_their_own_precision(name):
    recipe = find_recipe(name)
    assert recipe.steps == (StepSpec("lower"), StepSpec("export", {"precision": name}, {"precision": name}))
    assert recipe.to == (("tflite",) if name == "int16x8" else ())


# --- those of users -----------------------------------------------------------------------------------------------------

WHOLE = """
schema = 1
title = "Mine"
about = "  What it is for.  "
to = ["tflite", "openvino", "tflite"]
[[steps]]
step = "prune"
sparsity = 0.8
layers = ["a", "b"]
[[steps]]
step = "lower"
unroll = 64
[[steps]]
step = "export"
precision = "int8"
"""


def test_a_whole_recipe(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(WHOLE)
    recipe = find_recipe(str(file))
    assert recipe == Recipe(
        name="mine",
        title="Mine",
        about="What it is for.",
        steps=(
            StepSpec("prune", {"sparsity": 0.8, "layers": ["a", "b"]}, {"sparsity": "mine", "layers": "mine"}),
            StepSpec("lower", {"unroll": 64}, {"unroll": "mine"}),
            StepSpec("export", {"precision": "int8"}, {"precision": "mine"}),
        ),
        to=("tflite", "openvino"),
        source=str(file),
        text=WHOLE,
    )
    assert [step.name for step in recipe.passes] == ["prune"]
    assert recipe.to_json() == {
        "name": "mine",
        "title": "Mine",
        "about": "What it is for.",
        "to": ["tflite", "openvino"],
        "source": str(file),
        "steps": [
            {
                "step": "prune",
                "options": {"sparsity": 0.8, "layers": ["a", "b"]},
                "origins": {"sparsity": "mine", "layers": "mine"},
            },
            {"step": "lower", "options": {"unroll": 64}, "origins": {"unroll": "mine"}},
            {"step": "export", "options": {"precision": "int8"}, "origins": {"precision": "mine"}},
        ],
    }


@pytest.mark.parametrize(
    ("steps", "names"),
    [
        (["export"], ["lower", "export"]),
        (["lower"], ["lower", "export"]),
        (["lower", "export"], ["lower", "export"]),
        (["prune"], ["prune", "lower", "export"]),
        (["prune", "cluster", "export"], ["prune", "cluster", "lower", "export"]),
        (["prune", "prune", "lower"], ["prune", "prune", "lower", "export"]),
    ],
)
def test_lowering_and_export_stand_at_the_end(steps, names):
    recipe = parse("".join(f'[[steps]]\nstep = "{name}"\nmark = {i}\n' for i, name in enumerate(steps)))
    assert [step.name for step in recipe.steps] == names
    assert (recipe.title, recipe.about, recipe.to) == ("mine", "", ())
    assert sorted(step.options["mark"] for step in recipe.steps if step.options) == list(range(len(steps)))


STEP = '[[steps]]\nstep = "export"\n'
WRONG = {
    "no TOML": ("steps = [", "mine.toml is no valid TOML"),
    "twice": ("title = 'a'\ntitle = 'b'\n" + STEP, "mine.toml is no valid TOML"),
    "binary": ("\0\1\2", "mine.toml is no valid TOML"),
    "nested": ("a = " + "[" * 5000, "mine.toml is no valid TOML"),
    "endless number": ("a = " + "1" * 5000, "mine.toml is no valid TOML"),
    "empty": ("", "mine.toml has no steps, at least one is expected"),
    "comments only": ("# nothing\n", "mine.toml has no steps"),
    "no steps": ("title = 'x'\nsteps = []\n", "mine.toml has no steps"),
    "unknown key": (
        "titel = 'x'\n" + STEP,
        "mine.toml has 'titel'",
        "did you mean title?",
        "known: schema, title, about, to, steps",
    ),
    "singular": ('[[step]]\nstep = "export"\n', "mine.toml has 'step'", "did you mean steps?"),
    "option outside": ("precision = 'int8'\n" + STEP, "mine.toml has 'precision', which recipes do not have"),
    "newer": ("schema = 2\n" + STEP, "mine.toml is written in schema 2, this Edgewright reads schema 1", "upgrade"),
    "text as schema": ("schema = '1'\n" + STEP, "mine.toml is written in schema '1'", "schema 1", "write schema = 1"),
    "true as schema": ("schema = true\n" + STEP, "schema True", "write schema = 1"),
    "older": ("schema = 0\n" + STEP, "schema 0, this Edgewright reads schema 1", "write schema = 1"),
    "title": ("title = 3\n" + STEP, "mine.toml: 'title' is 3, a text is expected", "title ="),
    "about": ("about = ['x']\n" + STEP, "mine.toml: 'about' is ['x'], a text is expected"),
    "to": ("to = 'tflite'\n" + STEP, "mine.toml: 'to' is 'tflite', a list of targets is expected", 'to = ["tflite"]'),
    "to of numbers": ("to = [1]\n" + STEP, "mine.toml: 'to' is [1], a list of targets is expected"),
    "steps as a table": ('[steps]\nstep = "export"\n', "'steps' is {'step': 'export'}, a list of steps is expected", "[[steps]]"),
    "steps as texts": ('steps = ["export"]\n', "mine.toml: step 1 is 'export', a table is expected", "[[steps]]"),
    "no name": (STEP + '[[steps]]\nprecision = "int8"\n', "mine.toml: step 2 has no name, only precision"),
    "nothing in it": ("[[steps]]\n", "mine.toml: step 1 has no name"),
    "name of a number": ("[[steps]]\nstep = 3\n", "mine.toml: step 1: 'step' is 3, a step's name is expected"),
    "export first": (STEP + '[[steps]]\nstep = "prune"\n', "mine.toml: step 1 of 2 is 'export', it must stand at the end"),
    "export before lower": (STEP + '[[steps]]\nstep = "lower"\n', "step 1 of 2 is 'export'", "then 'lower'"),
    "export twice": (STEP + STEP, "mine.toml: step 1 of 2 is 'export', it must stand at the end and once"),
    "lower first": ('[[steps]]\nstep = "lower"\n[[steps]]\nstep = "prune"\n' + STEP, "step 1 of 3 is 'lower'"),
    "date": (STEP + "since = 2024-02-03\n", "mine.toml: step 1: option 'since' is datetime.date(2024, 2, 3)", "options are"),
    "time in a list": (STEP + "at = [1, 07:30:00]\n", "mine.toml: step 1: option 'at' is [1, datetime.time(7, 30)]"),
    "date in a table": (STEP + "at = {a = {b = 2024-02-03}}\n", "mine.toml: step 1: option 'at'"),
}


@pytest.mark.parametrize(("text", "parts"), [(text, parts) for text, *parts in WRONG.values()], ids=WRONG)
def test_wrong_recipes_name_file_key_and_both_values(text, parts):
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert caught.value.exit_code == 2
    assert caught.value.message.startswith("mine.toml") and caught.value.hint
    assert [part for part in parts if part not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path: None, "cannot be read: No such file"),
        (lambda path: path.mkdir(), "cannot be read: Is a directory"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00"), "is no text in UTF-8"),
        (lambda path: path.write_bytes(bytes(range(256))), "is no text in UTF-8"),
        (lambda path: path.symlink_to(path), "cannot be read: "),
        (lambda path: path.write_bytes(b"steps = ["), "is no valid TOML"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, write, said):
    file = tmp_path / "mine.toml"
    write(file)
    with pytest.raises(UsageError, match=said) as caught:
        find_recipe(str(file))
    assert str(file) in caught.value.message and caught.value.hint


def test_files_as_editors_write_them(tmp_path):
    file = tmp_path / "my recipe.toml"
    file.write_bytes(b"\xef\xbb\xbf" + STEP.replace("\n", "\r\n").encode() + 'title = "ä"'.encode().replace(b"title", b"mark"))
    assert find_recipe(str(file)).export.options == {"mark": "ä"}
    assert find_recipe(str(file)).name == "my recipe"


@pytest.mark.parametrize(
    ("name", "near"), [("int9", "did you mean int8?"), ("flaot16", "did you mean float16?"), ("x" * 5000, "")]
)
def test_unknown_recipes(name, near, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=f"there is no recipe '{name}'") as caught:
        find_recipe(name)
    assert near in caught.value.hint and f"known: {', '.join(recipe_names())}" in caught.value.hint


def test_a_shipped_name_is_never_a_file_that_happens_to_lie_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "int8").write_text("no recipe")
    assert find_recipe("int8").source == "int8.toml"
    (tmp_path / "int8.toml").write_text('title = "mine"\n' + STEP)
    assert find_recipe("int8.toml").title == "mine"


# --- options of the command line ----------------------------------------------------------------------------------------


def value_of(text):
    return parse_overrides([f"step.option={text}"])["step"]["option"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("int8", "int8"),
        ("'int8'", "int8"),
        ('"8"', "8"),
        ("8", 8),
        ("-3", -3),
        ("0x10", 16),
        ("1_000", 1000),
        ("0.8", 0.8),
        ("1e-3", 0.001),
        ("inf", math.inf),
        ("true", True),
        ("false", False),
        ("True", "True"),
        ("none", "none"),
        ("", ""),
        ("''", ""),
        ("[1, 2.5, 'a', [true]]", [1, 2.5, "a", [True]]),
        ("[]", []),
        ("{a = 1}", {"a": 1}),
        ("tflite-2.14", "tflite-2.14"),
        ("a=b", "a=b"),
        ("dense/kernel", "dense/kernel"),
        ("dense*", "dense*"),
        ("  spaced out  ", "spaced out"),
        ("2024-02-03", "2024-02-03"),
        ("07:30:00", "07:30:00"),
        ("[2024-02-03]", "[2024-02-03]"),
        ("1 # not a comment", "1 # not a comment"),
        ("1\nother = 2", "1\nother = 2"),
        ("1]\nother = [2", "1]\nother = [2"),
        ("1, 2", "1, 2"),
        ("1,", "1,"),
        ("[1", "[1"),
        ("1]", "1]"),
        ("'open", "'open"),
        ("[" * 5000, "[" * 5000),
        ("1" * 5000, "1" * 5000),
    ],
)
def test_values(text, value):
    found = value_of(text)
    assert found == value and type(found) is type(value)


SCALARS = st.integers() | st.floats() | st.booleans() | st.text()


def toml(value):
    """A value as TOML, written by other rules than ours."""
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, str):
        return '"' + "".join(c if c.isascii() and c.isalnum() else f"\\U{ord(c):08X}" for c in value) + '"'
    return str(value).lower() if isinstance(value, bool) else repr(value)


@settings(deadline=None)
@given(SCALARS | st.lists(SCALARS, max_size=4))
def test_round_trip(value):
    assert repr(value_of(toml(value))) == repr(value)


@settings(deadline=None)
@given(st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S", "Zs"])).map(str.strip))
def test_what_is_no_value_stays_as_it_is(text):
    found = value_of(text)
    if isinstance(found, str) and not text.startswith(('"', "'")):
        assert found == text
    elif not isinstance(found, str):
        assert "#" not in text or "'" in text or '"' in text, "a comment must not be cut off"


def test_options_by_step():
    given_texts = ["export.io=int8", "prune.sparsity = 0.8", "export.min-runtime=tflite-2.14", " prune-channels . ratio=0.5"]
    assert parse_overrides(given_texts) == {
        "export": {"io": "int8", "min_runtime": "tflite-2.14"},
        "prune": {"sparsity": 0.8},
        "prune_channels": {"ratio": 0.5},
    }
    assert parse_overrides([]) == {}


MALFORMED = ["", "export", "export.io", "io=int8", ".io=int8", "export.=int8", "=", "export.io.x=1", "Export.io=1", "export.1=2"]


@pytest.mark.parametrize("text", [*MALFORMED, "a b.c=1", "export.'io'=1"])
def test_malformed(text):
    with pytest.raises(UsageError) as caught:
        parse_overrides([text])
    assert caught.value.message == f"-O {text} is not of the form step.option=value"
    assert "-O export.io=int8" in caught.value.hint


@pytest.mark.parametrize("second", ["export.min_runtime=2", "export.min-runtime=2", " export . min_runtime = 2 "])
def test_twice(second):
    with pytest.raises(UsageError, match=r"-O sets export.min_runtime twice, to 'a' and to 2 \(give it once\)"):
        parse_overrides(["export.min-runtime=a", "prune.min_runtime=1", second])


def test_overrides_are_laid_over_the_recipe_and_say_so():
    before = parse(WHOLE)
    recipe = with_overrides(before, {"export": {"precision": "float16", "io": "int8"}, "prune": {}, "absent": {"x": 1}})
    assert recipe.export.options == {"precision": "float16", "io": "int8"}
    assert recipe.export.origins == {"precision": "-O", "io": "-O"}
    assert recipe.passes == before.passes and recipe.lower == before.lower
    assert (recipe.name, recipe.text) == (before.name, before.text)
    assert before.export.options == {"precision": "int8"}, "the recipe itself is not changed"
    assert with_overrides(before, {"lower": {"batch": 1}}).lower.origins == {"unroll": "mine", "batch": "-O"}
    two = parse('[[steps]]\nstep = "prune"\na = 1\n[[steps]]\nstep = "prune"\n')
    assert [step.options for step in with_overrides(two, {"prune": {"a": 2}}).passes] == [{"a": 2}, {"a": 2}]


def test_parsing_imports_no_plug_in_and_nothing_heavy():
    code = """
import sys
from edgewright.recipe import find_recipe, parse_overrides, recipe_names, with_overrides
for name in recipe_names():
    with_overrides(find_recipe(name), parse_overrides(["export.io=int8"]))
heavy = {"tensorflow", "keras", "tf_keras", "numpy", "pydantic", "openvino", "nncf", "onnx", "ai_edge_litert"}
ours = ("edgewright.converters", "edgewright.optimizers", "edgewright.runtime")
print(sorted(m for m in sys.modules if m.partition(".")[0] in heavy or m.startswith(ours)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


# --- options of their types ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Options:
    __pydantic_config__: ClassVar[Mapping[str, Any]] = {"extra": "forbid", "strict": True}

    precision: Literal["int8", "float16"] = "int8"
    sparsity: float = 0.5
    epochs: int = 3
    batch: int | None = None
    layers: tuple[str, ...] = ()
    pattern: tuple[int, int] | None = None
    fold: bool = True


def test_checked_options():
    assert checked(Options, {}, "x") == Options()
    values = {"precision": "float16", "sparsity": 1, "batch": 4, "layers": ["a", "b"], "pattern": [2, 4], "fold": False}
    assert checked(Options, values, "x") == Options("float16", 1.0, 3, 4, ("a", "b"), (2, 4), False)
    assert checked(Options, {"batch": None, "sparsity": math.inf}, "x") == Options(sparsity=math.inf)


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"precison": "int8"}, ("has no option 'precison'", "did you mean precision?", "known: precision, sparsity, epochs")),
        ({"epochs": 1, "zzz": 2}, ("has no option 'zzz'", "known: precision")),
        ({"precision": "int4"}, ("option 'precision' is 'int4'", "'int8' or 'float16'")),
        ({"precision": 8}, ("option 'precision' is 8", "'int8' or 'float16'")),
        ({"sparsity": "0.8"}, ("option 'sparsity' is '0.8'", "valid number")),
        ({"epochs": 2.5}, ("option 'epochs' is 2.5", "valid integer")),
        ({"epochs": "3"}, ("option 'epochs' is '3'", "valid integer")),
        ({"epochs": True}, ("option 'epochs' is True", "valid integer")),
        ({"epochs": None}, ("option 'epochs' is None", "valid integer")),
        ({"fold": 1}, ("option 'fold' is 1", "valid boolean")),
        ({"fold": "true"}, ("option 'fold' is 'true'", "valid boolean")),
        ({"layers": "a"}, ("option 'layers' is 'a'", "valid array")),
        ({"layers": ["a", 3]}, ("option 'layers.1' is 3", "valid string")),
        ({"pattern": [2]}, ("option 'pattern.1'", "required")),
        ({"batch": [1]}, ("option 'batch' is [1]", "valid integer")),
    ],
)
def test_options_that_are_none(values, parts):
    with pytest.raises(UsageError) as caught:
        checked(Options, values, "recipe mine, step 'prune'")
    assert caught.value.message.startswith("recipe mine, step 'prune'")
    assert [part for part in parts if part not in str(caught.value)] == []
