"""Shares of op times, their intervals, and the part that ops do not explain."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from edgewright.benchmarks.profile import median_interval, profile
from edgewright.runtime import open_session
from edgewright.runtime.placed import OpTime
from tests.runtime import placed_models


class Timed:
    """A session whose ops and inferences take what a test says, on a clock of its own."""

    profiler = "a profiler"

    def __init__(self, monkeypatch: pytest.MonkeyPatch, run_ns: int, ops: dict[str, tuple[int, ...]]) -> None:
        self.now, self.run_ns = 0, run_ns
        self.ops = tuple(OpTime(name, "OP", "CPU", times, "kernel") for name, times in ops.items())
        monkeypatch.setattr("edgewright.benchmarks.profile.time.perf_counter_ns", lambda: self.now)

    def version(self) -> str:
        return "one 1.0"

    def run(self, feeds: Any) -> None:
        self.now += self.run_ns

    def profile(self, feeds: Any, runs: int) -> tuple[OpTime, ...]:
        return self.ops


def profiled(session: Any, runs: int = 8) -> dict[str, Any]:
    return profile(session, {}, runs)


class TestArithmetic:
    def test_shares_and_the_rest(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """By hand: sums 10, 10, 20 us; of each run's sum, `a` has 0.6, 0.8, 0.7."""
        found = profiled(Timed(monkeypatch, 20_000, {"a": (6000, 8000, 14000), "b": (4000, 2000, 6000)}))
        a, b = found["ops"]
        assert (found["total_ms"], found["ops_ms"], found["unattributed_share"]) == (0.02, 0.01, 0.5)
        assert found["runs"] == 8
        assert a["share"] == pytest.approx(0.7) and b["share"] == pytest.approx(0.3)
        assert (a["low"], a["high"]) == pytest.approx((0.6, 0.8))  # three values: their ends
        assert a["ms"] == 0.008 and b["ms"] == 0.004
        assert found["coverage"] == 0.75  # 1 - 2 / 2**3
        assert found["source"] == "a profiler (one 1.0)" and found["warnings"] == []
        assert json.loads(json.dumps(found)) == found

    def test_profiling_that_costs_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = profiled(Timed(monkeypatch, 10_000, {"a": (30_000,) * 8}))
        assert found["unattributed_share"] == 0.0
        assert "op times add up to 3.0 times an inference" in found["warnings"][0]

    def test_single_times_below_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Rounding of means: the median is right, nothing is told as negative."""
        found = profiled(Timed(monkeypatch, 20_000, {"a": (9000,) * 3, "b": (-1000, 0, 1000)}))
        assert [op["ms"] for op in found["ops"]] == [0.009, 0.0]
        assert found["ops"][1]["low"] == 0.0 and found["ops"][0]["high"] == 1.0

    def test_ops_below_the_step(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = profiled(Timed(monkeypatch, 10_000, {"a": (9000,) * 8, "b": (0,) * 8}))
        assert "1 of 2 ops took less than the profiler's step" in found["warnings"][0]
        found = profiled(Timed(monkeypatch, 500, {"a": (0,) * 8}))
        assert found["ops"][0]["share"] == 0.0 and found["unattributed_share"] == 1.0
        assert found["warnings"] == ["every op took less than the profiler's step of 1 us: there are no shares"]

    def test_no_ops(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = profiled(Timed(monkeypatch, 500, {}))
        assert found["ops"] == [] and found["unattributed_share"] == 1.0


class TestInterval:
    @given(st.integers(1, 400))
    def test_coverage_is_the_binomials(self, count: int) -> None:
        low, high, coverage = median_interval(list(range(count)))
        assert low + high == count - 1
        assert coverage == pytest.approx(1 - 2 * stats.binom.cdf(low, count, 0.5), abs=1e-9)
        if count >= 6:
            assert coverage >= 0.95
            assert 1 - 2 * stats.binom.cdf(low + 1, count, 0.5) < 0.95 or low + 1 > high - 1  # no narrower pair has it
        else:
            assert low == 0

    def test_it_holds_the_median_as_often_as_it_says(self) -> None:
        """Skewed values, whose median is known."""
        rng = np.random.default_rng(1)
        draws = rng.exponential(1.0, (4000, 21))
        held = 0
        for row in draws:
            low, high, coverage = median_interval(row.tolist())
            held += low <= np.log(2) <= high
        assert abs(held / len(draws) - coverage) < 4 * np.sqrt(coverage * (1 - coverage) / len(draws))


class TestRealModels:
    @pytest.mark.parametrize("engine", ["litert", "openvino"])
    def test_one_heavy_op(self, tmp_path: Path, engine: str) -> None:
        with open_session(placed_models.heavy(tmp_path / "m.tflite"), engine=engine) as session:
            found = profile(session, {"x": np.ones((1, 64, 64, 16), np.float32)}, 20)
            names = {op.name for op in session.placement().ops}
        top = max(found["ops"], key=lambda op: op["share"])
        assert top["name"] in names and top["op"] in ("CONV_2D", "Convolution")
        assert top["share"] > 0.5 and top["low"] <= top["share"] <= top["high"]
        assert session.version() in found["source"]
        # How well they agree is a figure, not a test: shown with -s.
        sys.stdout.write(f"\n{engine}: ops {found['ops_ms']:.3f} ms, inference {found['total_ms']:.3f} ms\n")

    def test_onnxruntime(self, tmp_path: Path) -> None:
        with open_session(placed_models.small_onnx(tmp_path / "m.onnx")) as session:
            found = profile(session, {"x": np.ones((1, 3, 32, 32), np.float32)}, 20)
        assert {"conv", "depthwise", "dense"} <= {op["name"] for op in found["ops"]}
        assert sum(op["ms"] for op in found["ops"]) > 0
