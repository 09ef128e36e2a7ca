"""The power management chip of the Raspberry Pi 5, through the firmware's vcgencmd."""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
from pathlib import Path

import numpy as np

from edgewright.benchmarks.meters._sysfs import text
from edgewright.benchmarks.power import METERS, Clock
from edgewright.benchmarks.sampling import Array, SampledMeter, least_step
from edgewright.errors import MeterError

__all__ = ["PmicMeter"]

_LINE = re.compile(r"^\s*(\w+?)_([AV])\s+(?:current|volt)\(\d+\)\s*=\s*(-?[\d.]+(?:e-?\d+)?)\s*[AV]\s*$", re.MULTILINE)
_TIMEOUT_S = 2.0
FIT_SLOPE, FIT_WATTS = 1.145, 0.588
"""Input power from the sum of the rails, as fitted by users against a meter at the USB-C input (1.145 * sum + 0.588 W)."""
_LOOKED_FOR = ("usr/bin/vcgencmd", "opt/vc/bin/vcgencmd", "usr/local/bin/vcgencmd")


@METERS.register("pmic")
class PmicMeter(SampledMeter):
    """Volts times amperes of the chip's rails, as `vcgencmd pmic_read_adc` prints them.

    The chip measures its outputs: their sum is below what goes into the board, which nothing on the board measures (of the
    input it knows the voltage only). Volts and amperes of a rail are converted a moment apart. A reading is a call of the
    program, some milliseconds; therefore 10 readings a second.

    Args:
        option: "" or "rails" for the sum of all rails; a rail, for example "VDD_CORE"; "input" for the input power by a
            published fit, which is then an estimate.
    """

    name = "pmic"
    default_hz = 10.0

    def __init__(
        self, *, root: Path = Path("/"), option: str = "", rate_hz: float | None = None, clock: Clock | None = None
    ) -> None:
        super().__init__(root=root, option=option, rate_hz=rate_hz, clock=clock)
        self._program = _program(root)
        self._seen: list[list[tuple[float, float]]] = []
        self._pending: list[tuple[float, float]] = []
        rails = self._rails()
        if option in ("", "rails"):
            self._wanted = sorted(rails)
            self.scope = "sum of the PMIC's rails"
            self.facts.append(f"the sum of {len(rails)} rails is below the board's input power")
        elif option == "input":
            self._wanted = sorted(rails)
            self.scope, self.origin = "board input by a fit", "estimated"
            self.facts.append(
                f"input power is {FIT_SLOPE:g} * sum of the rails + {FIT_WATTS:g} W, a published fit of other boards"
            )
        elif option in rails:
            self._wanted = [option]
            self.scope = f"rail {option}"
            self.facts.append(f"{option} is a part of the board; {len(rails) - 1} other rails are not in the figure")
        else:
            raise MeterError(f"pmic: there is no rail '{option}'", hint=f"there are: input, rails, {', '.join(sorted(rails))}")

    @classmethod
    def available(cls, root: Path = Path("/")) -> str:
        """Empty if the rails' currents can be read, else the reason."""
        try:
            cls(root=root)
        except MeterError as error:
            return error.message.removeprefix("pmic: ")
        return ""

    def read(self) -> float:
        """Watts."""
        try:
            rails = self._rails()
        except MeterError as error:  # one call may fail; many in a row end the measurement
            raise ValueError(error.message.removeprefix("pmic: ")) from error
        if missing := [name for name in self._wanted if name not in rails]:
            raise ValueError(f"vcgencmd pmic_read_adc left out {', '.join(missing)}")
        self._pending = [rails[name] for name in self._wanted]
        watts = sum(amps * volts for amps, volts in self._pending)
        return FIT_SLOPE * watts + FIT_WATTS if self.origin == "estimated" else watts

    def accepted(self) -> None:
        """Keep the rails of the reading, for their steps."""
        self._seen.append(self._pending)

    def step_watts(self, watts: Array) -> float:
        """Root of the squared steps of the rails' currents, each the least that was seen, at their voltages."""
        amps, volts = np.array(self._seen[: len(watts)]).transpose(2, 1, 0)
        steps = [least_step(np.round(a, 9)) * v.mean() for a, v in zip(amps, volts, strict=True)]
        return float(np.linalg.norm(steps)) * (FIT_SLOPE if self.origin == "estimated" else 1.0)

    def _rails(self) -> dict[str, tuple[float, float]]:
        """Amperes and volts by rail."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        output = _ask(self._program)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.other_cpu_s += after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        found: dict[tuple[str, str], float] = {(rail, unit): float(value) for rail, unit, value in _LINE.findall(output)}
        rails = {rail: (amps, found[rail, "V"]) for (rail, unit), amps in found.items() if unit == "A" and (rail, "V") in found}
        if rails:
            return rails
        volts = sum(unit == "V" for _, unit in found)
        if volts:
            model = text(self.root / "proc/device-tree/model").strip("\0") or "this board"
            raise MeterError(
                f"pmic: the chip of {model} gives {volts} voltages and no currents, so there is no power",
                hint="only Raspberry Pi 5 and its relatives measure currents; use an external meter",
            )
        raise MeterError(
            f"pmic: vcgencmd pmic_read_adc printed no rails: {_first(output)}", hint="update the firmware: sudo rpi-eeprom-update"
        )


def _program(root: Path) -> Path:
    for place in _LOOKED_FOR:
        if (root / place).is_file():
            return root / place
    if root == Path("/") and (found := shutil.which("vcgencmd")):
        return Path(found)
    raise MeterError("pmic: no vcgencmd", hint="it is a program of Raspberry Pi OS: sudo apt install raspi-utils")


def _ask(program: Path) -> str:
    """What the program prints.

    Raises:
        MeterError: it failed, with its own words.
    """
    try:
        done = subprocess.run([program, "pmic_read_adc"], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise MeterError(f"pmic: vcgencmd gave no answer in {_TIMEOUT_S:g} s") from error
    except OSError as error:
        raise MeterError(f"pmic: {program} cannot be run: {error.strerror}") from error
    output = done.stdout + done.stderr
    if done.returncode != 0 or "error" in output.lower() or "can't open" in output.lower():
        raise MeterError(
            f"pmic: vcgencmd failed with code {done.returncode}: {_first(output)}",
            hint="allow your user to ask the firmware: sudo usermod -aG video $USER, then log in again",
        )
    return done.stdout


def _first(output: str) -> str:
    return (output.strip().splitlines() or ["nothing"])[0][:100]
