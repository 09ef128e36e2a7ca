"""How files are benchmarked: what each process measures, how many there are, and what they may use."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from edgewright.errors import UsageError
from edgewright.worker import Limits

__all__ = ["DEFAULTS", "BenchSettings", "ProcessSettings"]

_LEAST = {"repeats": 1, "idle_gaps": 0, "gap_ms": 0}
_ABOVE_ZERO = ("duration_s", "energy_s", "baseline_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSettings:
    """What one process measures.

    Args:
        duration_s: seconds of timed inferences.
        idle_gaps: single inferences after a gap in which the process sleeps, so that deep sleep, clocks that must rise and
            cold caches show; 0 for none.
        gap_ms: milliseconds of a gap.
        profile: time every op too, in runs of their own behind the timed ones.
        meter: a power meter NAME[:OPTION], "auto" for the first that can be read where the model runs, "none"; for a board
            also an instrument beside it that this machine reads: `trace:FILE.csv`, `serial:PORT`.
        meter_root: folder that stands for / where the model runs: meters, clocks and temperatures are read from it, and a
            board's clock governor is set below it. Recorded files of another machine work too.
        energy_s: seconds of inferences under the meter.
        baseline_s: seconds of idling under the meter, before and behind them each.

    Raises:
        UsageError: a number measures nothing.
    """

    duration_s: float = 1.0
    idle_gaps: int = 20
    gap_ms: float = 100.0
    profile: bool = False
    meter: str = "auto"
    meter_root: str = "/"
    energy_s: float = 10.0
    baseline_s: float = 3.0

    def __post_init__(self) -> None:
        for name in (one.name for one in fields(self)):
            value = getattr(self, name)
            if name in _LEAST and not _LEAST[name] <= value < math.inf:
                raise UsageError(f"{name} is {value}, {_LEAST[name]} is the least", hint="leave it out to take the default")
            if name in _ABOVE_ZERO and not 0 < value < math.inf:
                raise UsageError(f"{name} is {value}, more than 0 is needed", hint="write for example 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSettings(ProcessSettings):
    """How files are benchmarked, here or on a board: what each process measures (`ProcessSettings`), and how many there are.

    Args:
        repeats: rounds, that is processes per file and thread count.
        limits: time and memory of each process; memory cannot be limited on a board.

    Raises:
        UsageError: a number measures nothing.
    """

    repeats: int = 3
    limits: Limits = Limits()

    def of_a_process(self) -> dict[str, Any]:
        """The fields of `ProcessSettings`, as `latency.measure` takes them."""
        return {one.name: getattr(self, one.name) for one in fields(ProcessSettings)}


DEFAULTS = BenchSettings()
"""How files are benchmarked where nothing is said."""
