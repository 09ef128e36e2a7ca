"""A wheel of this very installation with what a board needs of it: the runtime and the measuring, made from the files here."""

from __future__ import annotations

import ast
import base64
import functools
import hashlib
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgewright.version import __version__

__all__ = ["BuiltWheel", "board_modules", "build_wheel"]

STARTS = ("edgewright.runtime.__main__", "edgewright.benchmarks.__main__")
"""What runs on a board; everything that these import, anywhere, goes with them."""

_ROOT = Path(__file__).parents[1]
_INFO = f"edgewright-{__version__}.dist-info"
_DATE = (1980, 1, 1, 0, 0, 0)
"""Of every file in the wheel, so that equal files make equal wheels."""
_DATA = (".html", ".toml", ".typed")
"""Suffixes of what is packed beside the modules: whatever else lies in the folder is no part of the program."""

_METADATA = f"""Metadata-Version: 2.1
Name: edgewright
Version: {__version__}
Summary: The part of Edgewright that runs on a board.
Requires-Python: >=3.10
Requires-Dist: numpy>=1.24
"""

_WHEEL = """Wheel-Version: 1.0
Generator: edgewright
Root-Is-Purelib: true
Tag: py3-none-any
"""


@dataclass(frozen=True, slots=True)
class BuiltWheel:
    """A wheel in memory.

    Args:
        name: the file's name, as installers expect it.
        data: the file's bytes; the same for the same sources.
        unpacked_bytes: how much its files take when they are unpacked.
        digest: first 16 hex digits of the sha256 of `data`.
    """

    name: str
    data: bytes
    unpacked_bytes: int
    digest: str


@functools.lru_cache(maxsize=1)
def build_wheel() -> BuiltWheel:
    """The wheel of the files that lie here now, also of an editable installation; built once in a process.

    Returns:
        A wheel `py3-none-any` that needs NumPy. The same sources give the same bytes: no times, sorted names.
    """
    files = {f"edgewright/{file.relative_to(_ROOT).as_posix()}": file.read_bytes() for file in _files()}
    files |= {f"{_INFO}/METADATA": _METADATA.encode(), f"{_INFO}/WHEEL": _WHEEL.encode()}
    rows = [f"{name},sha256={_urlsafe(data)},{len(data)}" for name, data in sorted(files.items())]
    files[f"{_INFO}/RECORD"] = ("\n".join([*rows, f"{_INFO}/RECORD,,"]) + "\n").encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in sorted(files.items()):
            entry = zipfile.ZipInfo(name, _DATE)
            entry.create_system, entry.external_attr, entry.compress_type = 3, 0o100644 << 16, zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    data = packed.getvalue()
    digest = hashlib.sha256(data).hexdigest()[:16]
    return BuiltWheel(f"edgewright-{__version__}-py3-none-any.whl", data, sum(map(len, files.values())), digest)


def board_modules() -> dict[str, Path]:
    """The modules that run on a board, by dotted name: those of `STARTS` and whatever they import.

    Imports within functions count, those for type checking do not. A text that names a package of ours, as the folder
    of a kind of plug-in does, brings all modules of that folder.
    """
    every = {_dotted(file): file for file in _ROOT.rglob("*.py")}
    found: dict[str, Path] = {}
    todo = list(STARTS)
    while todo:
        name = todo.pop()
        if name in found or name not in every:
            continue
        found[name] = every[name]
        todo.append(name.rpartition(".")[0])
        for mentioned, is_text in _mentions(every[name]):
            todo.append(mentioned)
            if is_text and "." in mentioned and mentioned in every and every[mentioned].name == "__init__.py":
                todo += [other for other in every if other.startswith(mentioned + ".")]
    return dict(sorted(found.items()))


def _files() -> list[Path]:
    """The modules, and the data that lies beside them: pages, tables, py.typed."""
    modules = list(board_modules().values())
    beside = {
        file
        for folder in {module.parent for module in modules}
        for file in folder.iterdir()
        if file.suffix in _DATA and not file.name.startswith(".")
    }
    return [*modules, *beside]


def _dotted(file: Path) -> str:
    parts = ("edgewright", *file.relative_to(_ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _mentions(file: Path) -> Iterator[tuple[str, bool]]:
    """Dotted names that a module imports or has as a text, and whether it was a text."""
    todo: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        todo += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from ((alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, False
            yield from ((f"{node.module}.{alias.name}", False) for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("edgewright."):
            yield node.value, True


def _urlsafe(data: bytes) -> str:
    """A file's digest as a wheel's RECORD has it (PEP 376, PEP 427)."""
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
