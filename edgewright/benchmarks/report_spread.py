"""Charts of what one figure hides: how latencies are spread, and which classes and slices change."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from edgewright.benchmarks.figures import (
    change_meaning,
    interval_in,
    interval_text,
    number_in,
    title_of,
    typeset,
    value_in,
    value_text,
)
from edgewright.benchmarks.report_charts import Chart, Style, base_spec, known, mark_colour, styles_of, tips
from edgewright.report import CompressReport, FileReport, GroupChange, Histogram

__all__ = [
    "bin_layer",
    "change_charts",
    "js_list",
    "latency_charts",
    "latency_scale",
    "percentile_layers",
]

_WORST = 15
_ROW = 64
_FLOOR, _TALL, _STRIP = 0.36, 0.56, 0.17
"""In a row of the latency chart: where bars stand, the height of the highest, and where the percentiles' line lies."""


# --- latency --------------------------------------------------------------------------------------------------------


def latency_charts(report: CompressReport) -> list[Chart]:
    """The distribution of the latency of one inference, one chart per engine, its files below each other."""
    engines: dict[str, list[tuple[FileReport, Histogram, Style]]] = {}
    for file, style in zip(report.files, styles_of(report), strict=True):
        if file.latency is not None and sum(file.latency.counts) > 0:
            engines.setdefault(file.engine, []).append((file, file.latency, style))
    return [_ridges(f"chart-spread-{number}", engine, drawn) for number, (engine, drawn) in enumerate(engines.items())]


def _ridges(id: str, engine: str, drawn: Sequence[tuple[FileReport, Histogram, Style]]) -> Chart:
    unit = drawn[0][1].unit
    bins: list[dict[str, Any]] = []
    lines: list[dict[str, Any]] = []
    for row, (file, histogram, style) in enumerate(reversed(drawn)):
        bins += _bins(row, histogram, style)
        lines += _percentiles(row, file, style)
    scale = latency_scale([h for _, h, _ in drawn], [line["at"] for line in lines])
    kind = ", logarithmic" if scale["type"] == "log" else ""
    axis = {"title": f"Latency of one inference, {unit}{kind} (lower is better)", "tickCount": 6, "grid": True}
    x = {"field": "from", "type": "quantitative", "scale": scale, "axis": axis}
    labels = [(style.label, _ends_of(file)) for file, _, style in reversed(drawn)]
    layers = [bin_layer(bins, x, labels), *percentile_layers(lines)]
    outside = sum(histogram.below + histogram.above for _, histogram, _ in drawn)
    more = f" {outside:,} inferences lie outside the bars and are in the table." if outside else ""
    marks = f"Below them p50 ●, p90 | and p99 ◀; at the left p50 / p99 in {unit}."
    caption = f"Bars: inferences per bin, each file to its own highest. {marks}{more}"
    title = f"Latency in {engine}" if engine else "Latency"
    told = "; ".join(
        f"{style.label}: p50 {_told(file, 'latency_p50')}, p99 {_told(file, 'latency_p99')}" for file, _, style in drawn
    )
    return Chart(id, title, caption, f"{title}. {told}.", base_spec(_ROW * len(drawn)) | {"layer": layers})


def latency_scale(histograms: Sequence[Histogram], percentiles: Sequence[float]) -> dict[str, Any]:
    """The axis of all files of an engine, percentiles included: these are means over processes and may lie outside the bars.

    Logarithmic where a slow tail is so long that it would press all the rest into one bin; else from zero, so that lengths
    compare, unless that would press every shape into a sliver at the right.
    """
    low = min([h.edges[0] for h in histograms] + list(percentiles))
    top = max([h.edges[-1] for h in histograms] + list(percentiles))
    if low > 0 and top / low > 8:
        return {"type": "log", "domain": [0.9 * low, 1.06 * top], "nice": False}
    start = 0.0 if low < 2.5 * (top - low) else low - 0.3 * (top - low)
    return {"type": "linear", "domain": [start, top + 0.03 * (top - start)], "nice": False, "zero": False}


def _ends_of(file: FileReport) -> str:
    """p50 and p99 as the second line of a row's label."""
    found = [file.metric(name) for name in ("latency_p50", "latency_p99")]
    return " / ".join(number_in(m.value, m.unit) for m in found if m is not None and m.value is not None)


def _told(file: FileReport, name: str) -> str:
    metric = file.metric(name)
    return value_text(metric) if metric else "-"


def _bins(row: int, histogram: Histogram, style: Style) -> list[dict[str, Any]]:
    highest, found = max(histogram.counts), []
    for left, right, count in zip(histogram.edges, histogram.edges[1:], histogram.counts, strict=False):
        if count:
            place = {"from": left, "to": right, "low": row + _FLOOR, "high": row + _FLOOR + _TALL * count / highest}
            span = f"{number_in(left, histogram.unit)} to {value_in(right, histogram.unit)}"
            tip = {"tip File": style.label, "tip Latency": span, "tip Inferences": f"{count:,}"}
            found.append({**place, "fill": style.colour, **tip})
    return found


def _percentiles(row: int, file: FileReport, style: Style) -> list[dict[str, Any]]:
    """The percentiles that are known, each with the text of its tooltip."""
    found = []
    for name, shape in (("latency_p50", "circle"), ("latency_p90", "stroke"), ("latency_p99", "triangle-left")):
        metric = file.metric(name)
        if metric is None or metric.value is None or not known(metric.value):
            continue
        interval = interval_text(metric, method=False)
        text = f"{value_text(metric)} ({interval})" if interval else value_text(metric)
        place = {"at": metric.value, "strip": row + _STRIP, "shape": shape, "colour": style.colour}
        found.append({**place, "row": row, "tip File": style.label, f"tip {title_of(name)}": typeset(text)})
    return found


def bin_layer(bins: Sequence[Mapping[str, Any]], x: Mapping[str, Any], labels: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Vega-Lite's layer of the bars of all rows, with the rows' labels at its axis."""
    axis = {
        "title": None,
        "values": [row + _FLOOR for row in range(len(labels))],
        "labelExpr": f"[{','.join(map(js_list, labels))}][floor(datum.value)]",
        "labelBaseline": "line-bottom",
        "labelOffset": -8,
        "labelPadding": 8,
        "labelLineHeight": 14,
        "labelLimit": 130,
        "labelColor": "var(--ink)",
        "ticks": False,
        "domain": False,
        "grid": True,
    }
    scale = {"domain": [0, len(labels)], "nice": False, "zero": False}
    return {
        "name": "bins",
        "data": {"values": list(bins)},
        "mark": {"type": "rect", "opacity": 0.6, "stroke": None},
        "encoding": {
            "x": dict(x),
            "x2": {"field": "to"},
            "y": {"field": "low", "type": "quantitative", "scale": scale, "axis": axis},
            "y2": {"field": "high"},
            "fill": mark_colour("fill"),
            "tooltip": tips(bins),
        },
    }


def js_list(names: Sequence[str]) -> str:
    """Names as a list of a Vega expression: every UTF-16 unit that is no plain character is written as an escape."""
    return "[" + ",".join("'" + "".join(map(_escaped, name)) + "'" for name in names) + "]"


def _escaped(character: str) -> str:
    if character.isascii() and (character.isalnum() or character in " ._-"):
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def percentile_layers(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A line from p50 to p99 below the bars, and its marks."""
    rows = dict.fromkeys(point["row"] for point in points)
    of_row = [[point for point in points if point["row"] == row] for row in rows]
    lines = [{"at": p[0]["at"], "end": p[-1]["at"], "strip": p[0]["strip"], "colour": p[0]["colour"]} for p in of_row]
    x, y = {"field": "at", "type": "quantitative"}, {"field": "strip", "type": "quantitative"}
    return [
        {
            "name": "lines",
            "data": {"values": lines},
            "mark": {"type": "rule", "strokeWidth": 1.5, "aria": False},
            "encoding": {"x": x, "x2": {"field": "end"}, "y": y, "color": mark_colour("colour")},
        },
        {
            "name": "percentiles",
            "data": {"values": list(points)},
            "mark": {"type": "point", "filled": True, "size": 60, "opacity": 1, "strokeWidth": 2},
            "encoding": {
                "x": x,
                "y": y,
                "shape": mark_colour("shape"),
                "angle": {"condition": {"test": "datum.shape === 'stroke'", "value": 90}, "value": 0},
                "fill": mark_colour("colour"),
                "stroke": mark_colour("colour"),
                "tooltip": tips(points),
            },
        },
    ]


# --- whom does it harm ----------------------------------------------------------------------------------------------


def change_charts(report: CompressReport, kind: Literal["class", "slice"], output: str = "") -> tuple[list[Chart], list[str]]:
    """The change of each class (of one output) or slice, one chart per result file, the worst first.

    Args:
        report: the report.
        kind: classes or slices.
        output: the output whose classes are drawn; ignored for slices.

    Returns:
        The charts, and the short names of files in which nothing changes, which have none.
    """
    drawn, same = [], []
    for number, (file, style) in enumerate(zip(report.files, styles_of(report), strict=True)):
        found = [g for g in file.groups if g.kind == kind and (kind == "slice" or g.group == output) and known(g.change)]
        if file.role != "file" or not found:
            continue
        if all(g.change == g.low == g.high == 0 and not g.broken and not g.fixed for g in found):
            same.append(style.label)
        else:
            drawn.append((number, file, style, sorted(found, key=lambda g: (g.change or 0.0, g.value))))
    if not drawn:
        return [], same
    ends = [end for *_, groups in drawn for g in groups[:_WORST] for end in (g.change, g.low, g.high) if end is not None]
    least, most = min(-0.5, *ends), max(0.5, *ends)
    room = 0.06 * (most - least)
    domain = (least - room, most + room)
    prefix = f"chart-{kind}-" + "".join(c for c in output if c.isascii() and c.isalnum())
    return [_changes(f"{prefix}-{number}", file, style, groups, domain) for number, file, style, groups in drawn], same


def _changes(id: str, file: FileReport, style: Style, groups: Sequence[GroupChange], domain: tuple[float, float]) -> Chart:
    rows = [_change_row(group) for group in groups[:_WORST]]
    unit = "points" if groups[0].unit == "share" else "%"
    x = {
        "field": "change",
        "type": "quantitative",
        "scale": {"domain": list(domain), "nice": False, "zero": False},
        "axis": {"title": f"{unit} (left is worse)", "tickCount": 5, "grid": True},
    }
    heading = {"title": None, "ticks": False, "domain": False, "labelLimit": 120, "labelColor": "var(--ink)"}
    y = {"field": "name", "type": "nominal", "sort": None, "axis": heading}
    marks = {name: mark_colour(name) for name in ("shape", "fill", "size")} | {"stroke": mark_colour("colour")}
    layers = [
        {
            "name": "zero",
            "data": {"values": [{"x": 0}]},
            "mark": {"type": "rule", "color": "var(--ink-3)", "aria": False},
            "encoding": {"x": {"field": "x", "type": "quantitative"}},
        },
        {
            "name": "bars",
            "data": {"values": [row for row in rows if "low" in row]},
            "mark": {"type": "rule", "strokeWidth": 2, "aria": False},
            "encoding": {"x": {**x, "field": "low"}, "x2": {"field": "high"}, "y": y, "color": mark_colour("colour")},
        },
        {
            "name": "points",
            "data": {"values": rows},
            "mark": {"type": "point", "strokeWidth": 1.5, "opacity": 1},
            "encoding": {"x": x, "y": y, **marks, "tooltip": tips(rows)},
        },
    ]
    cut = f"The {_WORST} worst of {len(groups):,}." if len(groups) > _WORST else ""
    told = "; ".join(f"{row['name']} {row['told']}" for row in rows)
    description = f"Change of {groups[0].metric} per {groups[0].kind} in {file.name}: {told}."
    return Chart(id, style.label, cut, description, base_spec(22 * len(rows)) | {"layer": layers})


def _change_row(group: GroupChange) -> dict[str, Any]:
    unit = "points" if group.unit == "share" else "%"
    meaning = change_meaning(group.change, group.low, group.high)
    worse, better = meaning == "significantly worse", meaning == "significantly better"
    colour = "var(--bad)" if worse else "var(--ok)" if better else "var(--ink-3)"
    name = f"{group.group} {group.value}" if group.kind == "slice" else group.value
    told = value_in(group.change or 0.0, unit, signed=True)
    row: dict[str, Any] = {
        "name": name,
        "change": group.change,
        "colour": colour,
        "told": told,
        "shape": "triangle-left" if worse else "triangle-right" if better else "circle",
        "size": 90 if worse or better else 55,
        "fill": colour if worse or better else "var(--panel)",
    }
    if group.low is not None and group.high is not None and math.isfinite(group.low + group.high):
        row |= {"low": group.low, "high": group.high}
        told = f"{told} ({interval_in(group.low, group.high, unit, signed=True)})"
    figures = ["-" if value is None else value_in(value, group.unit) for value in (group.original, group.file)]
    tip = {group.kind.capitalize(): name, "Change": typeset(told), "Meaning": meaning or "no interval", "Original": figures[0]}
    tip |= {"File": figures[1], "Samples": f"{group.samples:,}"}
    tip |= {"Became wrong": f"{group.broken:,}", "Became right": f"{group.fixed:,}"}
    return row | {f"tip {key}": text for key, text in tip.items()}
