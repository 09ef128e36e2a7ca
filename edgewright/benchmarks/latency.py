"""Measure one model in the process that this is called in: load, first inference, steady latency, memory.

Needs NumPy and one engine, so that a board can run it too: `python -m edgewright.benchmarks bench MODEL --json`.
"""

from __future__ import annotations

import builtins
import gc
import math
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.artifact import TensorSpec
from edgewright.errors import PluginError, UsageError
from edgewright.runtime import ENGINES, Session, open_session
from edgewright.runtime.machine import fingerprint, machine

__all__ = ["measure"]

Array = np.ndarray[Any, Any]

WARMUP_RUNS = 5
"""Least runs of a warm-up."""

LEAST_RUNS = 3
"""Timed runs of a model however slow it is."""

LONGEST_WARMUP_S = 10.0
LONGEST_S = 30.0
"""When the timed runs of a slow model end although there were not `min_runs` of them."""


def measure(
    path: str,
    *,
    engine: str | None = None,
    threads: int = 1,
    exact: bool = False,
    warmup_s: float = 0.3,
    duration_s: float = 1.0,
    min_runs: int = 50,
    max_runs: int = 20000,
    seed: int = 0,
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
        duration_s: seconds of timed runs.
        min_runs: timed runs at least, for which they go on beyond `duration_s`, up to 30 s; there are always 3.
        max_runs: timed runs at most, at which they end before `duration_s`.
        seed: of the random feeds.

    Returns:
        `import_ns`: imports of the engine's packages. `load_ns`: opening the session, without them. `first_ns`: the first
        inference, which binds memory. `latencies_ns`: every timed inference in order. `cpu_share`: processor time of this
        process over wall time while they ran; about `threads` on a machine with nothing else to do. `clock_ns`: least
        step of the clock between two readings. `rss`: resident bytes `before_bytes` the engine is imported,
        `loaded_bytes` after load, `peak_bytes` from load to end (`peak_since` "start" where the system cannot reset the
        peak before), each None where `why_absent` says so. `batch`: the first size that all inputs and outputs share, 1
        if they share none. Also: `schema`, `pid`, `engine`, `library`, `execution`, `threads`, `exact`, `inputs` (with
        the shape that was fed), `warmup_runs`, `settings`, `load_average` (of one minute, before; None where the system
        has none), `machine`, `fingerprint`, `python`, `numpy`.

    Raises:
        UsageError: a time or a number of runs is not positive.
        EdgewrightError: what `open_session` and `Session.run` raise.
    """
    settings = {"warmup_s": warmup_s, "duration_s": duration_s, "min_runs": min_runs, "max_runs": max_runs, "seed": seed}
    _check(settings)
    load_average = _load_average()
    for name in ENGINES.names():
        with suppress(ImportError, PluginError):  # open_session says why, if it is the one that is needed
            ENGINES.get(name)
    times = np.ones(max_runs, np.int64)  # written, so that its memory counts before the model's
    reset, before = _reset_peak(), _memory()
    with _timed_imports() as imports:
        started = time.perf_counter_ns()
        session = open_session(path, engine=engine, threads=threads, exact=exact)
        opened_ns = time.perf_counter_ns() - started
    with session:
        loaded = _memory()
        rng = np.random.default_rng(seed)
        feeds = {spec.name: _feed(spec, rng) for spec in session.inputs}
        with _no_garbage_collection():
            started = time.perf_counter_ns()
            results = session.run(feeds)
            first_ns = time.perf_counter_ns() - started
            warmup_runs = _warm_up(session, feeds, warmup_s)
            count, cpu_share = _steady(session, feeds, times, duration_s, min_runs)
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
            "settings": settings,
            "import_ns": imports[0],
            "load_ns": opened_ns - imports[0],
            "first_ns": first_ns,
            "warmup_runs": warmup_runs,
            "latencies_ns": times[:count].tolist(),
            "cpu_share": cpu_share,
            "clock_ns": _clock_ns(),
            "rss": _resident(before, loaded, _memory(), reset),
            "load_average": load_average,
            "machine": machine(),
            "fingerprint": fingerprint(),
            "python": platform.python_version(),
            "numpy": np.__version__,
        }


def _check(settings: Mapping[str, float]) -> None:
    """Refuse times and numbers of runs that measure nothing.

    Raises:
        UsageError: one of them is too small or no number.
    """
    least = {"warmup_s": 0.0, "min_runs": 1, "max_runs": LEAST_RUNS}
    for name, low in least.items():
        if not low <= settings[name] < math.inf:
            raise UsageError(f"{name} is {settings[name]}, {low:g} is the least", hint="leave it out to take the default")
    if not 0 < settings["duration_s"] < math.inf:
        raise UsageError(f"duration_s is {settings['duration_s']}, more than 0 is needed", hint="write for example 1")


def _feed(spec: TensorSpec, rng: np.random.Generator) -> Array:
    """Random values that an input takes, of its dtype; a free size is 1."""
    shape = tuple(1 if size is None else size for size in spec.shape)
    dtype = np.dtype(spec.dtype)
    if dtype.kind in "fc":
        return np.asarray(rng.standard_normal(shape)).astype(dtype)
    if spec.quantized:
        limits = np.iinfo(dtype)
        return np.asarray(rng.integers(limits.min, limits.max, shape, dtype, endpoint=True), dtype)
    return np.asarray(rng.integers(0, 2, shape)).astype(dtype)


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


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Collect now and not while the block runs: a collection takes longer than many an inference."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


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


def _reset_peak() -> bool:
    """Have Linux count the peak of resident memory from now on; whether it does (see proc_pid_clear_refs(5))."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _memory() -> dict[str, int]:
    """Resident bytes: "now" where Linux tells, "peak" also on other Unix systems."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith(("VmRSS", "VmHWM"))}
        return {"now": found["VmRSS"], "peak": found["VmHWM"]}
    except (OSError, KeyError, ValueError):
        pass
    try:
        import resource
    except ImportError:
        return {}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"peak": peak if sys.platform == "darwin" else peak * 1024}


def _resident(before: Mapping[str, int], loaded: Mapping[str, int], end: Mapping[str, int], reset: bool) -> dict[str, Any]:
    """What `measure` tells of memory, from three readings."""
    why = "" if "now" in end else f"{platform.system()} does not tell a process its resident memory"
    # The kernel sums its per-core counters at different moments: a peak may read a little below an earlier reading.
    readings = [reading for state in (loaded, end) for reading in state.values()]
    return {
        "before_bytes": before.get("now"),
        "loaded_bytes": loaded.get("now"),
        "peak_bytes": max(readings, default=None),
        "peak_since": "load" if reset else "start",
        "why_absent": why,
    }
