"""What was decided over time as one SVG picture (`timeline:seen.svg?width=1200&every=5`), in bounded memory."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

from edgewright.artifact import write_atomic
from edgewright.errors import ArtifactError, SinkError
from edgewright.runtime.address import Address, positive, whole
from edgewright.runtime.frames import Result, Sink
from edgewright.runtime.sinks import SINKS
from edgewright.runtime.timeline_picture import picture
from edgewright.runtime.timespans import Panel

__all__ = ["TimelineSink"]


@SINKS.register("timeline")
class TimelineSink(Sink):
    """A picture with a panel for each source: decisions as bars or lines over time, late and failed results, and ages.

    A decision stands from its own moment until the next result, over a gap for the usual time. Time is the recorded one where
    there is one. The file is replaced whole, with the first result, at most every few seconds and at the end; endless
    streams are thinned, so that single extremes stay and the picture says so.

    Args:
        path: the file.
        width: of the picture in pixels.
        every_s: seconds between two pictures, at least.

    Raises:
        SinkError: the file cannot be written there.
    """

    def __init__(self, path: Path, width: int = 1200, every_s: float = 5.0) -> None:
        if not path.parent.is_dir():
            raise SinkError(f"{path} cannot be written: the folder {path.parent} is not there", hint=f"mkdir -p {path.parent}")
        if not path.name or path.is_dir() or not os.access(path.parent, os.W_OK):
            raise SinkError(f"{path} cannot be written", hint="check the folder's rights, or name another file")
        self._path, self._width, self._every_s = path, width, every_s
        self._panels: dict[str, Panel] = {}
        self._zero_ns: int | None = None
        self._next, self._waiting, self._stale, self._closed = -math.inf, 0, False, False

    @classmethod
    def of(cls, address: Address) -> TimelineSink:
        """From `timeline:PATH?width=&every=`."""
        given = address.options(width=whole(400, 10000), every=positive)
        return cls(Path(address.target), given.get("width", 1200), given.get("every", 5.0))

    def write(self, result: Result) -> None:
        """Take one result, and draw if it is time; a result whose picture fails is in the next one that succeeds."""
        if self._closed:
            raise SinkError(f"{self._path} is closed, the result was not written")
        if self._zero_ns is None:
            self._zero_ns = result.captured_ns
        if result.source not in self._panels:
            self._panels[result.source] = Panel(result.source, self._zero_ns)
        self._panels[result.source].add(result)
        self._stale = True
        if time.monotonic() >= self._next:
            self._draw()
        else:
            self._waiting += 1

    def close(self) -> int:
        """Draw what came since the last picture."""
        self._closed = True
        if self._stale:
            try:
                self._draw()
            except SinkError as error:
                self.tell(error.message)
        lost, self._waiting, self._stale = self._waiting, 0, False
        return lost

    def _draw(self) -> None:
        try:
            write_atomic(self._path, picture(self._panels.values(), self._width).encode())
        except (ArtifactError, OSError) as error:
            raise SinkError(f"{self._path} cannot be written: {error}", hint="make room, or check the folder's rights") from error
        finally:
            self._next = time.monotonic() + self._every_s
        self._waiting, self._stale = 0, False
