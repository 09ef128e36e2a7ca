"""Plug-ins: listed without an import, imported by name, shipped or of third parties."""

import json
import subprocess
import sys

import pytest

from edgewright.errors import PluginError
from edgewright.registry import Kind

NAMES_IN_CHILD = """
import json, sys
from edgewright.converters.readers import READERS
from edgewright.converters.writers import WRITERS
from edgewright.runtime.engines import ENGINES
names = [kind.names() for kind in (READERS, WRITERS, ENGINES)]
plugins = [m for m in sys.modules for kind in (READERS, WRITERS, ENGINES) if m.startswith(kind.package + ".")]
print(json.dumps([names, plugins]))
"""


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """A kind whose folder has the plug-ins "good", "silent" (registers nothing) and "old" (another interface)."""
    package = tmp_path / "toy_plugins"
    package.mkdir()
    package.joinpath("__init__.py").write_text("from edgewright.registry import Kind\nTOYS = Kind('toy', 'toy_plugins', api=2)\n")
    template = "from toy_plugins import TOYS\n@TOYS.register({name!r}, api={api})\nclass Toy:\n    pass\n"
    package.joinpath("good.py").write_text(template.format(name="good", api=2))
    package.joinpath("old.py").write_text(template.format(name="old", api=1))
    package.joinpath("silent.py").write_text("")
    package.joinpath("_helper.py").write_text("raise RuntimeError('imported')")
    package.joinpath("notes.txt").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    import toy_plugins

    yield toy_plugins.TOYS
    for name in [m for m in sys.modules if m.startswith(("toy_plugins", "toy_from_elsewhere"))]:
        del sys.modules[name]


def test_names_import_nothing():
    done = subprocess.run([sys.executable, "-c", NAMES_IN_CHILD], capture_output=True, text=True, timeout=60, check=True)
    names, plugins = json.loads(done.stdout)
    assert {"keras", "saved_model", "onnx", "tflite", "openvino"} <= set(names[0])
    assert {"tflite", "openvino"} <= set(names[1])
    assert {"litert", "openvino", "onnxruntime"} <= set(names[2])
    assert plugins == []


def test_names_are_the_modules_without_helpers(toys):
    assert toys.names() == ["good", "old", "silent"]
    assert "toy_plugins.good" not in sys.modules


def test_get_imports_one(toys):
    cls = toys.get("good")
    assert cls.__module__ == "toy_plugins.good"
    assert toys.get("good") is cls
    assert "toy_plugins.silent" not in sys.modules


def test_an_unknown_name_lists_the_known_ones(toys):
    with pytest.raises(PluginError, match="no toy 'goood'") as caught:
        toys.get("goood")
    assert caught.value.hint == "known: good, old, silent"


def test_a_module_that_registers_nothing_says_so(toys):
    with pytest.raises(PluginError, match="toy 'silent' registers no toy"):
        toys.get("silent")


def test_another_interface_version_names_both(toys):
    with pytest.raises(PluginError, match=r"'old' is written for interface version 1, this Edgewright has version 2"):
        toys.get("old")


@pytest.mark.parametrize("api", [2, 3])
def test_third_parties_come_by_entry_point(toys, tmp_path, monkeypatch, api):
    site = tmp_path / "site"
    info = site / "toy_from_elsewhere-1.0.dist-info"
    info.mkdir(parents=True)
    info.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: toy-from-elsewhere\nVersion: 1.0\n")
    info.joinpath("entry_points.txt").write_text("[edgewright.toys]\nfar = toy_from_elsewhere:Far\n")
    site.joinpath("toy_from_elsewhere.py").write_text(
        f"from toy_plugins import TOYS\n@TOYS.register('far', api={api})\nclass Far:\n    pass\n"
    )
    monkeypatch.syspath_prepend(site)
    assert toys.names() == ["far", "good", "old", "silent"]
    assert "toy_from_elsewhere" not in sys.modules
    if api == 2:
        assert toys.get("far").__name__ == "Far"
    else:
        with pytest.raises(PluginError, match="version 3"):
            toys.get("far")


def test_a_missing_folder_has_no_plugins():
    assert Kind("toy", "no_such_package_at_all").names() == []
