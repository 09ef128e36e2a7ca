"""The estimate is its source's arithmetic, says so, and cannot pass for a measurement."""

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewright.benchmarks.energy_estimate import PROFILES, estimate
from edgewright.errors import UsageError
from edgewright.report import Metric

MOBILENET_MACS, MOBILENET_BYTES = 300_000_000, 3_500_000


def metric(found):
    return Metric(**{field.name: found[field.name] for field in fields(Metric)})


@pytest.mark.parametrize(
    ("precision", "pj"), [("int8", 0.2 + 0.1), ("float16", 1.1 + 0.4), ("float32", 3.7 + 0.9), ("int32", 3.1 + 0.1)]
)
def test_operations_times_their_published_energy(precision, pj):
    found = estimate(MOBILENET_MACS, MOBILENET_BYTES, precision)
    macs, low, high = 3e8 * pj * 1e-9, 3.5e6 / 8 * 1300 * 1e-9, 3.5e6 / 8 * 2600 * 1e-9
    assert found["value"] == pytest.approx(macs + (low + high) / 2)
    assert (found["low"], found["high"]) == (pytest.approx(macs + low), pytest.approx(macs + high))
    assert found["terms_mj"] == {"macs": pytest.approx(macs), "memory": pytest.approx((low + high) / 2)}
    assert found["unit"] == "mJ"


def test_it_says_what_it_is():
    found = estimate(MOBILENET_MACS, MOBILENET_BYTES, "int8")
    assert found["origin"] == "estimated" and metric(found).origin == "estimated"
    assert "not a measurement" in found["statement"]
    assert "Horowitz" in found["source"] and "ISSCC 2014" in found["source"] and "45 nm" in found["technology"]
    assert any("instructions" in text for text in found["leaves_out"]) and any("leakage" in text for text in found["leaves_out"])
    assert "published figures" in found["interval"] and "95" not in found["interval"]
    assert "estimate" in found["name"]


def test_a_precision_without_a_published_figure_has_a_reason_in_place_of_a_value():
    found = estimate(1000, 1000, "int16x8")
    assert found["value"] is None and "has no figure for int16x8 (it has int8, float16, int32, float32)" in found["why_absent"]
    assert metric(found).value is None


@given(macs=st.integers(0, 10**12), moved=st.integers(0, 10**12), factor=st.integers(1, 100))
def test_it_is_linear_in_macs_and_in_bytes(macs, moved, factor):
    one, both = estimate(macs, 0, "int8"), estimate(macs, moved, "int8")
    assert both["value"] - one["value"] == pytest.approx(estimate(0, moved, "int8")["value"], rel=1e-6, abs=1e-9)
    assert estimate(factor * macs, factor * moved, "int8")["value"] == pytest.approx(factor * both["value"])


def test_on_chip_memory_costs_what_the_source_says_of_it():
    found = estimate(0, 8_000_000, "int8", memory="sram_8_kib")
    assert found["value"] == pytest.approx(1_000_000 * 10e-9) and found["low"] is None and found["interval"] == ""
    assert metric(found).value == found["value"]


def test_uint8_is_int8():
    assert estimate(10, 10, "uint8") == estimate(10, 10, "int8")


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({"profile": "my_board"}, "no published energies 'my_board'"),
        ({"memory": "hbm"}, "no figure for memory 'hbm'"),
        ({"macs": -1}, "neither can be negative"),
    ],
)
def test_mistakes_are_told(given_, words):
    with pytest.raises(UsageError, match=words):
        estimate(**{"macs": 1, "bytes_moved": 1, "precision": "int8", **given_})


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_has_a_source_and_says_what_it_leaves_out(profile):
    energies = PROFILES[profile]
    assert energies.name == profile and energies.source and len(energies.leaves_out) >= 3
    assert all(low <= high for low, high in energies.memory_pj_per_64_bits.values())
