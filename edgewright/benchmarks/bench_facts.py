"""What was measured, where and under which conditions, as rows of text: the same in every form of a report on benchmarks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edgewright.benchmarks.bench_lanes import Lane, device_of
from edgewright.benchmarks.figures import human_bytes, interval_in, value_in

__all__ = [
    "ENERGIES",
    "PROCESSES",
    "condition_rows",
    "devices_of",
    "energy_notes",
    "energy_rows",
    "estimate_rows",
    "fact_rows",
    "no_energy",
    "outside_rows",
    "placement_text",
    "process_rows",
    "profile_rows",
    "quantile_rows",
]

_NAMED = 3
_LONGEST = 60


def fact_rows(lanes: Sequence[Lane]) -> list[tuple[str, list[str]]]:
    """Rows of (what, its text for each lane): file, engine, device, conditions, settings; rows that nobody has are left out."""
    columns = [_facts(lane) for lane in lanes]
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [(name, [column.get(name, "") for column in columns]) for name in names]
    return [(name, cells) for name, cells in rows if any(cells)]


def _facts(lane: Lane) -> dict[str, str]:
    model, settings = lane.report["model"], lane.report["settings"]
    execution, machine, device = model.get("execution") or {}, settings.get("machine") or {}, device_of(lane.report)
    kinds = ", ".join(map(str, execution.get("kinds") or ()))
    precision = str(execution.get("precision") or "")
    runs = [process.get("runs") or 0 for process in lane.entries("processes")]
    way = ", ".join(part for part in (device["transport"], device["address"]) if part)
    cores, memory = machine.get("cores"), machine.get("memory_bytes")
    processes = f"{len(runs)} process{'' if len(runs) == 1 else 'es'}"
    states = [entry.get(when) or {} for entry in lane.entries("conditions") for when in ("before", "after")]
    return {
        "File": str(model.get("path") or ""),
        "sha256": str(model.get("sha256") or ""),
        "Format": str(model.get("format") or ""),
        "Engine": lane.engine,
        "Computed in": f"mixed precision: {kinds}" if precision == "mixed" and kinds else precision,
        "Runs on": str(execution.get("device") or ""),
        "Where ops run": placement_text(lane),
        "Threads": str(lane.threads),
        "Batch": str(model.get("batch") or ""),
        "Device": device["name"] if device["title"] in ("", device["name"]) else f"{device['title']} ({device['name']})",
        "Reached by": way,
        "Processor": ", ".join([str(machine["cpu"]), *([f"{cores} core{'' if cores == 1 else 's'}"] if cores else [])])
        if machine.get("cpu")
        else "",
        "Memory": human_bytes(memory) if isinstance(memory, (int, float)) else "",
        "System": " ".join(str(machine[key]) for key in ("system", "release", "architecture") if machine.get(key)),
        "Host name": str(machine.get("hostname") or ""),
        "Governor": _governors(states),
        "Clocks": _clocks(states),
        "Temperature": _heat(lane.entries("conditions")),
        "Throttled": _throttled(lane.entries("conditions")),
        "Load before": f"{settings['load_average']:.1f} (1 minute average)" if settings.get("load_average") is not None else "",
        "Measured": f"{sum(runs):,} inferences in {processes}" if runs else "",
        "Each process": _timing(settings),
        "Meter asked for": str(settings.get("meter") or ""),
        "Python, NumPy": ", ".join(str(settings[key]) for key in ("python", "numpy") if settings.get(key)),
    }


def _timing(settings: Mapping[str, Any]) -> str:
    """How long a process measures, and after what."""
    if "duration_s" not in settings:
        return ""
    text = f"{settings['duration_s']:g} s after {settings.get('warmup_s', 0):g} s of warm-up"
    return f"{text}, float32 forced" if settings.get("exact") else text


def placement_text(lane: Lane) -> str:
    """Where the ops run, by device, with their part of the multiply-adds; or why that is not known."""
    placed = lane.part("placement")
    if "ops" not in placed:
        return f"not known: {placed['why_absent']}" if placed.get("why_absent") else ""
    parts = []
    for entry in placed.get("devices") or ():
        share = entry.get("macs_share")
        macs = "" if share is None else f", {value_in(share, 'share')} of the multiply-adds"
        parts.append(f"{entry['device'] or 'a device that is not told'}: {entry['ops']} of {placed['count']} ops{macs}")
    return "; ".join(parts)


def _absent(states: Iterable[Mapping[str, Any]], key: str) -> str:
    why = next((str(state["absent"][key]) for state in states if (state.get("absent") or {}).get(key)), "")
    return f"not told: {why}" if why else ""


def _governors(states: Sequence[Mapping[str, Any]]) -> str:
    names = sorted({str(name) for state in states for name in (state.get("governor") or {}).values()})
    return ", ".join(names) or _absent(states, "governor")


def _clocks(states: Sequence[Mapping[str, Any]]) -> str:
    """Frequencies found, and the highest that is allowed."""
    policies = [policy for state in states for policy in (state.get("frequency_hz") or {}).values()]
    found = [policy["cur"] for policy in policies if "cur" in policy]
    if not found:
        return _absent(states, "frequency_hz")
    allowed = max((policy["max"] for policy in policies if "max" in policy), default=0)
    text = f"{_span(min(found) / 1e9, max(found) / 1e9, 2)} GHz"
    return f"{text}, up to {allowed / 1e9:.2f} GHz are allowed" if allowed else text


def _heat(entries: Sequence[Mapping[str, Any]]) -> str:
    """The hottest zone before the first process and after the last, and all there is in between."""
    states = [entry.get(when) or {} for entry in entries for when in ("before", "after")]
    hottest = [max((state.get("temperature_c") or {}).values(), default=None) for state in states]
    known = [degrees for degrees in hottest if degrees is not None]
    if not known:
        return _absent(states, "temperature_c")
    return f"{known[0]:.1f} °C before, {known[-1]:.1f} °C after, at most {max(known):.1f} °C"


def _throttled(entries: Sequence[Mapping[str, Any]]) -> str:
    told = [entry.get("throttled") for entry in entries]
    if True in told:
        reasons = dict.fromkeys(str(entry.get("why") or "") for entry in entries if entry.get("throttled"))
        return f"YES, in {told.count(True)} of {len(told)} processes: {'; '.join(filter(None, reasons))}"
    why = next((str(entry.get("why") or "") for entry in entries if entry.get("why")), "")
    if False in told:
        unknown = f"; {told.count(None)} of {len(told)} processes could not tell" if None in told else ""
        return f"no ({why}){unknown}" if why else f"no{unknown}"
    return f"not told: {why}" if why else ""


def _span(low: float, high: float, places: int) -> str:
    first, last = f"{low:.{places}f}", f"{high:.{places}f}"
    return first if first == last else f"{first} to {last}"


def condition_rows(lane: Lane) -> list[tuple[str, str, str, str, str]]:
    """Rows of (process, governor, clocks, temperatures, throttled) with the states before and after each process."""
    rows = []
    for number, entry in enumerate(lane.entries("conditions"), 1):
        before, after = entry.get("before") or {}, entry.get("after") or {}
        clocks = [
            ", ".join(f"{name} {policy['cur'] / 1e9:.2f} GHz" for name, policy in state.items() if "cur" in policy)
            for state in (before.get("frequency_hz") or {}, after.get("frequency_hz") or {})
        ]
        heat = [
            ", ".join(f"{name} {degrees:.1f} °C" for name, degrees in (state.get("temperature_c") or {}).items())
            for state in (before, after)
        ]
        told = {True: "YES", False: "no", None: "not told"}[entry.get("throttled")]
        governors = [", ".join(sorted(set(map(str, (state.get("governor") or {}).values())))) for state in (before, after)]
        why = f": {entry['why']}" if entry.get("why") else ""
        rows.append((str(number), _arrow(governors), _arrow(clocks), _arrow(heat), f"{told}{why}"))
    return rows


def _arrow(pair: Sequence[str]) -> str:
    """Before and after, once if they are alike."""
    before, after = pair
    return (after or "–") if before == after or not before else f"{before} → {after}"


def devices_of(lanes: Sequence[Lane]) -> dict[str, str]:
    """A colour for each device or delegate that ops run on; those with the most multiply-adds come first."""
    weight: dict[str, float] = {}
    for lane in lanes:
        for op in [*(lane.part("placement").get("ops") or ()), *(lane.part("profile").get("ops") or ())]:
            name = str(op.get("device") or "")
            weight[name] = weight.get(name, 0.0) + float(op.get("macs") or 0)
    names = sorted((name for name in weight if name), key=lambda name: -weight[name])
    found = {name: f"var(--series-{at % 6})" for at, name in enumerate(names)}
    return {**found, **({"": "var(--ink-3)"} if "" in weight else {})}


def outside_rows(lane: Lane) -> list[tuple[str, str, str, str, str]]:
    """The ops that no delegate took, by reason and type: (type and count, part of the multiply-adds, where, names, reason)."""
    placed = lane.part("placement")
    total = float(placed.get("macs") or 0)
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for op in placed.get("ops") or ():
        if not op.get("delegate"):
            key = (str(op.get("op")), str(op.get("device") or "not told"), str(op.get("reason") or "no reason is told"))
            groups.setdefault(key, []).append(op)

    def weight(members: Sequence[Mapping[str, Any]]) -> float:
        return sum(float(op.get("macs") or 0) for op in members)

    rows = []
    for (kind, device, reason), members in sorted(groups.items(), key=lambda item: (-weight(item[1]), -len(item[1]))):
        names = ", ".join(_short(str(op.get("name") or "")) for op in members[:_NAMED])
        more = f" and {len(members) - _NAMED} more" if len(members) > _NAMED else ""
        share = value_in(weight(members) / total, "share") if total else "–"
        share = "not counted" if any(op.get("macs") is None for op in members) else share
        rows.append((f"{len(members):,} {kind}", share, device, names + more, reason))
    return rows


def _short(name: str) -> str:
    """The end of an op's name, where names differ; of several names, as .tflite files join them, the first."""
    first = name.partition(";")[0]
    return first if len(first) <= _LONGEST else f"…{first[1 - _LONGEST :]}"


def quantile_rows(lanes: Sequence[Lane]) -> list[list[str]]:
    """A row for each quantile of all timed inferences together, a cell per lane, and the slowest and fastest beside the bars."""
    names = dict.fromkeys(name for lane in lanes for name in lane.part("quantiles_ms"))
    rows = []
    for name in names:
        values = [lane.part("quantiles_ms").get(name) for lane in lanes]
        rows.append([_QUANTILES.get(name, name), *("–" if value is None else value_in(float(value), "ms") for value in values)])
    return rows


_QUANTILES = {"p0": "fastest", "p100": "slowest"}

PROCESSES = ("Process", "Order", "Inferences", "p50", "p90", "p99", "Mean", "After idle", "Load", "First", "Peak memory", "CPU")
"""Columns of `process_rows`."""


def process_rows(lanes: Sequence[Lane]) -> list[list[str]]:
    """A row for each process with its own figures, in the order in which they ran within each report."""
    rows = []
    for lane in lanes:
        for number, process in enumerate(lane.entries("processes"), 1):
            times = [process.get(f"{key}_ms") for key in ("p50", "p90", "p99", "mean", "after_idle", "load", "first")]
            order, peak, cpu = process.get("order"), process.get("peak_rss_bytes"), process.get("cpu_share")
            slowed = ", throttled" if process.get("throttled") else ""
            rows.append(
                [
                    f"{lane.label}: {number}{slowed}",
                    "–" if order is None else str(int(order) + 1),
                    f"{process.get('runs') or 0:,}",
                    *("–" if value is None else value_in(float(value), "ms") for value in times),
                    "–" if peak is None else human_bytes(float(peak)),
                    "–" if cpu is None else f"{100 * float(cpu):.0f} %",
                ]
            )
    return rows


ENERGIES = (
    *("Process", "Meter and what it sees", "Origin", "Above idle", "Interval", "With idle power", "Idle", "Busy"),
    *("Readings", "Alignment", "Interval by"),
)
"""Columns of `energy_rows`."""


def energy_rows(lanes: Sequence[Lane]) -> list[list[str]]:
    """A row for each process whose energy was measured."""
    rows = []
    for lane in lanes:
        for number, entry in enumerate(lane.entries("energy"), 1):
            if entry.get("mj_per_inference") is None:
                continue
            ends = (entry.get("low"), entry.get("high"))
            interval = interval_in(float(ends[0]), float(ends[1]), "mJ") if None not in ends else "–"  # type: ignore[arg-type]
            missed = f", {entry['missed']:,} missed" if entry.get("missed") else ""
            figures = [(entry.get(key), unit) for key, unit in _ENERGY]
            texts = ["–" if value is None else value_in(float(value), unit) for value, unit in figures]
            rate = f"{float(entry.get('rate_hz') or 0):,.4g}/s"
            rows.append(
                [
                    f"{lane.label}: {number}",
                    ", ".join(str(entry[key]) for key in ("meter", "scope") if entry.get(key)) or "–",
                    "ESTIMATED" if entry.get("origin") == "estimated" else "measured",
                    *(texts[0], interval, *texts[1:]),
                    f"{entry.get('readings') or 0:,} at {rate}{missed}",
                    f"within {float(entry.get('alignment_ms') or 0):.3g} ms",
                    str(entry.get("interval") or "–"),
                ]
            )
    return rows


_ENERGY = (("mj_per_inference", "mJ"), ("mj_per_inference_gross", "mJ"), ("baseline_watts", "W"), ("active_watts", "W"))


def no_energy(lanes: Sequence[Lane]) -> list[tuple[str, str, str]]:
    """Why there is no energy: (lanes, reason, way out) triples, each reason once; empty where no meter was asked for."""
    found: dict[tuple[str, str], list[str]] = {}
    for lane in lanes:
        if str(lane.report["settings"].get("meter")) == "none":
            continue
        for entry in lane.entries("energy"):
            if entry.get("mj_per_inference") is None:
                why = str(entry.get("why_absent") or "another machine reads the meter; its trace was not added")
                found.setdefault((why, str(entry.get("hint") or "")), []).append(lane.label)
    return [(", ".join(dict.fromkeys(labels)), why, hint) for (why, hint), labels in found.items()]


def energy_notes(lanes: Sequence[Lane]) -> list[str]:
    """What meters remark, each remark once; their warnings are among those of the report."""
    return list(
        dict.fromkeys(
            f"{lane.label}: {text}" for lane in lanes for entry in lane.entries("energy") for text in entry.get("notes") or ()
        )
    )


def estimate_rows(lane: Lane) -> list[tuple[str, str]]:
    """What an estimate of energy is made of, and what it leaves out."""
    found = lane.report["details"].get("energy_estimate")
    if not isinstance(found, Mapping):
        return []
    rows = [("Source", str(found.get("source") or ""))]
    rows += [(f"Of it, {name}", value_in(float(value), "mJ")) for name, value in (found.get("terms_mj") or {}).items()]
    rows += [
        (name, f"{int(found[key]):,}")
        for key, name in (("macs", "Multiply-adds"), ("bytes_moved", "Bytes moved"))
        if found.get(key) is not None
    ]
    constants = ", ".join(
        f"{name.replace('_', ' ')} {float(value):g} pJ" for name, value in (found.get("constants_pj") or {}).items()
    )
    rows += [("Constants", constants)] if constants else []
    rows += [("Leaves out", str(text)) for text in found.get("leaves_out") or ()]
    return [*rows, ("Statement", str(found["statement"]))] if found.get("statement") else rows


def profile_rows(lane: Lane) -> list[list[str]]:
    """A row for each op of a profile, in the order in which they ran."""
    return [
        [
            str(op["op"]),
            value_in(float(op["share"]), "share"),
            interval_in(float(op["low"]), float(op["high"]), "share"),
            value_in(float(op["ms"]), "ms"),
            str(op.get("device") or "not told"),
            str(op.get("kind") or "–"),
            str(op["name"]),
        ]
        for op in lane.part("profile").get("ops") or ()
    ]
