"""The HTML report: what stands in it, and that a browser shows it without a network, an error or an attack."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import math
import re
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata, resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from benchmarks.html_page import Page
from browser_page import emulate
from report_example import REPORTS, broken_budget, example

from edgewright.benchmarks import figures, report_html
from edgewright.benchmarks.report_charts import tradeoff_charts
from edgewright.benchmarks.report_spread import change_charts, latency_charts
from edgewright.errors import MissingPackageError
from edgewright.report import Metric

FAKE = "window.vegaEmbed = null;"


# --- without a browser ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REPORTS)
def test_the_page_has_every_figure_and_every_reason(name):
    report = REPORTS[name]()
    page = Page(report_html.render_html(report, FAKE))
    for file in report.files:
        for metric in file.metrics:
            shown = " ".join(figures.printable(figures.typeset(figures.value_text(metric))).split())
            assert metric.value is None or shown in page.text
            assert " ".join(figures.printable(figures.typeset(figures.interval_text(metric, method=False))).split()) in page.text
            assert " ".join(figures.printable(metric.why_absent).split()) in page.text
            assert figures.base_of(metric.name).startswith("strange") or metric.name in page.text
        for receipt in file.receipts:
            for promise in receipt.promises:
                assert " ".join(figures.printable(promise.found).split()) in page.text
            for tensor in receipt.tensors:
                assert " ".join(figures.printable(tensor.name).split()) in page.text
    for text in (*report.warnings, *report.failures, *report.failed, *report.lost):
        assert " ".join(figures.printable(text).split()) in page.text


@pytest.mark.parametrize("name", REPORTS)
def test_what_charts_show_stands_in_tables(name):
    report = REPORTS[name]()
    text = Page(report_html.render_html(report, FAKE)).text
    for file in report.results:
        for group in file.groups:
            if group.change is not None:
                unit = "points" if group.unit == "share" else "%"
                assert figures.typeset(figures.value_in(group.change, unit, signed=True)) in text
                assert figures.typeset(figures.interval_in(group.low, group.high, unit, signed=True)) in text
        if file.latency:
            for edge, count in zip(file.latency.edges, file.latency.counts, strict=False):
                assert not count or f"{edge:.5g} ms" in text


@pytest.mark.parametrize("name", REPORTS)
def test_the_same_report_gives_the_same_bytes(name):
    first, second = (report_html.render_html(REPORTS[name](), FAKE).encode() for _ in range(2))
    assert first == second


def test_nothing_is_loaded_and_nothing_foreign_is_an_element():
    page = Page(report_html.render_html(REPORTS["hostile"](), FAKE))
    for tag, attributes in page.elements:
        assert tag not in {"img", "iframe", "object", "embed", "base", "form", "video", "audio"}
        assert not any(name.startswith("on") or name in {"src", "srcset", "action"} for name in attributes)
        if "href" in attributes:
            assert re.match(r"#|data:", attributes["href"] or "")
    assert sum(tag == "script" for tag, _ in page.elements) == 3
    css = (resources.files("edgewright.benchmarks") / "report_files" / "report.css").read_text(encoding="utf-8")
    assert "url(" not in css and "@import" not in css and "gradient" not in css


def test_only_the_two_scripts_of_the_page_may_run():
    page = Page(report_html.render_html(example(), "f('</script><!--');"))
    policy = next(a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'") and "unsafe-eval" not in policy
    allowed = re.findall(r"'sha256-([^']+)'", policy)
    _, vega, script = page.scripts
    assert allowed == [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in (vega, script)]
    assert r"f('<\/script><\!--');" in vega


def test_chart_data_is_json_that_ends_no_script():
    page = Page(report_html.render_html(REPORTS["hostile"](), FAKE))
    charts = json.loads(page.scripts[0])
    assert "<" not in page.scripts[0] and "\u202e" not in json.dumps(charts, ensure_ascii=False)
    assert len({chart["id"] for chart in charts}) == len(charts) > 8
    ids = [attributes["id"] for _, attributes in page.elements if attributes.get("id")]
    assert len(set(ids)) == len(ids) and {chart["id"] for chart in charts} <= set(ids)


def test_values_that_are_no_numbers_are_told_and_not_drawn():
    report = example()
    odd = Metric("accuracy", "share", math.nan, "exercise", 10)
    file = replace(report.files[5], metrics=(odd, *(m for m in report.files[5].metrics if m.name != "accuracy")))
    report = replace(report, files=(*report.files[:5], file, *report.files[6:]))
    page = Page(report_html.render_html(report, FAKE))
    assert "NaN" in page.text
    assert all("NaN" not in script for script in page.scripts[:1])


def test_tables_have_heads_with_scope_and_regions_have_names():
    page = Page(report_html.render_html(example(), FAKE))
    assert all("scope" in attributes for tag, attributes in page.elements if tag == "th")
    assert all(a.get("aria-label") and a.get("tabindex") == "0" for _, a in page.elements if a.get("role") == "region")
    assert all(a.get("aria-label") for _, a in page.elements if a.get("role") == "img")
    headings = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert headings[0] == 1 and headings.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(headings))


def test_long_lists_say_how_long_they_are():
    text = Page(report_html.render_html(broken_budget(), FAKE)).text
    # 431 + 111 + 12 + 9 flips; of the 431 of the int8 file 200 are listed.
    assert "Listed: 332 of 563" in text


def test_axes_neither_hide_nor_exaggerate():
    report = example()
    for chart in tradeoff_charts(report):
        low, high = chart.spec["layer"][-1]["encoding"]["y"]["scale"]["domain"]
        assert 1.0 <= high - low <= 5.0
        assert low < 86.74 and high > 88.1
    same = tuple(
        replace(f, metrics=tuple(m for m in f.metrics if m.name != "accuracy_change"))
        if f.role != "original"
        else replace(f, metrics=tuple(replace(m, value=1.0) if m.name == "accuracy" else m for m in f.metrics))
        for f in report.files
    )
    same = tuple(
        replace(
            f,
            metrics=tuple(
                replace(m, value=1.0, low=None, high=None, interval="") if m.name == "accuracy" else m for m in f.metrics
            ),
        )
        for f in same
    )
    chart = tradeoff_charts(replace(report, files=same, max_drop=None))[0]
    low, high = chart.spec["layer"][-1]["encoding"]["y"]["scale"]["domain"]
    assert low <= 99.5 and 100 < high <= 100.1


def test_errors_say_that_lower_is_better():
    charts = tradeoff_charts(REPORTS["regression"]())
    assert [chart.id for chart in charts] == ["chart-deflated_bytes-0", "chart-deflated_bytes-1"]
    y = charts[0].spec["layer"][-1]["encoding"]["y"]
    assert y["axis"]["title"] == "Mean absolute error, h (lower is better)"
    limit = next(row["y"] for row in charts[0].spec["layer"][0]["data"]["values"] if row["kind"] == "limit")
    assert limit == pytest.approx(11.87 * 1.05)
    assert len(charts[1].spec["layer"][0]["data"]["values"]) == 1  # the limit is on the first output


def test_charts_of_what_one_figure_hides():
    report = example()
    assert [chart.title for chart in latency_charts(report)] == ["Latency in LiteRT 2.3.0", "Latency in OpenVINO 2026.0.0"]
    charts, same = change_charts(report, "class", "exercise")
    assert [chart.title for chart in charts] == ["dynamic tflite", "int8 tflite", "dynamic openvino", "int8 openvino"]
    assert same == ["float16 tflite", "float16 openvino"]
    worst = charts[1].spec["layer"][-1]["data"]["values"][0]
    assert (worst["name"], worst["shape"]) == ("lateral_raises", "triangle-left")
    assert change_charts(report, "class", "another") == ([], [])


def test_latency_axes_hold_all_marks():
    for report in (example(), broken_budget()):
        for chart in latency_charts(report):
            layers = {layer["name"]: layer for layer in chart.spec["layer"]}
            low, high = layers["bins"]["encoding"]["x"]["scale"]["domain"]
            assert all(low <= point["at"] <= high for point in layers["percentiles"]["data"]["values"])
            assert all(low <= bar["from"] < bar["to"] <= high for bar in layers["bins"]["data"]["values"])
    calm, long_tail = latency_charts(broken_budget())
    assert calm.spec["layer"][0]["encoding"]["x"]["scale"]["type"] == "linear"
    assert calm.spec["layer"][0]["encoding"]["x"]["scale"]["domain"][0] == 0
    x = long_tail.spec["layer"][0]["encoding"]["x"]
    assert x["scale"]["type"] == "log" and "logarithmic" in x["axis"]["title"]


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two colours (WCAG 2.1, relative luminance)."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    lighter, darker = sorted((luminance(first), luminance(second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_colours_can_be_read_in_both_schemes():
    css = (resources.files("edgewright.benchmarks") / "report_files" / "report.css").read_text(encoding="utf-8")
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block)) for block in re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    )
    assert light.keys() == dark.keys()
    for scheme in (light, dark):
        for ground in ("paper", "panel"):
            for text in ("ink", "ink-2", "ink-3", "accent", "ok", "bad", "warn"):
                assert contrast(scheme[text], scheme[ground]) >= 4.5, (text, ground)
            for series in range(6):
                # Labels in charts have the colour of their recipe.
                assert contrast(scheme[f"series-{series}"], scheme[ground]) >= 4.5, (series, ground)


def test_the_bundle_is_kept_in_a_folder(tmp_path, monkeypatch):
    calls = []
    fake = SimpleNamespace(javascript_bundle=lambda snippet: calls.append(snippet) or "bundle")
    monkeypatch.setitem(sys.modules, "vl_convert", fake)
    folder = tmp_path / "cache"
    assert report_html.javascript_bundle(folder) == "bundle"
    assert report_html.javascript_bundle(folder) == "bundle"
    assert len(calls) == 1
    assert [file.name for file in folder.iterdir()] == [f"vega-{metadata.version('vl-convert-python')}.js"]
    assert report_html.javascript_bundle() == "bundle"
    assert len(calls) == 2


@pytest.mark.parametrize("package", ["jinja2", "vl_convert"])
def test_a_missing_package_is_named(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=package) as caught:
        report_html.render_html(example())
    assert "edgewright[report]" in caught.value.hint


# --- in a browser ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All example reports as files."""
    folder = tmp_path_factory.mktemp("pages")
    bundle = report_html.javascript_bundle(folder / "cache")
    found = {}
    for name, make in REPORTS.items():
        found[name] = folder / f"{name}.html"
        found[name].write_text(report_html.render_html(make(), bundle), encoding="utf-8")
        assert 0.8e6 < found[name].stat().st_size < 1.6e6
    return found


def until(found: Callable[[], Any], seconds: float = 60) -> Any:
    """What a condition gives once it is true; a page draws its charts one after the other."""
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
@pytest.mark.parametrize("name", REPORTS)
def test_a_browser_draws_all_and_asks_nobody(browser, pages, name, width):
    browser.get_log("browser")
    browser.get_log("performance")
    show(browser, pages[name], width)
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert pages[name].as_uri() in asked
    assert not [url for url in asked if url != pages[name].as_uri() and not url.startswith(("data:", "blob:"))]
    marks = browser.execute_script(
        "return Array.from(document.querySelectorAll('.chart')).map(c => [c.id,"
        " c.querySelectorAll('svg .mark-symbol path, svg .mark-rect path').length, c.classList.contains('failed')])"
    )
    assert len(marks) == len(json.loads(Page(pages[name].read_text(encoding="utf-8")).scripts[0]))
    assert all(count > 0 and not failed for _, count, failed in marks), marks
    across, inner = browser.execute_script("return [document.scrollingElement.scrollWidth, window.innerWidth]")
    assert across <= inner == width


def test_charts_follow_the_width(browser, pages):
    show(browser, pages["example"], 1440)
    emulate(browser, 390)
    widest = "return Math.max(...Array.from(document.querySelectorAll('.chart svg')).map(s => s.getBoundingClientRect().width))"
    until(lambda: browser.execute_script(widest) <= 390)
    emulate(browser, 1440)
    until(lambda: browser.execute_script(widest) > 450)


def test_the_dark_scheme_changes_page_and_charts(browser, pages):
    colours = (
        "const text = document.querySelector('.chart svg .role-axis-label text');"
        "return [getComputedStyle(document.body).backgroundColor, getComputedStyle(text).fill]"
    )

    def lightness(colour: str) -> float:
        return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3

    show(browser, pages["example"], scheme="light")
    ground, text = map(lightness, browser.execute_script(colours))
    assert ground > 230 > 120 > text
    emulate(browser, 1440, "dark")
    ground, text = until(
        lambda: (found := tuple(map(lightness, browser.execute_script(colours))))[0] < 40 and found  # the page follows at once
    )
    assert text > 150 > ground


def test_flips_can_be_filtered(browser, pages):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    show(browser, pages["broken"])

    def shown() -> list[list[str]]:
        return browser.execute_script(
            "return Array.from(document.querySelectorAll('#flips tbody tr')).filter(r => r.offsetParent)"
            ".map(r => [r.dataset.file, r.dataset.effect])"
        )

    def count() -> str:
        return browser.find_element(By.ID, "flips-count").text

    assert (len(shown()), count()) == (332, "332 of 563")
    Select(browser.find_element(By.ID, "flips-file")).select_by_visible_text("int8 tflite")
    assert (len(shown()), count()) == (200, "200 of 431")
    assert {file for file, _ in shown()} == {"5"}
    Select(browser.find_element(By.ID, "flips-effect")).select_by_value("fixed")
    assert count() == "0 of 71"
    Select(browser.find_element(By.ID, "flips-file")).select_by_value("")
    rows = shown()
    assert {effect for _, effect in rows} == {"fixed"}
    assert count() == f"{len(rows)} of 122"


def test_hostile_texts_are_shown_and_not_run(browser, pages):
    from selenium.common.exceptions import NoAlertPresentException
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    show(browser, pages["hostile"])
    point = next(
        found
        for found in browser.find_elements(By.CSS_SELECTOR, "#chart-deflated_bytes-0 .mark-symbol path")
        if "script" in (found.get_attribute("aria-label") or "")
    )
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", point)
    ActionChains(browser).move_to_element(point).perform()
    tooltip = until(lambda: browser.execute_script("return document.querySelector('#vg-tooltip-element.visible')"))
    assert "<script>alert(1)</script>" in tooltip.text
    assert browser.execute_script("return document.querySelectorAll('img, script:not([id])').length") == 2
    with pytest.raises(NoAlertPresentException):
        _ = browser.switch_to.alert
    assert browser.get_log("browser") == []


def test_a_digest_can_be_copied_whole(browser, pages):
    from selenium.webdriver.common.by import By

    show(browser, pages["example"])
    permissions = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    browser.execute_cdp_cmd("Browser.grantPermissions", permissions)
    button = browser.find_element(By.CSS_SELECTOR, "button.sha")
    browser.execute_script("arguments[0].closest('details').open = true; arguments[0].scrollIntoView({block: 'center'})", button)
    assert len(button.get_attribute("data-copy")) == 64
    button.click()
    until(lambda: button.text == "copied")
    copied = browser.execute_async_script("navigator.clipboard.readText().then(arguments[0], e => arguments[0](String(e)))")
    assert copied == button.get_attribute("data-copy")
