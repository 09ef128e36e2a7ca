"""Columns of external meters: which one is the time, which the power, in which units; rows become nanoseconds and watts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal, InvalidOperation
from typing import Literal

from edgewright.errors import UsageError

__all__ = ["Asked", "Columns", "RowError", "cells_of", "column_of", "separator_of"]

Quantity = Literal["time", "watts", "volts", "amps"]

_UNITS: dict[str, tuple[Quantity, int]] = {
    **{"s": ("time", 0), "sec": ("time", 0), "seconds": ("time", 0), "ms": ("time", -3), "us": ("time", -6), "ns": ("time", -9)},
    **{"w": ("watts", 0), "watt": ("watts", 0), "watts": ("watts", 0), "mw": ("watts", -3), "uw": ("watts", -6)},
    **{"v": ("volts", 0), "volt": ("volts", 0), "volts": ("volts", 0), "mv": ("volts", -3), "uv": ("volts", -6)},
    **{"a": ("amps", 0), "amp": ("amps", 0), "amps": ("amps", 0), "ma": ("amps", -3), "ua": ("amps", -6), "na": ("amps", -9)},
}
"""Quantity and power of ten of each unit, in lower case with "u" for micro."""
_WORDS: dict[str, Quantity] = {
    **{"t": "time", "time": "time", "timestamp": "time", "seconds": "time", "date": "time", "datetime": "time"},
    **{"power": "watts", "p": "watts", "voltage": "volts", "u": "volts", "current": "amps", "i": "amps"},
}
_LONGEST_EXPONENT = 24
"""A time of more digits is no time, and as an integer could fill the memory."""
_LPM01A = re.compile(r"\d{1,7}[+-]\d\d")
"""The number format of ST's X-NUCLEO-LPM01A (UM2269): "6409-07" is 6409e-7."""


class RowError(ValueError):
    """A row is not made of the numbers that are expected; the meter says which row."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Columns that the user names (names or numbers from 0), empty where none is; `volts` may also be a constant.

    Attributes:
        time: the column of the time.
        power: of the power.
        volts: of the voltage, or volts as a number with a point or a unit: "3.3", "3300mv".
        amps: of the current.
        names: names for the columns of a file or port that has no header.
    """

    time: str = ""
    power: str = ""
    volts: str = ""
    amps: str = ""
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Column:
    place: int
    exponent: int


def column_of(name: str) -> tuple[Quantity, int] | None:
    """What a column's name says: "t_ms", "Time (s)", "Current(uA)", "power [mW]", "watts"; quantity and power of ten, or None."""
    words = name.strip().strip("#\"' ").lower().replace("µ", "u").replace("μ", "u")
    bracketed = re.search(r"[\(\[]\s*([a-z]+)\s*[\)\]]", words)
    if bracketed:
        return _UNITS.get(bracketed[1])
    parts = [part for part in re.split(r"[\s_\-/.:]+", words) if part]
    if not parts:
        return None
    if parts[-1] in _UNITS:
        return _UNITS[parts[-1]]
    for part in parts:
        if part in _WORDS:
            return _WORDS[part], 0
    return None


def separator_of(line: str) -> str:
    """The character between the cells of a line: the most frequent of tab, semicolon and comma, else white space."""
    counts = {between: line.count(between) for between in ("\t", ";", ",")}
    best = max(counts, key=lambda between: counts[between])
    return best if counts[best] else " "


def cells_of(line: str, between: str) -> list[str]:
    """Cells of a line without quotes around them; where no comma stands between cells, it is a decimal point."""
    cells = line.split() if between == " " else line.split(between)
    return [cell.strip().strip('"') if between == "," else cell.strip().strip('"').replace(",", ".") for cell in cells]


class Columns:
    """Turns the cells of rows into times and watts.

    Args:
        names: the columns' names.
        asked: those that the user names.
        timed: whether a column of times is needed.

    Raises:
        RowError: no column gives the time or the power, or several could.
        UsageError: a column that is asked for is not there.
    """

    def __init__(self, names: Sequence[str], asked: Asked, *, timed: bool) -> None:
        self.names, self._iso = tuple(name.strip().strip('"') for name in names), False
        self._volts_constant = self._constant(asked.volts)
        self._time = self._find("time", asked.time) if timed or asked.time else None
        if timed and self._time is None:
            raise RowError(f"no column of the time found ({self._there()}), expected is for example t_s, t_ms or 'Time (s)'")
        amps = None if asked.power else self._find("amps", asked.amps)
        volts = None if self._volts_constant is not None else self._find("volts", asked.volts)
        self._watts = self._find("watts", asked.power)
        self._volts, self._amps = volts, amps
        if self._watts is None and (amps is None or (volts is None and self._volts_constant is None)):
            lacks = "a current and no voltage: add volts=3.3 (the supply's)" if amps is not None else "no power found"
            raise RowError(f"{lacks} ({self._there()}), expected is watts, mW, or volts and amps")

    def parse(self, cells: Sequence[str]) -> tuple[int | None, float]:
        """Nanoseconds (None without a column of times) and watts of one row; an empty cell and "nan" give NaN watts.

        Raises:
            RowError: another number of columns, or a cell that is no number.
        """
        if len(cells) != len(self.names):
            raise RowError(f"{len(cells)} columns found, expected are {len(self.names)} ({', '.join(self.names)})")
        t_ns = None if self._time is None else self._nanoseconds(cells[self._time.place], self._time.exponent)
        if self._watts is not None:
            return t_ns, self._number(cells, self._watts)
        volts = self._volts_constant if self._volts is None else self._number(cells, self._volts)
        amps = self._number(cells, self._amps) if self._amps else 0.0
        return t_ns, (volts or 0.0) * amps

    @property
    def is_wall_time(self) -> bool:
        """Whether the times that were parsed were dates with their zone."""
        return self._iso

    def _there(self) -> str:
        return f"there are: {', '.join(self.names)}"

    def _constant(self, text: str) -> float | None:
        """Volts of `volts=3.3` or `volts=3300mv`; None where that is the name or number of a column."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(mv|v)?", text.lower())
        if not found or text in self.names or not ("." in text or found[2] or int(found[1]) >= len(self.names)):
            return None
        return float(found[1]) * (1e-3 if found[2] == "mv" else 1.0)

    def _find(self, quantity: Quantity, asked: str) -> _Column | None:
        if asked:
            if asked in self.names:
                place = self.names.index(asked)
            elif asked.isdecimal() and int(asked) < len(self.names):
                place = int(asked)
            else:
                raise UsageError(f"there is no column '{asked}'", hint=self._there())
            known = column_of(self.names[place])
            return _Column(place, known[1] if known and known[0] == quantity else 0)
        found = [
            _Column(place, known[1])
            for place, name in enumerate(self.names)
            if (known := column_of(name)) and known[0] == quantity
        ]
        if len(found) > 1:
            option = {"watts": "power"}.get(quantity, quantity)
            raise RowError(
                f"{len(found)} columns could be the {quantity}: {', '.join(self.names[column.place] for column in found)}; "
                f"choose one with {option}="
            )
        return found[0] if found else None

    def _number(self, cells: Sequence[str], column: _Column) -> float:
        cell = cells[column.place]
        if _LPM01A.fullmatch(cell):
            cell = f"{cell[:-3]}e{cell[-3:]}"
        try:
            return float(cell or "nan") * 10.0**column.exponent
        except ValueError:
            raise RowError(f"column '{self.names[column.place]}' is '{cell[:40]}', expected is a number") from None

    def _nanoseconds(self, cell: str, exponent: int) -> int:
        # Not through float: seconds since 1970 have no nanoseconds left in 53 bits.
        try:
            value = Decimal(cell)
        except InvalidOperation:
            return self._date(cell)
        if not value.is_finite() or value.adjusted() > _LONGEST_EXPONENT:
            raise RowError(f"the time is '{cell[:40]}', expected is a number")
        return int(value.scaleb(9 + exponent))

    def _date(self, cell: str) -> int:
        """Nanoseconds since 1970 of a date and time; one without a zone counts as UTC, which only its differences depend on."""
        six_digits = re.sub(r"\.(\d+)", lambda found: f".{found[1][:6]:0<6}", cell)  # Python 3.10 takes no other number of them
        try:
            moment = datetime.fromisoformat(six_digits.replace("Z", "+00:00"))
        except ValueError:
            raise RowError(f"the time is '{cell[:40]}', expected is a number or a date as 2026-01-31T12:00:00.5") from None
        self._iso = moment.tzinfo is not None
        since = moment.replace(tzinfo=moment.tzinfo or timezone.utc) - datetime(1970, 1, 1, tzinfo=timezone.utc)
        return (since.days * 86400 + since.seconds) * 10**9 + since.microseconds * 1000
