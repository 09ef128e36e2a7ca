"""Benchmark reports as `bench --json` prints them, from figures of single processes, for tests of what reads them."""

import numpy as np
import pytest

from edgewright.benchmarks.bench import BenchTarget, bench_many
from edgewright.benchmarks.bench_settings import BenchSettings
from edgewright.testing_models import plus_one_tflite

UNITS = {"peak_rss": "bytes", "energy_per_inference": "mJ"}
KEYS = {
    "latency_p50": "p50_ms",
    "latency_p90": "p90_ms",
    "latency_mean": "mean_ms",
    "load": "load_ms",
    "first_inference": "first_ms",
    "peak_rss": "peak_rss_bytes",
    "energy_per_inference": "mj_per_inference",
}


def metric(name, value, subject="", low=None, high=None, interval="", why=""):
    unit = "bytes" if name.endswith("_bytes") else UNITS.get(name, "ms")
    return {
        **{"name": name, "subject": subject, "unit": unit, "value": value, "samples": 100, "origin": "measured"},
        **{"why_absent": why, "low": low, "high": high, "interval": interval},
    }


def report(p50, *, p90=None, threads=(1,), keep=tuple(KEYS), size=1000.0, sha256="ab" * 32, **changes):
    """A report; `p50` is one list of processes, or a list for each thread count."""
    groups = [p50] if len(threads) == 1 else p50
    metrics, details = [], {}
    for count, values in zip(threads, groups, strict=True):
        subject = f"threads={count}" if len(threads) > 1 else ""
        own = {
            "latency_p50": values,
            "latency_p90": p90 or [1.2 * value for value in values],
            "latency_mean": [1.05 * value for value in values],
            "load": [10.0 + value for value in values],
            "first_inference": [2 * value for value in values],
            "peak_rss": [5e7 + 1000 * value for value in values],
            "energy_per_inference": [3 * value for value in values],
        }
        for name, each in own.items():
            ends = (0.9 * np.mean(each), 1.1 * np.mean(each))
            told = f"range of {len(each)} processes" if name in ("load", "peak_rss") else f"95 % t over {len(each)} processes"
            metrics.append(metric(name, float(np.mean(each)), subject, *map(float, ends), told))
        processes = [{**{KEYS[name]: float(own[name][n]) for name in keep}, "runs": 100, "order": n} for n in range(len(values))]
        conditions = [{"before": {"governor": {"policy0": "performance"}}, "after": {}, "throttled": False, "why": "asked"}]
        found = {"processes": processes, "conditions": conditions}
        details |= {subject: found} if subject else found
    metrics += [metric("raw_bytes", size), metric("deflated_bytes", size / 2)]
    machine = {"cpu": "Cortex-A76", "cores": 4, "system": "Linux", "architecture": "aarch64", "memory_bytes": 8 << 30}
    found = {
        "schema": 1,
        "kind": "bench",
        "model": {
            **{"path": "models/net.tflite", "format": "tflite", "sha256": sha256, "engine": "litert"},
            **{"library": "ai-edge-litert 2.3.0", "batch": 1, "inputs": [{"name": "x", "shape": [1, 4], "fed": [1, 4]}]},
            "execution": {"precision": "int8", "detail": "ops", "device": "CPU", "kinds": ["int8"]},
        },
        "settings": {
            **{"threads": list(threads), "duration_s": 1.0, "repeats": len(groups[0]), "exact": False, "warmup_s": 0.3},
            **{"machine": {**machine, "hostname": "pi", "release": "6"}, "fingerprint": "f" * 16, "load_average": 0.0},
            **{"python": "3.11.7", "numpy": "2.0.0", "device": "pi5"},
        },
        "metrics": metrics,
        "warnings": [],
        "details": details,
    }
    for path, value in changes.items():
        *way, last = path.split("__")
        node = found
        for key in way:
            node = node[key]
        node[last] = value
    return found


def around(value, count=10, spread=0.01, seed=0):
    """Figures of processes."""
    return list(value * np.random.default_rng(seed).lognormal(0, spread, count))


def measured_twice(folder, repeats):
    """Two reports, as JSON, of one file that took turns with itself."""
    pytest.importorskip("ai_edge_litert")
    target = BenchTarget(plus_one_tflite(folder / "plus_one.tflite"))
    settings = BenchSettings(duration_s=0.02, repeats=repeats, idle_gaps=0, meter="none")
    return [one.to_json() for one in bench_many([target, target], settings)]
