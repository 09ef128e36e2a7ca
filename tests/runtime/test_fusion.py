"""Two sensors as one, against NumPy's linear interpolation."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewright.errors import ShapeError, SourceError, UsageError
from edgewright.runtime.frames import Array, Frame
from edgewright.runtime.fusion import Fusion

MS = 1_000_000
Sample = tuple[str, int, list[float]]


def fuse(fusion: Fusion, samples: list[Sample], *, flush: bool = False) -> list[Frame]:
    out = []
    for at, (name, time, values) in enumerate(samples):
        out += fusion.push(name, Frame(np.array(values, np.float32), at, 10**12 + at, time))
    return out + (fusion.flush() if flush else [])


def ramp(name: str, times: object, slope: float = 1.0) -> list[Sample]:
    """Values that are slope times seconds."""
    return [(name, int(time), [slope * int(time) / 1e9]) for time in times]  # type: ignore[attr-defined]


def by_time(*parts: list[Sample]) -> list[Sample]:
    return sorted((sample for part in parts for sample in part), key=lambda sample: sample[1])


def stacked(frames: list[Frame]) -> Array:
    return np.stack([frame.data for frame in frames])


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**31), st.floats(5.0, 300.0), st.sampled_from([1, 3, 10]), st.sampled_from([0, 10**18]))
def test_fusion_is_numpys_interpolation_whatever_the_arrival(seed, rate, faster, zero):
    rng = np.random.default_rng(seed)
    times = [
        np.cumsum(rng.integers(10 * MS, 30 * MS, 40)),
        np.cumsum(rng.integers(10 * MS // faster, 30 * MS // faster, 40 * faster)),
    ]
    values = [rng.normal(size=(len(times[0]), 2)).astype(np.float32), rng.normal(size=(len(times[1]), 3)).astype(np.float32)]
    samples = [
        ("ab"[which], zero + int(time), row.tolist())
        for which in (0, 1)
        for time, row in zip(times[which], values[which], strict=True)
    ]
    # Each source is in order; one may be up to 100 ms behind the other.
    delay = {"a": int(rng.integers(0, 100 * MS)), "b": int(rng.integers(0, 100 * MS))}
    samples.sort(key=lambda sample: sample[1] + delay[sample[0]])
    fusion = Fusion(["a", "b"], rate, 2.0)
    frames = fuse(fusion, samples)
    start, end = max(times[0][0], times[1][0]), min(times[0][-1], times[1][-1])
    grid = start + np.array([round(point * 1e9 / rate) for point in range(int((end - start) * rate / 1e9) + 2)])
    grid = grid[grid <= end]
    assert [frame.recorded_ns for frame in frames] == [zero + int(time) for time in grid]
    expected = [np.interp(grid, times[which], column) for which in (0, 1) for column in values[which].T]
    np.testing.assert_allclose(stacked(frames), np.stack(expected, axis=1), rtol=1e-5, atol=1e-6)
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert fusion.stats() == {"samples": len(samples), "frames": len(grid), "late": 0, "held": 0, "dropped": 0}


def test_a_frame_comes_as_soon_as_all_have_a_sample_at_or_after_its_time():
    fusion = Fusion(["a", "b"], 10, 1.0)
    assert not fuse(fusion, ramp("a", [0, 100 * MS, 200 * MS]))
    assert len(fuse(fusion, ramp("b", [0]))) == 1
    assert not fuse(fusion, ramp("b", [99 * MS]))
    (frame,) = fuse(fusion, ramp("b", [101 * MS], 1.0))
    assert frame.recorded_ns == 100 * MS
    np.testing.assert_allclose(frame.data, [0.1, 0.1], rtol=1e-6)


def silent_b(silent: str) -> tuple[Fusion, list[Frame]]:
    """`a` speaks for 10 s, `b` is silent from 2 to 7 s."""
    fusion = Fusion(["a", "b"], 10, 0.5, silent=silent)  # type: ignore[arg-type]
    b = [*range(0, 2001 * MS, 50 * MS), *range(7000 * MS, 10_001 * MS, 50 * MS)]
    return fusion, fuse(fusion, by_time(ramp("b", b, 2.0), ramp("a", range(0, 10_001 * MS, 100 * MS))))


def test_a_silent_source_holds():
    fusion, frames = silent_b("hold")
    seconds = np.arange(101) / 10
    np.testing.assert_allclose([frame.recorded_ns for frame in frames], seconds * 1e9)
    expected = np.where((seconds > 2) & (seconds < 7), 4.0, 2 * seconds)
    np.testing.assert_allclose(stacked(frames), np.stack([seconds, expected], axis=1), rtol=1e-6)
    assert (fusion.held, fusion.dropped) == (49, 0)


def test_a_silent_source_drops():
    fusion, frames = silent_b("drop")
    seconds = np.array([place / 10 for place in range(101) if not 20 < place < 70])
    np.testing.assert_allclose(stacked(frames), np.stack([seconds, 2 * seconds], axis=1), rtol=1e-6)
    assert (fusion.held, fusion.dropped) == (0, 49)


def test_one_of_three_that_is_silent_does_not_stop_the_others():
    fusion = Fusion(["a", "b", "c"], 10, 0.5)
    samples = by_time(ramp("a", range(0, 5001 * MS, 100 * MS)), ramp("b", range(0, 5001 * MS, 30 * MS)), ramp("c", [0, 100 * MS]))
    frames = fuse(fusion, samples)
    np.testing.assert_allclose(frames[-1].data, [4.9, 4.9, 0.1], rtol=1e-5)


@pytest.mark.parametrize("first", ["a", "b"])
def test_after_a_pause_of_all_nobody_is_silent(first):
    fusion = Fusion(["a", "b"], 10, 0.5, silent="drop")
    times = [*range(0, 1001 * MS, 100 * MS), *range(5000 * MS, 6001 * MS, 100 * MS)]
    frames = fuse(fusion, by_time(ramp(first, times), ramp("b" if first == "a" else "a", times)))
    assert [frame.recorded_ns for frame in frames] == times
    assert fusion.held == 0


def test_flush_gives_what_waits():
    fusion = Fusion(["a", "b"], 10, 5.0)
    frames = fuse(fusion, by_time(ramp("a", range(0, 1001 * MS, 100 * MS)), ramp("b", range(0, 801 * MS, 100 * MS))), flush=True)
    assert len(frames) == 11
    np.testing.assert_allclose(frames[-1].data, [1.0, 0.8], rtol=1e-6)


def test_nothing_comes_and_nothing_piles_up_before_all_have_begun():
    fusion = Fusion(["a", "b"], 100, 0.5)
    assert fusion.flush() == []
    for at in range(10_000):
        assert not fusion.push("a", Frame(np.zeros(1), at, at, at * 10 * MS))
    assert len(pickle.dumps(fusion)) < 20_000
    assert not fusion.flush()


def test_an_hour_of_two_sensors_takes_little_memory():
    fusion, slow, fast, frames = Fusion(["a", "b"], 20, 1.0), np.zeros(3, np.float32), np.ones(2, np.float32), 0
    for at in range(10 * 3600):
        frames += len(fusion.push("a", Frame(slow, at, at, at * 100 * MS)))
        for part in range(2):
            frames += len(fusion.push("b", Frame(fast, at, at, at * 100 * MS + part * 50 * MS)))
    assert frames == (10 * 3600 - 1) * 2 + 1
    assert len(pickle.dumps(fusion)) < 5_000


def test_clocks_of_different_zeros_are_aligned_by_the_first_sample():
    fusion = Fusion(["a", "b"], 10, 1.0, align="first")
    a = [("a", 7_000 * MS + place * 50 * MS, [float(place)]) for place in range(21)]
    b = [("b", 10**17 + place * 100 * MS, [float(10 * place)]) for place in range(11)]
    frames = fuse(fusion, [sample for pair in zip(a[::2], b, strict=True) for sample in pair])
    assert [frame.recorded_ns for frame in frames] == [place * 100 * MS for place in range(11)]
    np.testing.assert_allclose(stacked(frames), np.stack([np.arange(0, 21, 2), np.arange(0, 110, 10)], axis=1), rtol=1e-6)


def test_sources_with_and_without_clocks_are_not_compared():
    fusion = Fusion(["a", "b"], 10, 1.0)
    fusion.push("a", Frame(np.zeros(1), 0, 5, 0))
    with pytest.raises(SourceError, match="'b' has no time of its own"):
        fusion.push("b", Frame(np.zeros(1), 0, 5))
    captured = Fusion(["a", "b"], 10, 1.0)
    captured.push("a", Frame(np.zeros(1), 0, 500))
    assert [frame.recorded_ns for frame in captured.push("b", Frame(np.zeros(1), 0, 500))] == [500]


def test_a_clock_that_jumps_by_years_is_not_walked_through():
    fusion = Fusion(["a", "b"], 100, 0.5)
    year = 365 * 24 * 3600 * 1000 * MS
    later = [year + place * 10 * MS for place in range(5)]
    frames = fuse(fusion, by_time(ramp("a", [0, 10 * MS, *later]), ramp("b", [0, 10 * MS, *later])))
    assert [frame.recorded_ns for frame in frames] == [0, 10 * MS, *later]
    np.testing.assert_array_equal(*stacked(frames).T)
    assert fusion.dropped == year // (10 * MS) - 2


def test_late_samples_are_dropped_and_many_end_the_fusion():
    fusion = Fusion(["a", "b"], 10, 1.0)
    fuse(fusion, ramp("a", [0, 10**15, 5, 10**15]))
    assert fusion.late == 2
    with pytest.raises(SourceError, match=r"the last 64 samples of 'a', up to sample 61 .* clock was set back"):
        fuse(fusion, ramp("a", range(1, 100)))


def test_wrong_arguments_and_samples_are_refused():
    for sources in (["a"], ["a", "a"], "ab"):
        with pytest.raises(UsageError, match="two or more"):
            Fusion(sources, 10, 1.0)
    for rate, skew in ((0, 1), (float("nan"), 1), (10, -1), (True, 1)):
        with pytest.raises(UsageError, match="must be above 0"):
            Fusion(["a", "b"], rate, skew)
    with pytest.raises(UsageError, match="silent is 'keep'"):
        Fusion(["a", "b"], 10, 1, silent="keep")  # type: ignore[arg-type]
    fusion = Fusion(["a", "b"], 10, 1)
    with pytest.raises(UsageError, match=r"no source 'c'.*a, b"):
        fusion.push("c", Frame(np.zeros(1), 0, 0, 0))
    fusion.push("a", Frame(np.zeros(2), 0, 0, 0))
    with pytest.raises(ShapeError, match="sample 1 of 'a' has 3 channels, 2 are expected"):
        fusion.push("a", Frame(np.zeros(3), 1, 0, 1))
