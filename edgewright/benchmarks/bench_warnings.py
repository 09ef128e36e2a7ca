"""What a reader of a benchmark must know beside its figures, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["warnings_of_file", "warnings_of_runs"]

Runs = Mapping[int, Sequence[Mapping[str, Any]]]

WARMER_K = 10.0
"""By how much a zone may become warmer while a process runs."""

_DRIFT = 0.1
_LEAST_OF_DRIFT = 40
"""By what share every process's latencies must change while it runs, and how many it must have, to be told."""

_RESTED = 1.5
"""How many times the steady p50 an inference after an idle gap may take."""

_FOLLOWS_LOAD = frozenset("ondemand conservative schedutil interactive walt sugov_ext powersave".split())
"""cpufreq governors that choose the clock anew all the time, or keep it low."""


def warnings_of_file(path: Path, runs: Runs) -> list[str]:
    """What a reader must know of all figures alike.

    Args:
        path: the file.
        runs: records of `latency.measure` by thread count.
    """
    first = next(iter(runs.values()))[0]
    execution, cores, load = first["execution"], first["machine"]["cores"], first["load_average"]
    found = []
    if lower := [kind for kind in execution["kinds"] if kind in {"bf16", "float16"} and not first["exact"]]:
        told = f"{path.name} was computed in {lower[0]} where it could be in float32 ({execution['detail']})"
        found.append(f"{told}; --exact forces float32")
    if first["batch"] > 1:
        found.append(f"a call computes a batch of {first['batch']}: latency is of the call, inferences per second count samples")
    if load is not None and load > 0.5 * cores:
        told = f"other work was running in the minute before: a load average of {load:.1f} on {cores} cores"
        found.append(f"{told}; measure again when the machine is idle")
    return found + _of_conditions([run["conditions"] for one in runs.values() for run in one])


def _drift(latencies: Sequence[np.ndarray[Any, Any]]) -> float:
    """Relative change of the median from first to last quarters: the least of all processes, 0 if they are not of one mind."""
    if min(map(len, latencies)) < _LEAST_OF_DRIFT:
        return 0.0
    medians = [(np.median(v[: len(v) // 4]), np.median(v[-(len(v) // 4) :])) for v in latencies]
    changes = [float(last / first) - 1 for first, last in medians if first > 0]
    least = min(changes, key=abs, default=0.0)
    same = all(change > 0 for change in changes) or all(change < 0 for change in changes)
    return least if same and abs(least) > _DRIFT else 0.0


def _of_conditions(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """What clocks and heat were like, where that matters."""
    told = []
    if slowed := [one for one in found if one["throttled"]]:
        told.append(
            f"the machine was slowed down in {len(slowed)} of {len(found)} processes ({slowed[0]['why']}): "
            "its latencies are not what it can do; cool it, or feed it better, and measure again"
        )
    governors = sorted({name for one in found for name in one["before"]["governor"].values()} & _FOLLOWS_LOAD)
    if governors:
        does = "keeps the clock low or follows the load" if governors == ["powersave"] else "lets the clock follow the load"
        told.append(
            f"the governor is {' and '.join(governors)}, which {does}: latencies depend on what ran before; "
            "set performance (cpupower frequency-set -g performance) for figures that can be repeated"
        )
    limited = {
        name: (at["max"], at["hardware_max"])
        for one in found
        for name, at in one["after"]["frequency_hz"].items()
        if at.get("max", 0) < at.get("hardware_max", 0)
    }
    for name, (now, could) in list(limited.items())[:1]:
        more = f" and {len(limited) - 1} more" if len(limited) > 1 else ""
        told.append(f"the clock of {name}{more} is limited to {now / 1e9:.2f} of {could / 1e9:.2f} GHz")
    rises = [
        (after - before, zone, before, after)
        for one in found
        for zone, after in one["after"]["temperature_c"].items()
        if (before := one["before"]["temperature_c"].get(zone)) is not None
    ]
    if rises and max(rises)[0] > WARMER_K:
        rise, zone, before, after = max(rises)
        told.append(
            f"{zone} went from {before:.1f} to {after:.1f} degrees C ({rise:.1f} K) within one process: "
            "latencies may still have been changing; --duration shows whether they do"
        )
    return told


def warnings_of_runs(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader must know of the figures of one thread count.

    Args:
        runs: records of `latency.measure`.
    """
    latencies = [np.asarray(run["latencies_ns"]) / 1e6 for run in runs]
    means = [float(values.mean()) for values in latencies]
    p50, p99 = (float(np.mean([np.percentile(values, q) for values in latencies])) for q in (50, 99))
    cores, threads, clock = runs[0]["machine"]["cores"], runs[0]["threads"], max(run["clock_ns"] for run in runs)
    found = []
    if threads > cores:
        found.append(f"{threads} threads shared {cores} cores")
    if max(means) - min(means) > 0.1 * np.mean(means):
        told = f"the processes' means differ by {(max(means) - min(means)) / np.mean(means):.0%}"
        found.append(f"{told} ({min(means):.4g} to {max(means):.4g} ms): differences smaller than that mean nothing")
    if threads == 1 and (share := min(run["cpu_share"] for run in runs)) < 0.9:
        found.append(
            f"a process had a core for only {share:.0%} of the time: other work was running; measure again when it is done"
        )
    if p99 > 3 * p50:
        found.append(
            f"the p99 of {p99:.4g} ms is {p99 / p50:.1f} times the p50 of {p50:.4g} ms: it counts where there is a deadline"
        )
    if drift := _drift(latencies):
        found.append(
            f"latencies {'rose' if drift > 0 else 'fell'} by {abs(drift):.0%} from the first to the last quarter of every "
            "process: clocks or heat were still changing; a longer --duration shows where they settle"
        )
    gaps = [ns for run in runs for ns in run["after_idle_ns"]["latencies_ns"]]
    if gaps and p50 and (rested := float(np.median(gaps)) / 1e6) > _RESTED * p50:
        gap_ms = runs[0]["after_idle_ns"]["gap_ms"]
        told = f"after {gap_ms:g} ms without work an inference takes {rested:.4g} ms, {rested / p50:.1f} times the steady p50"
        found.append(f"{told}: count with that where inferences come one by one")
    if p50 < 0.002:
        found.append(
            f"an inference takes {p50 * 1e6:.0f} ns and the clock has steps of {clock} ns: small differences mean nothing"
        )
    if (least := min(map(len, latencies))) < 100:
        found.append(f"a process timed {least} inferences: its p99 is hardly more than its slowest one; raise --duration")
    for part in ("profile", "energy"):
        texts = [text for run in runs for text in run[part].get("warnings", ())]
        found += [f"{part}: {text}" for text in dict.fromkeys(texts)]
    absent = [run["energy"] for run in runs if "why_absent" in run["energy"]]
    if 0 < len(absent) < len(runs):
        told = f"energy: {len(absent)} of {len(runs)} processes gave none"
        found.append(f"{told} ({absent[0]['why_absent']}): the figure is that of the others")
    return found
