"""What a run will cost: from what the same steps took before, else from rules of thumb; always called an estimate."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from edgewright.cache import Entry
from edgewright.planning import PlannedStep, Settings

__all__ = ["Estimate", "estimate"]

MIB = 1 << 20

RULES = {
    "lower": (6.0, 0.25, 700.0, 12.0),
    "pass": (60.0, 4.0, 1200.0, 20.0),
    "export": (4.0, 0.3, 350.0, 8.0),
    "inspect": (0.5, 0.05, 120.0, 3.0),
    "outputs": (2.0, 0.5, 200.0, 3.0),
    "evaluate": (1.5, 0.0, 200.0, 0.0),
    "bench": (0.9, 0.0, 100.0, 3.0),
}
"""By kind of step: seconds, seconds per MiB of the model, MiB of memory, MiB per MiB of the model; two cores, November 2026."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a step will cost.

    Args:
        seconds: wall time.
        memory_bytes: of the largest process.
        origin: what the figure for the time comes from, in words.
    """

    seconds: float
    memory_bytes: float
    origin: str


def estimate(step: PlannedStep, earlier: Iterable[Entry], settings: Settings) -> Estimate:
    """What a step will cost.

    Args:
        step: the step; one that is in the cache costs nothing.
        earlier: finished steps, of any kind and model.
        settings: of the run.
    """
    kind = step.kind.partition(":")[0]
    base, per_mib, memory, memory_per_mib = RULES.get(kind, (5.0, 0.5, 500.0, 5.0))
    size = (step.model_bytes or 0) / MIB
    if step.reused:
        return Estimate(0.0, 0.0, "in the cache")
    used = (memory + memory_per_mib * size) * MIB
    if kind == "bench":  # its time is set by its options
        files = float(step.options.get("files", 1))
        seconds = files * settings.repeats * (base + settings.bench_s + 0.3)
        return Estimate(seconds, used, "files x processes")
    expected = base + per_mib * size
    seen = [
        entry.seconds * expected / (base + per_mib * float(entry.value.get("model_bytes") or 0) / MIB)
        for entry in earlier
        if entry.kind == step.kind
    ]
    if seen:
        return Estimate(median(seen), used, f"{len(seen)} earlier steps")
    return Estimate(expected, used, "rule of thumb")
