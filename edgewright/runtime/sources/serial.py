"""Sensor samples from a serial port: a board that prints one line of numbers a sample."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from typing import Any, ClassVar, Literal

from edgewright.errors import SourceError, UsageError, needs
from edgewright.runtime.address import Address, whole
from edgewright.runtime.frames import Array, Frame, Source
from edgewright.runtime.rows import Complaints, RowError, Rows, names, separator, split, unit
from edgewright.runtime.sources import SOURCES

__all__ = ["SerialSource"]

_POLL_S = 0.2
_LONGEST = 4096
"""More bytes without a newline are no line: the baud rate is wrong, or it is another device."""
_WAITS_S = (0.2, 0.5, 1.0, 2.0, 5.0)


@SOURCES.register("serial")
class SerialSource(Source):
    """Lines of numbers as frames of shape (channels,), dtype float32.

    The line that was under way when the port was opened is dropped. A line that is no row of numbers is told and skipped. If
    the device goes away, it is tried again after 0.2 s, and after longer waits up to 5 s.

    Args:
        port: the device.
        rows: which columns are channels, and which one the time.
        baud: bits per second.
        between: the character between two cells.
        retries: attempts to open the device again before giving up; None never gives up.

    Raises:
        SourceError: there is no such device, or it cannot be opened.
    """

    kind: ClassVar[Literal["image", "sensor"]] = "sensor"

    def __init__(self, port: str, rows: Rows, *, baud: int = 115200, between: str = ",", retries: int | None = None) -> None:
        with needs("serial"):
            import serial
        self.live = True
        self._port, self._rows, self._baud, self._between, self._retries = port, rows, baud, between, retries
        self._open, self._closed, self._lock, self._index = serial.Serial, threading.Event(), threading.Lock(), 0
        self._bad = Complaints("broken lines", lambda text: self.tell(text))
        self._rest, self._lines, self._whole = b"", deque[tuple[bytes, int]](), False
        try:
            self._device: Any = self._connect()
        except (OSError, ValueError) as error:
            raise SourceError(f"the serial port {port} cannot be opened: {_reason(error)}", hint=_hint(error)) from error

    @classmethod
    def of(cls, address: Address) -> SerialSource:
        """Open a port, for example `serial:/dev/ttyUSB0?baud=115200&separator=,&time=0&unit=ms`; columns are numbered from 0."""
        given = address.options(
            baud=whole(1), separator=separator, time=str, unit=unit, columns=names, channels=whole(1), retries=_count_or_none
        )
        time_too = 1 if given.get("time") else 0
        rows = Rows(
            time=given.get("time", ""),
            unit=given.get("unit", 10**9),
            columns=given.get("columns", ()),
            width=given["channels"] + time_too if "channels" in given else 0,
        )
        if rows.by_name:
            raise UsageError(
                f"'{address.text}' names columns, lines from a serial port have no header", hint="write their numbers, from 0"
            )
        if given.get("channels") and given.get("columns"):
            raise UsageError(f"'{address.text}' has both channels and columns", hint="columns alone is enough")
        return cls(
            address.target,
            rows,
            baud=given.get("baud", 115200),
            between=given.get("separator", ","),
            retries=given.get("retries"),
        )

    def read(self, into: Array | None = None) -> Frame | None:
        """The next good line."""
        while not self._closed.is_set():
            while self._lines:
                line, captured_ns = self._lines.popleft()
                text = line.decode("utf-8", "replace").strip()
                if not text:
                    continue
                try:
                    data, recorded_ns = self._rows.parse(split(text, self._between))
                except RowError as error:
                    self.broken += 1
                    self._bad.add(f"{self._port}: the line '{text[:60]}' was skipped: {error}")
                    continue
                index, self._index = self._index, self._index + 1
                return Frame(data, index, captured_ns, recorded_ns)
            self._bad.remind()
            self._receive()
        return None

    def close(self) -> None:
        """End a waiting `read` and free the port."""
        self._closed.set()
        with self._lock, contextlib.suppress(OSError):
            self._device.close()

    def _connect(self) -> Any:
        return self._open(self._port, self._baud, timeout=_POLL_S)

    def _receive(self) -> None:
        """Wait a moment for bytes; an unplugged device is opened again here."""
        try:
            with self._lock:
                if self._closed.is_set():
                    return
                data = self._device.read(max(1, self._device.in_waiting))
        except OSError as error:
            self._again(error)
            return
        now = time.monotonic_ns()
        *lines, self._rest = (self._rest + data).split(b"\n")
        if lines and not self._whole:
            self._whole, lines = True, lines[1:]
        self._lines.extend((line, now) for line in lines)
        if len(self._rest) > _LONGEST:
            self._rest, self._whole, self.broken = b"", False, self.broken + 1
            self._bad.add(f"{self._port}: {_LONGEST} bytes without a newline were skipped: is the baud rate {self._baud} right?")

    def _again(self, lost: Exception) -> None:
        """Open a lost device, waiting longer each time."""
        with self._lock, contextlib.suppress(OSError):
            self._device.close()
        self._rest, self._whole = b"", False
        self.tell(f"{self._port} is gone after {self._index} samples ({_reason(lost)}); it is tried again")
        attempt = 0
        while self._retries is None or attempt < self._retries:
            if self._closed.wait(_WAITS_S[min(attempt, len(_WAITS_S) - 1)]):
                return
            attempt += 1
            try:
                device = self._connect()
            except (OSError, ValueError) as error:
                lost = error
                continue
            with self._lock:
                if self._closed.is_set():
                    device.close()
                    return
                self._device = device
            self.tell(f"{self._port} is back after {attempt} attempt{'s' if attempt > 1 else ''}")
            return
        raise SourceError(
            f"{self._port} broke off after {self._index} samples and did not come back in {self._retries} attempts "
            f"({_reason(lost)})",
            hint="plug it in again; with a larger retries= or none it is waited for",
        )


def _reason(error: Exception) -> str:
    """What the system says, without pyserial's copy of the exception's arguments."""
    code = getattr(error, "errno", None)
    if isinstance(code, int) and code > 0:
        return os.strerror(code)
    return str(error)


def _hint(error: Exception) -> str:
    if getattr(error, "errno", None) == 13:
        return "allow your user to open it: sudo usermod -aG dialout $USER, then log in again"
    return "list the ports with: python -m serial.tools.list_ports"


def _count_or_none(text: str) -> int | None:
    return None if text == "endless" else whole()(text)
