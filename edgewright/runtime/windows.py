"""Windows of sensor samples: cut from a stream by count, or resampled onto a regular grid by the samples' own times."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from edgewright.declared import from_fields, is_number, read_number, read_settings
from edgewright.errors import ShapeError, SourceError, UsageError
from edgewright.runtime.frames import Array, Frame

__all__ = ["Window", "Windower", "Windowing"]

_GAPS = ("split", "hold", "interpolate", "fail")
_LATE = ("drop", "fail")
_NAN = ("drop", "hold", "pass")
_KEYS = {
    **{"length": "length", "stride": "stride", "rate": "rate_hz", "max_gap": "max_gap_s"},
    **{"gap": "gap", "late": "late", "reorder": "reorder_s", "nan": "nan"},
}
_SECOND = 1_000_000_000
_PERIODS = 3
"""A gap is longer than this many sample periods, unless it is declared."""
_MEDIAN_OF = 15
"""The sample period is the median of this many of the newest intervals at most."""
_MEDIAN_FROM = 5
"""Without a grid, no gap is seen before this many intervals are known: the first may be uneven."""
_RESTART_AFTER = 16
"""As many late samples in a row, at least, mean that the clock was set back."""


@dataclass(frozen=True, slots=True)
class Windowing:
    """How windows are cut from samples.

    Args:
        length: samples per window.
        stride: samples from one window's start to the next one's.
        rate_hz: samples are resampled linearly onto a regular grid of this rate, which starts at the first sample; None takes
            them as they come. A sensor that is faster than the grid is not averaged: what it has above half the rate aliases.
        max_gap_s: a longer interval between two samples is a gap; None: longer than 3 periods of the grid and 3 medians of the
            last 15 intervals. Without a grid that is 3 medians, once 5 intervals are known, and nothing is a gap if samples
            have no times of their own.
        gap: "split": no window spans a gap; "hold" fills it with the sample before, "interpolate" linearly, both unless it
            is longer than a window, which is split always; "fail" ends the stream.
        late: a sample whose time is not after the last one's is dropped ("drop") or ends the stream ("fail"). Where there is
            neither a grid nor times of their own, samples are never late. A whole window of them in a row, 16 at least, is
            taken for a clock that was set back, which counts as a gap that is split.
        reorder_s: seconds of the samples' own time that they wait to be put in order; 0 does not wait.
        nan: a sample with NaN or infinite values is left out ("drop"); gets the last finite value of the channel ("hold",
            left out before there is one); or stays as it is ("pass").

    Raises:
        UsageError: a field has a value that it cannot have.
    """

    length: int
    stride: int
    rate_hz: float | None = None
    max_gap_s: float | None = None
    gap: Literal["split", "hold", "interpolate", "fail"] = "split"
    late: Literal["drop", "fail"] = "drop"
    reorder_s: float = 0.0
    nan: Literal["drop", "hold", "pass"] = "drop"

    def __post_init__(self) -> None:
        for name, count in (("length", self.length), ("stride", self.stride)):
            if type(count) is not int or not 1 <= count < 1 << 31:
                raise UsageError(f"window {name} is {count}, it must be a whole number of samples, 1 or more")
        for name, number in (("rate_hz", self.rate_hz), ("max_gap_s", self.max_gap_s)):
            if number is not None and not (is_number(number) and 0 < number <= _SECOND):
                raise UsageError(f"window {name} is {number}, it must be above 0 and at most 1e9")
        if not (is_number(self.reorder_s) and 0 <= self.reorder_s <= _SECOND):
            raise UsageError(f"window reorder_s is {self.reorder_s}, it must be 0 or more seconds")
        for name, value, known in (("gap", self.gap, _GAPS), ("late", self.late, _LATE), ("nan", self.nan, _NAN)):
            if value not in known:
                raise UsageError(f"window {name} is '{value}', it must be one of {', '.join(known)}")

    @classmethod
    def parse(cls, text: str) -> Windowing:
        """A declaration from text such as `length=100,stride=50,rate=50,gap=split,late=drop`.

        Known are length (needed), stride (the length if not given), rate in Hz, max_gap and reorder in seconds, gap, late, nan.

        Raises:
            UsageError: a key or value is unknown, given twice, or no number; the message names the known ones.
        """
        given: dict[str, Any] = {_KEYS[key]: value for key, value in read_settings(text, "window", _KEYS).items()}
        for name in given.keys() & {"length", "stride"}:
            given[name] = read_number(given[name], f"window {name}", int)
        for name in given.keys() & {"rate_hz", "max_gap_s", "reorder_s"}:
            given[name] = read_number(given[name], f"window {name}", float)
        if "length" not in given:
            raise UsageError(f"'{text}' does not say how long windows are", hint="write length=100 for windows of 100 samples")
        return cls(**{"stride": given["length"], **given})

    def to_json(self) -> dict[str, Any]:
        """Plain form for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Windowing:
        """Inverse of `to_json`.

        Raises:
            UsageError: a field is unknown, missing, or has an impossible value.
        """
        return from_fields(cls, "window", data)


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """One window of samples.

    Args:
        data: float32 (length, channels), of its own memory.
        index: of the newest sample's frame that it was made of.
        captured_ns: of that frame.
        recorded_ns: own time of the window's last row, on the grid if there is one; None if samples have no times of their own.
        start_ns: time of its first row, on the clock of `recorded_ns`, or of `captured_ns` if that is None.
        fresh: whether it is the first of all, or the first behind a gap that windows were split at.
    """

    data: Array
    index: int
    captured_ns: int
    recorded_ns: int | None
    start_ns: int
    fresh: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    time: int
    order: int
    row: Array
    index: int
    captured_ns: int

    def __lt__(self, other: _Sample) -> bool:
        return (self.time, self.order) < (other.time, other.order)


class Windower:
    """Cuts windows from frames as they come, in memory for two windows and what waits to be put in order.

    The counts are attributes: `samples` pushed, `windows` given, `late` samples dropped, `gaps` met, `invalid` samples with
    NaN or infinite values, `filled` rows that gaps were filled with.

    Args:
        windowing: the declaration.
        channels: values per sample; None takes the first sample's number.
    """

    def __init__(self, windowing: Windowing, channels: int | None = None) -> None:
        self.windowing = windowing
        self.channels = channels
        self.samples = self.windows = self.late = self.gaps = self.invalid = self.filled = 0
        self._buffer: Array = np.empty((0, 0), np.float32)
        self._at = 0  # rows of the buffer that are written
        self._count = 0  # rows since the last split
        self._origin = 0  # time of the grid's point 0
        self._point = 0  # the grid's next point
        self._times: deque[int] = deque(maxlen=windowing.length)
        self._steps: deque[int] = deque(maxlen=_MEDIAN_OF)
        self._last: _Sample | None = None
        self._finite: Array | None = None
        self._own: bool | None = None  # whether samples have times of their own
        self._waiting: list[_Sample] = []
        self._waiting_times: set[int] = set()
        self._newest: int | None = None
        self._late_run, self._late_time = 0, 0

    def push(self, frame: Frame) -> list[Window]:
        """Take one sample.

        Args:
            frame: its data is of shape (channels,), any numeric dtype; it may be overwritten afterwards.

        Returns:
            the windows that it completes, oldest first.

        Raises:
            ShapeError: the sample has another number of channels, or is no row of numbers; nothing is changed then.
            SourceError: a gap or a late sample where "fail" is declared, or some samples have times of their own and some not.
        """
        row = values_of(frame, self.channels)
        own = frame.recorded_ns is not None
        if self._own not in {None, own}:
            raise SourceError(
                f"sample {frame.index} has {'a' if own else 'no'} time of its own, the samples before it have "
                f"{'none' if own else 'one'}: their order cannot be told",
                hint="let the source give recorded_ns for all samples or for none",
            )
        self._own = own
        self.channels = len(row)
        if not self._buffer.size:
            self._buffer = np.empty((2 * self.windowing.length, len(row)), np.float32)
        self.samples += 1
        time = frame.captured_ns if frame.recorded_ns is None else frame.recorded_ns
        windows: list[Window] = []
        for sample in self._ordered(_Sample(time, self.samples, row, frame.index, frame.captured_ns)):
            self._take(sample, windows)
        return windows

    def flush(self) -> list[Window]:
        """Take what waits to be put in order, and start anew: no later window holds samples from before.

        Returns:
            the windows that come of it; a window that is not full is not given.
        """
        windows: list[Window] = []
        self._take_waiting(windows)
        self._count, self._last, self._newest, self._own, self._finite, self._late_run = 0, None, None, None, None, 0
        self._steps.clear()
        return windows

    def stats(self) -> dict[str, int]:
        """All counts by name."""
        names = ("samples", "windows", "late", "gaps", "invalid", "filled")
        return {name: getattr(self, name) for name in names}

    # --- order --------------------------------------------------------------------------------------------------------

    def _ordered(self, sample: _Sample) -> list[_Sample]:
        """Samples that need wait no longer, in order of time."""
        if not self.windowing.reorder_s or not self._own:
            return [sample]
        if sample.time in self._waiting_times:  # a clock that stands still must not fill the memory
            self._refuse(sample, sample.time)
            return []
        self._newest = sample.time if self._newest is None else max(self._newest, sample.time)
        until = self._newest - round(self.windowing.reorder_s * _SECOND)
        heapq.heappush(self._waiting, sample)
        self._waiting_times.add(sample.time)
        ready = []
        while self._waiting and self._waiting[0].time <= until:
            ready.append(heapq.heappop(self._waiting))
            self._waiting_times.remove(ready[-1].time)
        return ready

    def _take_waiting(self, windows: list[Window]) -> None:
        waiting, self._waiting = sorted(self._waiting), []
        self._waiting_times.clear()
        for sample in waiting:
            self._take(sample, windows)

    def _refuse(self, sample: _Sample, last: int) -> None:
        """Do what is declared with a late sample."""
        if self.windowing.late == "fail":
            raise SourceError(
                f"sample {sample.index} of time {sample.time / 1e9:.6f} s came after one of {last / 1e9:.6f} s",
                hint="declare late=drop, or reorder=0.1 if samples may come in another order within 0.1 s",
            )
        self.late += 1

    def _is_late(self, sample: _Sample, windows: list[Window]) -> bool:
        """Whether a sample is late and dropped; a clock that was set back is a gap."""
        if self._last is None or sample.time > self._last.time or not self._timed:
            self._late_run = 0
            return False
        self._late_run = self._late_run + 1 if sample.time > self._late_time else 1
        self._late_time = sample.time
        if self._late_run <= max(self.windowing.length, _RESTART_AFTER):
            self._refuse(sample, self._last.time)
            return True
        self._late_run, self._newest = 0, sample.time
        self._take_waiting(windows)
        self._met_gap(sample, sample.time - self._last.time)
        self._last = None
        self._steps.clear()
        return False

    # --- gaps and the grid --------------------------------------------------------------------------------------------

    @property
    def _timed(self) -> bool:
        """Whether times count, not only the order in which samples come."""
        return bool(self._own) or self.windowing.rate_hz is not None

    def _take(self, sample: _Sample, windows: list[Window]) -> None:
        """One sample that is next in order."""
        if self._is_late(sample, windows) or not self._made_valid(sample):
            return
        last, self._last = self._last, sample
        if last is None:
            self._begin(sample, windows)
            return
        step = sample.time - last.time
        is_gap = step > self._longest_step()
        period = self._period()
        self._steps.append(step)
        if is_gap:
            self._met_gap(sample, step)
            if self.windowing.gap == "split" or not period or round(step / period) > self.windowing.length:
                self._begin(sample, windows)
                return
        for time in self._points(last.time, sample.time, period if is_gap else float(step)):
            if time == sample.time:
                row = sample.row
            else:
                self.filled += is_gap
                held = is_gap and self.windowing.gap == "hold"
                row = last.row if held else between(last.row, sample.row, (time - last.time) / step)
            self._add(row, time, sample, windows)

    def _points(self, last: int, now: int, period: float) -> Iterable[int]:
        """Times of the rows that come after the last sample, up to and with the new one's."""
        rate = self.windowing.rate_hz
        if rate is None:
            rows = round((now - last) / period) if period > 0 else 1
            yield from (last + (now - last) * place // rows for place in range(1, rows + 1))
            return
        while (time := self._origin + round(self._point * _SECOND / rate)) <= now:
            self._point += 1
            yield time

    def _period(self) -> float:
        """Nanoseconds from one row to the next; 0 if that is not known."""
        if self.windowing.rate_hz is not None:
            return _SECOND / self.windowing.rate_hz
        return float(self._median())

    def _median(self) -> int:
        return sorted(self._steps)[(len(self._steps) - 1) // 2] if self._steps else 0

    def _longest_step(self) -> float:
        """Nanoseconds above which an interval is a gap."""
        if self.windowing.max_gap_s is not None:
            return self.windowing.max_gap_s * _SECOND
        known = _MEDIAN_FROM if self.windowing.rate_hz is None else 1
        if not self._timed or len(self._steps) < known:
            return math.inf
        return _PERIODS * max(self._period(), self._median())

    def _met_gap(self, sample: _Sample, step: int) -> None:
        self.gaps += 1
        if self.windowing.gap == "fail":
            found = f"there is a gap of {step / 1e9:.6f} s" if step > 0 else f"the clock was set back by {-step / 1e9:.6f} s"
            raise SourceError(
                f"before sample {sample.index} {found}, the longest step allowed is {self._longest_step() / 1e9:.6f} s",
                hint="declare gap=split, hold or interpolate, or a longer max_gap",
            )

    # --- values and windows -------------------------------------------------------------------------------------------

    def _made_valid(self, sample: _Sample) -> bool:
        """Whether the sample is to be used; values that are held are written into it."""
        finite = np.isfinite(sample.row)
        valid = bool(finite.all())
        self.invalid += not valid
        if self.windowing.nan != "hold":
            return valid or self.windowing.nan == "pass"
        if not valid:  # a channel without a finite value so far stays NaN
            np.copyto(sample.row, np.nan if self._finite is None else self._finite, where=~finite)
        self._finite = sample.row
        return valid or bool(np.isfinite(sample.row).all())

    def _begin(self, sample: _Sample, windows: list[Window]) -> None:
        """Start windows, and the grid, at this sample."""
        self._at = self._count = 0
        self._times.clear()
        self._origin, self._point = sample.time, 1
        self._add(sample.row, sample.time, sample, windows)

    def _add(self, row: Array, time: int, sample: _Sample, windows: list[Window]) -> None:
        """Append a row; a window that it completes goes to `windows`."""
        length, buffer = self.windowing.length, self._buffer
        if self._at == len(buffer):  # once in `length` rows: a row is copied once, on average
            keep = length - 1
            buffer[:keep] = buffer[self._at - keep : self._at]
            self._at = keep
        buffer[self._at] = row
        self._at += 1
        self._count += 1
        self._times.append(time)
        if self._count >= length and (self._count - length) % self.windowing.stride == 0:
            data = buffer[self._at - length : self._at].copy()
            self.windows += 1
            recorded_ns, fresh = time if self._own else None, self._count == length
            windows.append(Window(data, sample.index, sample.captured_ns, recorded_ns, self._times[0], fresh))


def values_of(frame: Frame, channels: int | None = None, source: str = "") -> Array:
    """A sample's values, copied: float32 (channels,); values that float32 cannot hold become infinite.

    Raises:
        ShapeError: it is no row of numbers, or has another number of channels than is expected.
    """
    data = np.asarray(frame.data)
    whose = f"sample {frame.index}" + (f" of '{source}'" if source else "")
    if data.ndim != 1 or not data.size or data.dtype.kind not in "fiub":
        raise ShapeError(
            f"{whose} has shape {data.shape} and dtype {data.dtype}, expected are numbers of shape (channels,)",
            hint="windows are cut from sensors' samples, not from images",
        )
    if channels is not None and len(data) != channels:
        raise ShapeError(
            f"{whose} has {len(data)} channels, {channels} are expected",
            hint="choose the source's columns, or take a model of as many channels",
        )
    with np.errstate(over="ignore", invalid="ignore"):
        return np.array(data, np.float32)


def between(first: Array, second: Array, share: float) -> Array:
    """Linear interpolation in float64, exact at both ends: first * (1 - share) + second * share, float32 (channels,)."""
    with np.errstate(invalid="ignore"):
        return (first.astype(np.float64) * (1.0 - share) + second.astype(np.float64) * share).astype(np.float32)
