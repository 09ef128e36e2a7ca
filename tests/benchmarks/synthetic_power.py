"""Power traces of known energy: what a board takes is a function of time, and meters of several kinds look at it."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from edgewright.benchmarks.energy import Window
from edgewright.benchmarks.power import PowerTrace

Array = np.ndarray[Any, Any]
STEP_NS = 500_000
"""Time between two points of the true power, which is constant in between."""


@dataclass
class Board:
    """A board that idles, works and idles again.

    Args:
        idle_watts: at the start.
        drift_watts: by which idle power has risen at the end.
        bend: 0 for a drift along a straight line, 1 for one that is fast at first and slow at the end.
        active_watts: above idle, while it works.
        latency_s: of an inference.
        ripple: power within an inference: goes from 1 - ripple to 1 + ripple times the mean.
        noise_watts: of the power itself, of the milliseconds.
        memory: how much of a deviation is left after 10 ms.
        uneven: scatter of the active power from window to window, relative.
    """

    idle_watts: float = 2.0
    drift_watts: float = 0.0
    bend: float = 0.0
    active_watts: float = 1.5
    latency_s: float = 0.005
    ripple: float = 0.6
    noise_watts: float = 0.05
    memory: float = 0.5
    uneven: float = 0.0
    baseline_s: float = 3.0
    energy_s: float = 10.0
    windows: int = 5
    seed: int = 0
    t_ns: Array = field(init=False)
    watts: Array = field(init=False)
    spans: list[Window] = field(init=False)
    idle_spans: list[Window] = field(init=False)
    true_joules: float = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        lead = 0.5
        total = lead + self.baseline_s + lead + self.energy_s + lead + self.baseline_s + lead
        zero = 10**12
        t_s = np.arange(round(total * 1e9 / STEP_NS) + 1) * STEP_NS / 1e9
        begin = lead + self.baseline_s + lead
        count = max(1, round(self.energy_s / self.windows / self.latency_s))
        ends = begin + np.arange(self.windows + 1) * count * self.latency_s
        x = t_s / total
        course = (1 - self.bend) * x + self.bend * (1 - np.exp(-4 * x)) / (1 - np.exp(-4))
        self.watts = self.idle_watts + self.drift_watts * course
        works = (t_s >= begin - 0.2) & (t_s < ends[-1] + 0.1)
        phase = (t_s - begin + STEP_NS / 2e9) / self.latency_s % 1  # of the middle of each step
        per_window = 1 + self.uneven * rng.normal(size=self.windows + 2)
        at = np.clip(np.searchsorted(ends, t_s, "right"), 0, self.windows + 1)
        active = np.where(works, self.active_watts * (1 + self.ripple * (2 * phase - 1)) * per_window[at], 0.0)
        self.watts += active
        self.watts += _red_noise(rng, len(t_s), self.noise_watts, self.memory)
        self.t_ns = zero + np.arange(len(t_s)) * STEP_NS
        edges = zero + np.round(ends * 1e9).astype(np.int64)
        self.spans = [Window(int(a), int(b), count) for a, b in pairwise(edges)]
        after = int(edges[-1]) + int(lead * 1e9)
        first = zero + int(lead * 1e9)
        self.idle_spans = [Window(a, a + int(self.baseline_s * 1e9)) for a in (first, after)]
        inside = (self.t_ns >= edges[0]) & (self.t_ns < edges[-1])
        self.true_joules = float(active[inside].mean()) * self.latency_s  # the noise belongs to no inference

    def counter(self, rate_hz: float = 100.0, *, step_joules: float = 61e-6, missed: float = 0.0, seed: int = 1) -> PowerTrace:
        """What a counter of energy shows that is read at a jittering rate; some readings never come."""
        rng = np.random.default_rng(seed)
        t_ns = self._moments(rate_hz, missed, rng)
        total = np.concatenate([[0.0], np.cumsum(self.watts[:-1] * STEP_NS / 1e9)])
        joules = np.interp(t_ns - self.t_ns[0], self.t_ns - self.t_ns[0], total)
        if step_joules:
            joules = np.floor(joules / step_joules + rng.random()) * step_joules
        watts = np.concatenate([[0.0], np.diff(joules) / (np.diff(t_ns) / 1e9)])
        return self._trace(t_ns, watts, "mean", rate_hz, step_joules=step_joules)

    def converter(
        self, rate_hz: float = 200.0, *, step_watts: float = 0.0, missed: float = 0.0, noise_watts: float = 0.02, seed: int = 1
    ) -> PowerTrace:
        """What a converter shows: the power of the moment, with noise, in steps."""
        rng = np.random.default_rng(seed)
        t_ns = self._moments(rate_hz, missed, rng)
        watts = self.watts[(t_ns - self.t_ns[0]) // STEP_NS]
        watts = watts + noise_watts * rng.normal(size=len(t_ns))
        if step_watts:
            watts = np.round(watts / step_watts) * step_watts
        return self._trace(t_ns, watts, "sample", rate_hz, step_watts=step_watts)

    def _moments(self, rate_hz: float, missed: float, rng: np.random.Generator) -> Array:
        period = 1e9 / rate_hz
        count = int((self.t_ns[-1] - self.t_ns[0]) / period) - 1
        t_ns = self.t_ns[0] + ((np.arange(count) + 0.5 + rng.uniform(-0.1, 0.1, count)) * period).astype(np.int64)
        return np.asarray(t_ns[rng.random(count) >= missed])

    def _trace(self, t_ns: Array, watts: Array, kind: Literal["mean", "sample"], rate_hz: float, **steps: float) -> PowerTrace:
        due = int((t_ns[-1] - t_ns[0]) / 1e9 * rate_hz)
        missed = max(0, due - len(t_ns))
        return PowerTrace(t_ns, watts, "board input", "measured", kind, "synthetic", rate_hz, missed=missed, **steps)


def _red_noise(rng: np.random.Generator, count: int, watts: float, memory: float) -> Array:
    """Gaussian noise that forgets with time, made at 1 kHz and joined by steps."""
    size = count * STEP_NS // 1_000_000 + 2
    keep = memory ** (1 / 10)
    reach = 1 << (2 * size).bit_length()
    kernel = np.fft.rfft(keep ** np.arange(size), reach)
    white = rng.normal(size=size) * watts * np.sqrt(1 - keep**2)
    white[0] = watts * rng.normal()  # as if it had gone on for ever
    values = np.fft.irfft(np.fft.rfft(white, reach) * kernel, reach)[:size]
    return np.asarray(values[np.arange(count) * STEP_NS // 1_000_000])
