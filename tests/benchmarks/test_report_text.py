"""CSV, Markdown, and the figures that every form of a report is made of."""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from report_example import HOSTILE, REPORTS, example

from edgewright.benchmarks import figures
from edgewright.benchmarks.report_text import render_csv, render_markdown
from edgewright.benchmarks.report_words import absences, compared_with, flat, machine_text, verdicts
from edgewright.report import FileReport, Metric

# --- figures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.8747, "share", "87.47 %"),
        (1.0, "share", "100.00 %"),
        (0.999996, "share", "99.9996 %"),
        (0.00001, "share", "0.001 %"),
        (-0.27, "points", "-0.27 points"),
        (0.13, "points", "+0.13 points"),
        (0.0, "points", "0.00 points"),
        (-0.0, "points", "0.00 points"),
        (-0.0004, "points", "-0.0004 points"),
        (112784, "bytes", "112,784 B"),
        (0.08764, "ms", "0.0876 ms"),
        (12.345, "ms", "12.3 ms"),
        (9.9996, "ms", "10.0 ms"),
        (1234.4, "ms", "1,234 ms"),
        (3.047, "x", "3.05 x"),
        (31.04, "x", "31.0 x"),
        (35.64, "dB", "35.6 dB"),
        (math.inf, "dB", "∞ dB"),
        (math.nan, "", "NaN"),
        (84103, "", "84,103"),
        (0.03112, "", "0.03112"),
        (0.99997, "", "0.99997"),
        (3.4e-07, "", "3.400e-07"),
        (2430.6, "1/s", "2,431 /s"),
        (11.87, "h", "11.87 h"),
        (0, "ms", "0 ms"),
    ],
)
def test_figures_have_the_digits_that_their_unit_makes_sense_of(value, unit, text):
    assert figures.value_in(value, unit) == text


@given(
    st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["share", "points", "%", "bytes", "ms", "x", "dB", "", "h"])
)
def test_every_number_has_a_text_with_its_sign(value, unit):
    text = figures.number_in(value, unit)
    assert re.fullmatch(r"[+-]?[\d,]+(\.\d+)?(e[+-]\d+)?", text)
    assert not text.startswith("-") or value < 0
    assert not text.startswith("+") or value > 0


@given(st.floats(0, 1))
def test_a_share_is_never_rounded_to_none_or_all(value):
    text = figures.number_in(value, "share")
    assert (text.strip("0.") == "") <= (value < 1e-9)
    assert text != "100.00" or value > 1 - 1e-9


@pytest.mark.parametrize(
    ("size", "text"), [(512, "512 B"), (112784, "110 KiB"), (1023.6 * 1024, "1.00 MiB"), (25276510208, "23.5 GiB"), (0, "0 B")]
)
def test_human_sizes(size, text):
    assert figures.human_bytes(size) == text


@pytest.mark.parametrize(
    ("change", "meaning"),
    [
        ((-0.3, -1.0, 0.4), "not significant"),
        ((-2.4, -3.3, -1.7), "significantly worse"),
        ((2.4, 1.7, 3.3), "significantly better"),
        ((0.0, 0.0, 0.0), "no change"),
        ((-1.0, None, None), ""),
        ((None, None, None), ""),
    ],
)
def test_what_a_change_means(change, meaning):
    assert figures.change_meaning(*change) == meaning


def test_intervals_name_level_and_method():
    metric = Metric("accuracy", "share", 0.8774, low=0.8598, high=0.8932, interval="95 % Wilson")
    assert figures.interval_text(metric) == "85.98 to 89.32 % (95 % Wilson)"
    change = Metric("mae_change", "%", -1.8, low=-2.7, high=0.6, interval="95 % bootstrap")
    assert figures.interval_text(change, method=False) == "-2.70 to +0.60 %"
    assert figures.interval_text(Metric("cosine", "", 1.0)) == ""


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("top5_accuracy", "Top-5 accuracy"),
        ("accuracy_change", "Accuracy, change"),
        ("latency_p99", "Latency p99"),
        ("energy_per_inference", "Energy per inference"),
    ],
)
def test_metrics_have_titles(name, title):
    assert figures.title_of(name) == title


def test_direction_of_metrics():
    assert all(map(figures.lower_is_better, ("mae", "rmse", "max_abs_error", "latency_p50", "raw_bytes", "peak_rss")))
    assert not any(map(figures.lower_is_better, ("accuracy", "r2", "mae_change", "speedup", "inferences_per_second")))


def test_short_names_tell_all_files_apart():
    for make in REPORTS.values():
        names = figures.short_names(make().files)
        assert len(set(names)) == len(names)
    assert figures.short_names(example().files)[:4] == ("original", "baseline LiteRT", "baseline OpenVINO", "float16 tflite")


def test_typesetting_leaves_names_alone():
    assert figures.typeset("-0.27 points, 3.05 x, -1.03 to +0.34") == "−0.27 points, 3.05×, −1.03 to +0.34"
    assert figures.typeset("watch-1.tflite") == "watch-1.tflite"


# --- CSV ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REPORTS)
def test_csv_has_every_metric_with_all_its_digits(name):
    report = REPORTS[name]()
    rows = list(csv.DictReader(io.StringIO(render_csv(report), newline="")))
    expected = [(file, metric) for file in report.files for metric in file.metrics]
    assert len(rows) == len(expected)
    for row, (file, metric) in zip(rows, expected, strict=True):
        shown = [figures.printable(text) for text in (file.name, file.recipe, file.engine, metric.name, metric.why_absent)]
        assert [row[key] for key in ("file", "recipe", "engine", "metric", "why_absent")] == shown
        assert (row["role"], row["origin"], int(row["samples"])) == (file.role, metric.origin, metric.samples)
        for key in ("value", "low", "high"):
            figure = getattr(metric, key)
            assert row[key] == "" if figure is None else float(row[key]) == figure


# --- Markdown -------------------------------------------------------------------------------------------------------


def tokens_of(text: str) -> list:
    parsed = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    return [*parsed, *(child for token in parsed for child in token.children or ())]


@pytest.mark.parametrize("name", REPORTS)
def test_markdown_is_well_formed_and_has_each_file(name):
    report = REPORTS[name]()
    text = render_markdown(report)
    tokens = tokens_of(text)
    kinds = {token.type for token in tokens}
    assert not kinds & {"html_inline", "html_block", "link_open", "image", "code_block", "em_open", "s_open"}
    shown = "\n".join(token.content for token in tokens if token.type in {"text", "inline"})
    cells = re.sub(r"\\([^A-Za-z0-9\s])", r"\1", shown)
    for file in report.files:
        name_shown = " ".join(figures.printable(file.name).split())
        assert name_shown in cells.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
    rows = sum(token.type == "tr_open" for token in tokens)
    assert rows == len(re.findall(r"^\| ", text, flags=re.MULTILINE))
    text.encode()


def test_markdown_says_what_counts():
    text = render_markdown(REPORTS["broken"]())
    assert "- **BROKEN** Limit broken: watch_int8.tflite: accuracy fell by 2.41 points" in text
    assert "- **BROKEN** Not made: watch_int16x8.tflite: the op ERF has no int16 kernel." in text
    assert "-2.41 points (-3.32 to -1.68 points), significantly worse, over the limit" in text
    assert "x smaller: than watch_float32.tflite, by size." in text
    assert "no engine of the runtime runs a Keras file" in text
    text = render_markdown(example())
    assert "- **KEPT** Limit kept: no file loses more than 1.00 points of accuracy." in text
    assert "-0.27 points (-1.03 to +0.34 points), not significant, interval reaches past the limit" in text
    assert "**BROKEN** watch_int8.xml: weights are stored in 8 bits: promised 8 bits in 6 of 6" in text
    assert "No class and no slice loses in watch_float16.tflite, watch_float16.xml." in text
    bare = render_markdown(REPORTS["bare"]())
    assert "**NO LIMIT** No limit was set." in bare
    assert "Not evaluated: there is no evaluation data (--eval)" in bare
    assert "Not measured: the run was asked not to measure speed (--no-bench)" in bare


def test_hostile_texts_stay_texts():
    text = render_markdown(REPORTS["hostile"]())
    assert "<" not in text
    assert HOSTILE.replace("<", "&lt;").replace(">", "&gt;") in text
    assert "\u202e" not in text


# --- what all forms say ---------------------------------------------------------------------------------------------


def test_verdicts_of_all_states():
    kinds = {name: [kind for kind, _ in verdicts(make())] for name, make in REPORTS.items()}
    assert kinds["example"] == ["kept", "lost"]
    assert kinds["broken"] == ["broken", "broken", "broken", "lost"]
    assert kinds["bare"] == ["neutral"]
    grown = "Limit kept: the mean absolute error of no file grows by more than 5.00 %."
    assert verdicts(REPORTS["regression"]()) == [("kept", grown)]
    assert verdicts(replace(example(), passed=False, lost=())) == [("broken", "A limit is broken.")]


def test_what_smaller_compares_with_is_found_not_claimed():
    report = example()
    assert compared_with(report) == "watch_float32.tflite"
    files = tuple(
        replace(f, metrics=tuple(replace(m, value=9.9) if m.name == "smaller" else m for m in f.metrics)) for f in report.files
    )
    assert compared_with(replace(report, files=files)) == ""


def test_absences_are_told_once_per_reason():
    files = [
        FileReport("a", "file", "", "tflite", "", metrics=(Metric("latency_p50", "ms", None, why_absent="no engine"),)),
        FileReport("b", "file", "", "tflite", "", metrics=(Metric("latency_p50", "ms", None, why_absent="no engine"),)),
        FileReport("c", "file", "", "tflite", "", metrics=(Metric("sqnr", "dB", None, why_absent="it is constant"),)),
    ]
    assert absences(files) == [("no engine", "Latency p50 of a, b"), ("it is constant", "SQNR of c")]


def test_settings_become_rows():
    values = {
        "seed": {"value": None, "from": "default"},
        "machine": {"cores": 2, "memory_bytes": 25276510208},
        "steps": [
            {"step": "prune", "options": {"sparsity": 0.8}, "origins": {"sparsity": "-O"}},
            {"step": "export", "options": {}},
        ],
        "to": ["tflite", "openvino"],
    }
    assert flat(values) == [
        ("seed", "not set", "default"),
        ("machine.cores", "2", ""),
        ("machine.memory_bytes", "25,276,510,208 (23.5 GiB)", ""),
        ("prune.sparsity", "0.8", "-O"),
        ("export", "no options", ""),
        ("to", "tflite, openvino", ""),
    ]


def test_machine_in_one_line():
    assert machine_text(example().environment).startswith(
        "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz, 2 cores, 23.5 GiB memory"
    )
    assert machine_text({}) == ""
