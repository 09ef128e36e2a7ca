"""A compress report as CSV (every metric, for machines) and as Markdown (what people paste into a pull request)."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

from edgewright.benchmarks.figures import (
    change_meaning,
    change_of,
    family_of,
    human_bytes,
    interval_in,
    interval_text,
    plain_number,
    printable,
    short_digest,
    title_of,
    value_in,
    value_text,
)
from edgewright.benchmarks.report_words import (
    absences,
    all_warnings,
    compared_with,
    flat,
    over_limit,
    primary_subjects,
    reaches_past_limit,
    verdicts,
)
from edgewright.report import CompressReport, FileReport, GroupChange, Metric

__all__ = [
    "md_code",
    "md_table",
    "md_text",
    "render_csv",
    "render_markdown",
]

_COLUMNS = (
    "file", "role", "format", "recipe", "precision", "metric", "subject", "unit",
    "value", "low", "high", "interval", "samples", "origin", "why_absent", "engine",
)  # fmt: skip
_WORST = 3
_WIDEST = 90


# --- CSV ------------------------------------------------------------------------------------------------------------


def render_csv(report: CompressReport) -> str:
    """One row per file per metric; numbers with all their digits, missing ones empty and then with the reason.

    File and role together need not be unique: a baseline that ran in two engines has rows for both.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for file in report.files:
        for metric in file.metrics:
            figures = (metric.value, metric.low, metric.high)
            writer.writerow(
                (
                    *(file.name, file.role, file.format, file.recipe, file.precision),
                    *(metric.name, metric.subject, metric.unit),
                    *("" if figure is None else plain_number(figure) for figure in figures),
                    *(metric.interval, metric.samples, metric.origin, metric.why_absent, file.engine),
                )
            )
    return printable(text.getvalue())


# --- Markdown -------------------------------------------------------------------------------------------------------


def render_markdown(report: CompressReport) -> str:
    """The report's short form: verdict, files, worst classes, receipts, warnings, environment.

    What comes from outside (names, reasons) is escaped so that it cannot be taken for Markdown or HTML.
    """
    parts = [f"# {md_text(report.title)}: compression report", _verdict(report), "## Files", _files(report)]
    if harmed := _worst(report):
        parts += ["## Whom does it harm", harmed]
    if receipts := _receipts(report):
        parts += ["## Receipts", receipts]
    if warnings := all_warnings(report):
        parts += [
            "## Warnings",
            "\n".join(f"- {f'{md_text(name)}: ' if name else ''}{md_text(text)}" for name, text in warnings),
        ]
    if report.environment:
        rows = [(md_text(name), md_text(value)) for name, value, _ in flat(report.environment)]
        parts += ["## Environment", md_table(("what", "value"), rows)]
    return printable("\n\n".join(parts) + "\n")


def _verdict(report: CompressReport) -> str:
    words = {"kept": "KEPT", "broken": "BROKEN", "lost": "LOST", "neutral": "NO LIMIT"}
    lines = [f"- **{words[kind]}** {md_text(text)}" for kind, text in verdicts(report)]
    for name, text in report.data.items():
        lines.append(f"- {md_text(name)} data: {md_text(text)}")
    return "\n".join(lines)


def _files(report: CompressReport) -> str:
    speed = any(m.name.startswith("latency_p") and m.value is not None for file in report.files for m in file.metrics)
    subjects = primary_subjects(report)
    heads = ["file", "recipe", "format", "computed in"]
    for subject in subjects:
        of = f" of {md_text(subject)}" if len(subjects) > 1 else ""
        heads += [f"{title_of(report.primary).lower()}{of} (interval)", f"change{of} (interval)"]
    heads += ["size", "deflated", "x smaller"] + (["p50", "p99", "speed-up"] if speed else [])
    rows = [_file_row(report, file, subjects, speed) for file in report.files]
    text = md_table(heads, rows, numbers=4)
    notes = []
    if reference := compared_with(report):
        notes.append(f"x smaller: than {md_text(reference)}, by size.")
    shown = {"raw_bytes", "deflated_bytes", "smaller", report.primary, f"{report.primary}_change", *(_SPEED if speed else ())}
    notes += [f"-: {md_text(why)} ({md_text(which)})." for why, which in absences(report.files, sorted(shown))]
    if not report.primary:
        known = sorted({m.name for file in report.files for m in file.metrics if family_of(m.name) == "Accuracy"})
        notes += [f"Not evaluated: {md_text(why)} ({md_text(which)})." for why, which in absences(report.files, known)]
    if not speed:
        notes += [f"Not measured: {md_text(why)} ({md_text(which)})." for why, which in absences(report.results, _SPEED)]
    return "\n".join([text, *(f"\n{note}" for note in notes)])


_SPEED = ("latency_p50", "latency_p99", "speedup")


def _file_row(report: CompressReport, file: FileReport, subjects: Sequence[str], speed: bool) -> list[str]:
    role = "" if file.role == "file" else f" ({file.role})"
    engine = f" in {md_text(file.engine)}" if file.engine else ""
    row = [
        f"{md_text(file.name)}{role}",
        md_text(file.recipe) or "-",
        md_text(file.format),
        (md_text(file.computed_in) or "-") + engine,
    ]
    for subject in subjects:
        row.append(_with_interval(file.metric(report.primary, subject)))
        change = change_of(file, report.primary, subject)
        note = _change_note(report, change)
        row.append(_with_interval(change) + (f", {note}" if note else ""))
    row += [_size(file.metric("raw_bytes")), _size(file.metric("deflated_bytes")), _cell(file.metric("smaller"))]
    return row + ([_cell(file.metric(name)) for name in _SPEED] if speed else [])


def _change_note(report: CompressReport, change: Metric | None) -> str:
    if change is None:
        return ""
    notes = [change_meaning(change.value, change.low, change.high)]
    if over_limit(report, change):
        notes.append("over the limit")
    elif reaches_past_limit(report, change):
        notes.append("interval reaches past the limit")
    return ", ".join(note for note in notes if note)


def _cell(metric: Metric | None) -> str:
    if metric is None:
        return "-"
    return md_text(value_text(metric)) + (" (estimated)" if metric.origin == "estimated" and metric.value is not None else "")


def _with_interval(metric: Metric | None) -> str:
    interval = interval_text(metric, method=False) if metric else ""
    return f"{_cell(metric)} ({md_text(interval)})" if interval else _cell(metric)


def _size(metric: Metric | None) -> str:
    text = _cell(metric)
    return f"{text} ({human_bytes(metric.value)})" if metric and metric.value is not None and metric.value >= 1024 else text


def _worst(report: CompressReport) -> str:
    """The classes and slices that lose most, per file; files that change none are named in one line."""
    rows, same = [], []
    for file in report.results:
        changed = [group for group in file.groups if group.change is not None]
        worst = sorted((g for g in changed if g.change is not None and g.change < 0), key=lambda g: (g.change or 0, g.value))
        if changed and not worst:
            same.append(md_text(file.name))
        for group in worst[:_WORST]:
            rows.append(_group_row(file, group))
    parts = []
    if rows:
        heads = (
            "file",
            "class or slice",
            "samples",
            "metric",
            "original",
            "file's",
            "change (95 % interval)",
            "became wrong",
            "became right",
        )
        parts += [f"The {_WORST} classes or slices of each file that lose most.", md_table(heads, rows, numbers=2)]
    if same:
        parts.append(f"No class and no slice loses in {', '.join(same)}.")
    return "\n\n".join(parts)


def _group_row(file: FileReport, group: GroupChange) -> list[str]:
    unit = "points" if group.unit == "share" else "%"
    change = "-" if group.change is None else value_in(group.change, unit, signed=True)
    if group.low is not None and group.high is not None:
        meaning = change_meaning(group.change, group.low, group.high)
        change += f" ({interval_in(group.low, group.high, unit, signed=True)}), {meaning}"
    figures = ["-" if value is None else value_in(value, group.unit) for value in (group.original, group.file)]
    what = f"{group.group} {group.value}" if group.kind == "slice" else group.value
    return [
        *(
            md_text(file.name),
            f"{group.kind} {md_text(what)}",
            f"{group.samples:,}",
            md_text(group.metric),
        ),
        *(md_text(figure) for figure in figures),
        *(change, str(group.broken), str(group.fixed)),
    ]


def _receipts(report: CompressReport) -> str:
    rows, broken = [], []
    for file in report.results:
        # The last receipt is of the file itself, and has the promises of all steps before it.
        promises = file.receipts[-1].promises if file.receipts else ()
        if not promises:
            continue
        kept = sum(promise.kept for promise in promises)
        rows.append(
            [
                md_text(file.name),
                f"{kept} of {len(promises)}",
                short_digest(file.sha256) and f"`{md_code(short_digest(file.sha256))}`",
            ]
        )
        for promise in promises:
            if not promise.kept:
                why = f" ({md_text(promise.why)})" if promise.why else ""
                texts = [md_text(text) for text in (file.name, promise.what, promise.promised, promise.found)]
                broken.append(f"- **BROKEN** {texts[0]}: {texts[1]}: promised {texts[2]}, found {texts[3]}{why}")
        lost = [tensor for tensor in file.receipts[-1].tensors if not tensor.kept]
        broken += [f"- **LOST** {md_text(file.name)}: {md_text(tensor.name)}: {md_text(tensor.lost)}" for tensor in lost]
    parts = [md_table(("file", "promises kept", "sha256"), rows)] if rows else []
    return "\n\n".join([*parts, *(["\n".join(broken)] if broken else [])])


def md_table(heads: Sequence[str], rows: Sequence[Sequence[str]], numbers: int | None = None) -> str:
    """A Markdown table padded so that it reads as plain text; columns from `numbers` on are set to the right."""
    # One very long cell must not pad all the others to its length.
    widths = [max(3, *(min(len(row[i]), _WIDEST) for row in (heads, *rows))) for i in range(len(heads))]
    right = [numbers is not None and i >= numbers for i in range(len(heads))]

    def line(cells: Sequence[str]) -> str:
        padded = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True))
        return f"| {' | '.join(padded)} |"

    rule = "|".join(f"{'-' * (w + 1)}:" if r else "-" * (w + 2) for w, r in zip(widths, right, strict=True))
    return "\n".join([line(heads), f"|{rule}|", *(line(row) for row in rows)])


def md_text(text: str) -> str:
    """A text that stays text in Markdown: one line, nothing that opens markup, a link or a table cell."""
    text = " ".join(text.split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\|`*\[\]#~$])", r"\\\1", text)
    # An underscore inside a word is no emphasis on GitHub, and file names are full of them: only the others are escaped.
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)


def md_code(text: str) -> str:
    """A text as code in Markdown; what could end it is a question mark."""
    return re.sub(r"[^0-9A-Za-z]", "?", text)
