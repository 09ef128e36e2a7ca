"""Clocks and heat: read from recorded files of several machines, and what two readings say of the time between."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from edgewright.benchmarks.conditions import conditions, throttled

CPU = "sys/devices/system/cpu"
THERMAL = "sys/class/thermal"

LAPTOP = {
    f"{CPU}/cpufreq/policy0/scaling_governor": "powersave\n",
    f"{CPU}/cpufreq/policy0/scaling_min_freq": "400000\n",
    f"{CPU}/cpufreq/policy0/scaling_cur_freq": "2100123\n",
    f"{CPU}/cpufreq/policy0/scaling_max_freq": "3900000\n",
    f"{CPU}/cpufreq/policy0/cpuinfo_max_freq": "3900000\n",
    f"{CPU}/cpufreq/policy10/scaling_governor": "performance\n",
    f"{CPU}/cpu0/thermal_throttle/core_throttle_count": "12\n",
    f"{CPU}/cpu0/thermal_throttle/package_throttle_count": "30\n",
    f"{CPU}/cpu1/thermal_throttle/core_throttle_count": "0\n",
    f"{CPU}/cpu1/thermal_throttle/package_throttle_count": "30\n",
    f"{THERMAL}/thermal_zone0/type": "x86_pkg_temp\n",
    f"{THERMAL}/thermal_zone0/temp": "47500\n",
    f"{THERMAL}/thermal_zone1/type": "iwlwifi_1\n",  # its temp cannot be read: the radio is off
    f"{THERMAL}/cooling_device0/type": "Processor\n",
    f"{THERMAL}/cooling_device0/cur_state": "0\n",
    f"{THERMAL}/cooling_device1/type": "Fan\n",
    f"{THERMAL}/cooling_device1/cur_state": "3\n",
    f"{THERMAL}/cooling_device2/type": "intel_powerclamp\n",
    f"{THERMAL}/cooling_device2/cur_state": "-1\n",
}

PI = {
    f"{CPU}/cpufreq/policy0/scaling_governor": "ondemand\n",
    f"{CPU}/cpufreq/policy0/scaling_cur_freq": "1800000\n",
    f"{THERMAL}/thermal_zone0/type": "cpu-thermal\n",
    f"{THERMAL}/thermal_zone0/temp": "61342\n",
    f"{THERMAL}/cooling_device0/type": "cpufreq-cpu0\n",
    f"{THERMAL}/cooling_device0/cur_state": "1\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
}

HWMON = {
    "sys/class/hwmon/hwmon0/name": "nvme\n",
    "sys/class/hwmon/hwmon0/temp1_input": "33000\n",
    "sys/class/hwmon/hwmon3/name": "k10temp\n",
    "sys/class/hwmon/hwmon3/temp1_input": "54125\n",
    "sys/class/hwmon/hwmon3/temp1_label": "Tctl\n",
    "sys/class/hwmon/hwmon3/temp2_input": "50000\n",
}


def tree(root: Path, files: Mapping[str, str]) -> Path:
    """A folder with these files."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def test_laptop(tmp_path: Path) -> None:
    root = tree(tmp_path, LAPTOP)
    (root / THERMAL / "thermal_zone1/temp").mkdir()  # reading it is an OSError, as of a sensor that is off
    found = conditions(root)
    assert json.loads(json.dumps(found)) == found
    assert found["governor"] == {"policy0": "powersave", "policy10": "performance"}
    assert found["frequency_hz"] == {
        "policy0": {"min": 400_000_000, "cur": 2_100_123_000, "max": 3_900_000_000, "hardware_max": 3_900_000_000}
    }
    assert found["temperature_c"] == {"thermal_zone0 x86_pkg_temp": 47.5}
    assert found["throttle"] == {
        "counts": {"cpu0 core": 12, "cpu0 package": 30, "cpu1 package": 30},
        "cooling": {"cooling_device0 Processor": 0, "cooling_device2 intel_powerclamp": -1},
    }
    assert found["absent"] == {}


def test_raspberry_pi(tmp_path: Path) -> None:
    found = conditions(tree(tmp_path, PI))
    assert found["throttle"] == {"raspberry_pi": 0x50005, "cooling": {"cooling_device0 cpufreq-cpu0": 1}}
    assert found["temperature_c"] == {"thermal_zone0 cpu-thermal": 61.342}


@pytest.mark.parametrize(
    "place", ["soc/soc:firmware", "soc@107c000000/soc@107c000000:firmware", "soc:firmware", "soc@0/firmware:firmware"]
)
def test_places_of_the_firmware(place: str, tmp_path: Path) -> None:
    assert conditions(tree(tmp_path, {f"sys/devices/platform/{place}/get_throttled": "0"}))["throttle"] == {"raspberry_pi": 0}


def test_chips_stand_in_for_zones(tmp_path: Path) -> None:
    found = conditions(tree(tmp_path, HWMON))
    assert found["temperature_c"] == {"k10temp Tctl": 54.125, "k10temp temp2": 50.0}


def test_what_is_not_there_has_a_reason(tmp_path: Path) -> None:
    found = conditions(tmp_path)
    assert [found[key] for key in ("governor", "frequency_hz", "temperature_c", "throttle")] == [{}] * 4
    assert set(found["absent"]) == {"governor", "frequency_hz", "temperature_c", "throttle"}
    assert found["absent"]["governor"].startswith("no cpufreq policy")
    assert all(str(tmp_path / "sys") in why for why in found["absent"].values())
    zone = tree(tmp_path, {f"{THERMAL}/thermal_zone0/type": "soc", f"{THERMAL}/thermal_zone0/temp": "broken"})
    assert conditions(zone)["absent"]["temperature_c"].startswith("none of 1 thermal zones can be read")
    policy = tree(tmp_path, {f"{CPU}/cpufreq/policy0/affected_cpus": "0"})
    assert conditions(policy)["absent"]["governor"].startswith("cannot be read")


def test_this_machine() -> None:
    """Whatever it tells: each of the four is there or has its reason."""
    found = conditions()
    assert json.loads(json.dumps(found)) == found
    for key in ("governor", "frequency_hz", "temperature_c", "throttle"):
        assert bool(found[key]) != bool(found["absent"].get(key))


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo throttled=0x50000", {"raspberry_pi": 0x50000}),
        ("echo VCHI initialization failed; exit 255", {}),
        ("echo throttled=", {}),
    ],
)
def test_firmware_is_asked_by_its_command(
    script: str, expected: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a Raspberry Pi whose kernel has no file for it; never for files that another machine recorded."""
    if conditions()["throttle"]:
        pytest.skip("this machine tells of throttling by itself")
    program = tmp_path / "vcgencmd"
    program.write_text(f'#!/bin/sh\n[ "$1" = get_throttled ] || exit 9\n{script}\n', encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert conditions()["throttle"] == expected
    assert conditions(tmp_path)["throttle"] == {}


def state(**throttle: Any) -> dict[str, Any]:
    """A reading that is about throttling only."""
    return {"throttle": throttle, "absent": {} if throttle else {"throttle": "nobody tells"}}


@pytest.mark.parametrize(
    ("before", "after", "expected", "why"),
    [
        (state(), state(), None, "nobody tells"),
        (state(raspberry_pi=0), state(raspberry_pi=0), False, "asked: raspberry_pi"),
        (state(raspberry_pi=0), state(raspberry_pi=0x4), True, "throttled (Raspberry Pi firmware, 0x4)"),
        (
            state(raspberry_pi=0x50005),
            state(raspberry_pi=0x50000),
            True,
            "under-voltage (Raspberry Pi firmware, 0x50000), throttled",
        ),
        (state(raspberry_pi=0), state(raspberry_pi=0x20000), True, "frequency capped"),
        (state(raspberry_pi=0x80000), state(raspberry_pi=0x80000), None, "soft temperature limit since boot, before this"),
        (state(raspberry_pi=0x80000), state(raspberry_pi=0xC0000), True, "throttled"),
        (state(counts={"cpu0 core": 12}), state(counts={"cpu0 core": 12}), False, "asked: counts"),
        (state(counts={"cpu0 core": 12}), state(counts={"cpu0 core": 13}), True, "1 throttle event of a core"),
        (
            state(counts={}),
            state(counts={"cpu0 core": 2, "cpu1 core": 5, "cpu0 package": 7, "cpu1 package": 7}),
            True,
            "5 throttle events of a core, 7 throttle events of a package",
        ),
        (state(cooling={"c0 cpufreq": 0}), state(cooling={"c0 cpufreq": 2}), True, "c0 cpufreq in state 2"),
        (state(cooling={"c0 cpufreq": 3}), state(cooling={"c0 cpufreq": 0}), True, "c0 cpufreq in state 3"),
        (state(cooling={"c2 intel_powerclamp": -1}), state(cooling={"c2 intel_powerclamp": -1}), False, "asked: cooling"),
    ],
)
def test_throttled(before: dict[str, Any], after: dict[str, Any], expected: bool | None, why: str) -> None:
    found, told = throttled(before, after)
    assert found is expected
    assert told.startswith(why)
