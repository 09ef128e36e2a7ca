"""A stream in the terminal: a live line while it runs, the account of every frame at its end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from edgewright.runtime.accounting import DROPS
from edgewright.runtime.frames import Result
from edgewright.runtime.monitor import Page
from edgewright.runtime.stream import Stream

__all__ = ["follow", "print_account"]

_REFRESH_S = 0.25


def follow(running: Stream, page: Page | None, *, seconds: float | None, quiet: bool) -> None:
    """Take results until the stream ends or the time is over, and show how it goes on a terminal.

    Args:
        running: the stream; closed at the end.
        page: given each result, if there is a dashboard.
        seconds: limit of the time.
        quiet: show nothing.

    Raises:
        EdgewrightError: a source broke off.
    """
    console = Console(stderr=True)
    shown = console.is_terminal and not quiet
    end = None if seconds is None else time.monotonic() + seconds
    timer = running.stop_after(seconds) if seconds is not None else None
    try:
        with Live(console=console, auto_refresh=False, transient=True) if shown else _Nothing() as live:
            drawn = 0.0
            for result in running:
                now = time.monotonic()
                if page is not None:
                    page.show(result)
                if shown and now - drawn >= _REFRESH_S:
                    live.update(_line(running, result), refresh=True)
                    drawn = now
                if end is not None and now >= end:
                    break
    finally:
        if timer is not None:
            timer.cancel()


class _Nothing:
    def __enter__(self) -> Any:
        return None

    def __exit__(self, *_: object) -> None:
        return None


def _line(running: Stream, result: Result) -> Table:
    """The newest answer, and a row for each source."""
    table = Table.grid(padding=(0, 2))
    for lane in running.lanes:
        rate = (lane.done + lane.late) / max(1e-9, running.seconds)
        dropped, age = sum(lane.dropped.values()), lane.age.percentile(0.99)
        table.add_row(
            Text(lane.name, "bold"),
            f"{rate:.1f}/s",
            f"done {lane.done:,}",
            Text(f"late {lane.late:,}", "yellow" if lane.late else "dim"),
            Text(f"dropped {dropped:,}", "yellow" if dropped else "dim"),
            Text(f"failed {lane.failed:,}", "red" if lane.failed else "dim"),
            f"age p99 {age:.0f} ms" if age is not None else "",
            headline(result) if result.source == lane.name else "",
        )
    return table


def headline(result: Result) -> str:
    """A result in a few words."""
    answer = result.answer
    if result.error:
        return result.error
    if "boxes" in answer:
        names = [f"{box['label']} {box['score']:.2f}" for box in answer["boxes"][:3]]
        return f"{len(answer['boxes'])} found: {', '.join(names)}" if names else "nothing found"
    if "anomaly" in answer:
        return (
            f"{'ANOMALY' if answer['anomaly'] else 'normal' if answer['anomaly'] is False else 'learning'} {answer['score']:.4g}"
        )
    if "label" in answer:
        return f"{answer['label']} {answer['score']:.2f}"
    if "values" in answer:
        return ", ".join(f"{value:.4g}" for value in answer["values"][:4])
    return ""


def print_account(account: Mapping[str, Any], file: TextIO) -> None:
    """What became of every frame, how long stages took, what sinks lost, what was told."""
    console = Console(file=file)
    models = account.get("models", [account])
    speed = f"{account['results_per_s']:g} results/s over {account['seconds']:.1f} s"
    for number, model in enumerate(models, 1):
        execution = model["execution"]
        text = f"{model['model']} in {model['engine']} ({execution['device']}, {execution['precision']})"
        console.print(f"{text}: {speed}" if number == len(models) else text, highlight=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("source", "captured", "done", "late", "failed", "dropped", "alike", "age p50", "p90", "p99"):
        first = name == "source"
        table.add_column(name, justify="left" if first else "right", no_wrap=not first, overflow="fold" if first else "ellipsis")
    for name, lane in account["sources"].items():
        age = lane["age"]
        table.add_row(
            name,
            *(f"{lane[key]:,}" for key in ("captured", "done", "late", "failed")),
            f"{sum(lane['dropped'].values()):,}",
            f"{lane['duplicates']:,}",
            *(f"{age[key]:.1f}" if key in age else "-" for key in ("p50_ms", "p90_ms", "p99_ms")),
        )
    _print_whole(console, table)
    stages = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("stage, ms", "p50", "p90", "p99", "max"):
        stages.add_column(name, justify="left" if name == "stage, ms" else "right")
    several = len(account["sources"]) > 1
    for source, lane in account["sources"].items():
        for name, spent in lane["stages"].items():
            if spent["count"]:
                cells = (f"{spent[key]:.2f}" for key in ("p50_ms", "p90_ms", "p99_ms", "max_ms"))
                stages.add_row(f"{source} {name}" if several else name, *cells)
    _print_whole(console, stages)
    for line in _remarks(account):
        console.print(line, highlight=False, soft_wrap=True)


def _print_whole(console: Console, table: Table) -> None:
    """Print a table of names and numbers: where it is too wide, names are folded; numbers are never cut."""
    for column in table.columns[1:]:
        column.min_width = max(len(str(cell)) for cell in (column.header, *column.cells))
    names = table.columns[0]
    room = console.width - sum((column.min_width or 0) + 2 for column in table.columns[1:])
    longest = max((len(str(cell)) for cell in (names.header, *names.cells)), default=0)
    names.min_width = min(longest, max(12, room))
    wide = Console(file=console.file, width=max(console.width, names.min_width + console.width - room))
    wide.print(table)


def _remarks(account: Mapping[str, Any]) -> list[str]:
    lines = []
    for source, lane in account["sources"].items():
        if not lane["captured"] and not any(lane.get("samples", {}).values()):
            lines.append(f"{source}: it gave nothing")
        lines += [f"{source}: {count:,} dropped: {DROPS[why]}" for why, count in lane["dropped"].items() if count]
        lines += [f"{source}: {count:,} failed: {error}" for error, count in lane.get("errors", {}).items()]
        if samples := lane.get("samples"):
            told = ", ".join(f"{name} {count:,}" for name, count in samples.items() if count)
            lines.append(f"{source}: {told}")
    for sink, told in account["sinks"].items():
        lost = f", {told['lost']:,} lost" if told["lost"] else ""
        lost += f" ({told['error']})" if "error" in told else ""
        lines.append(f"{sink}: {told['written']:,} written{lost}")
    used = account["resources"]
    if used["peak_rss_bytes"]:
        slope = used["rss_slope_bytes_per_minute"]
        growth = "" if slope is None else f", {slope / 1e6:+.2f} MB/min in the second half"
        heat = "" if used["peak_temperature_c"] is None else f", at most {used['peak_temperature_c']:.0f} degrees C"
        lines.append(f"memory: {used['peak_rss_bytes'] / 1e6:.0f} MB at most{growth}{heat}")
    return lines
