"""The three-channel INA3221 of NVIDIA Jetson boards: one rail by its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgewright.benchmarks.meters._sysfs import Chip, Watt, i2c, i2c_hwmon, natural, number, text, unreadable, way_out
from edgewright.benchmarks.power import METERS, Clock
from edgewright.benchmarks.sampling import Array, SampledMeter
from edgewright.errors import MeterError, UsageError

__all__ = ["Ina3221Meter"]

BOARD_INPUTS = ("VDD_IN", "POM_5V_IN", "VIN", "VDD_5V_IN")
"""Rails that feed the whole module: Orin NX and Nano, Xavier NX, TX2; Nano."""
PARTS = ("VDD_GPU_SOC", "GPU", "VDD_SYS_GPU", "VDD_GPU", "VDD_CPU_GPU_CV")
"""Where the board has no such rail (AGX Orin, AGX Xavier): the one that a network's work shows on."""


@dataclass(frozen=True, slots=True)
class _Rail:
    label: str
    bus: Path
    channel: int
    old: bool
    """Whether it is an iio device of JetPack 4: rail_name_0, in_power0_input in milliwatts."""

    def files(self) -> tuple[Path, ...]:
        """Files that give its power, wherever they are now; empty if they are gone."""
        if self.old:
            folder = next(iter(_iio(self.bus)), None)
            power = folder / f"in_power{self.channel}_input" if folder else None
            return () if power is None else (power,)
        return next((Watt(self.channel, "product").files(folder) for folder in i2c_hwmon(self.bus)), ())


@METERS.register("ina3221")
class Ina3221Meter(SampledMeter):
    """One rail: the input of the board where it has such a rail, else the one of the GPU, or the one that is named.

    JetPack 5 and later: in*_label, in*_input (millivolts) times curr*_input (milliamperes). JetPack 4: rail_name_*,
    in_power*_input (milliwatts). Steps of the chip on Jetson boards are 8 mV and some milliamperes; the files round to 1.

    Args:
        option: a rail as the board labels it, for example "VDD_CPU_CV".
    """

    name = "ina3221"
    default_hz = 20.0

    def __init__(
        self, *, root: Path = Path("/"), option: str = "", rate_hz: float | None = None, clock: Clock | None = None
    ) -> None:
        super().__init__(root=root, option=option, rate_hz=rate_hz, clock=clock)
        rails = _rails(root)
        rail = _choose(rails, option, root)
        for file in rail.files():
            if reason := unreadable(file, root):
                raise MeterError(f"ina3221: {reason}", hint=way_out(file, root, reason))
        self._rail, self._watt = rail, Watt(rail.channel, "product")
        self._chip = None if rail.old else Chip(lambda: next(iter(i2c_hwmon(rail.bus)), None), _is_ina3221)

        whole = rail.label in BOARD_INPUTS
        self.scope = f"board input {rail.label}" if whole else f"rail {rail.label}"
        if not whole:
            self.facts.append(f"{rail.label} is a part of the board; other rails ({_others(rails, rail)}) are not in the figure")

    @classmethod
    def available(cls, root: Path = Path("/")) -> str:
        """Empty if there is an INA3221 with a rail that is known as primary and it can be read, else the reason."""
        try:
            rail = _choose(_rails(root), "", root)
        except MeterError as error:
            return error.message.removeprefix("ina3221: ")
        return next((reason for file in rail.files() if (reason := unreadable(file, root))), "")

    def read(self) -> float:
        """Watts."""
        if self._chip is not None:
            return self._chip.read(self._watt)
        files = self._rail.files()
        if not files:
            raise FileNotFoundError(2, "gone", str(self._rail.bus))
        return number(files[0]) * 1e-3

    def step_watts(self, watts: Array) -> float:
        """One milliampere at 5 V, or one milliwatt: what the files round to; less than the chip's own step."""
        return 1e-3 if self._rail.old else max(5e-3, super().step_watts(np.round(watts, 6)))


def _is_ina3221(folder: Path) -> bool:
    return text(folder / "name") == "ina3221"


def _iio(bus: Path) -> list[Path]:
    return sorted((folder for folder in bus.glob("iio:device*") if (folder / "rail_name_0").exists()), key=natural)


def _rails(root: Path) -> list[_Rail]:
    """All rails that are connected, in the order of the bus."""
    found: list[_Rail] = []
    for bus in (*i2c(root, "ina3221"), *i2c(root, "ina3221x")):
        for folder in i2c_hwmon(bus)[:1]:
            for n in (1, 2, 3):
                label = text(folder / f"in{n}_label")
                if label and label != "NC" and (folder / f"curr{n}_input").exists():
                    found.append(_Rail(label, bus, n, old=False))
        for folder in _iio(bus)[:1]:
            for n in (0, 1, 2):
                label = text(folder / f"rail_name_{n}")
                if label and label != "NC" and (folder / f"in_power{n}_input").exists():
                    found.append(_Rail(label, bus, n, old=True))
    return found


def _choose(rails: Sequence[_Rail], option: str, root: Path) -> _Rail:
    """The rail that is named, or the primary one.

    Raises:
        MeterError: there is none, or none that is known as primary.
        UsageError: two chips have a rail of that name.
    """
    names = ", ".join(rail.label for rail in rails)
    if not rails:
        there = [bus.name for bus in (*i2c(root, "ina3221"), *i2c(root, "ina3221x"))]
        reason = (
            f"{', '.join(there)} has no labelled rails: its driver is not loaded"
            if there
            else "no ina3221 in /sys/bus/i2c/devices/*/name"
        )
        raise MeterError(f"ina3221: {reason}", hint="this is a chip of NVIDIA Jetson boards")
    for wanted in [option] if option else [*BOARD_INPUTS, *PARTS]:
        matching = [rail for rail in rails if rail.label == wanted]
        if len(matching) > 1:
            places = ", ".join(rail.bus.name for rail in matching)
            raise UsageError(f"there are {len(matching)} rails '{wanted}' ({places})", hint=f"the rails are: {names}")
        if matching:
            return matching[0]
    if option:
        raise MeterError(f"ina3221: the board has no rail '{option}'", hint=f"there are: {names}")
    raise MeterError(
        f"ina3221: none of the rails ({names}) is known as the one to read", hint=f"name one: --meter ina3221:{rails[0].label}"
    )


def _others(rails: Sequence[_Rail], rail: _Rail) -> str:
    return ", ".join(other.label for other in rails if other != rail) or "none are labelled"
