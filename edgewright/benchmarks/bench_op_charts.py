"""Charts of what the ops of a model cost and where they run, in a report on benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgewright.benchmarks.bench_charts import LABEL_PIXELS
from edgewright.benchmarks.bench_lanes import Lane
from edgewright.benchmarks.figures import interval_in, value_in
from edgewright.benchmarks.report_charts import Chart, base_spec, mark_colour, tips
from edgewright.benchmarks.report_spread import js_list

__all__ = ["TOP_OPS", "op_charts", "placement_chart"]

TOP_OPS = 15
"""Ops in a chart: those that take the longest."""

_THINNEST = 0.004
"""Width of an op with few or no multiply-adds in the placement map, as a part of all, so that it can be seen."""

_THIN_TOGETHER = 0.25
"""What all such ops may take together."""

_LETTERS = 34
"""Letters of an op's label."""


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
    names = js_list([row["name"] for row in rows])
    axis = {"title": None, "ticks": False, "domain": False, "labelLimit": LABEL_PIXELS, "labelColor": "var(--ink)"}
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
        parts.append(f"The other {len(rest)} ops take {value_in(sum(float(op['share']) for op in rest), 'share')}.")
    if profile.get("unattributed_share"):
        parts.append(f"{value_in(float(profile['unattributed_share']), 'share')} of an inference is in no op.")
    told = "; ".join(f"{row['name']} {row['share']:.1f} %" for row in rows)
    spec = base_spec(20 * len(rows)) | {"layer": [bars, spans]}
    description = f"Ops that take the longest, {lane.label}: {told}."
    return Chart(f"chart-ops-{lane.number}", lane.label, " ".join(parts), description, spec)


def _op_row(at: int, op: Mapping[str, Any], colours: Mapping[str, str]) -> dict[str, Any]:
    device, share = str(op.get("device") or ""), float(op["share"])
    row = {
        "row": at,
        "name": _label(str(op["op"]), str(op["name"])),
        "share": 100 * share,
        "low": 100 * float(op["low"]),
        "high": 100 * float(op["high"]),
        "fill": colours.get(device, "var(--ink-3)"),
        "tip Op": str(op["op"]),
        "tip Name": str(op["name"]),
        "tip Share": f"{value_in(share, 'share')} ({interval_in(float(op['low']), float(op['high']), 'share')})",
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
    room = max(14, _LETTERS - len(op))
    # Cut in the middle: the beginning tells blocks apart, the end layers of a block.
    return f"{op} {end if len(end) <= room else f'{end[: room - 7]}…{end[-6:]}'}".strip()


def placement_chart(lanes: Sequence[Lane], colours: Mapping[str, str]) -> Chart | None:
    """Ops in the file's order as a strip, as wide as their multiply-adds; None if no lane tells where they run."""
    drawn = _placed(lanes)
    if not drawn:
        return None
    rows: list[dict[str, Any]] = []
    for row, (_, placed) in enumerate(reversed(drawn)):
        rows += _strip(row, placed, colours)
    labels = js_list([label for label, _ in reversed(drawn)])
    axis: dict[str, Any] = {
        "title": None,
        "ticks": False,
        "domain": False,
        "grid": False,
        "labelLimit": LABEL_PIXELS,
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
        "Each block is an op, as wide as its multiply-adds; those with hardly any are drawn wider so that they are seen. "
        "Colour: device or delegate. Low blocks are ops that no delegate or accelerator took."
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
    thinnest = min(_THINNEST, _THIN_TOGETHER / max(1, sum(one < _THINNEST * total for one in macs)))
    widths = [max(thinnest, one / total) if total else 1.0 for one in macs]
    whole, at = sum(widths), 0.0
    rows: list[dict[str, Any]] = []
    for op, own, width in zip(ops, macs, widths, strict=True):
        device = str(op.get("device") or "")
        count = (
            "not counted" if op.get("macs") is None else f"{own:,.0f}" + (f" ({value_in(own / total, 'share')})" if total else "")
        )
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
