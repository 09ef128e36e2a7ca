"""The charts of a report on benchmarks: distributions, drift over processes, ops, placement, power while it was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from edgewright.benchmarks.bench_lanes import Lane, interval_of, shown, title
from edgewright.benchmarks.figures import number_in, typeset, value_in
from edgewright.benchmarks.report_charts import Chart, base_spec, known, mark_colour, tips
from edgewright.benchmarks.report_spread import _bin_layer, _js_list, _latency_scale, _percentile_layers
from edgewright.report import Histogram

__all__ = ["TOP_OPS", "drift_chart", "energy_charts", "op_charts", "placement_chart", "spread_chart"]

TOP_OPS = 15
"""Ops in a chart: those that take the longest."""

_ROW = 76
_FLOOR, _TALL, _STRIP = 0.36, 0.56, 0.17
"""In a row of the latency chart: where bars stand, the height of the highest, and where the percentiles' line lies."""

_THINNEST = 0.0012
"""Width of an op without multiply-adds in the placement map, as a part of all, so that it can be seen."""

_LABELS = 240
"""Room for the labels of lanes and ops, in pixels."""

_LETTERS = 34
"""Letters of an op's label."""


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
    scale = _latency_scale([histogram for _, histogram in drawn], [line["at"] for line in lines])
    kind = ", logarithmic" if scale["type"] == "log" else ""
    axis = {"title": f"Latency of one inference, ms{kind} (lower is better)", "tickCount": 6, "grid": True}
    x = {"field": "from", "type": "quantitative", "scale": scale, "axis": axis}
    labels = [(*_two_lines(lane), _ends(lane)) for lane, _ in reversed(drawn)]
    layer = _bin_layer(bins, x, labels)
    layer["encoding"]["y"]["axis"] |= {"labelLimit": _LABELS}
    outside = sum(histogram.below + histogram.above for _, histogram in drawn)
    more = f" {outside:,} inferences are slower than the bars reach; the table has them." if outside else ""
    caption = (
        "Bars: inferences per bin, all processes together, each row to its own highest. Below them p50 ●, p90 | and p99 ◀, "
        f"means over processes; at the left p50 / p99 in ms.{more}"
    )
    told = "; ".join(f"{lane.label}: p50 {_told(lane, 'latency_p50')}, p99 {_told(lane, 'latency_p99')}" for lane, _ in drawn)
    layers = [layer, *(_percentile_layers(lines) if lines else [])]
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


# --- ops ------------------------------------------------------------------------------------------------------------


def op_charts(lanes: Sequence[Lane], colours: Mapping[str, str]) -> list[Chart]:
    """The ops that take the longest, with intervals of their shares, one chart per lane that has a profile."""
    return [_op_chart(lane, colours) for lane in lanes if lane.part("profile").get("ops")]


def _op_chart(lane: Lane, colours: Mapping[str, str]) -> Chart:
    profile = lane.part("profile")
    ops = sorted(profile["ops"], key=lambda op: -float(op["share"]))
    top, rest = ops[:TOP_OPS], ops[TOP_OPS:]
    rows = [_op_row(at, op, colours) for at, op in enumerate(top)]
    x_axis = {"title": "part of the time of all ops, %", "tickCount": 5, "grid": True}
    x = {"field": "share", "type": "quantitative", "axis": x_axis, "scale": {"zero": True, "nice": False}}
    names = _js_list([row["name"] for row in rows])
    axis = {"title": None, "ticks": False, "domain": False, "labelLimit": _LABELS, "labelColor": "var(--ink)"}
    y = {"field": "row", "type": "ordinal", "sort": None, "axis": {**axis, "labelExpr": f"{names}[datum.value]"}}
    bars = {
        "name": "ops",
        "data": {"values": rows},
        "mark": {"type": "bar", "opacity": 0.75, "height": {"band": 0.66}},
        "encoding": {"x": x, "y": y, "fill": mark_colour("fill"), "tooltip": tips(rows)},
    }
    spans = {
        "name": "intervals",
        "data": {"values": rows},
        "mark": {"type": "rule", "strokeWidth": 1.5, "color": "var(--ink)", "aria": False},
        "encoding": {"x": {**x, "field": "low"}, "x2": {"field": "high"}, "y": y},
    }
    parts = [f"{profile.get('source', 'profiler')}, {profile.get('runs', 0):,} runs."]
    if rest:
        parts.append(f"The other {len(rest)} ops take {sum(float(op['share']) for op in rest):.1%}.")
    if profile.get("unattributed_share"):
        parts.append(f"{float(profile['unattributed_share']):.1%} of an inference is in no op.")
    told = "; ".join(f"{row['name']} {row['share']:.1f} %" for row in rows)
    spec = base_spec(20 * len(rows)) | {"layer": [bars, spans]}
    description = f"Ops that take the longest, {lane.label}: {told}."
    return Chart(f"chart-ops-{lane.number}", lane.label, " ".join(parts), description, spec)


def _op_row(at: int, op: Mapping[str, Any], colours: Mapping[str, str]) -> dict[str, Any]:
    device = str(op.get("device") or "")
    row = {
        "row": at,
        "name": _label(str(op["op"]), str(op["name"])),
        "share": 100 * float(op["share"]),
        "low": 100 * float(op["low"]),
        "high": 100 * float(op["high"]),
        "fill": colours.get(device, "var(--ink-3)"),
        "tip Op": str(op["op"]),
        "tip Name": str(op["name"]),
        "tip Share": f"{float(op['share']):.2%} ({float(op['low']):.2%} to {float(op['high']):.2%})",
        "tip Time": value_in(float(op["ms"]), "ms"),
        "tip Device": device or "not told",
    }
    return row | ({"tip Kernel": str(op["kind"])} if op.get("kind") else {})


def _label(op: str, name: str) -> str:
    """An op's type and the end of its first name, where names differ."""
    parts = [part for part in name.partition(";")[0].split("/") if part]
    end = "/".join(parts[-2:])
    if end.startswith(op):  # OpenVINO names ops after their types
        op, end = "", end or op
    room = max(12, _LETTERS - len(op))
    return f"{op} {end if len(end) <= room else f'…{end[1 - room :]}'}".strip()


def placement_chart(lanes: Sequence[Lane], colours: Mapping[str, str]) -> Chart | None:
    """Ops in the file's order as a strip, as wide as their multiply-adds; None if no lane tells where they run."""
    drawn = _placed(lanes)
    if not drawn:
        return None
    rows: list[dict[str, Any]] = []
    for row, (_, placed) in enumerate(reversed(drawn)):
        rows += _strip(row, placed, colours)
    labels = _js_list([label for label, _ in reversed(drawn)])
    axis = {
        "title": None,
        "ticks": False,
        "domain": False,
        "grid": False,
        "labelLimit": _LABELS,
        "labelColor": "var(--ink)",
        "labelPadding": 8,
    }
    axis |= {"values": [row + 0.5 for row in range(len(drawn))], "labelExpr": f"{labels}[floor(datum.value)]"}
    order = {"title": "ops in the file's order →", "labels": False, "ticks": False, "grid": False, "domain": False}
    x = {"field": "from", "type": "quantitative", "scale": {"domain": [0, 1], "nice": False}, "axis": order}
    scale = {"domain": [0, len(drawn)], "nice": False, "zero": False}
    layer = {
        "name": "placed",
        "data": {"values": rows},
        "mark": {"type": "rect", "stroke": "var(--panel)", "strokeWidth": 0.5, "opacity": 0.85},
        "encoding": {
            **{"x": x, "x2": {"field": "to"}, "fill": mark_colour("fill"), "tooltip": tips(rows)},
            "y": {"field": "low", "type": "quantitative", "scale": scale, "axis": axis},
            "y2": {"field": "high"},
        },
    }
    heading = "Where each op runs"
    caption = (
        "Each block is an op, as wide as its multiply-adds; ops without any are hairlines. Colour: device or delegate. "
        "Low blocks are ops that no delegate or accelerator took."
    )
    told = "; ".join(
        f"{label}: " + ", ".join(f"{entry['ops']} ops on {entry['device'] or 'what is not told'}" for entry in placed["devices"])
        for label, placed in drawn
    )
    spec = base_spec(46 * len(drawn)) | {"layer": [layer]}
    return Chart("chart-placement", heading, caption, f"{heading}. {told}.", spec)


def _placed(lanes: Sequence[Lane]) -> list[tuple[str, Mapping[str, Any]]]:
    """Placements with their labels; thread counts of one report whose ops run alike stand once."""
    found: list[tuple[int, str, Mapping[str, Any]]] = []
    for lane in lanes:
        placed = lane.part("placement")
        if not placed.get("ops"):
            continue
        before = [known_ for at, _, known_ in found if at == lane.at]
        if placed not in before:
            found.append((lane.at, lane.label if before else lane.place, placed))
    return [(label, placed) for _, label, placed in found]


def _strip(row: int, placed: Mapping[str, Any], colours: Mapping[str, str]) -> list[dict[str, Any]]:
    ops = placed["ops"]
    macs = [float(op.get("macs") or 0) for op in ops]
    total = sum(macs)
    widths = [max(_THINNEST, one / total) if total else 1.0 for one in macs]
    whole, at, rows = sum(widths), 0.0, []
    for op, own, width in zip(ops, macs, widths, strict=True):
        device = str(op.get("device") or "")
        count = "not counted" if op.get("macs") is None else f"{own:,.0f}" + (f" ({own / total:.2%})" if total else "")
        entry = {
            "from": at / whole,
            "to": (at + width) / whole,
            "low": row + 0.12,
            "high": row + (0.88 if op.get("delegate") else 0.5),
            "fill": colours.get(device, "var(--ink-3)"),
            "tip Op": f"{op.get('index', len(rows))}: {op['op']}",
            "tip Name": str(op.get("name") or ""),
            "tip Runs on": device or "not told",
            "tip Multiply-adds": count,
        }
        rows.append(entry | ({"tip Why not in a delegate": str(op["reason"])} if op.get("reason") else {}))
        at += width
    return rows


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
    floor = 0.0 if low < 0.5 * high else low - 0.08 * (high - low)
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
        {"at": first[1], "end": last[1], "watts": busy, "colour": "var(--accent)", "text": f"busy {value_in(busy, 'W')}"},
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
            "mark": {"type": "rect", "stroke": None},
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
