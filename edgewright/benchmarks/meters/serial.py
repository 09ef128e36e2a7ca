"""An external power meter that prints one line a reading to a serial port."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.benchmarks.meters._columns import Asked, Columns, RowError, cells_of, column_of, separator_of
from edgewright.benchmarks.power import METERS, Clock, Meter, PowerTrace
from edgewright.errors import MeterError, UsageError, needs
from edgewright.runtime.address import one_of, parse_address, positive, whole
from edgewright.runtime.rows import names

__all__ = ["SerialMeter"]

_POLL_S = 0.05
_LONGEST = 4096
_MOST_BAD = 0.1
_FIRST_S = 5.0
_LPM01A_BAUD = 3_686_400
_WITH_UNIT = re.compile(r"(?:\w+\s*[:=]\s*)?([-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)\s*(u|µ|m)?W?")


@METERS.register("serial")
class SerialMeter(Meter):
    """Lines of numbers from a port, with the moment of their arrival on this host's monotonic clock.

    Forms: one number (watts) or one with a unit ("850 mW", "P=1.25 W"); several columns, which a header line of the device or
    columns= names with their units (t_ms, watts, mW, volts, amps, uA). Lines that arrive in one piece are spread over the time
    since the piece before. The first line may be half of one and is left out, unless it is a header. Lines that are no
    readings are counted; more than a tenth of them end the measurement.

    With form=lpm01a, ST's X-NUCLEO-LPM01A (UM2269) is told to give currents as text and its numbers ("6409-07") are
    multiplied with volts=. A Nordic PPK2 speaks no text: record it with its own program and use the meter `trace`.

    Args:
        option: the port and settings: `/dev/ttyACM0?baud=115200&columns=t_ms,volts,ma`. Settings: baud=; columns=; power=,
            volts=, amps=, time= as for `trace`; clock=arrival (the default) or own, the times of the lines; form=lines or
            lpm01a; rate= readings a second that lpm01a is asked for; wait= seconds for the first reading; scope=.
    """

    name = "serial"
    external = True

    def __init__(
        self, *, root: Path = Path("/"), option: str = "", rate_hz: float | None = None, clock: Clock | None = None
    ) -> None:
        super().__init__(root=root, option=option, rate_hz=rate_hz, clock=clock)
        address = parse_address(f"serial:{option}")
        given = address.options(
            baud=whole(1),
            columns=names,
            time=str,
            power=str,
            volts=str,
            amps=str,
            clock=one_of("arrival", "own"),
            form=one_of("lines", "lpm01a"),
            rate=whole(1, 20_000),
            wait=positive,
            scope=str,
        )
        if not address.target:
            raise UsageError("the meter serial needs a port", hint="write --meter serial:/dev/ttyACM0?baud=115200")
        self._port, self._form, self._own_clock = address.target, given.get("form", "lines"), given.get("clock") == "own"
        self._baud = given.get("baud", _LPM01A_BAUD if self._form == "lpm01a" else 115200)
        self._rate, self._first_s = given.get("rate", round(rate_hz or 100)), given.get("wait", _FIRST_S)
        self._scope = given.get("scope", f"external meter at {self._port}")
        self._asked = Asked(
            **{key: given.get(key, "") for key in ("time", "power", "volts", "amps")}, names=given.get("columns", ())
        )
        if self._form == "lpm01a":
            if not re.fullmatch(r"[0-9.]+", self._asked.volts):
                raise UsageError("form=lpm01a needs the volts that the instrument supplies", hint="add &volts=3.3")
            self._asked = Asked(volts=f"{float(self._asked.volts)}", names=("amps",))
        self._between = ""
        self._columns = Columns(self._asked.names, self._asked, timed=self._own_clock) if self._asked.names else None
        with needs("serial"):
            import serial
        self._open = serial.Serial
        self._lines, self._whole = _Lines(), False
        self._device: Any = None
        self._stop, self._first = threading.Event(), threading.Event()
        self._failed: MeterError | None = None
        self._thread = threading.Thread(target=self._receive, name="meter serial", daemon=True)

    @classmethod
    def available(cls, root: Path = Path("/")) -> str:
        """Empty if pyserial is installed; which port it is must be said."""
        from importlib.util import find_spec

        return "" if find_spec("serial") else "the package 'serial' is not installed: pip install 'edgewright[serial]'"

    def start(self) -> None:
        """Open the port and wait for the first reading.

        Raises:
            MeterError: the port cannot be opened, or nothing came that is a reading.
        """
        if self._device is not None:
            raise MeterError("the meter serial was started before", hint="open it again for another trace")
        try:
            self._device = self._open(self._port, self._baud, timeout=_POLL_S)
            if self._form == "lpm01a":
                self._tell("htc", "format ascii_dec", f"volt {round(float(self._asked.volts) * 1000)}m")
                self._tell(f"freq {self._rate}", "acqtime inf", "start")
        except (OSError, ValueError) as error:
            raise MeterError(
                f"serial: the port {self._port} cannot be opened: {_reason(error)}",
                hint="list the ports with python -m serial.tools.list_ports; to be allowed: sudo usermod -aG dialout $USER",
            ) from error
        self._thread.start()
        self._first.wait(self._first_s)
        if not self._lines.times:
            self._end()
            raise self._failed or MeterError(
                f"serial: {self._port} gave no reading in {self._first_s:g} s{self._lines.seen()}",
                hint="check baud= and columns=",
            )

    def stop(self) -> PowerTrace:
        """Close the port and give the trace.

        Raises:
            MeterError: the device went away, too many lines were no readings, or fewer than two readings came.
        """
        if self._device is None:
            raise MeterError("the meter serial was not started")
        self._end()
        if self._failed:
            raise self._failed
        return self.so_far()

    def so_far(self) -> PowerTrace:
        """What has come until now.

        Raises:
            MeterError: fewer than two readings, or too many lines that were none.
        """
        n = len(self._lines.watts)
        t_ns, watts = np.array(self._lines.times[:n], np.int64), np.array(self._lines.watts[:n])
        bad = self._lines.bad
        if bad > _MOST_BAD * (n + bad) and bad > 1:
            raise MeterError(
                f"serial: {bad} of {n + bad} lines from {self._port} were no readings{self._lines.seen()}",
                hint="check baud= and columns=",
            )
        if n < 2:
            raise MeterError(
                f"serial: {self._port} gave {n} reading{'' if n == 1 else 's'}, 2 are needed", hint="measure for longer"
            )
        notes = [f"{bad} line{'' if bad == 1 else 's'} that held no reading left out"] if bad else []
        if not self._own_clock:
            notes.append("times are those of arrival: later than the readings by what the line and its buffers take")
        steps = np.diff(t_ns)
        levels = np.diff(np.unique(np.round(watts, 12)))
        return PowerTrace(
            t_ns=t_ns,
            watts=watts,
            scope=self._scope,
            origin="measured",
            kind="sample",
            meter="serial",
            rate_hz=float((n - 1) / (steps.sum() / 1e9)),
            clock="own" if self._own_clock else "monotonic",
            step_watts=float(levels.min()) if len(levels) else 0.0,
            missed=bad,
            gap_ns=max(10 * int(np.median(steps)), 200_000_000),
            notes=tuple(notes),
        )

    def _tell(self, *commands: str) -> None:
        for command in commands:
            self._device.write(f"{command}\n".encode())

    def _end(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        with contextlib.suppress(OSError):
            if self._form == "lpm01a":
                self._tell("stop")
            self._device.close()

    def _receive(self) -> None:
        """The thread: lines as they come; what is complete when told to stop is still taken."""
        rest, last_ns = b"", self.clock.now_ns()
        try:
            while True:
                stopping = self._stop.is_set()
                data = self._device.read(max(1, self._device.in_waiting))
                now_ns = self.clock.now_ns()
                *lines, rest = (rest + data).split(b"\n")
                if len(rest) > _LONGEST:
                    raise MeterError(
                        f"serial: {_LONGEST} bytes without a newline from {self._port}",
                        hint=f"is the baud rate {self._baud} right?",
                    )
                for k, line in enumerate(lines, 1):
                    self._take(line.decode("utf-8", "replace").strip(), last_ns + (now_ns - last_ns) * k // len(lines))
                last_ns = now_ns if lines else last_ns
                if stopping:  # what had come by then is taken; an instrument that never pauses would else never end
                    return
        except OSError as error:
            self._failed = MeterError(
                f"serial: {self._port} is gone after {len(self._lines.watts)} readings: {_reason(error)}",
                hint="plug it in again and measure again",
            )
        except MeterError as error:
            self._failed = error
        self._first.set()

    def _take(self, line: str, arrival_ns: int) -> None:
        whole, self._whole = self._whole, True
        if not line or line.startswith("#") or self._is_header(line) or not whole:
            return  # the first line may be the rest of one that was under way when the port was opened
        try:
            own_ns, watts = self._parse(line)
        except RowError as error:
            self._lines.refuse(line, str(error))
            return
        t_ns = own_ns if self._own_clock else arrival_ns
        if t_ns is None or not np.isfinite(watts):
            self._lines.refuse(line, "not finite")
        elif self._own_clock and self._lines.times and t_ns < self._lines.times[-1]:
            raise MeterError(
                f"serial: the times of {self._port} go back from {self._lines.times[-1] / 1e9:.6f} s to {t_ns / 1e9:.6f} s",
                hint="the device began again; measure again, or use the times of arrival",
            )
        elif not self._lines.times or t_ns > self._lines.times[-1]:
            self._lines.times.append(t_ns)
            self._lines.watts.append(watts)
            self._first.set()

    def _is_header(self, line: str) -> bool:
        """Take a line of names as header, where the user gave none."""
        if self._form == "lpm01a":
            return line.startswith(("ack", "TimeStamp", "PowerShield", "err", "summary", "end"))
        if self._asked.names or any(character.isdigit() for character in line):
            return False
        between = separator_of(line)
        cells = cells_of(line, between)
        if not all(column_of(cell) for cell in cells):
            return False
        try:
            self._columns = Columns(cells, self._asked, timed=self._own_clock)
        except RowError as error:
            raise MeterError(f"serial: the header '{line[:60]}' of {self._port}: {error}") from error
        self._between = between
        return True

    def _parse(self, line: str) -> tuple[int | None, float]:
        if self._columns is not None:
            self._between = self._between or separator_of(line)
            return self._columns.parse(cells_of(line, self._between))
        found = _WITH_UNIT.fullmatch(line)
        if not found or self._own_clock:
            raise RowError("the columns have no names: add columns=, for example columns=t_ms,volts,ma")
        return None, float(found[1]) * {"m": 1e-3, "u": 1e-6, "µ": 1e-6}.get(found[2] or "", 1.0)


class _Lines:
    """Readings as they come, and lines that were none."""

    def __init__(self) -> None:
        self.times: list[int] = []
        self.watts: list[float] = []
        self.bad = 0
        self._last = ""

    def refuse(self, line: str, why: str) -> None:
        """Count a line that is no reading."""
        self.bad += 1
        self._last = f"; the last one was '{line[:60]}': {why}"

    def seen(self) -> str:
        """The last line that was no reading, for a message."""
        return self._last


def _reason(error: Exception) -> str:
    code = getattr(error, "errno", None)
    return os.strerror(code) if isinstance(code, int) and code > 0 else str(error)
