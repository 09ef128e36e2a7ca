"""Metrics and reports."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewright.report import Metric, Report


@pytest.mark.parametrize(("value", "why"), [(None, ""), (1.0, "no meter")])
def test_a_metric_is_a_value_or_a_reason(value, why):
    with pytest.raises(ValueError, match="'energy' needs a value or a reason"):
        Metric("energy", "mJ", value, why_absent=why)


@pytest.mark.parametrize("ends", [{"low": 1.0}, {"low": 1.0, "high": 2.0}, {"interval": "95 %"}])
def test_an_interval_has_two_ends_and_a_name(ends):
    with pytest.raises(ValueError, match="both ends of its interval"):
        Metric("sqnr", "dB", 1.5, **ends)


@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_metrics_survive_json(value, end):
    metric = Metric("sqnr", "dB", value, "y", 7, low=end, high=end, interval="95 %")
    assert Metric.from_json(json.loads(json.dumps(metric.to_json(), allow_nan=False))) == metric


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_json_holds_every_float(value):
    text = json.dumps(Metric("sqnr", "dB", value, "y", 7).to_json(), allow_nan=False)
    back = float(json.loads(text)["value"])
    assert back == value or (math.isnan(back) and math.isnan(value))


def test_report_json():
    report = Report(
        "verify",
        {"path": "a.tflite"},
        {"samples": 3},
        (
            Metric("sqnr", "dB", 41.5, "y", 3, low=40.0, high=43.0, interval="range of 3"),
            Metric("cosine", "", None, "z", 3, why_absent="it is NaN"),
        ),
        ("mind this",),
    )
    assert report.to_json() == {
        "schema": 1,
        "kind": "verify",
        "model": {"path": "a.tflite"},
        "settings": {"samples": 3},
        "metrics": [
            {
                "name": "sqnr",
                "subject": "y",
                "unit": "dB",
                "value": 41.5,
                "samples": 3,
                "origin": "measured",
                "why_absent": "",
                "low": 40.0,
                "high": 43.0,
                "interval": "range of 3",
            },
            {
                "name": "cosine",
                "subject": "z",
                "unit": "",
                "value": None,
                "samples": 3,
                "origin": "measured",
                "why_absent": "it is NaN",
                "low": None,
                "high": None,
                "interval": "",
            },
        ],
        "warnings": ["mind this"],
        "details": {},
    }


def test_value_finds_by_name_and_subject():
    report = Report("verify", {}, {}, (Metric("sqnr", "dB", 1.0, "a"), Metric("sqnr", "dB", 2.0, "b")))
    assert (report.value("sqnr"), report.value("sqnr", "b")) == (1.0, 2.0)
    with pytest.raises(KeyError, match="sqnr"):
        report.value("sqnr", "c")
    with pytest.raises(KeyError, match="cosine"):
        report.value("cosine")
