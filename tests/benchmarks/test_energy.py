"""Energy per inference: against boards of known energy, against simple arithmetic, and with a real meter."""

import gc
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meter_trees import RaplTree, live
from synthetic_power import Board

from edgewright.benchmarks import energy
from edgewright.benchmarks.alignment import Marker
from edgewright.benchmarks.energy import Timeline, Window, energy_of, external_energy, measure_energy
from edgewright.benchmarks.power import Clock, Meter, PowerTrace, open_meter
from edgewright.errors import MeterError, PluginError, UsageError

S = 1_000_000_000
ZERO = 7_000 * S


def trace(t_s, watts, kind="mean", **more):
    """A trace whose times are given in seconds."""
    t_ns = ZERO + np.round(np.asarray(t_s) * 1e9).astype(np.int64)
    given_ = {"scope": "board input", "origin": "measured", "meter": "test", "rate_hz": len(t_ns) / float(t_s[-1] - t_s[0])}
    return PowerTrace(t_ns, np.asarray(watts, float), kind=kind, **{**given_, **more})


def span(begin_s, end_s, inferences=0):
    return Window(ZERO + round(begin_s * 1e9), ZERO + round(end_s * 1e9), inferences)


IDLE = (span(0, 3), span(15, 18))
WINDOWS = tuple(span(4 + 2 * n, 6 + 2 * n, 100 + n) for n in range(5))
"""Five windows between 4 and 14 s."""


def steps(idle=2.0, active=3.5, hz=100.0, kind="mean", **more):
    """Idle until 3.5 s, active until 14.5 s, idle again; without noise. The means of a counter are exact."""
    t_s = np.arange(-0.5, 18.5, 1 / hz)
    busy = np.clip(t_s, 3.5, 14.5)
    if kind == "mean":
        watts = np.concatenate([[0.0], idle + (active - idle) * np.diff(busy) / np.diff(t_s)])
    else:
        watts = np.where((t_s >= 3.5) & (t_s < 14.5), active, idle)
    return trace(t_s, watts, kind, **more)


@pytest.mark.parametrize("kind", ["mean", "sample"])
@pytest.mark.parametrize("hz", [10.0, 97.0, 1000.0])
def test_steady_powers_give_power_times_time_over_inferences(kind, hz):
    found = energy_of(steps(kind=kind, hz=hz), WINDOWS, IDLE)
    seconds, inferences = 10.0, sum(window.inferences for window in WINDOWS)
    assert found["mj_per_inference"] == pytest.approx(1e3 * 1.5 * seconds / inferences, rel=1e-9)
    assert found["mj_per_inference_gross"] == pytest.approx(1e3 * 3.5 * seconds / inferences, rel=1e-9)
    assert found["baseline_watts"] == pytest.approx(2.0) and found["active_watts"] == pytest.approx(3.5)
    assert found["inferences"] == inferences == 510
    assert found["low"] <= found["mj_per_inference"] <= found["high"]
    assert (found["meter"], found["scope"], found["origin"], found["kind"]) == ("test", "board input", "measured", kind)


def test_gross_energy_is_the_traces_integral_over_the_windows():
    board = Board(seed=4, uneven=0.05)
    power = board.counter(200)
    found = energy_of(power, board.spans, board.idle_spans)
    whole = power.energy_joules(board.spans[0].begin_ns, board.spans[-1].end_ns)
    assert found["mj_per_inference_gross"] == pytest.approx(1e3 * whole / found["inferences"], rel=2e-3)


def test_edges_between_idle_and_busy_do_not_pull_the_figure_down():
    """At 10 Hz, sharing out the readings that lie across the edges would lose 2 % of these windows."""
    windows = [span(4.03, 6.01, 100), span(8.04, 10.05, 100)]
    t_s = np.arange(-0.5, 18.5, 0.1)
    fine = np.arange(-0.6, 18.5, 1e-4)
    on = np.zeros(len(fine))
    for begin, end in ((4.03, 6.01), (8.04, 10.05)):
        on[(fine >= begin) & (fine < end)] = 1.5
    total = np.concatenate([[0.0], np.cumsum((2.0 + on[:-1]) * 1e-4)])
    watts = np.concatenate([[0.0], np.diff(np.interp(t_s, fine, total)) / 0.1])
    found = energy_of(trace(t_s, watts), windows, IDLE)
    assert found["mj_per_inference"] == pytest.approx(1e3 * 1.5 * (1.98 + 2.01) / 200, rel=1e-3)


CASES = {
    "counter": ({}, lambda board, seed: board.counter(100, seed=seed), 0.01),
    "counter, drift along a line": ({"drift_watts": 0.2}, lambda board, seed: board.counter(100, seed=seed), 0.08),
    "counter, bent drift, missed readings": (
        {"drift_watts": 0.1, "bend": 1.0, "uneven": 0.01},
        lambda board, seed: board.counter(100, missed=0.1, seed=seed),
        0.04,
    ),
    "counter, coarse and slow": ({"noise_watts": 0.01}, lambda board, seed: board.counter(10, step_joules=0.05, seed=seed), 0.04),
    "counter, long memory": ({"noise_watts": 0.3, "memory": 0.98}, lambda board, seed: board.counter(100, seed=seed), 0.2),
    "converter": ({}, lambda board, seed: board.converter(190, seed=seed), 0.02),
    "converter, slow and missed": ({"drift_watts": 0.05}, lambda board, seed: board.converter(10, missed=0.1, seed=seed), 0.15),
    "converter, coarse": (
        {"noise_watts": 0.005, "ripple": 0.0},
        lambda board, seed: board.converter(50, step_watts=0.2, noise_watts=0.01, seed=seed),
        0.12,
    ),
    "little above idle": ({"active_watts": 0.02}, lambda board, seed: board.counter(100, seed=seed), 0.7),
    "one window": ({"windows": 1}, lambda board, seed: board.counter(100, seed=seed), 0.01),
}
"""Boards, meters, and the mean half of the interval, relative, that is not too wide to be of use."""

RUNS = 200


@pytest.mark.parametrize("case", CASES)
def test_the_interval_holds_the_true_energy(case):
    """Stated: 95 %. With 200 runs a share of 0.95 scatters by 0.015; below 0.90 the statement is wrong."""
    options, look, widest = CASES[case]
    held, halves = 0, []
    for seed in range(RUNS):
        rng = np.random.default_rng(10_000 + seed)
        active = options.get("active_watts", 1.5) * rng.uniform(0.8, 1.2)
        board = Board(seed=seed, **{**options, "idle_watts": rng.uniform(1.8, 2.2), "active_watts": active})
        found = energy_of(look(board, seed), board.spans, board.idle_spans)
        true = board.true_joules * 1e3
        held += found["low"] <= true <= found["high"]
        halves.append((found["high"] - found["low"]) / 2 / true)
    assert held >= 0.90 * RUNS
    assert np.mean(halves) <= widest


@settings(max_examples=30, deadline=None)
@given(factor=st.floats(0.01, 100.0), seed=st.integers(0, 5))
def test_energies_scale_with_power(factor, seed):
    board = _BOARDS[seed]
    power = board.counter(50, seed=seed)
    one = energy_of(power, board.spans, board.idle_spans)
    scaled = replace(power, watts=power.watts * factor, step_joules=power.step_joules * factor)
    other = energy_of(scaled, board.spans, board.idle_spans)
    for key in ("mj_per_inference", "low", "high", "mj_per_inference_gross", "baseline_watts"):
        assert other[key] == pytest.approx(factor * one[key], rel=1e-6, abs=1e-9 * factor)


@settings(max_examples=30, deadline=None)
@given(watts=st.floats(-1.0, 50.0), seed=st.integers(0, 5), shift=st.integers(-(10**14), 10**14))
def test_a_constant_load_and_another_zero_of_time_change_nothing_net(watts, seed, shift):
    board = _BOARDS[seed]
    power = board.converter(50, seed=seed)
    one = energy_of(power, board.spans, board.idle_spans)
    moved = replace(power, watts=power.watts + watts, t_ns=power.t_ns + shift)
    spans, idle = (
        [Window(w.begin_ns + shift, w.end_ns + shift, w.inferences) for w in group] for group in (board.spans, board.idle_spans)
    )
    other = energy_of(moved, spans, idle)
    for key in ("mj_per_inference", "low", "high"):
        assert other[key] == pytest.approx(one[key], rel=1e-6, abs=1e-7)
    seconds = sum(w.seconds for w in board.spans) / one["inferences"]
    assert other["mj_per_inference_gross"] == pytest.approx(one["mj_per_inference_gross"] + 1e3 * watts * seconds, rel=1e-6)


_BOARDS = {seed: Board(seed=seed) for seed in range(6)}


def test_a_straight_drift_of_idle_power_is_subtracted_window_by_window():
    """Windows of unequal lengths, all early: the mean of both baselines would be wrong by a quarter of the drift."""
    t_s = np.arange(-0.5, 18.5, 0.01)
    power = 2 + 0.1 * t_s + np.where((t_s >= 3.5) & (t_s < 9), 1.5, 0.0)
    windows = [span(4, 5, 100), span(5, 8, 300)]
    found = energy_of(trace(t_s, power, "sample"), windows, IDLE)
    assert found["mj_per_inference"] == pytest.approx(15.0, rel=2e-3)
    assert found["baseline_watts"] == pytest.approx(2 + 0.1 * 6, rel=1e-3)
    assert any(text.startswith("idle power went from 2.15 to 3.65") for text in found["warnings"]), found["warnings"]
    # Between 2.15 W and 3.65 W idle power may have taken any course: 1.5 / (2 sqrt 3) W of standard uncertainty.
    assert found["uncertainty_mj"]["drift"] == pytest.approx(1e3 * 1.5 / 12**0.5 * 4 / 400, rel=1e-2)


def test_resolution_of_a_counter_counts_at_both_ends_of_every_span():
    found = energy_of(steps(step_joules=0.3), WINDOWS, IDLE)
    idle_s = 10 / 2  # seconds that each baseline stands for, which is 3 s long
    variance = 0.3**2 / 6 * (5 + 2 * (idle_s / 3) ** 2)
    assert found["uncertainty_mj"]["resolution"] == pytest.approx(1e3 * variance**0.5 / 510, rel=1e-6)


def test_resolution_of_a_converter_counts_whole_where_nothing_moves_it_and_not_where_noise_does():
    quiet = energy_of(steps(kind="sample", step_watts=0.1), WINDOWS, IDLE)
    assert quiet["uncertainty_mj"]["resolution"] == pytest.approx(1e3 * 0.1 / 12**0.5 * 2**0.5 * 10 / 510, rel=1e-6)
    power = steps(kind="sample", step_watts=0.1)
    noisy = replace(power, watts=power.watts + np.random.default_rng(0).normal(size=len(power.watts)) * 0.2)
    assert energy_of(noisy, WINDOWS, IDLE)["uncertainty_mj"]["resolution"] < 1e-6


def test_misplaced_windows_widen_the_interval_where_power_changes_within_them():
    t_s = np.arange(-0.5, 18.5, 0.01)
    rising = 2 + np.where((t_s >= 3.5) & (t_s < 14.5), 1 + 0.05 * (t_s - 4), 0.0)
    power = trace(t_s, rising, "sample")
    known = energy_of(power, WINDOWS, IDLE)
    vague = energy_of(power, WINDOWS, IDLE, alignment_ns=S // 5)
    assert known["uncertainty_mj"]["alignment"] == 0
    # 2 s windows with 0.2 s left free at each end: their last and first quarters are 1.2 s apart, 0.06 W.
    assert vague["uncertainty_mj"]["alignment"] == pytest.approx(1e3 * 5 * 0.06 * 0.2 / 3**0.5 / 510, rel=0.02)
    assert vague["alignment_ms"] == 200.0
    assert vague["mj_per_inference"] == pytest.approx(known["mj_per_inference"], rel=1e-3)


def test_a_trace_that_is_off_by_less_than_is_allowed_for_gives_the_same_figure():
    board = Board(seed=2)
    power = board.counter(100)
    late = replace(power, t_ns=power.t_ns + S // 10)
    found = energy_of(late, board.spans, board.idle_spans, alignment_ns=S // 10)
    assert found["low"] <= board.true_joules * 1e3 <= found["high"]


REFUSED = {
    "too few": (lambda: (steps(hz=2.0), WINDOWS, IDLE), "window 1 of 5 is 2 s long and holds 4 readings of test"),
    "too few idle": (lambda: (steps(hz=3.0), WINDOWS, (span(0, 1), IDLE[1])), "baseline 1 of 2 is 1 s long and holds"),
    "ends early": (
        lambda: (trace(np.arange(-0.5, 13, 0.01), np.ones(1350)), WINDOWS, IDLE[:1]),
        "covers window 5 of 5 only in part: readings go from 0.000 to 13",
    ),
    "begins late": (
        lambda: (trace(np.arange(1, 18.5, 0.01), np.ones(1750)), WINDOWS, IDLE),
        "covers baseline 1 of 2 only in part",
    ),
    "gap": (lambda: (_with_gap(4.5, 5.2), WINDOWS, IDLE), "covers window 1 of 5 only in part: readings are missing for 0.7"),
    "own clock": (lambda: (steps(clock="own"), WINDOWS, IDLE), "times of a clock of its own"),
    "wall clock": (lambda: (steps(clock="wall"), WINDOWS, IDLE), "times of the wall clock"),
    "no baseline": (lambda: (steps(), WINDOWS, ()), "needs a baseline"),
    "no windows": (lambda: (steps(), (), IDLE), "needs a baseline"),
    "no inferences": (lambda: (steps(), (span(4, 6, 0),), IDLE), "needs a baseline"),
}


def _with_gap(begin_s, end_s):
    power = steps(kind="sample")
    t_s = (power.t_ns - ZERO) / 1e9
    kept = (t_s < begin_s) | (t_s > end_s)
    return replace(power, t_ns=power.t_ns[kept], watts=power.watts[kept])


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_with_the_numbers(case):
    make, words = REFUSED[case]
    with pytest.raises(MeterError) as caught:
        energy_of(*make())
    assert words in caught.value.message


def test_says_how_many_readings_are_needed_and_how_to_get_them():
    with pytest.raises(MeterError) as caught:
        energy_of(steps(hz=2.0), WINDOWS, IDLE)
    assert caught.value.message.endswith("(2 a second), 5 are needed")
    assert caught.value.hint == "measure energy for longer: each window and baseline for 3.5 s at least"


def test_powers_that_are_no_numbers_never_become_a_figure():
    power = steps()
    bad = power.watts.copy()
    bad[(power.t_ns > ZERO + 7 * S) & (power.t_ns < ZERO + 7 * S + S // 10)] = np.nan
    with pytest.raises(MeterError, match=r"9 of 1899 powers are not finite"):
        energy_of(replace(power, watts=bad), WINDOWS, IDLE)


def test_a_counter_bridges_readings_that_did_not_come():
    power = steps()
    kept = np.ones(len(power.t_ns), bool)
    rng = np.random.default_rng(3)
    kept[rng.integers(1, len(kept) - 1, 600)] = False
    total = np.concatenate([[0.0], np.cumsum(power.watts[1:] * 0.01)])[kept]
    t_ns = power.t_ns[kept]
    fewer = replace(power, t_ns=t_ns, watts=np.concatenate([[0.0], np.diff(total) / (np.diff(t_ns) / 1e9)]), missed=600)
    found = energy_of(fewer, WINDOWS, IDLE)
    assert found["mj_per_inference"] == pytest.approx(1e3 * 15 / 510, rel=1e-6)
    assert any(text.endswith("readings were missed") for text in found["warnings"])


def test_energy_that_cannot_be_told_from_zero_is_given_with_a_warning():
    board = Board(seed=1, active_watts=0.0005, noise_watts=0.2)
    found = energy_of(board.counter(100), board.spans, board.idle_spans)
    assert found["low"] <= 0
    assert any("cannot be told from zero" in text for text in found["warnings"])


def test_one_baseline_is_enough_and_is_said():
    found = energy_of(steps(), WINDOWS, IDLE[:1])
    assert found["mj_per_inference"] == pytest.approx(1e3 * 15 / 510)
    assert "idle power was measured once only: a drift of it is not seen" in found["warnings"]


def test_readings_in_step_with_inferences_are_named():
    board = Board(seed=1)
    locked = energy_of(board.converter(200), board.spans, board.idle_spans)["warnings"]
    free = energy_of(board.converter(190), board.spans, board.idle_spans)["warnings"]
    assert any("keep step with the inferences" in text for text in locked)
    assert not any("keep step with the inferences" in text for text in free)
    assert any("seen by chance only" in text for text in free)


def test_the_trace_for_the_picture_is_short_and_keeps_the_energy():
    board = Board(seed=3)
    found = energy_of(board.converter(1000), board.spans, board.idle_spans)
    drawn = found["trace"]
    assert 1000 < len(drawn["t_ms"]) == len(drawn["watts"]) <= 2000
    assert all(a < b for a, b in pairwise(drawn["t_ms"]))
    begin, end, inferences = found["windows"][0]
    assert inferences == board.spans[0].inferences and end - begin == pytest.approx(2000, abs=6)
    assert found["baselines"][0][0] == 0.0
    inside = [w for t, w in zip(drawn["t_ms"], drawn["watts"], strict=True) if begin < t < found["windows"][-1][1]]
    assert np.mean(inside) == pytest.approx(found["active_watts"], rel=0.01)
    json.dumps(found, allow_nan=False)


# Measuring


class Simulated(Clock):
    """A clock that time passes on only when something waits or works; it remembers when something worked."""

    def __init__(self):
        self.now = ZERO
        self.busy = []

    def now_ns(self):
        return self.now

    def wait(self, until_ns, stop):
        self.now = max(self.now, until_ns)

    def work(self, seconds):
        begin, self.now = self.now, self.now + round(seconds * 1e9)
        if self.busy and self.busy[-1][1] == begin:
            begin = self.busy.pop()[0]
        self.busy.append((begin, self.now))

    def power(self, begin_ns, end_ns, hz, *, idle=2.0, active=1.5, noise=0.02):
        """Means over readings of a board that takes `active` watts more while it works."""
        t_ns = np.arange(begin_ns, end_ns + 1, round(S / hz))
        bounds = np.array(self.busy or [(begin_ns, begin_ns)])
        spent = np.repeat(np.concatenate([[0], np.cumsum(bounds[:, 1] - bounds[:, 0])]), 2)[1:-1]
        worked = np.interp(t_ns - begin_ns, bounds.ravel() - begin_ns, spent.astype(float))
        watts = idle + active * np.diff(worked) / np.diff(t_ns)
        watts += np.random.default_rng(0).normal(size=len(watts)) * noise
        return t_ns, np.concatenate([[0.0], watts])


class SimulatedMeter(Meter):
    """Reads the simulated board; what it would have read is made when it is asked for."""

    name = "simulated"
    hz = 50.0
    clock_name = "monotonic"

    @classmethod
    def available(cls, root=None):
        return ""

    def start(self):
        self.begin, self.ended = self.clock.now, False

    def so_far(self):
        if not hasattr(self, "begin"):
            raise MeterError("nothing was read yet")
        t_ns, watts = self.clock.power(self.begin, self.clock.now, self.hz)
        if len(t_ns) < 2:
            raise MeterError("too few")
        return PowerTrace(t_ns, watts, "all", "measured", "mean", self.name, self.hz, clock=self.clock_name)

    def stop(self):
        self.ended = True
        return self.so_far()


@pytest.fixture
def simulated(monkeypatch):
    clock, opened = Simulated(), []

    def open_meter(text, *, root, clock):
        opened.append(SimulatedMeter(root=root, clock=clock))
        return opened[-1]

    monkeypatch.setattr(energy, "open_meter", open_meter)
    return clock, opened


def test_measures_a_board_of_known_energy(simulated, tmp_path):
    clock, opened = simulated
    found = measure_energy(lambda: clock.work(0.004), meter="simulated", root=tmp_path, latency_s=0.004, clock=clock)
    assert found["low"] <= 6.0 <= found["high"] and found["mj_per_inference"] == pytest.approx(6.0, rel=0.01)
    assert len(found["windows"]) == 5 and found["inferences"] == pytest.approx(2500, abs=5)
    assert opened[0].ended
    (b0, e0, _), (b1, e1, _) = found["baselines"]
    assert e0 - b0 == e1 - b1 == 3000
    first, last = found["windows"][0][0], found["windows"][-1][1]
    assert e0 + 200 <= first and last + 200 <= b1
    assert all(a[1] == b[0] for a, b in pairwise(found["windows"]))


def test_windows_and_baselines_grow_with_slow_meters(simulated, monkeypatch, tmp_path):
    clock, _ = simulated
    monkeypatch.setattr(SimulatedMeter, "hz", 1.0)
    found = measure_energy(lambda: clock.work(0.01), meter="simulated", root=tmp_path, latency_s=0.01, clock=clock, energy_s=5.0)
    assert found["low"] <= 15.0 <= found["high"]
    assert all(end - begin >= 7000 for begin, end, _ in found["windows"])
    assert all(end - begin >= 9000 for begin, end, _ in found["baselines"])


def test_long_inferences_come_in_threes_at_least(simulated, tmp_path):
    clock, _ = simulated
    found = measure_energy(lambda: clock.work(2.5), meter="simulated", root=tmp_path, latency_s=2.5, clock=clock, windows=2)
    assert [n for _, _, n in found["windows"]] == [3, 3]
    assert found["mj_per_inference"] == pytest.approx(3750, rel=0.01)


def test_short_inferences_run_in_blocks_between_looks_at_the_clock(simulated, tmp_path):
    clock, _ = simulated
    looks = []
    now_ns = clock.now_ns
    clock.now_ns = lambda: looks.append(1) or now_ns()
    found = measure_energy(
        lambda: clock.work(0.0001), meter="simulated", root=tmp_path, latency_s=0.0001, clock=clock, energy_s=1
    )
    assert found["inferences"] >= 10_000
    assert len(looks) < found["inferences"] / 5


def test_garbage_is_not_collected_meanwhile_and_is_again_afterwards(simulated, tmp_path):
    clock, _ = simulated
    states = set()
    assert gc.isenabled()
    measure_energy(
        lambda: (states.add(gc.isenabled()), clock.work(0.1)), meter="simulated", root=tmp_path, latency_s=0.1, clock=clock
    )
    assert states == {False} and gc.isenabled()


def test_the_meter_is_stopped_when_an_inference_fails(simulated, tmp_path):
    clock, opened = simulated

    def run():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        measure_energy(run, meter="simulated", root=tmp_path, latency_s=0.1, clock=clock)
    assert opened[0].ended and gc.isenabled()


def test_without_a_meter_the_reason_stands_in_place_of_the_figure(tmp_path):
    found = measure_energy(lambda: pytest.fail("nothing is to run"), meter="auto", root=tmp_path, latency_s=0.1)
    assert found["why_absent"].startswith("no power meter on this machine (looked for ") and "rapl" in found["why_absent"]
    assert "--estimate-energy" in found["hint"]
    found = measure_energy(lambda: pytest.fail("nothing is to run"), meter="none", root=tmp_path, latency_s=0.1)
    assert found == {"why_absent": "it was not asked for", "hint": "choose a power meter with --meter"}


def test_mistakes_are_no_missing_figures(tmp_path):
    with pytest.raises(PluginError):
        measure_energy(lambda: None, meter="nonesuch", root=tmp_path, latency_s=0.1)
    with pytest.raises(UsageError, match="names several meters"):
        measure_energy(lambda: None, meter="rapl,hwmon", root=tmp_path, latency_s=0.1)
    for wrong in ({"windows": 0}, {"energy_s": 0.0}, {"baseline_s": -1.0}):
        with pytest.raises(UsageError, match="cannot be measured"):
            measure_energy(lambda: None, meter="auto", root=tmp_path, latency_s=0.1, **wrong)


class Ticking(Simulated):
    """Also passes while it is looked at: busy loops end, and count as work."""

    def now_ns(self):
        self.work(50e-6)
        return self.now

    def wait(self, until_ns, stop):
        self.now = max(self.now, until_ns)


def _elsewhere(clock, hz, ppm, offset_ns, **power):
    """The board's power as an instrument records it, in its own clock."""
    t_ns, watts = clock.power(ZERO - 2 * S, clock.now + 2 * S, hz, **power)
    moved = np.round((t_ns - ZERO) * (1 + ppm * 1e-6)).astype(np.int64) + offset_ns
    watts = watts / (1 + ppm * 1e-6)  # its seconds are longer or shorter
    return PowerTrace(moved, watts, "supply", "measured", "mean", "instrument", hz, clock="own")


def test_a_trace_from_elsewhere_is_placed_by_markers():
    clock = Ticking()
    record = measure_energy(lambda: clock.work(0.005), meter="marker", latency_s=0.005, clock=clock)
    record = json.loads(json.dumps(record))
    assert record["clock"] == "monotonic" and len(record["windows"]) == 5
    before, after = ([round((end - begin) / 1e8) for begin, end in marker["busy_ns"]] for marker in record["marker"])
    assert after == before[::-1] != before  # no shift lays one over the other
    found = external_energy(_elsewhere(clock, 100.0, 150.0, 123_456_789, noise=0.05), record)
    # 20 looks at the clock of 50 us each in 100 ms of inferences are work of the simulation too.
    true = 1e3 * 1.5 * sum(e - b for b, e, _ in record["windows"]) / 1e9 / sum(n for _, _, n in record["windows"])
    assert found["low"] <= true <= found["high"] and found["mj_per_inference"] == pytest.approx(true, rel=0.01)
    assert found["alignment"]["method"] == "marker"
    assert found["alignment"]["clock_ppm"] == pytest.approx(150, abs=found["alignment"]["clock_ppm_error"])
    assert 0 < found["alignment_ms"] < 10 and found["meter"] == "instrument"


def test_a_trace_from_elsewhere_is_placed_by_the_time_of_day():
    clock = Ticking()
    record = measure_energy(lambda: clock.work(0.005), meter="external", latency_s=0.005, clock=clock)
    assert record["marker"] is None
    own, wall = record["wall_ns_at"]
    power = _elsewhere(clock, 100.0, 0.0, ZERO + wall - own)
    missing = external_energy(power, record)
    assert missing["why_absent"] == "the trace of instrument has times of a clock of its own, and no marker was run"
    vague = external_energy(replace(power, clock="wall"), record)
    assert "how far the wall clocks" in vague["why_absent"] and "--meter marker" in vague["hint"]
    found = external_energy(replace(power, clock="wall"), record, clock_error_s=0.05)
    same = external_energy(
        replace(power, t_ns=power.t_ns - 5 * S), record, clock_error_s=0.05, trace_wall_ns_at=(wall - 5 * S, wall)
    )
    assert found["alignment_ms"] == 50.0 and found["alignment"]["method"] == "wall clock"
    assert found["mj_per_inference"] == pytest.approx(7.5, rel=0.03)
    assert same["mj_per_inference"] == pytest.approx(found["mj_per_inference"], rel=1e-9)


def test_a_trace_without_the_marker_gives_the_reason():
    clock = Ticking()
    record = measure_energy(lambda: clock.work(0.005), meter="marker", latency_s=0.005, clock=clock)
    power = _elsewhere(clock, 100.0, 0.0, 0)
    noise = replace(power, watts=np.random.default_rng(1).normal(size=len(power.watts)))
    found = external_energy(noise, record)
    assert "the marker is not clear in the trace" in found["why_absent"] and set(found) == {"why_absent", "hint"}


def test_an_instrument_too_slow_for_markers_may_still_have_the_time_of_day():
    clock = Ticking()
    record = measure_energy(
        lambda: clock.work(0.005), meter="marker", latency_s=0.005, clock=clock, energy_s=30.0, baseline_s=6.0, windows=3
    )
    own, wall = record["wall_ns_at"]
    power = replace(_elsewhere(clock, 2.0, 0.0, ZERO + wall - own), clock="wall")
    assert external_energy(power, record)["why_absent"].startswith("instrument has a reading every 500.0 ms")
    found = external_energy(power, record, clock_error_s=0.1)
    assert found["alignment"]["method"] == "wall clock" and found["mj_per_inference"] == pytest.approx(7.5, rel=0.03)
    assert found["warnings"][0].startswith("the trace is placed by the time of day: instrument has a reading every 500.0 ms")


def test_an_instrument_with_a_clock_of_its_own_gets_markers_without_being_asked(simulated, monkeypatch, tmp_path):
    monkeypatch.setattr(SimulatedMeter, "external", True)
    monkeypatch.setattr(SimulatedMeter, "clock_name", "own")
    _, opened = simulated
    clock = Ticking()
    found = measure_energy(lambda: clock.work(0.005), meter="simulated", root=tmp_path, latency_s=0.005, clock=clock)
    assert found["alignment"]["method"] == "marker" and found["alignment"]["clock_ppm"] == pytest.approx(0, abs=500)
    assert found["mj_per_inference"] == pytest.approx(7.5, rel=0.03)
    assert opened[0].ended


def test_timelines_survive_json():
    marker = Marker(5, 95, 10, ((10, 20), (40, 60)))
    timeline = Timeline(WINDOWS, IDLE, (marker, marker), (ZERO, 1_700_000_000 * S))
    assert Timeline.from_json(json.loads(json.dumps(timeline.to_json()))) == timeline


class Working:
    """Power over real time: 5 W, and 10 W more while `run` runs."""

    def __init__(self):
        self._lock = threading.Lock()
        self._done_s, self._since = 0.0, None
        self.runs = []

    def run(self):
        begin = time.monotonic()
        with self._lock:
            self._since = begin
        while time.monotonic() < begin + 0.01:
            sum(range(200))
        end = time.monotonic()
        with self._lock:
            self._done_s, self._since = self._done_s + end - begin, None
        self.runs.append((begin, end))

    def integral(self, t):
        now = time.monotonic()
        with self._lock:
            worked = self._done_s + (now - self._since if self._since else 0.0)
        return 5.0 * t + 10.0 * worked


def test_a_real_meter_reads_while_a_real_function_works(tmp_path):
    work = Working()
    tree = RaplTree(tmp_path, work, offset=262_143.0 - 20.0)  # wraps in the middle
    with live(tree):
        found = measure_energy(work.run, meter="rapl", root=tmp_path, latency_s=0.01, energy_s=2.5, baseline_s=1.0)
    assert "why_absent" not in found, found
    busy = sum(end - begin for begin, end in work.runs) / len(work.runs)
    assert found["mj_per_inference"] == pytest.approx(1e3 * 10.0 * busy, rel=0.15)
    assert (found["meter"], found["scope"], found["origin"]) == ("rapl", "package-0", "measured")
    assert found["baseline_watts"] == pytest.approx(5.0, rel=0.1)
    assert found["rate_hz"] > 20


RECORDER = """
import sys, time
schedstat, out = sys.argv[1:]
def used_s():
    with open(schedstat) as file:
        return int(file.read().split()[0]) / 1e9
with open(out, "w") as file:
    file.write("t_s,watts\\n")
    last, cpu = time.monotonic(), used_s()
    while True:
        file.flush()
        time.sleep(max(0.0, last + 0.01 - time.monotonic()))
        now, then = time.monotonic(), used_s()
        watts = 2.0 + 3.0 * (then - cpu) / (now - last)
        file.write(f"{1000 + 1.0003 * (last + now) / 2:.9f},{watts:.9f}\\n")
        last, cpu = now, then
"""
"""An instrument of another process, whose clock is fast and begins elsewhere: 2 W, and 3 W more per second of processor time."""


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the kernel does not count processor time in nanoseconds")
def test_a_file_that_an_instrument_writes_meanwhile_is_placed_by_markers(tmp_path):
    out, spent = tmp_path / "power.csv", []

    def run():
        began, cpu = time.monotonic(), time.thread_time()
        while time.monotonic() < began + 0.01:
            sum(range(200))
        spent.append(time.thread_time() - cpu)

    task = f"/proc/{os.getpid()}/task/{threading.get_native_id()}/schedstat"
    with subprocess.Popen([sys.executable, "-c", RECORDER, task, str(out)]) as recorder:
        try:
            while not out.exists() or out.stat().st_size < 100:
                time.sleep(0.01)
            found = measure_energy(run, meter=f"trace:{out}", latency_s=0.01, energy_s=4.0, baseline_s=1.0, windows=4)
        finally:
            recorder.kill()
    assert "why_absent" not in found, found
    assert found["alignment"]["method"] == "marker" and found["alignment"]["peak"] > 0.6
    assert found["mj_per_inference"] == pytest.approx(1e3 * 3.0 * np.mean(spent), rel=0.1)
    assert (found["meter"], found["origin"]) == ("trace", "measured")


def test_a_recording_that_stood_still_before_does_not_stretch_the_windows(tmp_path):
    moments = [*np.arange(0, 1, 0.01), *np.arange(3600, 3601, 0.01)]
    rows = [f"{at:.3f},{1 + place % 2}\n" for place, at in enumerate(moments)]
    (tmp_path / "power.csv").write_text("".join(["t_s,watts\n", *rows]))
    assert energy._pace(open_meter(f"trace:{tmp_path / 'power.csv'}")) == pytest.approx((100.0, 0.01), rel=0.02)
