"""Generated pages are what the code says now."""

import importlib.util
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.fixture(scope="module")
def pages():
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.pages()


@pytest.mark.parametrize("name", ["cli.md", "errors.md"])
def test_page_is_current(pages, name):
    written = (DOCS / "reference" / name).read_text(encoding="utf-8")
    assert written == pages[name], "stale: run .venv/bin/python docs/generate.py"
