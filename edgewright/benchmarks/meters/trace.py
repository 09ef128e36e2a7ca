"""A CSV file that an external power meter has written or is writing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.benchmarks.meters._columns import Asked, Columns, RowError, cells_of, separator_of
from edgewright.benchmarks.power import METERS, Clock, Meter, PowerTrace
from edgewright.errors import MeterError, UsageError
from edgewright.runtime.address import one_of, parse_address, positive
from edgewright.runtime.rows import names, separator

__all__ = ["TraceMeter", "regular_steps"]

_COMMENTS = ("#", "//", "%")
_SETTLE_S = 5.0
_POLL_NS = 20_000_000
_GAP_STEPS, LEAST_GAP_NS = 10, 1_000_000
_REGULAR, _JITTER = 0.9, 0.25
"""A steady pace: so many of the readings come within so much of a period."""


@METERS.register("trace")
class TraceMeter(Meter):
    """Times and powers from a file with one reading a row: recorded before, or growing while this runs.

    The header names the columns and their units: t_s, "Time (ms)", watts, "Power [mW]", volts and amps, "Current(uA)" with
    volts=3.3; other columns are passed over. Times must not go back. Empty and NaN readings are missed ones. A last line
    without its newline may be half a line and is left out. A file that has grown since `start` is waited for until it grows
    once more, at most 5 s, since programs write in blocks.

    The file is one of the host's, whatever `root` is.

    Args:
        option: the file and settings: `power.csv?clock=wall`. Settings: clock=own (the default: the file's times are related
            to nothing), wall (nanoseconds since 1970, as of this host) or monotonic (this host's monotonic clock); time=,
            power=, volts=, amps= name columns; columns=a,b,c names those of a file without a header; separator=; settle=
            seconds to wait for a growing file; scope= what the instrument measures.
    """

    name = "trace"
    external = True

    def __init__(
        self, *, root: Path = Path("/"), option: str = "", rate_hz: float | None = None, clock: Clock | None = None
    ) -> None:
        super().__init__(root=root, option=option, rate_hz=rate_hz, clock=clock)
        address = parse_address(f"trace:{option}")
        given = address.options(
            clock=one_of("own", "wall", "monotonic"),
            time=str,
            power=str,
            volts=str,
            amps=str,
            columns=names,
            separator=separator,
            settle=positive,
            scope=str,
        )
        if not address.target:
            raise UsageError("the meter trace needs a file", hint="write --meter trace:power.csv")
        self.path, self._between = Path(address.target), given.get("separator", "")
        self._clock_name, self._scope = given.get("clock", "own"), given.get("scope", "external meter")
        self._settle_ns = round(given.get("settle", _SETTLE_S) * 1e9)
        keys = ("time", "power", "volts", "amps")
        self._asked = Asked(**{key: given.get(key, "") for key in keys}, names=given.get("columns", ()))
        if not self.path.is_file():
            what = "is no regular file" if self.path.exists() else "is not there"
            raise MeterError(f"trace: {self.path} {what}", hint="start the recording first, or check the path")
        self._size_at_start: int | None = None

    @classmethod
    def available(cls, root: Path = Path("/")) -> str:
        """Always empty: any file may be named."""
        return ""

    def start(self) -> None:
        """Note how long the file is.

        Raises:
            MeterError: the file cannot be read, or the meter was started before.
        """
        if self._size_at_start is not None:
            raise MeterError("the meter trace was started before", hint="open it again for another trace")
        self._size_at_start = self._size()

    def stop(self) -> PowerTrace:
        """Wait for a growing file to be written, then read it.

        Raises:
            MeterError: the file became shorter, a row makes no sense (it is named), or fewer than two readings came.
        """
        if self._size_at_start is None:
            raise MeterError("the meter trace was not started")
        size = self._size()
        if size < self._size_at_start:
            raise MeterError(
                f"trace: {self.path} had {self._size_at_start} bytes at the start and has {size} now",
                hint="the recording was begun anew while it was needed; measure again",
            )
        if size > self._size_at_start:
            never, end = threading.Event(), self.clock.now_ns() + self._settle_ns
            while self._size() == size and (now := self.clock.now_ns()) < end:
                self.clock.wait(min(now + _POLL_NS, end), never)
        return self.so_far()

    def so_far(self) -> PowerTrace:
        """The file as it is now.

        Raises:
            MeterError: see `stop`.
        """
        try:
            text = self.path.read_bytes().decode("utf-8-sig", "replace")
        except OSError as error:
            raise MeterError(f"trace: {self.path} cannot be read: {error.strerror}") from error
        rows = _Rows(self.path, self._asked, self._between)
        rows.take(text)
        return rows.trace(self._clock_name, self._scope)

    def _size(self) -> int:
        try:
            return self.path.stat().st_size
        except OSError as error:
            raise MeterError(f"trace: {self.path} is gone: {error.strerror}") from error


@dataclass(slots=True)
class _Rows:
    """Collects the readings of one file, and what was wrong with it."""

    path: Path
    asked: Asked
    between: str
    columns: Columns | None = None
    times: list[int] = field(default_factory=list)
    watts: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    empty: int = 0
    notes: list[str] = field(default_factory=list)

    def take(self, text: str) -> None:
        """All rows of a text.

        Raises:
            MeterError: there is no header, or a row makes no sense.
        """
        lines = text.splitlines(keepends=True)
        if lines and not lines[-1].endswith(("\n", "\r")):
            if lines.pop().strip():
                self.notes.append("the last line has no end and was left out")
        for row, line in self._filled(lines):
            if self.columns is None:
                if not self._header(row, line):
                    continue
                if not self.asked.names:
                    continue
            if not line.startswith(_COMMENTS):
                self._row(row, line)
        if self.columns is None:
            raise MeterError(
                f"trace: {self.path} has no header and no readings", hint="its first row names the columns: t_s,watts"
            )

    def trace(self, clock: str, scope: str) -> PowerTrace:
        """What was collected.

        Raises:
            MeterError: fewer than two readings.
        """
        t_ns, watts = np.array(self.times, np.int64), np.array(self.watts)
        if len(t_ns) < 2:
            raise MeterError(
                f"trace: {self.path} has {len(t_ns)} reading{'' if len(t_ns) == 1 else 's'}, 2 are needed at least",
                hint="record for longer",
            )
        if clock == "wall" and self.columns and not self.columns.is_wall_time and not 10**18 < t_ns[0] < 4 * 10**18:
            raise MeterError(
                f"trace: clock=wall was said of {self.path}, but its first time, {t_ns[0] / 1e9:.6f} s, is not one since 1970",
                hint="record times since 1970 or dates with their zone (2026-01-31T12:00:00Z), or leave clock= out",
            )
        step_ns, lost = regular_steps(t_ns)
        if same := sum(self.counts) - len(self.counts):
            self.notes.append(f"{same} readings had the time of the one before; their mean was taken")
        if self.empty:
            self.notes.append(f"{self.empty} readings were empty or NaN")
        levels = np.diff(np.unique(np.round(watts, 12)))
        return PowerTrace(
            t_ns=t_ns,
            watts=watts,
            scope=scope,
            origin="measured",
            kind="sample",
            meter="trace",
            rate_hz=float((len(t_ns) - 1) / ((t_ns[-1] - t_ns[0]) / 1e9)),
            clock=clock,
            step_watts=float(levels.min()) if len(levels) else 0.0,
            missed=max(lost, self.empty),
            gap_ns=max(_GAP_STEPS * step_ns, LEAST_GAP_NS) if step_ns else 0,
            notes=tuple(self.notes),
        )

    @staticmethod
    def _filled(lines: list[str]) -> Iterator[tuple[int, str]]:
        for row, line in enumerate(lines, 1):
            if stripped := line.strip():
                yield row, stripped

    def _header(self, row: int, line: str) -> bool:
        """Whether the columns are known now; comments before the header may be passed over, or be it."""
        comment = line.startswith(_COMMENTS)
        if comment and self.asked.names:
            return False
        bare = line.lstrip("#/% ")
        self.between = self.between or separator_of(bare)
        cells = list(self.asked.names) or cells_of(bare, self.between)
        try:
            self.columns = Columns(cells, self.asked, timed=True)
        except (RowError, UsageError) as error:
            self.between = "" if comment else self.between
            if comment:
                return False
            words = error.message if isinstance(error, UsageError) else str(error)
            raise MeterError(
                f"trace: {self.path} row {row}: {words}",
                hint="name the columns of a file without a header with columns=t_s,watts",
            ) from error
        return True

    def _row(self, row: int, line: str) -> None:
        try:
            t_ns, watts = self.columns.parse(cells_of(line, self.between))  # type: ignore[union-attr]
        except RowError as error:
            raise MeterError(
                f"trace: {self.path} row {row}: {error}; {len(self.times)} readings came before",
                hint="correct the row or cut it out",
            ) from error
        if t_ns is None or not np.isfinite(watts):
            self.empty += 1
        elif self.times and t_ns < self.times[-1]:
            raise MeterError(
                f"trace: {self.path} row {row}: the time goes back from {self.times[-1] / 1e9:.6f} s to {t_ns / 1e9:.6f} s",
                hint="the file holds two recordings or its clock was set; cut out the one that is wanted",
            )
        elif self.times and t_ns == self.times[-1]:
            self.counts[-1] += 1
            self.watts[-1] += (watts - self.watts[-1]) / self.counts[-1]
        else:
            self.times.append(t_ns)
            self.watts.append(watts)
            self.counts.append(1)


def regular_steps(t_ns: np.ndarray[Any, Any]) -> tuple[int, int]:
    """The usual time between readings and how many are lacking by it; (0, 0) if they come at no steady pace."""
    steps = np.diff(t_ns)
    usual = int(np.median(steps))
    lacking = np.rint(steps / usual) - 1
    on_time = np.abs(steps / usual - lacking - 1) < _JITTER
    if np.mean(on_time) < _REGULAR or np.mean(lacking == 0) < _REGULAR / 2:
        return 0, 0
    return usual, int(lacking.clip(0).sum())
