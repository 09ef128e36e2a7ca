"""A report on benchmarks as one HTML file that needs nothing else: no network, no fonts, no server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgewright.benchmarks import bench_facts as facts
from edgewright.benchmarks import figures
from edgewright.benchmarks.bench_charts import drift_chart, energy_charts, spread_chart
from edgewright.benchmarks.bench_lanes import (
    Lane,
    all_warnings,
    best_of,
    device_of,
    estimates_of,
    interval_of,
    lanes_of,
    reasons_of,
    rows_of,
    shown,
    title,
    which_of,
)
from edgewright.benchmarks.bench_op_charts import TOP_OPS, op_charts, placement_chart
from edgewright.benchmarks.report_html import (
    content_policy,
    for_data,
    for_script,
    javascript_bundle,
    page_environment,
    page_tools,
    resource_text,
)
from edgewright.errors import needs
from edgewright.report import Metric, Report

__all__ = ["render_bench_html"]

_CARDS = 6
_OPS = 400
_GROUPS = 60


def render_bench_html(reports: Sequence[Report | Mapping[str, Any]], bundle: str | None = None) -> str:
    """Reports of kind "bench" side by side as one HTML document; the same reports and bundle give the same text.

    Args:
        reports: at least one, as `Report` or as its JSON.
        bundle: what `report_html.javascript_bundle` gives; None makes it.

    Raises:
        MissingPackageError: jinja2, or vl-convert where no bundle was given, is not installed.
    """
    with needs("report"):
        import jinja2  # noqa: F401
        import markupsafe
    # Own scope: the bundle's top-level names are single letters.
    vega = for_script("(function(){" + (javascript_bundle() if bundle is None else bundle) + "\n})();")
    script = for_script(resource_text("report.js"))
    view = _view(lanes_of(reports))
    drawn = [chart for chart in view.pop("all_charts") if chart]
    charts = [{"id": chart.id, "spec": chart.spec, "labels": chart.labels} for chart in drawn]
    return (
        page_environment()
        .get_template("bench.html.j2")
        .render(
            **{**page_tools(), **view},
            **{
                "css": markupsafe.Markup(resource_text("report.css") + resource_text("bench.css")),
                "vega": markupsafe.Markup(vega),
            },
            **{"script": markupsafe.Markup(script), "policy": content_policy(vega, script)},
            chart_data=markupsafe.Markup(for_data(charts)),
        )
    )


def _view(lanes: Sequence[Lane]) -> dict[str, Any]:
    colours = facts.devices_of(lanes)
    spread, drift, placement = spread_chart(lanes), drift_chart(lanes), placement_chart(lanes, colours)
    ops, powers = op_charts(lanes, colours), energy_charts(lanes)
    return {
        "lanes": lanes,
        "card_cap": _CARDS,
        "heading": ", ".join(dict.fromkeys(lane.file or "model" for lane in lanes)),
        "places": list(dict.fromkeys(_place(lane) for lane in lanes)),
        "throttled": [lane.label for lane in lanes if any(entry.get("throttled") for entry in lane.entries("conditions"))],
        "not_equal": _not_equal(lanes),
        "warnings": all_warnings(lanes),
        "sheet": [(family, [(name, best_of(lanes, name)) for name in names]) for family, names in rows_of(lanes)],
        "missing": reasons_of(lanes),
        "intervals": _intervals(lanes),
        "metric_title": title,
        "value_text": shown,
        "interval_text": lambda metric, method=False: interval_of(metric),
        "exact_text": figures.value_text,
        "exact_interval": figures.interval_text,
        "spread": spread,
        "drift": drift,
        "quantiles": facts.quantile_rows(lanes),
        "processes": facts.process_rows(lanes),
        "process_heads": facts.PROCESSES,
        "devices": colours,
        "placement": placement,
        "outside": _outside(lanes),
        "unplaced": [
            (lane.label, lane.part("placement")["why_absent"]) for lane in lanes if lane.part("placement").get("why_absent")
        ],
        "ops": ops,
        "top_ops": TOP_OPS,
        "profiles": [(lane, rows) for lane in lanes if (rows := facts.profile_rows(lane))],
        "unprofiled": _unprofiled(lanes),
        "row_cap": _GROUPS,
        "op_cap": _OPS,
        "powers": powers,
        "energies": facts.energy_rows(lanes),
        "energy_heads": facts.ENERGIES,
        "no_energy": facts.no_energy(lanes),
        "energy_notes": facts.energy_notes(lanes),
        "estimates": _estimates(lanes),
        "facts": facts.fact_rows(lanes),
        "states": [(lane, found) for lane in lanes if (found := facts.condition_rows(lane))],
        "all_charts": [spread, drift, placement, *ops, *powers],
    }


def _place(lane: Lane) -> str:
    """Where a lane was measured, for the line above the heading."""
    device, machine = device_of(lane.report), lane.report["settings"].get("machine") or {}
    name = device["name"] if device["title"] in ("", device["name"]) else f"{device['title']} ({device['name']})"
    return ", ".join(str(part) for part in (name, machine.get("cpu"), machine.get("architecture")) if part)


def _not_equal(lanes: Sequence[Lane]) -> list[str]:
    """What differs between lanes beside the device, so that nobody takes it for the device's doing."""
    found = []
    files = {str(lane.report["model"].get("sha256", "")) for lane in lanes}
    if len(files) > 1:
        found.append(f"{len(files)} different files are set side by side: sizes, ops and accuracy may differ too.")
    precisions = {str((lane.report["model"].get("execution") or {}).get("precision", "")) for lane in lanes}
    if len(precisions) > 1:
        found.append(f"Computed in different precisions: {', '.join(sorted(filter(None, precisions)))}.")
    return found


def _intervals(lanes: Sequence[Lane]) -> list[tuple[str, str]]:
    """How intervals were made: (method, which figures of which lanes) pairs."""
    found: dict[str, dict[str, list[str]]] = {}
    for lane in lanes:
        for metric in lane.metrics.values():
            if metric.interval and metric not in estimates_of(lane):
                found.setdefault(metric.interval, {}).setdefault(title(metric.name), []).append(lane.label)
    return [(method, which_of(by_title, len(lanes))) for method, by_title in found.items()]


def _outside(lanes: Sequence[Lane]) -> list[tuple[str, str, str, list[tuple[str, str, str, str, str]]]]:
    """Per placement: label, in words, note, ops that no delegate took; thread counts whose ops run alike stand once."""
    found: list[tuple[int, Mapping[str, Any]]] = []
    result = []
    for lane in lanes:
        placed = lane.part("placement")
        if not placed.get("ops") or (lane.at, placed) in found:
            continue
        label = lane.label if any(at == lane.at for at, _ in found) else lane.place
        found.append((lane.at, placed))
        result.append((label, facts.placement_text(lane), str(placed.get("note") or ""), facts.outside_rows(lane)))
    return result


def _unprofiled(lanes: Sequence[Lane]) -> list[tuple[str, str]]:
    """Lanes without times of ops, and why."""
    found: dict[str, list[str]] = {}
    for lane in lanes:
        if not lane.part("profile").get("ops"):
            why = str(lane.part("profile").get("why_absent") or "the report has no profile; measure with --profile")
            found.setdefault(why, []).append(lane.label)
    return [(", ".join(labels), why) for why, labels in found.items()]


def _estimates(lanes: Sequence[Lane]) -> list[tuple[Lane, Metric, list[tuple[str, str]]]]:
    """Estimates of each report, once for all its thread counts."""
    first = {lane.at: lane for lane in reversed(lanes)}
    return [(lane, metric, facts.estimate_rows(lane)) for _, lane in sorted(first.items()) for metric in estimates_of(lane)]
