"""The page of benchmark reports: what stands in it, what its charts draw, and that a browser shows it without an error."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchmarks import bench_example as example
from benchmarks import html_page
from benchmarks.compare_example import around
from benchmarks.compare_example import report as sparse
from browser_page import emulate

from edgewright.benchmarks import figures, report_html
from edgewright.benchmarks.bench import BenchTarget, bench_many
from edgewright.benchmarks.bench_charts import drift_chart, energy_charts, spread_chart
from edgewright.benchmarks.bench_facts import devices_of, fact_rows
from edgewright.benchmarks.bench_lanes import best_of, interval_of, lanes_of, shown
from edgewright.benchmarks.bench_op_charts import op_charts, placement_chart
from edgewright.benchmarks.bench_page import render_bench_html
from edgewright.benchmarks.bench_settings import BenchSettings
from edgewright.report import Metric
from edgewright.testing_models import plus_one_tflite

FAKE = "window.vegaEmbed = null;"


class Page(html_page.Page):
    """With its text in plain characters."""

    @property
    def text(self) -> str:
        return flat(super().text)


def flat(text: str) -> str:
    return " ".join(figures.printable(figures.typeset(text)).split())


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("models")
    return {name: getattr(example, name)(folder) for name in ("pi5", "jetson", "bare", "nasty")}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A report of what this machine measured a moment ago."""
    file = plus_one_tflite(tmp_path_factory.mktemp("measured") / "plus_one.tflite")
    target = BenchTarget(file, None, (1, 2), False)
    return bench_many([target], BenchSettings(duration_s=0.05, repeats=2, profile=True, idle_gaps=2, energy_s=0.2))[0]


@pytest.fixture(scope="module")
def sets(reports: dict[str, Any], measured: Any) -> dict[str, list[Any]]:
    """What is shown together in one page."""
    return {
        "side_by_side": [reports["pi5"], reports["jetson"], reports["bare"]],
        "alone": [reports["jetson"]],
        "nasty": [reports["nasty"], reports["bare"]],
        "measured": [measured],
        "sparse": [sparse(around(2.0)), sparse([around(3.0), around(2.0)], threads=(1, 2), settings__device="pi4")],
    }


SETS = ("side_by_side", "alone", "nasty", "measured", "sparse")


# --- without a browser ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
def test_the_page_has_every_figure_and_every_reason(sets, name):
    page = Page(render_bench_html(sets[name], FAKE))
    for lane in lanes_of(sets[name]):
        assert flat(lane.label) in page.text
        assert str(lane.report["model"]["sha256"]) in {value for _, attributes in page.elements for value in attributes.values()}
        for metric in lane.metrics.values():
            assert metric.name in page.text
            assert flat(metric.why_absent) in page.text
            assert metric.value is None or flat(shown(metric)) in page.text
            assert flat(figures.value_text(metric)) in page.text or metric.value is None
            assert flat(interval_of(metric)) in page.text
        for warning in lane.report["warnings"]:
            assert flat(warning) in page.text


@pytest.mark.parametrize("name", SETS)
def test_nothing_of_a_report_becomes_markup(sets, name):
    source = render_bench_html(sets[name], FAKE)
    page = Page(source)
    assert len(page.scripts) == 3  # the data, the library, ours
    assert not [tag for tag, _ in page.elements if tag in ("img", "b", "link") and _.get("src")]
    assert "\u202e" not in source
    assert [a for tag, a in page.elements if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert not [
        a for _, a in page.elements for key in ("src", "href") if str(a.get(key) or "").startswith(("http:", "https:", "//"))
    ]
    assert render_bench_html(sets[name], FAKE) == source


@pytest.mark.parametrize("name", SETS)
def test_tables_have_heads_and_charts_have_words(sets, name):
    page = Page(render_bench_html(sets[name], FAKE))
    assert all("scope" in attributes for tag, attributes in page.elements if tag == "th")
    assert all(a.get("aria-label") and a.get("tabindex") == "0" for _, a in page.elements if a.get("role") == "region")
    assert all(a.get("aria-label") for _, a in page.elements if a.get("role") == "img")
    headings = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert headings[0] == 1 and headings.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(headings))
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"] for tag, a in page.elements if tag == "a"} <= {f"#{id}" for id in ids}


def test_lanes_are_told_apart_by_what_differs(reports, measured):
    lanes = lanes_of([reports["pi5"], reports["jetson"], reports["bare"]])
    assert [lane.label for lane in lanes] == ["pi5, 1 thread", "pi5, 2 threads", "orin, 1 thread", "local, 1 thread"]
    assert [lane.label for lane in lanes_of([reports["jetson"]])] == ["orin"]
    twice = lanes_of([reports["jetson"], reports["jetson"]])
    assert [lane.label for lane in twice] == ["orin, no. 1", "orin, no. 2"]
    other = replace(reports["jetson"], model={**reports["jetson"].model, "library": "openvino 2026.4.1"})
    assert [lane.label for lane in lanes_of([reports["jetson"], other])] == [
        "orin, ai-edge-litert 2.3.0",
        "orin, openvino 2026.4.1",
    ]
    assert len({lane.label for lane in lanes_of([reports["jetson"], measured])}) == 3


def told(lanes: Any, **changes: Any) -> Any:
    """Lanes whose p50 has other values."""
    return [
        replace(lane, metrics={**lane.metrics, "latency_p50": replace(lane.metrics["latency_p50"], **own)})
        for lane, own in zip(lanes, changes["p50"], strict=True)
    ]


def test_the_best_is_marked_only_where_intervals_do_not_overlap(reports):
    lanes = lanes_of([reports["pi5"], reports["jetson"]])
    assert best_of(lanes, "latency_p50") == 2 and best_of(lanes, "inferences_per_second") == 2
    sure = {"interval": "95 % t over 3 processes"}
    apart = [{"value": v, "low": v - 1, "high": v + 1, **sure} for v in (5.0, 9.0, 11.5)]
    assert best_of(told(lanes, p50=apart), "latency_p50") == 0
    touching = [{"value": v, "low": v - 1, "high": v + 1, **sure} for v in (5.0, 7.0, 11.5)]
    assert best_of(told(lanes, p50=touching), "latency_p50") is None
    ranges = [{**one, "interval": "range of 3 processes"} for one in apart]
    assert best_of(told(lanes, p50=ranges), "latency_p50") is None
    estimated = [{**apart[0], "origin": "estimated"}, *apart[1:]]
    assert best_of(told(lanes, p50=estimated), "latency_p50") is None
    missing = [apart[0], apart[1], {"value": None, "why_absent": "no", "low": None, "high": None, "interval": ""}]
    assert best_of(told(lanes, p50=missing), "latency_p50") is None
    # The interval of a single process does not know how processes differ.
    assert best_of(lanes_of([reports["pi5"], reports["bare"]]), "latency_p50") is None
    assert best_of(lanes, "power_idle") is None and best_of(lanes, "peak_rss") is None
    assert best_of(lanes_of([reports["jetson"]]), "latency_p50") is None


def test_energy_of_other_rails_is_not_compared(reports):
    cheap = [dict(entry, mj_per_inference=1.0) for entry in reports["jetson"].details["energy"]]
    metrics = tuple(
        replace(m, value=1.0, low=0.9, high=1.1) if m.name == "energy_per_inference" else m for m in reports["jetson"].metrics
    )
    same = replace(reports["jetson"], metrics=metrics, details={**reports["jetson"].details, "energy": cheap})
    assert best_of(lanes_of([reports["pi5"], same]), "energy_per_inference") == 2
    rail = [{**entry, "scope": "rail VDD_CPU_CV"} for entry in cheap]
    other = replace(same, details={**same.details, "energy": rail})
    assert best_of(lanes_of([reports["pi5"], other]), "energy_per_inference") is None


def test_histograms_hold_every_inference_but_those_they_count_as_outside(sets):
    lanes = lanes_of(sets["side_by_side"])
    chart = spread_chart(lanes)
    assert chart is not None
    bins, lines, points = (layer["data"]["values"] for layer in chart.spec["layer"])
    assert len({row["fill"] for row in bins}) == len(lines) == len(lanes) == 4
    assert len(points) == 3 * len(lanes)
    outside = int(re.search(r"([\d,]+) inferences are slower", chart.caption)[1].replace(",", ""))
    drawn = sum(int(row["tip Inferences"].replace(",", "")) for row in bins)
    assert drawn + outside == sum(process["runs"] for lane in lanes for process in lane.entries("processes"))
    low, high = chart.spec["layer"][0]["encoding"]["x"]["scale"]["domain"]
    assert all(low <= row["from"] < row["to"] <= high for row in bins) and all(low <= point["at"] <= high for point in points)


def test_drift_is_in_the_order_in_which_processes_ran(reports):
    alone = drift_chart(lanes_of([reports["jetson"]]))
    assert alone is not None
    rows = alone.spec["layer"][-1]["data"]["values"]
    assert [row["order"] for row in rows] == [1, 2, 3]
    assert [row["y"] for row in rows] == [p["p50_ms"] for p in reports["jetson"].details["processes"]]
    assert [row["shape"] for row in rows] == ["circle", "circle", "triangle-up"]  # the last one was throttled
    both = drift_chart(lanes_of([reports["pi5"], reports["jetson"]]))
    assert both is not None
    rows = both.spec["layer"][-1]["data"]["values"]
    for lane in ("0", "1", "2"):  # in per cent of the lane's own mean
        assert sum(row["y"] for row in rows if row["lane"] == lane) == pytest.approx(0, abs=1e-9)
    assert {row["order"] for row in rows if row["lane"] == "0"} | {row["order"] for row in rows if row["lane"] == "1"} == set(
        range(1, 7)
    )
    assert drift_chart(lanes_of([reports["bare"]])) is None


def test_the_placement_map_is_in_the_files_order_and_as_wide_as_multiply_adds(reports):
    lanes = lanes_of([reports["pi5"], reports["jetson"], reports["bare"]])
    chart = placement_chart(lanes, devices_of(lanes))
    assert chart is not None
    rows = chart.spec["layer"][0]["data"]["values"]
    assert len(rows) == 20  # both thread counts of the first run alike and stand once, the third does not tell
    first = [row for row in rows if row["low"] > 1]
    assert [row["tip Op"].partition(":")[0] for row in first] == [str(n) for n in range(10)]
    assert all(after["from"] == pytest.approx(before["to"]) for before, after in itertools.pairwise(first))
    assert first[-1]["to"] == pytest.approx(1.0)
    wide = [row["to"] - row["from"] for row in first]
    assert wide[8] / wide[0] == pytest.approx(9.0) and wide[4] / wide[0] == pytest.approx(5.0) and wide[9] > 0
    assert [row["high"] - row["low"] < 0.5 for row in first] == [n in (4, 9) for n in range(10)]
    assert first[4]["tip Why not in a delegate"] == example.REASON and first[9]["tip Multiply-adds"] == "not counted"
    assert len({row["fill"] for row in rows}) == 3
    text = Page(render_bench_html([reports["pi5"]], FAKE)).text
    assert "1 TRANSPOSE_CONV 11.11 %" in text and text.count(flat(example.REASON)) == 2


def test_ops_are_sorted_by_share_with_their_intervals(reports):
    lanes = lanes_of([reports["pi5"]])
    charts = op_charts(lanes, devices_of(lanes))
    assert [chart.title for chart in charts] == ["pi5, 1 thread", "pi5, 2 threads"]
    rows = charts[0].spec["layer"][0]["data"]["values"]
    assert [row["share"] for row in rows] == sorted((100 * op["share"] for op in lanes[0].part("profile")["ops"]), reverse=True)
    assert all(row["low"] < row["share"] < row["high"] for row in rows)
    assert rows[0]["name"] == "SOFTMAX block_9/Relu6" and rows[0]["fill"] != rows[1]["fill"]
    assert op_charts(lanes_of([reports["bare"]]), {}) == []
    assert "No times of ops of local : it was not asked for" in Page(render_bench_html([reports["bare"]], FAKE)).text


def test_the_power_chart_shows_windows_baselines_and_their_means(reports):
    lanes = lanes_of([reports["jetson"]])
    (chart,) = energy_charts(lanes)
    spans, power, levels, _ = (layer["data"]["values"] for layer in chart.spec["layer"])
    entries = sorted(lanes[0].entries("energy"), key=lambda entry: entry["mj_per_inference"])
    middle = entries[1]
    assert [row["kind"] for row in spans] == ["baseline"] * 2 + ["window"] * 5
    assert [(row["at"], row["end"]) for row in spans] == [
        (begin / 1e3, end / 1e3) for begin, end, _ in [*middle["baselines"], *middle["windows"]]
    ]
    assert [row["watts"] for row in levels] == [middle["baseline_watts"], middle["active_watts"]]
    assert [row["watts"] for row in power] == middle["trace"]["watts"]
    # What is known of the board: 2 W at rest, 1.5 W more at work.
    assert levels[0]["watts"] == pytest.approx(2.0, abs=0.05) and levels[1]["watts"] == pytest.approx(3.5, abs=0.05)
    assert "board input" in chart.caption and "200 readings a second" in chart.caption


def test_estimates_stand_apart_and_are_marked(reports):
    page = Page(render_bench_html([reports["pi5"], reports["bare"]], FAKE))
    tags = [attributes for tag, attributes in page.elements if tag == "span" and "estimated" in str(attributes.get("class"))]
    assert len(tags) >= 3
    assert "Computed from published figures, not measured on any of these devices" in page.text
    assert "M. Horowitz" in page.text and "Leaves out" in page.text
    key_figures = page.text[page.text.index("Key figures Small") : page.text.index("Warnings")]
    assert "1.065 mJ" not in key_figures and "1.065 mJ estimated" in page.text
    metric = replace(next(m for m in reports["pi5"].metrics if m.name == "power_idle"), origin="estimated")
    marked = replace(
        reports["pi5"],
        metrics=tuple(metric if m.name == "power_idle" and m.subject == metric.subject else m for m in reports["pi5"].metrics),
    )
    before, after = (render_bench_html([one], FAKE).count('class="tag estimated"') for one in (reports["pi5"], marked))
    assert after == before + 2  # in the key figures, and in the list of every figure
    trace = [{**entry, "origin": "estimated"} for entry in reports["jetson"].details["energy"]]
    guessed = replace(reports["jetson"], details={**reports["jetson"].details, "energy": trace})
    assert energy_charts(lanes_of([guessed]))[0].caption.startswith("ESTIMATED POWER, not measured.")


def test_what_was_not_measured_says_why(reports):
    text = Page(render_bench_html([reports["bare"]], FAKE)).text
    assert f"Not measured on local : {example.WHY}" in text
    assert "Where ops run is not known of local : the engine does not tell" in text
    silent = replace(reports["bare"], settings={**reports["bare"].settings, "meter": "none"})
    assert "Energy was not measured: no meter was asked for." in Page(render_bench_html([silent], FAKE)).text


def test_conditions_are_told(reports):
    rows = dict(fact_rows(lanes_of([reports["jetson"], reports["bare"]])))
    assert rows["Throttled"] == ["YES, in 1 of 3 processes: cooling_device0 in state 3", "not told: nothing tells"]
    assert rows["Temperature"] == ["48.0 °C before, 97.5 °C after, at most 97.5 °C", "not told: no such file"]
    assert rows["Clocks"][0] == "1.20 to 2.40 GHz, up to 2.40 GHz are allowed"
    assert rows["Governor"] == ["performance", "not told: no such file"]
    assert rows["Device"] == ["Jetson Orin Nano (orin)", "vm (local)"] and rows["Reached by"][0] == "ssh, root@orin"
    assert "orin, 1 thread was slowed down" in Page(render_bench_html([reports["pi5"], reports["jetson"]], FAKE)).text


def test_other_files_and_precisions_are_pointed_out(reports):
    model = {**reports["pi5"].model, "sha256": "0" * 64}
    model["execution"] = {**model["execution"], "precision": "float32"}
    text = Page(render_bench_html([reports["pi5"], replace(reports["pi5"], model=model)], FAKE)).text
    assert "2 different files are set side by side" in text and "Computed in different precisions: float32, int8." in text


def test_figures_that_nobody_knows_yet_are_shown(reports):
    more = replace(reports["bare"], metrics=(*reports["bare"].metrics, Metric("page_faults", "", 12.0)))
    assert "Page faults page_faults 12" in Page(render_bench_html([more], FAKE)).text


# --- in a browser ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pages(sets: dict[str, list[Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    bundle = report_html.javascript_bundle(folder / "cache")
    found = {}
    for name, shown_together in sets.items():
        found[name] = folder / f"{name}.html"
        found[name].write_text(render_bench_html(shown_together, bundle), encoding="utf-8")
        assert 0.8e6 < found[name].stat().st_size < 1.8e6
    return found


def until(found: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return value


def show(browser: Any, page: Path, width: int = 1440, scheme: str = "light") -> None:
    emulate(browser, width, scheme)
    browser.get(page.as_uri())
    until(lambda: browser.execute_script("return document.documentElement.dataset.charts") == "drawn")


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("name", SETS)
def test_a_browser_draws_all_and_asks_nobody(browser, pages, name, width):
    browser.get_log("browser")
    browser.get_log("performance")
    show(browser, pages[name], width)
    assert browser.get_log("browser") == []
    assert "benchmark report" in browser.title and browser.title != "taken"
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert pages[name].as_uri() in asked
    assert not [url for url in asked if url != pages[name].as_uri() and not url.startswith(("data:", "blob:"))]
    marks = browser.execute_script(
        "return Array.from(document.querySelectorAll('.chart')).map(c => [c.id,"
        " c.querySelectorAll('svg .mark-symbol path, svg .mark-rect path').length, c.classList.contains('failed')])"
    )
    assert len(marks) == len(json.loads(Page(pages[name].read_text(encoding="utf-8")).scripts[0])) > 0
    assert all(count > 0 and not failed for _, count, failed in marks), marks
    across, inner = browser.execute_script("return [document.scrollingElement.scrollWidth, window.innerWidth]")
    assert across <= inner == width


def test_the_dark_scheme_reaches_the_charts(browser, pages):
    colours = []
    for scheme in ("light", "dark"):
        show(browser, pages["side_by_side"], scheme=scheme)
        script = "return getComputedStyle(document.querySelector('#chart-spread .mark-rect path')).fill"
        colours.append(browser.execute_script(script))
    assert colours[0] != colours[1] and all(colour.startswith("rgb") for colour in colours)
