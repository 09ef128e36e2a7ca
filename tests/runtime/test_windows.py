"""Windows of sensor samples, against NumPy's sliding windows and its linear interpolation."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

from edgewright.errors import ShapeError, SourceError, UsageError
from edgewright.runtime.frames import Array, Frame
from edgewright.runtime.windows import Window, Windower, Windowing

MS = 1_000_000


def frames_of(data: Array, times_ns: object = None) -> list[Frame]:
    """Samples with times of their own, 20 ms apart if none are given."""
    times = range(0, len(data) * 20 * MS, 20 * MS) if times_ns is None else times_ns
    return [Frame(row, at, 5_000 + at, int(time)) for at, (row, time) in enumerate(zip(data, times, strict=True))]  # type: ignore[call-overload]


def cut(windower: Windower, frames: list[Frame]) -> list[Window]:
    windows = [window for frame in frames for window in windower.push(frame)]
    return windows + windower.flush()


def stacked(windows: list[Window], like: Array) -> Array:
    return np.stack([window.data for window in windows]) if windows else like[:0]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 120), st.integers(1, 30), st.integers(1, 45), st.integers(1, 4), st.booleans())
def test_windows_of_a_regular_recording_are_the_sliding_windows(count, length, stride, channels, own_times):
    data = np.random.default_rng(count).normal(size=(count, channels)).astype(np.float32)
    frames = frames_of(data)
    if not own_times:
        frames = [Frame(frame.data, frame.index, frame.captured_ns) for frame in frames]
    windower = Windower(Windowing(length, stride))
    windows = cut(windower, frames)
    expected = (
        sliding_window_view(data, length, axis=0)[::stride].transpose(0, 2, 1)
        if count >= length
        else np.empty((0, length, channels), np.float32)
    )
    assert len(windows) == len(expected) == windower.windows
    for place, (window, wanted) in enumerate(zip(windows, expected, strict=True)):
        np.testing.assert_array_equal(window.data, wanted)
        assert window.data.dtype == np.float32
        assert window.data.flags.c_contiguous
        last = place * stride + length - 1
        assert (window.index, window.captured_ns) == (last, 5_000 + last)
        assert window.recorded_ns == (last * 20 * MS if own_times else None)
        assert window.start_ns == (place * stride * 20 * MS if own_times else 5_000 + place * stride)
    assert windower.stats() == {"samples": count, "windows": len(expected), "late": 0, "gaps": 0, "invalid": 0, "filled": 0}


def test_windows_and_samples_are_copied():
    data, reused = np.arange(40, dtype=np.float32).reshape(20, 2), np.empty(2, np.float32)
    windower, windows = Windower(Windowing(4, 1)), []
    for at, row in enumerate(data):
        reused[:] = row
        windows += windower.push(Frame(reused, at, at))
    np.testing.assert_array_equal(stacked(windows, data), sliding_window_view(data, 4, axis=0).transpose(0, 2, 1))


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 80), st.floats(3.0, 400.0), st.integers(0, 2**31), st.sampled_from([0, 10**18]))
def test_the_grid_is_numpys_interpolation_at_jittered_times(count, rate, seed, zero):
    rng = np.random.default_rng(seed)
    data = rng.normal(size=(count, 3)).astype(np.float32)
    times = np.cumsum(rng.integers(5 * MS, 35 * MS, count))
    windows = cut(Windower(Windowing(1, 1, rate_hz=rate, max_gap_s=1.0)), frames_of(data, [zero + int(time) for time in times]))
    grid = times[0] + np.array([round(point * 1e9 / rate) for point in range(int((times[-1] - times[0]) * rate / 1e9) + 2)])
    grid = grid[grid <= times[-1]]
    assert [window.recorded_ns for window in windows] == [zero + int(time) for time in grid]
    expected = np.stack([np.interp(grid, times, column) for column in data.T], axis=1)
    np.testing.assert_allclose(stacked(windows, data)[:, 0], expected, rtol=1e-5, atol=1e-6)


def test_samples_on_the_grid_pass_exactly():
    data = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32) * 1e3
    windows = cut(Windower(Windowing(10, 5, rate_hz=50)), frames_of(data))
    np.testing.assert_array_equal(stacked(windows, data), sliding_window_view(data, 10, axis=0)[::5].transpose(0, 2, 1))


def test_a_grid_does_not_drift():
    windower = Windower(Windowing(1, 1, rate_hz=30, max_gap_s=10))
    windows = cut(windower, frames_of(np.zeros((601, 1)), range(0, 601 * 1000 * MS, 1000 * MS)))
    assert len(windows) == 600 * 30 + 1
    assert windows[-1].recorded_ns == 600 * 1000 * MS


# --- gaps -------------------------------------------------------------------------------------------------------------


def with_gap(first: int, missing: int, second: int) -> list[Frame]:
    """Values that are the sample's place; some places are missing."""
    places = [*range(first), *range(first + missing, first + missing + second)]
    return frames_of(np.array(places, np.float32)[:, np.newaxis], [place * 20 * MS for place in places])


@pytest.mark.parametrize("rate", [None, 50.0])
def test_no_window_spans_a_gap_that_is_split(rate):
    windower = Windower(Windowing(8, 3, rate_hz=rate))
    windows = cut(windower, with_gap(20, 5, 20))
    starts = [float(window.data[0, 0]) for window in windows]
    assert starts == [0, 3, 6, 9, 12, 25, 28, 31, 34, 37]
    for window in windows:
        np.testing.assert_array_equal(np.diff(window.data[:, 0]), 1)
    assert (windower.gaps, windower.filled) == (1, 0)


@pytest.mark.parametrize("rate", [None, 50.0])
@pytest.mark.parametrize("gap", ["hold", "interpolate"])
def test_a_gap_is_filled(rate, gap):
    windower = Windower(Windowing(10, 1, rate_hz=rate, gap=gap))
    windows = cut(windower, with_gap(20, 5, 20))
    expected = np.arange(45, dtype=np.float32)
    if gap == "hold":
        expected[20:25] = 19
    np.testing.assert_allclose(stacked(windows, expected)[:, :, 0], sliding_window_view(expected, 10), rtol=1e-6)
    assert [window.recorded_ns for window in windows] == [place * 20 * MS for place in range(9, 45)]
    assert (windower.gaps, windower.filled) == (1, 5)


@pytest.mark.parametrize("rate", [None, 50.0])
def test_a_gap_of_more_than_a_window_is_never_filled(rate):
    windower = Windower(Windowing(10, 1, rate_hz=rate, gap="hold"))
    windows = cut(windower, with_gap(20, 50 * 3600 * 24 * 365, 20))
    assert (len(windows), windower.gaps, windower.filled) == (22, 1, 0)


def test_three_periods_are_no_gap_and_a_declared_limit_counts():
    assert (windower := Windower(Windowing(8, 1))).stats() and cut(windower, with_gap(20, 2, 20))
    assert windower.gaps == 0
    cut(windower := Windower(Windowing(8, 1, max_gap_s=0.05)), with_gap(20, 2, 20))
    assert windower.gaps == 1


def test_a_slow_sensor_on_a_fast_grid_has_no_gaps():
    data = np.arange(30, dtype=np.float32)[:, np.newaxis]
    windower = Windower(Windowing(50, 50, rate_hz=100))
    windows = cut(windower, frames_of(data, range(0, 30 * 100 * MS, 100 * MS)))
    assert (windower.gaps, len(windows)) == (0, 5)
    np.testing.assert_allclose(windows[1].data[:, 0], np.arange(50, 100) / 10, rtol=1e-6)


def test_a_gap_fails_if_that_is_declared():
    windower = Windower(Windowing(8, 1, gap="fail"))
    with pytest.raises(SourceError, match=r"before sample 20 there is a gap of 0\.120000 s.* 0\.060000 s"):
        cut(windower, with_gap(20, 5, 20))


# --- order ------------------------------------------------------------------------------------------------------------


def test_late_samples_are_dropped_and_counted():
    times = [place * 20 * MS for place in (0, 1, 2, 1, 3, 3, 4, 2, 5)]
    data = np.arange(9, dtype=np.float32)[:, np.newaxis]
    windower = Windower(Windowing(6, 1))
    windows = cut(windower, frames_of(data, times))
    assert windows[0].data[:, 0].tolist() == [0, 1, 2, 4, 6, 8]
    assert (windower.late, windower.samples) == (3, 9)
    with pytest.raises(SourceError, match=r"sample 3 of time 0\.020000 s came after one of 0\.040000 s"):
        cut(Windower(Windowing(6, 1, late="fail")), frames_of(data, times))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(20, 90), st.sampled_from([None, 50.0]))
def test_samples_are_put_in_order(seed, count, rate):
    data = np.random.default_rng(seed).normal(size=(count, 2)).astype(np.float32)
    frames = frames_of(data)
    # Nobody overtakes more than 4 others: 4 periods of 20 ms.
    order = np.argsort(np.arange(count) + np.random.default_rng(seed).uniform(0, 4, count), kind="stable")
    windower = Windower(Windowing(7, 2, rate_hz=rate, reorder_s=0.1))
    windows = cut(windower, [frames[place] for place in order])
    np.testing.assert_array_equal(stacked(windows, data), sliding_window_view(data, 7, axis=0)[::2].transpose(0, 2, 1))
    assert (windower.late, windower.gaps) == (0, 0)


def test_a_clock_that_stands_still_fills_no_memory():
    windower = Windower(Windowing(4, 1, reorder_s=10))
    for at in range(5_000):
        windower.push(Frame(np.zeros(1), at, at, 7))
    assert windower.late == 4_999
    windower.flush()
    assert windower.stats()["windows"] == 0


@pytest.mark.parametrize("reorder", [0.0, 0.1])
def test_a_clock_that_is_set_back_starts_anew(reorder):
    data = np.arange(200, dtype=np.float32)[:, np.newaxis]
    times = [(10_000 + place) * 20 * MS for place in range(100)] + [place * 20 * MS for place in range(100)]
    windower = Windower(Windowing(10, 10, reorder_s=reorder))
    windows = cut(windower, frames_of(data, times))
    assert (windower.late, windower.gaps) == (16, 1)
    assert [float(window.data[0, 0]) for window in windows] == [*range(0, 100, 10), *range(116, 196, 10)]


def test_samples_without_times_of_their_own_are_never_late():
    windower = Windower(Windowing(5, 5))
    windows = cut(windower, [Frame(np.array([at]), at, 77) for at in range(10)])
    assert (len(windows), windower.late, windower.gaps) == (2, 0, 0)


def test_flush_starts_anew():
    windower = Windower(Windowing(4, 4))
    frames = frames_of(np.zeros((3, 1)))
    assert not cut(windower, frames)
    assert not cut(windower, frames)
    assert (windower.late, windower.gaps) == (0, 0)


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite(bad):
    data = np.arange(20, dtype=np.float64).reshape(10, 2)
    data[0, 0] = data[4, 1] = data[5, 1] = bad
    found = {}
    for nan in ("drop", "hold", "pass"):
        windower = Windower(Windowing(1, 1, nan=nan))
        found[nan] = stacked(cut(windower, frames_of(data)), data)[:, 0]
        assert windower.invalid == 3
    np.testing.assert_array_equal(found["drop"], data[[1, 2, 3, 6, 7, 8, 9]])
    held = data.copy()
    held[4:6, 1] = data[3, 1]
    np.testing.assert_array_equal(found["hold"], held[1:])
    passed = np.where(np.abs(data) > 1e38, np.inf, data)
    np.testing.assert_array_equal(found["pass"], passed)


def test_a_channel_that_never_was_finite_is_not_held():
    data = np.full((6, 2), np.nan)
    data[:, 0] = range(6)
    data[4:, 1] = 9
    windows = cut(windower := Windower(Windowing(1, 1, nan="hold")), frames_of(data))
    assert [window.data.tolist() for window in windows] == [[[4, 9]], [[5, 9]]]
    assert windower.invalid == 4


def test_a_dropped_sample_is_interpolated_on_a_grid():
    data = np.arange(20, dtype=np.float32)[:, np.newaxis].copy()
    data[7] = np.nan
    windows = cut(Windower(Windowing(20, 20, rate_hz=50)), frames_of(data))
    np.testing.assert_allclose(windows[0].data[:, 0], np.arange(20), rtol=1e-6)


@pytest.mark.parametrize("data", [np.zeros((4, 4, 3), np.uint8), np.zeros(0), np.float32(1), np.array(["a"])])
def test_what_is_no_row_of_numbers_is_refused(data):
    with pytest.raises(ShapeError, match=r"expected are numbers of shape \(channels,\)"):
        Windower(Windowing(2, 1)).push(Frame(data, 0, 0))


def test_another_number_of_channels_is_refused_with_both_and_changes_nothing():
    windower = Windower(Windowing(2, 1), channels=6)
    with pytest.raises(ShapeError, match="sample 0 has 5 channels, 6 are expected"):
        windower.push(Frame(np.zeros(5), 0, 0, 0))
    windower = Windower(Windowing(2, 1))
    windower.push(Frame(np.zeros(3), 0, 0, 0))
    with pytest.raises(ShapeError, match="sample 1 has 2 channels, 3 are expected"):
        windower.push(Frame(np.zeros(2), 1, 0, 1))
    assert windower.samples == 1
    assert len(windower.push(Frame(np.zeros(3), 2, 0, 2))) == 1


def test_some_samples_with_times_and_some_without_are_refused():
    windower = Windower(Windowing(2, 1))
    windower.push(Frame(np.zeros(1), 0, 0, 0))
    with pytest.raises(SourceError, match="sample 1 has no time of its own"):
        windower.push(Frame(np.zeros(1), 1, 1))


def test_an_hour_of_samples_takes_the_memory_of_two_windows():
    windower, row, sizes = Windower(Windowing(100, 50, rate_hz=50, reorder_s=0.05)), np.zeros(6, np.float32), []
    for at in range(50 * 3600):
        windower.push(Frame(row, at, at, at * 20 * MS))
        if at in {500, 50 * 3600 - 1}:
            sizes.append(len(pickle.dumps(windower)))
    assert windower.windows == (50 * 3600 - 3 - 100) // 50 + 1
    assert max(sizes) < 12_000
    assert abs(sizes[1] - sizes[0]) < 1_000


# --- the declaration --------------------------------------------------------------------------------------------------


def test_a_declaration_is_read_from_text_and_json():
    windowing = Windowing.parse("length=100,stride=50,rate=50,gap=split,late=drop")
    assert windowing == Windowing(100, 50, rate_hz=50.0)
    assert Windowing.parse("length=9") == Windowing(9, 9)
    full = Windowing.parse("length=9, stride=3, rate=12.5, max_gap=0.5, gap=hold, late=fail, reorder=0.2, nan=pass")
    assert full == Windowing(9, 3, 12.5, 0.5, "hold", "fail", 0.2, "pass")
    for one in (windowing, full):
        assert Windowing.from_json(one.to_json()) == one


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not say how long"),
        ("stride=5", "does not say how long"),
        ("length=100,width=3", "no setting 'width=3'.*known: length, stride, rate"),
        ("length=1,length=2", "sets length twice"),
        ("length=ten", "'ten', it must be a whole number"),
        ("length=1.5", "must be a whole number"),
        ("length=0", "length is 0"),
        ("length=5,stride=0", "stride is 0"),
        ("length=5,rate=0", "rate_hz is 0"),
        ("length=5,rate=nan", "rate_hz is nan"),
        ("length=5,reorder=-1", "reorder_s is -1"),
        ("length=5,gap=jump", "gap is 'jump'.*split, hold, interpolate, fail"),
        ("length=5,late=keep", "late is 'keep'"),
        ("length=5,nan=zero", "nan is 'zero'"),
    ],
)
def test_a_wrong_declaration_is_refused(text, message):
    with pytest.raises(UsageError, match=message):
        Windowing.parse(text)


@pytest.mark.parametrize("data", [{"length": 5}, {"length": 5, "stride": 1, "hop": 2}, {"length": "5", "stride": 1}])
def test_wrong_json_is_refused(data):
    with pytest.raises(UsageError, match="window"):
        Windowing.from_json(data)
