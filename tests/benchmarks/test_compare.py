"""Comparisons: intervals against SciPy's and against enumeration, verdicts, what makes reports incomparable, measuring again."""

import itertools
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from benchmarks.compare_example import around, measured_twice, metric, report
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from edgewright.artifact import file_sha256
from edgewright.benchmarks import gate
from edgewright.benchmarks.bench import BenchTarget, bench_many
from edgewright.benchmarks.bench_settings import BenchSettings
from edgewright.benchmarks.comparable import REASONS
from edgewright.benchmarks.compare import FIGURES, compare, read_report
from edgewright.benchmarks.gate import (
    DEFAULT_LIMIT,
    GATE_PROCESSES,
    MOST_AGAIN,
    Difference,
    Limit,
    difference,
    difference_of_intervals,
    enough_processes,
    exact_difference,
    gate_level,
    judge,
    more_processes,
    parse_limit,
    t_quantile_of,
)
from edgewright.benchmarks.rerun import rerun
from edgewright.errors import UsageError
from edgewright.testing_models import plus_one_tflite

P50 = {"p50": Limit("p50", 0.05)}


def change_of(found, figure, threads=1):
    return next(one for one in found.changes if one.figure == figure and one.threads == threads)


# ---- intervals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("freedom", [1, 1.5, 2, 3.7, 9, 30, 100.5, 5000])
@pytest.mark.parametrize("chance", [0.9, 0.975, 0.9875, 0.9995])
def test_t_quantile(freedom, chance):
    assert t_quantile_of(chance, freedom) == pytest.approx(stats.t.ppf(chance, freedom), rel=1e-8)


@settings(max_examples=40, deadline=None)
@given(m=st.integers(5, 12), n=st.integers(5, 12), seed=st.integers(0, 10**6), level=st.sampled_from([0.8, 0.95, 0.98]))
def test_interval_holds_what_the_exact_test_does_not_reject(m, n, seed, level):
    rng = np.random.default_rng(seed)
    a, b = rng.lognormal(0, 0.05, m), rng.lognormal(0.03, 0.08, n)
    found = difference(a, b, level)
    x, y = np.log(a), np.log(b)
    assert math.log1p(found.change) == pytest.approx(np.median([v - u for u in x for v in y]))

    def rejected(shift):
        return stats.mannwhitneyu(y - shift, x, method="exact").pvalue <= 1 - level

    low, high = math.log1p(found.low), math.log1p(found.high)
    assert rejected(low - 1e-9) and not rejected(low + 1e-9)
    assert rejected(high + 1e-9) and not rejected(high - 1e-9)


@pytest.mark.parametrize("sizes", [(2, 3), (4, 3), (5, 6)])
@pytest.mark.parametrize("tail", [0.01, 0.025, 0.1, 0.3])
def test_rank_against_enumeration(sizes, tail):
    """Every way in which the ranks can fall to the two sides is equally likely."""
    m, n = sizes
    counts = Counter()
    for mine in itertools.combinations(range(m + n), m):
        others = [place for place in range(m + n) if place not in mine]
        counts[sum(one > other for one in mine for other in others)] += 1
    everything = sum(counts.values())
    expected, sum_so_far = 0, 0
    for value in range(m * n + 1):
        sum_so_far += counts[value]
        if sum_so_far / everything > tail:
            break
        expected += 1
    assert gate._rank(m, n, tail) == expected


def test_many_processes_use_the_normal_distribution():
    """Just above the border the rank is that of the exact distribution, within one."""
    exact = int(np.searchsorted(np.cumsum(gate._mann_whitney(51, 50)), 0.025, side="right"))
    assert abs(gate._rank(51, 50, 0.025) - exact) <= 1


def test_few_processes_use_welch():
    rng = np.random.default_rng(1)
    a, b = rng.lognormal(0, 0.02, 3), rng.lognormal(0.1, 0.05, 4)
    found = difference(a, b)
    expected = stats.ttest_ind(np.log(b), np.log(a), equal_var=False).confidence_interval(0.95)
    assert (math.log1p(found.low), math.log1p(found.high)) == pytest.approx(tuple(expected), rel=1e-7)
    assert "Welch" in found.method


def test_one_process_has_no_interval_and_says_so():
    found = difference([1.0], [1.1, 1.2, 1.3])
    assert (found.low, found.high) == (None, None)
    assert found.method == "1 and 3 processes: an interval needs at least 2 of each"


def test_equal_processes():
    assert difference([2.0] * 3, [2.0] * 3).low == 0
    assert difference([2.0] * 8, [3.0] * 8).change == pytest.approx(0.5)


def test_coverage_of_the_combined_intervals():
    """Two t intervals of 8 values each: the combined one covers the true ratio about as often as it says."""
    rng = np.random.default_rng(0)

    def estimate(mean):
        values = rng.normal(mean, 0.05 * mean, 8)
        half = stats.t.ppf(0.975, 7) * stats.sem(values)
        return values.mean(), values.mean() - half, values.mean() + half

    inside = 0
    for _ in range(2000):
        found = difference_of_intervals(estimate(3.0), estimate(3.6))
        inside += found.low <= 0.2 <= found.high
    assert 0.94 <= inside / 2000 <= 0.99  # a little wide: the t quantiles of both sides add up


# ---- verdicts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "low", "high", "limit", "expected"),
    [
        (0.10, 0.06, 0.14, 0.05, "regressed"),
        (0.10, 0.01, 0.20, 0.05, "regressed"),  # more than the limit, and no chance
        (0.10, -0.01, 0.21, 0.05, "undecided"),
        (0.04, 0.03, 0.06, 0.05, "undecided"),
        (0.04, 0.03, 0.05, 0.05, "kept"),
        (0.00, -0.02, 0.02, 0.05, "kept"),
        (-0.30, -0.35, -0.20, 0.05, "kept"),
        (0.00, -0.06, 0.07, 0.05, "undecided"),
        (0.10, None, None, 0.05, "undecided"),
        (0.001, 0.001, 0.001, 0.0, "regressed"),
        (0.0, 0.0, 0.0, 0.0, "kept"),
    ],
)
def test_judge(change, low, high, limit, expected):
    assert judge(Difference(change, low, high), limit) == expected


def test_size_of_a_file_is_exact():
    assert judge(exact_difference(100, 105), 0.05) == "kept"
    assert judge(exact_difference(100, 106), 0.05) == "regressed"


def disturbed(rng, count, disturbances):
    """Processes that differ by 2 %, and some of which had a neighbour."""
    values = rng.lognormal(0, 0.02, count)
    return values * np.where(rng.random(count) < disturbances, rng.uniform(1.1, 2.5, count), 1.0)


@pytest.mark.parametrize("disturbances", [0.0, 0.1])
def test_false_alarms_and_caught_slowdowns_by_simulation(disturbances):
    """The promise of the default gate, where processes differ as they do: 5 in 100, 95 in 100."""
    rng = np.random.default_rng(7)
    alarms = caught = 0
    for _ in range(400):
        a, b = (disturbed(rng, GATE_PROCESSES, disturbances) for _ in range(2))
        alarms += judge(difference(a, b), DEFAULT_LIMIT) == "regressed"
        caught += judge(difference(a, 1.1 * b), DEFAULT_LIMIT) == "regressed"
    assert alarms <= 0.05 * 400
    assert caught >= 0.95 * 400


@pytest.mark.parametrize(("spread", "least", "most"), [(0.01, 15, 15), (0.06, 15, 30), (0.1, 25, 60), (0.5, 60, 60)])
def test_processes_that_measuring_again_takes_by_simulation(spread, least, most):
    """Reports of 15 processes tell how many are enough to find a true slowdown of twice the limit."""
    rng = np.random.default_rng(11)
    counts, caught = [], 0
    for _ in range(200):
        a, b = rng.lognormal(0, spread, (2, GATE_PROCESSES))
        counts.append(enough_processes(difference(a, b), DEFAULT_LIMIT, GATE_PROCESSES))
        again = rng.lognormal(0, spread, (2, counts[-1]))
        caught += judge(difference(again[0], 1.1 * again[1]), DEFAULT_LIMIT) == "regressed"
    assert least <= np.median(counts) <= most and all(GATE_PROCESSES <= count <= MOST_AGAIN for count in counts)
    assert caught >= 0.95 * 200 or most == least == MOST_AGAIN, "more than 60 would be needed, which nobody waits for"


def test_processes_of_an_interval_that_says_nothing():
    assert enough_processes(Difference(0.1), 0.05, 1) == GATE_PROCESSES
    assert enough_processes(Difference(0.1, -0.9, math.inf), 0.05, 2) == MOST_AGAIN
    assert enough_processes(Difference(0.1, 0.05, 0.15), 0.0, 15) == MOST_AGAIN
    assert enough_processes(Difference(0.1, 0.1, 0.1), 0.0, 15) == GATE_PROCESSES


@pytest.mark.parametrize("figures", [1, 2, 3, 4, 10])
def test_all_limits_together_keep_to_five_in_hundred(figures):
    assert figures * (1 - gate_level(figures)) / 2 <= 0.05 + 1e-12
    assert gate_level(figures) >= 0.95


@settings(deadline=None)
@given(
    change=st.floats(-0.1, 0.3),
    half=st.floats(0.001, 0.5),
    processes=st.integers(5, 60),
    limit=st.floats(0.01, 0.2),
)
def test_as_many_more_processes_as_told_decide(change, half, processes, limit):
    middle = math.log1p(change)

    def shrunk(by):
        return Difference(change, math.expm1(middle - half / by), math.expm1(middle + half / by))

    found = shrunk(1)
    if judge(found, limit) != "undecided":
        return
    more = more_processes(found, limit, processes)
    if more is None:
        assert judge(shrunk(math.sqrt(1000 / processes)), limit) == "undecided"
        return
    assert judge(shrunk(math.sqrt((processes + more) / processes) * (1 + 1e-9)), limit) != "undecided"
    if more > 1:
        assert judge(shrunk(math.sqrt((processes + more - 1) / processes) * (1 - 1e-9)), limit) == "undecided"


def test_more_processes_of_one():
    assert more_processes(Difference(0.1), 0.05, 1) == GATE_PROCESSES - 1


@pytest.mark.parametrize(("text", "expected"), [("p90=5%", 0.05), ("p90", 0.05), ("p90 = 2.5 %", 0.025), ("size=0%", 0.0)])
def test_limits(text, expected):
    assert parse_limit(text).share == pytest.approx(expected)


def test_limit_by_the_name_that_reports_print():
    assert parse_limit("p99.9=5%").figure in FIGURES
    assert parse_limit("p99.9=5%").figure == "p999"


@pytest.mark.parametrize("text", ["", "=5%", "p90=", "p90=5", "p90=x%", "p90=-1%", "p90=nan%", "p90=5%%"])
def test_limits_that_are_none(text):
    with pytest.raises(UsageError):
        parse_limit(text)


# ---- reports ------------------------------------------------------------------------------------------------------------


def test_figures_of_both_reports():
    a, b = around(2.0, seed=1), around(2.2, seed=2)
    found = compare(report(a), report(b, size=1100.0), P50)
    p50 = change_of(found, "p50")
    assert (p50.a, p50.b) == pytest.approx((np.median(a), np.median(b)))
    assert p50.found == difference(a, b) and p50.verdict == found.verdict == "regressed"
    assert (p50.processes, p50.unit, p50.limit) == ((10, 10), "ms", 0.05)
    assert change_of(found, "size", 0).found.change == pytest.approx(0.1)
    assert [one.figure for one in found.changes] == "p50 p90 mean first load memory energy size deflated".split()
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert data["changes"][0]["low"] == p50.found.low and data["changes"][0]["verdict"] == "regressed"


def test_a_change_of_the_wrong_sign_is_no_regression():
    assert compare(report(around(2.2)), report(around(2.0, seed=5)), P50).verdict == "kept"


def test_thread_counts_that_both_have():
    first = report([around(2.0), around(1.2, seed=1)], threads=(1, 2))
    found = compare(first, report([around(1.5, seed=2), around(0.9, seed=3)], threads=(2, 4)), P50)
    assert [one.threads for one in found.changes if one.figure == "p50"] == [2]
    assert change_of(found, "p50", 2).found.change == pytest.approx(0.25, abs=0.02)
    single = compare(first, report(around(1.2, seed=9), threads=(2,)))
    assert change_of(single, "p50", 2).verdict is None and abs(change_of(single, "p50", 2).found.change) < 0.02
    with pytest.raises(UsageError, match="no thread count is in both reports: 1, 2 and 4"):
        compare(first, report(around(1.0), threads=(4,)))


def test_more_limits_widen_the_intervals():
    a, b = report(around(2.0, seed=1)), report(around(2.0, seed=2))
    limits = {name: Limit(name, 0.05) for name in ("p50", "p90", "mean", "load")}
    wide, plain = change_of(compare(a, b, limits), "p50"), change_of(compare(a, b), "p50")
    assert wide.found == difference(around(2.0, seed=1), around(2.0, seed=2), gate_level(4))
    assert wide.found.low < plain.found.low and wide.found.method.startswith("97.5 %")


def test_reports_without_the_processes_own_p90():
    """Reports of older releases: the interval is that of the two metrics, and the method says so."""
    old = ("latency_p50", "latency_mean", "load", "first_inference")
    found = compare(report(around(2.0), keep=old), report(around(2.2, seed=1), keep=old))
    assert change_of(found, "p90").found.method == "95 % from both reports' own intervals (MOVER)"
    assert "no value of each process" in change_of(found, "memory").found.method
    assert change_of(found, "memory").found.low is None
    bare = report(around(2.0), keep=old)
    bare["metrics"] = [metric("latency_p90", 2.0), *(one for one in bare["metrics"] if one["name"] != "latency_p90")]
    p90 = change_of(compare(bare, bare, {"p90": Limit("p90", 0.05)}), "p90")
    assert p90.found.method == "a report has no interval of this figure" and p90.verdict == "undecided"


def test_energy_of_one_process_has_the_meters_interval():
    found = compare(report([2.0]), report([3.0]))
    assert change_of(found, "energy").found.low == pytest.approx(0.5 - 0.2, abs=0.03)
    assert change_of(found, "mean").found.low is None


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("machine", {"settings__fingerprint": "e" * 16}, ("fingerprint ffffffff", "fingerprint eeeeeeee")),
        ("device", {"settings__device": "jetson"}, ("the device is pi5", "jetson in the second")),
        ("engine", {"model__engine": "openvino"}, ("litert", "openvino")),
        ("library", {"model__library": "ai-edge-litert 2.4.0"}, ("2.3.0", "2.4.0")),
        ("precision", {"model__execution__precision": "float32"}, ("int8 int8", "float32 int8")),
        ("precision", {"settings__exact": True}, ("int8 int8 in", "(exact)")),
        ("processor", {"model__execution__device": "GPU"}, ("CPU", "GPU")),
        ("inputs", {"model__inputs": [{"name": "x", "shape": [-1, 4], "fed": [8, 4]}]}, ("1x4", "8x4")),
        ("governor", {"details__conditions": [{"before": {"governor": {"policy0": "powersave"}}}]}, ("performance", "powersave")),
        (
            "throttled",
            {"details__conditions": [{"throttled": True, "why": "soft temperature limit"}]},
            ("soft temperature limit",),
        ),
    ],
)
def test_what_differs_beside_the_model(name, changes, words):
    a, b = report(around(2.0)), report(around(2.0, seed=1), **changes)
    found = compare(a, b)
    assert list(found.differing) == [name] and all(word in found.differing[name] for word in words)
    assert found.differing[name] in found.warnings
    with pytest.raises(UsageError, match="differ in more than the model") as error:
        compare(a, b, P50)
    assert all(word in error.value.message for word in words) and f"--allow {name}" in error.value.hint
    assert compare(a, b, P50, allow=[name]).verdict == "kept"
    assert compare(a, b, P50, allow=["all"]).verdict == "kept"
    assert name in REASONS


def test_what_is_not_known_does_not_differ():
    a = report(around(2.0))
    del a["settings"]["device"], a["details"]["conditions"]
    assert not compare(a, report(around(2.0, seed=1))).differing


def test_warnings():
    a = report(around(2.0), settings__load_average=3.5, settings__duration_s=2.0)
    b = report(around(2.0, seed=1), settings__machine__hostname="pi2")
    b["details"]["processes"][3]["cpu_share"] = 0.42
    text = " | ".join(compare(a, b).warnings)
    for part in (
        "same file",
        "pi and pi2",
        "load average of 3.5 on 4 cores",
        "timed inferences are 2.0",
        "of the second had a core for only 42%",
    ):
        assert part in text


def test_limits_on_what_is_not_there():
    a, b = report(around(2.0)), report(around(2.0))
    with pytest.raises(UsageError, match="no figure 'p95'"):
        compare(a, b, {"p95": Limit("p95", 0.05)})
    with pytest.raises(UsageError, match="'colour' that may differ"):
        compare(a, b, P50, allow=["colour"])
    b["metrics"] = [one for one in b["metrics"] if one["name"] != "energy_per_inference"]
    b["metrics"].append(metric("energy_per_inference", None, why="no power meter on this machine"))
    with pytest.raises(UsageError, match=r"the second has none \(no power meter on this machine\)"):
        compare(a, b, {"energy": Limit("energy", 0.05)})
    assert "energy" not in [one.figure for one in compare(a, b).changes]
    with pytest.raises(UsageError, match=r"neither report has it \(no power meter on this machine\)"):
        compare(b, b, {"energy": Limit("energy", 0.05)})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "is no benchmark report"),
        ('{"kind": "compress"}', "its kind is 'compress'"),
        ('{"error": {"message": "no such file"}}', "holds an error and no report: no such file"),
        ('{"reports": [{"kind": "bench"}, {"kind": "bench"}]}', "holds 2 benchmark reports, one is compared with one"),
        ('{"reports": []}', "is no benchmark report"),
    ],
)
def test_files_that_are_no_reports(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_report(tmp_path / "a.json")


def test_reports_of_real_measurements(tmp_path):
    """What `bench` writes is what is read here: every figure that a process has a value of gets its interval from it."""
    pytest.importorskip("ai_edge_litert")
    path = plus_one_tflite(tmp_path / "plus_one.tflite")
    a, b = bench_many(
        [BenchTarget(path), BenchTarget(path)], BenchSettings(duration_s=0.05, repeats=2, idle_gaps=1, gap_ms=1, meter="none")
    )
    found = compare(a, b, P50, allow=["throttled"])
    assert {"p50", "p90", "p99", "mean", "first", "load", "memory", "size", "deflated"} <= {c.figure for c in found.changes}
    for change in found.changes:
        if change.figure not in ("size", "deflated", "arena"):
            assert change.processes == (2, 2) and change.found.low is not None, change
    own = [process["p90_ms"] for process in a.to_json()["details"]["processes"]]
    assert change_of(found, "p90").a == pytest.approx(np.median(own))
    assert all(figure.metric for figure in FIGURES.values())


# ---- measuring again ----------------------------------------------------------------------------------------------------


def measured(*levels, **changes):
    """Stands in for a measurement: processes around the given values."""
    calls = []

    def measure(reports, figures, processes, progress):
        calls.append((len(reports), list(figures), processes))
        return [report(around(level, processes, seed=20 + n), **changes) for n, level in enumerate(levels)]

    measure.calls = calls
    return measure


def test_an_alarm_that_measuring_again_does_not_confirm():
    a, b = report(around(2.0, 5)), report(around(2.3, 5, seed=1))
    again = measured(2.0, 2.0)
    found = rerun(a, b, P50, measure=again, processes=12)
    assert again.calls == [(2, ["p50"], 12)]
    assert found.verdict == change_of(found, "p50").verdict == "kept" and change_of(found, "p50").processes == (12, 12)
    assert found.before == compare(a, b, P50) and found.before.verdict == "regressed"
    rerun(report(around(2.0, 15, 0.15)), report(around(2.3, 15, 0.15, seed=1)), P50, measure=again)
    assert 30 < again.calls[-1][2] <= MOST_AGAIN, "wide intervals ask for more"


def test_what_is_still_undecided_is_measured_by_more():
    a, b = report(around(2.0, 15)), report(around(2.3, 15, seed=1))
    calls = []

    def measure(reports, figures, processes, progress):
        calls.append(processes)
        return [report(around(2.1, processes, 0.2, seed=20 + n) if processes < 60 else around(2.0, 60, seed=n)) for n in range(2)]

    found = rerun(a, b, P50, measure=measure)
    assert calls == [GATE_PROCESSES, MOST_AGAIN] and found.verdict == "kept" and change_of(found, "p50").processes == (60, 60)
    assert rerun(a, b, P50, measure=measure, processes=15).verdict == "undecided", "a number that was given is not exceeded"


def test_an_alarm_that_measuring_again_confirms():
    found = rerun(report(around(2.0, 5)), report(around(2.3, 5, seed=1)), P50, measure=measured(2.5, 2.85))
    assert found.verdict == found.before.verdict == "regressed"
    assert change_of(found, "p50").found.change == pytest.approx(0.14, abs=0.02)


def test_a_slowdown_that_the_machine_hid_is_found():
    """A's hour was a slow one: only in turns is it seen that B is slower."""
    found = rerun(report(around(2.2, 12)), report(around(2.2, 12, seed=1)), P50, measure=measured(2.0, 2.2))
    assert found.before.verdict != "regressed" and found.verdict == "regressed"


def test_what_measuring_again_could_tell():
    varied, sizes = report(around(2.0)), {"size": Limit("size", 0.0)}
    assert compare(varied, report(around(2.3, seed=1)), P50).doubtful
    assert compare(report(around(2.0, 3, 0.1)), report(around(2.1, 3, 0.1, seed=1)), P50).doubtful
    assert not compare(varied, report(around(2.0, seed=1)), P50).doubtful
    assert not compare(varied, report(around(2.0, seed=1), size=2000.0), sizes).doubtful, "a file's size stays what it is"


def test_measuring_again_with_another_engine_is_refused():
    again = measured(2.0, 2.0, model__library="ai-edge-litert 2.4.0")
    with pytest.raises(UsageError, match=r"2\.3\.0 in the first and ai-edge-litert 2\.4\.0"):
        rerun(report(around(2.0)), report(around(2.3)), P50, measure=again)


def test_measuring_again_here(tmp_path):
    a, b = measured_twice(tmp_path, repeats=2)
    path = Path(a["model"]["path"])
    found = rerun(a, b, {"size": Limit("size", 0.0)}, processes=2, allow=["throttled"])
    assert found.verdict == "kept" and change_of(found, "p50").processes == (2, 2)
    for changes, message in (
        ({"device": "pi5"}, "was measured on pi5, not here"),
        ({"fingerprint": "0" * 16}, "was measured on another machine"),
    ):
        other = {**b, "settings": {**b["settings"], **changes}}
        with pytest.raises(UsageError, match=message):
            rerun(other, other, P50, processes=1)
    before = file_sha256(path)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(UsageError, match=f"has changed since its report: sha256 {file_sha256(path)[:8]}, not {before[:8]}"):
        rerun(a, b, P50, processes=1)
    path.unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        rerun(a, b, P50, processes=1)
