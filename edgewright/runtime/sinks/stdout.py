"""Results as lines of JSON on standard output."""

from __future__ import annotations

import os
import sys

from edgewright.errors import SinkError
from edgewright.runtime.address import Address
from edgewright.runtime.frames import Result, Sink
from edgewright.runtime.rows import json_line
from edgewright.runtime.sinks import SINKS

__all__ = ["StdoutSink"]


@SINKS.register("stdout")
class StdoutSink(Sink):
    """One line of JSON a result, handed to the system at once, so that a program behind a pipe sees it."""

    def __init__(self) -> None:
        self._half = False

    @classmethod
    def of(cls, address: Address) -> StdoutSink:
        """Open standard output: `-` or `stdout:`."""
        address.options()
        return cls()

    def write(self, result: Result) -> None:
        """Write one line."""
        line = json_line(result) + "\n"
        try:
            sys.stdout.flush()
            file = _descriptor()
            if file is None:
                sys.stdout.write(line)
                sys.stdout.flush()
                return
            # Past Python's buffer: what could not be written would wait there and come out later, or fail at exit.
            rest = (("\n" if self._half else "") + line).encode()
            while rest:
                count = os.write(file, rest)
                rest = rest[count:]
                self._half = bool(rest)
        except BrokenPipeError as error:
            raise SinkError(
                "standard output is closed: nobody reads the pipe any more",
                hint="keep the reading program running, or write to a file, for example out.jsonl",
            ) from error
        except (OSError, ValueError, AttributeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise SinkError(
                f"standard output cannot be written: {reason}", hint="write to a file, for example out.jsonl"
            ) from error

    def close(self) -> int:
        """Nothing waits, and standard output stays open."""
        return 0


def _descriptor() -> int | None:
    """Of standard output; None if something that is no file stands in for it."""
    try:
        return sys.stdout.fileno()
    except (OSError, AttributeError):
        return None
