"""Energy of one inference from a power trace, with its interval; idle power is measured and subtracted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from edgewright.benchmarks.alignment import reading_edges
from edgewright.benchmarks.bench import t_quantile
from edgewright.benchmarks.power import PowerTrace
from edgewright.errors import MeterError

__all__ = ["LEAST_BASELINE_READINGS", "LEAST_READINGS", "Window", "energy_of"]

Array = np.ndarray[Any, Any]

LEAST_READINGS = 5
"""Readings that must lie wholly within each window."""

LEAST_BASELINE_READINGS = 8
"""The same of each idle baseline, whose scatter is told from its own readings."""

BATCHES = 10
MOST_POINTS = 2000
_GAP_PERIODS = 4  # readings that come later than this are missing
_MOST_GAPS = 0.1  # share of a window that may lie in such gaps


@dataclass(frozen=True, slots=True)
class Window:
    """A span of the measurement, in the clock of the trace.

    Args:
        begin_ns: when its first inference began.
        end_ns: when its last inference ended.
        inferences: how many ran back to back; 0 for an idle baseline.
    """

    begin_ns: int
    end_ns: int
    inferences: int = 0

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.end_ns - self.begin_ns) / 1e9

    @property
    def middle_ns(self) -> float:
        """Its middle."""
        return (self.begin_ns + self.end_ns) / 2


class _Level(NamedTuple):
    """Power within a span, from the readings that lie wholly in it.

    Args:
        watts: mean power.
        batches: means of batches of neighbouring readings, watts.
        rise_watts: mean of the last quarter minus that of the first.
        noise_watts: scatter of single readings around their neighbours.
        readings: how many there are.
    """

    watts: float
    batches: Array
    rise_watts: float
    noise_watts: float
    readings: int

    @property
    def error_watts(self) -> float:
        """Standard error of the mean, from batch means: neighbouring readings are alike, batches less so.

        A straight trend over the span is no scatter: it is what drift is, and the mean is that of the middle all the same.
        Where batches still follow each other, as if by r of the one before, there are only n (1 - r) / (1 + r) of them.
        """
        count = len(self.batches)
        at = np.arange(count) - (count - 1) / 2
        rest = self.batches - self.batches.mean()
        rest = rest - at * float(at @ rest) / float(at @ at)
        square = float(rest @ rest)
        follows = float(rest[1:] @ rest[:-1]) / square + 2 / count if square else 0.0  # 2 / count: bias of the estimate
        follows = min(max(follows, 0.0), 0.8)
        return float(np.sqrt(square / self.freedom / count * (1 + follows) / (1 - follows)))

    @property
    def freedom(self) -> int:
        """Degrees of freedom of `error_watts`."""
        return len(self.batches) - 2


class _Term(NamedTuple):
    """One source of uncertainty: its name, standard uncertainty in J per inference, degrees of freedom."""

    name: str
    joules: float
    freedom: float


def energy_of(
    trace: PowerTrace, windows: Sequence[Window], baselines: Sequence[Window], *, alignment_ns: int = 0
) -> dict[str, Any]:
    """Energy per inference: what the windows took beyond idle power, over their inferences.

    A window's power is the mean of the readings that lie wholly within it, `alignment_ns` kept free at both ends: readings
    across an edge mix busy and idle, and any rule that shares them out is off to one side. Idle power at a window is read off
    the straight lines that join the baselines' means.

    The 95 % interval combines these standard uncertainties (GUM, JCGM 100:2008, 5.1.2), each of the mean over all windows:

    - windows: scatter of windows around the ratio of net energy to inferences (W. G. Cochran, "Sampling Techniques", 1977,
      6.4), k - 1 degrees of freedom for k windows; a single window is split into batches;
    - baseline: standard error of each baseline by batch means (A. M. Law, "Simulation Modeling and Analysis", 5th ed., 9.5.3);
    - drift: idle power between two baselines may have taken any course between both means, so a uniform distribution of half
      their difference to either side (GUM 4.3.7);
    - resolution: a counter's step at both ends of each span, uniform (GUM F.2.2.1), independent; a converter's step in every
      reading alike, uniform, less where noise moves the readings over several steps (B. Widrow, I. Kollar, "Quantization
      Noise", 2008: the remaining mean error falls with exp(-2 pi^2 s^2 / q^2));
    - alignment: how much power differs between the windows' ends, times a uniform shift of `alignment_ns` to either side.

    Student's t of the effective degrees of freedom (Welch and Satterthwaite, GUM G.4.1) widens their root of squares. The
    meter's calibration is not in it: no trace tells of it.

    Args:
        trace: power in the clock of the windows; of another clock, see `alignment.Alignment.apply`.
        windows: spans of inferences.
        baselines: idle spans, best one before and one after the windows.
        alignment_ns: how far off the trace's times may be.

    Returns:
        A plain dictionary; `low` and `high` are the interval of `mj_per_inference`, which is above idle (net).
        `mj_per_inference_gross` contains idle power. `windows`, `baselines` and `trace.t_ms` are in ms from one zero.

    Raises:
        MeterError: the trace is of another clock, does not cover a span, or has too few readings in it.
    """
    if trace.clock != "monotonic":
        raise MeterError(
            f"the trace of {trace.meter} has times of {'the wall clock' if trace.clock == 'wall' else 'a clock of its own'}, "
            "the inferences those of this process, and how the two relate is not known",
            hint="run the benchmark with a marker in it, or state how far the wall clocks may be apart",
        )
    windows = sorted(windows, key=lambda window: window.begin_ns)
    baselines = sorted(baselines, key=lambda window: window.begin_ns)
    count = sum(window.inferences for window in windows)
    if not baselines or not windows or min(window.inferences for window in windows) < 1:
        raise MeterError("energy needs a baseline and windows with inferences in them, one of these is missing")
    busy = [
        _level(trace, window, f"window {number} of {len(windows)}", LEAST_READINGS, alignment_ns)
        for number, window in enumerate(windows, 1)
    ]
    idle = [
        _level(trace, window, f"baseline {number} of {len(baselines)}", LEAST_BASELINE_READINGS, alignment_ns)
        for number, window in enumerate(baselines, 1)
    ]
    seconds = np.array([window.seconds for window in windows])
    shares = _shares(windows, baselines)
    below = shares @ [level.watts for level in idle]
    gross = seconds * [level.watts for level in busy]
    net = gross - seconds * below
    joules = float(net.sum()) / count
    terms = _terms(trace, windows, baselines, busy, idle, shares, net, alignment_ns)
    half, freedom = _half_width(terms)
    mean_idle = float(seconds @ below / seconds.sum())
    zero, drawn = _drawn(trace, windows, baselines)
    return {
        "meter": trace.meter,
        "scope": trace.scope,
        "origin": trace.origin,
        "kind": trace.kind,
        "rate_hz": float(trace.rate_hz),
        "readings": sum(level.readings for level in busy),
        "missed": int(trace.missed),
        "baseline_watts": mean_idle,
        "active_watts": float(gross.sum() / seconds.sum()),
        "mj_per_inference": joules * 1e3,
        "low": (joules - half) * 1e3,
        "high": (joules + half) * 1e3,
        "interval": f"95 % t, {freedom} degrees of freedom, {_number(len(windows), 'window')}",
        "mj_per_inference_gross": float(gross.sum()) / count * 1e3,
        "uncertainty_mj": {term.name: term.joules * 1e3 for term in terms},
        "inferences": count,
        "windows": [[(w.begin_ns - zero) / 1e6, (w.end_ns - zero) / 1e6, w.inferences] for w in windows],
        "baselines": [[(w.begin_ns - zero) / 1e6, (w.end_ns - zero) / 1e6, 0] for w in baselines],
        "alignment_ms": alignment_ns / 1e6,
        "trace": drawn,
        "notes": list(trace.notes),
        "warnings": _warnings(trace, windows, idle, joules, half, float(net.sum() / seconds.sum())),
    }


def _level(trace: PowerTrace, span: Window, what: str, least: int, guard_ns: int) -> _Level:
    """Power within a span.

    Raises:
        MeterError: the trace does not cover the span or has fewer than `least` readings in it.
    """
    edges, watts = reading_edges(trace)
    period = float(np.median(np.diff(edges)))
    begin, end = span.begin_ns + guard_ns, span.end_ns - guard_ns
    if edges[0] > span.begin_ns + 2 * period or edges[-1] < span.end_ns - 2 * period:
        zero = int(edges[0])
        raise MeterError(
            f"{trace.meter} covers {what} only in part: readings go from 0.000 to {(edges[-1] - zero) / 1e9:.3f} s, "
            f"it goes from {(span.begin_ns - zero) / 1e9:.3f} to {(span.end_ns - zero) / 1e9:.3f} s",
            hint="start the meter before the benchmark and stop it after",
        )
    if trace.kind == "mean":
        first, last = int(np.searchsorted(edges, begin, "left")), int(np.searchsorted(edges, end, "right")) - 1
    else:
        first, last = int(np.searchsorted(trace.t_ns, begin, "left")), int(np.searchsorted(trace.t_ns, end, "right"))
    found = max(0, last - first)
    if found < least:
        needed = (least + 2) * period / 1e9 + 2 * guard_ns / 1e9
        raise MeterError(
            f"{what} is {span.seconds:.3g} s long and holds {_number(found, 'reading')} of {trace.meter} "
            f"({1e9 / period:.4g} a second), {least} are needed",
            hint=f"measure energy for longer: each window and baseline for {needed:.2g} s at least",
        )
    used, widths = watts[first:last], np.diff(edges[first : last + 1]).astype(float)
    missing = [max(0, edges[first] - begin), max(0, end - edges[last])]
    if trace.kind == "sample":  # a counter goes on counting between its readings
        missing += list(widths)
    lost = float(sum(gap - period for gap in missing if gap > _GAP_PERIODS * period))
    if lost > _MOST_GAPS * (end - begin):
        raise MeterError(
            f"{trace.meter} covers {what} only in part: readings are missing for {lost / 1e9:.3f} of {span.seconds:.3f} s, "
            f"{_MOST_GAPS:.0%} may be",
            hint="measure again with less else running, or read the meter less often",
        )
    parts = np.array_split(np.arange(found), max(3, min(BATCHES, found // 2)))
    quarter = max(1, found // 4)
    return _Level(
        float(np.average(used, weights=widths)),
        np.array([np.average(used[part], weights=widths[part]) for part in parts]),
        float(used[-quarter:].mean() - used[:quarter].mean()),
        float(np.sqrt(np.mean(np.diff(used) ** 2) / 2)),
        found,
    )


def _shares(windows: Sequence[Window], baselines: Sequence[Window]) -> Array:
    """How much each baseline has in the idle power at each window: straight lines between their middles.

    Returns:
        float64 (windows, baselines); rows add up to 1.
    """
    middles = [(baseline.middle_ns - baselines[0].begin_ns) for baseline in baselines]
    at = [window.middle_ns - baselines[0].begin_ns for window in windows]
    return np.stack([np.interp(at, middles, row) for row in np.eye(len(baselines))], axis=1)


def _terms(
    trace: PowerTrace,
    windows: Sequence[Window],
    baselines: Sequence[Window],
    busy: Sequence[_Level],
    idle: Sequence[_Level],
    shares: Array,
    net: Array,
    alignment_ns: int,
) -> list[_Term]:
    """Every source of uncertainty of the net energy per inference; see `energy_of`."""
    counts = np.array([window.inferences for window in windows], float)
    seconds = np.array([window.seconds for window in windows])
    total, k = float(counts.sum()), len(windows)
    weights = seconds @ shares  # seconds for which each baseline stands
    if k > 1:
        scatter = float(np.sum((net - net.sum() / total * counts) ** 2) / (k - 1))
        between = _Term("windows", (k * scatter) ** 0.5 / total, k - 1)
    else:
        between = _Term("windows", busy[0].error_watts * windows[0].seconds / total, busy[0].freedom)
    names = ["baseline"] if len(idle) == 1 else [f"baseline {number}" for number in range(1, len(idle) + 1)]
    levels = [
        _Term(name, float(weight) * level.error_watts / total, level.freedom)
        for name, weight, level in zip(names, weights, idle, strict=True)
    ]
    drift = 0.0
    for before, after, one, other in zip(baselines[:-1], baselines[1:], idle[:-1], idle[1:], strict=True):
        between_them = [w.seconds for w in windows if before.middle_ns <= w.middle_ns < after.middle_ns]
        drift += abs(other.watts - one.watts) / (2 * 3**0.5) * sum(between_them)
    lengths = np.array([baseline.seconds for baseline in baselines])
    counter = trace.step_joules * ((k + float(np.sum((weights / lengths) ** 2))) / 6) ** 0.5
    left = [trace.step_watts / 12**0.5 * _left_of_step(levels, trace.step_watts) for levels in (busy, idle)]
    converter = float(np.hypot(left[0], left[1]) * seconds.sum())
    rise = abs(sum(level.rise_watts for level in busy)) * alignment_ns / 1e9 / 3**0.5
    return [
        between,
        *levels,
        _Term("drift", drift / total, np.inf),
        _Term("resolution", float(np.hypot(counter, converter)) / total, np.inf),
        _Term("alignment", float(rise) / total, np.inf),
    ]


def _left_of_step(levels: Sequence[_Level], step: float) -> float:
    """What noise leaves of the mean error that a converter's step makes, between 0 and 1.

    A steady power at the border of two steps also flickers, by half a step at most; only what is beyond counts as noise.
    """
    if not step:
        return 0.0
    noise = min(level.noise_watts for level in levels)
    return float(np.exp(-2 * np.pi**2 * max(0.0, noise**2 - step**2 / 4) / step**2))


def _half_width(terms: Sequence[_Term]) -> tuple[float, int]:
    """Half the 95 % interval in J, and the effective degrees of freedom (GUM G.4.1: rounded down)."""
    square = sum(term.joules**2 for term in terms)
    spread = sum(term.joules**4 / term.freedom for term in terms)
    freedom = int(min(10_000, max(1.0, square**2 / spread))) if spread > 0 else 10_000
    return t_quantile(freedom) * square**0.5, freedom


def _warnings(
    trace: PowerTrace, windows: Sequence[Window], idle: Sequence[_Level], joules: float, half: float, net_watts: float
) -> list[str]:
    """What a reader of the figures must know."""
    found = []
    if joules - half <= 0:
        found.append(
            f"energy above idle is {joules * 1e3:.4g} mJ per inference with an interval of -+ {half * 1e3:.4g} mJ: "
            "it cannot be told from zero; measure for longer, or on a board with less else running"
        )
    if len(idle) == 1:
        found.append("idle power was measured once only: a drift of it is not seen")
    drift = idle[-1].watts - idle[0].watts
    if abs(drift) > 0.1 * abs(net_watts):
        found.append(
            f"idle power went from {idle[0].watts:.4g} to {idle[-1].watts:.4g} W meanwhile, "
            f"inferences take {net_watts:.4g} W above it"
        )
    due = len(trace.t_ns) + trace.missed
    if trace.missed > 0.05 * due:
        found.append(f"{trace.missed} of {due} readings were missed")
    fastest = min(window.seconds / window.inferences for window in windows)
    if trace.kind == "sample" and trace.rate_hz * fastest < 2:
        found.append(
            f"{trace.meter} reads the power {trace.rate_hz:.4g} times a second, an inference takes {fastest * 1e3:.4g} ms: "
            "what happens between readings is seen by chance only, and the interval says how well"
        )
    if trace.kind == "sample" and (locked := _locked(trace, windows)):
        found.append(
            f"the readings of {trace.meter} keep step with the inferences (phases agree by {locked:.2f} of 1): "
            "they may see always the same part of one; read at another rate"
        )
    return found


def _locked(trace: PowerTrace, windows: Sequence[Window]) -> float:
    """How far readings keep to one phase of the inferences, between 0 and 1; 0 if no more than chance does.

    The mean resultant length of the phases (K. V. Mardia, P. E. Jupp, "Directional Statistics", 2000, 2.3).
    """
    phases = []
    for window in windows:
        inside = trace.t_ns[slice(*np.searchsorted(trace.t_ns, [window.begin_ns, window.end_ns]))] - window.begin_ns
        phases.append(inside / ((window.end_ns - window.begin_ns) / window.inferences))
    together = np.concatenate(phases)
    length = float(abs(np.mean(np.exp(2j * np.pi * together))))
    return length if length > max(0.3, 3 / len(together) ** 0.5) else 0.0


def _drawn(trace: PowerTrace, windows: Sequence[Window], baselines: Sequence[Window]) -> tuple[int, dict[str, Any]]:
    """The trace for a picture: from half a second before the first span to half a second after the last.

    Returns:
        the zero of all times in ns, and times in ms with powers in watts; means of neighbours where there are too many.
    """
    spans = [*windows, *baselines]
    begin, end = min(span.begin_ns for span in spans), max(span.end_ns for span in spans)
    edges, watts = reading_edges(trace)
    first, last = np.searchsorted(edges, [begin - 500_000_000, end + 500_000_000])
    last = min(int(last), len(watts))
    widths, used = np.diff(edges[first : last + 1]).astype(float), watts[first:last]
    middles = (edges[first:last] - begin).astype(float) + widths / 2
    starts = np.arange(0, len(used), -(-len(used) // MOST_POINTS))
    total = np.add.reduceat(widths, starts)
    return begin, {
        "t_ms": [round(float(t), 4) for t in np.add.reduceat(middles * widths, starts) / total / 1e6],
        "watts": [float(f"{w:.6g}") for w in np.add.reduceat(used * widths, starts) / total],
    }


def _number(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
