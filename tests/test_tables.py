"""Tables of numbers as text: what one program writes, streams and samples read alike."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgewright.artifact import TensorSpec
from edgewright.errors import EdgewrightError, SamplesError, SourceError
from edgewright.runtime.sources import open_source
from edgewright.samples import Samples, open_samples
from edgewright.tables import Columns, CsvFile, RowError, is_header, separator_of, split

_LETTERS = st.text("abzäß°µ .'\"-", max_size=6)
_LABELS = st.text("abzö ,;\t\"'.5", max_size=6).map(lambda text: f"k{text}e")


@dataclass(frozen=True)
class Table:
    """Values as float32 (rows, channels), names of the channels or none, labels or none."""

    values: np.ndarray
    names: list[str]
    labels: list[str]


@st.composite
def tables(draw: st.DrawFn) -> Table:
    width, rows = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    number = st.floats(width=32, allow_nan=False, allow_infinity=False)
    values = draw(st.lists(st.lists(number, min_size=width, max_size=width), min_size=rows, max_size=rows))
    labels = draw(st.one_of(st.just([]), st.lists(_LABELS, min_size=rows, max_size=rows)))
    named = bool(labels) or draw(st.booleans())
    names = [f"c{place}{draw(_LETTERS)}".strip() for place in range(width)] if named else []
    return Table(np.array(values, np.float32), names, labels)


def written(table: Table, delimiter: str, quoting: int, ending: str) -> str:
    """The table as Python's csv module writes it."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator=ending)
    if table.names:
        writer.writerow([*table.names, *(["label"] if table.labels else [])])
    for place, row in enumerate(table.values.tolist()):
        writer.writerow([*row, *table.labels[place : place + 1]])
    return text.getvalue()


def by_stream(path: Path, settings: str = "") -> np.ndarray:
    with open_source(f"csv:{path}{settings}") as source:
        return np.array([frame.data for frame in source])


def by_samples(path: Path, width: int) -> tuple[np.ndarray, Samples]:
    samples = open_samples(path, (TensorSpec("x", (1, width), "float32"),))
    return np.concatenate([one["x"] for one in samples]), samples


@settings(max_examples=300, deadline=None)
@given(
    tables(),
    st.sampled_from(",;\t"),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.sampled_from(["\r\n", "\n", "\r"]),
    st.booleans(),
)
@example(Table(np.ones((1, 1), np.float32), ['c"'], ["k\n\ne"]), ";", csv.QUOTE_MINIMAL, "\n", True)
@example(Table(np.ones((1, 1), np.float32), ["c"], ["k\r\ne"]), ",", csv.QUOTE_MINIMAL, "\r\n", False)
def test_a_table_is_read_back_equal_by_both_sides(
    tmp_path_factory: pytest.TempPathFactory, table: Table, delimiter: str, quoting: int, ending: str, mark: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "table.csv"
    path.write_bytes(written(table, delimiter, quoting, ending).encode("utf-8-sig" if mark else "utf-8"))
    np.testing.assert_array_equal(by_stream(path), table.values)
    values, samples = by_samples(path, table.values.shape[1])
    np.testing.assert_array_equal(values, table.values)
    if table.labels:
        assert [samples.class_names[number] for number in samples.labels["y"]] == table.labels
    named = "separator=" + {"\t": "tab"}.get(delimiter, delimiter).replace(";", "%3B")
    np.testing.assert_array_equal(by_stream(path, f"?{named}"), table.values)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("ax;ay\n1,5;-2\n,25;3e2\n", [[1.5, -2], [0.25, 300]]),
        ("1,5\t2,5\n3\t4\n", [[1.5, 2.5], [3, 4]]),
        ("1,5;2,5;3,5\n", [[1.5, 2.5, 3.5]]),
        ('"ax","ay"\n"1.5", "2"\n', [[1.5, 2]]),
        ("\n \t\nax, ay\n\n1, 2\n   \n3 ,4", [[1, 2], [3, 4]]),
        ("ax,ay,label,slice:who\n1,2,sit,me\n3,4,run,me\n", [[1, 2], [3, 4]]),
        ("1,2,label\n1,2,sit\n", [[1, 2]]),
        (",ax\n0,1\n", [[0, 1]]),
        ("µ;°C\n+1;2.\n", [[1, 2]]),
    ],
)
def test_what_both_sides_read(tmp_path: Path, text: str, values: list[list[float]]) -> None:
    path = tmp_path / "rec.csv"
    path.write_bytes(text.encode())
    assert by_stream(path).tolist() == values
    assert by_samples(path, len(values[0]))[0].tolist() == values


@pytest.mark.parametrize(
    ("text", "row", "said"),
    [
        ("ax,ay\n1,2\n\n3\n", 4, "1 column found, expected are 2"),
        ("ax,ay\n1,2\n3,4,5\n", 3, "3 columns found, expected are 2"),
        ("ax,ay\n1,2\n3,four\n", 3, "column 'ay' is 'four', expected is a"),
        ("1,2\n3,x\n", 2, "column 1 (counted from 0) is 'x', expected is a"),
        ("1,2\n1_000,2\n", 2, "column 0 (counted from 0) is '1_000', expected is a"),
        ("1,2\n1e39,2\n", 2, "'1e39', expected is a number that float32 can hold"),
        ("1,2\ninf,2\n", 2, "'inf', expected is a number that float32 can hold"),
        ("1;2\n1,234.5;2\n", 2, "'1,234.5', expected is a"),
        ("ax,\n1,x\n", 2, "column 1 (counted from 0) is 'x', expected is a"),
    ],
)
def test_what_both_sides_refuse_in_the_same_words(tmp_path: Path, text: str, row: int, said: str) -> None:
    path = tmp_path / "rec.csv"
    path.write_text(text)
    for kind, read in ((SourceError, lambda: by_stream(path)), (SamplesError, lambda: by_samples(path, 2))):
        with pytest.raises(kind) as error:
            read()
        assert isinstance(error.value, EdgewrightError)
        assert error.value.message.startswith(f"{path} row {row}: ")
        assert said in error.value.message
        assert error.value.hint


def test_what_a_stream_goes_on_over_is_refused_in_samples(tmp_path: Path) -> None:
    path = tmp_path / "rec.csv"
    for cell in ("", "nan", " "):
        path.write_text(f"1,2\n3,{cell}\n5,6\n")
        np.testing.assert_array_equal(by_stream(path), [[1, 2], [3, np.nan], [5, 6]])
        with pytest.raises(SamplesError, match=r"row 2: column 1 \(counted from 0\) is '.*', expected is a finite number"):
            by_samples(path, 2)
    path.write_bytes(b"Temp \xb0C,b\n1,2\n")
    assert by_stream(path).tolist() == [[1, 2]]
    with pytest.raises(SamplesError, match="row 1: it is not UTF-8"):
        by_samples(path, 2)


def test_a_bare_y_is_an_axis_in_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "rec.csv"
    path.write_text("x,y,z,label\n1,2,3,0\n")
    assert by_stream(path).tolist() == [[1, 2, 3]]
    assert by_stream(path, "?columns=label,x").tolist() == [[0, 1]]


def test_an_empty_cell_is_a_row_where_there_is_one_column_and_a_blank_line_is_none(tmp_path: Path) -> None:
    path = tmp_path / "rec.csv"
    path.write_text('1\n""\n\n2\n')
    np.testing.assert_array_equal(by_stream(path), [[1], [np.nan], [2]])


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("a,b", ","),
        ("a;b", ";"),
        ("a\tb", "\t"),
        ("a", ","),
        ("", ","),
        ('"a;b;c",d', ","),
        ("1,5;2,5", ";"),
        ("1,5\t2,5", "\t"),
        ("a,b,c;d", ","),
    ],
)
def test_separator(line: str, found: str) -> None:
    assert separator_of(line) == found


def test_cells_of_a_line() -> None:
    assert split("1, 2,3", ",") == ["1", "2", "3"]
    assert split(" 1   2\t3 ", " ") == ["1", "2", "3"]
    assert split('"a,b",1,5', ",") == ["a,b", "1", "5"]
    assert split("1,5;2,5;a,b;1,2,3", ";") == ["1.5", "2.5", "a,b", "1,2,3"]
    assert split("1\r2,3", ",") == ["1\r2", "3"]


def test_header() -> None:
    assert is_header(["ax", ""])
    assert is_header(["1", "label"])
    assert is_header(["id", "1"], used=[0])
    assert not is_header(["ax", "1"])
    assert not is_header(["", ""])
    assert not is_header(["nan", "inf"])


def test_times_keep_their_nanoseconds() -> None:
    columns = Columns(2, ("t", "ax"))
    assert columns.nanoseconds(["1700000000.123456789", "1"], 0, 10**9) == 1700000000123456789
    for cell in ("", "soon", "1_0", "nan", "1e99"):
        with pytest.raises(RowError, match=f"time column 't' is '{cell}', expected is a number"):
            columns.nanoseconds([cell, "1"], 0, 10**9)


def test_a_file_is_closed_by_with(tmp_path: Path) -> None:
    path = tmp_path / "rec.csv"
    path.write_text("1;2\n3;4\n")
    with CsvFile(path, strict=True) as rows:
        assert (next(rows), rows.row) == (["1", "2"], 1)
    with pytest.raises(ValueError, match="closed"):
        next(rows)
