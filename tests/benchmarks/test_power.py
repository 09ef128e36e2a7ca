import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewright.benchmarks.power import METERS, Clock, PowerTrace, find_meter, newer_than, open_meter
from edgewright.errors import EdgewrightError, MeterError, PluginError, UsageError, error_from_json


def trace(t_ns, watts, kind="sample", **more):
    t_ns = np.asarray(t_ns, np.int64)
    given = {"scope": "x", "origin": "measured", "meter": "test", "rate_hz": 1.0, **more}
    return PowerTrace(t_ns=t_ns, watts=np.asarray(watts, float), kind=kind, **given)


@st.composite
def traces(draw, kind):
    steps = draw(st.lists(st.integers(1, 3_000_000_000), min_size=1, max_size=40))
    start = draw(st.sampled_from([0, 12_345, 1_700_000_000_123_456_789]))
    watts = draw(st.lists(st.floats(-50, 500), min_size=len(steps) + 1, max_size=len(steps) + 1))
    return trace(start + np.concatenate([[0], np.cumsum(steps)]), watts, kind)


@given(traces("sample"))
def test_sample_traces_whole_energy_is_numpys_trapezoid(power):
    seconds = (power.t_ns - power.t_ns[0]) / 1e9
    expected = np.sum((power.watts[1:] + power.watts[:-1]) / 2 * np.diff(seconds))
    assert power.energy_joules(int(power.t_ns[0]), int(power.t_ns[-1])) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(traces("mean"))
def test_mean_traces_whole_energy_is_the_sum_of_power_times_time(power):
    expected = float(np.dot(power.watts[1:], np.diff(power.t_ns - power.t_ns[0]) / 1e9))
    assert power.energy_joules(int(power.t_ns[0]), int(power.t_ns[-1])) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(st.sampled_from(["sample", "mean"]).flatmap(traces), st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_energy_of_adjacent_spans_adds_up(power, parts):
    first, last = int(power.t_ns[0]), int(power.t_ns[-1])
    a, b, c = sorted(first + round(part * (last - first)) for part in parts)
    whole = power.energy_joules(a, c)
    assert power.energy_joules(a, b) + power.energy_joules(b, c) == pytest.approx(whole, rel=1e-7, abs=1e-6)


@given(st.sampled_from(["sample", "mean"]).flatmap(traces), st.floats(0, 1), st.floats(0, 1))
def test_energy_of_any_span_is_a_fine_riemann_sum(power, one, other):
    first, last = int(power.t_ns[0]), int(power.t_ns[-1])
    begin, end = sorted(first + round(part * (last - first)) for part in (one, other))
    cuts = np.unique(
        np.concatenate([np.linspace(begin - first, end - first, 20_001), power.t_ns - first]).clip(begin - first, end - first)
    )
    middles, widths = (cuts[1:] + cuts[:-1]) / 2, np.diff(cuts) / 1e9
    at = power.t_ns - first
    if power.kind == "sample":
        heights = np.interp(middles, at, power.watts)
    else:
        heights = power.watts[np.searchsorted(at, middles).clip(1, len(at) - 1)]
    assert power.energy_joules(begin, end) == pytest.approx(float(widths @ heights), rel=1e-6, abs=1e-5)


def test_by_hand():
    t = np.array([0, 1, 2, 4]) * 10**9
    sample, mean = trace(t, [1, 2, 3, 4]), trace(t, [np.nan, 2, 3, 4], "mean")
    assert sample.energy_joules(0, 4 * 10**9) == pytest.approx(1.5 + 2.5 + 7)
    assert mean.energy_joules(0, 4 * 10**9) == pytest.approx(2 + 3 + 8)
    assert sample.energy_joules(500_000_000, 1_500_000_000) == pytest.approx((1.5 + 2) / 4 + (2 + 2.5) / 4)
    assert mean.energy_joules(500_000_000, 1_500_000_000) == pytest.approx(1.0 + 1.5)
    assert mean.mean_watts(2 * 10**9, 3 * 10**9) == pytest.approx(4)
    assert sample.energy_joules(10**9, 10**9) == mean.energy_joules(10**9, 10**9) == 0


@pytest.mark.parametrize(("begin", "end"), [(-1, 5), (5, 4_000_000_001), (7, 6)])
def test_spans_that_are_not_covered(begin, end):
    for kind in ("sample", "mean"):
        with pytest.raises(MeterError, match=r"readings from 0.000 to 4.000 s|before it begins"):
            trace(np.array([0, 1, 2, 4]) * 10**9, [1, 2, 3, 4], kind).energy_joules(begin, end)


def test_a_mean_needs_a_span():
    with pytest.raises(MeterError, match="needs a span"):
        trace([0, 10], [1, 1]).mean_watts(5, 5)


def test_gaps_are_not_bridged():
    power = trace(np.array([0, 1, 2, 9, 10]) * 10**8, [1, 1, 1, 1, 1], gap_ns=2 * 10**8)
    assert power.energy_joules(0, 2 * 10**8) == pytest.approx(0.2)
    assert power.energy_joules(9 * 10**8, 10**9) == pytest.approx(0.1)
    assert power.longest_gap_ns(0, 2 * 10**8) == 10**8
    for span in ((10**8, 9 * 10**8), (3 * 10**8, 4 * 10**8), (8 * 10**8, 10**9)):
        assert power.longest_gap_ns(*span) == 7 * 10**8
        with pytest.raises(MeterError, match=r"no readings for 700.0 ms"):
            power.energy_joules(*span)


@pytest.mark.parametrize(
    ("t_ns", "watts", "words"),
    [
        ([0], [1.0], "1 reading, a trace needs 2"),
        ([0, 1], [1.0], "do not match"),
        ([0, 5, 5], [1.0, 1.0, 1.0], "reading 2 is at 5 ns"),
        ([0, 5, 4], [1.0, 1.0, 1.0], "reading 2 is at 4 ns"),
        ([0, 1, 2], [1.0, np.inf, np.nan], "2 of 3 powers"),
    ],
)
def test_a_trace_that_makes_no_sense_is_refused(t_ns, watts, words):
    with pytest.raises(MeterError, match=words):
        trace(t_ns, watts)


def test_times_of_another_type_are_refused():
    with pytest.raises(MeterError, match="float64"):
        PowerTrace(np.array([0.0, 1.0]), np.array([1.0, 1.0]), "x", "measured", "sample", "test", 1.0)


def test_this_machine_has_no_meter():
    with pytest.raises(MeterError) as caught:
        find_meter()
    assert caught.value.message.startswith("no power meter on this machine (looked for ")
    for words in (
        "rapl: no /sys/class/powercap/intel-rapl:*",
        "hwmon: no",
        "ina3221: no",
        "pmic: no vcgencmd",
        "android: no battery",
    ):
        assert words in caught.value.message
    assert "--meter" in caught.value.hint and "serial:" not in caught.value.message
    again = error_from_json(caught.value.to_json())
    assert type(again) is MeterError and again.message == caught.value.message
    with pytest.raises(MeterError, match="no power meter"):
        open_meter("auto")


def test_one_meter_by_name():
    with pytest.raises(PluginError, match="no meter 'wattmeter'") as caught:
        open_meter("wattmeter")
    assert "rapl" in caught.value.hint
    for several in ("rapl,hwmon", "rapl+hwmon"):
        with pytest.raises(UsageError, match="several"):
            open_meter(several)
    with pytest.raises(UsageError, match="-1 times"):
        open_meter("rapl", rate_hz=-1)


def test_all_meters_are_there():
    assert METERS.names() == ["android", "hwmon", "ina238", "ina3221", "pmic", "rapl", "serial", "trace"]
    assert {name for name in METERS.names() if METERS.get(name).external} == {"serial", "trace"}


def test_a_broken_plug_in_does_not_hide_the_others(tmp_path, monkeypatch):
    from edgewright.benchmarks.power import Meter

    class Broken(Meter):
        name = "broken"

        @classmethod
        def available(cls, root):
            raise OSError("out of order")

    monkeypatch.setattr(METERS, "_points", {"broken": None})
    monkeypatch.setitem(METERS._classes, "broken", Broken)
    with pytest.raises(EdgewrightError, match=r"rapl: .*broken: out of order"):
        find_meter(tmp_path)


def test_the_clock_waits_until_a_moment_or_until_told():
    clock, stop = Clock(), threading.Event()
    begin = clock.now_ns()
    clock.wait(begin + 5_000_000, stop)
    assert clock.now_ns() >= begin + 5_000_000
    stop.set()
    clock.wait(begin + 3_600_000_000_000, stop)
    clock.wait(begin, threading.Event())


def test_what_was_missed_before_a_process_began_is_not_its_own():
    """A recording at 1 kHz stands still for ten seconds between two models; the second one misses three readings."""
    first, second = np.arange(0, 1000), np.arange(11_000, 12_000)
    t_ns = np.delete(np.concatenate([first, second]), [1500, 1501, 1700]) * 1_000_000
    whole = trace(t_ns, np.ones(len(t_ns)), rate_hz=(len(t_ns) - 1) / 11.999, missed=10_003)
    new = newer_than(whole, 999_000_000)
    assert (len(new.t_ns), new.missed) == (997, 3) and new.rate_hz == pytest.approx(996 / 0.999)
    assert newer_than(whole, None) is whole
