"""Measure the energy of inferences: idle, windows of inferences, idle again, while a power meter reads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.benchmarks.alignment import CHIP_S, CODE, Alignment, Marker, align_by_markers, align_by_wall, run_marker
from edgewright.benchmarks.energy_figures import LEAST_BASELINE_READINGS, LEAST_READINGS, Window, energy_of
from edgewright.benchmarks.power import Clock, Meter, PowerTrace, last_reading, newer_than, open_meter
from edgewright.benchmarks.quiet import no_garbage_collection
from edgewright.errors import MeterError, UsageError

__all__ = ["EXTERNAL", "Timeline", "Window", "energy_of", "external_energy", "measure_energy"]

EXTERNAL = ("external", "marker")
"""What stands for a meter that someone else reads: "marker" runs a marker before and after, "external" relies on wall clocks."""

SETTLE_S = 0.5
"""Pause before idle power is measured: capacitors discharge and governors lower the clock for that long."""

LEAD_S = 0.2
"""Inferences before the first window and after the last: the power's rise and fall lie outside of the windows."""

LEAST_INFERENCES = 3
LONGEST_S = 60.0
"""To what length a slow meter may stretch a baseline or a window."""

LONGEST_LAG_S = 2.0
"""The longest time for which a meter is taken to show an old value."""

BLOCK_S = 0.001
"""For how long inferences run before the clock is looked at: the loop adds nothing to the energy."""

SAME_HOST_S = 0.001
"""How far the wall clock of a machine may move against its monotonic one within a measurement."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """What ran when, in this process's monotonic clock.

    Args:
        windows: of inferences, in order.
        baselines: idle, one before and one after.
        markers: none, or one before and one after all of it.
        wall_ns_at: a moment of the monotonic clock, and nanoseconds since 1970 at it.
    """

    windows: tuple[Window, ...]
    baselines: tuple[Window, ...]
    markers: tuple[Marker, ...]
    wall_ns_at: tuple[int, int]

    def to_json(self) -> dict[str, Any]:
        """Plain form for JSON; all times in ns."""
        return {
            "windows": [[w.begin_ns, w.end_ns, w.inferences] for w in self.windows],
            "baselines": [[w.begin_ns, w.end_ns, w.inferences] for w in self.baselines],
            "marker": [marker.to_json() for marker in self.markers] or None,
            "clock": "monotonic",
            "wall_ns_at": list(self.wall_ns_at),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Timeline:
        """Inverse of `to_json`."""
        return cls(
            tuple(Window(*map(int, window)) for window in data["windows"]),
            tuple(Window(*map(int, window)) for window in data["baselines"]),
            tuple(Marker.from_json(marker) for marker in data["marker"] or ()),
            (int(data["wall_ns_at"][0]), int(data["wall_ns_at"][1])),
        )


def measure_energy(
    run: Callable[[], object],
    *,
    meter: str,
    root: Path = Path("/"),
    latency_s: float,
    energy_s: float = 10.0,
    baseline_s: float = 3.0,
    windows: int = 5,
    marker: bool = False,
    chip_s: float = CHIP_S,
    clock: Clock | None = None,
) -> dict[str, Any]:
    """Energy of one call of `run` above idle, by a meter that this process reads or by one that someone else reads.

    The order is: marker, idle baseline, inferences in windows without a pause, idle baseline, marker. The meter's own thread
    runs throughout, so what it takes is in the baselines too. Garbage collection is off meanwhile.

    Args:
        run: one inference.
        meter: as for `power.open_meter`, "none", or one of `EXTERNAL`.
        root: the folder that stands for "/" to meters.
        latency_s: of one inference, about.
        energy_s: seconds of inferences, over all windows; longer where windows would hold too few readings or inferences.
        baseline_s: seconds of each baseline; longer where it would hold too few readings.
        windows: how many; their scatter makes the interval.
        marker: whether to run markers; instruments beside the board get them in any case.
        chip_s: length of a marker's shortest part.
        clock: the meter's and the windows'; tests put their own in its place.

    Returns:
        See `energy_figures.energy_of`; or `why_absent` and `hint`; or, for a meter that someone else reads,
        `Timeline.to_json`, for `external_energy`.

    Raises:
        UsageError: a length is not positive, or the meter's option means nothing.
        PluginError: there is no meter of this name.
    """
    if windows < 1 or energy_s <= 0 or baseline_s <= 0 or chip_s <= 0:
        raise UsageError(
            f"energy in {windows} windows of {energy_s:g} s together with baselines of {baseline_s:g} s cannot be measured",
            hint="take for example 5 windows, 10 s and 3 s",
        )
    if meter == "none":
        return {"why_absent": "it was not asked for", "hint": "choose a power meter with --meter"}
    clock = clock or Clock()
    plan = _Plan(run, clock, latency_s, energy_s, baseline_s, windows)
    if meter in EXTERNAL:
        with no_garbage_collection():
            return plan.carry_out(None, chip_s if marker or meter == "marker" else 0.0).to_json()
    try:
        opened = open_meter(meter, root=root, clock=clock)
        with no_garbage_collection():
            trace, timeline = _metered(opened, plan, chip_s if marker or opened.external else 0.0)
        if trace.clock == "monotonic":
            return energy_of(trace, timeline.windows, timeline.baselines)
        return external_energy(trace, timeline.to_json(), clock_error_s=SAME_HOST_S if trace.clock == "wall" else None)
    except MeterError as error:
        return _absent(error)


def external_energy(
    trace: PowerTrace,
    record: Mapping[str, Any],
    *,
    clock_error_s: float | None = None,
    trace_wall_ns_at: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Energy from a trace that someone else recorded while `measure_energy` ran on a board.

    Args:
        trace: in any clock; of a clock with the time of day only if there is no marker.
        record: what `measure_energy` returned there.
        clock_error_s: how far the board's time of day and that of the trace may be apart; None if nobody knows. Markers are
            tried first.
        trace_wall_ns_at: a moment of the trace's clock and nanoseconds since 1970 at it, for a trace in the monotonic clock of
            the process that recorded it.

    Returns:
        See `energy_figures.energy_of`, with `alignment` beside it; or `why_absent` and `hint`.
    """
    try:
        timeline = Timeline.from_json(record)
        alignment, warnings = _alignment(trace, timeline, clock_error_s, trace_wall_ns_at)
        moved = alignment.apply(trace)
        found = energy_of(moved, timeline.windows, timeline.baselines, alignment_ns=alignment.error_ns)
    except MeterError as error:
        return _absent(error)
    return {**found, "alignment": alignment.to_json(), "warnings": warnings + found["warnings"]}


def _alignment(
    trace: PowerTrace, timeline: Timeline, clock_error_s: float | None, trace_wall_ns_at: tuple[int, int] | None
) -> tuple[Alignment, list[str]]:
    """By markers if there are any and they are found, else by wall clocks; and what a reader must know of it.

    Raises:
        MeterError: neither is possible.
    """
    wall = (0, 0) if trace.clock == "wall" else trace_wall_ns_at
    warnings = []
    if timeline.markers:
        try:
            return align_by_markers(trace, timeline.markers, until_ns=timeline.baselines[-1].end_ns), []
        except MeterError as error:  # a slow instrument may still have the right time
            if wall is None or clock_error_s is None:
                raise
            warnings.append(f"the trace is placed by the time of day: {error.message}")
    if wall is None:
        raise MeterError(
            f"the trace of {trace.meter} has times of a clock of its own, and no marker was run",
            hint="run the benchmark with --meter marker",
        )
    if clock_error_s is None:
        raise MeterError(
            "how far the wall clocks of the board and of the power meter may be apart is not known",
            hint="state it, or run the benchmark with --meter marker",
        )
    return align_by_wall(timeline.wall_ns_at, wall, error_s=clock_error_s), warnings


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to run, and for how long."""

    run: Callable[[], object]
    clock: Clock
    latency_s: float
    energy_s: float
    baseline_s: float
    windows: int

    def carry_out(self, meter: Meter | None, chip_s: float) -> Timeline:
        """Run it all; a meter that is being read tells how long spans must be.

        Args:
            meter: started; None if someone else reads it.
            chip_s: of markers; 0 for none.
        """
        wall_ns_at = (self.clock.now_ns(), time.time_ns())
        markers = []
        if chip_s:
            self._idle(SETTLE_S)
            markers.append(self._marker(chip_s, CODE))
        self._idle(SETTLE_S)
        before = self._baseline(self.baseline_s)
        rate_hz, renewed_s = _pace(meter)
        if rate_hz and (lacking := _long_enough(LEAST_BASELINE_READINGS, rate_hz) - before.seconds) > 0:
            before = Window(before.begin_ns, self._baseline(lacking).end_ns)
        window_s = max(self.energy_s / self.windows, _long_enough(LEAST_READINGS, rate_hz) if rate_hz else 0.0)
        lead_s = max(LEAD_S, 2 * renewed_s)
        at = self._window(self.clock.now_ns(), lead_s, 1).end_ns
        windows = []
        for _ in range(self.windows):
            windows.append(self._window(at, window_s, LEAST_INFERENCES))
            at = windows[-1].end_ns
        self._window(at, lead_s, 1)
        self._idle(max(SETTLE_S, 2 * renewed_s))
        after = self._baseline(before.seconds)
        self._idle(max(0.1, 2 / rate_hz if rate_hz else 0.0))  # readings go on beyond the baseline
        if chip_s:
            # Backwards: at no other place do both markers together fit by half.
            markers.append(self._marker(chip_s, CODE[::-1]))
            self._idle(SETTLE_S)
        return Timeline(tuple(windows), (before, after), tuple(markers), wall_ns_at)

    def _idle(self, seconds: float) -> None:
        self.clock.wait(self.clock.now_ns() + int(seconds * 1e9), threading.Event())

    def _baseline(self, seconds: float) -> Window:
        begin = self.clock.now_ns()
        self._idle(seconds)
        return Window(begin, self.clock.now_ns())

    def _marker(self, chip_s: float, code: str) -> Marker:
        return run_marker(chip_s, code=code, now_ns=self.clock.now_ns, sleep=self._idle)

    def _window(self, begin_ns: int, seconds: float, least: int) -> Window:
        """Inferences back to back from a moment that has just been."""
        run, now_ns = self.run, self.clock.now_ns
        block = max(1, int(BLOCK_S / max(self.latency_s, 1e-9)))
        end_ns, count = begin_ns + int(seconds * 1e9), 0
        while True:
            for _ in repeat(None, block):
                run()
            count += block
            at = now_ns()
            if at >= end_ns and count >= least:
                return Window(begin_ns, at, count)


def _metered(meter: Meter, plan: _Plan, chip_s: float) -> tuple[PowerTrace, Timeline]:
    """Carry out a plan while a meter reads; the meter is stopped in any case."""
    since_ns = last_reading(meter) if meter.external else None
    meter.start()
    try:
        timeline = plan.carry_out(meter, chip_s)
    except BaseException:
        with suppress(MeterError):
            meter.stop()
        raise
    return newer_than(meter.stop(), since_ns), timeline


def _pace(meter: Meter | None) -> tuple[float, float]:
    """How often a meter reads, and after how many seconds it has new values; both 0 if that is not known yet.

    A device may renew its value more slowly than it is read: what it shows for so long is of before. A steady power in coarse
    steps looks the same, which costs no more than some seconds.
    """
    if meter is None:
        return 0.0, 0.0
    try:
        trace = meter.so_far()
    except MeterError:
        return 0.0, 0.0
    changes = int(np.count_nonzero(np.diff(trace.watts))) if trace.kind == "sample" else len(trace.watts)
    period = float(np.median(np.diff(trace.t_ns))) / 1e9  # a recording may have stood still before
    return 1 / period, float(min(LONGEST_LAG_S, period * len(trace.watts) / changes if changes else period))


def _long_enough(readings: int, rate_hz: float) -> float:
    """Seconds that hold so many readings wholly, with two more for the edges and one that may be late."""
    return min(LONGEST_S, (readings + 3) / rate_hz)


def _absent(error: MeterError) -> dict[str, Any]:
    return {"why_absent": error.message, "hint": error.hint}
