"""Power monitors of the INA2xx family, and their like, through the kernel's hwmon class."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgewright.benchmarks.meters._sysfs import Chip, Watt, channels, chips, device, number, shown, text, unreadable, way_out
from edgewright.benchmarks.power import METERS, Clock
from edgewright.benchmarks.sampling import Array, SampledMeter
from edgewright.errors import MeterError, UsageError

__all__ = ["HwmonMeter"]

FAMILY = re.compile(r"(ina2\d\d|ina7\d\d|sy24655|ltc294[57]|ltc2992|pac19\d\d|isl28022|max34407)[a-z]?")
"""Names of chips that do nothing but measure power; others (disks, graphics cards) are read when they are named."""
POWER_STEP_WATT_OHMS = {
    "ina219": 20 * 10e-6,
    "ina220": 20 * 10e-6,
    "ina226": 25 * 2.5e-6,
    "ina230": 25 * 2.5e-6,
    "ina231": 25 * 2.5e-6,
}
"""Step of the power register times the shunt: 20 (25) times the current's step, which is that of the shunt's voltage (10 or 2.5
microvolts) over the shunt as the kernel's driver calibrates them; data sheets SBOS448 (INA219) and SBOS547 (INA226)."""


@dataclass(frozen=True, slots=True)
class _Place:
    folder: Path
    name: str
    device: str

    @property
    def label(self) -> str:
        return f"{self.name}@{self.device}" if self.device else self.name


@METERS.register("hwmon")
class HwmonMeter(SampledMeter):
    """One channel of one chip, which is found by its name and its place on the bus, never by the number of its folder.

    Files: energy1_input (microjoules, a counter), power1_input (microwatts), or in1_input times curr1_input (millivolts,
    milliamperes). The kernel may number the folders anew while the meter runs: the chip is then looked for again.

    Args:
        option: `NAME`, `NAME@DEVICE`, `/CHANNEL` or both: "ina226@1-0041", "ina226/power1", "in1". A channel "in1" is
            multiplied with "curr1". Needed where several chips could be meant.
    """

    name = "hwmon"
    default_hz = 50.0

    def __init__(
        self, *, root: Path = Path("/"), option: str = "", rate_hz: float | None = None, clock: Clock | None = None
    ) -> None:
        super().__init__(root=root, option=option, rate_hz=rate_hz, clock=clock)
        name, at, channel = _parts(option)
        places = _places(root, name, at)
        if not places:
            raise MeterError(f"hwmon: {_nothing(root, name, at)}", hint="look at /sys/class/hwmon/hwmon*/name")
        if len(places) > 1:
            raise MeterError(f"hwmon: {_several(places)}", hint=f"name the one to read: --meter hwmon:{places[0].label}")
        place = places[0]
        self._watt = _channel(place, channel, root)
        for file in self._watt.files(place.folder):
            if reason := unreadable(file, root):
                raise MeterError(f"hwmon: {reason}", hint=way_out(file, root, reason))

        def find() -> Path | None:
            return next((p.folder for p in _places(root, place.name, place.device) if p.device == place.device), None)

        def same(folder: Path) -> bool:
            return text(folder / "name") == place.name and device(folder) == place.device

        self._chip = Chip(find, same)
        self.kind = "mean" if self._watt.by == "energy" else "sample"
        self.scope = f"{place.label} {self._watt.label or f'channel {self._watt.channel}'}"
        self._least_step_watts = _step_watts(place, self._watt)
        self._slow_down(place, rate_hz)

    @classmethod
    def available(cls, root: Path = Path("/")) -> str:
        """Empty if exactly one chip can be meant and be read, else the reason."""
        places = _places(root, "", "")
        if len(places) != 1:
            return _several(places) if places else _nothing(root, "", "")
        return next(
            (reason for file in channels(places[0].folder)[0].files(places[0].folder) if (reason := unreadable(file, root))), ""
        )

    def read(self) -> float:
        """Watts, or joules of the counter."""
        moves, value = self._chip.moves, self._chip.read(self._watt)
        if self._chip.moves != moves:
            self.facts.append(f"{self.scope} was found again under another number after {len(self._values)} readings")
        return value

    def step_watts(self, watts: Array) -> float:
        """The chip's own step where it is known, or the least that was seen if that is more."""
        return max(self._least_step_watts, super().step_watts(np.round(watts, 9)))

    def _slow_down(self, place: _Place, rate_hz: float | None) -> None:
        """Read no more often than the chip converts, unless told to."""
        try:
            update_ms = number(place.folder / "update_interval")
        except (OSError, ValueError):
            return
        if update_ms > 0:
            self.update_s = update_ms / 1e3
            self.facts.append(f"the chip converts every {update_ms:g} ms")
            if rate_hz is None:
                self.rate_hz = min(self.default_hz, 1e3 / update_ms)


def _parts(option: str) -> tuple[str, str, str]:
    """Name, device and channel, each empty where it is not given.

    Raises:
        UsageError: the option is written otherwise.
    """
    head, slash, tail = option.partition("/")
    if not slash and re.fullmatch(r"(in|curr|power|energy)\d+|\d+", head):
        head, tail = "", head
    name, _, at = head.partition("@")
    if tail and not re.fullmatch(r"(?:in|curr|power|energy)?\d+", tail):
        raise UsageError(f"'{tail}' is no channel of a chip", hint="write for example power1, energy1 or in1")
    return name, at, tail


def _places(root: Path, name: str, at: str) -> list[_Place]:
    """Chips that could be meant and whose power can be read, by their place on the bus."""
    found = [
        _Place(folder, chip, place)
        for folder, chip, place in chips(root)
        if (chip == name if name else FAMILY.fullmatch(chip)) and at in ("", place) and channels(folder)
    ]
    return sorted(found, key=lambda place: (place.device, place.name))


def _channel(place: _Place, wanted: str, root: Path) -> Watt:
    """The wanted channel, or the first.

    Raises:
        MeterError: the chip has not got it.
    """
    there = channels(place.folder)
    if not wanted:
        return there[0]
    by, n = re.fullmatch(r"([a-z]*)(\d+)", wanted).groups()  # type: ignore[union-attr]
    kind = {"in": "product", "curr": "product"}.get(by, by)
    for watt in there:
        if watt.channel == int(n):
            asked = Watt(watt.channel, kind or watt.by, watt.label)  # type: ignore[arg-type]
            if all(file.exists() for file in asked.files(place.folder)):
                return asked
    names = ", ".join(f"{watt.by if watt.by != 'product' else 'in'}{watt.channel}" for watt in there)
    raise MeterError(f"{place.label} in {shown(place.folder, root)} has no channel '{wanted}'", hint=f"there are: {names}")


def _step_watts(place: _Place, watt: Watt) -> float:
    """Least step of a channel's power: of the chip's register, or of a milliampere; 0 if it is not known."""
    try:
        if watt.by == "product":
            return number(watt.files(place.folder)[0]) * 1e-3 * 1e-3
        return POWER_STEP_WATT_OHMS.get(place.name, 0.0) / (number(place.folder / "shunt_resistor") * 1e-6)
    except (OSError, ValueError, ZeroDivisionError):
        return 0.0


def _several(places: Sequence[_Place]) -> str:
    return f"{len(places)} power monitors, and which one is meant is not said: {', '.join(place.label for place in places)}"


def _nothing(root: Path, name: str, at: str) -> str:
    there = sorted({chip for _, chip, _ in chips(root)})
    what = f"{name or 'INA2xx'}{f'@{at}' if at else ''}"
    if not there:
        return f"no chips in /sys/class/hwmon (looked for {what})"
    return f"no {what} with power, energy or current in /sys/class/hwmon (there are: {', '.join(there)})"
