"""Results as rows of a CSV file."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from edgewright.runtime.address import Address
from edgewright.runtime.frames import Result, Sink
from edgewright.runtime.rows import LineFile, json_line
from edgewright.runtime.sinks import SINKS

__all__ = ["CsvSink"]

_MORE = "more"


@SINKS.register("csv")
class CsvSink(Sink):
    """One row a result; the columns are what the first result has, and `more` for what later ones have besides, as JSON.

    Lists and objects are written as JSON into their cell; what is absent or null is an empty cell.

    Args:
        path: the file; what it holds is replaced by the first result.

    Raises:
        SinkError: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._file = LineFile(path)
        self._columns: tuple[str, ...] = ()

    @classmethod
    def of(cls, address: Address) -> CsvSink:
        """Open a file, for example `csv:out.csv`."""
        address.options()
        return cls(Path(address.target))

    def write(self, result: Result) -> None:
        """Write one row, before the first one the header."""
        # Through the JSON form, so that all sinks write the same values.
        data: dict[str, Any] = json.loads(json_line(result))
        columns = self._columns or tuple(key for key in data if key != _MORE)
        rest = {key: value for key, value in data.items() if key not in columns}
        row = [_cell(data.get(name)) for name in columns] + [json.dumps(rest) if rest else ""]
        # Header and first row together: a full disk leaves both or neither.
        self._file.write(_text(row) if self._columns else f"{_text([*columns, _MORE])}\n{_text(row)}")
        self._columns = columns

    def close(self) -> int:
        """Close the file; nothing waits."""
        self._file.close()
        return 0


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return json.dumps(value) if isinstance(value, (list, dict, bool)) else value


def _text(cells: list[Any]) -> str:
    # A terminator of both characters makes the writer quote cells that have either.
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\r\n").writerow(cells)
    return out.getvalue().removesuffix("\r\n")
