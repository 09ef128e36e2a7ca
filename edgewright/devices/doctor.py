"""What is missing on a board before it can run and measure models, and what to do about each thing."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from edgewright.devices import checks
from edgewright.devices.boards import Board
from edgewright.devices.checks import Check
from edgewright.devices.device import Device, Progress, board_failure, packed
from edgewright.devices.packages import how_to_get
from edgewright.devices.transport import Completed, Transport, open_transport
from edgewright.devices.wheel import build_wheel
from edgewright.errors import EXTRAS, DeviceBusyError, DeviceError, EdgewrightError

__all__ = ["CHECKS", "Vitals", "examine", "is_ready", "list_meters", "probe", "take_vitals"]

CHECKS = (
    *("reachable", "python", "architecture", "memory", "space", "lock", "numpy", "engines", "meters", "temperature"),
    *("governor", "clock"),
)
"""Names of all checks in their order."""

NEEDED = ("reachable", "python", "space", "lock", "numpy", "engines")
"""The checks without which nothing runs there."""

IMPORT_S = 120.0
"""What one import may take on a slow board, from a slow card."""

SHORT_S = 60.0

_MODULES = {"litert": EXTRAS["litert"], "openvino": EXTRAS["openvino"], "onnxruntime": EXTRAS["onnx"]}
"""The packages behind the engines that are shipped, for a board without our runtime."""

_VERSION = "import sys; sys.stdout.write('%d.%d.%d' % sys.version_info[:3])"
_IMPORT = """import importlib, sys
sys.modules["openvino_telemetry"] = None
sys.stdout.write(str(getattr(importlib.import_module(sys.argv[1]), "__version__", "there")))
"""
_QUIET = {"ORT_DISABLE_TELEMETRY": "1"}
"""With the line above: no engine writes into the board's home folder, or sends, because we looked whether it is there."""

_FREE = re.compile(r"\d+ +\d+ +(\d+) +\d+%")
"""Blocks that are free, in the output of df (POSIX)."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Vitals:
    """How a board is doing.

    Args:
        facts: answer of the module `vitals` on the board.
        ahead_s: how much later the board's clock is than ours.
        unsure_s: by how much that can be wrong.
    """

    facts: Mapping[str, Any]
    ahead_s: float
    unsure_s: float


class _GoneError(DeviceError):
    """The board went away in the middle."""


def examine(
    board: Board,
    *,
    wait_s: float = 0.0,
    on_wait: Callable[[str], None] | None = None,
    on_check: Callable[[str], None] | None = None,
) -> tuple[Check, ...]:
    """All checks of a board, in the order of `CHECKS`.

    It changes nothing there but the lock file in our folder, which it holds so that no measurement is disturbed, and clock
    governors that a broken-off measurement left changed, which whoever holds the lock sets back. A board that is not reached,
    is in use, or goes away in the middle leaves the rest "not checked".

    Args:
        board: a profile.
        wait_s: seconds to wait for another run on the board to end.
        on_wait: told once who is waited for.
        on_check: told the name of each check before it is made.
    """
    found: dict[str, Check] = {}
    why = ""
    try:
        transport = open_transport(board)
        begun = time.monotonic()
        (on_check or _ignore)("reachable")
        with transport:
            how = f"{board.transport} to {board.address or 'the only device'}, in {time.monotonic() - begun:.2g} s"
            reason = "this machine" if board.transport == "local" else how
            found["reachable"] = Check("reachable", "ok", reason, needed=True)
            why = _look(_Visit(board, transport, on_check or _ignore), found, wait_s, on_wait)
    except EdgewrightError as error:
        gone = "reachable" in found
        reason = f"the board went away: {error.message}" if gone else error.message
        todo = error.hint or _by_hand(board)
        found["reachable"] = Check("reachable", "missing", reason, todo, needed=True)
        why = "the board went away" if gone else "the board was not reached"
    return tuple(found.get(name, Check(name, "not checked", why, needed=name in NEEDED)) for name in CHECKS)


def is_ready(found: tuple[Check, ...]) -> bool:
    """Whether everything is there without which nothing runs."""
    return all(check.state in ("ok", "warning") for check in found if check.needed)


def take_vitals(board: Board, transport: Transport) -> Vitals:
    """Ask a board's own Python how the board is doing; it needs nothing of ours there.

    Raises:
        DeviceError: there is no Python, it is older than 3.6, or the connection broke.
    """
    interpreter = _interpreter(board, transport)
    request = json.dumps({"folder": transport.expand(board.folder)})
    before, begun = time.time(), time.monotonic()
    done = transport.run([*interpreter, "-c", packed("vitals"), request], timeout_s=IMPORT_S)
    took = time.monotonic() - begun
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.code or not lines:
        raise board_failure(board, done, "run Python")
    facts = json.loads(lines[-1])
    # The clock was read somewhere between question and answer, and nothing tells where.
    return Vitals(facts, facts["time_s"] - (before + took / 2), took / 2)


def list_meters(device: Device) -> list[dict[str, Any]]:
    """The power meters of a board that has our runtime: `name`, `available`, `why` and `external` of each.

    Raises:
        DeviceError: our runtime is not there, or the connection broke.
    """
    return list(device.json(["-m", "edgewright.benchmarks", "meters", "--json"], timeout_s=IMPORT_S)["meters"])


def probe(device: Device, wheels: Path | None, progress: Progress) -> dict[str, Any]:
    """Bring our runtime onto a board and ask what it has.

    Args:
        device: the board, held.
        wheels: folder of wheels to bring there first, None for none.
        progress: called with shares and texts.

    Returns:
        Plain values: `board`, `machine`, `python`, `numpy`, `engines` (release by name, None if not installed), `meters`,
        `cpufreq`, `temperature_c`, `throttling`, `clock` and `runtime` (where our code is there).

    Raises:
        DeviceError: something that is needed is not there, or the connection broke.
    """
    site = device.ensure_runtime(wheels, progress)
    progress(1.0, f"asking {device.board.name}")
    vitals = take_vitals(device.board, device.transport)
    found = device.json(["-m", "edgewright.runtime", "probe", "--json"], timeout_s=IMPORT_S)
    facts = dict(vitals.facts)
    return {
        "schema": 1,
        "board": device.board.to_json(),
        "machine": {key: facts[key] for key in _MACHINE},
        "python": found["python"],
        "numpy": found["numpy"],
        "engines": found["engines"],
        "meters": list_meters(device),
        **{key: facts[key] for key in ("cpufreq", "temperature_c", "throttling")},
        "clock": {"ahead_s": vitals.ahead_s, "unsure_s": vitals.unsure_s},
        "folder": facts["folder"],
        "runtime": {"folder": site, **device.runtime},
    }


_MACHINE = (
    *("system", "release", "architecture", "bits", "hostname", "model", "cores", "executable", "memory_bytes"),
    "available_bytes",
)


class _Visit:
    """One look at a board: its profile, the open connection, and what has been learned."""

    def __init__(self, board: Board, transport: Transport, told: Callable[[str], None]) -> None:
        self.board = board
        self.transport = transport
        self.told = told
        self.device = Device(board, transport)

    def ask(self, question: Callable[[], T]) -> T | DeviceError:
        """An answer, or the error if the board still answers something else.

        Raises:
            _GoneError: it does not.
        """
        try:
            return question()
        except DeviceError as error:
            try:
                self.transport.run(["true"], timeout_s=10)
            except DeviceError:
                raise _GoneError(error.message, error.hint) from error
            return error

    def imported(self, module: str) -> tuple[str, str]:
        """A module's release, and why it cannot be imported; both empty if it is not installed."""
        done = self.ask(lambda: self.device.python(["-c", _IMPORT, module], timeout_s=IMPORT_S, env=_QUIET))
        if isinstance(done, DeviceError):
            return "", done.message
        if done.code == 0 and done.stdout.split():
            return done.stdout.split()[-1], ""
        if f"No module named '{module}'" in done.stderr:
            return "", ""
        return "", _last_words(done)


def _look(visit: _Visit, found: dict[str, Check], wait_s: float, on_wait: Callable[[str], None] | None) -> str:
    """Make the checks of a board that was reached; returns why those that were not made were not."""
    board = visit.board
    visit.told("python")
    vitals = visit.ask(lambda: take_vitals(board, visit.transport))
    if isinstance(vitals, DeviceError):
        _without_python(visit, vitals, found)
        return "the board has no Python that could tell"
    facts = vitals.facts
    found["python"] = checks.python(board, facts)
    found["architecture"] = checks.architecture(board, facts["architecture"], facts["bits"])
    found["memory"] = checks.memory(board, facts)
    found["temperature"] = checks.temperature(facts)
    found["governor"] = checks.governor(board, facts)
    found["clock"] = checks.clock(board, vitals.ahead_s, vitals.unsure_s)
    found["space"] = checks.space(board, facts, None, None)
    if found["python"].state != "ok":
        return "its Python is too old"
    if found["space"].state == "missing":
        return "our folder cannot be used there"
    visit.told("lock")
    with ExitStack() as stack:
        held = visit.ask(lambda: stack.enter_context(visit.device.held("doctor", wait_s, on_wait)))
        if isinstance(held, DeviceError):
            found["lock"] = Check("lock", "missing", held.message, held.hint, needed=True)
            busy = isinstance(held, DeviceBusyError)
            return "the board is in use, and what runs there must not be disturbed" if busy else "the board could not be locked"
        if "stdin" in visit.transport.caps:
            found["lock"] = Check("lock", "ok", "no other run holds it", needed=True)
        else:
            reason = f"the transport '{board.transport}' cannot hold a lock: another run may disturb this one"
            found["lock"] = Check("lock", "warning", reason, "see to it that nobody else uses the board", needed=True)
        _look_for_libraries(visit, facts, found)
    return ""


def _without_python(visit: _Visit, error: DeviceError, found: dict[str, Check]) -> None:
    """What can be told of a board whose Python is not there, or ancient."""
    board = visit.board
    words = _interpreter(board, visit.transport)
    version = visit.ask(lambda: visit.transport.run([*words, "-c", _VERSION], timeout_s=SHORT_S))
    reason = error.message
    if not isinstance(version, DeviceError) and version.code == 0 and version.stdout.strip():
        reason = f"{board.python} is Python {version.stdout.strip()}, 3.10 is the oldest that runs Edgewright"
    found["python"] = checks.no_python(board, reason)
    machine = visit.ask(lambda: visit.transport.run(["uname", "-m"], timeout_s=SHORT_S))
    if not isinstance(machine, DeviceError) and machine.code == 0 and machine.stdout.strip():
        found["architecture"] = checks.architecture(board, machine.stdout.strip(), None)
    space = visit.ask(lambda: visit.transport.run(["df", "-Pk", visit.transport.home()], timeout_s=SHORT_S))
    if not isinstance(space, DeviceError) and (free := _FREE.search(space.stdout)):
        room = (
            f"{checks.size_text(int(free[1]) * 1024)} free in {visit.transport.home()}; whether our folder can be written, only "
        )
        found["space"] = Check("space", "not checked", f"{room}Python would tell", needed=True)


def _look_for_libraries(visit: _Visit, facts: Mapping[str, Any], found: dict[str, Check]) -> None:
    """Space, NumPy, engines and meters: with our runtime if it is there, else by plain imports."""
    board, device = visit.board, visit.device
    visit.told("space")
    survey = visit.ask(lambda: device.survey(anew=True))
    get, used = "", None
    if not isinstance(survey, DeviceError):
        get, used = how_to_get(survey), int(survey["used_bytes"])
        device.use_runtime(survey["runtime"]["current"], survey["packages"]["current"])
    visit.told("numpy")
    version, why = visit.imported("numpy")
    found["numpy"] = checks.numpy(board, version, why or "NumPy is not installed there", get)
    visit.told("engines")
    told = visit.ask(lambda: device.json(["-m", "edgewright.runtime", "probe", "--json"], timeout_s=IMPORT_S))
    there, broken = _import_engines(visit)
    if not isinstance(told, DeviceError):  # it reads releases without an import, and knows engines of third parties
        releases = told["engines"]
        there = {**releases, **{name: release and (releases.get(name) or release) for name, release in there.items()}}
    found["engines"] = checks.engines(board, there, broken, get)
    needs = None
    if not isinstance(survey, DeviceError):
        wheel = build_wheel()
        needs = 0 if wheel.digest in survey["runtime"]["there"] else len(wheel.data) + wheel.unpacked_bytes
        needs += checks.LIBRARIES_BYTES if "missing" in (found["numpy"].state, found["engines"].state) else 0
    found["space"] = checks.space(board, facts, used, needs)
    visit.told("meters")
    if isinstance(told, DeviceError):
        found["meters"] = checks.meters(board, None, "our runtime is not on the board yet")
        return
    listed = visit.ask(lambda: list_meters(device))
    if isinstance(listed, DeviceError):
        found["meters"] = checks.meters(board, None, listed.message)
    else:
        found["meters"] = checks.meters(board, listed, "")


def _import_engines(visit: _Visit) -> tuple[dict[str, str | None], dict[str, str]]:
    """Library and release by engine that the profile names, of all if it names none; and why one that is there does not work."""
    there: dict[str, str | None] = {}
    broken: dict[str, str] = {}
    for name in visit.board.engines or _MODULES:
        for module in _MODULES.get(name, ()):
            version, why = visit.imported(module)
            there[name] = f"{module} {version}" if version else None
            if version:
                broken.pop(name, None)
                break
            if why:
                broken[name] = why
    return there, broken


def _interpreter(board: Board, transport: Transport) -> list[str]:
    """The words that start the board's Python; "~" is the board's home, and a bare name is looked for in its path."""
    return [transport.expand(word) if word.startswith("~") else word for word in shlex.split(board.python)]


def _last_words(done: Completed) -> str:
    """Why a command failed: the signal that ended it, else its last line."""
    if done.code > 128:
        names = {
            4: "an illegal instruction: its processor is older than the wheel was made for",
            9: "SIGKILL, perhaps for memory",
        }
        return f"it was ended by {names.get(done.code - 128, f'signal {done.code - 128}')}"
    lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.code}"]
    return lines[-1].strip()[:300]


def _by_hand(board: Board) -> str:
    """How to see by oneself why a board is not reached."""
    ways = {"ssh": "see whether ssh gets there by hand", "adb": "see what 'adb devices' lists"}
    return ways.get(board.transport, "check its profile")


def _ignore(name: str) -> None:
    """Nobody listens."""
