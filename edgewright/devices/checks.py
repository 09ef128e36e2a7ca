"""What the facts that a board gives mean for running and measuring models there: one check each, with what to do."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgewright.devices.boards import LOCAL, Board, board_files, shipped_names

__all__ = [
    "OLDEST_PYTHON",
    "Check",
    "architecture",
    "clock",
    "engines",
    "governor",
    "memory",
    "meters",
    "no_python",
    "numpy",
    "python",
    "size_text",
    "space",
    "temperature",
]

OLDEST_PYTHON = (3, 10)

WARM_C = 75.0
"""From here on most boards slow down soon: the Raspberry Pi's soft limit is 80 degrees, i.MX 8M's passive trip point 85."""

CLOCK_S = 2.0
"""A difference of clocks above which logs of both sides cannot be laid beside each other."""

ROOM_BYTES = 16 << 20
LIBRARIES_BYTES = 200 << 20
"""NumPy and LiteRT: 132 MiB unpacked (NumPy 2.4, LiteRT 2.3), and their wheels beside them while they are unpacked."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at on a board.

    Args:
        name: of the thing: "python", "engines".
        state: "ok"; "warning": it runs, but not as it should; "missing"; "not checked", and the reason says why not.
        reason: what was found.
        todo: what to do about it; empty if there is nothing to do.
        needed: nothing runs there without it.
    """

    name: str
    state: Literal["ok", "warning", "missing", "not checked"]
    reason: str
    todo: str = ""
    needed: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain form for JSON."""
        return {name: getattr(self, name) for name in ("name", "state", "reason", "todo", "needed")}


def size_text(size: float) -> str:
    """Bytes in words: "3.8 GiB", "512 MiB"."""
    for unit, step in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= step:
            return f"{size / step:.3g} {unit}" if size < 100 * step else f"{size / step:.0f} {unit}"
    return f"{size:.0f} bytes"


def python(board: Board, vitals: Mapping[str, Any]) -> Check:
    """The version of the board's Python."""
    version, path = vitals["python"], vitals["executable"]
    if _numbers(version) < OLDEST_PYTHON:
        return no_python(board, f"{path} is Python {version}, 3.10 is the oldest that runs Edgewright")
    return Check("python", "ok", f"{version}, {path}", needed=True)


def no_python(board: Board, reason: str) -> Check:
    """There is no Python, or none that will do."""
    if board.transport == "adb":
        how = "put a Python for Android into /data/local/tmp there and name it"
    else:
        how = "install Python 3.10 or newer there (Debian, Ubuntu: sudo apt install python3), or name another one"
    return Check("python", "missing", reason, f"{how}: {_edit(board, 'python=/PATH/TO/python3')}", needed=True)


def architecture(board: Board, machine: str, bits: int | None) -> Check:
    """Whether the board is what its profile says, and its Python as wide as its processor."""
    name = {"arm64": "aarch64", "armv8l": "armv7l", "AMD64": "x86_64", "amd64": "x86_64"}.get(machine, machine)
    narrow = {"aarch64": "armv7l", "x86_64": "i686"}
    if bits == 32 and name in narrow and board.architecture != narrow[name]:
        return Check(
            "architecture",
            "warning",
            f"a 32-bit system on a 64-bit processor ({name}): wheels of LiteRT and OpenVINO are for 64 bits",
            "install a 64-bit system there, or a 64-bit Python",
        )
    found = narrow.get(name, name) if bits == 32 else name
    if board.architecture and board.architecture != found:
        return Check(
            "architecture",
            "warning",
            f"the board is {found}, its profile says {board.architecture}",
            f"see that this is the board that you mean; if it is: {_edit(board, f'architecture={found}')}",
        )
    return Check("architecture", "ok", found)


def memory(board: Board, vitals: Mapping[str, Any]) -> Check:
    """Memory against the profile's; the system keeps a part for itself, and so may the graphics."""
    total, free = vitals["memory_bytes"], vitals["available_bytes"]
    if total is None:
        return Check("memory", "not checked", "the system does not tell how much memory it has")
    found = size_text(total) + (f", {size_text(free)} of it available" if free is not None else "")
    if board.ram_bytes is not None and total < 0.8 * board.ram_bytes:
        return Check(
            "memory",
            "warning",
            f"{found}; its profile says {size_text(board.ram_bytes)}",
            f"say what it has: {_edit(board, f'limits.ram={size_text(total)}')}",
        )
    return Check("memory", "ok", found)


def space(board: Board, vitals: Mapping[str, Any], used: int | None, needs: int | None) -> Check:
    """Whether our folder can be written, and has the space that it may take and that a deploy needs.

    Args:
        board: whose `flash_bytes` limit the folder.
        vitals: what the board told.
        used: bytes that the folder takes already, None if unknown.
        needs: bytes that the runtime and the libraries still need there, None if unknown.
    """
    found = vitals["folder"]
    path, there, free = found["folder"], found["looked_at"], found["free_bytes"]
    rename = _edit(board, "folder=/PATH")
    if not found["writable"] or found["read_only"]:
        why = "is no folder" if not found["is_folder"] else "is read-only" if found["read_only"] else "may not be written to"
        return Check("space", "missing", f"{path} cannot be used: {there} {why}", f"name another one: {rename}", needed=True)
    if free is None:
        return Check("space", "ok", f"{path} can be written; how much is free the system does not tell", needed=True)
    told = f"{size_text(free)} free for {path}" + (f", which takes {size_text(used)}" if used else "")
    if needs is not None and needs + ROOM_BYTES > free:
        reason = f"{told}; a deploy needs {size_text(needs)} besides the model, and {size_text(ROOM_BYTES)} are to stay free"
        return Check("space", "missing", reason, f"free space there, or name another folder: {rename}", needed=True)
    if board.flash_bytes is not None:
        left = board.flash_bytes - (used or 0)
        told += f", may take {size_text(board.flash_bytes)}"
        if needs is not None and needs > left:
            reason = f"{told}; a deploy needs {size_text(needs)} more besides the model"
            todo = f"raise the limit: {_edit(board, 'limits.flash=8 GiB')}, or deploy with a smaller --keep"
            return Check("space", "missing", reason, todo, needed=True)
        if left > free:
            todo = f"free space there, or lower the limit: {_edit(board, f'limits.flash={size_text(free)}')}"
            return Check("space", "warning", f"{told}: more than there is", todo, needed=True)
    return Check("space", "ok", told, needed=True)


def numpy(board: Board, version: str, why: str, get: str) -> Check:
    """NumPy's release, or why it cannot be imported; `get` is the command that fetches wheels for this board."""
    if version and _numbers(version) < (1, 24):
        return Check("numpy", "missing", f"NumPy {version}, 1.24 is the oldest that will do", _bring(board, get), needed=True)
    if version:
        return Check("numpy", "ok", f"NumPy {version}", needed=True)
    return Check("numpy", "missing", why, _bring(board, get), needed=True)


def engines(board: Board, found: Mapping[str, str | None], broken: Mapping[str, str], get: str) -> Check:
    """The engines that a board has, in the order of its profile.

    Args:
        board: whose `engines` are looked for; none asks for any.
        found: library and release by engine, None if it is not there.
        broken: why an engine that is there cannot be imported.
        get: the command that fetches wheels for this board.
    """
    wanted = board.engines or tuple(found)
    there = [f"{name} ({found[name]})" for name in wanted if found.get(name)]
    absent = [name for name in wanted if not found.get(name) and name not in broken]
    bad = [f"{name} is there but cannot be imported: {broken[name]}" for name in wanted if name in broken]
    told = "; ".join([*([", ".join(there)] if there else []), *bad, *([f"not there: {', '.join(absent)}"] if absent else [])])
    if not there:
        return Check("engines", "missing", told or "none", _bring(board, get), needed=True)
    return Check("engines", "warning" if bad else "ok", told, "install what is broken there anew" if bad else "", needed=True)


def meters(board: Board, listed: Sequence[Mapping[str, Any]] | None, why: str) -> Check:
    """The power meters that can be read there.

    Args:
        board: whose `meters` are preferred.
        listed: `name`, `available`, `why`, `external` of each, as `python -m edgewright.benchmarks meters` gives them there.
        why: why there is no such list.
    """
    if listed is None:
        named = f"its profile names {', '.join(board.meters)}; whether they can be read was not verified" if board.meters else ""
        reason = "; ".join(filter(None, [named, why]))
        return Check("meters", "not checked", reason, f"edgewright devices probe {board.name} brings our runtime there and asks")
    known = {meter["name"]: meter for meter in listed if not meter.get("external")}
    order = dict.fromkeys([*(name.partition(":")[0] for name in board.meters), *known])
    good = [name for name in order if known.get(name, {}).get("available")]
    if good:
        return Check("meters", "ok", f"{', '.join(good)} can be read" if board.meters or len(good) == 1 else ", ".join(good))
    looked = [name for name in order if name in known and (name in board.meters or not board.meters)]
    reason = "no power meter: " + "; ".join(f"{name}: {known[name]['why']}" for name in looked)
    todo = "reports will say 'not measured'; wire a sensor (INA219, INA226) to it, or record a trace with a meter outside"
    return Check("meters", "warning", reason, todo)


def temperature(vitals: Mapping[str, Any]) -> Check:
    """How hot the board is, and whether anything slows it down."""
    zones, slow = vitals["temperature_c"], vitals["throttling"]
    hottest = max(zones, key=zones.__getitem__) if zones else ""
    told = [f"{zones[hottest]:.0f} degrees Celsius ({hottest})"] if zones else []
    if slow["now"]:
        todo = "use its own power supply" if "under-voltage" in slow["now"] else "cool it, or wait, before anything is measured"
        return Check("temperature", "warning", "; ".join([*told, f"slowed down now: {', '.join(slow['now'])}"]), todo)
    if zones and zones[hottest] >= WARM_C:
        return Check(
            "temperature", "warning", f"{told[0]}, it will slow down soon", "cool it, or wait, before anything is measured"
        )
    if slow["since_start"]:
        past = f"slowed down at some time since its start: {', '.join(slow['since_start'])}"
        todo = "look at its power supply and its cooling; a restart clears this"
        return Check("temperature", "warning", "; ".join([*told, past]), todo)
    if slow["asked"]:
        told.append(f"nothing slows it down (asked: {', '.join(slow['asked'])})")
    if not told:
        return Check("temperature", "not checked", "it has no thermal zones, and nothing tells of throttling")
    return Check("temperature", "ok", "; ".join(told))


def governor(board: Board, vitals: Mapping[str, Any]) -> Check:
    """The cpufreq governor against the one that a benchmark wants."""
    policies = vitals["cpufreq"]
    names = {policy["governor"] for policy in policies.values()} - {""}
    if not names:
        return Check("governor", "not checked", "it has no cpufreq governor, as most virtual machines and containers")
    told = ", ".join(sorted(names))
    if not board.governor or names == {board.governor}:
        return Check("governor", "ok", told)
    choices = sorted({name for policy in policies.values() for name in policy["available"]})
    if choices and board.governor not in choices:
        todo = f"choose one of {', '.join(choices)}: {_edit(board, 'governor=NAME')}"
        return Check("governor", "warning", f"{told}; its profile wants {board.governor}, which its kernel does not have", todo)
    return Check(
        "governor",
        "warning",
        f"{told}; its profile wants {board.governor}: latencies will vary",
        f"there: echo {board.governor} | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
    )


def clock(board: Board, ahead_s: float, unsure_s: float) -> Check:
    """The board's clock against ours.

    Args:
        board: the profile.
        ahead_s: how much later the board's clock is.
        unsure_s: by how much that can be wrong, for the answer took time.
    """
    size = abs(ahead_s)
    found = f"{size:.3g} s {'ahead' if ahead_s > 0 else 'behind'} (+- {unsure_s:.2g} s)"
    if size - unsure_s <= CLOCK_S:
        return Check("clock", "ok", "no difference that can be seen" if size <= unsure_s else found)
    how = "set date and time in its settings" if board.transport == "adb" else "there: sudo timedatectl set-ntp true"
    return Check("clock", "warning", f"{found}; times in its logs and history will be wrong", how)


def _edit(board: Board, assignment: str) -> str:
    """The command that changes a profile: one that is not the user's own needs a copy."""
    change = f"--set {shlex.quote(assignment)}"
    if board.name in (LOCAL, *shipped_names()) and board.name not in board_files():
        return f"edgewright devices add MY_BOARD --profile {board.name} {change}"
    return f"edgewright devices edit {shlex.quote(board.name)} {change}"


def _bring(board: Board, get: str) -> str:
    """How libraries come onto a board without internet, or with it."""
    if board.name == LOCAL:
        return "pip install 'edgewright[litert]'"
    brought = f"bring wheels, '{get}', then 'edgewright devices probe {board.name} --wheels DIR'; or " if get else ""
    return f"{brought}install NumPy and an engine there: pip install numpy ai-edge-litert"


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers that a release begins with."""
    found = []
    for part in version.split(".")[:2]:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        found.append(int(digits) if digits else 0)
    return tuple(found)
