"""The benchmark's arithmetic against SciPy's, its order of runs, its report, and the verb."""

import json
import math
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from scipy import stats
from typer.testing import CliRunner

from edgewright.artifact import file_sha256
from edgewright.benchmarks import bench as module
from edgewright.benchmarks import commands
from edgewright.benchmarks.bench import (
    BenchTarget,
    batch_means,
    bench,
    bench_many,
    histogram_of,
    report_of,
    t_interval,
    t_quantile,
)
from edgewright.benchmarks.bench_settings import BenchSettings, ProcessSettings
from edgewright.benchmarks.bench_text import print_bench, spark_line
from edgewright.errors import EngineError, ModelError, UsageError, WorkerTimeoutError
from edgewright.report import Metric, Report, find_metric
from edgewright.runtime.machine import fingerprint, machine
from edgewright.testing_models import plus_one_tflite
from edgewright.worker import Limits

NAMES = (
    "load first_inference latency_p50 latency_p90 latency_p99 latency_p99.9 latency_mean latency_iqr latency_jitter "
    "inferences_per_second peak_rss model_rss arena_bytes import"
).split()


def state(**changes: Any) -> dict[str, Any]:
    """What `conditions` would find on a machine that tells nothing, and what else is said of it."""
    return {"governor": {}, "frequency_hz": {}, "temperature_c": {}, "throttle": {}, "absent": {}, **changes}


def around(before: dict[str, Any] | None = None, after: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """Conditions of a record."""
    states = {"before": state(**(before or {})), "after": state(**(after or before or {}))}
    return {**states, "throttled": None, "why": "", **changes}


def run_of(latencies_ns: Any, **changes: Any) -> dict[str, Any]:
    """What `measure` would return."""
    return {
        "pid": 1,
        "engine": "litert",
        "library": "ai-edge-litert 2.3.0",
        "execution": {"precision": "int8", "detail": "ops by type", "device": "CPU", "kinds": []},
        "threads": 1,
        "exact": False,
        "inputs": [{"name": "x", "shape": [1, 4], "dtype": "int8", "scale": None, "zero_point": None, "fed": [1, 4]}],
        "batch": 1,
        "settings": {
            **{"warmup_s": 0.3, "duration_s": 1.0, "min_runs": 50, "max_runs": 20000, "seed": 0, "idle_gaps": 0},
            **{"gap_ms": 100.0, "energy_s": 10.0, "baseline_s": 3.0, "profile": False, "meter": "none"},
        },
        "import_ns": 90_000_000,
        "load_ns": 20_000_000,
        "first_ns": 3_000_000,
        "warmup_runs": 5,
        "latencies_ns": [int(value) for value in latencies_ns],
        "after_idle_ns": {"gap_ms": 100.0, "latencies_ns": []},
        "cpu_share": 1.0,
        "clock_ns": 40,
        "rss": {
            "before_bytes": 30 << 20,
            "loaded_bytes": 40 << 20,
            "peak_bytes": 50 << 20,
            "peak_since": "load",
            "why_absent": "",
        },
        "arena_bytes": 4096,
        "arena_why_absent": "",
        "conditions": {"before": state(), "after": state(), "throttled": None, "why": "nothing tells"},
        "placement": {"why_absent": "no placement"},
        "profile": {"why_absent": "no profile"},
        "energy": {"why_absent": "no meter"},
        "load_average": 0.0,
        "machine": {**machine(), "cores": 2},
        "fingerprint": fingerprint(),
        "python": "3.11.7",
        "numpy": "2.0.0",
        **changes,
    }


def latencies(seed: int, count: int = 500, ms: float = 1.0) -> np.ndarray[Any, Any]:
    """Nanoseconds with a long tail, as latencies have."""
    return np.random.default_rng(seed).lognormal(math.log(ms * 1e6), 0.1, count).astype(np.int64)


def metric(report: Report, name: str, subject: str = "") -> Metric:
    found = find_metric(report.metrics, name, subject)
    assert found is not None, name
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.tflite"
    path.write_bytes(b"\x1c\0\0\0TFL3" + bytes(1000))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("ai_edge_litert")
    return plus_one_tflite(tmp_path_factory.mktemp("bench") / "plus_one.tflite")


# ---- arithmetic --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("freedom", [*range(1, 32), 50, 99, 1000, 100_000])
def test_t_quantile(freedom: int) -> None:
    assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=1e-4)


@pytest.mark.parametrize("count", [2, 3, 5, 10, 31, 60])
def test_t_interval(count: int) -> None:
    values = np.random.default_rng(count).normal(5, 0.3, count)
    expected = stats.t.interval(0.95, count - 1, loc=values.mean(), scale=stats.sem(values))
    assert t_interval(values) == pytest.approx(expected, rel=1e-4)


def test_batch_means() -> None:
    values = latencies(0, 1013) / 1e6
    means = [values[13 + 50 * i : 13 + 50 * (i + 1)].mean() for i in range(20)]
    expected = stats.t.interval(0.95, 19, loc=np.mean(means), scale=stats.sem(means))
    assert batch_means(values) == pytest.approx(expected, rel=1e-4)
    assert batch_means(values[:39]) is None
    assert batch_means(values[:40]) is not None


def test_batch_means_hold_where_neighbours_depend_on_each_other() -> None:
    """Intervals of 300 autoregressive series contain the mean about as often as they say; the naive ones do not."""
    rng, batched, naive = np.random.default_rng(0), 0, 0
    for _ in range(300):
        noise, values = rng.normal(size=4000), np.empty(4000)
        values[0] = noise[0] / 0.6
        for i in range(1, 4000):
            values[i] = 0.8 * values[i - 1] + noise[i]
        low, high = batch_means(values) or (0.0, 0.0)
        batched += low <= 0 <= high
        low, high = t_interval(values)
        naive += low <= 0 <= high
    assert batched >= 0.9 * 300
    assert naive < 0.6 * 300


@pytest.mark.parametrize(
    "values",
    [
        latencies(1, 5000) / 1e6,
        latencies(2, 3) / 1e6,
        np.full(100, 0.25),
        np.array([0.000041, 0.000082] * 50),
        np.array([1.0]),
        np.array([1.0, 1.0, 1000.0]),
    ],
    ids=["many", "few", "equal", "ticks", "one", "outlier"],
)
def test_histogram(values: np.ndarray[Any, Any]) -> None:
    found = histogram_of(values)
    assert found.below + sum(found.counts) + found.above == len(values)
    assert len(found.edges) == len(found.counts) + 1 <= 41
    assert (np.diff(found.edges) > 0).all()
    assert found.edges[0] == values.min()
    assert found.below == 0
    assert found.above == (values > found.edges[-1]).sum() <= max(1, math.ceil(0.025 * len(values)))
    for i, count in enumerate(found.counts[:-1]):
        assert count == ((values >= found.edges[i]) & (values < found.edges[i + 1])).sum()


def test_figures_of_three_processes(file: Path) -> None:
    series = [latencies(seed, 400 + 100 * seed, 1 + 0.01 * seed) for seed in range(3)]
    runs = [
        run_of(
            values,
            load_ns=(20 + n) * 10**6,
            first_ns=(3 + n) * 10**6,
            rss={"before_bytes": 10, "loaded_bytes": 40 + n, "peak_bytes": 60 + n, "why_absent": ""},
        )
        for n, values in enumerate(series)
    ]
    report = report_of(file, {1: runs})
    assert [m.name for m in report.metrics if m.subject == ""] == [*NAMES, "raw_bytes", "deflated_bytes"]
    for q in (50, 90, 99):
        each = [np.percentile(values, q) / 1e6 for values in series]
        found = metric(report, f"latency_p{q}")
        assert found.value == pytest.approx(np.mean(each))
        low, high = stats.t.interval(0.95, 2, loc=np.mean(each), scale=stats.sem(each))
        assert found.low is not None
        assert found.high is not None
        told = "95 % t over 3 processes" + (", block bootstrap within" if q < 99 else "")
        assert (found.unit, found.samples, found.interval) == ("ms", 1500, told)
        if q < 99:
            assert (found.low <= low * 1.0001, found.high >= high * 0.9999) == (True, True)
        else:  # 4 to 6 inferences are slower than the p99 of a process: a bootstrap within tells nothing
            assert (found.low, found.high) == pytest.approx((low, high), rel=1e-4)
    assert "needs 1,000 inferences in each process, one had 400 (--duration 3 " in metric(report, "latency_p99.9").why_absent
    iqr, jitter = ([np.percentile(v, a) - np.percentile(v, b) for v in series] for a, b in ((75, 25), (99, 50)))
    assert metric(report, "latency_iqr").value == pytest.approx(np.mean(iqr) / 1e6)
    assert metric(report, "latency_jitter").value == pytest.approx(np.mean(jitter) / 1e6)
    means = [values.mean() / 1e6 for values in series]
    mean, rate = metric(report, "latency_mean"), metric(report, "inferences_per_second")
    assert mean.value == pytest.approx(np.mean(means))
    low, high = stats.t.interval(0.95, 2, np.mean(means), stats.sem(means))
    assert mean.low
    assert mean.high
    assert (mean.low <= low * 1.0001, mean.high >= high * 0.9999) == (True, True)
    assert rate.value == pytest.approx(1000 / np.mean(means))
    assert (rate.low, rate.high) == pytest.approx((1000 / mean.high, 1000 / mean.low))
    for name, expected in (
        ("load", (21, 20, 22)),
        ("first_inference", (4, 3, 5)),
        ("peak_rss", (61, 60, 62)),
        ("model_rss", (51, 50, 52)),
    ):
        found = metric(report, name)
        assert (found.value, found.low, found.high) == pytest.approx(expected)
        assert (found.samples, found.interval) == (3, "range of 3 processes")
    assert metric(report, "raw_bytes").value == 1008
    assert (metric(report, "deflated_bytes").value or 0) < 100
    together = np.concatenate(series) / 1e6
    assert report.details["quantiles_ms"]["p50"] == pytest.approx(np.percentile(together, 50))
    assert report.details["quantiles_ms"]["p100"] == together.max()
    assert [process["runs"] for process in report.details["processes"]] == [400, 500, 600]
    histogram = report.details["histogram"]
    assert histogram["below"] + sum(histogram["counts"]) + histogram["above"] == 1500
    assert report.warnings == ()


def test_figures_of_one_process(file: Path) -> None:
    """No process to compare with: latencies have the interval within, as far as there is one; loads have none."""
    values = latencies(0)
    report = report_of(file, {1: [run_of(values)]})
    mean = metric(report, "latency_mean")
    assert (mean.low, mean.high) == pytest.approx(batch_means(values / 1e6))
    assert mean.interval == "95 % t over 20 batches"
    assert metric(report, "latency_p90").value == pytest.approx(np.percentile(values, 90) / 1e6)
    assert all(not metric(report, name).interval for name in ("latency_p99", "latency_jitter", "load", "peak_rss"))
    p50 = metric(report, "latency_p50")
    assert p50.interval == "95 % block bootstrap within 1 process"
    assert p50.low and p50.value and p50.high
    order = np.sort(values) / 1e6  # the exact interval of a median of independent values: binomial ranks
    expected = [order[int(stats.binom.ppf(share, 500, 0.5))] for share in (0.025, 0.975)]
    assert (p50.low, p50.high) == pytest.approx(expected, rel=0.01)
    few = report_of(file, {1: [run_of(values[:30])]})
    told = "95 % block bootstrap within 1 process"  # 30 inferences make no 20 batches
    assert metric(few, "latency_mean").interval == metric(few, "inferences_per_second").interval == told
    assert metric(report_of(file, {1: [run_of(values[:1])]}), "latency_p50").interval == ""


def test_an_interval_of_latencies_does_not_go_below_zero(file: Path) -> None:
    report = report_of(file, {1: [run_of([1000] * 100), run_of([100_000] * 100)]})
    mean, rate = metric(report, "latency_mean"), metric(report, "inferences_per_second")
    assert mean.low == 0
    assert rate.value == pytest.approx(1000 / 0.0505)
    assert (rate.low, rate.high) == (None, None), "its upper end would be infinite"


def test_figures_that_there_are_not(file: Path) -> None:
    absent = {"before_bytes": None, "loaded_bytes": None, "peak_bytes": None, "why_absent": "Plan 9 does not tell"}
    report = report_of(file, {1: [run_of([0] * 100, rss=absent)] * 2})
    assert metric(report, "peak_rss").why_absent == metric(report, "model_rss").why_absent == "Plan 9 does not tell"
    assert "clock" in metric(report, "inferences_per_second").why_absent
    json.dumps(report.to_json(), allow_nan=False)
    only_peak = {**absent, "peak_bytes": 99}
    report = report_of(file, {1: [run_of(latencies(0), rss=only_peak)]})
    assert (metric(report, "peak_rss").value, metric(report, "model_rss").value) == (99, None)


def test_batch(file: Path) -> None:
    report = report_of(file, {1: [run_of([2_000_000] * 100, batch=8)] * 3})
    assert metric(report, "latency_p50").value == 2
    assert metric(report, "inferences_per_second").value == pytest.approx(4000)
    assert report.model["batch"] == 8
    assert [w for w in report.warnings if w.startswith("a call computes a batch of 8")]


def test_several_thread_counts(file: Path) -> None:
    runs = {n: [run_of(latencies(n, ms=1 / n), threads=n)] * 2 for n in (1, 2, 10)}
    report = report_of(file, runs)
    assert list(report.details) == ["threads=1", "threads=2", "threads=10"]
    for subject in report.details:
        assert [m.name for m in report.metrics if m.subject == subject] == NAMES
    assert [m.name for m in report.metrics if not m.subject] == ["raw_bytes", "deflated_bytes"]
    assert metric(report, "latency_p50", "threads=2").value == pytest.approx(np.median(latencies(2, ms=0.5)) / 1e6)
    assert report.warnings == ("threads=10: 10 threads shared 2 cores",)


AFTER_IDLE = {"gap_ms": 50, "latencies_ns": [2_500_000] * 20}
WARM = {"temperature_c": {"thermal_zone0 soc": 45.0, "thermal_zone1 gpu": 40.0}}
HOT = {"temperature_c": {"thermal_zone0 soc": 61.5, "thermal_zone1 gpu": 49.0}}
BF16 = {"precision": "mixed", "detail": "nodes: 3 bf16, 1 float32", "device": "CPU", "kinds": ["bf16", "float32"]}


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ([run_of(latencies(0)), run_of(latencies(1))], ""),
        ([run_of(latencies(0)), run_of(latencies(0, ms=1.2))], "the processes' means differ by 18%"),
        ([run_of([10**6] * 980 + [4 * 10**6] * 20)] * 2, "the p99 of 4 ms is 4.0 times the p50 of 1 ms"),
        ([run_of([1500] * 100, clock_ns=100)] * 2, "an inference takes 1500 ns and the clock has steps of 100 ns"),
        (
            [run_of(latencies(0), load_average=1.3)],
            "other work was running in the minute before: a load average of 1.3 on 2 cores",
        ),
        ([run_of(latencies(0), load_average=1.0)], ""),
        ([run_of(latencies(0), load_average=None)], ""),
        ([run_of(latencies(0), execution=BF16)], "model.tflite was computed in bf16 where it could be in float32"),
        ([run_of(latencies(0), execution=BF16, exact=True)], ""),
        ([run_of(latencies(0), cpu_share=0.61)], "a process had a core for only 61% of the time"),
        ([run_of(latencies(0), cpu_share=0.61, threads=2)], ""),
        ([run_of(latencies(n) * np.linspace(1, 1.3, 500)) for n in range(2)], "latencies rose by "),
        ([run_of(latencies(n) * np.linspace(1.3, 1, 500)) for n in range(2)], "latencies fell by "),
        ([run_of(latencies(n) * np.linspace(1, 1.3, 500)[:: (-1) ** n]) for n in range(2)], ""),  # one rises, one falls
        ([run_of(latencies(0, 60))], "a process timed 60 inferences"),
        ([run_of(latencies(0), after_idle_ns=AFTER_IDLE)], "after 50 ms without work an inference takes 2.5 ms, 2.5 times"),
        (
            [run_of(latencies(0)), run_of(latencies(1), conditions=around(throttled=True, why="c0 in state 2"))],
            "the machine was slowed down in 1 of 2 processes (c0 in state 2)",
        ),
        ([run_of(latencies(0), conditions=around(throttled=False))], ""),
        ([run_of(latencies(0), conditions=around({"governor": {"policy0": "performance"}}))], ""),
        (
            [run_of(latencies(0), conditions=around({"governor": {"policy0": "schedutil"}}))],
            "the governor is schedutil, which lets",
        ),
        ([run_of(latencies(0), conditions=around({"governor": {"p0": "powersave"}}))], "the governor is powersave, which keeps"),
        (
            [run_of(latencies(0), conditions=around({"frequency_hz": {"p0": {"max": 15 * 10**8, "hardware_max": 24 * 10**8}}}))],
            "the clock of p0 is limited to 1.50 of 2.40 GHz",
        ),
        (
            [run_of(latencies(0), conditions=around(WARM, HOT))],
            "thermal_zone0 soc went from 45.0 to 61.5 degrees C (16.5 K) within one process",
        ),
        ([run_of(latencies(0), conditions=around(WARM, WARM))], ""),
        (
            [run_of(latencies(0), energy={"mj_per_inference": 1, "warnings": ["a counter wrapped"]})] * 2,
            "energy: a counter wrapped",
        ),
    ],
)
def test_warnings(runs: list[dict[str, Any]], said: str, file: Path) -> None:
    warnings = report_of(file, {runs[0]["threads"]: runs}).warnings
    assert len(warnings) == bool(said)
    assert all(warning.startswith(said) for warning in warnings)


def test_weights_beside_an_onnx_file_count(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    values = onnx.numpy_helper.from_array(np.arange(5000, dtype=np.float32), "w")
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [5000]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [values])
    path = tmp_path / "m.onnx"
    onnx.save(onnx.helper.make_model(graph), str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    report = report_of(path, {1: [run_of(latencies(0))]})
    assert metric(report, "raw_bytes").value == path.stat().st_size + 20_000
    assert (metric(report, "deflated_bytes").value or 0) > path.stat().st_size


ENERGY = {
    "meter": "rapl",
    "scope": "package-0",
    "origin": "measured",
    "baseline_watts": 2.0,
    "active_watts": 7.0,
    "mj_per_inference": 5.0,
    "low": 4.8,
    "high": 5.2,
    "interval": "95 % t, 5 degrees of freedom, 5 windows",
    "mj_per_inference_gross": 7.0,
    "inferences": 2000,
    "windows": [[0, 10, 2000]],
    "warnings": [],
}


def metered(**changes: Any) -> dict[str, Any]:
    """A record of a process that a meter was asked for."""
    run = run_of(latencies(0), energy={**ENERGY, **changes})
    return {**run, "settings": {**run["settings"], "meter": "auto"}}


def test_energy(file: Path) -> None:
    """One process: its own interval. Several: Student's t over them, and never less than what single ones say."""
    one = report_of(file, {1: [metered()]})
    found = metric(one, "energy_per_inference")
    assert (found.value, found.low, found.high, found.unit, found.samples) == (5.0, 4.8, 5.2, "mJ", 2000)
    assert (found.origin, found.interval) == ("measured", ENERGY["interval"])
    gross, idle, busy = (metric(one, name) for name in ("energy_per_inference_gross", "power_idle", "power_active"))
    assert [(m.value, m.unit) for m in (gross, idle, busy)] == [(7.0, "mJ"), (2.0, "W"), (7.0, "W")]
    values = [5.0, 5.4, 5.2]
    found = metric(report_of(file, {1: [metered(mj_per_inference=v) for v in values]}), "energy_per_inference")
    assert found.value == pytest.approx(5.2)
    expected = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert (found.low, found.high) == pytest.approx((min(4.8, expected[0]), max(5.2, expected[1])), rel=1e-4)
    assert found.interval == "95 % t over 3 processes, at least that of each"
    found = metric(report_of(file, {1: [metered()] * 3}), "energy_per_inference")
    assert (found.low, found.high) == pytest.approx((4.8, 5.2)), "equal by chance"
    run = metered()
    part = report_of(file, {1: [run, {**run, "energy": {"why_absent": "the meter broke off"}}, run]})
    assert metric(part, "energy_per_inference").interval == "95 % t over 2 processes, at least that of each"
    assert "energy: 1 of 3 processes gave none (the meter broke off)" in part.warnings[-1]
    assert metric(report_of(file, {1: [metered(origin="estimated")]}), "energy_per_inference").origin == "estimated"


def test_energy_that_there_is_not(file: Path) -> None:
    run = metered()
    none = report_of(file, {1: [{**run, "energy": {"why_absent": "no power meter on this machine"}}] * 3})
    assert metric(none, "energy_per_inference").why_absent == "no power meter on this machine"
    assert find_metric(none.metrics, "power_idle") is None
    elsewhere = report_of(file, {1: [{**run, "energy": {"windows": [[0, 1, 2]], "baselines": []}}]})
    assert "another machine reads the meter" in metric(elsewhere, "energy_per_inference").why_absent
    assert find_metric(report_of(file, {1: [run_of(latencies(0))]}).metrics, "energy_per_inference") is None, "nobody asked"


def test_after_idle(file: Path) -> None:
    gaps = [[3_000_000 + 10_000 * k + 100_000 * n for k in range(20)] for n in range(3)]
    runs = [run_of(latencies(n), after_idle_ns={"gap_ms": 100.0, "latencies_ns": gap}) for n, gap in enumerate(gaps)]
    report = report_of(file, {1: runs})
    found = metric(report, "latency_after_idle")
    assert found.value == pytest.approx(np.mean([np.median(gap) for gap in gaps]) / 1e6)
    assert found.samples == 60
    assert report.details["after_idle"] == {
        **{"gap_ms": 100.0, "runs": 60},
        **{f"p{q}_ms": pytest.approx(np.percentile(np.concatenate(gaps), q) / 1e6) for q in (50, 90, 100)},
    }
    assert [p["after_idle_ms"] for p in report.details["processes"]] == pytest.approx([np.median(gap) / 1e6 for gap in gaps])


def test_p999(file: Path) -> None:
    series = [latencies(n, 12_000) for n in range(3)]
    report = report_of(file, {1: [run_of(values) for values in series]})
    each = [np.percentile(values, 99.9) / 1e6 for values in series]
    found = metric(report, "latency_p99.9")
    assert found.value == pytest.approx(np.mean(each))
    assert found.interval == "95 % t over 3 processes, block bootstrap within"
    assert [p["p999_ms"] for p in report.details["processes"]] == pytest.approx(each)
    few = report_of(file, {1: [run_of(values[:999]) for values in series]})
    assert metric(few, "latency_p99.9").value is None
    assert [p["p999_ms"] for p in few.details["processes"]] == [None] * 3
    assert "latency_p99.9" not in few.details["bootstrap"]["intervals_ms"]


def test_the_bootstrap_says_what_it_is_worth(file: Path) -> None:
    runs = [run_of(latencies(n, ms=1 + 0.02 * n)) for n in range(12)]
    few, many = report_of(file, {1: runs[:3]}), report_of(file, {1: runs})
    assert few.details["bootstrap"]["note"] == "too narrow: fewer than 10 processes do not show how processes differ"
    assert many.details["bootstrap"]["note"] == ""
    found = metric(many, "latency_p50")
    assert found.interval == "95 % hierarchical bootstrap, 12 processes"
    assert many.details["bootstrap"]["intervals_ms"]["latency_p50"] == pytest.approx([found.low, found.high])
    wide, narrow = metric(few, "latency_p50"), few.details["bootstrap"]["intervals_ms"]["latency_p50"]
    assert wide.low is not None
    assert wide.high is not None
    assert wide.high - wide.low > narrow[1] - narrow[0]
    assert report_of(file, {1: runs[:3]}) == few, "the same measurements, the same report"


def test_profile_is_that_of_the_median_process(file: Path) -> None:
    profiles = [{"ops": [], "total_ms": total, "warnings": []} for total in (3.0, 1.0, 2.0)]
    found = report_of(file, {1: [run_of(latencies(n), profile=p) for n, p in enumerate(profiles)]}).details["profile"]
    assert (found["total_ms"], found["process"], found["processes"]) == (2.0, 3, 3)


# ---- runs --------------------------------------------------------------------------------------------------------------


def test_every_run_is_a_fresh_process(model: Path) -> None:
    settings = BenchSettings(duration_s=0.01, repeats=2, idle_gaps=3, gap_ms=1)
    report = bench(model, settings, threads=(1, 2))
    processes = [p for details in report.details.values() for p in details["processes"]]
    assert len({process["pid"] for process in processes} | {os.getpid()}) == 5
    assert sorted(process["order"] for process in processes) == [0, 1, 2, 3]
    assert [process["order"] for process in report.details["threads=1"]["processes"]] == [0, 2]
    assert report.kind == "bench"
    assert report.model["path"] == str(model)
    assert report.model["sha256"] == file_sha256(model)
    assert (report.model["format"], report.model["engine"], report.model["batch"]) == ("tflite", "litert", 1)
    assert report.model["execution"]["precision"] == "float32"
    found = report.settings
    assert (found["threads"], found["repeats"], found["duration_s"], found["exact"]) == ([1, 2], 2, 0.01, False)
    assert (found["machine"], found["fingerprint"]) == (machine(), fingerprint())
    data = report.to_json()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    for m in report.metrics:
        if m.value is None:
            assert m.name in {"latency_p99.9", "arena_bytes", "energy_per_inference"}
            continue
        assert m.value > 0
        assert m.low is None or (m.high is not None and m.low <= m.value <= m.high)


def test_files_take_turns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Round after round of all files and thread counts; reports come in the order of the files."""
    files = [tmp_path / f"{name}.tflite" for name in "abc"]
    for path in files:
        path.write_bytes(b"\x1c\0\0\0TFL3" + path.name.encode())
    seen, shares = [], []

    def fake(job: str, *, what: str, limits: Limits, path: str, **options: Any) -> dict[str, Any]:
        seen.append((Path(path).stem, options["threads"], options["engine"], options["exact"]))
        assert (job, what, limits) == ("edgewright.benchmarks.latency:measure", f"measuring {Path(path).name}", Limits(7))
        assert options["max_runs"] == 40_000
        assert (options["idle_gaps"], options["profile"], options["meter"], options["meter_root"]) == (7, True, "rapl", "/board")
        return run_of(latencies(len(seen)), threads=options["threads"], load_average=float(len(seen)))

    monkeypatch.setattr(module, "run", fake)
    targets = [BenchTarget(files[0]), BenchTarget(str(files[1]), "openvino", (1, 4, 1), True), BenchTarget(files[2])]
    reports = bench_many(
        targets,
        BenchSettings(duration_s=2, repeats=3, limits=Limits(7), idle_gaps=7, profile=True, meter="rapl", meter_root="/board"),
        progress=lambda share, text: shares.append((share, text)),
    )
    assert seen == [("a", 1, None, False), ("b", 1, "openvino", True), ("b", 4, "openvino", True), ("c", 1, None, False)] * 3
    assert [Path(report.model["path"]).stem for report in reports] == ["a", "b", "c"]
    assert [report.model["sha256"] for report in reports] == list(map(file_sha256, files))
    assert [p["order"] for p in reports[2].details["processes"]] == [3, 7, 11]
    assert [p["order"] for p in reports[1].details["threads=4"]["processes"]] == [2, 6, 10]
    assert {report.settings["load_average"] for report in reports} == {1.0}, "later ones would count our own work"
    assert shares[0] == (0.0, "a.tflite, process 1 of 3")
    assert shares[-1] == (11 / 12, "c.tflite, process 3 of 3")


def test_refused_files(file: Path, model: Path, tmp_path: Path) -> None:
    """One error each, the engine's or the worker's own words; no report of half the runs."""
    once = BenchSettings(repeats=1)
    with pytest.raises(EngineError, match="litert cannot load"):
        bench(file, once)
    with pytest.raises(EngineError, match="the engine onnxruntime takes onnx files"):
        bench(model, once, engine="onnxruntime")
    with pytest.raises(ModelError, match="there is no model"):
        bench(tmp_path / "gone.tflite")
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(model.read_bytes()[: model.stat().st_size // 2])
    with pytest.raises(EngineError):
        bench_many([BenchTarget(model), BenchTarget(broken)], BenchSettings(duration_s=0.01, idle_gaps=0, meter="none"))
    keras = tmp_path / "model.keras"
    keras.write_bytes(b"PK\x03\x04 config.json")
    with pytest.raises(EngineError, match="it is keras") as caught:
        bench(keras, once)
    assert "convert it first" in caught.value.hint
    with pytest.raises(WorkerTimeoutError):
        bench(model, BenchSettings(duration_s=60, repeats=1, limits=Limits(timeout_s=0.5)))


@pytest.mark.parametrize("threads", [(), (1, 0)])
def test_threads_that_measure_nothing(threads: tuple[int, ...], model: Path) -> None:
    with pytest.raises(UsageError, match="threads"):
        bench(model, threads=threads)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("repeats", 0), ("idle_gaps", -1), ("gap_ms", -1.0), ("gap_ms", math.nan), ("duration_s", 0.0), ("duration_s", -1)],
        *[("duration_s", math.inf), ("duration_s", math.nan), ("energy_s", 0.0), ("baseline_s", -1.0)],
    ],
)
def test_settings_that_measure_nothing(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"^{name} is {value}, ") as caught:
        BenchSettings(**{name: value})
    assert caught.value.hint


def test_settings_of_a_process_are_what_a_process_takes() -> None:
    settings = BenchSettings(duration_s=2.0, repeats=7, limits=Limits(9))
    assert asdict(ProcessSettings(**settings.of_a_process())) == settings.of_a_process()
    assert settings.of_a_process() == {**BenchSettings().of_a_process(), "duration_s": 2.0}


# ---- what people see ---------------------------------------------------------------------------------------------------


def test_print(file: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    runs = [run_of(latencies(n, 20_000, 0.0627), cpu_share=0.5, execution=BF16) for n in range(3)]
    report = report_of(file, {1: runs})
    print_bench(report)
    lines = capsys.readouterr().out.splitlines()
    rows = {line[:24].strip(): line[24:].split() for line in lines}
    assert rows["latency p50"][:2] == [f"{1000 * (report.value('latency_p50') or 0):.2f}", "us"]
    assert rows["latency p50"][3] == "-"
    assert rows["inferences per second"][0].startswith("15,")
    assert rows["load"][:2] == ["20.00", "ms"]
    assert rows["peak memory"][:2] == ["50.0", "MiB"]
    assert rows["file"] == ["1,008", "bytes"]
    text = "\n".join(lines)
    assert str(file) in text
    assert "ai-edge-litert 2.3.0, computed in mixed precision, bf16, float32 (CPU)" in text
    assert machine()["cpu"] in text
    assert "60,000 inferences in 3 processes" in text
    assert "█" in text
    assert "slower" in text
    assert "95 % t over 3 processes, block bootstrap within" in " ".join(text.split())
    assert caplog.messages == list(report.warnings)
    assert len(caplog.messages) == 2


def test_print_several(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    absent = {"before_bytes": None, "loaded_bytes": None, "peak_bytes": None, "why_absent": "Plan 9 does not tell"}
    print_bench(report_of(file, {n: [run_of(latencies(n, ms=2000 * n), threads=n, rss=absent, batch=4)] for n in (1, 2)}))
    text = capsys.readouterr().out
    assert "1 thread " in text
    assert "2 threads: " in text
    assert "no peak memory, memory of engine and model: Plan 9 does not tell" in text
    assert "inferences of batch 4 in 2 processes" in text
    rows = {line[:24].strip(): line[24:].split() for line in text.splitlines()}
    assert rows["latency p50"][:2] == [f"{np.median(latencies(1, ms=2000)) / 1e9:.3f}", "s"]


def test_print_of_a_board(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A board's name and address, and an estimate of energy, which is marked as one and is of the file."""
    report = report_of(file, {n: [run_of(latencies(n), threads=n)] for n in (1, 2)})
    about = {"name": "pi5", "title": "Raspberry Pi 5", "transport": "ssh", "address": "pi@10.0.0.5"}
    guess = Metric("energy_per_inference_estimate", "mJ", 0.031, origin="estimated")
    print_bench(
        replace(
            report,
            settings={**report.settings, "device": about},
            metrics=(*report.metrics, guess),
            details={**report.details, "energy_estimate": {"macs": 1}},
        )
    )
    text = capsys.readouterr().out
    assert "Raspberry Pi 5 (pi5, ssh, pi@10.0.0.5)" in text
    rows = {line[:26].strip(): line[26:].split() for line in text.splitlines()}
    assert rows["energy, estimated"][:2] == ["31.00", "uJ"]


PROFILE = {
    "runs": 40,
    "total_ms": 1.3,
    "ops": [
        {"name": f"net/layer{n}/Relu;net/other", "op": "CONV_2D", "device": "CPU", "ms": n / 100}
        | {"share": n / 78, "low": n / 79, "high": n / 77}
        for n in range(1, 13)
    ],
    "unattributed_share": 0.4,
    "source": "LiteRT's C profiler",
    "warnings": [],
}
PLACEMENT = {
    "ops": [],
    "count": 12,
    "devices": [
        {"device": "CPU, XNNPACK delegate", "ops": 11, "macs": 990, "macs_share": 0.99},
        {"device": "CPU, built-in kernels", "ops": 1, "macs": 10, "macs_share": 0.01},
    ],
}


def test_print_all_there_is(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = {"governor": {"policy0": "performance"}, "frequency_hz": {"policy0": {"cur": 24 * 10**8}}, **WARM}
    more = {"placement": PLACEMENT, "profile": PROFILE, "after_idle_ns": {"gap_ms": 100, "latencies_ns": [1_100_000] * 20}}
    run = {**metered(), **more, "conditions": around(first, {**first, **WARM}, throttled=False)}
    print_bench(report_of(file, {1: [run] * 3}))
    text = capsys.readouterr().out
    lines = text.splitlines()
    rows = {line[:26].strip(): line[26:].split() for line in lines}
    assert rows["latency after idle"][:2] == ["1.100", "ms"]
    assert rows["jitter (p99 - p50)"][1] == "ms"
    assert rows["arena"][:2] == ["4,096", "bytes"]
    assert rows["energy per inference"] == ["5.000", "mJ", "4.800", "-", "5.200"]
    assert rows["power, busy"] == ["7.000", "W"]
    assert "11 of 12 ops with 99.0% of the multiply-adds on CPU, XNNPACK delegate; 1 of 12 ops with 1.0%" in text
    assert "governor performance, 2.40 GHz, 40.0 to 45.0 degrees C, not throttled" in text
    ops = [line.split() for line in lines if line.startswith("CONV_2D")]
    assert [op[-1] for op in ops] == [f"net/layer{n}/Relu" for n in range(12, 2, -1)]
    assert ops[0][1:4] == ["0.120", "ms", "15.4%"]
    assert [line.split() for line in lines if line.startswith("the other")] == [["the", "other", "2", "0.0300", "ms", "3.8%"]]
    assert "LiteRT's C profiler, 40 runs; 40.0% of an inference is in no op" in text


def test_spark_line() -> None:
    found = {"unit": "ms", "edges": [0.05, 0.06, 0.07, 0.08, 0.09], "counts": [1, 1000, 500, 0], "below": 0, "above": 12}
    assert spark_line(found) == "50.00 ▁█▄  90.00 us (12 slower)"
    assert spark_line(found, " .@") == "50.00 .@.  90.00 us (12 slower)"


def cli(*arguments: object) -> Any:
    app = typer.Typer()
    app.command()(commands.bench)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_verb(model: Path) -> None:
    done = cli(model, "--threads", "1,2", "--duration", 0.01, "--repeats", 1, "--engine", "litert", "--exact", "--json")
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert data["kind"] == "bench"
    assert (data["settings"]["threads"], data["settings"]["exact"], data["settings"]["repeats"]) == ([1, 2], True, 1)
    assert data["options"]["threads"] == {"value": "1,2", "from": "commandline"}
    assert data["options"]["timeout"]["from"] == "default"
    done = cli(model, "--duration", 0.01, "--repeats", 1)
    assert done.exit_code == 0, done.output
    assert "latency p50" in done.stdout


@pytest.mark.parametrize("text", ["", "0", "1,", "two", "1,-2", "1.5", "²", "2000"])
def test_threads_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--threads"):
        commands.thread_counts(text)


def test_threads() -> None:
    assert commands.thread_counts("1") == (1,)
    assert commands.thread_counts(" 4, 1,4,2") == (4, 1, 2)
