"""Intervals of latencies: against a plain bootstrap, and by how often they hold a truth that is known."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import signal, stats

from edgewright.benchmarks import bootstrap
from edgewright.benchmarks.bootstrap import FIGURES, MANY, block_length, figures_of, hierarchical, interval, resample

Array = np.ndarray[Any, Any]

SPREAD = 0.05


def series(rng: np.random.Generator, count: int, memory: float = 0.0) -> Array:
    """Latencies of median 1 ms, lognormal, whose logarithms are autoregressive with this coefficient."""
    noise = rng.normal(size=count) * (1 - memory**2) ** 0.5
    noise[0] = rng.normal()
    return np.asarray(np.exp(SPREAD * signal.lfilter([1.0], [1.0, -memory], noise)))


def column(found: bootstrap.Resampled, name: str) -> Array:
    return np.asarray(found.draws[:, FIGURES.index(name)])


def test_figures() -> None:
    values = series(np.random.default_rng(0), 5000)
    found = figures_of(values)
    for name, q in (("p25", 25), ("p50", 50), ("p75", 75), ("p90", 90), ("p99", 99), ("p999", 99.9)):
        assert found[name] == np.percentile(values, q)
    assert found["iqr"] == pytest.approx(stats.iqr(values))
    assert found["jitter"] == pytest.approx(np.percentile(values, 99) - np.median(values))
    assert found["mean"] == values.mean()


def plain(values: Array, length: int, resamples: int) -> Iterator[dict[str, float]]:
    """A circular block bootstrap as it is written down: indices, and the figures of what they pick."""
    rng, count = np.random.default_rng(1), len(values)
    for _ in range(resamples):
        starts = rng.integers(0, count, -(-count // length))
        picked = (starts[:, None] + np.arange(length)).ravel()[:count] % count
        yield figures_of(values[picked])


@pytest.mark.parametrize(("count", "memory"), [(1200, 0.0), (1200, 0.7), (5000, 0.9)])
def test_draws_are_those_of_a_plain_bootstrap(count: int, memory: float) -> None:
    values = series(np.random.default_rng(count), count, memory)
    found = resample(values, seed=0, resamples=1000)
    expected = list(plain(values, found.block, 400))
    for name in ("p25", "p50", "p75", "p90", "p99", "mean", "iqr", "jitter"):
        other = np.array([figures[name] for figures in expected])
        assert column(found, name).std() == pytest.approx(other.std(), rel=0.25), name
        assert column(found, name).mean() == pytest.approx(other.mean(), abs=0.35 * other.std()), name


def test_blocks_grow_with_memory() -> None:
    lengths = {m: [block_length(series(np.random.default_rng(n), 8000, m)) for n in range(9)] for m in (0.0, 0.9, 0.99)}
    medians = [np.median(found) for found in lengths.values()]
    assert medians[0] == 20, "the cube root where there is no memory"
    assert medians[0] < medians[1] < medians[2] <= 400
    drifting = series(np.random.default_rng(0), 8000) * np.linspace(1, 1.3, 8000)
    assert block_length(drifting) == 400, "a trend is as much memory as there can be: 20 blocks are left"
    assert block_length(np.ones(8000)) == 20
    ticks = [np.where(np.random.default_rng(n).random(8000) < 0.01, 2.0, 1.0) for n in range(9)]
    assert np.median([block_length(values) for values in ticks]) == 20, "equal values are no trend"
    assert [block_length(np.arange(n)) for n in (1, 2, 19, 40)] == [1, 1, 1, 2]


def test_within_a_process_neighbours_depend_on_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """200 series: intervals from blocks hold the true p50 about as often as they say, those from single ones do not."""
    held = {"blocks": 0, "single": 0}
    for n in range(200):
        values = series(np.random.default_rng(n), 2000, 0.9)
        for kind in held:
            with monkeypatch.context() as patch:
                if kind == "single":
                    patch.setattr(bootstrap, "block_length", lambda values: 1)
                found = interval("p50", [figures_of(values)["p50"]], [resample(values, seed=n)], seed=n)
            assert found is not None
            held[kind] += found[0] <= 1 <= found[1]
    assert held["blocks"] >= 0.88 * 200
    assert held["single"] < 0.6 * 200


@pytest.mark.parametrize(("processes", "shift"), [(2, 0.03), (3, 0.0), (3, 0.03), (12, 0.0), (12, 0.03)])
def test_how_often_the_truth_is_held(processes: int, shift: float) -> None:
    """Processes are shifted as a whole; the truth is the mean of many such processes' p50, and of their p90.

    `interval` holds it about as often as it says for any number of processes; the hierarchical bootstrap for many only,
    for a few only if processes hardly differ.
    """
    rounds, truth = 60 if processes >= MANY else 120, {"p50": 1.0, "p90": float(np.exp(SPREAD * stats.norm.ppf(0.9)))}
    held, resampled = dict.fromkeys(truth, 0), dict.fromkeys(truth, 0)
    rng = np.random.default_rng(processes)
    for n in range(rounds):
        runs = [series(rng, 400, 0.5) * (1 + shift * rng.normal()) for _ in range(processes)]
        figures, within = (
            [figures_of(run) for run in runs],
            [resample(run, seed=n + k, resamples=200) for k, run in enumerate(runs)],
        )
        drawn = hierarchical(within, seed=n, resamples=1000)
        for name, true in truth.items():
            found = interval(name, [process[name] for process in figures], within, seed=n)
            assert found is not None
            held[name] += found[0] <= true <= found[1]
            resampled[name] += drawn[name][0] <= true <= drawn[name][1]
    least = 0.94 - 3 * (0.95 * 0.05 / rounds) ** 0.5  # chance alone falls below once in 500 times
    for name in truth:
        assert held[name] >= least * rounds
        if processes < MANY and shift:
            assert resampled[name] < 0.85 * rounds
        else:
            assert resampled[name] >= least * rounds


def test_processes_that_agree_by_chance() -> None:
    """Student's t knows of no doubt where values are equal; what varies within the processes remains."""
    values = series(np.random.default_rng(0), 1000)
    within = [resample(values, seed=seed) for seed in (1, 2)]
    p50 = figures_of(values)["p50"]
    found = interval("p50", [p50, p50], within, seed=0)
    assert found is not None
    assert found[2] == "95 % t over 2 processes, block bootstrap within"
    expected = 2 * 1.96 * column(within[0], "p50").std() / 2**0.5
    assert found[1] - found[0] == pytest.approx(expected, rel=0.2)


def test_names_say_what_an_interval_is() -> None:
    runs = [series(np.random.default_rng(n), 2000) for n in range(MANY)]
    within = [resample(run, seed=n) for n, run in enumerate(runs)]
    figures = [figures_of(run) for run in runs]

    def told(name: str, number: int) -> str | None:
        found = interval(name, [one[name] for one in figures[:number]], within[:number], seed=0)
        return found and found[2]

    assert told("p50", 1) == "95 % block bootstrap within 1 process"
    assert told("p50", 9) == "95 % t over 9 processes, block bootstrap within"
    assert told("p50", 10) == "95 % hierarchical bootstrap, 10 processes"
    # 2 inferences of a process are slower than its p99.9: what the others are, it cannot tell by itself
    assert told("p999", 1) is None
    assert told("p999", 3) == "95 % t over 3 processes"
    assert told("p999", 10) == "95 % t over 10 processes"


def test_ends() -> None:
    """No latency is below 0; a p99.9 of 20,000 inferences has 20 beyond it, and an interval."""
    within = [resample(np.full(100, value), seed=0) for value in (0.001, 0.1)]
    assert interval("mean", [0.001, 0.1], within, seed=0) == (0.0, pytest.approx(0.6795, rel=1e-3), within_name(2))
    values = series(np.random.default_rng(0), 20_000)
    found = interval("p999", [figures_of(values)["p999"]], [resample(values, seed=0)], seed=0)
    assert found is not None
    assert found[0] < np.exp(SPREAD * stats.norm.ppf(0.999)) < found[1]


def within_name(processes: int) -> str:
    return f"95 % t over {processes} processes, block bootstrap within"


def test_a_seed_is_a_result() -> None:
    values = series(np.random.default_rng(0), 3000)
    first, again, other = (resample(values, seed=seed) for seed in (4, 4, 5))
    assert np.array_equal(first.draws, again.draws, equal_nan=True)
    assert not np.array_equal(first.draws, other.draws, equal_nan=True)
    assert hierarchical([first, other], seed=1) == hierarchical([again, other], seed=1)


def test_ticks_of_a_coarse_clock() -> None:
    values = np.where(np.random.default_rng(0).random(4000) < 0.3, 0.000041, 0.000082)
    found = resample(values, seed=0)
    assert np.allclose(column(found, "p50"), 0.000082)
    assert np.allclose(column(found, "p90"), 0.000082)
    assert np.allclose(column(found, "p25"), 0.000041)


@given(arrays(np.float64, st.integers(1, 300), elements=st.floats(0.001, 1e4)), st.integers(0, 5))
def test_draws_stay_within_the_values(values: Array, seed: int) -> None:
    found = resample(values, seed=seed, resamples=20)
    assert found.draws.shape == (20, len(FIGURES))
    assert 1 <= found.block <= len(values)
    least, most = values.min() * (1 - 1e-9), values.max() * (1 + 1e-9)
    for name in ("p25", "p50", "p75", "p90", "p99", "p999", "mean"):
        drawn = column(found, name)
        assert np.isnan(drawn).all() or ((drawn >= least) & (drawn <= most)).all(), name
