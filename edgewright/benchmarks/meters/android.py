"""The battery of an Android device (or a laptop) through the kernel's power_supply class."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgewright.benchmarks.meters._sysfs import natural, number, shown, text, unreadable
from edgewright.benchmarks.power import METERS, Clock
from edgewright.benchmarks.sampling import Array, SampledMeter
from edgewright.errors import MeterError, UsageError

__all__ = ["AndroidMeter"]

_CLASS = "sys/class/power_supply"
LEAST_MICROAMPERES = 20_000
"""A device that computes draws more than 20 mA, and none draws 20 A: the larger number is microamperes, else milliamperes."""
LEAST_MICROVOLTS = 100_000
_FITS = 2.0
"""How far the charge that the counter lost may be from the integral of the current, either way."""
_WRONG_SIGN = 0.01
_NEEDED_STEPS = 3


@METERS.register("android")
class AndroidMeter(SampledMeter):
    """Current times voltage of the battery while it discharges; refused while anything charges it.

    The kernel's rule is microamperes and microvolts, negative while discharging. Devices differ: some give milliamperes or the
    other sign. The unit is told from the largest current of the trace and checked by charge_counter where that moves; the
    sign does not matter as long as it stays. Many fuel gauges renew their values a few times a second only, and average.

    Args:
        option: "ua" or "ma" if the unit of current_now is known.
    """

    name = "android"
    default_hz = 5.0

    def __init__(
        self, *, root: Path = Path("/"), option: str = "", rate_hz: float | None = None, clock: Clock | None = None
    ) -> None:
        super().__init__(root=root, option=option, rate_hz=rate_hz, clock=clock)
        if option.lower() not in ("", "ua", "ma"):
            raise UsageError(f"'{option}' is no unit of current_now", hint="write android:ua or android:ma, or leave it out")
        battery, reason = _battery(root)
        if battery is None or reason:
            raise MeterError(
                f"android: {reason}", hint="measure over Wi-Fi (adb tcpip 5555, adb connect ...) with the cable unplugged"
            )
        self._battery, self._unit = battery, option.lower()
        self.scope = "battery"
        self._raw: list[tuple[float, float]] = []
        self._pending = 0.0, 0.0

    @classmethod
    def available(cls, root: Path = Path("/")) -> str:
        """Empty if there is a battery that discharges and can be read, else the reason."""
        return _battery(root)[1]

    def read(self) -> float:
        """Volts times the raw number of current_now."""
        if reason := _charging(self._battery, self.root):
            raise MeterError(f"android: {reason}", hint="unplug the device and measure again: charging hides what it draws")
        current, volts = number(self._battery / "current_now"), number(self._battery / "voltage_now")
        volts *= 1e-6 if abs(volts) >= LEAST_MICROVOLTS else 1e-3
        try:
            charge = number(self._battery / "charge_counter")
        except (OSError, ValueError):
            charge = float("nan")
        self._pending = current, charge
        return current * volts

    def accepted(self) -> None:
        """Keep what belongs to the reading."""
        self._raw.append(self._pending)

    def finish(self, t_ns: Array, values: Array) -> tuple[Array, list[str]]:
        """Watts, with the unit and the sign that the whole trace shows."""
        raw, charge = np.array(self._raw[: len(t_ns)]).T
        scale, notes = self._scale(t_ns, raw, charge)
        positive, negative = raw.clip(0).sum(), -raw.clip(None, 0).sum()
        if min(positive, negative) > _WRONG_SIGN * (positive + negative):
            raise MeterError(
                f"android: the current has both signs while the status says Discharging "
                f"({int((raw > 0).sum())} readings above 0, {int((raw < 0).sum())} below)",
                hint="unplug every charger and USB cable and measure again",
            )
        return values * scale * (-1.0 if negative > positive else 1.0), notes

    def _scale(self, t_ns: Array, raw: Array, charge: Array) -> tuple[float, list[str]]:
        """Amperes per step of current_now, and how that is known."""
        if self._unit:
            return (1e-6 if self._unit == "ua" else 1e-3), []
        largest = float(np.abs(raw).max())
        guess = 1e-6 if largest >= LEAST_MICROAMPERES else 1e-3
        words = "microamperes" if guess == 1e-6 else "milliamperes"
        lost = _lost_coulombs(charge)
        if lost is None:
            return guess, [
                f"current_now is taken as {words}: its largest value is {largest:.0f}, charge_counter moved too little to tell"
            ]
        drawn = abs(float(np.diff(t_ns / 1e9) @ (raw[1:] + raw[:-1]) / 2))
        for scale, unit in ((guess, words), (1e-6, "microamperes"), (1e-3, "milliamperes")):
            if 1 / _FITS <= drawn * scale / lost <= _FITS:
                return scale, [
                    f"current_now is in {unit}: charge_counter lost {lost:.3g} C, the current adds up to {drawn * scale:.3g} C"
                ]
        raise MeterError(
            f"android: charge_counter lost {lost:.3g} C, but current_now adds up to {drawn * guess:.3g} C as {words}",
            hint="name the unit if you know it: --meter android:ua or android:ma",
        )


def _lost_coulombs(charge: Array) -> float | None:
    """Charge that left the battery by its counter (microampere-hours), None if it has too few steps to say."""
    if len(charge) < 2 or not np.all(np.isfinite(charge)) or np.count_nonzero(np.diff(charge)) < _NEEDED_STEPS:
        return None
    lost = float(charge[0] - charge[-1]) * 3600e-6
    return lost if lost > 0 else None


def _battery(root: Path) -> tuple[Path | None, str]:
    """The battery's folder, and why it cannot be used (empty if it can)."""
    try:
        supplies = sorted((root / _CLASS).iterdir(), key=natural)
    except PermissionError:
        return None, f"/{_CLASS} may not be read by this user"
    except OSError:
        supplies = []
    batteries = [s for s in supplies if "Battery" in (text(s / "type"), s.name.title()) and text(s / "scope") != "Device"]
    if not batteries:
        return None, f"no battery in /{_CLASS}"
    usable = [battery for battery in batteries if (battery / "current_now").exists() and (battery / "voltage_now").exists()]
    if not usable:
        return None, f"no current_now and voltage_now in {', '.join(shown(battery, root) for battery in batteries)}"
    battery = next((battery for battery in usable if battery.name == "battery"), usable[0])
    for file in ("current_now", "voltage_now"):
        if reason := unreadable(battery / file, root):
            return battery, reason
    return battery, _charging(battery, root)


def _charging(battery: Path, root: Path) -> str:
    """What charges the battery, empty if nothing does."""
    status = text(battery / "status")
    if status != "Discharging":
        return f"the battery's status is {status or 'not told'}, not Discharging"
    for supply in sorted((root / _CLASS).glob("*"), key=natural):
        if text(supply / "type") not in ("Battery", "") and text(supply / "online") == "1":
            return f"the charger {shown(supply, root)} is online"
    return ""
