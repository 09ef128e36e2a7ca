"""Recordings in CSV files as arrays: a column per channel, and columns of labels and slices."""

from __future__ import annotations

import itertools
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewright.errors import SamplesError
from edgewright.tables import Columns, CsvFile, RowError, is_header, is_label

__all__ = ["Recording", "read_recording"]

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """What a file holds.

    Args:
        values: float32 (rows, channels), finite.
        channels: their names, or their numbers from 0 if there is no header.
        labels: arrays (rows,) of int64, float64 or texts: `y`, `y:<output>` and `slice:<name>`.
    """

    values: Array
    channels: tuple[str, ...]
    labels: dict[str, Array]


def read_recording(path: Path) -> Recording:
    """Read a file whole. A sample cannot be used in part: other than in a stream, each cell must hold a value.

    Args:
        path: a CSV file, see `edgewright.tables`. Columns called y, label, y:<output> and slice:<name> are no channels.

    Raises:
        SamplesError: the file has no row or no channel, or a row is not as the first; row, column and value are named.
        OSError: it cannot be read.
    """
    with CsvFile(path, strict=True) as rows:
        try:
            return _read(path, rows)
        except RowError as error:
            hint = error.hint or "correct the row, or take it out"
            raise SamplesError(f"{path} row {rows.row}: {error}", hint=hint) from error


def _read(path: Path, rows: CsvFile) -> Recording:
    first = next(rows, None)
    if first is None:
        raise SamplesError(f"{path} is empty: it has 0 rows", hint="one row per sample is expected, a header if you like")
    named = is_header(first)
    columns = Columns(len(first), tuple(cell.strip() for cell in first) if named else (), strict=True)
    keys = {place: "y" if name == "label" else name for place, name in enumerate(columns.names) if is_label(name)}
    if len(set(keys.values())) < len(keys):
        raise SamplesError(
            f"{path} has more than one column for the same labels: {', '.join(columns.names[place] for place in keys)}",
            hint="keep one of them; an axis that is called y needs another name, for example ay",
        )
    channels = [place for place in range(columns.width) if place not in keys]
    if not channels:
        raise SamplesError(f"{path} has the columns {', '.join(columns.names)}, none of them is a channel")
    values, texts = array("f"), {place: list[str]() for place in keys}
    for cells in rows if named else itertools.chain([first], rows):
        columns.check(len(cells))
        values.extend([columns.number(cells, place) for place in channels])
        for place, column in texts.items():
            column.append(columns.text(cells, place))
    recording = np.asarray(values, np.float32).reshape(-1, len(channels))
    names = tuple(columns.names[place] if named else str(place) for place in channels)
    return Recording(recording, names, {keys[place]: _typed(column) for place, column in texts.items()})


def _typed(cells: list[str]) -> Array:
    """Label cells as int64, float64 or texts, whichever fits all of them first; 1_2 is a text, though Python reads a number."""
    kinds = () if any("_" in cell for cell in cells) else ((int, np.int64), (float, np.float64))
    for kind, dtype in kinds:
        try:
            return np.asarray([kind(cell) for cell in cells], dtype)
        except (ValueError, OverflowError):
            continue
    return np.asarray(cells)
