"""Sensors of different rates as one: their samples interpolated at the times of a common grid."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Literal

import numpy as np

from edgewright.declared import is_number
from edgewright.errors import SourceError, UsageError
from edgewright.runtime.frames import Array, Frame
from edgewright.runtime.windows import between, values_of

__all__ = ["Fusion"]

_SECOND = 1_000_000_000
_LATE_IN_A_ROW = 64
"""As many late samples of one source in a row mean that its clock was set back, or jumped ahead for one sample."""


class _Track:
    """Samples of one source that are still needed, by time: the one before the next grid time, and all after it."""

    def __init__(self) -> None:
        self.samples: deque[tuple[int, Array]] = deque()
        self.channels: int | None = None
        self.zero: int | None = None
        self.own: bool | None = None
        self.late_run = 0
        self.missed_from: int | None = None  # time of the first sample that another source gave after this one's last

    @property
    def last(self) -> int:
        """Time of the newest sample."""
        return self.samples[-1][0]

    def forget(self, before: int) -> None:
        """Drop the samples that nothing at or after this time needs."""
        while len(self.samples) > 1 and self.samples[1][0] <= before:
            self.samples.popleft()

    def at(self, time: int, longest: float) -> tuple[Array, bool]:
        """The values at a time that is not before the first sample, and whether the source was silent there.

        Args:
            time: ns.
            longest: ns between two samples that may be interpolated; in a longer silence the value before it holds.
        """
        self.forget(time)
        before, row = self.samples[0]
        if before == time:
            return row, False
        if len(self.samples) == 1 or self.samples[1][0] - before > longest:
            return row, True
        after, next_row = self.samples[1]
        return between(row, next_row, (time - before) / (after - before)), False


class Fusion:
    """Fuses two or more sensors by time: one frame per grid time, with the values of all sources side by side.

    A grid time is given as soon as every source has a sample at or after it, or has been silent for longer than
    `max_skew_s`, counted from the first sample that another source gave after its last one: a pause of all is nobody's
    silence. Where two samples of a source are further apart than that, nothing is
    interpolated between them. The grid starts when the last source does; a frame is given only while at least one source is
    not silent. What waits in memory are the samples of `max_skew_s`.

    Times are `Frame.recorded_ns` of all sources, or `Frame.captured_ns` if none of them has any. Values are interpolated
    linearly, without averaging: what a sensor has above half the grid's rate aliases. NaN makes its neighbours NaN.

    The counts are attributes: `samples` pushed, `frames` given, `late` samples dropped (not after the source's last one),
    `held` times that a silent source's
    values stood in a frame, `dropped` grid times without a frame.

    Args:
        sources: names of two or more sources, in the order of their channels in the result.
        rate_hz: of the grid.
        max_skew_s: seconds that a source may lag behind or be silent; at least a few of its sample periods.
        silent: what a silent source gives: "hold" its last values, "drop" no frame at all.
        align: "shared": the sources' times have one zero; "first": each source's first sample is its zero, which is right only
            if the sources were started together, and start within `max_skew_s`.

    Raises:
        UsageError: an argument has a value that it cannot have.
    """

    def __init__(
        self,
        sources: Sequence[str],
        rate_hz: float,
        max_skew_s: float,
        *,
        silent: Literal["hold", "drop"] = "hold",
        align: Literal["shared", "first"] = "shared",
    ) -> None:
        if isinstance(sources, str) or len(sources) < 2 or len(set(sources)) != len(sources):
            raise UsageError(f"fusion is of the sources {sources!r}, two or more of different names are needed")
        for name, value in (("rate_hz", rate_hz), ("max_skew_s", max_skew_s)):
            if not (is_number(value) and 0 < value <= _SECOND):
                raise UsageError(f"fusion {name} is {value}, it must be above 0 and at most 1e9")
        for name, word, known in (("silent", silent, ("hold", "drop")), ("align", align, ("shared", "first"))):
            if word not in known:
                raise UsageError(f"fusion {name} is '{word}', it must be one of {', '.join(known)}")
        self.sources = tuple(sources)
        self.rate_hz, self.max_skew_s, self.silent, self.align = rate_hz, max_skew_s, silent, align
        self.samples = self.frames = self.late = self.held = self.dropped = 0
        self._skew = max_skew_s * _SECOND
        self._tracks = {name: _Track() for name in self.sources}
        self._origin: int | None = None  # time of the grid's point 0
        self._point = 0  # the grid's next point
        self._captured_ns = 0

    def push(self, source: str, frame: Frame) -> list[Frame]:
        """Take one sample of one source.

        Args:
            source: its name.
            frame: its data is of shape (channels,), any numeric dtype; it may be overwritten afterwards.

        Returns:
            fused frames, float32 (channels of all sources,), oldest first; `captured_ns` is that of the pushed sample, which
            is what they waited for, `recorded_ns` is the grid's time, `index` counts from 0.

        Raises:
            UsageError: there is no such source.
            ShapeError: the sample has another number of channels than those before, or is no row of numbers.
            SourceError: sources have different clocks, or the clock of one was set back.
        """
        track = self._tracks.get(source)
        if track is None:
            raise UsageError(f"fusion has no source '{source}'", hint=f"its sources are {', '.join(self.sources)}")
        row = values_of(frame, track.channels, source)
        time = self._time(source, track, frame)
        track.channels = len(row)
        self.samples += 1
        self._captured_ns = frame.captured_ns
        if track.samples and time <= track.last:
            self._late(source, track, frame, time)
            return []
        track.late_run = 0
        track.samples.append((time, row))
        track.missed_from = None
        for other in self._tracks.values():
            if other.missed_from is None and other.samples and other.last < time:
                other.missed_from = time
        if not self._started():
            return []
        return self._given(self._ready_until())

    def flush(self) -> list[Frame]:
        """The frames up to the newest sample of any source, as if the other sources had been silent since their last."""
        if not self.samples or not self._started():
            return []
        return self._given(max(track.last for track in self._tracks.values()))

    def stats(self) -> dict[str, int]:
        """All counts by name."""
        return {name: getattr(self, name) for name in ("samples", "frames", "late", "held", "dropped")}

    # --- times --------------------------------------------------------------------------------------------------------

    def _time(self, source: str, track: _Track, frame: Frame) -> int:
        """A sample's time on the common clock."""
        own = frame.recorded_ns is not None
        others = self._tracks.values() if self.align == "shared" else (track,)
        if any(other.own not in {None, own} for other in others):
            raise SourceError(
                f"sample {frame.index} of '{source}' has {'a' if own else 'no'} time of its own, others have "
                f"{'none' if own else 'one'}: their clocks cannot be compared",
                hint="declare align=first if the sources were started together, or let all give recorded_ns",
            )
        track.own = own
        time = frame.captured_ns if frame.recorded_ns is None else frame.recorded_ns
        if self.align == "first":
            track.zero = time if track.zero is None else track.zero
            return time - track.zero
        return time

    def _late(self, source: str, track: _Track, frame: Frame, time: int) -> None:
        self.late += 1
        track.late_run += 1
        if track.late_run >= _LATE_IN_A_ROW:
            raise SourceError(
                f"the last {track.late_run} samples of '{source}', up to sample {frame.index} of time {time / 1e9:.6f} s, came "
                f"after one of {track.last / 1e9:.6f} s: its clock was set back, or jumped ahead for one sample",
                hint="start the fusion anew, or use a source whose clock does not jump",
            )

    def _started(self) -> bool:
        """Whether all sources have begun, so that there is a grid."""
        if self._origin is not None:
            return True
        tracks = self._tracks.values()
        if all(track.samples for track in tracks):
            self._origin = max(track.samples[0][0] for track in tracks)
            return True
        newest = max(track.last for track in tracks if track.samples)
        for track in tracks:
            track.forget(newest - round(self._skew))
        return False

    def _ready_until(self) -> int:
        """The last time at which nothing more is waited for: of the sources that are not silent, the one furthest behind."""
        tracks = self._tracks.values()
        newest = max(track.last for track in tracks)
        return min(track.last for track in tracks if track.missed_from is None or newest - track.missed_from <= self._skew)

    # --- values -------------------------------------------------------------------------------------------------------

    def _given(self, until: int) -> list[Frame]:
        """The frames of all grid times up to this one."""
        frames = []
        while (time := self._grid(self._point)) <= until:
            found = [track.at(time, self._skew) for track in self._tracks.values()]
            silent = sum(is_silent for _, is_silent in found)
            if silent == len(found):
                self._skip(until)
                continue
            self._point += 1
            if silent and self.silent == "drop":
                self.dropped += 1
                continue
            self.held += silent
            data = np.concatenate([row for row, _ in found])
            frames.append(Frame(data, self.frames, self._captured_ns, time))
            self.frames += 1
        return frames

    def _grid(self, point: int) -> int:
        return (self._origin or 0) + round(point * _SECOND / self.rate_hz)

    def _skip(self, until: int) -> None:
        """Go on where a source speaks again: a clock that jumps by years must not be walked through."""
        speaks = min((track.samples[1][0] for track in self._tracks.values() if len(track.samples) > 1), default=until + 1)
        first = max(self._point + 1, math.floor((min(speaks, until + 1) - self._grid(0)) * self.rate_hz / _SECOND))
        self.dropped += first - self._point
        self._point = first


# --- samples and declarations, shared with windows and decisions ------------------------------------------------------
