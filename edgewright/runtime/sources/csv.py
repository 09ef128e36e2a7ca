"""Sensor samples from a CSV file, one row a sample, as fast as they are taken, at a chosen rate or as recorded."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import ClassVar, Literal

from edgewright.errors import SourceError, UsageError
from edgewright.runtime.address import Address, flag, one_of, positive
from edgewright.runtime.frames import Array, Frame, Source
from edgewright.runtime.rows import Pace, RowError, Rows, names, separator, unit
from edgewright.runtime.sources import SOURCES
from edgewright.tables import CsvFile

__all__ = ["CsvSource"]


@SOURCES.register("csv")
class CsvSource(Source):
    """Rows of a CSV file as frames of shape (channels,), dtype float32; the file is read as it is needed, never whole.

    Args:
        path: the file; the first row may be a header.
        rows: which columns are channels, and which one the time.
        rate_hz: samples per second; without a time column it also gives the samples their times.
        paced: wait for each sample's moment, by the time column if there is no rate; the source is then live.
        header: whether the first row is a header; None looks.
        between: the character between two cells; empty looks.

    Raises:
        SourceError: there is no such file, or its header has not the columns that are asked for.
    """

    kind: ClassVar[Literal["image", "sensor"]] = "sensor"

    def __init__(
        self,
        path: Path,
        rows: Rows,
        *,
        rate_hz: float | None = None,
        paced: bool = False,
        header: bool | None = None,
        between: str = "",
    ) -> None:
        self.live = paced
        self.period_s = 1 / rate_hz if rate_hz else None
        self._path, self._rows, self._rate_hz = path, rows, rate_hz
        self._closed, self._lock, self._index = threading.Event(), threading.Lock(), 0
        self._pace, self._first_ns = Pace(self._closed), None if rate_hz is None else 0
        if not path.is_file():
            what = "is no regular file" if path.exists() else "is not there"
            raise SourceError(f"{path} {what}", hint="check the path; for lines from a pipe, use the source '-'")
        try:
            self._file = CsvFile(path, between, strict=False)
        except OSError as error:
            raise SourceError(f"{path} cannot be read: {error.strerror}") from error
        try:
            self._first = self._begin(header)
        except BaseException:
            self._file.close()
            raise

    @classmethod
    def of(cls, address: Address) -> CsvSource:
        """Open a file, for example `csv:imu.csv?rate=50&time=timestamp&columns=ax,ay,az`."""
        given = address.options(
            rate=positive, time=str, unit=unit, columns=names, replay=one_of("fast", "recorded"), header=flag, separator=separator
        )
        replay, rate = given.get("replay"), given.get("rate")
        if replay == "recorded" and rate:
            raise UsageError(
                f"'{address.text}' asks for two paces, replay=recorded and rate={rate:g}", hint="leave one of them out"
            )
        if replay == "recorded" and not given.get("time"):
            raise UsageError(
                f"'{address.text}' has no time column to replay by", hint="add time=NAME, or rate=HZ instead of replay"
            )
        return cls(
            Path(address.target),
            Rows(time=given.get("time", ""), unit=given.get("unit", 10**9), columns=given.get("columns", ())),
            rate_hz=rate,
            paced=replay == "recorded" or (rate is not None and replay != "fast"),
            header=given.get("header"),
            between=given.get("separator", ""),
        )

    def read(self, into: Array | None = None) -> Frame | None:
        """The next row; None at the end of the file."""
        with self._lock:
            if self._closed.is_set():
                return None
            cells, self._first = self._first or self._next(), None
            if cells is None:
                return None
            try:
                data, recorded_ns = self._rows.parse(cells)
            except RowError as error:
                raise self._refusal(error, "correct the row, or say otherwise with columns= or separator=") from error
        index, self._index = self._index, self._index + 1
        if recorded_ns is None and self._rate_hz:
            recorded_ns = round(index * 1e9 / self._rate_hz)
        if self.live and not self._pace.wait(self._moment_s(index, recorded_ns or 0)):
            return None
        return Frame(data, index, time.monotonic_ns(), recorded_ns)

    def close(self) -> None:
        """End a wait and close the file."""
        self._closed.set()
        with self._lock:
            self._file.close()

    def _moment_s(self, index: int, recorded_ns: int) -> float:
        """Seconds from the first sample to this one, in the replay."""
        if self._rate_hz:
            return index / self._rate_hz
        if self._first_ns is None:
            self._first_ns = recorded_ns
        return (recorded_ns - self._first_ns) / 1e9

    def _begin(self, header: bool | None) -> list[str] | None:
        """Take the header, if there is one; the first row otherwise, which is yet to be read."""
        first = self._next()
        try:
            if first is None or not (self._rows.is_header(first) if header is None else header):
                return first
            self._rows.take_header(first)
        except RowError as error:
            raise self._refusal(error, "correct columns= or time=") from error
        return None

    def _next(self) -> list[str] | None:
        """The next row of cells; None at the end of the file."""
        try:
            return next(self._file, None)
        except RowError as error:
            raise self._refusal(error, "write it anew, as text with a row in each line") from error
        except OSError as error:
            raise SourceError(f"{self._path} broke off after {self._index} samples: {error.strerror}") from error

    def _refusal(self, error: RowError, hint: str) -> SourceError:
        told = f"{self._path} row {self._file.row}: {error}; {self._index} samples came before"
        return SourceError(told, hint=error.hint or hint)
