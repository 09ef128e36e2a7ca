"""How a board is doing: clock, memory, heat, governors, our folder. Runs there, with the board's Python alone, an old one too.

    python -c SOURCE REQUEST

REQUEST is JSON with the `folder` that is ours and the `root` below which `sys` and `proc` lie ("/" on a board).
"""

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PI_NOW = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "at the soft temperature limit"}
"""Bits of the Raspberry Pi's firmware (documentation of vcgencmd get_throttled); 16 bits higher: since it was started."""

SLOWING = ("cpufreq", "processor", "powerclamp", "devfreq")
"""In the types of cooling devices that cool by computing less; fans are cooling devices too."""


def read(path: Path) -> str:
    """A file's text without spaces around it; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""


def number(path: Path) -> "int | None":
    """A file's only number; None if it has none."""
    try:
        return int(read(path))
    except ValueError:
        return None


def found_in(folder: Path, pattern: str) -> "list[Path]":
    """What a folder has of a pattern, `x10` behind `x9`."""
    try:
        return sorted(folder.glob(pattern), key=lambda path: (len(path.name), path.name))
    except OSError:
        return []


def printed(*argv: str) -> str:
    """What a program prints; empty if it is not there or fails."""
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else ""


def temperatures(root: Path) -> "dict[str, float]":
    """Degrees Celsius by thermal zone; a zone that is switched off is left out."""
    found = {}
    for zone in found_in(root / "sys/class/thermal", "thermal_zone*"):
        value = number(zone / "temp")
        if value is not None:  # some old kernels give whole degrees
            found[(zone.name + " " + read(zone / "type")).strip()] = value / 1000 if abs(value) >= 1000 else float(value)
    return found


def governors(root: Path) -> "dict[str, Any]":
    """By cpufreq policy: the governor, those that there are, and frequencies in hertz."""
    found = {}
    for policy in found_in(root / "sys/devices/system/cpu/cpufreq", "policy*"):
        khz = {name: number(policy / f"scaling_{name}_freq") for name in ("min", "cur", "max")}
        found[policy.name] = {
            "governor": read(policy / "scaling_governor"),
            "available": read(policy / "scaling_available_governors").split(),
            "frequency_hz": {name: value * 1000 for name, value in khz.items() if value is not None},
        }
    return found


def throttling(root: Path) -> "dict[str, Any]":
    """What slows the processor down now, and what did since the start; `asked` names who told, empty if nobody can."""
    now, since, asked = [], [], []
    said = printed("vcgencmd", "get_throttled") if root == Path("/") else ""
    if said.startswith("throttled=0x"):
        bits = int(said.split("=")[1], 16)
        asked.append("Raspberry Pi firmware")
        now += [word for bit, word in PI_NOW.items() if bits >> bit & 1]
        since += [word for bit, word in PI_NOW.items() if bits >> (bit + 16) & 1]
    for device in found_in(root / "sys/class/thermal", "cooling_device*"):
        kind, state = read(device / "type"), number(device / "cur_state")
        if state is not None and any(word in kind.lower() for word in SLOWING):
            asked.append(kind)
            now += [f"{kind} in state {state}"] if state > 0 else []
    counts = [number(path) for path in found_in(root / "sys/devices/system/cpu", "cpu*/thermal_throttle/*_throttle_count")]
    known = [count for count in counts if count is not None]
    if known:
        asked.append("throttle counters")
        since += [f"up to {max(known)} throttle events of one processor"] if max(known) else []
    return {"now": now, "since_start": since, "asked": sorted(set(asked))}


def memory(root: Path) -> "dict[str, int]":
    """Bytes of memory, all and available, as far as the system tells."""
    found = {}
    for line in read(root / "proc/meminfo").splitlines():
        key, _, rest = line.partition(":")
        name = {"MemTotal": "memory_bytes", "MemAvailable": "available_bytes"}.get(key)
        if name and rest.split():
            found[name] = int(rest.split()[0]) * 1024
    return found


def space(folder: Path) -> "dict[str, Any]":
    """Whether our folder can be written to, or made, and the bytes that are free where it lies."""
    there = folder
    while not os.path.lexists(str(there)) and there != there.parent:
        there = there.parent
    found: "dict[str, Any]" = {"folder": str(folder), "looked_at": str(there), "is_folder": there.is_dir()}  # noqa: UP037
    found["writable"] = found["is_folder"] and os.access(str(there), os.W_OK | os.X_OK)
    try:
        room = os.statvfs(str(there))
        found["free_bytes"], found["read_only"] = room.f_bavail * room.f_frsize, bool(room.f_flag & os.ST_RDONLY)
    except OSError:
        found["free_bytes"], found["read_only"] = None, False
    return found


def model(root: Path) -> str:
    """What the board is called: by its device tree, by Android, by its processor; empty if nothing tells."""
    name = read(root / "proc/device-tree/model") or (printed("getprop", "ro.product.model") if root == Path("/") else "")
    for line in [] if name else read(root / "proc/cpuinfo").splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return name


def main(folder: str, root: str = "/") -> "dict[str, Any]":
    """All of it; the clock is read last, shortly before the answer goes."""
    found: "dict[str, Any]" = {  # noqa: UP037
        "system": platform.system(),
        "release": platform.release(),
        "architecture": platform.machine(),
        "bits": 64 if sys.maxsize > 2**32 else 32,
        "hostname": platform.node(),
        "model": model(Path(root)),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "folder": space(Path(folder)),
        "temperature_c": temperatures(Path(root)),
        "cpufreq": governors(Path(root)),
        "throttling": throttling(Path(root)),
        "memory_bytes": None,
        "available_bytes": None,
    }
    found.update(memory(Path(root)))
    found["time_s"] = time.time()
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(**json.loads(sys.argv[1]))) + "\n")
