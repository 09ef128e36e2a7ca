"""Traces of another clock: markers are found where they are, to within the stated error, or not at all."""

import json
import time
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgewright.benchmarks.alignment import CODE, Alignment, Marker, align_by_markers, align_by_wall, reading_edges, run_marker
from edgewright.benchmarks.power import PowerTrace
from edgewright.errors import MeterError

S = 1_000_000_000
BEGIN = 5_000 * S


@dataclass
class Clock:
    """Passes by 0.2 ms when it is looked at, and a little too long when it is waited for."""

    now: int = BEGIN

    def look(self):
        self.now += 200_000
        return self.now

    def sleep(self, seconds):
        self.now += round(seconds * 1e9) + 60_000


def markers(apart_s=16.0, chip_s=0.1):
    clock = Clock()
    first = run_marker(chip_s, now_ns=clock.look, sleep=clock.sleep)
    clock.now += round(apart_s * 1e9)
    return first, run_marker(chip_s, code=CODE[::-1], now_ns=clock.look, sleep=clock.sleep)


PAIR = markers()


def trace_of(pair, rng, *, hz=100.0, ppm=0.0, offset_ns=0, noise=0.0, kind="mean", memory=0.0):
    """What an instrument records: 2 W, 1 W more while busy, also in between the markers; in a clock of its own.

    Returns:
        the trace, and a function from our time to the trace's.
    """
    begin, end = pair[0].begin_ns - 3 * S, pair[-1].end_ns + 2 * S
    spans = [span for marker in pair for span in marker.busy]
    if len(pair) > 1:
        spans.insert(len(pair[0].busy), (pair[0].end_ns + 4 * S, pair[1].begin_ns - 4 * S))
    bounds = np.array(spans)
    spent = np.repeat(np.concatenate([[0], np.cumsum(bounds[:, 1] - bounds[:, 0])]), 2)[1:-1].astype(float)
    period = 1e9 / hz
    count = int((end - begin) / period)
    t = (np.arange(count) + rng.random() + rng.uniform(-0.05, 0.05, count)) * period  # since `begin`

    def worked(moments):
        return np.interp(moments, (bounds.ravel() - begin).astype(float), spent)

    if kind == "mean":
        watts = np.concatenate([[0.0], np.diff(worked(t)) / np.diff(t)])
    else:
        watts = (worked(t + 500) - worked(t - 500)) / 1000
    scatter = rng.normal(size=count)
    for index in range(1, count if memory else 0):
        scatter[index] = memory * scatter[index - 1] + np.sqrt(1 - memory**2) * scatter[index]
    rate = 1 + ppm * 1e-6
    t_ns = np.round(t * rate).astype(np.int64) + begin + offset_ns
    power = PowerTrace(t_ns, 2 + watts + noise * scatter, "supply", "measured", kind, "instrument", hz, clock="own")
    return power, lambda own: (own - begin) * rate + begin + offset_ns


@pytest.mark.parametrize("kind", ["mean", "sample"])
@pytest.mark.parametrize(
    ("hz", "noise", "memory"), [(30, 0.1, 0), (100, 0.5, 0), (100, 0.3, 0.8), (1000, 1.5, 0), (5000, 0.5, 0)]
)
def test_offsets_and_rates_are_found_within_the_stated_error(kind, hz, noise, memory):
    """95 % is stated, of moments between the markers; the sampling interval's part is taken at its worst, so more hold."""
    rng = np.random.default_rng(hz)
    outside, checked = 0, 0
    for _ in range(20):
        ppm, offset = rng.uniform(-500, 500), round(rng.uniform(-1e13, 1e13))
        power, true = trace_of(PAIR, rng, hz=hz, ppm=ppm, offset_ns=offset, noise=noise, kind=kind, memory=memory)
        found = align_by_markers(power, PAIR)
        assert found.method == "marker" and found.peak > 0.6 and found.runner_up < 0.4
        assert found.error_ns < 4e9 / hz + 5e5
        for own in (PAIR[0].end_ns, (PAIR[0].end_ns + PAIR[1].begin_ns) // 2, PAIR[1].begin_ns):
            place = found.at_ns + found.offset_ns + found.rate * (own - found.at_ns)
            outside += abs(place - true(own)) > found.error_ns
            checked += 1
        # The first reading's time is what the trace's clock showed, whatever the rate.
        outside += abs(found.rate - 1 - ppm * 1e-6) > found.rate_error
        checked += 1
    assert outside <= 0.05 * checked


@settings(max_examples=25, deadline=None)
@given(
    ppm=st.floats(-1900, 1900),
    offset=st.integers(-(10**15), 10**15),
    seed=st.integers(0, 2**32 - 1),
    apart=st.floats(2.0, 60.0),
    chip=st.sampled_from([0.05, 0.1, 0.3]),
    hz=st.sampled_from([100.0, 1000.0]),
)
@example(ppm=1900.0, offset=0, seed=0, apart=60.0, chip=0.1, hz=1000.0)
def test_any_offset_and_rate_is_found(ppm, offset, seed, apart, chip, hz):
    pair = markers(apart + 8.0, chip)
    power, true = trace_of(pair, np.random.default_rng(seed), hz=hz, ppm=ppm, offset_ns=offset, noise=0.05)
    found = align_by_markers(power, pair)
    for own in (pair[0].end_ns, pair[1].begin_ns):
        assert abs(found.at_ns + found.offset_ns + found.rate * (own - found.at_ns) - true(own)) <= 1.5 * found.error_ns


def test_places_are_finer_than_readings():
    rng = np.random.default_rng(8)
    errors = []
    for _ in range(30):
        power, true = trace_of(PAIR, rng, hz=1000.0, noise=0.1, offset_ns=round(rng.uniform(0, 1e12)))
        found = align_by_markers(power, PAIR)
        errors.append((found.at_ns + found.offset_ns - true(found.at_ns)) / 1e6)
    assert np.sqrt(np.mean(np.square(errors))) < 0.05


def test_the_moved_trace_is_in_our_clock_and_keeps_its_energy():
    rng = np.random.default_rng(1)
    power, _ = trace_of(PAIR, rng, ppm=800.0, offset_ns=77 * S)
    found = align_by_markers(power, PAIR)
    moved = found.apply(power)
    assert moved.clock == "monotonic" and power.clock == "own"
    begin, end = PAIR[0].end_ns + 5 * S, PAIR[1].begin_ns - 5 * S  # 3 W all along
    assert moved.energy_joules(begin, end) == pytest.approx(3.0 * (end - begin) / 1e9 * found.rate, rel=1e-4)
    whole = power.energy_joules(int(power.t_ns[0]), int(power.t_ns[-1]))
    assert moved.energy_joules(int(moved.t_ns[0]), int(moved.t_ns[-1])) == pytest.approx(whole, rel=1e-6)
    samples = replace(power, kind="sample")
    assert np.array_equal(found.apply(samples).watts, samples.watts)


def test_one_marker_gives_the_offset_and_an_error_that_grows():
    rng = np.random.default_rng(2)
    power, true = trace_of(PAIR[:1], rng, ppm=40.0, offset_ns=S)
    near = align_by_markers(power, PAIR[:1])
    far = align_by_markers(power, PAIR[:1], until_ns=PAIR[0].end_ns + 60 * S)
    assert near.rate == far.rate == 1.0
    assert far.error_ns - near.error_ns == pytest.approx(100e-6 * (60 * S + (PAIR[0].end_ns - PAIR[0].begin_ns) / 2), abs=2)
    assert abs(near.at_ns + near.offset_ns - true(near.at_ns)) <= near.error_ns


NOISES = {
    "white": lambda rng, n, hz: rng.normal(size=n),
    "wandering": lambda rng, n, hz: np.cumsum(rng.normal(size=n)),
    "square wave": lambda rng, n, hz: (
        np.sign(np.sin(2 * np.pi * np.arange(n) / hz / rng.uniform(0.15, 2))) + 0.1 * rng.normal(size=n)
    ),
    "another job's bursts": lambda rng, n, hz: np.repeat(rng.random(n // 10 + 1) > 0.5, 10)[:n] + 0.1 * rng.normal(size=n),
    "as long as a chip": lambda rng, n, hz: np.convolve(rng.normal(size=n + 9), np.ones(10), "valid"),
    "steady": lambda rng, n, hz: np.full(n, 2.5),
}


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("used", [PAIR, PAIR[:1]], ids=["two", "one"])
def test_what_is_no_marker_is_refused(noise, used):
    rng = np.random.default_rng(3)
    accepted = 0
    for _ in range(40):
        watts = NOISES[noise](rng, 6000, 100.0)
        power = PowerTrace(np.arange(6000) * (S // 100), watts, "supply", "measured", "sample", "instrument", 100.0, clock="own")
        try:
            align_by_markers(power, used)
            accepted += 1
        except MeterError as error:
            assert "the marker is not clear in the trace: the best correlation is" in error.message
            assert "is needed" in error.message and error.hint
    assert accepted == 0


def test_a_marker_in_noise_that_hides_it_is_refused_rather_than_guessed():
    rng = np.random.default_rng(4)
    power, _ = trace_of(PAIR, rng, noise=4.0)
    with pytest.raises(MeterError, match=r"the best correlation is 0\.\d\d, 0\.60 is needed"):
        align_by_markers(power, PAIR)


def test_the_same_marker_twice_in_a_trace_is_not_clear():
    rng = np.random.default_rng(5)
    same = PAIR[0], replace(PAIR[0], **_moved(PAIR[0], 20 * S))
    power, _ = trace_of(same, rng)
    with pytest.raises(MeterError, match=r"the next best is [01]\.\d\d"):
        align_by_markers(power, same[:1])


def _moved(marker, by_ns):
    busy = tuple((begin + by_ns, end + by_ns) for begin, end in marker.busy)
    return {"begin_ns": marker.begin_ns + by_ns, "end_ns": marker.end_ns + by_ns, "busy": busy}


def test_a_trace_that_is_too_slow_or_too_short_is_refused_with_the_numbers():
    rng = np.random.default_rng(6)
    slow, _ = trace_of(PAIR, rng, hz=10.0)
    with pytest.raises(MeterError) as caught:
        align_by_markers(slow, PAIR)
    assert "a reading every 100." in caught.value.message or "a reading every 99." in caught.value.message
    assert "the marker's shortest part is 100.0 ms long" in caught.value.message
    assert caught.value.hint.startswith("make the marker slower: parts of 0.3 s")
    power, _ = trace_of(PAIR, rng)
    with pytest.raises(MeterError, match=r"the trace is 15\.0 s long, the measurement with its markers took 22\.\d s"):
        align_by_markers(replace(power, t_ns=power.t_ns[:1501], watts=power.watts[:1501]), PAIR)


def test_readings_may_be_uneven_and_some_missing():
    rng = np.random.default_rng(7)
    power, true = trace_of(PAIR, rng, hz=200.0, kind="sample", noise=0.1, offset_ns=3 * S)
    kept = rng.random(len(power.t_ns)) > 0.2
    found = align_by_markers(replace(power, t_ns=power.t_ns[kept], watts=power.watts[kept]), PAIR)
    for own in (PAIR[0].end_ns, PAIR[1].begin_ns):
        assert abs(found.at_ns + found.offset_ns + found.rate * (own - found.at_ns) - true(own)) <= found.error_ns


@given(
    own=st.integers(0, 10**15),
    wall=st.integers(10**18, 2 * 10**18),
    there=st.integers(0, 10**15),
    apart=st.integers(-(10**9), 10**9),
)
def test_wall_clocks_relate_two_monotonic_ones(own, wall, there, apart):
    """A trace whose clock shows `there` when it is `wall + apart`: at `wall` it showed `apart` less."""
    found = align_by_wall((own, wall), (there, wall + apart), error_s=0.25)
    assert found.at_ns + found.offset_ns == there - apart and found.at_ns == own
    assert found.rate == 1.0 and found.error_ns == 250_000_000 and found.method == "wall clock"


def test_edges_of_readings():
    t_ns = np.array([0, 10, 30], np.int64)
    power = PowerTrace(t_ns, np.array([1.0, 2.0, 3.0]), "x", "measured", "mean", "test", 1.0)
    edges, watts = reading_edges(power)
    assert edges.tolist() == [0, 10, 30] and watts.tolist() == [2.0, 3.0]
    edges, watts = reading_edges(replace(power, kind="sample"))
    assert edges.tolist() == [-5, 5, 20, 40] and watts.tolist() == [1.0, 2.0, 3.0]


def test_the_code_is_a_maximal_length_sequence():
    """Balanced, and against every shift of itself one more chip differs than agrees."""
    chips = np.array([1 if chip == "1" else -1 for chip in CODE])
    assert len(chips) == 31 and chips.sum() == 1
    assert {int(chips @ np.roll(chips, shift)) for shift in range(1, 31)} == {-1}


def test_a_marker_keeps_the_processor_busy_as_it_says():
    began, cpu = time.monotonic_ns(), time.process_time_ns()
    marker = run_marker(0.01)
    spent = time.process_time_ns() - cpu
    assert began <= marker.begin_ns and marker.end_ns <= time.monotonic_ns() and marker.chip_ns == 10_000_000
    busy = sum(end - begin for begin, end in marker.busy)
    assert marker.end_ns - marker.begin_ns >= 33 * 10_000_000
    assert len(marker.busy) == len([run for run in CODE.split("0") if run])
    assert all(a < b for span in marker.busy for a, b in [span]) and spent > 0 and busy > 0
    assert all(one[1] < other[0] for one, other in zip(marker.busy, marker.busy[1:], strict=False))


def test_markers_survive_json():
    assert Marker.from_json(json.loads(json.dumps(PAIR[0].to_json()))) == PAIR[0]
    told = Alignment(5, 0, 1.0001, 2_000_000, 1e-5, 0.9, 0.2, "marker").to_json()
    assert told["error_ms"] == 2.0 and told["clock_ppm"] == pytest.approx(100) and told["clock_ppm_error"] == pytest.approx(10)
