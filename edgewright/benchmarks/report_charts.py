"""The charts of a compress report as Vega-Lite specifications: plain dicts that carry their data.

Colours are CSS variables of the page (`var(--ink)`), so that a chart follows the page's light or dark scheme without
being drawn anew. Every chart is as wide as its container. This module has what all charts share, and the primary metric
against size and latency; `report_spread` has the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgewright.benchmarks.figures import (
    change_of,
    human_bytes,
    interval_text,
    lower_is_better,
    short_names,
    title_of,
    typeset,
    unit_title,
    value_text,
)
from edgewright.benchmarks.report_words import primary_subjects
from edgewright.report import CompressReport, FileReport, Metric

__all__ = ["SHAPES", "Chart", "Style", "base_spec", "known", "mark_colour", "styles_of", "tips", "tradeoff_charts"]

SHAPES: dict[str, str] = {
    "tflite": "circle",
    "openvino": "diamond",
    "onnx": "triangle-up",
    "keras": "square",
    "saved_model": "triangle-down",
}
"""The symbol of each format; formats that are not named here get a cross."""

_COLOURS = 6
_FONT = "-apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'Helvetica Neue', Arial, 'Liberation Sans', sans-serif"
_SUBJECTS = 3
_LABELLED = 14


@dataclass(frozen=True, slots=True)
class Style:
    """How a file is drawn, the same in every chart and table.

    Args:
        label: the file's short name.
        shape: a Vega symbol, by format.
        colour: CSS colour, by recipe.
        filled: whether the symbol is filled; the original and the baseline are hollow.
    """

    label: str
    shape: str
    colour: str
    filled: bool


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart and what stands around it.

    Args:
        id: unique in the page.
        title: what is shown.
        caption: how to read it.
        description: the same for those who do not see it.
        spec: Vega-Lite.
        labels: name of the mark whose points get a label each, placed where there is room; empty for none.
    """

    id: str
    title: str
    caption: str
    description: str
    spec: Mapping[str, Any]
    labels: str = ""


def styles_of(report: CompressReport) -> tuple[Style, ...]:
    """How each file is drawn, in the report's order (names need not be unique: a baseline runs in several engines)."""
    recipes = list(dict.fromkeys(file.recipe for file in report.results))
    found = []
    for file, label in zip(report.files, short_names(report.files), strict=True):
        result = file.role == "file"
        colour = f"var(--series-{recipes.index(file.recipe) % _COLOURS})" if result else "var(--ink-2)"
        found.append(Style(label, SHAPES.get(file.format, "cross"), colour, result))
    return tuple(found)


# --- primary metric against size and latency ------------------------------------------------------------------------


def tradeoff_charts(report: CompressReport) -> list[Chart]:
    """The primary metric against deflated size, and against latency, for each output (three at most)."""
    charts = []
    subjects = primary_subjects(report)
    for number, subject in enumerate(subjects[:_SUBJECTS]):
        of = f" of {subject}" if len(subjects) > 1 else ""
        for name, axis in (("deflated_bytes", "size, deflated"), ("latency_p50", "latency of one inference, p50")):
            title = f"{title_of(report.primary)}{of} against {axis}"
            # The limit is on the first output's figure: see `benchmarks.evaluation`.
            limit = report.max_drop if number == 0 else None
            if chart := _tradeoff(report, name, subject, limit, f"chart-{name}-{number}", title):
                charts.append(chart)
    return charts


def _tradeoff(report: CompressReport, name: str, subject: str, limit: float | None, id: str, title: str) -> Chart | None:
    """One chart of the primary metric; None if fewer than two files, or no result, have both figures."""
    styled = zip(report.files, styles_of(report), strict=True)
    pairs = [(file, style, file.metric(name), file.metric(report.primary, subject)) for file, style in styled]
    drawn = [(f, style, x, y) for f, style, x, y in pairs if x and y and known(x.value, y.value)]
    if len(drawn) < 2 or all(file.role != "file" for file, *_ in drawn):
        return None
    axis = _Axis.across([x for _, _, x, _ in drawn])
    unit = drawn[0][3].unit
    factor = 100.0 if unit == "share" else 1.0
    rows = [_point(report, f, style, x, y, subject, axis, factor) for f, style, x, y in drawn]
    rules = _rules(report, subject, limit, factor)
    ends = [row[key] for row in rows for key in ("y", "y_low", "y_high") if key in row]
    lower = lower_is_better(report.primary)
    domain = _padded([*ends, *(rule["y"] for rule in rules)], factor, lower)
    shown_unit = f", {unit_title(unit)}" if unit else ""
    y = _y(domain, f"{title_of(report.primary)}{shown_unit} ({'lower' if lower else 'higher'} is better)")
    x = _x(axis)
    layers = [_rule_layer(rules, y), *_interval_layers(rows, x, {**y, "axis": None}), _point_layer(rows, x, y)]
    caption = [f"{'Down' if lower else 'Up'} and left is better."]
    if any(row.get("paired") for row in rows):
        caption.append("Vertical bars: 95 % interval of the change against the original, paired over samples.")
    elif any("y_low" in row for row in rows):
        caption.append("Vertical bars: the figure's interval.")
    if any("x_low" in row for row in rows):
        caption.append(f"Horizontal bars: {next(x.interval for _, _, x, _ in drawn if x.interval)}.")
    if missing := [style.label for f, style, x, y in pairs if not (x and y and known(x.value, y.value))]:
        caption.append(f"Not drawn, for lack of a figure: {', '.join(missing)}.")
    if rules and limit is not None:
        caption.append("Dashed: the limit.")
    told = "; ".join(f"{row['label']} {row['y_text']} at {row['x_text']}" for row in rows)
    labels = "points" if len(rows) <= _LABELLED else ""
    spec = base_spec(320) | {"layer": layers, "resolve": {"axis": {"y": "independent"}}}
    return Chart(id, title, " ".join(caption), f"{title}. {told}.", spec, labels)


@dataclass(frozen=True, slots=True)
class _Axis:
    """The horizontal axis: figures are divided by `divisor` to be in the title's unit."""

    title: str
    divisor: float
    domain: tuple[float, float]
    type: Literal["linear", "log"]

    @classmethod
    def across(cls, metrics: Sequence[Metric]) -> _Axis:
        """From zero, so that lengths compare; logarithmic where one figure is more than 30 times another."""
        values = [metric.value for metric in metrics if metric.value is not None]
        highs = [metric.high for metric in metrics if metric.high is not None and known(metric.high)]
        least, top = min(values), max(values)
        unit, divisor = metrics[0].unit, 1.0
        if unit == "bytes":
            scales = (("MiB", 1048576.0), ("KiB", 1024.0), ("bytes", 1.0))
            unit, divisor = next((u, d) for u, d in scales if top >= 2 * d or d == 1)
        title = f"{title_of(metrics[0].name)}, {unit} (lower is better)"
        if least > 0 and top / least > 30:
            title = title.replace(" (", ", logarithmic (")
            return cls(title, divisor, (0.7 * least / divisor, 1.6 * top / divisor), "log")
        # An interval that is far longer than all figures is cut off rather than allowed to push them together.
        reach = max(1.12 * top, min(1.02 * max([top, *highs]), 2 * top))
        return cls(title, divisor, (0.0, reach / divisor or 1.0), "linear")


def _point(
    report: CompressReport, file: FileReport, style: Style, x: Metric, y: Metric, subject: str, axis: _Axis, factor: float
) -> dict[str, Any]:
    """One file's row: where it is drawn, how, and all that its tooltip says."""
    row: dict[str, Any] = {
        "x": (x.value or 0.0) / axis.divisor,
        "y": (y.value or 0.0) * factor,
        "label": style.label,
        "shape": style.shape,
        # A diamond and a triangle of the same area as a circle look smaller.
        "size": 150 if style.shape in {"diamond", "triangle-up", "triangle-down"} else 115,
        "fill": style.colour if style.filled else "var(--panel)",
        "stroke": "var(--panel)" if style.filled else style.colour,
        "colour": style.colour,
        "x_text": value_text(x),
        "y_text": value_text(y),
    }
    if ends := _ends(report, file, y, subject):
        row |= {"y_low": ends[0] * factor, "y_high": ends[1] * factor, "paired": ends[2]}
    if x.low is not None and x.high is not None and known(x.low, x.high):
        limits = (axis.domain[0], axis.domain[1])
        row |= {"x_low": max(limits[0], x.low / axis.divisor), "x_high": min(limits[1], x.high / axis.divisor)}
    return row | _tooltip(report, file, subject)


def _ends(report: CompressReport, file: FileReport, y: Metric, subject: str) -> tuple[float, float, bool] | None:
    """The ends of a point's vertical bar, and whether they are of the change, set on the original; else of the figure itself.

    The interval of the change is paired over samples and so tells files apart; the figure's own interval is mostly what
    the evaluation data share, and would hide every difference.
    """
    if file.role == "original":
        return None
    change, base = change_of(file, report.primary, subject), report.original.metric(report.primary, subject)
    if change and change.low is not None and change.high is not None and base and base.value is not None:
        if known(change.low, change.high, base.value):
            low, high = (_moved(base.value, end, change.unit, report.primary) for end in (change.low, change.high))
            return min(low, high), max(low, high), True
    elif y.low is not None and y.high is not None and known(y.low, y.high):
        return y.low, y.high, False
    return None


def _moved(value: float, change: float, unit: str, name: str) -> float:
    """The value that a change (negative is worse) leads to."""
    if unit == "points":
        return value + change / 100
    step = abs(value) * change / 100
    return value - step if lower_is_better(name) else value + step


def _rules(report: CompressReport, subject: str, limit: float | None, factor: float) -> list[dict[str, Any]]:
    """The original's value and the limit, as horizontal rules."""
    base = report.original.metric(report.primary, subject)
    if base is None or base.value is None or not known(base.value):
        return []
    rules = [{"y": base.value * factor, "kind": "original"}]
    if limit is not None:
        worst = _moved(base.value, -limit, "points" if base.unit == "share" else "%", report.primary)
        rules.append({"y": worst * factor, "kind": "limit"})
    return rules


def _tooltip(report: CompressReport, file: FileReport, subject: str) -> dict[str, str]:
    """Every figure of a file that the files table has, as text."""
    texts = {"File": file.name, "Recipe": file.recipe or file.role, "Format": file.format, "Computed in": file.computed_in or "-"}
    primary, change = file.metric(report.primary, subject), change_of(file, report.primary, subject)
    for title, metric in ((title_of(report.primary), primary), ("Change", change)):
        if metric and metric.value is not None:
            interval = interval_text(metric, method=False)
            texts[title] = typeset(f"{value_text(metric)} ({interval})" if interval else value_text(metric))
    for name in ("raw_bytes", "deflated_bytes", "smaller", "latency_p50", "latency_p99", "speedup"):
        metric = file.metric(name)
        if metric and metric.value is not None:
            size = f" ({human_bytes(metric.value)})" if metric.unit == "bytes" and metric.value >= 1024 else ""
            estimated = " (estimated)" if metric.origin == "estimated" else ""
            texts[title_of(name)] = typeset(f"{value_text(metric)}{size}{estimated}")
    return {f"tip {key}": text for key, text in texts.items()}


def _rule_layer(rules: Sequence[Mapping[str, Any]], y: Mapping[str, Any]) -> dict[str, Any]:
    """The rules, named at the right edge, outside of where files can be."""
    limits = [rule["y"] for rule in rules if rule["kind"] == "limit"]
    # Compared with a margin: a value may come back from the axis with another last bit.
    of_limit = f"abs(datum.value - {limits[0]!r}) < {1e-9 * max(1.0, abs(limits[0]))!r}" if limits else "false"
    is_limit = "datum.kind === 'limit'"
    axis = {
        "orient": "right",
        "title": None,
        "values": [rule["y"] for rule in rules],
        "labelExpr": f"{of_limit} ? 'limit' : 'original'",
        "labelColor": {"condition": {"test": of_limit, "value": "var(--bad)"}, "value": "var(--ink-2)"},
        "domain": False,
        "ticks": False,
        "grid": False,
    }
    return {
        "name": "rules",
        "data": {"values": list(rules)},
        "mark": {"type": "rule", "aria": False},
        "encoding": {
            "y": {**y, "axis": axis},
            "strokeDash": {"condition": {"test": is_limit, "value": [5, 4]}, "value": [1, 0]},
            "color": {"condition": {"test": is_limit, "value": "var(--bad)"}, "value": "var(--ink-3)"},
        },
    }


def _interval_layers(rows: Sequence[Mapping[str, Any]], x: Mapping[str, Any], y: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Error bars: vertical for the primary metric, horizontal for the other."""
    layers = []
    mark = {"type": "rule", "strokeWidth": 1.5, "opacity": 0.8, "aria": False}
    if found := [row for row in rows if "y_low" in row]:
        encoding = {"x": dict(x), "y": {**y, "field": "y_low"}, "y2": {"field": "y_high"}, "color": mark_colour("colour")}
        layers.append({"name": "ybars", "data": {"values": found}, "mark": mark, "encoding": encoding})
    if found := [row for row in rows if "x_low" in row]:
        encoding = {"x": {**x, "field": "x_low"}, "x2": {"field": "x_high"}, "y": dict(y), "color": mark_colour("colour")}
        layers.append({"name": "xbars", "data": {"values": found}, "mark": mark, "encoding": encoding})
    return layers


def _point_layer(rows: Sequence[Mapping[str, Any]], x: Mapping[str, Any], y: Mapping[str, Any]) -> dict[str, Any]:
    marks = {name: mark_colour(name) for name in ("shape", "size", "fill", "stroke")}
    return {
        "name": "points",
        "data": {"values": list(rows)},
        "mark": {"type": "point", "strokeWidth": 1.5, "opacity": 1, "filled": False},
        "encoding": {"x": dict(x), "y": dict(y), **marks, "tooltip": tips(rows)},
    }


def _x(axis: _Axis) -> dict[str, Any]:
    scale = {"type": axis.type, "domain": list(axis.domain), "nice": False, "zero": False}
    return {"field": "x", "type": "quantitative", "scale": scale, "axis": {"title": axis.title, "tickCount": 6, "grid": False}}


def _y(domain: tuple[float, float], title: str) -> dict[str, Any]:
    heading = {"title": title, "titleAngle": 0, "titleAlign": "left", "titleAnchor": "end", "titleX": 0, "titleY": -10}
    return {
        "field": "y",
        "type": "quantitative",
        "scale": {"domain": list(domain), "nice": False, "zero": False},
        "axis": heading | {"tickCount": 6, "format": _decimals(domain)},
    }


def _padded(values: Iterable[float], factor: float, error: bool) -> tuple[float, float]:
    """A domain around values: at least one point of a share (two per cent of other figures) high, with room at both ends."""
    found = [value for value in values if math.isfinite(value)]
    low, high = min(found), max(found)
    least = 1.0 if factor == 100 else 0.02 * max(abs(low), abs(high)) or 1.0
    if high - low < least:
        middle = (low + high) / 2
        low, high = middle - least / 2, middle + least / 2
    pad = 0.09 * (high - low)
    bottom, top = low - pad, high + pad
    if factor == 100:
        # A share cannot leave 0 to 100; the little that is left keeps half a symbol from being cut off.
        return max(bottom, -0.3 * pad), min(top, 100 + 0.3 * pad)
    return (max(bottom, -0.3 * pad) if error else bottom), top


def _decimals(domain: tuple[float, float]) -> str:
    """The number format of an axis of about six ticks: as many decimals as tell them apart (ticks are 1, 2 or 5 apart)."""
    step = (domain[1] - domain[0]) / 6
    power = math.floor(math.log10(step))
    return f",.{max(0, min(8, -power - (step / 10**power >= 50**0.5)))}f"


# --- what all charts share ------------------------------------------------------------------------------------------


def tips(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A tooltip of all fields of some rows whose name begins with "tip "."""
    # The fullest row first: what others lack then stands where it belongs.
    keys = dict.fromkeys(key for row in sorted(rows, key=len, reverse=True) for key in row if key.startswith("tip "))
    return [{"field": key, "type": "nominal", "title": key[4:]} for key in keys]


def mark_colour(field: str) -> dict[str, Any]:
    """A channel that takes a field's values as they are: colours, shapes, sizes."""
    return {"field": field, "type": "quantitative" if field == "size" else "nominal", "scale": None}


def base_spec(height: int) -> dict[str, Any]:
    """What every specification begins with; `height` is in pixels."""
    return {
        "width": "container",
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "background": "transparent",
        "padding": {"left": 2, "right": 10, "top": 4, "bottom": 2},
        "config": {
            "font": _FONT,
            "view": {"stroke": None},
            "axis": {
                "labelColor": "var(--ink-2)",
                "titleColor": "var(--ink-2)",
                "gridColor": "var(--line)",
                "domainColor": "var(--line-2)",
                "tickColor": "var(--line-2)",
                "labelFontSize": 11,
                "titleFontSize": 11,
                "titleFontWeight": "normal",
                "titlePadding": 8,
            },
            "axisX": {"titleAnchor": "end", "titleAlign": "right"},
            "axisQuantitative": {"tickSize": 4, "labelOverlap": True, "labelSeparation": 6},
        },
    }


def known(*values: float | None) -> bool:
    """Whether all values are numbers that can be drawn."""
    return all(value is not None and math.isfinite(value) for value in values)
