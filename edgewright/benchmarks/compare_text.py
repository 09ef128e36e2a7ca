"""What people see of a comparison and of a history in the terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from edgewright.benchmarks.compare import FIGURES, Change, Comparison
from edgewright.benchmarks.gate import EXACT, Difference
from edgewright.report import Metric

if TYPE_CHECKING:
    from rich.console import Console

    from edgewright.benchmarks.history import Series
    from edgewright.benchmarks.history_points import Point

__all__ = [
    "alarm_text",
    "change_text",
    "print_comparison",
    "print_history",
    "print_series",
    "spark",
    "undecided_text",
    "value_text",
]

_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII = "_.-=+*#@"
_WORDS = {"regressed": "regressed", "kept": "within", "undecided": "undecided"}
_STYLES = {"regressed": "red", "kept": "green", "undecided": "yellow"}
_WIDE = 130
"""Columns from which on a history shows everything."""
_BYTES = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


def value_text(value: float, unit: str) -> str:
    """A figure with its unit and four digits that count."""
    return f"{_form(value, unit)(value)} {_scaled(value, unit)[1]}".strip()


def _scaled(value: float, unit: str) -> tuple[float, str]:
    """The factor and the unit that suit a figure."""
    if unit == "bytes":
        name, size = next(((name, size) for name, size in _BYTES if value >= 10 * size), (unit, 1))
        return 1 / size, name
    if unit == "ms" and value > 0:
        return (1000.0, "us") if value < 0.1 else (0.001, "s") if value >= 1000 else (1.0, unit)
    return 1.0, unit


def _form(value: float, unit: str) -> Callable[[float], str]:
    """How figures are written in the unit that suits one of them, without that unit."""
    factor, name = _scaled(value, unit)
    if unit == "bytes":
        return lambda x: f"{x * factor:,.{0 if name == unit else 1}f}"
    return lambda x: _digits(x * factor)


def _digits(value: float) -> str:
    places = 3 if value < 10 else 2 if value < 100 else 1 if value < 1000 else 0
    return f"{value:,.{places}f}" if value >= 0.1 else f"{value:.3g}"


def change_text(share: float) -> str:
    """A relative change in per cent, with its sign; from a hundredfold on only that it is one."""
    share *= 100
    if share >= 9900:
        return "over 100x"
    places = 0 if abs(share) >= 100 else 1 if abs(share) >= 1 else 2
    text = f"{share:+.{places}f} %"
    return text if any(digit in text for digit in "123456789") else "0 %"


def _limit_text(share: float) -> str:
    return f"{100 * share:.4g} %"


def _interval(found: Difference) -> str:
    if found.low is None or found.high is None:
        return "-"
    return "exact" if found.method == EXACT else f"{change_text(found.low)} to {change_text(found.high)}"


def _with_interval(found: Difference) -> str:
    ends = _interval(found)
    return change_text(found.change) if ends in ("-", "exact") else f"{change_text(found.change)} ({ends})"


def alarm_text(changes: Sequence[Change]) -> str:
    """The figures that became worse, in one sentence."""
    parts = []
    for one in changes:
        interval = "" if one.found.method == EXACT else f" ({_interval(one.found)})"
        rise = change_text(one.found.change).lstrip("+")
        parts.append(f"{_title(one)} rose by {rise}{interval}, {_limit_text(one.limit or 0)} is allowed")
    return "; ".join(parts)


def undecided_text(change: Change) -> str:
    """Why a figure's limit is undecided, and what would decide it."""
    found, limit = change.found, change.limit or 0.0
    title = f"{_title(change)}: {change_text(found.change)}"
    if found.low is None:
        told = f"{title}, without an interval ({found.method})"
    else:
        told = f"{title} ({_interval(found)}) neither shows nor excludes a rise of more than {_limit_text(limit)}"
    if change.more is not None:
        count = min(change.processes) + change.more
        more = "1 more process" if change.more == 1 else f"{change.more} more processes"
        return f"{told}; {more} of each file would decide if nothing else changes (--repeats {count})"
    if found.low is not None and min(change.processes):
        return f"{told}; more than 1000 processes would be needed: they differ too much for this limit, or the change lies at it"
    return told


def _title(change: Change) -> str:
    title = FIGURES[change.figure].title
    return f"{title} ({_threads(change.threads)})" if change.threads > 1 else title


def _threads(count: int) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"


def _console() -> Console:
    from rich.console import Console

    # Names come from files and users: "[x]" and ":x:" in them are no markup.
    return Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 160)


def print_comparison(found: Comparison) -> None:
    """Two reports side by side on standard output; warnings go to the log."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    console = _console()
    facts = Table.grid(padding=(0, 2))
    for word, file in (("A", found.a), ("B", found.b)):
        sha, library = str(file["sha256"])[:8], file["library"] or file["engine"]
        facts.add_row(word, _plain(f"{file['path']}  {sha}  {library}"))
    console.print(facts)
    counts = list(dict.fromkeys(change.threads for change in found.changes if change.threads))
    limited = any(change.limit is not None for change in found.changes)
    for place, count in enumerate(counts):
        console.print()
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        for title in (
            _threads(count) if len(counts) > 1 else "",
            "A",
            "B",
            "change",
            "interval",
            *(["limit", ""] if limited else []),
        ):
            table.add_column(title, justify="left" if not table.columns else "right")
        for change in found.changes:
            if change.threads != count and (change.threads or place < len(counts) - 1):
                continue
            cells = [FIGURES[change.figure].title, value_text(change.a, change.unit), value_text(change.b, change.unit)]
            cells += [change_text(change.found.change), _interval(change.found)]
            if limited:
                cells.append("" if change.limit is None else f"+{_limit_text(change.limit)}")
            table.add_row(*cells, *([Text(_WORDS[change.verdict], _STYLES[change.verdict])] if change.verdict else []))
        console.print(table)
    console.print()
    for note in _notes(found):
        console.print(note, style="dim")
    log = logging.getLogger("edgewright")
    for warning in found.warnings:
        log.warning("%s", warning)


def _notes(found: Comparison) -> list[str]:
    """What the intervals are, and why one is missing."""
    by_method: dict[str, list[str]] = {}
    for change in found.changes:
        if change.found.method != EXACT:
            by_method.setdefault(change.found.method, []).append(FIGURES[change.figure].title)
    notes = []
    missing = {change.found.method for change in found.changes if change.found.low is None}
    for method, titles in by_method.items():
        names = ", ".join(dict.fromkeys(titles))
        notes.append(f"no interval of {names}: {method}" if method in missing else f"interval of {names}: {method}")
    if any(min(change.processes) for change in found.changes):
        notes.append("A and B are medians over processes; the change is the middle of all pairs of processes")
    if found.before:
        changes = [f"{_title(one)} {_with_interval(one.found)}" for one in found.before.changes if one.limit is not None]
        notes.append(f"all this was measured again, in turns; the reports themselves said: {', '.join(changes)}")
    return notes


# ---- history ------------------------------------------------------------------------------------------------------------


def print_series(series: Sequence[Series]) -> None:
    """What the history holds, one line per model, device and engine."""
    from rich import box
    from rich.table import Table

    console = _console()
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for title in ("model", "device", "engine", "measured", "last"):
        table.add_column(title, justify="right" if title == "measured" else "left")
    for one in series:
        table.add_row(_plain(one.model), _plain(one.device), one.engine, f"{one.count}", one.last)
    console.print(table)


def print_history(points: Sequence[Point], metric: str) -> None:
    """Measurements, the oldest first, a table for each model, device, engine and thread count: figures and their changes."""
    console = _console()
    groups: dict[tuple[str, str, str, int], list[Point]] = {}
    for point in points:
        groups.setdefault((point.model, point.device, point.engine, point.threads), []).append(point)
    shown = tuple(dict.fromkeys(("p50", "p90", metric)))
    blocks = _ASCII if "utf" not in console.encoding.lower() else _BLOCKS
    for place, ((model, device, engine, threads), mine) in enumerate(groups.items()):
        if place:
            console.print()
        console.print(_plain(f"{model} on {device}, {engine}, {_threads(threads)}"), style="bold")
        console.print(_history_table(mine, shown, metric, wide=console.width >= _WIDE))
        found = [point.figures[metric] for point in mine if metric in point.figures]
        values = [one.value for one in found if one.value is not None]
        if len(values) > 1:
            ends = [value_text(value, found[0].unit) for value in (values[0], values[-1])]
            console.print(f"{FIGURES[metric].title}: {ends[0]} {spark(values, blocks)} {ends[1]}")


def _history_table(points: Sequence[Point], shown: Sequence[str], metric: str, *, wide: bool) -> Any:
    """The measurements of one model, device, engine and thread count.

    Files, libraries and intervals of figures only if there is room; where a file or a library changes, the last column says so.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for title in ("time (UTC)", *(["sha256", "library"] if wide else [])):
        table.add_column(title, no_wrap=True)
    for name in shown:
        table.add_column(FIGURES[name].title if wide else name, justify="right", no_wrap=True)
        if wide:
            table.add_column("interval", justify="right", style="dim", no_wrap=True)
    table.add_column(f"change of {metric}", justify="right")
    table.add_column("")
    for point in points:
        cells: list[Any] = [point.time, *([point.sha256[:8], _plain(point.library)] if wide else [])]
        for name in shown:
            cells += _figure_cells(point.figures.get(name))[: 2 if wide else 1]
        change = point.change
        cells.append("-" if change is None else _with_interval(change))
        cells.append(Text.assemble(("regressed  ", "red") if point.regressed else "", _plain(point.note)))
        table.add_row(*cells)
    return table


def _figure_cells(found: Metric | None) -> list[str]:
    """A figure, and its interval in the same unit."""
    if found is None or found.value is None:
        return ["-", ""]
    show = _form(found.value, found.unit)
    ends = "" if found.low is None or found.high is None else f"{show(found.low)} - {show(found.high)}"
    return [value_text(found.value, found.unit), ends]


def spark(values: Sequence[float], blocks: str = _BLOCKS) -> str:
    """Values as one line of blocks, from the least to the greatest; equal values are in the middle."""
    low, high = min(values), max(values)
    last = len(blocks) - 1
    if high == low:
        return blocks[last // 2] * len(values)
    return "".join(blocks[round((value - low) / (high - low) * last)] for value in values)


def _plain(text: str) -> str:
    """Text without control characters, which a file's name could send to the terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)
