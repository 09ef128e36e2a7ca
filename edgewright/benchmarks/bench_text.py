"""What people see of a benchmark in the terminal: one table, and the distribution as a line of blocks."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from edgewright.report import Metric, Report, find_metric

__all__ = ["print_bench", "spark_line", "spinner"]

_ROWS = {
    "latency_p50": "latency p50",
    "latency_p90": "latency p90",
    "latency_p99": "latency p99",
    "latency_mean": "latency mean",
    "inferences_per_second": "inferences per second",
    "load": "load",
    "first_inference": "first inference",
    "import": "import of the engine",
    "peak_rss": "peak memory",
    "model_rss": "memory of engine and model",
    "raw_bytes": "file",
    "deflated_bytes": "file, deflated",
}
"""Metrics in the order of the table, with what it calls them."""

_BLOCKS = " ▁▂▃▄▅▆▇█"
_ASCII = " .:-=+*#@"


def print_bench(report: Report) -> None:
    """A report of kind "bench" on standard output; its warnings go to the log."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    # Names come from files and users: "[x]" and ":x:" in them are no markup.
    console = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 160)
    facts = Table.grid(padding=(0, 2))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in _facts(report).items():
        facts.add_row(name, _plain(value))
    console.print(facts)
    console.print()
    counts = report.settings["threads"]
    subjects = ["" if len(counts) == 1 else f"threads={count}" for count in counts]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("")
    for count in counts:
        table.add_column(_threads(count), justify="right")
        table.add_column("interval", justify="right", style="dim")
    for name, title in _ROWS.items():
        table.add_row(title, *_cells([_metric(report, name, subject) for subject in subjects]))
    console.print(table)
    console.print()
    for subject, count in zip(subjects, counts, strict=True):
        found = report.details[subject] if subject else report.details
        line = spark_line(found["histogram"], _ASCII if "utf" not in console.encoding.lower() else _BLOCKS)
        console.print(f"{_threads(count)}: {line}" if subject else line)
    for note in _notes(report):
        console.print(note, style="dim")
    log = logging.getLogger("edgewright")
    for warning in report.warnings:
        log.warning(warning)


def _facts(report: Report) -> dict[str, str]:
    """What was measured, by what, where."""
    model, settings, machine = report.model, report.settings, report.settings["machine"]
    execution, memory = model["execution"], machine["memory_bytes"]
    found = [report.details] if len(settings["threads"]) == 1 else list(report.details.values())
    runs = sum(process["runs"] for details in found for process in details["processes"])
    processes = sum(len(details["processes"]) for details in found)
    kinds = ", ".join(execution["kinds"])
    precision = f"mixed precision, {kinds}" if execution["precision"] == "mixed" and kinds else execution["precision"]
    batch = f" of batch {model['batch']}" if model["batch"] > 1 else ""
    children = "1 process" if processes == 1 else f"{processes} processes"
    each = "" if processes == 1 else "each "
    parts = [f"{machine['cpu']}, {machine['cores']} core{'s' if machine['cores'] > 1 else ''}"]
    parts += [f"{memory / 2**30:.1f} GiB"] if memory else []
    parts += [f"{machine['system']} {machine['architecture']} ({machine['hostname']})"]
    return {
        "file": model["path"],
        "engine": f"{model['library'] or model['engine']}, computed in {precision} ({execution['device']})",
        "machine": ", ".join(parts),
        "measured": f"{runs:,} inferences{batch} in {children}, {settings['duration_s']:g} s {each}"
        f"after {settings['warmup_s']:g} s of warm-up",
    }


def _threads(count: int) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"


def _metric(report: Report, name: str, subject: str) -> Metric:
    """A thread count's figure, or the file's, which is the same for all."""
    found = find_metric(report.metrics, name, subject) or find_metric(report.metrics, name)
    return found or Metric(name, "", None, subject, why_absent="not measured")


def _cells(metrics: Sequence[Metric]) -> list[str]:
    """Value and interval of each metric, all in the unit that suits the first."""
    show = _form(metrics[0])
    cells = []
    for metric in metrics:
        cells.append("-" if metric.value is None else show(metric.value, True))
        ends = (metric.low, metric.high)
        cells.append(" - ".join(show(end, False) for end in ends if end is not None))
    return cells


def _form(metric: Metric) -> Callable[[float, bool], str]:
    """How a metric's values are written, with or without the unit."""
    value = metric.value or 0.0
    if metric.unit == "ms":
        factor, unit = (1000.0, "us") if value < 0.1 else (1.0, "ms") if value < 1000 else (0.001, "s")
        return lambda x, named: f"{_digits(x * factor)}{f' {unit}' if named else ''}"
    if metric.name in ("peak_rss", "model_rss"):
        return lambda x, named: f"{x / 2**20:.1f}{' MiB' if named else ''}"
    if metric.unit == "bytes":
        return lambda x, named: f"{x:,.0f}{' bytes' if named else ''}"
    return lambda x, named: _digits(x)


def _digits(value: float) -> str:
    """Four digits that count, and no exponent."""
    if value == 0:
        return "0"
    places = 3 if value < 10 else 2 if value < 100 else 1 if value < 1000 else 0
    return f"{value:,.{places}f}" if value >= 0.1 else f"{value:.4f}"


def spark_line(histogram: Mapping[str, Any], blocks: str = _BLOCKS) -> str:
    """A distribution of latencies as one line: its ends, and a block per bin as high as its count.

    Args:
        histogram: plain values of a `Histogram` in ms.
        blocks: the characters from nothing to the highest; a bin that holds anything is never nothing.
    """
    counts, edges = histogram["counts"], histogram["edges"]
    most = max(counts)
    steps = len(blocks) - 1
    line = "".join(blocks[0 if not count else max(1, round(count / most * steps))] for count in counts)
    show = _form(Metric("latency", "ms", edges[0]))
    outside = [f"{histogram[key]:,} {word}" for key, word in (("below", "faster"), ("above", "slower")) if histogram[key]]
    ends = f"{show(edges[0], False)} {line} {show(edges[-1], True)}"
    return f"{ends} ({', '.join(outside)})" if outside else ends


def _notes(report: Report) -> list[str]:
    """What the intervals are, and why a figure is missing."""
    names: dict[str, list[str]] = {}
    for metric in report.metrics:
        if metric.interval and metric.name in _ROWS:
            names.setdefault(metric.interval, []).append(_ROWS[metric.name])
    found = []
    for interval, rows in names.items():
        rows = list(dict.fromkeys(row.partition(" ")[0] if row.startswith("latency") else row for row in rows))
        found.append(f"interval of {', '.join(rows)}: {interval}")
    missing = {m.why_absent: None for m in report.metrics if m.why_absent}
    return [*found, *(f"-: {why}" for why in missing)]


def _plain(text: str) -> str:
    """Text without control characters, which a file's name could send to the terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


@contextmanager
def spinner(title: str) -> Iterator[Callable[[float, str], None]]:
    """Progress on standard error while the block runs; silent when that is no terminal."""
    if not sys.stderr.isatty():
        yield lambda share, text: None
        return
    from rich.console import Console

    with Console(stderr=True, markup=False).status(title, refresh_per_second=2) as status:
        yield lambda share, text: status.update(f"{share:4.0%} {text}")
