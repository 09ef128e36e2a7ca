"""Which wheels of a folder fit a board's Python, machine and C library (PEP 425, PEP 600, PEP 656)."""

from __future__ import annotations

import hashlib
import itertools
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgewright.artifact import file_digest
from edgewright.errors import DeviceError

__all__ = ["WheelFile", "choose_wheels", "digest_of", "how_to_get", "wheel_fits"]

_OLD_NAMES = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
"""The C library that the first names of manylinux stand for (PEP 513, 571, 599)."""

_PYTHON = re.compile(r"(cp|py)(\d)(\d+)$")
_PLATFORM = re.compile(r"(?:(manylinux|musllinux)_(\d+)_(\d+)|(manylinux1|manylinux2010|manylinux2014)|(linux))_(.+)$")


@dataclass(frozen=True, slots=True)
class WheelFile:
    """A wheel in a folder here.

    Args:
        path: the file.
        project: the name of what is in it, in lower case with "-".
        version: release.
        size_bytes: of the file.
        unpacked_bytes: of what is in it.
    """

    path: Path
    project: str
    version: str
    size_bytes: int
    unpacked_bytes: int


def choose_wheels(folder: Path, board: Mapping[str, Any]) -> list[WheelFile]:
    """The wheels of a folder that fit a board, the newest release of each project.

    Args:
        folder: where wheels lie, for several boards perhaps.
        board: `python` (version numbers), `machine`, `libc` (name and version), as `Device.survey` gives them.

    Returns:
        One wheel per project, sorted by project.

    Raises:
        DeviceError: there is no folder, no wheel, a broken one, or none of a project's wheels fits; those that do not fit are
            named, and how to get those that do.
    """
    if not folder.is_dir():
        raise DeviceError(f"there is no folder of wheels at {folder}", hint="check the path given to --wheels")
    files: dict[str, list[Path]] = {}
    for file in sorted(folder.glob("*.whl")):
        if file.name.count("-") >= 4:
            files.setdefault(_project(file), []).append(file)
    files.pop("edgewright", None)  # ours is made from the files that run here
    if not files:
        raise DeviceError(f"no wheels lie in {folder}", hint=f"get them with: {how_to_get(board)}")
    chosen, refused = [], []
    for project, candidates in files.items():
        fitting = [file for file in candidates if wheel_fits(file.name, board)]
        if fitting:
            chosen.append(_opened(project, max(fitting, key=lambda file: _order(_version(file)))))
        else:
            refused += [file.name for file in candidates]
    if refused:
        fits = ", ".join(one.path.name for one in chosen) or "none"
        raise DeviceError(
            f"{', '.join(refused)} in {folder} do not fit the board ({_words(board)}); what fits: {fits}",
            hint=f"get wheels for it with: {how_to_get(board)}",
        )
    return sorted(chosen, key=lambda one: one.project)


def digest_of(wheels: Sequence[WheelFile]) -> str:
    """16 hex digits for a set of wheels: of the sha256 of their names and contents."""
    lines = sorted(f"{one.path.name} {file_digest(one.path)}" for one in wheels)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def wheel_fits(name: str, board: Mapping[str, Any]) -> bool:
    """Whether a wheel's name says that it runs on a board: one of its Pythons, its ABIs and its platforms does.

    Args:
        name: NAME-VERSION[-BUILD]-PYTHON-ABI-PLATFORM.whl, each of the last three perhaps several with dots between.
        board: see `choose_wheels`.
    """
    pythons, abis, platforms = (part.split(".") for part in name.removesuffix(".whl").split("-")[-3:])
    have = (int(board["python"][0]), int(board["python"][1]))
    return any(
        _platform_fits(platform, board) and _python_fits(python, abi, have) and (platform != "any" or abi == "none")
        for python, abi, platform in itertools.product(pythons, abis, platforms)
    )


def how_to_get(board: Mapping[str, Any], engine: str = "litert") -> str:
    """The command that fetches NumPy and an engine for a board on a machine with internet."""
    package = {"litert": "ai-edge-litert"}.get(engine, engine)
    libc, version = board["libc"]
    python = ".".join(map(str, board["python"][:2]))
    older = [(2, 17), (2, 27), (2, 28), (2, 34)]
    if libc == "musl":
        platforms = [f"musllinux_1_2_{board['machine']}"]
    else:
        platforms = [f"manylinux_{a}_{b}_{board['machine']}" for a, b in older if (a, b) <= _numbers(version)] or ["any"]
    flags = " ".join(f"--platform {one}" for one in platforms)
    return f"pip download --only-binary=:all: --python-version {python} {flags} -d DIR numpy {package}"


def _python_fits(python: str, abi: str, have: tuple[int, int]) -> bool:
    major, minor = have
    if python == f"py{major}":
        return abi == "none"
    found = _PYTHON.match(python)
    if not found or int(found[2]) != major:
        return False
    if found[1] == "py":
        return abi == "none" and int(found[3]) <= minor
    if abi == "abi3":
        return int(found[3]) <= minor
    return int(found[3]) == minor and abi in ("none", f"cp{major}{minor}")


def _platform_fits(platform: str, board: Mapping[str, Any]) -> bool:
    if platform == "any":
        return True
    found = _PLATFORM.match(platform)
    if not found or found[6] != board["machine"]:
        return False
    libc, version = board["libc"]
    if found[5]:
        return True
    if found[1] == "musllinux":
        return bool(libc == "musl") and (int(found[2]), int(found[3])) <= _numbers(version)
    needed = _OLD_NAMES[found[4]] if found[4] else (int(found[2]), int(found[3]))
    return bool(libc == "glibc") and needed <= _numbers(version)


def _words(board: Mapping[str, Any]) -> str:
    return f"Python {'.'.join(map(str, board['python'][:2]))} on {board['machine']} with {' '.join(board['libc']).strip()}"


def _project(file: Path) -> str:
    return re.sub(r"[-_.]+", "-", file.name.split("-")[0]).lower()


def _version(file: Path) -> str:
    return file.name.split("-")[1]


def _order(version: str) -> tuple[tuple[int, ...], bool, tuple[int | str, ...]]:
    """Sorts releases: by their numbers, also those behind rc or post, a pre-release before the release."""
    head = re.match(r"\d+(?:\.\d+)*", version)
    rest = version[head.end() :] if head else version
    parts = tuple(int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", rest))
    return _numbers(head[0] if head else "0"), not re.match(r"[._-]?(a|b|rc|dev)", rest), parts


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)) or (0,)


def _opened(project: str, path: Path) -> WheelFile:
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (OSError, zipfile.BadZipFile) as error:
        raise DeviceError(f"{path} is no whole wheel ({error})", hint="fetch it again") from error
    return WheelFile(path, project, _version(path), path.stat().st_size, unpacked)
