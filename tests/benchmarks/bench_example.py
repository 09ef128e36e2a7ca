"""Reports of kind "bench" as the benchmark makes them, from records of processes that never ran, for tests of what shows them."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.synthetic_power import Board

from edgewright.benchmarks.bench_report import report_of
from edgewright.benchmarks.energy import energy_of
from edgewright.benchmarks.energy_estimate import estimate
from edgewright.benchmarks.placement import _sum
from edgewright.report import Metric, Report
from edgewright.testing_models import plus_one_tflite

NASTY = 'odd <script>alert("x")</script> & \u202egnp.elit | `code`.tflite'
WHY = "no power meter on this machine (looked for rapl: no /sys/class/powercap/intel-rapl*, hwmon: none)"
REASON = "the delegate has no <b>such op</b> with these padding sizes"


def state(celsius: float | None = None, ghz: float = 2.4) -> dict[str, Any]:
    if celsius is None:
        absent = {key: "no such file" for key in ("governor", "frequency_hz", "temperature_c", "throttle")}
        return {"governor": {}, "frequency_hz": {}, "temperature_c": {}, "throttle": {}, "absent": absent}
    clocks = {"min": 1_500_000_000, "cur": int(ghz * 1e9), "max": 2_400_000_000, "hardware_max": 2_400_000_000}
    return {
        **{"governor": {"policy0": "performance"}, "frequency_hz": {"policy0": clocks}, "throttle": {"raspberry_pi": 0}},
        **{"temperature_c": {"thermal_zone0 cpu-thermal": celsius}, "absent": {}},
    }


def placement(delegate: str = "CPU, XNNPACK delegate") -> dict[str, Any]:
    """Ten ops, of which two stay outside of the delegate."""
    ops = []
    for index in range(10):
        inside = index not in (4, 9)
        ops.append(
            {
                "index": index,
                "name": f"net/block_{index}/Relu6;net/block_{index}/conv",
                "op": "CONV_2D" if inside else ("TRANSPOSE_CONV" if index == 4 else "SOFTMAX"),
                "device": delegate if inside else "CPU, built-in kernels",
                "delegate": inside,
                "macs": None if index == 9 else 1_000_000 * (index + 1),
                "reason": "" if inside else REASON,
                "kind": "",
            }
        )
    devices = dict.fromkeys(op["device"] for op in ops)
    return {
        "ops": ops,
        "note": "",
        "count": len(ops),
        "macs": sum(op["macs"] or 0 for op in ops),
        "delegate": _sum(ops, [op for op in ops if op["delegate"]]),
        "devices": [{"device": name, **_sum(ops, [op for op in ops if op["device"] == name])} for name in devices],
    }


def profile(placed: dict[str, Any], ms: float) -> dict[str, Any]:
    ops = placed["ops"]
    shares = np.arange(1, len(ops) + 1) / np.arange(1, len(ops) + 1).sum()
    return {
        **{"runs": 200, "total_ms": ms, "ops_ms": 0.95 * ms, "unattributed_share": 0.05, "coverage": 0.96},
        "ops": [
            {
                **{"name": op["name"], "op": op["op"], "device": op["device"], "kind": "igemm"},
                **{"ms": float(0.95 * ms * share), "share": float(share), "low": float(0.9 * share), "high": float(1.1 * share)},
            }
            for op, share in zip(ops, shares, strict=True)
        ],
        **{"source": "LiteRT's C profiler (ai-edge-litert 2.3.0)", "step_us": 1, "warnings": []},
    }


def energy(seed: int, watts: float = 1.5) -> dict[str, Any]:
    """What energy comes to on a board whose power is known."""
    board = Board(active_watts=watts, seed=seed, energy_s=5.0, baseline_s=2.0)
    return energy_of(board.converter(seed=seed), board.spans, board.idle_spans)


def record(ms: float, seed: int, threads: int, **changes: Any) -> dict[str, Any]:
    """What one process finds."""
    drawn = np.random.default_rng(seed).lognormal(math.log(ms * 1e6), 0.06, 1200)
    machine = {"system": "Linux", "release": "6.6.31", "architecture": "aarch64", "cpu": "Cortex-A76", "cores": 4}
    return {
        **{"pid": 100 + seed, "engine": "litert", "library": "ai-edge-litert 2.3.0", "threads": threads, "exact": False},
        "execution": {"precision": "int8", "detail": "ops by type", "device": "CPU, XNNPACK delegate", "kinds": []},
        "inputs": [{"name": "x", "shape": [1, 4], "dtype": "int8", "scale": None, "zero_point": None, "fed": [1, 4]}],
        "batch": 1,
        "settings": {
            **{"warmup_s": 0.3, "duration_s": 1.0, "min_runs": 50, "max_runs": 20000, "seed": 0, "idle_gaps": 20},
            **{"gap_ms": 100.0, "energy_s": 10.0, "baseline_s": 3.0, "profile": True, "meter": "auto"},
        },
        **{"import_ns": 90_000_000, "load_ns": 20_000_000 + seed, "first_ns": 3_000_000, "warmup_runs": 5},
        "latencies_ns": [int(value) for value in drawn],
        "after_idle_ns": {"gap_ms": 100.0, "latencies_ns": [int(1.4e6 * ms)] * 20},
        **{"cpu_share": 1.0, "clock_ns": 40, "arena_bytes": 4096, "arena_why_absent": "", "load_average": 0.1},
        "rss": {
            "before_bytes": 30 << 20,
            "loaded_bytes": 40 << 20,
            "peak_bytes": 50 << 20,
            "peak_since": "load",
            "why_absent": "",
        },
        "conditions": {"before": state(48.0), "after": state(52.5), "throttled": False, "why": "asked: raspberry_pi"},
        **{"placement": placement(), "profile": profile(placement(), ms), "energy": energy(seed)},
        "machine": {**machine, "memory_bytes": 8 << 30, "hostname": "raspberrypi"},
        **{"fingerprint": "f" * 16, "python": "3.11.7", "numpy": "2.0.0", "order": seed},
        **changes,
    }


def on(report: Report, name: str, title: str, address: str = "pi@10.0.0.5:22") -> Report:
    """A report as if it were from a board."""
    device = {"name": name, "title": title, "transport": "ssh", "address": address}
    return replace(report, settings={**report.settings, "device": device})


def pi5(folder: Path) -> Report:
    """Two thread counts, energy measured, part of the model outside of the delegate."""
    file = plus_one_tflite(folder / "net_int8.tflite")
    runs = {
        count: [record(ms, 10 * count + at, count, order=2 * at + count // 2) for at in range(3)]
        for count, ms in ((1, 12.0), (2, 7.0))
    }
    return on(report_of(file, runs), "pi5", "Raspberry Pi 5")


def jetson(folder: Path) -> Report:
    """Another meter, an accelerator, throttled in its last process."""
    file = plus_one_tflite(folder / "net_int8.tflite")
    hot = {"before": state(88.0, 1.9), "after": state(97.5, 1.2), "throttled": True, "why": "cooling_device0 in state 3"}
    placed = placement("GPU, delegate")
    same = {"placement": placed, "profile": profile(placed, 4.0)}
    runs = [
        record(4.32 if at == 2 else 4.0, 40 + at, 1, **same, **({"conditions": hot} if at == 2 else {}), order=at)
        for at in range(3)
    ]
    return on(report_of(file, {1: runs}), "orin", "Jetson Orin Nano", "root@orin")


def bare(folder: Path) -> Report:
    """This machine: no meter, no profile, no placement, nothing told of clocks, a single process; energy estimated."""
    file = plus_one_tflite(folder / "net_int8.tflite")
    nothing = {"before": state(), "after": state(), "throttled": None, "why": "nothing tells"}
    machine = {"system": "Linux", "release": "6.1", "architecture": "x86_64", "cpu": "AMD EPYC", "cores": 2, "hostname": "vm"}
    run = record(
        1.5,
        60,
        1,
        energy={"why_absent": WHY, "hint": "name an external one with --meter trace:FILE.csv"},
        profile={"why_absent": "it was not asked for"},
        placement={"why_absent": "the engine does not tell"},
        conditions=nothing,
        arena_bytes=None,
        arena_why_absent="the engine does not tell",
        machine={**machine, "memory_bytes": 24 << 30},
        order=0,
    )
    report = report_of(file, {1: [run]})
    found = estimate(300_000_000, 4_000_000, "int8")
    told = {key: found[key] for key in ("source", "terms_mj", "constants_pj", "leaves_out", "statement")}
    metric = Metric.from_json({key: found[key] for key in Metric.__slots__})
    details = {**report.details, "energy_estimate": {**told, "macs": 300_000_000, "bytes_moved": 4_000_000}}
    return replace(report, metrics=(*report.metrics, metric), details=details)


def nasty(folder: Path) -> Report:
    """Names that are markup, turn the direction of writing, or end a table's cell."""
    report = bare(folder)
    model = {**report.model, "path": f"/models/{NASTY.replace('/', chr(0x2215))}", "library": "=cmd|'/c calc'!A0 <img src=x>"}
    evil = on(replace(report, model=model, warnings=("<script>document.title = 'taken'</script>",)), "</script><b>", "Плата №1")
    placed = placement("</td><script>1</script>")
    return replace(evil, details={**evil.details, "placement": placed, "profile": profile(placed, 1.0)})
