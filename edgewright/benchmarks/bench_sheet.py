"""Reports on benchmarks as CSV (every metric, for machines) and as Markdown (what people paste into a pull request)."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from edgewright.benchmarks import bench_facts as facts
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
)
from edgewright.benchmarks.figures import interval_in, plain_number, printable, short_digest, value_in
from edgewright.benchmarks.report_text import md_code, md_table, md_text
from edgewright.report import Metric, Report

__all__ = ["render_bench_csv", "render_bench_markdown"]

_COLUMNS = (
    "report", "file", "sha256", "device", "address", "engine", "precision", "threads", "metric", "unit",
    "value", "low", "high", "interval", "samples", "origin", "why_absent",
)  # fmt: skip
_TOP_OPS = 10


# --- CSV ------------------------------------------------------------------------------------------------------------


def render_bench_csv(reports: Sequence[Report | Mapping[str, Any]]) -> str:
    """One row per report, thread count and metric; numbers with all their digits, missing ones empty and then with the reason.

    The file's sizes are the same for all thread counts of a report and stand in one row, whose thread count is empty if there
    are several. Reports are numbered from 1, as two of them may be of the same file on the same device.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    lanes = lanes_of(reports)
    for lane in lanes:
        first = next(other for other in lanes if other.at == lane.at)
        several = len([other for other in lanes if other.at == lane.at]) > 1
        for metric in lane.metrics.values():
            shared = several and not metric.subject
            if not shared or lane is first:
                writer.writerow(_row(lane, metric, "" if shared else str(lane.threads)))
    return printable(text.getvalue())


def _row(lane: Lane, metric: Metric, threads: str) -> tuple[str | int, ...]:
    model, device = lane.report["model"], device_of(lane.report)
    figures = (metric.value, metric.low, metric.high)
    return (
        *(lane.at + 1, str(model.get("path") or ""), str(model.get("sha256") or ""), device["name"], device["address"]),
        *(lane.engine, str((model.get("execution") or {}).get("precision") or "")),
        *(threads, metric.name, metric.unit),
        *("" if figure is None else plain_number(figure) for figure in figures),
        *(metric.interval, metric.samples, metric.origin, metric.why_absent),
    )


# --- Markdown -------------------------------------------------------------------------------------------------------


def render_bench_markdown(reports: Sequence[Report | Mapping[str, Any]]) -> str:
    """The tables of the page: figures side by side, warnings, where ops run, ops, energy, estimates, conditions.

    What comes from outside (names, reasons) is escaped so that it cannot be taken for Markdown or HTML.
    """
    lanes = lanes_of(reports)
    files = ", ".join(dict.fromkeys(lane.file or "model" for lane in lanes))
    parts = [f"# {md_text(files)}: benchmark report", "## Figures", _figures(lanes)]
    if warnings := all_warnings(lanes):
        parts += [
            "## Warnings",
            "\n".join(f"- {f'{md_text(label)}: ' if label else ''}{md_text(text)}" for label, text in warnings),
        ]
    parts += _processes(lanes)
    parts += _placement(lanes)
    parts += _ops(lanes)
    parts += _energy(lanes)
    parts += _estimates(lanes)
    parts += ["## Devices and conditions", _conditions(lanes)]
    return printable("\n\n".join(part for part in parts if part) + "\n")


def _cells(row: Sequence[str]) -> list[str]:
    return [md_text(cell) for cell in row]


def _figures(lanes: Sequence[Lane]) -> str:
    rows = []
    for _, names in rows_of(lanes):
        for name in names:
            best = best_of(lanes, name)
            metrics = [lane.metric(name) for lane in lanes]
            cells = [f"**{_figure(m)}**" if at == best else _figure(m) for at, m in enumerate(metrics)]
            rows.append([md_text(title(name)), *cells])
    text = md_table(["", *(md_text(lane.label) for lane in lanes)], rows, numbers=1)
    notes = [f"-: {md_text(which)}: {md_text(why)}." for which, why in reasons_of(lanes)]
    if any("**" in cell for row in rows for cell in row):
        notes.append("Bold: its 95 % interval is better than all others and overlaps none of them.")
    return "\n\n".join([text, *notes])


def _figure(metric: Metric | None) -> str:
    """Value and interval; an estimate says so."""
    if metric is None or metric.value is None:
        return "-"
    mark = " (ESTIMATED)" if metric.origin == "estimated" else ""
    interval = interval_of(metric)
    return md_text(f"{shown(metric)} ({interval})" if interval else shown(metric)) + mark


def _processes(lanes: Sequence[Lane]) -> list[str]:
    rows = facts.process_rows(lanes)
    return ["## Single processes", md_table(facts.PROCESSES, [_cells(row) for row in rows], numbers=1)] if rows else []


def _placement(lanes: Sequence[Lane]) -> list[str]:
    lines, tables = [], []
    seen: list[tuple[int, Mapping[str, Any]]] = []
    for lane in lanes:
        placed = lane.part("placement")
        if not placed or (lane.at, placed) in seen:
            continue
        label = lane.label if any(at == lane.at for at, _ in seen) else lane.place
        seen.append((lane.at, placed))
        lines.append(f"- {md_text(label)}: {md_text(facts.placement_text(lane) or 'not known')}")
        if rows := facts.outside_rows(lane):
            heads = ("ops that no delegate took", "multiply-adds", "run on", "names", "reason")
            tables += [f"{md_text(label)}:", md_table(heads, [_cells(row) for row in rows])]
    return ["## Where ops run", "\n".join(lines), *tables] if lines else []


def _ops(lanes: Sequence[Lane]) -> list[str]:
    parts = []
    for lane in lanes:
        profile = lane.part("profile")
        ops = sorted(profile.get("ops") or (), key=lambda op: -float(op["share"]))
        if ops:
            shares = [
                (
                    *(
                        md_text(str(op["op"])),
                        value_in(float(op["share"]), "share"),
                        interval_in(float(op["low"]), float(op["high"]), "share"),
                    ),
                    *(md_text(str(op.get("device") or "not told")), md_text(str(op["name"]).partition(";")[0])),
                )
                for op in ops[:_TOP_OPS]
            ]
            rest = f" The other {len(ops) - _TOP_OPS} ops are in bench.json." if len(ops) > _TOP_OPS else ""
            note = (
                f"{md_text(lane.label)}: {md_text(str(profile.get('source', '')))}, {int(profile.get('runs', 0)):,} runs.{rest}"
            )
            parts += [note, md_table(("op", "share", "interval", "device", "name"), shares)]
    return ["## Ops that take the longest", *parts] if parts else []


def _energy(lanes: Sequence[Lane]) -> list[str]:
    rows, absent = facts.energy_rows(lanes), facts.no_energy(lanes)
    parts = [md_table(facts.ENERGIES, [_cells(row) for row in rows])] if rows else []
    lines = [
        f"- Not measured on {md_text(which)}: {md_text(why)}{f' ({md_text(hint)})' if hint else ''}"
        for which, why, hint in absent
    ]
    lines += [f"- {md_text(note)}" for note in facts.energy_notes(lanes)]
    parts += ["\n".join(lines)] if lines else []
    return ["## Energy", *parts] if parts else []


def _estimates(lanes: Sequence[Lane]) -> list[str]:
    """Estimates of each report, once for all its thread counts, apart from what was measured."""
    parts = []
    for lane in {lane.at: lane for lane in reversed(lanes)}.values():
        for metric in estimates_of(lane):
            told = _figure(metric) if metric.value is not None else f"- ({md_text(metric.why_absent)})"
            parts.append(f"{md_text(lane.place)}: {md_text(title(metric.name))}: {told}")
            if rows := facts.estimate_rows(lane):
                parts.append(md_table(("what", "value"), [_cells(row) for row in rows]))
    return ["## Estimates, not measured", *parts] if parts else []


def _conditions(lanes: Sequence[Lane]) -> str:
    rows = []
    for name, cells in facts.fact_rows(lanes):
        texts = [f"`{md_code(short_digest(cell))}`" if name == "sha256" and cell else md_text(cell) or "-" for cell in cells]
        rows.append([md_text(name), *texts])
    return md_table(["", *(md_text(lane.label) for lane in lanes)], rows)
