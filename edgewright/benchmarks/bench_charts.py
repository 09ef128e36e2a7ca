"""Charts of a report on benchmarks: how latencies are spread, drift over processes, power while it was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from edgewright.benchmarks.bench_lanes import Lane, interval_of, shown, title
from edgewright.benchmarks.figures import number_in, typeset, value_in
from edgewright.benchmarks.report_charts import Chart, base_spec, known, mark_colour, tips
from edgewright.benchmarks.report_spread import bin_layer, latency_scale, percentile_layers
from edgewright.report import Histogram

__all__ = ["LABEL_PIXELS", "drift_chart", "energy_charts", "spread_chart"]

_ROW = 76
_FLOOR, _TALL, _STRIP = 0.36, 0.56, 0.17
"""In a row of the latency chart: where bars stand, the height of the highest, and where the percentiles' line lies."""

LABEL_PIXELS = 240
"""Room for the labels of lanes and ops, in pixels."""


# --- latency --------------------------------------------------------------------------------------------------------


def spread_chart(lanes: Sequence[Lane]) -> Chart | None:
    """Histograms of the latency of one inference, a row per lane; None if no lane has one."""
    drawn = [(lane, found) for lane in lanes if (found := _histogram(lane))]
    if not drawn:
        return None
    bins: list[dict[str, Any]] = []
    lines: list[dict[str, Any]] = []
    for row, (lane, histogram) in enumerate(reversed(drawn)):
        bins += _bins(row, histogram, lane)
        lines += _percentiles(row, lane)
    scale = latency_scale([histogram for _, histogram in drawn], [line["at"] for line in lines])
    kind = ", logarithmic" if scale["type"] == "log" else ""
    axis = {"title": f"Latency of one inference, ms{kind} (lower is better)", "tickCount": 6, "grid": True}
    x = {"field": "from", "type": "quantitative", "scale": scale, "axis": axis}
    labels: list[Any] = [(*_two_lines(lane), _ends(lane)) for lane, _ in reversed(drawn)]
    layer = bin_layer(bins, x, labels)
    layer["encoding"]["y"]["axis"] |= {"labelLimit": LABEL_PIXELS}
    outside = sum(histogram.below + histogram.above for _, histogram in drawn)
    more = f" {outside:,} inferences are slower than the bars reach; the table has them." if outside else ""
    caption = (
        "Bars: inferences per bin, all processes together, each row to its own highest. Below them p50 ●, p90 | and p99 ◀, "
        f"means over processes; at the left p50 / p99 in ms.{more}"
    )
    told = "; ".join(f"{lane.label}: p50 {_told(lane, 'latency_p50')}, p99 {_told(lane, 'latency_p99')}" for lane, _ in drawn)
    layers = [layer, *(percentile_layers(lines) if lines else [])]
    spec = base_spec(_ROW * len(drawn)) | {"layer": layers}
    heading = "How latencies are spread"
    return Chart("chart-spread", heading, caption, f"{heading}. {told}.", spec)


def _two_lines(lane: Lane) -> tuple[str, ...]:
    """A label in two lines if it has more than two parts."""
    return (lane.lines[0], ", ".join(lane.lines[1:])) if len(lane.lines) > 2 else (lane.label,)


def _histogram(lane: Lane) -> Histogram | None:
    found = lane.part("histogram")
    if not found.get("counts") or sum(found["counts"]) == 0:
        return None
    ends = (tuple(map(float, found["edges"])), tuple(map(int, found["counts"])))
    return Histogram(str(found.get("unit", "ms")), *ends, int(found.get("below", 0)), int(found.get("above", 0)))


def _told(lane: Lane, name: str) -> str:
    metric = lane.metric(name)
    return shown(metric) if metric else "-"


def _ends(lane: Lane) -> str:
    found = [lane.metric(name) for name in ("latency_p50", "latency_p99")]
    return " / ".join(number_in(m.value, m.unit) for m in found if m is not None and m.value is not None)


def _bins(row: int, histogram: Histogram, lane: Lane) -> list[dict[str, Any]]:
    highest, found = max(histogram.counts), []
    for left, right, count in zip(histogram.edges, histogram.edges[1:], histogram.counts, strict=False):
        if count:
            place = {"from": left, "to": right, "low": row + _FLOOR, "high": row + _FLOOR + _TALL * count / highest}
            span = f"{number_in(left, histogram.unit)} to {value_in(right, histogram.unit)}"
            tip = {"tip Where": lane.label, "tip Latency": span, "tip Inferences": f"{count:,}"}
            found.append({**place, "fill": lane.colour, **tip})
    return found


def _percentiles(row: int, lane: Lane) -> list[dict[str, Any]]:
    found = []
    for name, shape in (("latency_p50", "circle"), ("latency_p90", "stroke"), ("latency_p99", "triangle-left")):
        metric = lane.metric(name)
        if metric is None or metric.value is None or not known(metric.value):
            continue
        interval = interval_of(metric)
        text = f"{shown(metric)} ({interval})" if interval else shown(metric)
        place = {"at": metric.value, "strip": row + _STRIP, "shape": shape, "colour": lane.colour}
        found.append({**place, "row": row, "tip Where": lane.label, f"tip {title(name)}": typeset(text)})
    return found


def drift_chart(lanes: Sequence[Lane]) -> Chart | None:
    """The median of each process in the order in which they ran; None if no lane had two processes."""
    rows, means = [], {lane.number: fmean(of) for lane in lanes if (of := _medians(lane))}
    drawn = [lane for lane in lanes if len(_medians(lane)) > 1]
    relative = len(drawn) > 1
    for lane in drawn:
        rows += _steps(lane, means[lane.number] if relative else None)
    if not rows:
        return None
    what = "p50 of the process, % above its mean over processes" if relative else "p50 of the process, ms (lower is better)"
    heading = {"title": what, "titleAngle": 0, "titleAlign": "left", "titleAnchor": "end", "titleX": 0, "titleY": -10}
    x = {
        "field": "order",
        "type": "quantitative",
        "axis": {"title": "process, in the order they ran", "tickMinStep": 1, "grid": False},
    }
    x["scale"] = {"nice": False, "zero": False, "padding": 12}
    y = {"field": "y", "type": "quantitative", "scale": {"zero": False, "nice": True}, "axis": {**heading, "tickCount": 5}}
    zero = {
        "name": "zero",
        "data": {"values": [{"y": 0}]},
        "mark": {"type": "rule", "color": "var(--ink-3)", "aria": False},
        "encoding": {"y": {"field": "y", "type": "quantitative"}},
    }
    line = {
        "name": "steps",
        "data": {"values": rows},
        "mark": {"type": "line", "strokeWidth": 1.5, "aria": False},
        "encoding": {"x": x, "y": y, "color": mark_colour("colour"), "detail": {"field": "lane", "type": "nominal"}},
    }
    point = {
        "name": "processes",
        "data": {"values": rows},
        "mark": {"type": "point", "filled": True, "opacity": 1, "strokeWidth": 2},
        "encoding": {
            **{"x": x, "y": y, "tooltip": tips(rows), "shape": mark_colour("shape"), "size": mark_colour("size")},
            **{"fill": mark_colour("fill"), "stroke": mark_colour("colour")},
        },
    }
    caption = "A slope is a device that warms up or is slowed down, a step is other work."
    if any(row["fill"] != row["colour"] for row in rows):
        caption += " Hollow triangles: the device was throttled."
    title_ = "Drift over processes"
    told = "; ".join(f"{lane.label}: {', '.join(value_in(one, 'ms') for one in _medians(lane))}" for lane in drawn)
    spec = base_spec(240) | {"layer": [*([zero] if relative else []), line, point]}
    spec["padding"] = {"left": 2, "right": 10, "top": 16, "bottom": 2}
    return Chart("chart-drift", title_, caption, f"{title_}, p50 of each process. {told}.", spec)


def _medians(lane: Lane) -> list[float]:
    return [float(process["p50_ms"]) for process in lane.entries("processes") if known(process.get("p50_ms"))]


def _steps(lane: Lane, mean: float | None) -> list[dict[str, Any]]:
    """Points of one lane; relative to a mean if there is one."""
    found = []
    for number, process in enumerate(lane.entries("processes")):
        value = process.get("p50_ms")
        if value is None or not known(value):
            continue
        order = process.get("order")
        slowed = bool(process.get("throttled"))
        row = {
            "order": (number if order is None else int(order)) + 1,
            "y": 100 * (value / mean - 1) if mean else value,
            "lane": str(lane.number),
            "colour": lane.colour,
            "fill": "var(--panel)" if slowed else lane.colour,
            "shape": "triangle-up" if slowed else "circle",
            "size": 110 if slowed else 55,
            "tip Where": lane.label,
            "tip Process": f"{number + 1}",
            "tip p50": value_in(value, "ms"),
        }
        more = {key: process.get(f"{key}_ms") for key in ("p90", "p99")}
        row |= {f"tip {key}": value_in(own, "ms") for key, own in more.items() if own is not None and known(own)}
        found.append(row | ({"tip Throttled": "yes"} if slowed else {}))
    return sorted(found, key=lambda row: float(row["order"]))


# --- energy ---------------------------------------------------------------------------------------------------------


def energy_charts(lanes: Sequence[Lane]) -> list[Chart]:
    """Power over time with windows and baselines drawn in: of each lane the process whose energy is the middle one."""
    charts = []
    for lane in lanes:
        traced = [
            (number, entry)
            for number, entry in enumerate(lane.entries("energy"), 1)
            if len((entry.get("trace") or {}).get("t_ms") or ()) > 1 and known(entry.get("mj_per_inference"))
        ]
        if traced:
            ordered = sorted(traced, key=lambda pair: float(pair[1]["mj_per_inference"]))
            charts.append(_power_chart(lane, *ordered[(len(ordered) - 1) // 2], len(lane.entries("energy"))))
    return charts


def _power_chart(lane: Lane, number: int, energy: Mapping[str, Any], processes: int) -> Chart:
    seconds = [float(t) / 1e3 for t in energy["trace"]["t_ms"]]
    watts = [float(w) for w in energy["trace"]["watts"]]
    idle, busy = float(energy["baseline_watts"]), float(energy["active_watts"])
    low, high = min([*watts, idle]), max([*watts, busy])
    floor = 0.0 if low < 0.6 * high else low - 0.08 * (high - low)
    ceiling = high + 0.12 * (high - floor)
    heading = {"title": "W", "titleAngle": 0, "titleAlign": "left", "titleAnchor": "end", "titleX": 0, "titleY": -10}
    scale = {"domain": [floor, ceiling], "nice": False, "zero": False}
    y = {"field": "watts", "type": "quantitative", "scale": scale, "axis": {**heading, "tickCount": 5}}
    x_scale = {"domain": [seconds[0], seconds[-1]], "nice": False, "zero": False}
    x = {"field": "at", "type": "quantitative", "scale": x_scale, "axis": {"title": "s", "tickCount": 8, "grid": False}}
    spans = [*_spans(energy.get("baselines") or (), "baseline"), *_spans(energy.get("windows") or (), "window")]
    first = [min((s["at"] for s in spans if s["kind"] == kind), default=seconds[0]) for kind in ("baseline", "window")]
    last = [max((s["end"] for s in spans if s["kind"] == kind), default=seconds[-1]) for kind in ("baseline", "window")]
    levels = [
        {"at": first[0], "end": last[0], "watts": idle, "colour": "var(--ink-2)", "text": f"idle {value_in(idle, 'W')}"},
        {"at": first[1], "end": last[1], "watts": busy, "colour": "var(--ink)", "text": f"busy {value_in(busy, 'W')}"},
    ]
    trace = [{"at": at, "watts": power} for at, power in zip(seconds, watts, strict=True)]
    text = {
        "type": "text",
        "align": "left",
        "baseline": "bottom",
        "dx": 4,
        "dy": -3,
        "fontSize": 11,
        "fontWeight": 600,
        "aria": False,
    }
    layers = [
        {
            "name": "spans",
            "data": {"values": spans},
            "mark": {"type": "rect", "stroke": "var(--panel)", "strokeWidth": 1},
            "encoding": {
                **{"x": x, "x2": {"field": "end"}, "fill": mark_colour("fill"), "tooltip": tips(spans)},
                "opacity": mark_colour("opacity") | {"type": "quantitative"},
            },
        },
        {
            "name": "power",
            "data": {"values": trace},
            "mark": {"type": "line", "interpolate": "step" if energy.get("kind") == "mean" else "linear", "strokeWidth": 1.2},
            "encoding": {"x": x, "y": y, "color": {"value": lane.colour}},
        },
        {
            "name": "levels",
            "data": {"values": levels},
            "mark": {"type": "rule", "strokeWidth": 1.5, "strokeDash": [5, 3], "aria": False},
            "encoding": {"x": x, "x2": {"field": "end"}, "y": y, "color": mark_colour("colour")},
        },
        {
            "name": "level-names",
            "data": {"values": levels},
            "mark": {**text, "stroke": "var(--panel)", "strokeWidth": 3},
            "encoding": {"x": x, "y": y, "text": {"field": "text"}, "fill": mark_colour("colour")},
        },
    ]
    spec = base_spec(240) | {"layer": layers, "padding": {"left": 2, "right": 10, "top": 16, "bottom": 2}}
    mark = "ESTIMATED POWER, not measured. " if energy.get("origin") == "estimated" else ""
    which = f" Process {number} of {processes}, the one in the middle by energy." if processes > 1 else ""
    place = f"{energy.get('meter', 'meter')}, {energy.get('scope', '')}"
    caption = (
        f"{mark}{place}, {float(energy.get('rate_hz') or 0):,.4g} readings a second. Blue: windows of inferences, grey: idle "
        f"baselines; dashed: their means.{which}"
    )
    net = f"{value_in(float(energy['mj_per_inference']), 'mJ')} per inference above idle"
    description = f"Power while inferences ran, {lane.label}, {place}: {levels[0]['text']}, {levels[1]['text']}, {net}."
    return Chart(f"chart-power-{lane.number}", lane.label, caption, description, spec)


def _spans(spans: Sequence[Sequence[float]], kind: str) -> list[dict[str, Any]]:
    window = kind == "window"
    found = []
    for number, (begin, end, count) in enumerate(spans, 1):
        tip = {"tip Span": f"{kind} {number}", "tip From": f"{begin / 1e3:.3f} s", "tip To": f"{end / 1e3:.3f} s"}
        if window:
            tip["tip Inferences"] = f"{count:,}"
        place = {"at": begin / 1e3, "end": end / 1e3, "kind": kind, "opacity": 0.16 if window else 0.3}
        found.append({**place, "fill": "var(--accent)" if window else "var(--line-2)", **tip})
    return found
