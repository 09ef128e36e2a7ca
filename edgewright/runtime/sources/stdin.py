"""Sensor samples from standard input, one line a sample."""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from typing import ClassVar, Literal

from edgewright.errors import SourceError
from edgewright.runtime.address import Address
from edgewright.runtime.frames import Array, Frame, Source
from edgewright.runtime.rows import RowError, Rows, names, separator, split, unit
from edgewright.runtime.sources import SOURCES

__all__ = ["StdinSource", "require_input"]

_LONGEST = 1 << 20
_POLL_S = 0.2


def require_input(file: int = 0) -> None:
    """Refuse a descriptor that is closed.

    Raises:
        SourceError: it is.
    """
    try:
        os.fstat(file)
    except OSError as error:
        raise SourceError(f"standard input is closed: {error.strerror}", hint="pipe lines of numbers into the command") from error


@SOURCES.register("stdin")
class StdinSource(Source):
    """Lines of numbers as frames of shape (channels,), dtype float32; the first line may be a header.

    Args:
        rows: which columns are channels, and which one the time.
        between: the character between two cells.
        file: descriptor to read from; it is left open.

    Raises:
        SourceError: the descriptor is closed.
    """

    kind: ClassVar[Literal["image", "sensor"]] = "sensor"

    def __init__(self, rows: Rows, between: str = ",", file: int = 0) -> None:
        self.live = False
        self._rows, self._between, self._fd = rows, between, file
        self._closed, self._index, self._row, self._began = threading.Event(), 0, 0, False
        self._rest, self._lines, self._ended = b"", deque[bytes](), False
        require_input(file)

    @classmethod
    def of(cls, address: Address) -> StdinSource:
        """Open standard input: `-`, or with settings `stdin:?separator=,&time=0`."""
        given = address.options(separator=separator, time=str, unit=unit, columns=names)
        rows = Rows(time=given.get("time", ""), unit=given.get("unit", 10**9), columns=given.get("columns", ()))
        return cls(rows, given.get("separator", ","))

    def read(self, into: Array | None = None) -> Frame | None:
        """The next line; None at the end of the input."""
        while (line := self._line()) is not None:
            self._row += 1
            text = line.decode("utf-8", "replace").strip("\r\n\ufeff")
            if not text.strip():
                continue
            cells = split(text, self._between)
            try:
                first, self._began = not self._began, True
                if first and self._rows.is_header(cells):
                    self._rows.take_header(cells)
                    continue
                data, recorded_ns = self._rows.parse(cells)
            except RowError as error:
                raise SourceError(
                    f"standard input, line {self._row}: {error}; {self._index} samples came before",
                    hint="the separator is set with stdin:?separator=, channels are chosen with columns=",
                ) from error
            index, self._index = self._index, self._index + 1
            return Frame(data, index, time.monotonic_ns(), recorded_ns)
        return None

    def close(self) -> None:
        """End a waiting `read`; standard input itself stays open."""
        self._closed.set()

    def _line(self) -> bytes | None:
        """The next whole line, waited for in steps so that `close` is noticed."""
        while not self._closed.is_set():
            if self._lines:
                return self._lines.popleft()
            if self._ended:
                last, self._rest = self._rest, b""
                return last or None
            try:
                if not select.select([self._fd], [], [], _POLL_S)[0]:
                    continue
                data = os.read(self._fd, 65536)
            except BlockingIOError:
                continue
            except OSError as error:
                raise SourceError(f"standard input broke off after {self._index} samples: {error.strerror}") from error
            self._ended = not data
            *whole, self._rest = (self._rest + data).split(b"\n")
            self._lines.extend(whole)
            if len(self._rest) > _LONGEST:
                raise SourceError(
                    f"standard input, line {self._row + 1} is longer than {_LONGEST} bytes, expected are short lines of numbers"
                )
        return None
