"""Results as lines of JSON in a file."""

from __future__ import annotations

from pathlib import Path

from edgewright.runtime.address import Address, flag
from edgewright.runtime.frames import Result, Sink
from edgewright.runtime.rows import LineFile, json_line
from edgewright.runtime.sinks import SINKS

__all__ = ["JsonlSink"]


@SINKS.register("jsonl")
class JsonlSink(Sink):
    """One line of JSON a result; a line is in the file whole or not at all, whatever ends the process.

    Args:
        path: the file; what it holds is replaced by the first result.
        append: keep what the file holds.

    Raises:
        SinkError: the file cannot be written.
    """

    def __init__(self, path: Path, *, append: bool = False) -> None:
        self._file = LineFile(path, append=append)

    @classmethod
    def of(cls, address: Address) -> JsonlSink:
        """Open a file: `out.jsonl`, or `jsonl:out.txt?append=yes`."""
        return cls(Path(address.target), **address.options(append=flag))

    def write(self, result: Result) -> None:
        """Write one line."""
        self._file.write(json_line(result))

    def close(self) -> int:
        """Close the file; nothing waits."""
        self._file.close()
        return 0
