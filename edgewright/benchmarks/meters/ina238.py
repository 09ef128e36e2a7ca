"""The INA238 at the input of NVIDIA Jetson Thor boards."""

from __future__ import annotations

from pathlib import Path

from edgewright.benchmarks.meters._sysfs import Chip, channels, i2c, i2c_hwmon, shown, text, unreadable
from edgewright.benchmarks.power import METERS, Clock
from edgewright.benchmarks.sampling import SampledMeter
from edgewright.errors import MeterError

__all__ = ["Ina238Meter"]


@METERS.register("ina238")
class Ina238Meter(SampledMeter):
    """The chip's power1_input (microwatts), or in1_input times curr1_input: what goes into the board, carrier included.

    Args:
        option: the chip's place on the bus, for example "2-0044"; needed where there are several.
    """

    name = "ina238"
    default_hz = 50.0

    def __init__(
        self, *, root: Path = Path("/"), option: str = "", rate_hz: float | None = None, clock: Clock | None = None
    ) -> None:
        super().__init__(root=root, option=option, rate_hz=rate_hz, clock=clock)
        if reason := _why_not(root, option):
            raise MeterError(f"ina238: {reason}", hint="look at /sys/bus/i2c/devices/*/name")
        bus = next(bus for bus in i2c(root, "ina238") if option in ("", bus.name))
        folder = i2c_hwmon(bus)[0]
        self._watt = next(watt for watt in channels(folder) if watt.by != "energy")
        label = self._watt.label or "VIN"
        self.scope = f"board input {label}"
        self._chip = Chip(lambda: next(iter(i2c_hwmon(bus)), None), lambda found: text(found / "name") == "ina238")

    @classmethod
    def available(cls, root: Path = Path("/")) -> str:
        """Empty if there is one INA238 and it can be read, else the reason."""
        return _why_not(root, "")

    def read(self) -> float:
        """Watts."""
        return self._chip.read(self._watt)


def _why_not(root: Path, option: str) -> str:
    found = [bus for bus in i2c(root, "ina238") if option in ("", bus.name)]
    if not found:
        return f"no ina238{f' at {option}' if option else ''} in /sys/bus/i2c/devices/*/name"
    if len(found) > 1:
        return f"{len(found)} chips, and which one is meant is not said: {', '.join(bus.name for bus in found)}"
    folders = i2c_hwmon(found[0])
    watts = [watt for watt in channels(folders[0]) if watt.by != "energy"] if folders else []
    if not watts:
        return f"{shown(found[0], root)} has no hwmon/hwmon*/power1_input or curr1_input: its driver is not loaded"
    return next((reason for file in watts[0].files(folders[0]) if (reason := unreadable(file, root))), "")
