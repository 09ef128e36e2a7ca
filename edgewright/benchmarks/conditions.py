"""What a machine's clocks and heat were like around a measurement: governors, frequencies, temperatures, throttling."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["conditions", "throttled"]

_PI_NOW = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
"""Bits of the Raspberry Pi's firmware (documentation of `vcgencmd get_throttled`); 16 bits higher: since the last boot."""

_SLOWING = ("cpufreq", "processor", "devfreq", "powerclamp", "gpu")
"""In the types of cooling devices that cool by computing less; fans are cooling devices too."""

_FREQUENCIES = {
    "min": "scaling_min_freq",
    "cur": "scaling_cur_freq",
    "max": "scaling_max_freq",
    "hardware_max": "cpuinfo_max_freq",
}
"""Files of a cpufreq policy, in kHz (Linux, Documentation/admin-guide/pm/cpufreq.rst)."""

_COUNTERS = ("core_throttle_count", "package_throttle_count")
_CHIPS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "nct", "scpi_sensors")
"""hwmon chips whose temperatures stand for the processor's where there are no thermal zones."""


def conditions(root: Path = Path("/")) -> dict[str, Any]:
    """Read the state of clocks and heat, from files of Linux below a root.

    Args:
        root: where `sys` lies; a folder with recorded files works as well as a machine. `vcgencmd` is asked for the
            machine's own root only.

    Returns:
        `governor` by cpufreq policy. `frequency_hz` by policy: `min`, `cur`, `max` as they are set now, `hardware_max`,
        whichever can be read. `temperature_c` by zone ("thermal_zone0 x86_pkg_temp"). `throttle`: `raspberry_pi` (the
        firmware's bits as a number), `counts` (throttle events by processor and kind since boot, those above 0),
        `cooling` (states of cooling devices that slow a processor down; 0 is none), whichever there are. `absent`: the
        reason for each of these four that is empty.
    """
    absent: dict[str, str] = {}
    governor, frequency = _clocks(root, absent)
    return {
        "governor": governor,
        "frequency_hz": frequency,
        "temperature_c": _temperatures(root, absent),
        "throttle": _throttle(root, absent),
        "absent": absent,
    }


def throttled(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[bool | None, str]:
    """Whether the machine was slowed down between two readings of `conditions`.

    Returns:
        True and by what; False and what was asked; None and why nobody can tell.
    """
    first, last = before["throttle"], after["throttle"]
    if not last:
        return None, after["absent"].get("throttle", "nothing tells")
    found, unsure = [], ""
    if "raspberry_pi" in last:
        old, new = first.get("raspberry_pi", 0), last["raspberry_pi"]
        now = (old | new) & 0xF
        since = (new & ~old) >> 16 & 0xF
        found += [f"{word} (Raspberry Pi firmware, {new:#x})" for bit, word in _PI_NOW.items() if (now | since) >> bit & 1]
        if earlier := [word for bit, word in _PI_NOW.items() if (old & new) >> 16 >> bit & 1]:
            unsure = f"{', '.join(earlier)} since boot, before this measurement; whether again the firmware does not tell"
    more = {name: count - first.get("counts", {}).get(name, 0) for name, count in last.get("counts", {}).items()}
    for kind in ("core", "package"):
        if (most := max((count for name, count in more.items() if name.endswith(kind)), default=0)) > 0:
            found.append(f"{most} throttle event{'s' if most > 1 else ''} of a {kind}")
    for name, state in last.get("cooling", {}).items():
        if (most := max(state, first.get("cooling", {}).get(name, 0))) > 0:
            found.append(f"{name} in state {most}")
    if found:
        return True, ", ".join(found)
    return (None, unsure) if unsure else (False, f"asked: {', '.join(last)}")


def _text(path: Path) -> str | None:
    """A file's only line; None if it cannot be read, as that of a sensor which is switched off."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return None


def _number(path: Path) -> int | None:
    """A file's only number; None if it has none."""
    try:
        return int(_text(path) or "")
    except ValueError:
        return None


def _sorted(root: Path, pattern: str) -> list[Path]:
    """Paths of a pattern below the root, `x10` behind `x9`."""
    try:
        return sorted(root.glob(pattern), key=lambda path: (len(str(path)), str(path)))
    except OSError:
        return []


def _clocks(root: Path, absent: dict[str, str]) -> tuple[dict[str, str], dict[str, dict[str, int]]]:
    """Governor and frequencies of each cpufreq policy."""
    governor: dict[str, str] = {}
    frequency: dict[str, dict[str, int]] = {}
    policies = _sorted(root, "sys/devices/system/cpu/cpufreq/policy*")
    for policy in policies:
        if name := _text(policy / "scaling_governor"):
            governor[policy.name] = name
        files = {
            "min": "scaling_min_freq",
            "cur": "scaling_cur_freq",
            "max": "scaling_max_freq",
            "hardware_max": "cpuinfo_max_freq",
        }
        read = {key: _number(policy / file) for key, file in files.items()}
        if known := {key: khz * 1000 for key, khz in read.items() if khz is not None}:
            frequency[policy.name] = known
    why = "cannot be read" if policies else "no cpufreq policy, as in most virtual machines"
    for key, found in (("governor", governor), ("frequency_hz", frequency)):
        if not found:
            absent[key] = f"{why} (looked for {root / 'sys/devices/system/cpu/cpufreq/policy*'})"
    return governor, frequency


def _temperatures(root: Path, absent: dict[str, str]) -> dict[str, float]:
    """Degrees Celsius by thermal zone; of hwmon's chips if there are no zones."""
    found: dict[str, float] = {}
    zones = _sorted(root, "sys/class/thermal/thermal_zone*")
    for zone in zones:
        if (value := _number(zone / "temp")) is not None:
            found[f"{zone.name} {_text(zone / 'type') or 'of unknown type'}"] = value / 1000
    for chip in [] if found else _sorted(root, "sys/class/hwmon/hwmon*"):
        name = _text(chip / "name") or ""
        for file in _sorted(chip, "temp*_input") if name.startswith(_CHIPS) else []:
            if (value := _number(file)) is not None:
                label = _text(file.with_name(file.name.replace("_input", "_label"))) or file.name.removesuffix("_input")
                found[f"{name} {label}"] = value / 1000
    if not found:
        why = f"none of {len(zones)} thermal zones can be read" if zones else "no thermal zone"
        absent["temperature_c"] = f"{why} (looked for {root / 'sys/class/thermal/thermal_zone*'})"
    return found


def _throttle(root: Path, absent: dict[str, str]) -> dict[str, Any]:
    """What tells of throttling: firmware bits, event counters, cooling devices."""
    found: dict[str, Any] = {}
    if (bits := _raspberry_pi(root)) is not None:
        found["raspberry_pi"] = bits
    counts = {
        f"{file.parents[1].name} {file.name.partition('_')[0]}": count
        for kind in _COUNTERS
        for file in _sorted(root, f"sys/devices/system/cpu/cpu*/thermal_throttle/{kind}")
        if (count := _number(file)) is not None
    }
    if counts:
        found["counts"] = {name: count for name, count in counts.items() if count}
    cooling = {}
    for device in _sorted(root, "sys/class/thermal/cooling_device*"):
        kind, state = _text(device / "type") or "", _number(device / "cur_state")
        if state is not None and any(word in kind.lower() for word in _SLOWING):
            cooling[f"{device.name} {kind}"] = state
    if cooling:
        found["cooling"] = cooling
    if not found:
        absent["throttle"] = (
            "no Raspberry Pi firmware, no thermal_throttle counter, no cooling device that slows a processor down "
            f"(looked below {root / 'sys'})"
        )
    return found


def _raspberry_pi(root: Path) -> int | None:
    """The firmware's throttle bits: from sysfs, else from `vcgencmd`; None where there is neither."""
    places = ("sys/devices/platform/soc*/*:firmware/get_throttled", "sys/devices/platform/*:firmware/get_throttled")
    text = next((text for place in places for file in _sorted(root, place) if (text := _text(file))), "")
    if not text and root == Path("/") and (program := shutil.which("vcgencmd")):
        try:
            done = subprocess.run([program, "get_throttled"], capture_output=True, text=True, timeout=5, check=False)
            text = done.stdout.strip().partition("=")[2] if done.returncode == 0 else ""
        except (OSError, subprocess.TimeoutExpired):
            return None
    try:
        return int(text, 16)
    except ValueError:
        return None
