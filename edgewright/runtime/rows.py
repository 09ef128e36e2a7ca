"""Lines of text, in and out: numbers for sources of sensor samples, results for sinks, and what both need around them."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.errors import SinkError, UsageError
from edgewright.runtime.address import Address
from edgewright.runtime.frames import Array, Result
from edgewright.tables import Columns, RowError, is_header, is_label, split

__all__ = ["Complaints", "LineFile", "Pace", "RowError", "Rows", "broker", "json_line", "names", "separator", "split", "unit"]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def separator(text: str) -> str:
    """The character between two cells, from a setting; "tab" and "space" are written as words.

    Raises:
        ValueError: it is not one character.
    """
    found = {"tab": "\t", "space": " "}.get(text, text)
    if len(found) != 1 or found in '\r\n"':
        raise ValueError("one character is needed, or the word tab or space")
    return found


def unit(text: str) -> int:
    """Nanoseconds of a unit of time.

    Raises:
        ValueError: it is none of s, ms, us and ns.
    """
    known = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
    if text not in known:
        raise ValueError("write s, ms, us or ns")
    return known[text]


def names(text: str) -> tuple[str, ...]:
    """Column names or numbers from a setting, separated by commas.

    Raises:
        ValueError: one is empty or there twice.
    """
    found = tuple(part.strip() for part in text.split(","))
    if not all(found) or len(set(found)) < len(found):
        raise ValueError("write different names or numbers, separated by commas")
    return found


@dataclass(frozen=True, slots=True)
class _Layout:
    columns: Columns
    channels: tuple[int, ...]
    time: int | None


class Rows:
    """Turns the cells of rows into samples; the first good row fixes how many columns there are.

    A stream goes on where values are missing: an empty cell and "nan" are NaN.

    Args:
        time: name or number (from 0) of the column that holds the time; empty if none does.
        unit: nanoseconds in one unit of that column.
        columns: names or numbers of the columns that are channels, in this order; empty for all but the time and those that
            are called label, y:<output> or slice:<name>. A bare y may be an axis and is a channel.
        width: number of columns, if it is known before the first row.
    """

    def __init__(self, *, time: str = "", unit: int = 10**9, columns: Sequence[str] = (), width: int = 0) -> None:
        self.names: tuple[str, ...] = ()
        self._time, self._unit, self._columns, self._width = time, unit, tuple(columns), width
        self._layout: _Layout | None = None

    @property
    def by_name(self) -> bool:
        """Whether columns are asked for by name, so that a header is needed."""
        return any(not text.isdecimal() for text in (*self._columns, *([self._time] if self._time else [])))

    def is_header(self, cells: Sequence[str]) -> bool:
        """Whether a first row names the columns: names are asked for, or the cells that are used look like names."""
        if self.by_name:
            return True
        layout = self._plan(len(cells))
        return is_header(cells, [*layout.channels, *([layout.time] if layout.time is not None else [])])

    def take_header(self, cells: Sequence[str]) -> None:
        """Name the columns.

        Raises:
            RowError: a column that was asked for is not among them.
        """
        self.names = tuple(cell.strip() for cell in cells)
        try:
            self._layout = self._plan(len(cells))
        except RowError:
            self.names = ()
            raise

    def forget(self) -> None:
        """Let the next row fix the columns and their names anew."""
        self.names, self._layout = (), None

    def parse(self, cells: Sequence[Any]) -> tuple[Array, int | None]:
        """One sample: values as float32 (channels,), and the time column in nanoseconds.

        Raises:
            RowError: another number of columns, or a cell that is no number.
        """
        layout = self._layout or self._plan(len(cells))
        columns, time = layout.columns, layout.time
        columns.check(len(cells))
        values = np.array([columns.number(cells, place) for place in layout.channels], dtype=np.float32)
        recorded = None if time is None else columns.nanoseconds(cells, time, self._unit)
        self._layout = layout
        return values, recorded

    def _plan(self, width: int) -> _Layout:
        columns = Columns(self._width or width, self.names)
        columns.check(width)
        time = columns.place(self._time) if self._time else None
        channels = tuple(columns.place(name) for name in self._columns)
        if not channels:
            apart = {place for place, name in enumerate(self.names) if name != "y" and is_label(name)}
            channels = tuple(place for place in range(width) if place != time and place not in apart)
        if not channels:
            raise RowError("no column found that could be a channel")
        return _Layout(columns, channels, time)


class Pace:
    """Waits until moments after a start, which is the first call.

    Args:
        closed: ends a wait when it is set.
    """

    def __init__(self, closed: threading.Event) -> None:
        self._closed = closed
        self._start: float | None = None

    def wait(self, after_s: float) -> bool:
        """Wait until so many seconds after the start, not at all if that has passed; False if `closed` was set."""
        if self._start is None:
            self._start = time.monotonic() - after_s
        while not self._closed.is_set() and (left := self._start + after_s - time.monotonic()) > 0:
            self._closed.wait(min(left, 3600.0))
        return not self._closed.is_set()


class Complaints:
    """Sentences that would come too often: at most one a second, with a count of those in between.

    Args:
        what: what is counted, for example "broken lines".
        tell: where a sentence goes.
    """

    def __init__(self, what: str, tell: Callable[[str], None], every_s: float = 1.0) -> None:
        self._what, self._tell, self._every_s = what, tell, every_s
        self._count, self._last, self._said = 0, "", -float("inf")

    def add(self, sentence: str) -> None:
        """Count one, and tell if the last time is long enough ago."""
        self._count, self._last = self._count + 1, sentence
        self.remind()

    def remind(self) -> None:
        """Tell what was counted since the last time, if that is long enough ago."""
        if self._count and time.monotonic() - self._said >= self._every_s:
            count, self._count, self._said = self._count, 0, time.monotonic()
            self._tell(self._last if count == 1 else f"{self._last}; {count} {self._what} since it was last told")


def json_line(result: Result) -> str:
    """A result as one line of JSON, without the newline; NaN and infinity, which JSON has not, become null."""
    data = result.to_json()
    try:
        return json.dumps(data, allow_nan=False)
    except (ValueError, TypeError):
        return json.dumps(_plain(data), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int)) else str(value)


class LineFile:
    """A file that grows by whole lines: a line is there completely or not at all, also on a full disk.

    What the file held is replaced with the first line, not before. A line is with the system when `write` returns, so that it
    outlives the process, though not a power cut.

    Args:
        path: the file.
        append: keep what the file holds; half a line of JSON at its end is cut off.

    Raises:
        SinkError: it cannot be opened for writing.
    """

    def __init__(self, path: Path, *, append: bool = False) -> None:
        self._path, self._append, self._begun = path, append, False
        if not path.parent.is_dir():
            raise SinkError(f"{path} cannot be written: the folder {path.parent} is not there", hint=f"mkdir -p {path.parent}")
        try:
            access = (os.O_RDWR if append else os.O_WRONLY) | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._file: int | None = os.open(path, access, 0o666)
        except OSError as error:
            raise SinkError(f"{path} cannot be written: {error.strerror}", hint="choose another file") from error

    def write(self, line: str) -> None:
        """Add a line, which is given without its newline.

        Raises:
            SinkError: the disk is full, or the file cannot be written for another reason; nothing of the line is left.
        """
        if self._file is None:
            raise SinkError(f"{self._path} is closed, the result was not written")
        file, rest = self._file, (line + "\n").encode("utf-8", "backslashreplace")
        written = 0
        try:
            if not self._begun:
                self._begin(file)
            while rest:
                count = os.write(file, rest)
                written, rest = written + count, rest[count:]
        except OSError as error:
            self._take_back(file, written)
            hint = "make room: the stream goes on with what comes then" if error.errno in _FULL else "write to another place"
            raise SinkError(f"{self._path} cannot be written: {error.strerror}", hint=hint) from error

    def close(self) -> None:
        """Close the file; twice is allowed."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _begin(self, file: int) -> None:
        """Make the place for the first line: an empty file, or the end of the last whole line."""
        if stat.S_ISREG(os.fstat(file).st_mode):
            if self._append:
                self._mend(file)
            else:
                os.ftruncate(file, 0)
        self._begun = True

    @staticmethod
    def _mend(file: int) -> None:
        """Cut off half a line at the end, as a full disk or another program leaves it; a line that lacks its newline gets it."""
        size = end = os.fstat(file).st_size
        while end > 0 and os.pread(file, 1, end - 1) != b"\n":
            begin = max(0, end - 65536)
            end = begin + os.pread(file, end - begin, begin).rfind(b"\n") + 1
        try:
            json.loads(os.pread(file, size - end, end))
        except ValueError:
            os.ftruncate(file, end)
        else:
            os.write(file, b"\n")

    @staticmethod
    def _take_back(file: int, written: int) -> None:
        """Cut off the part of a line that found room."""
        with contextlib.suppress(OSError):
            state = os.fstat(file)
            if written and stat.S_ISREG(state.st_mode):
                os.ftruncate(file, state.st_size - written)


def broker(address: Address, port: int) -> tuple[str, int, str]:
    """Host, port and topic of an address like mqtt://host:1883/topic/name.

    Args:
        address: the address; its settings are not shown in messages, since they may hold a password.
        port: the one that is meant if none is written.

    Raises:
        UsageError: a part is missing.
    """
    place, _, topic = address.target.removeprefix("//").partition("/")
    host, colon, number = place.rpartition(":") if not place.endswith("]") else ("", "", "")
    if not colon:
        host, number = place, str(port)
    usable = number.isdecimal() and 0 < int(number) < 65536
    if not address.target.startswith("//") or not host or not topic or not usable or "@" in host:
        shown = address.target if "@" not in place else f"//…@{place.rpartition('@')[2]}/{topic}"
        raise UsageError(
            f"an address of {address.scheme} is {address.scheme}://host:{port}/topic, found was {address.scheme}:{shown}",
            hint="write a name and a password as settings: ?user=NAME&password=WORD" if "@" in host else "",
        )
    return host.strip("[]"), int(number), topic
