"""What a run will cost: from earlier steps of the same kind, scaled to the model's size, else from rules of thumb."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewright.cache import Entry
from edgewright.estimates import MIB, RULES, Estimate, estimate
from edgewright.planning import PlannedStep, Settings

KINDS = ["lower", "pass:prune", "export:tflite", "inspect", "outputs", "evaluate", "bench"]


def entry(kind, seconds, model_bytes=None, **value):
    return Entry(Path("x"), kind, "x", {"model_bytes": model_bytes, **value}, seconds, {}, 0)


def step(kind, size=None, **more):
    return PlannedStep("x", kind, model_bytes=size, **more)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_in_the_cache_costs_nothing(kind):
    earlier = [entry(kind, 100.0, 10)]
    assert estimate(step(kind, 10 * MIB, reused=True), earlier, Settings()) == Estimate(0.0, 0.0, "in the cache")
    assert estimate(step(kind, 10 * MIB, reused=False), earlier, Settings()).seconds > 0
    assert estimate(step(kind, 10 * MIB), earlier, Settings()).seconds > 0


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "bench"])
def test_rules_of_thumb_grow_with_the_model(kind):
    base, per_mib, memory, memory_per_mib = RULES[kind.partition(":")[0]]
    for size in (None, 0, 1, MIB, 100 * MIB):
        found = estimate(step(kind, size), [entry("other", 100.0)], Settings())
        mib = (size or 0) / MIB
        assert found == Estimate(base + per_mib * mib, (memory + memory_per_mib * mib) * MIB, "rule of thumb")


def test_kinds_that_no_rule_knows():
    found = estimate(step("simulate:board", 2 * MIB), [], Settings())
    assert found.origin == "rule of thumb" and found.seconds > 0 and found.memory_bytes > 0


def test_the_same_step_on_the_same_size_takes_what_it_took():
    earlier = [entry("export:tflite", 7.5, 3 * MIB)]
    assert estimate(step("export:tflite", 3 * MIB), earlier, Settings()).seconds == pytest.approx(7.5)


def test_earlier_times_are_scaled_to_the_size_and_the_middle_one_is_taken():
    base, per_mib, *_ = RULES["export"]
    # three runs, twice as slow as the rule, one of them disturbed
    earlier = [entry("export:tflite", 2 * (base + per_mib * mib), mib * MIB) for mib in (1, 40)]
    earlier.append(entry("export:tflite", 900.0, MIB))
    found = estimate(step("export:tflite", 10 * MIB), earlier, Settings())
    assert (found.seconds, found.origin) == (pytest.approx(2 * (base + per_mib * 10)), "3 earlier steps")
    assert found.memory_bytes == estimate(step("export:tflite", 10 * MIB), [], Settings()).memory_bytes


def test_only_steps_of_exactly_this_kind_count():
    earlier = [entry("export:openvino", 100.0, MIB), entry("pass:prune", 100.0, MIB), entry("export", 100.0, MIB)]
    assert estimate(step("export:tflite", MIB), earlier, Settings()).origin == "rule of thumb"
    assert estimate(step("pass:cluster", MIB), earlier, Settings()).origin == "rule of thumb"
    assert estimate(step("pass:prune", MIB), earlier, Settings()).seconds == pytest.approx(100.0)


@pytest.mark.parametrize("value", [{}, {"model_bytes": None}, {"model_bytes": 0}])
def test_earlier_steps_of_an_unknown_size(value):
    earlier = [Entry(Path("x"), "evaluate", "x", value, 3.0, {}, 0)]
    assert estimate(step("evaluate"), earlier, Settings()).seconds == pytest.approx(3.0)


def test_the_time_of_a_measurement_is_set_by_its_options():
    def seconds(files, earlier=(), **options):
        planned = PlannedStep("x", "bench", {"files": files})
        return estimate(planned, earlier, Settings(**options))

    one = seconds(1, bench_s=1.0, repeats=1).seconds
    assert one > 1.0
    assert seconds(4, bench_s=1.0, repeats=3).seconds == pytest.approx(12 * one)
    assert seconds(1, bench_s=5.0, repeats=1).seconds == pytest.approx(one + 4.0)
    assert seconds(1, [entry("bench", 900.0)], bench_s=1.0, repeats=1).seconds == one, "others had other options"
    assert seconds(1).origin == "files x processes"
    assert estimate(PlannedStep("x", "bench"), [], Settings(bench_s=1.0, repeats=1)).seconds == pytest.approx(one)


@settings(deadline=None)
@given(
    st.sampled_from(KINDS),
    st.none() | st.integers(0, 1 << 40),
    st.lists(st.tuples(st.sampled_from(KINDS), st.floats(0, 1e6), st.none() | st.integers(0, 1 << 40)), max_size=6),
)
def test_estimates_are_never_negative(kind, size, earlier):
    found = estimate(step(kind, size), [entry(*one) for one in earlier], Settings())
    assert found.seconds >= 0 and found.memory_bytes > 0 and found.origin
