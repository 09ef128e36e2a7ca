"""Meters that are read again and again: the thread, its schedule, counters that wrap, readings that fail."""

from __future__ import annotations

import errno
import os
import threading
import time
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from edgewright.benchmarks.power import Clock, Meter, PowerTrace
from edgewright.errors import MeterError

__all__ = ["SampledMeter", "Unwrapped", "least_step"]

Array = np.ndarray[Any, Any]

GIVE_UP_NS = 1_000_000_000
"""How long readings may fail in a row: a chip that is bound again is back within less."""
GAP_PERIODS, LEAST_GAP_NS = 10, 200_000_000
"""Readings further apart than this are not joined by a straight line."""
MOST_WATTS = 2000.0
"""More than a processor package or a small board can draw; a counter that asks for more has been reset, not wrapped."""
_ATTEMPTS, _SLOW, _SLOW_NS = 3, 5, 500_000
"""A reading that takes 5 times as long as the fastest, and more than this, was interrupted."""
_GONE_FOR_GOOD = {errno.EACCES, errno.EPERM}


class Unwrapped:
    """Turns readings of a counter of energy that begins again at 0 into energy since the first reading.

    Args:
        what: how a message calls the counter.
        range_joules: where it wraps; None if it never does.
    """

    def __init__(self, what: str, range_joules: float | None) -> None:
        self._what, self._range = what, range_joules
        self._last: tuple[int, float] | None = None
        self._total = 0.0

    def add(self, t_ns: int, joules: float) -> float:
        """Energy since the first reading, in joules.

        Raises:
            MeterError: the counter went backwards and cannot have wrapped, or could have wrapped more than once.
        """
        before, self._last = self._last, (t_ns, joules)
        if before is None:
            return 0.0
        step, seconds = joules - before[1], (t_ns - before[0]) / 1e9
        if self._range is not None and seconds * MOST_WATTS > self._range:
            raise MeterError(
                f"{self._what} was not read for {seconds:.0f} s and begins again every {self._range:.0f} J: "
                "how often it did is not known",
                hint="measure again with less else running",
            )
        if step < 0:
            wrapped = step + (self._range or 0.0)
            # The counter steps a few microjoules at least, and is read a moment later than its time says: a small allowance.
            if self._range is None or not 0 <= wrapped <= MOST_WATTS * seconds + 1.0:
                raise MeterError(
                    f"{self._what} went from {before[1]:.6f} J back to {joules:.6f} J in {seconds:.3f} s"
                    + (f", which is no wrap at {self._range:.0f} J" if self._range else ", and it has no wrap"),
                    hint="it was reset, for example by a suspend; measure again",
                )
            step = wrapped
        self._total += step
        return self._total


class SampledMeter(Meter):
    """A meter that gives one value when it is asked; the thread that asks is here.

    A subclass sets `scope` (and `origin`, `facts`, `wraps_at_joules` where they differ) in its constructor and has `read`.
    Readings are due at fixed moments from the first one on; those that come too late or fail are counted as missed. Failures
    may last a second, so that a device may go and come back under another number.
    """

    kind: Literal["mean", "sample"] = "sample"
    """"mean" if `read` gives joules of a counter, "sample" if it gives watts."""

    default_hz: ClassVar[float] = 10.0
    update_s: float = 0.0
    """How often a counter moves; what it missed at the edges of a span is part of its step."""
    unit_joules: float = 1e-6

    origin: Literal["measured", "estimated"] = "measured"
    scope: str
    wraps_at_joules: float | None = None

    def __init__(
        self, *, root: Path = Path("/"), option: str = "", rate_hz: float | None = None, clock: Clock | None = None
    ) -> None:
        super().__init__(root=root, option=option, rate_hz=rate_hz, clock=clock)
        self.rate_hz = rate_hz or self.default_hz
        self.facts: list[str] = []
        self.other_cpu_s = 0.0
        self._stop, self._thread = (
            threading.Event(),
            threading.Thread(target=self._sample, name=f"meter {self.name}", daemon=True),
        )
        self._times: list[int] = []
        self._values: list[float] = []
        self._missed, self._cpu_share, self._fastest_ns = 0, 0.0, 10**18
        self._failed: MeterError | None = None
        self._failing_since: int | None = None
        self._started = False

    @abstractmethod
    def read(self) -> float:
        """One value: watts, or joules of the counter as it stands; called from the meter's thread.

        Raises:
            OSError, ValueError: it failed this time; it is tried again.
            MeterError: it has failed for good.
        """

    def accepted(self) -> None:
        """The value that `read` gave becomes a reading of the trace; for what a meter keeps beside it."""

    def finish(self, t_ns: Array, values: Array) -> tuple[Array, list[str]]:
        """Watts from what `read` gave, and notes on them; `t_ns` are the moments.

        Raises:
            MeterError: the values make no sense.
        """
        return values, []

    def step_watts(self, watts: Array) -> float:
        """Least step of the converter, from the powers: the least difference between two of them."""
        return least_step(watts)

    def start(self) -> None:
        """Take the first reading, then go on in a thread.

        Raises:
            MeterError: the first reading failed, or the meter was started before.
        """
        if self._started:
            raise MeterError(f"the meter {self.name} was started before", hint="open it again for another trace")
        self._started = True
        self._counter = Unwrapped(f"{self.name} ({self.scope})", self.wraps_at_joules)
        try:
            self._take()
        except (OSError, ValueError) as error:
            raise MeterError(f"{self.name} cannot be read: {_words(error)}") from error
        self._thread.start()

    def stop(self) -> PowerTrace:
        """Take a last reading, end the thread and give the trace.

        Raises:
            MeterError: the meter broke off, or gave fewer than two readings.
        """
        if not self._started:
            raise MeterError(f"the meter {self.name} was not started")
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._failed:
            raise self._failed
        return self.so_far()

    def so_far(self) -> PowerTrace:
        """What has come until now, also after the meter broke off.

        Raises:
            MeterError: fewer than two readings came, or they make no sense.
        """
        n = len(self._values)  # the thread appends a time before its value
        t_ns, values = np.array(self._times[:n], np.int64), np.array(self._values[:n])
        if n < 2:
            raise MeterError(
                f"{self.name} gave {n} reading{'' if n == 1 else 's'}, a trace needs 2 at least",
                hint="measure for longer, or read more often with a higher rate",
            )
        seconds = np.diff(t_ns) / 1e9
        if self.kind == "mean":
            watts = np.diff(values) / seconds
            watts, notes = self.finish(t_ns, np.concatenate([watts[:1], watts]))
            steps = (max(self.unit_joules, self.update_s * float(np.abs(watts).max())), 0.0)
        else:
            watts, notes = self.finish(t_ns, values)
            steps = (0.0, self.step_watts(watts))
        period_ns = round(1e9 / self.rate_hz)
        return PowerTrace(
            t_ns=t_ns,
            watts=watts,
            scope=self.scope,
            origin=self.origin,
            kind=self.kind,
            meter=self.name,
            rate_hz=float((n - 1) / seconds.sum()),
            step_joules=steps[0],
            step_watts=steps[1],
            missed=self._missed,
            gap_ns=0 if self.kind == "mean" else max(GAP_PERIODS * period_ns, LEAST_GAP_NS),
            notes=(*self.facts, *notes, *self._refreshed(values, seconds), *self._own_cost()),
        )

    def _refreshed(self, values: Array, seconds: Array) -> list[str]:
        """A note if the device renews its value more slowly than it is read."""
        changes = int(np.count_nonzero(np.diff(values)))
        if self.kind == "mean" or not 0 < changes < len(seconds) / 2:
            return []
        return [
            f"the value changed {changes} times in {len(values)} readings, about every {seconds.sum() / changes * 1e3:.0f} ms"
        ]

    def _own_cost(self) -> list[str]:
        return [f"reading it took {self._cpu_share:.2%} of one processor core"] if self._cpu_share else []

    def _sample(self) -> None:
        """The thread: read when a reading is due until told to stop, then once more."""
        period_ns = round(1e9 / self.rate_hz)
        began_s, cpu_s = time.monotonic(), time.thread_time()
        due_ns = self._times[0]
        try:
            while True:
                due_ns += period_ns
                late = (self.clock.now_ns() - due_ns) // period_ns
                if late > 0:
                    self._missed += late
                    due_ns += late * period_ns
                self.clock.wait(due_ns, self._stop)
                last = self._stop.is_set()
                self._try()
                if last:
                    break
        except MeterError as error:
            self._failed = self._broke_off(error)
        finally:
            if (wall_s := time.monotonic() - began_s) > 0:
                self._cpu_share = (time.thread_time() - cpu_s + self.other_cpu_s) / wall_s

    def _try(self) -> None:
        """One reading; a failed one is missed, unless they have failed for too long or for good."""
        try:
            self._take()
            self._failing_since = None
        except (OSError, ValueError) as error:
            self._missed += 1
            now = self.clock.now_ns()
            self._failing_since = self._failing_since or now
            for_good = isinstance(error, OSError) and error.errno in _GONE_FOR_GOOD
            if for_good or now - self._failing_since >= GIVE_UP_NS:
                raise MeterError(
                    f"{self.name} ({self.scope}) can no longer be read: {_words(error)}",
                    hint="look whether the device is still there and the driver loaded; dmesg says what happened",
                ) from error

    def _take(self) -> None:
        """One reading at a known moment: a thread that lost its turn while it read does not know when, and reads again.

        Raises:
            OSError, ValueError, MeterError: see `read`.
        """
        for _ in range(_ATTEMPTS):
            before = self.clock.now_ns()
            value = self.read()
            took_ns = self.clock.now_ns() - before
            self._fastest_ns = min(self._fastest_ns, took_ns)
            if took_ns <= max(_SLOW * self._fastest_ns, _SLOW_NS):
                break
        t_ns = before + took_ns // 2
        if self.kind == "mean":
            value = self._counter.add(t_ns, value)
        if not np.isfinite(value):
            raise ValueError(f"the reading is {value}")
        if not self._times or t_ns > self._times[-1]:
            self.accepted()
            self._times.append(t_ns)
            self._values.append(value)

    def _broke_off(self, error: MeterError) -> MeterError:
        seconds = (self._times[-1] - self._times[0]) / 1e9
        return MeterError(f"{error.message} (after {len(self._values)} readings in {seconds:.2f} s)", error.hint)


def least_step(values: Array) -> float:
    """Least difference between two different values, 0 if there are none."""
    levels = np.unique(values)
    return float(np.diff(levels).min()) if len(levels) > 1 else 0.0


def _words(error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.errno:
        return f"{error.filename or 'the device'}: {os.strerror(error.errno)}"
    return str(error)
