"""Power over time, what a meter is, and how one is found: one primary meter, never a sum of several."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from edgewright.errors import EdgewrightError, MeterError, UsageError
from edgewright.registry import Kind

__all__ = [
    "METERS",
    "Clock",
    "Meter",
    "PowerTrace",
    "find_meter",
    "last_reading",
    "newer_than",
    "open_meter",
]

Array = np.ndarray[Any, Any]

ORDER = ("pmic", "ina238", "ina3221", "hwmon", "rapl", "android")
"""Where `find_meter` looks first: what measures the whole board before what measures a part of it."""


@dataclass(frozen=True, slots=True, eq=False)
class PowerTrace:
    """Power of one scope over time, as one meter gave it.

    Attributes:
        t_ns: int64 (n,), increasing; moments of the readings in nanoseconds of `clock`.
        watts: float64 (n,); see `kind`.
        scope: what is measured, for example "package-0", "board input", "rail VDD_CPU_CV".
        origin: "measured", or "estimated" where a fitted formula stands between the readings and the watts.
        kind: "mean": watts[i] is the mean power over (t_ns[i-1], t_ns[i]] (from counters of energy; watts[0] is not used).
            "sample": watts[i] is the power at t_ns[i], and straight lines join the readings.
        meter: the plug-in's name.
        rate_hz: readings per second, found.
        clock: "monotonic" for this process's `time.monotonic_ns`, "wall" for nanoseconds since 1970, "own" for any other.
        step_joules: least step of a counter of energy; 0 if there is none or it is unknown.
        step_watts: least step of a converter; 0 if there is none or it is unknown.
        missed: readings that were due and did not come.
        gap_ns: how far apart two readings may be and still be joined; 0 for any distance.
        notes: what a reader of the figures should know.
    """

    t_ns: Array
    watts: Array
    scope: str
    origin: Literal["measured", "estimated"]
    kind: Literal["mean", "sample"]
    meter: str
    rate_hz: float
    clock: str = "monotonic"
    step_joules: float = 0.0
    step_watts: float = 0.0
    missed: int = 0
    gap_ns: int = 0
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.t_ns.shape != self.watts.shape or self.t_ns.ndim != 1:
            raise MeterError(
                f"{self.meter}: times of shape {self.t_ns.shape} and powers of shape {self.watts.shape} do not match"
            )
        if len(self.t_ns) < 2:
            raise MeterError(
                f"{self.meter} gave {_count(len(self.t_ns), 'reading')}, a trace needs 2 at least",
                hint="measure for longer, or read more often",
            )
        if self.t_ns.dtype != np.int64:
            raise MeterError(f"{self.meter}: times are {self.t_ns.dtype}, int64 nanoseconds are needed")
        if not np.all(np.diff(self.t_ns) > 0):
            at = int(np.argmin(np.diff(self.t_ns) > 0)) + 1
            raise MeterError(
                f"{self.meter}: reading {at} is at {self.t_ns[at]} ns, not after the one before ({self.t_ns[at - 1]} ns)"
            )
        used = self.watts if self.kind == "sample" else self.watts[1:]
        if not np.all(np.isfinite(used)):
            raise MeterError(f"{self.meter}: {int(np.sum(~np.isfinite(used)))} of {len(used)} powers are not finite")

    def energy_joules(self, begin_ns: int, end_ns: int) -> float:
        """Energy from one moment to another, in joules: the integral of the power, exact for the trace's `kind`.

        Args:
            begin_ns: first moment, in the trace's clock.
            end_ns: last moment.

        Raises:
            MeterError: the readings do not cover the span, or lie further apart in it than `gap_ns`.
        """
        self._check_covers(begin_ns, end_ns)
        low = max(int(np.searchsorted(self.t_ns, begin_ns, "right")) - 1, 0)
        high = min(int(np.searchsorted(self.t_ns, end_ns, "left")), len(self.t_ns) - 1)
        inside = self.t_ns[low + 1 : high]
        inside = inside[(inside > begin_ns) & (inside < end_ns)]
        edges = np.concatenate([[begin_ns], inside, [end_ns]]).astype(np.int64)
        seconds = np.diff(edges) / 1e9
        if self.kind == "mean":
            return float(seconds @ self.watts[np.searchsorted(self.t_ns, edges[1:], "left").clip(1)])
        at = np.interp((edges - edges[0]).astype(float), (self.t_ns - edges[0]).astype(float), self.watts)
        return float(seconds @ (at[1:] + at[:-1]) / 2)

    def mean_watts(self, begin_ns: int, end_ns: int) -> float:
        """Mean power from one moment to a later one, in watts.

        Raises:
            MeterError: the span is empty, or see `energy_joules`.
        """
        if end_ns <= begin_ns:
            raise MeterError(f"a mean power needs a span, {begin_ns} to {end_ns} ns is none")
        return self.energy_joules(begin_ns, end_ns) / ((end_ns - begin_ns) / 1e9)

    def longest_gap_ns(self, begin_ns: int, end_ns: int) -> int:
        """Longest time between two neighbouring readings that a span touches, in nanoseconds; 0 if it touches none."""
        first = max(int(np.searchsorted(self.t_ns, begin_ns, "right")) - 1, 0)
        last = int(np.searchsorted(self.t_ns, end_ns, "left"))
        steps = np.diff(self.t_ns[first : last + 1])
        return int(steps.max()) if len(steps) else 0

    def _check_covers(self, begin_ns: int, end_ns: int) -> None:
        if end_ns < begin_ns:
            raise MeterError(f"a span of power cannot end ({end_ns} ns) before it begins ({begin_ns} ns)")
        first, last = int(self.t_ns[0]), int(self.t_ns[-1])
        if begin_ns < first or end_ns > last:
            raise MeterError(
                f"{self.meter} has readings from {_s(first, first)} to {_s(last, first)} s, "
                f"the span is {_s(begin_ns, first)} to {_s(end_ns, first)} s",
                hint="start the meter before the span and stop it after, or check which clock the times are of",
            )
        if self.gap_ns and (gap := self.longest_gap_ns(begin_ns, end_ns)) > self.gap_ns:
            raise MeterError(
                f"{self.meter} has no readings for {gap / 1e6:.1f} ms between {_s(begin_ns, first)} and {_s(end_ns, first)} s, "
                f"{self.gap_ns / 1e6:.1f} ms can be bridged",
                hint="measure again with less else running, or read the meter less often",
            )


class Clock:
    """The clock that meters read and wait by: monotonic nanoseconds; tests put their own in its place."""

    def now_ns(self) -> int:
        """The moment, as `time.monotonic_ns`."""
        return time.monotonic_ns()

    def wait(self, until_ns: int, stop: threading.Event) -> None:
        """Return at a moment, or earlier when `stop` is set; times that are past return at once."""
        if (left := until_ns - self.now_ns()) > 0:
            stop.wait(left / 1e9)


class Meter(ABC):
    """One source of power readings: opened, started, stopped once.

    Args:
        root: the folder that stands for "/": a recorded tree in tests.
        option: what stands after the colon in `--meter name:option`; a rail, a domain, a file.
        rate_hz: readings per second to try for; None takes what suits the meter.
        clock: what to read and wait by.

    Raises:
        MeterError: it cannot be read here; with the reason and what was looked for.
        UsageError: the option means nothing to this meter.
    """

    name: ClassVar[str]
    """The plug-in's name."""

    external: ClassVar[bool] = False
    """Whether this is an instrument beside the board, read on the host: never found by itself, always named."""

    def __init__(
        self, *, root: Path = Path("/"), option: str = "", rate_hz: float | None = None, clock: Clock | None = None
    ) -> None:
        if rate_hz is not None and not 0 < rate_hz <= 100_000:
            raise UsageError(f"a meter cannot be read {rate_hz:g} times a second", hint="take between 1 and 1000")
        self.root, self.option, self.clock = root, option, clock or Clock()

    @classmethod
    @abstractmethod
    def available(cls, root: Path = Path("/")) -> str:
        """Empty if the meter can be read here, else the reason in words, without the meter's name."""

    @abstractmethod
    def start(self) -> None:
        """Begin to read, in a thread of the meter's own where it needs one; returns when the first reading is there.

        Raises:
            MeterError: the first reading failed, or the meter was started before.
        """

    @abstractmethod
    def stop(self) -> PowerTrace:
        """End reading and give what came.

        Raises:
            MeterError: too little came, or the meter broke off; `so_far` still gives what came before.
        """

    @abstractmethod
    def so_far(self) -> PowerTrace:
        """What has come until now, also after the meter broke off.

        Raises:
            MeterError: fewer than two readings came.
        """


METERS: Kind[Meter] = Kind("meter", "edgewright.benchmarks.meters")


def open_meter(text: str, *, root: Path = Path("/"), rate_hz: float | None = None, clock: Clock | None = None) -> Meter:
    """Open one meter by its name and option, for example `rapl`, `ina3221:VDD_IN`, `trace:power.csv?clock=wall`.

    Args:
        text: `NAME` or `NAME:OPTION`; "auto" takes the first that is there, "auto:ina3221,hwmon" tries these before others.
        root: the folder that stands for "/".
        rate_hz: readings per second to try for.
        clock: what the meter reads and waits by.

    Raises:
        PluginError: there is no meter of this name.
        MeterError: it cannot be read here; with the reason.
        UsageError: more than one meter is named, or the option means nothing to this one.
    """
    name, _, option = text.strip().partition(":")
    if "," in name or "+" in name:
        raise UsageError(
            f"'{text}' names several meters, one is needed: their scopes overlap and their sum means nothing",
            hint="name the one that covers what you want to know",
        )
    if name == "auto":
        name, option = find_meter(root, option.split(",")), ""
    return METERS.get(name)(root=root, option=option, rate_hz=rate_hz, clock=clock)


def find_meter(root: Path = Path("/"), prefer: Sequence[str] = ()) -> str:
    """The name of the first meter that can be read here, those of `prefer` first, then in a fixed order.

    Args:
        root: the folder that stands for "/".
        prefer: names to try before the others, as a board's profile lists them; unknown and external ones are passed over.

    Raises:
        MeterError: none; says for each what was looked for.
    """
    known = METERS.names()
    reasons: list[str] = []
    for name in dict.fromkeys((*(n for n in prefer if n in known), *(n for n in ORDER if n in known), *known)):
        try:
            meter = METERS.get(name)
            if meter.external:
                continue
            reason = meter.available(root)
        except (EdgewrightError, ImportError, OSError) as error:  # a third party's meter must not hide ours
            reason = str(error)
        if not reason:
            return name
        reasons.append(f"{name}: {reason}")
    raise MeterError(
        f"no power meter on this machine (looked for {'; '.join(reasons)})",
        hint="name an external one with --meter trace:FILE.csv or --meter serial:PORT, or add --estimate-energy for an estimate",
    )


def last_reading(meter: Meter) -> int | None:
    """The time of the last reading that an instrument's file has already, in its clock; None if there is none."""
    try:
        return int(meter.so_far().t_ns[-1])
    except MeterError:
        return None


def newer_than(trace: PowerTrace, since_ns: int | None) -> PowerTrace:
    """What of a trace came while one process ran: markers and missed readings before it must not be taken for its own.

    Args:
        trace: all of it.
        since_ns: of `last_reading`, before the process began; None keeps everything.

    Raises:
        MeterError: that is less than two readings.
    """
    if since_ns is None:
        return trace
    new = trace.t_ns > since_ns
    if new.sum() < 2:
        raise MeterError(
            f"{trace.meter}: {new.sum()} readings came while the model was measured", hint="let the recording run meanwhile"
        )
    t_ns = trace.t_ns[new]
    steps = np.diff(t_ns)
    lacking = int((np.rint(steps / np.median(steps)) - 1).clip(0).sum())
    rate_hz = len(steps) / (float(steps.sum()) / 1e9)
    return replace(trace, t_ns=t_ns, watts=trace.watts[new], rate_hz=rate_hz, missed=min(trace.missed, lacking))


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _s(t_ns: int, origin_ns: int) -> str:
    return f"{(t_ns - origin_ns) / 1e9:.3f}"
