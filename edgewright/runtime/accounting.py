"""What became of every frame, how long each stage took, and what the process used: honest and in bounded memory."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Lane", "Resources", "Timings"]

_STEP = math.log(1.01)
_BINS = 3200
_KEPT = 512

DROPS = {
    "oldest": "the buffer was full, the oldest waiting frame made room",
    "newest": "the buffer was full, the new frame was not taken",
    "source": "the source kept only its newest frame",
    "broken": "damaged when it came: the source left it out",
    "rate": "above the frame rate that was asked for",
    "stop": "waiting when the stream was stopped",
}
"""Why a frame can be dropped."""


class Timings:
    """Durations in bins of 1 %: percentiles of any number of them in 25 kB. Any thread adds and reads."""

    def __init__(self) -> None:
        self._counts = np.zeros(_BINS, np.int64)
        self._lock = threading.Lock()
        self.count, self.total_ns, self.largest_ns = 0, 0, 0

    def add(self, duration_ns: int) -> None:
        """Count one duration in nanoseconds; negative ones count as 0."""
        place = int(math.log(duration_ns) / _STEP) if duration_ns > 1 else 0
        with self._lock:
            self._counts[place if place < _BINS else _BINS - 1] += 1
            self.count += 1
            self.total_ns += max(0, duration_ns)
            if duration_ns > self.largest_ns:
                self.largest_ns = duration_ns

    def at_most(self, bounds_s: Sequence[float]) -> list[int]:
        """How many durations do not exceed each bound in seconds, within 1 %; the last number is that of all."""
        with self._lock:
            sums = np.concatenate([[0], np.cumsum(self._counts)])
        places = (min(_BINS, math.floor(math.log(bound * 1e9) / _STEP)) for bound in bounds_s)
        return [*(int(sums[place]) for place in places), int(sums[-1])]

    def percentile(self, share: float) -> float | None:
        """The duration in milliseconds that a share (0 to 1) of all does not exceed, within 1 %; None if there are none."""
        if not self.count:
            return None
        sums = np.cumsum(self._counts)
        place = int(np.searchsorted(sums, max(1, math.ceil(share * sums[-1]))))
        return float(min(math.exp((place + 0.5) * _STEP), self.largest_ns) / 1e6)

    def to_json(self) -> dict[str, float | int]:
        """Count, mean, p50, p90, p99 and largest, in milliseconds; only the count if it is 0."""
        if not self.count:
            return {"count": 0}
        shares = {f"p{round(100 * share)}_ms": self.percentile(share) for share in (0.5, 0.9, 0.99)}
        return {
            "count": self.count,
            "mean_ms": round(self.total_ns / self.count / 1e6, 4),
            **{name: round(value, 4) for name, value in shares.items() if value is not None},
            "max_ms": round(self.largest_ns / 1e6, 4),
        }


class Lane:
    """The account of one source: every frame that was captured ends in exactly one class.

    captured = done + late + failed + dropped + waiting, at any time; nothing is waiting at the end.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.captured = self.done = self.late = self.failed = self.duplicates = 0
        self.dropped: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.samples: dict[str, int] = {}
        self.stages = {stage: Timings() for stage in ("capture", "prepare", "wait", "infer", "answer")}
        self.age = Timings()
        self.lock = threading.Lock()

    def drop(self, why: str, count: int = 1) -> None:
        """Count frames that nothing came of; `why` is a key of `DROPS`."""
        with self.lock:
            self.dropped[why] += count

    def end(self, status: str, error: str = "") -> None:
        """Count the end of one frame."""
        with self.lock:
            setattr(self, status, getattr(self, status) + 1)
            if error:
                self.errors[error if error in self.errors or len(self.errors) < 20 else "other errors"] += 1

    @property
    def waiting(self) -> int:
        """Frames that have not ended."""
        return self.captured - self.done - self.late - self.failed - sum(self.dropped.values())

    def to_json(self) -> dict[str, Any]:
        """Plain form for JSON."""
        with self.lock:
            ended: dict[str, Any] = {"done": self.done, "late": self.late, "failed": self.failed, "dropped": dict(self.dropped)}
            captured = self.captured  # last: what has ended was captured before
            return {
                "captured": captured,
                **ended,
                "waiting": captured - ended["done"] - ended["late"] - ended["failed"] - sum(ended["dropped"].values()),
                "duplicates": self.duplicates,
                **({"errors": dict(self.errors.most_common())} if self.errors else {}),
                **({"samples": dict(self.samples)} if self.samples else {}),
                "age": self.age.to_json(),
                "stages": {name: timings.to_json() for name, timings in self.stages.items()},
            }


class Resources:
    """Memory and temperature over a run: at most 512 readings, thinned as the run grows.

    Args:
        root: where /proc and /sys are; another folder for tests.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._page = _page_size()
        self._every, self._count = 1, 0
        self.readings: list[tuple[float, int]] = []
        self.rss_bytes: int | None = None
        self.peak_rss_bytes = 0
        self.temperature_c: float | None = None
        self.peak_temperature_c: float | None = None
        self._start = time.monotonic()

    def sample(self) -> None:
        """Take one reading; what the system does not tell stays None."""
        rss, heat = self._rss(), self._temperature()
        if heat is not None:
            self.temperature_c = heat
            self.peak_temperature_c = max(heat, self.peak_temperature_c or heat)
        self.rss_bytes = rss
        if rss is None:
            return
        self.peak_rss_bytes = max(self.peak_rss_bytes, rss)
        if self._count % self._every == 0:
            self.readings.append((time.monotonic() - self._start, rss))
            if len(self.readings) > _KEPT:
                self.readings = self.readings[::2]
                self._every *= 2
        self._count += 1

    def slope_bytes_per_minute(self) -> float | None:
        """Growth of memory by least squares over the second half of the run, after start-up; None below 10 readings."""
        late = self.readings[len(self.readings) // 2 :]
        if len(late) < 10:
            return None
        seconds, sizes = np.asarray(late, np.float64).T
        centred = seconds - seconds.mean()
        return float(60.0 * (centred @ (sizes - sizes.mean())) / (centred @ centred))

    def to_json(self) -> dict[str, Any]:
        """Plain form for JSON; what is not known is None."""
        slope = self.slope_bytes_per_minute()
        return {
            "rss_bytes": self.rss_bytes,
            "peak_rss_bytes": self.peak_rss_bytes or None,
            "rss_slope_bytes_per_minute": None if slope is None else round(slope),
            "temperature_c": self.temperature_c,
            "peak_temperature_c": self.peak_temperature_c,
        }

    def _rss(self) -> int | None:
        try:
            return int((self._root / "proc/self/statm").read_text().split()[1]) * self._page
        except (OSError, ValueError, IndexError):
            return None

    def _temperature(self) -> float | None:
        """The hottest zone in degrees Celsius."""
        found = []
        for file in self._root.glob("sys/class/thermal/thermal_zone*/temp"):
            try:
                found.append(int(file.read_text()) / 1000.0)
            except (OSError, ValueError):
                continue
        return max(found) if found else None


def _page_size() -> int:
    import os

    try:
        return os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 4096
