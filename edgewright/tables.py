"""Tables of numbers as text: what separates cells, what a header is and what a cell may hold, for streams and samples alike.

Cells are separated by commas, semicolons or tabs, and may stand in quotes. Lines without a cell are passed over. Where no comma
separates, a comma between digits is a decimal point.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from edgewright.declared import says_number

__all__ = ["Columns", "CsvFile", "RowError", "is_header", "is_label", "separator_of", "split"]

_MOST = float(np.finfo(np.float32).max)
_LONGEST_EXPONENT = 24
"""A time of more digits is no time, and as an integer could fill the memory."""
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d*,\d+(?:[eE][+-]?\d+)?\s*")


class RowError(ValueError):
    """A row is not made of the cells that are expected; who reads it says which row.

    Args:
        message: what was found, and what is expected.
        hint: what to do about it, where that is known here.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def separator_of(line: str) -> str:
    """The character between the cells of a line: the most frequent of comma, semicolon and tab outside quotes, else a comma.

    Beside a semicolon or a tab, a comma between two digits is a decimal comma and does not count.
    """
    bare = re.sub(r'"[^"]*"', "", line)
    counts = {between: bare.count(between) for between in ",;\t"}
    if counts[";"] or counts["\t"]:
        counts[","] -= len(re.findall(r"(?<=\d),(?=\d)", bare))
    return max(counts, key=lambda between: counts[between])


def split(line: str, between: str) -> list[str]:
    """Cells of one line that stands for itself; several spaces separate like one."""
    try:
        cells = next(_reader([_spaced(line) if between == " " else line], between), [])
    except csv.Error:  # a control character: the pieces tell who reads them that they are no numbers
        cells = line.split(between)
    return cells if between == "," else _with_points(cells)


def is_label(name: str) -> bool:
    """Whether a column of this name holds labels or slices, by the names that recordings have for them."""
    return name in {"y", "label"} or name.startswith(("y:", "slice:"))


def is_header(cells: Sequence[str], used: Iterable[int] | None = None) -> bool:
    """Whether a first row names the columns: one of them is `is_label`, or no cell is a number and not all are empty.

    Args:
        cells: the row.
        used: places of the cells that must be no numbers; None for all.
    """
    if any(is_label(cell.strip()) for cell in cells):
        return True
    filled = [cell for cell in (cells if used is None else [cells[place] for place in used]) if cell.strip()]
    return bool(filled) and not any(map(says_number, filled))


class CsvFile:
    """Rows of a CSV file as lists of cells, read as they are asked for; a byte order mark is no part of them.

    Args:
        path: the file.
        between: the character between two cells; empty for what `separator_of` finds in the first line that is not blank.
        strict: refuse bytes that are not UTF-8; otherwise they become U+FFFD, and a stream goes on.

    Attributes:
        row: number of the line, from 1, that the last row ended in.

    Raises:
        OSError: the file cannot be opened, or not be read on.
    """

    def __init__(self, path: Path, between: str = "", *, strict: bool) -> None:
        self.row = 0
        self._path, self._between, self._last = path, between, ""
        self._file = path.open(encoding="utf-8-sig", errors="strict" if strict else "replace", newline="")
        self._rows: Iterator[list[str]] | None = None

    def __iter__(self) -> CsvFile:
        return self

    def __next__(self) -> list[str]:
        """The next row that has a cell.

        Raises:
            RowError: what comes next is no CSV, or not UTF-8 and `strict`.
        """
        try:
            if self._rows is None:
                self._between = self._between or separator_of(next((line for line in self._file if line.strip()), ""))
                self._file.seek(0)
                self._rows = _reader(self._lines(), self._between)
            # A line of a single pair of quotes is how an empty cell is written where there is one column.
            while len(cells := next(self._rows)) < 2 and not any(map(str.strip, cells)) and '"' not in self._last:
                pass
        except csv.Error as error:
            raise RowError(f"it is no CSV: {error}") from error
        except UnicodeDecodeError as error:
            self.row = self._undecodable()
            raise RowError(f"it is not UTF-8: {error.reason}", hint="save the file as UTF-8") from error
        return cells if self._between == "," else _with_points(cells)

    def __enter__(self) -> CsvFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; twice is allowed."""
        self._file.close()

    def _lines(self) -> Iterator[str]:
        """Lines as csv.reader takes them; at its end the file is closed, also if nobody comes to do it."""
        spaces = self._between == " "
        for line in self._file:
            self.row += 1
            self._last = line
            yield _spaced(line) if spaces else line
        self._file.close()

    def _undecodable(self) -> int:
        """The first line that is not UTF-8; the decoder, which works in blocks, does not know it."""
        whole = self._path.read_bytes()
        try:
            whole.decode("utf-8")
        except UnicodeDecodeError as error:
            return len(whole[: error.start + 1].splitlines())
        return self.row


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a table, and the values in their cells.

    Args:
        width: how many there are.
        names: what the header calls them; empty without one.
        strict: refuse empty cells and "nan", which otherwise are NaN: a value that is missing.
    """

    width: int
    names: tuple[str, ...] = ()
    strict: bool = False

    def check(self, width: int) -> None:
        """Refuse a row of another number of cells.

        Raises:
            RowError: there are more or fewer columns; both numbers are named.
        """
        if width != self.width:
            raise RowError(f"{width} column{'' if width == 1 else 's'} found, expected are {self.width}")

    def place(self, name: str) -> int:
        """Where a column is, from its name or number (from 0).

        Raises:
            RowError: there is none; the message names those that there are.
        """
        if name in self.names:
            return self.names.index(name)
        if name.isdecimal() and int(name) < self.width:
            return int(name)
        there = ", ".join(self.names) if self.names else f"0 to {self.width - 1}, without names"
        raise RowError(f"no column '{name}' found (there are: {there})")

    def label(self, place: int) -> str:
        """A column as a message calls it."""
        named = place < len(self.names) and self.names[place]
        return f"'{named}'" if named else f"{place} (counted from 0)"

    def number(self, cells: Sequence[Any], place: int) -> float:
        """The number in a cell, of the range of float32.

        Raises:
            RowError: it is none, or is infinite, or is missing and `strict`.
        """
        cell = cells[place]
        try:
            value = float("" if "_" in cell else cell)  # 1_000, which Python knows, is no number in a table
        except (ValueError, TypeError):
            if not isinstance(cell, str) or cell.strip():
                raise self._wrong(cell, place) from None
            value = np.nan
        if abs(value) > _MOST:
            raise RowError(f"column {self.label(place)} is '{_short(cell)}', expected is a number that float32 can hold")
        if self.strict and value != value:
            raise self._wrong(cell, place)
        return value

    def text(self, cells: Sequence[str], place: int) -> str:
        """The text in a cell, without the spaces around it.

        Raises:
            RowError: there is none.
        """
        if not (text := cells[place].strip()):
            raise RowError(f"column {self.label(place)} is empty, expected is a label")
        return text

    def nanoseconds(self, cells: Sequence[Any], place: int, unit: int) -> int:
        """The time in a cell.

        Args:
            cells: the row.
            place: the column.
            unit: nanoseconds in one unit of it.

        Raises:
            RowError: it is no finite number.
        """
        # Not through float: seconds since 1970 have no nanoseconds left in 53 bits.
        try:
            value = Decimal("nan" if "_" in cells[place] else cells[place].strip())
        except (InvalidOperation, TypeError, AttributeError):
            value = Decimal("nan")
        if not value.is_finite() or value.adjusted() > _LONGEST_EXPONENT:
            raise RowError(f"time column {self.label(place)} is '{_short(cells[place])}', expected is a number")
        return int(value * unit)

    def _wrong(self, cell: Any, place: int) -> RowError:
        expected = "a finite number" if self.strict else "a number"
        return RowError(f"column {self.label(place)} is '{_short(cell)}', expected is {expected}")


def _reader(lines: Iterable[str], between: str) -> Iterator[list[str]]:
    return csv.reader(lines, delimiter=between, skipinitialspace=True)


def _spaced(line: str) -> str:
    """A line with one space where there are several, each of which separates to csv.reader."""
    return " ".join(line.split())


def _with_points(cells: list[str]) -> list[str]:
    """Cells with decimal points for decimal commas, which there are only where a comma does not separate."""
    return [cell.replace(",", ".") if "," in cell and _DECIMAL_COMMA.fullmatch(cell) else cell for cell in cells]


def _short(value: Any) -> str:
    text = str(value).strip()
    return text if len(text) <= 40 else text[:39] + "…"
