"""Bring a power trace of another clock onto ours: by a pattern of busy and idle time, or by both wall clocks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from edgewright.benchmarks.power import PowerTrace
from edgewright.errors import MeterError

__all__ = ["CHIP_S", "CODE", "Alignment", "Marker", "align_by_markers", "align_by_wall", "reading_edges", "run_marker"]

Array = np.ndarray[Any, Any]

CODE = "1010111011000111110011010010000"
"""When to be busy (1) and idle (0), one chip after another: a maximal-length sequence of 31 (x^5 + x^2 + 1).

Shifted against itself it is as unlike as a binary code can be (S. W. Golomb, "Shift Register Sequences", 1967): neither
square waves of some other job nor drifts look like it.
"""

CHIP_S = 0.1
"""Length of a chip: long enough for readings at 20 Hz and for boards whose capacitors smooth their input for milliseconds."""

MOST_PPM = 2000.0
"""How much faster or slower another clock may run: quartz stays below 100 ppm, the oscillators inside controllers do not."""

CLOCK_PPM = 100.0
"""How far two quartz clocks may run apart where one marker cannot tell: 50 ppm each."""

LEAST_PEAK = 0.6
"""The least correlation that counts as found; see `_needed_peak`."""

CLEAR = 1.5
"""By what factor the best place must be better than the next best."""

_FINEST = 64  # parts of a chip that readings are averaged over at least: finer ones cost time and place nothing better


@dataclass(frozen=True, slots=True)
class Marker:
    """A pattern that was run, in our clock.

    Args:
        begin_ns: start of the idle chip before the code.
        end_ns: end of the idle chip after it.
        chip_ns: length of a chip.
        busy: spans in which the processor was kept busy, as they really were, in order.
    """

    begin_ns: int
    end_ns: int
    chip_ns: int
    busy: tuple[tuple[int, int], ...]

    def to_json(self) -> dict[str, Any]:
        """Plain form for JSON."""
        busy = [list(span) for span in self.busy]
        return {"begin_ns": self.begin_ns, "end_ns": self.end_ns, "chip_ns": self.chip_ns, "busy_ns": busy}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Marker:
        """Inverse of `to_json`."""
        busy = tuple((int(begin), int(end)) for begin, end in data["busy_ns"])
        return cls(int(data["begin_ns"]), int(data["end_ns"]), int(data["chip_ns"]), busy)


@dataclass(frozen=True, slots=True)
class Alignment:
    """How a trace's clock relates to ours: its reading is at_ns + offset_ns + rate * (ours - at_ns).

    Args:
        offset_ns: the trace's time minus ours at `at_ns`.
        at_ns: a moment of our clock.
        rate: seconds of the trace's clock per second of ours.
        error_ns: how far off a moment of the measurement may be, at 95 %.
        rate_error: the same of `rate`.
        peak: correlation at the place found; 1 by wall clock.
        runner_up: the best correlation elsewhere.
        method: "marker" or "wall clock".
    """

    offset_ns: int
    at_ns: int
    rate: float
    error_ns: int
    rate_error: float
    peak: float
    runner_up: float
    method: str

    def apply(self, trace: PowerTrace) -> PowerTrace:
        """The trace in our clock.

        A counter's energy stays what it was, so its powers change with the length of the second; a converter's do not.
        """
        moved = (trace.t_ns - (self.at_ns + self.offset_ns)) / self.rate  # small numbers: floats keep the nanoseconds
        times = self.at_ns + np.round(moved).astype(np.int64)
        watts = trace.watts * self.rate if trace.kind == "mean" else trace.watts
        return replace(trace, t_ns=times, watts=watts, clock="monotonic")

    def to_json(self) -> dict[str, Any]:
        """What a report tells of it."""
        return {
            "method": self.method,
            "error_ms": self.error_ns / 1e6,
            "clock_ppm": (self.rate - 1) * 1e6,
            "clock_ppm_error": self.rate_error * 1e6,
            "peak": self.peak,
            "runner_up": self.runner_up,
        }


def run_marker(
    chip_s: float = CHIP_S,
    *,
    code: str = CODE,
    now_ns: Callable[[], int] = time.monotonic_ns,
    sleep: Callable[[float], object] = time.sleep,
) -> Marker:
    """Keep one core busy and idle after a code, an idle chip before and after it; takes 33 chips.

    Args:
        chip_s: length of a chip in seconds.
        code: of "1" and "0".
        now_ns: the clock.
        sleep: how to be idle.
    """
    chip_ns = int(chip_s * 1e9)
    begin = now_ns()
    busy: list[tuple[int, int]] = []
    for index, chip in enumerate(f"0{code}0", start=1):
        until = begin + index * chip_ns
        started = now_ns()
        if chip == "0":
            sleep(max(0, until - started) / 1e9)
            continue
        while now_ns() < until:
            pass
        ended = now_ns()
        if busy and code[index - 3] == "1":
            busy[-1] = (busy[-1][0], ended)
        else:
            busy.append((started, ended))
    return Marker(begin, now_ns(), chip_ns, tuple(busy))


def reading_edges(trace: PowerTrace) -> tuple[Array, Array]:
    """The spans that readings stand for, without gaps, and their powers.

    A mean stands for the time since the reading before it; a sample for the time that is nearer to it than to its neighbours.

    Returns:
        edges, int64 (readings + 1,), and watts, float64 (readings,).
    """
    if trace.kind == "mean":
        return trace.t_ns, trace.watts[1:]
    middles = trace.t_ns[:-1] + np.diff(trace.t_ns) // 2
    first, last = 2 * trace.t_ns[0] - middles[0], 2 * trace.t_ns[-1] - middles[-1]
    return np.concatenate([[first], middles, [last]]).astype(np.int64), trace.watts


def align_by_markers(
    trace: PowerTrace, markers: Sequence[Marker], *, until_ns: int | None = None, most_ppm: float = MOST_PPM
) -> Alignment:
    """Find markers in a trace: where the power goes up and down as they did.

    First the best place of all markers together, by the normalised cross-correlation of the power with the share of busy time
    (J. P. Lewis, "Fast normalized cross-correlation", 1995) on a grid of quarters of a chip, for several rates of the clocks;
    then each marker by itself, to parts of a reading, by the top of a parabola. Two markers give the rate of the clocks.

    The error of a marker's place has two parts. Readings say nothing of what happens within one: a uniform distribution over
    one interval between readings. Noise: with E edges, height b, scatter s and readings T apart, the edges' place is that of
    least squares, s T / (b sqrt(E)), and, in strong noise, that of a change point, whose variance is 26 (s^2 T / (b^2 E))^2
    (Y.-C. Yao, Annals of Statistics 15, 1987). Both are added as variances and doubled (GUM, JCGM 100:2008, 6.2: k = 2).

    Args:
        trace: in any clock.
        markers: one, or one before and one after the measurement.
        until_ns: the last moment of ours that matters; with a single marker the clocks run apart until then.
        most_ppm: how much faster or slower the trace's clock may run.

    Raises:
        MeterError: the trace is shorter than the markers, too slow for them, or no place is clear enough.
    """
    edges, watts = reading_edges(trace)
    chip = markers[0].chip_ns
    period = float(np.median(np.diff(edges)))
    if period > chip / 2:
        raise MeterError(
            f"{trace.meter} has a reading every {period / 1e6:.1f} ms, the marker's shortest part is {chip / 1e6:.1f} ms long",
            hint=f"make the marker slower: parts of {3 * period / 1e9:.2g} s, or read the meter more often",
        )
    origin = int(edges[0])
    rate, places, peak, runner_up = _coarse((edges - origin).astype(float), watts, markers, period, most_ppm)
    offsets, errors = [], []
    for marker, place in zip(markers, places, strict=True):
        offset, error = _fine(edges, watts, marker, origin + place - marker.begin_ns, rate)
        offsets.append(offset)
        errors.append(error)
    centres = [(marker.begin_ns + marker.end_ns) // 2 for marker in markers]
    if len(markers) == 1:
        apart = abs((centres[0] if until_ns is None else until_ns) - centres[0])
        error = errors[0] + CLOCK_PPM * 1e-6 * apart
        return Alignment(round(offsets[0]), centres[0], 1.0, int(np.ceil(error)), CLOCK_PPM * 1e-6, peak, runner_up, "marker")
    apart = centres[-1] - centres[0]
    rate = float(1 + (offsets[-1] - offsets[0]) / apart)
    at = (centres[0] + centres[-1]) // 2
    offset = (offsets[0] + offsets[-1]) / 2
    rate_error = float(np.hypot(errors[0], errors[-1])) / apart
    return Alignment(round(offset), at, rate, int(np.ceil(max(errors[0], errors[-1]))), rate_error, peak, runner_up, "marker")


def align_by_wall(own_wall_ns_at: tuple[int, int], trace_wall_ns_at: tuple[int, int] = (0, 0), *, error_s: float) -> Alignment:
    """Bring a trace to our clock by what both clocks say of the time of day.

    Args:
        own_wall_ns_at: a moment of our clock, and nanoseconds since 1970 at it.
        trace_wall_ns_at: the same of the trace's clock; (0, 0) for a trace whose clock is the time of day.
        error_s: how far the two times of day may be apart.
    """
    own, own_wall = own_wall_ns_at
    there, there_wall = trace_wall_ns_at
    offset = there + (own_wall - there_wall) - own
    return Alignment(offset, own, 1.0, int(np.ceil(error_s * 1e9)), 0.0, 1.0, 0.0, "wall clock")


def _busy_until(marker: Marker, t_ns: Array) -> Array:
    """Busy nanoseconds from a marker's begin to moments that are counted from its begin."""
    bounds = np.array(marker.busy, dtype=np.int64) - marker.begin_ns
    spent = np.concatenate([[0], np.cumsum(bounds[:, 1] - bounds[:, 0])])
    return np.asarray(np.interp(t_ns, bounds.ravel().astype(float), np.repeat(spent, 2)[1:-1].astype(float)))


def _coarse(
    edges: Array, watts: Array, markers: Sequence[Marker], period: float, most_ppm: float
) -> tuple[float, list[float], float, float]:
    """Rate of the clock, each marker's begin in the trace (ns from its first edge), the peak and the next best."""
    chip, first = markers[0].chip_ns, markers[0].begin_ns
    step = max(period, chip / 4)
    count = int((edges[-1] - edges[0]) / step)
    grid = edges[0] + step * np.arange(count + 1)
    total = np.concatenate([[0.0], np.cumsum(np.diff(edges) * (watts - watts.mean()))])
    power = np.diff(np.interp(grid, edges, total)) / step
    span = markers[-1].end_ns - first
    if span > count * step:
        raise MeterError(
            f"the trace is {count * step / 1e9:.1f} s long, the measurement with its markers took {span / 1e9:.1f} s",
            hint="record from before the benchmark begins until after it has ended",
        )
    rate_step = chip / (2 * span)  # the ends of the span are then at most a quarter of a chip off
    half = int(np.ceil(max(0.0, most_ppm * 1e-6 / rate_step - 0.5)))
    best: tuple[float, float, Array, int] | None = None
    for rate in 1 + rate_step * np.arange(-half, half + 1):
        template, mask = _template(markers, step, rate)
        if len(template) > count:
            continue
        found = _correlation(power, template, mask)
        at = int(np.argmax(found))
        if best is None or found[at] > best[0]:
            best = (float(found[at]), float(rate), found, int(mask.sum()))
    if best is None:  # only a clock that runs slower than ours would fit
        raise MeterError("the trace ends within the last marker", hint="record until the benchmark has ended")
    peak, rate, found, used = best
    at = int(np.argmax(found))
    near = int(np.ceil(chip / step))
    others = np.concatenate([found[: max(0, at - near)], found[at + near + 1 :]])
    runner_up = float(max(others.max(initial=0.0), 0.0))
    needed = _needed_peak(used, markers)
    if peak < needed or peak < CLEAR * runner_up:
        raise MeterError(
            f"the marker is not clear in the trace: the best correlation is {peak:.2f}, {needed:.2f} is needed; "
            f"the next best is {runner_up:.2f}, at most {peak / CLEAR:.2f} is allowed beside it",
            hint="check that the meter measures this board and was recording, or make the marker slower",
        )
    places = [edges[0] + at * step + rate * (marker.begin_ns - first) for marker in markers]
    return rate, places, peak, runner_up


def _needed_peak(readings: int, markers: Sequence[Marker]) -> float:
    """What chance does not reach: correlations of n independent values scatter by 1 / sqrt(n).

    Of noise each reading is one, and five times that comes up once in a million places. Of other jobs that come and go as slowly
    as chips do, each chip is one; there the factor by which the best place stands out helps, and four and a half times is enough.
    """
    chips = sum(marker.end_ns - marker.begin_ns for marker in markers) / markers[0].chip_ns
    return float(max(LEAST_PEAK, 5 / np.sqrt(readings), 4.5 / np.sqrt(chips)))


def _template(markers: Sequence[Marker], step: float, rate: float) -> tuple[Array, Array]:
    """Busy share of each cell of a grid that starts with the first marker, and which cells lie within a marker."""
    first = markers[0].begin_ns
    count = int(np.ceil((markers[-1].end_ns - first) * rate / step))
    own = np.arange(count + 1) * (step / rate)
    share, mask = np.zeros(count), np.zeros(count, bool)
    for marker in markers:
        inside = (own[:-1] >= marker.begin_ns - first) & (own[1:] <= marker.end_ns - first)
        part = np.diff(_busy_until(marker, own - (marker.begin_ns - first))) * (rate / step)
        share[inside] = part[inside]
        mask |= inside
    return share, mask


def _correlation(power: Array, template: Array, mask: Array) -> Array:
    """Pearson's correlation of a template with the power at every place, over the cells of the mask.

    Returns:
        float64 (len(power) - len(template) + 1,).
    """
    used = int(mask.sum())
    pattern = np.where(mask, template - template[mask].mean(), 0.0)
    size = 1 << int(np.ceil(np.log2(len(power) + len(template))))
    kept = len(power) - len(template) + 1

    def slide(values: Array, weights: Array) -> Array:
        product = np.fft.rfft(values, size) * np.conj(np.fft.rfft(weights, size))
        return np.asarray(np.fft.irfft(product, size)[:kept])

    ones = mask.astype(float)
    power = power - power.mean()
    scatter = slide(power**2, ones) - slide(power, ones) ** 2 / used
    floor = 1e-12 * float(np.mean(power**2)) * used  # a place of constant power correlates with nothing
    norm = np.sqrt(np.maximum(scatter, 0.0) * float(pattern @ pattern))
    return np.where(scatter > floor, slide(power, pattern) / np.maximum(norm, 1e-300), 0.0)


def _fine(edges: Array, watts: Array, marker: Marker, offset: float, rate: float) -> tuple[float, float]:
    """The trace's time minus ours at a marker's centre, and its error at 95 %, both in ns.

    Args:
        edges: of the trace's readings.
        watts: their powers.
        marker: which one.
        offset: the trace's time minus ours at the marker's begin, to within half a chip.
        rate: seconds of the trace's clock per second of ours.
    """
    chip = marker.chip_ns
    begin = marker.begin_ns + offset
    first, last = np.searchsorted(edges, [begin + chip / 2, begin + rate * (marker.end_ns - marker.begin_ns) - chip / 2])
    bounds = edges[first:last]
    # Blocks of whole readings: no energy is moved from one to another.
    block = max(1, int(chip / _FINEST / max(1.0, float(np.median(np.diff(bounds))))))
    total = np.concatenate([[0.0], np.cumsum(np.diff(bounds) * watts[first : last - 1])])[::block]
    bounds = (bounds[::block] - int(begin)).astype(float) - (begin - int(begin))
    widths = np.diff(bounds)
    power = np.diff(total) / widths
    period = float(np.median(widths))

    def share(shift: float) -> Array:
        return np.diff(_busy_until(marker, (bounds - shift) / rate)) * rate / widths

    def likeness(shift: float) -> float:
        both = np.corrcoef(share(shift), power)
        return float(both[0, 1])

    shifts = np.arange(-chip / 2, chip / 2, max(period / 4, chip / 200))
    values = [likeness(shift) for shift in shifts]
    shift = float(shifts[int(np.argmax(values))])
    reach = period / 2
    for _ in range(2):
        left, middle, right = (likeness(shift + part) for part in (-reach, 0.0, reach))
        bend = left - 2 * middle + right
        if bend < 0:
            shift += float(np.clip(reach * (left - right) / (2 * bend), -reach, reach))
    half = (marker.end_ns - marker.begin_ns) / 2
    return offset + shift + (rate - 1) * half, _error_ns(share(shift), power, period, marker)


def _error_ns(share: Array, power: Array, period: float, marker: Marker) -> float:
    """Error of a marker's place at 95 %; see `align_by_markers`."""
    height, level = np.polyfit(share, power, 1)
    rest = power - (height * share + level)
    follows = sum(a * b for a, b in pairwise(rest)) / max(float(rest @ rest), 1e-300)
    follows = float(np.clip(follows, 0.0, 0.9))  # noise that lasts for several readings counts as more of it
    noise = (float(np.mean(rest**2)) * (1 + follows) / (1 - follows)) ** 0.5 / abs(float(height))
    count = 2 * len(marker.busy)
    scatter = period * max(noise / count**0.5, 26**0.5 * noise**2 / count)
    return 2 * float(np.hypot(scatter, period / 12**0.5))
