"""Errors: install hints only for what is missing, JSON there and back, exit codes."""

import sys

import pytest

from edgewright import errors
from edgewright.errors import EXTRAS, EdgewrightError, MissingPackageError, error_from_json, needs

CLASSES = [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]

EXIT_CODES = {"UsageError": 2, "BudgetError": 3, "PlacementError": 3, "VerificationError": 4, "RegressionError": 5}


@pytest.fixture
def hidden(monkeypatch):
    """A function that makes a package look as if it were not installed."""

    class Hide:
        def __init__(self, name):
            self.name = name

        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == self.name:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    def hide(name):
        for module in [m for m in sys.modules if m.partition(".")[0] == name]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setattr(sys, "meta_path", [Hide(name), *sys.meta_path])

    return hide


@pytest.mark.parametrize(
    ("extra", "package"), [("openvino", "openvino"), ("convert", "onnx"), ("litert", "tflite_runtime"), ("video", "cv2")]
)
def test_a_missing_package_becomes_an_install_line(hidden, extra, package):
    hidden(package)
    with pytest.raises(MissingPackageError) as caught, needs(extra):
        __import__(package)
    assert package in caught.value.message
    assert caught.value.hint == f"pip install 'edgewright[{extra}]'"
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_a_package_of_no_extra_keeps_its_own_error(hidden):
    hidden("a_package_of_the_user")
    with pytest.raises(ModuleNotFoundError, match="a_package_of_the_user"), needs("convert"):
        __import__("a_package_of_the_user")


@pytest.mark.parametrize(
    ("content", "kind", "said"),
    [
        ("raise ImportError('libfoo.so.1: cannot open shared object file')", ImportError, "libfoo"),
        ("import a_dependency_that_is_missing", ModuleNotFoundError, "a_dependency_that_is_missing"),
        ("import openvino.a_part_that_is_missing", ModuleNotFoundError, "a_part_that_is_missing"),
    ],
)
def test_a_broken_package_keeps_its_own_error(tmp_path, monkeypatch, content, kind, said):
    """It is installed: an install line would send its user the wrong way."""
    for module in [m for m in sys.modules if m.partition(".")[0] == "openvino"]:
        monkeypatch.delitem(sys.modules, module)
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "__init__.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(kind, match=said) as caught, needs("openvino"):
        __import__("openvino")
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    assert not isinstance(caught.value, EdgewrightError)


def test_extras_are_those_of_the_package():
    """An install line must name an extra that there is."""
    from importlib.metadata import metadata

    assert set(EXTRAS) <= set(metadata("edgewright").get_all("Provides-Extra"))


@pytest.mark.parametrize("cls", CLASSES)
def test_json_there_and_back(cls):
    error = cls("found 3, expected 4", "give 4")
    back = error_from_json(error.to_json())
    assert type(back) is cls
    assert (back.message, back.hint, back.exit_code) == ("found 3, expected 4", "give 4", EXIT_CODES.get(cls.__name__, 1))


def test_json_of_a_class_that_this_version_does_not_know():
    back = error_from_json({"type": "SystemExit", "message": "gone", "hint": ""})
    assert type(back) is EdgewrightError
    assert str(back) == "gone"
    assert str(error_from_json({})) == "unknown error"


def test_text_has_the_hint():
    assert str(EdgewrightError("it broke", "mend it")) == "it broke (mend it)"


def test_every_class_is_public():
    def below(cls):
        return {cls, *(found for sub in cls.__subclasses__() if sub.__module__ == errors.__name__ for found in below(sub))}

    assert below(EdgewrightError) == set(CLASSES)
