"""Measure one model in the process that this is called in: load, first inference, steady latency, memory and more.

Needs NumPy and one engine, so that a board can run it too: `python -m edgewright.benchmarks bench MODEL --json`.
"""

from __future__ import annotations

import builtins
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.benchmarks.bench_settings import ProcessSettings
from edgewright.benchmarks.conditions import conditions, throttled
from edgewright.benchmarks.memory import arena, memory_now, reset_peak, resident
from edgewright.benchmarks.quiet import no_garbage_collection
from edgewright.errors import EdgewrightError, PluginError, UsageError
from edgewright.runtime import ENGINES, Session, open_session
from edgewright.runtime.golden import drawn_values
from edgewright.runtime.machine import fingerprint, machine

__all__ = ["measure"]

Array = np.ndarray[Any, Any]

WARMUP_RUNS = 5
"""Least runs of a warm-up."""

LEAST_RUNS = 3
"""Timed runs of a model however slow it is."""

LONGEST_WARMUP_S = 10.0
LONGEST_S = 30.0
"""When the timed runs of a slow model end although there were not `min_runs` of them, and its runs after idle gaps."""

PROFILED_S = 1.0
LEAST_PROFILED = 10
MOST_PROFILED = 200
"""Runs in which ops are timed: as many as take a second, within these limits."""


def measure(
    path: str,
    *,
    engine: str | None = None,
    threads: int = 1,
    exact: bool = False,
    warmup_s: float = 0.3,
    min_runs: int = 50,
    max_runs: int = 20000,
    seed: int = 0,
    marker: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Load a model here and time it; a job for `worker.run`, so arguments and result are JSON values.

    Times are wall times of `time.perf_counter_ns`. An inference is one `Session.run`: checking the feeds, copying them
    in, computing, copying the results out. Feeds are made once, from a seed: normal values for float inputs, all stored
    values for quantized ones, 0 and 1 for other integers; a free size is 1. Python's garbage collector is off while
    inferences run. The file is in the page cache if somebody read it before, then loading shows no disk.

    Args:
        path: a .tflite, .onnx or OpenVINO .xml file.
        engine: a name in `ENGINES`; None takes the engine made for the format.
        threads: threads that one call may compute with.
        exact: compute float ops in float32 even where the engine would choose a lower precision by itself.
        warmup_s: seconds of untimed runs, and 5 runs at least; a slow model's warm-up ends after 10 s.
        min_runs: timed runs at least, for which they go on beyond their duration, up to 30 s; there are always 3.
        max_runs: timed runs at most, at which they end before their duration.
        seed: of the random feeds.
        marker: begin and end the metered inferences with a pattern that can be found in a trace of another clock.
        **settings: of `ProcessSettings`; inferences after idle gaps end early when they take more than 30 s, after 3 of them.

    Returns:
        `import_ns`: imports of the engine's packages. `load_ns`: opening the session, without them. `first_ns`: the first
        inference, which binds memory. `latencies_ns`: every timed inference in order. `after_idle_ns`: `gap_ms` and the
        `latencies_ns` of the inferences after gaps. `arena_bytes` of the engine, None where `arena_why_absent` says so.
        `conditions`: clocks and heat (`conditions.conditions`) `before` the warm-up and `after` the timed inferences,
        `throttled` and `why` of the time between. `placement`, `profile`, `energy`: what the modules of these names found
        in the end, or `why_absent`. `cpu_share`: processor time of this
        process over wall time while they ran; about `threads` on a machine with nothing else to do. `clock_ns`: least
        step of the clock between two readings. `rss`: resident bytes `before_bytes` the engine is imported,
        `loaded_bytes` after load, `peak_bytes` from load to end (`peak_since` "start" where the system cannot reset the
        peak before), each None where `why_absent` says so. `batch`: the first size that all inputs and outputs share, 1
        if they share none. Also: `schema`, `pid`, `engine`, `library`, `execution`, `threads`, `exact`, `inputs` (with
        the shape that was fed), `warmup_runs`, `settings`, `load_average` (of one minute, before; None where the system
        has none), `machine`, `fingerprint`, `python`, `numpy`.

    Raises:
        UsageError: a time or a number of runs is too small, or a meter's option means nothing to it.
        PluginError: there is no engine or no meter of this name.
        EdgewrightError: what `open_session` and `Session.run` raise.
    """
    how = ProcessSettings(**settings)
    runs = {"warmup_s": warmup_s, "min_runs": min_runs, "max_runs": max_runs}
    _check(runs)
    if how.meter != "none":
        _check_meter(how.meter)
    load_average = _load_average()
    for name in ENGINES.names():
        with suppress(ImportError, PluginError):  # open_session says why, if it is the one that is needed
            ENGINES.get(name)
    times = np.ones(max_runs, np.int64)  # written, so that its memory counts before the model's
    root = Path(how.meter_root)
    reset, before = reset_peak(), memory_now()
    with _timed_imports() as imports:
        started = time.perf_counter_ns()
        session = open_session(path, engine=engine, threads=threads, exact=exact)
        opened_ns = time.perf_counter_ns() - started
    with session:
        loaded = memory_now()
        rng = np.random.default_rng(seed)
        feeds = {spec.name: drawn_values(spec, rng) for spec in session.inputs}
        with no_garbage_collection():
            started = time.perf_counter_ns()
            results = session.run(feeds)
            first_ns = time.perf_counter_ns() - started
            cool = conditions(root)
            warmup_runs = _warm_up(session, feeds, warmup_s)
            count, cpu_share = _steady(session, feeds, times, how.duration_s, min_runs)
            warm = conditions(root)
            after_idle = _after_idle(session, feeds, how.idle_gaps, how.gap_ms)
            ended = memory_now()  # what follows may load the model once more
            latency_s = float(np.median(times[:count])) / 1e9
            found = _in_the_end(session, feeds, latency_s, how, marker)
        arena_bytes, arena_why = arena(session)
        was_throttled, why = throttled(cool, warm)
        return {
            "schema": 1,
            "pid": os.getpid(),
            "engine": session.engine,
            "library": session.version(),
            "execution": session.execution.to_json(),
            "threads": threads,
            "exact": exact,
            "inputs": [{**spec.to_json(), "fed": list(feeds[spec.name].shape)} for spec in session.inputs],
            "batch": _batch([*feeds.values(), *results.values()]),
            "settings": {**runs, "seed": seed, **asdict(how)},
            "import_ns": imports[0],
            "load_ns": opened_ns - imports[0],
            "first_ns": first_ns,
            "warmup_runs": warmup_runs,
            "latencies_ns": times[:count].tolist(),
            "after_idle_ns": {"gap_ms": how.gap_ms, "latencies_ns": after_idle},
            "cpu_share": cpu_share,
            "clock_ns": _clock_ns(),
            "rss": resident(before, loaded, ended, reset),
            "arena_bytes": arena_bytes,
            "arena_why_absent": arena_why,
            "conditions": {"before": cool, "after": warm, "throttled": was_throttled, "why": why},
            **found,
            "load_average": load_average,
            "machine": machine(),
            "fingerprint": fingerprint(),
            "python": platform.python_version(),
            "numpy": np.__version__,
        }


def _in_the_end(
    session: Session, feeds: Mapping[str, Array], latency_s: float, how: ProcessSettings, marker: bool
) -> dict[str, Any]:
    """Placement, profile and energy, each by its own module, which is imported for those who ask."""

    def place() -> Any:
        from edgewright.benchmarks.placement import record

        return record(session)

    def time_ops() -> Any:
        from edgewright.benchmarks.profile import profile as measured

        return measured(session, feeds, max(LEAST_PROFILED, min(MOST_PROFILED, int(PROFILED_S / max(latency_s, 1e-6)))))

    def meter_it() -> Any:
        from edgewright.benchmarks.energy import measure_energy

        return measure_energy(
            lambda: session.run(feeds),
            meter=how.meter,
            root=Path(how.meter_root),
            latency_s=latency_s,
            energy_s=how.energy_s,
            baseline_s=how.baseline_s,
            marker=marker,
        )

    unmetered = {"why_absent": "no meter was asked for (--meter none)"}
    return {
        "placement": _or_why(place),
        "profile": _or_why(time_ops) if how.profile else {"why_absent": "no profile was asked for (--profile)"},
        "energy": unmetered if how.meter == "none" else _or_why(meter_it),
    }


def _or_why(part: Callable[[], Any]) -> dict[str, Any]:
    """What a part of the record found, or the reason why it found nothing."""
    try:
        return dict(part())
    except UsageError:
        raise
    except EdgewrightError as error:
        return {"why_absent": error.message}


def _check(runs: Mapping[str, float]) -> None:
    """Refuse a warm-up and numbers of runs that measure nothing.

    Raises:
        UsageError: one of them is too small or no number.
    """
    for name, low in (("warmup_s", 0.0), ("min_runs", 1), ("max_runs", LEAST_RUNS)):
        if not low <= runs[name] < math.inf:
            raise UsageError(f"{name} is {runs[name]}, {low:g} is the least", hint="leave it out to take the default")


def _check_meter(text: str) -> None:
    """Refuse a meter that there is not before anything is measured; whether it can be read shows later.

    Raises:
        PluginError: there is no meter of this name.
    """
    from edgewright.benchmarks.energy import EXTERNAL
    from edgewright.benchmarks.power import METERS

    name = text.partition(":")[0]
    known = ("auto", "none", *EXTERNAL, *METERS.names())
    if name not in known:
        raise PluginError(f"there is no meter '{name}'", hint=f"known: {', '.join(known)}")


def _batch(arrays: Sequence[Array]) -> int:
    """Samples of one call: a model without a batch axis has inputs and outputs of different first sizes."""
    first = {array.shape[0] if array.ndim else 0 for array in arrays}
    return max(1, first.pop()) if len(first) == 1 else 1


def _warm_up(session: Session, feeds: Mapping[str, Array], seconds: float) -> int:
    """Run untimed until caches, clocks and the engine's own choices have settled; returns how often."""
    started = time.perf_counter_ns()
    enough, last = started + int(seconds * 1e9), started + int(max(seconds, LONGEST_WARMUP_S) * 1e9)
    count = 0
    while True:
        session.run(feeds)
        count += 1
        now = time.perf_counter_ns()
        if (now >= enough and count >= WARMUP_RUNS) or now >= last:
            return count


def _steady(session: Session, feeds: Mapping[str, Array], times: Array, duration_s: float, min_runs: int) -> tuple[int, float]:
    """Time runs one by one into `times`.

    Returns:
        How many there were, and this process's processor time over the wall time meanwhile.
    """
    clock, run, most = time.perf_counter_ns, session.run, len(times)
    count = 0
    cpu_started, started = time.process_time_ns(), clock()
    enough, last = started + int(duration_s * 1e9), started + int(max(duration_s, LONGEST_S) * 1e9)
    while True:
        begin = clock()
        run(feeds)
        end = clock()
        times[count] = end - begin
        count += 1
        if count == most or (end >= enough and count >= min_runs) or (end >= last and count >= LEAST_RUNS):
            break
    return count, (time.process_time_ns() - cpu_started) / max(1, clock() - started)


def _after_idle(session: Session, feeds: Mapping[str, Array], gaps: int, gap_ms: float) -> list[int]:
    """Nanoseconds of single runs, each after this process slept."""
    clock, found = time.perf_counter_ns, []
    last = clock() + int(LONGEST_S * 1e9)
    for _ in range(gaps):
        time.sleep(gap_ms / 1000)
        begin = clock()
        session.run(feeds)
        end = clock()
        found.append(end - begin)
        if end >= last and len(found) >= LEAST_RUNS:
            break
    return found


@contextmanager
def _timed_imports() -> Iterator[list[int]]:
    """Sum the nanoseconds of import statements while the block runs into the list's only item.

    Engines import their library while they open their first file, each in its own way. Timing the statements tells the
    two apart for every engine, a third party's too. Imports within imports count once.
    """
    spent, depth = [0], 0
    plain = builtins.__import__

    def timed(*args: Any, **kwargs: Any) -> Any:
        nonlocal depth
        if depth:
            return plain(*args, **kwargs)
        depth += 1
        started = time.perf_counter_ns()
        try:
            return plain(*args, **kwargs)
        finally:
            spent[0] += time.perf_counter_ns() - started
            depth -= 1

    builtins.__import__ = timed
    try:
        yield spent
    finally:
        builtins.__import__ = plain


def _clock_ns() -> int:
    """The least step between two readings of the clock: its resolution, or the time that reading takes if that is more."""
    readings = np.array([time.perf_counter_ns() for _ in range(200)])
    steps = np.diff(readings)
    return int(steps[steps > 0].min(initial=10**6))


def _load_average() -> float | None:
    """Mean number of processes that ran or wanted to, over the last minute."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None
