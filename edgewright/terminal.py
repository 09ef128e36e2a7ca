"""What people see in the terminal: tables on standard output, progress and messages on standard error."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgewright.artifact import Artifact, TensorSpec
    from edgewright.converters.model_info import ModelInfo
    from edgewright.report import Metric, Report

__all__ = [
    "add_row",
    "console_of_stdout",
    "folded",
    "log_to_stderr",
    "new_table",
    "plain",
    "print_facts",
    "print_info",
    "print_report",
    "print_table",
    "progress_bar",
    "rights",
    "say",
    "show_artifact",
]

STYLES = {"error": "bold red", "warning": "yellow", "hint": "cyan"}


def log_to_stderr(level: int) -> None:
    """Send Edgewright's log to standard error."""
    log = logging.getLogger("edgewright")
    log.handlers = [_LogHandler()]
    log.setLevel(level)
    log.propagate = False


class _LogHandler(logging.Handler):
    """Writes records as `say` does."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        say("warning" if record.levelno == logging.WARNING else record.levelname.lower(), self.format(record))


def say(kind: str, text: str) -> None:
    """Write one message to standard error: `kind: text`, coloured on a terminal."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.text import Text

        line = Text(f"{kind}: ", style=STYLES.get(kind, "dim"))
        Console(stderr=True, soft_wrap=True).print(line.append(plain(text), style="not bold default"))
    else:
        sys.stderr.write(f"{kind}: {plain(text)}\n")


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[float, str], None]]:
    """A progress bar on standard error while the block runs; silent when that is no terminal."""
    if not sys.stderr.isatty():
        yield lambda share, text: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        BarColumn(bar_width=28),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=1.0)
        yield lambda share, text: bar.update(task, completed=min(share, 1.0), description=text or title)


def print_info(path: Path, info: ModelInfo, *, weights: int | None) -> None:
    """Everything that `inspect` knows, as tables; `weights` is how many tensors are listed, None lists all."""
    console = console_of_stdout()
    macs = f"{info.macs:,}" if info.macs is not None else "not counted"
    print_facts(
        console,
        {
            "file": str(path),
            "format": info.format,
            "parameters": f"{info.parameters:,}",
            "multiply-adds": f"{macs} ({info.macs_note})" if info.macs_note else macs,
            "size": f"{info.raw_bytes:,} bytes, {info.deflated_bytes:,} deflated",
            "ops": ", ".join(f"{op} x{count}" if count > 1 else op for op, count in info.ops.items()),
        },
    )
    _print_specs(console, "inputs", info.inputs)
    _print_specs(console, "outputs", info.outputs)
    shown = info.weights[:weights]
    title = (
        f"weights, the {len(shown)} largest of {len(info.weights)} (--all lists every one)"
        if len(shown) < len(info.weights)
        else "weights"
    )
    table = new_table(
        [("tensor", "left"), ("shape", "left"), ("dtype", "left"), *rights("bits", "zeros", "unique", "per channel")]
    )
    rows = []
    for w in shown:
        per_channel = f"{w.unique_per_channel:,}" if w.channel_axis is not None else "-"
        shape = "x".join(map(str, w.shape)) or "scalar"
        rows.append((shape, w.dtype, str(w.bits), f"{w.sparsity:.1%}", f"{w.unique:,}", per_channel))
    titles = [str(column.header) for column in table.columns][1:]
    used = sum(2 + max(map(len, column)) for column in zip(titles, *rows, strict=True))
    for w, row in zip(shown, rows, strict=True):
        add_row(table, _short(w.name, max(20, min(60, console.width - used))), *row)
    if shown:
        print_table(console, title, table)
    for note in info.notes:
        say("note", note)


def show_artifact(artifact: Artifact, model: Path) -> None:
    """The file that was written, beside what it was made of."""
    from edgewright.artifact import deflated_bytes, raw_bytes

    console = console_of_stdout()
    table = new_table([("file", "left"), ("format", "left"), *rights("bytes", "deflated")])
    room = max(20, console.width - 36)
    for path, format in ((model, ""), (artifact.path, artifact.format)):
        add_row(table, folded(str(path), room), format, f"{raw_bytes(path):,}", f"{deflated_bytes(path):,}")
    print_table(console, None, table)
    _print_specs(console, "inputs", artifact.inputs)
    _print_specs(console, "outputs", artifact.outputs)


def print_report(report: Report) -> None:
    """A verification report: one row per output."""
    console = console_of_stdout()
    facts = {}
    for key in ("candidate", "reference"):
        side = report.model[key]
        by = side["computed_by"]
        execution = by.get("execution")
        how = f"{by['engine']}, {execution['precision']} ({execution['device']})" if execution else by["engine"]
        facts[key] = f"{side['path']}\n{how}"
    print_facts(console, {**facts, "samples": str(report.settings["samples"])})
    names = list(dict.fromkeys(m.name for m in report.metrics))
    table = new_table([("output", "left"), *rights(*(_TITLES.get(name, name.replace("_", " ")) for name in names))])
    for subject in dict.fromkeys(m.subject for m in report.metrics):
        found = {m.name: m for m in report.metrics if m.subject == subject}
        add_row(table, folded(subject, 24), *(_figure(found[name]) for name in names))
    print_table(console, None, table)
    for why in dict.fromkeys(m.why_absent for m in report.metrics if m.why_absent):
        console.print(f"-: {why}", style="dim")
    for warning in report.warnings:
        say("warning", warning)
    if report.settings["passed"]:
        console.print("all limits are kept", style="green")


_TITLES = {"max_abs_error": "max error", "mean_abs_error": "mean error", "sqnr": "SQNR", "top1_agreement": "same class"}
"""Column titles; JSON has the metrics' own names."""


def _figure(metric: Metric) -> str:
    if metric.value is None:
        return "-"
    if metric.name == "top1_agreement":
        return f"{metric.value:.2%}"
    return f"{metric.value:.1f} {metric.unit}" if metric.unit else f"{metric.value:.6g}"


def print_facts(console: Any, facts: Mapping[str, str]) -> None:
    """Names and values in two columns."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        add_row(table, name, value)
    console.print(table)
    console.print()


def _print_specs(console: Any, title: str, specs: Sequence[TensorSpec]) -> None:
    table = new_table([("name", "left"), ("shape", "left"), ("dtype", "left"), *rights("scale", "zero point")])
    for spec in specs:
        dims = "x".join("?" if size is None else str(size) for size in spec.shape) or "scalar"
        scale = "-" if spec.scale is None else f"{spec.scale:.8g}"
        zero = "-" if spec.zero_point is None else str(spec.zero_point)
        add_row(table, folded(spec.name, max(20, console.width - 50)), dims, spec.dtype, scale, zero)
    print_table(console, title, table)


def print_table(console: Any, title: str | None, table: Any) -> None:
    """A table below its title, and an empty line."""
    if title:
        console.print(title, style="bold")
    console.print(table)
    console.print()


def new_table(columns: Sequence[tuple[str, str]]) -> Any:
    """An empty table; columns are (title, "left" or "right")."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for name, side in columns:
        table.add_column(name, justify="right" if side == "right" else "left", overflow="fold")
    return table


def rights(*names: str) -> list[tuple[str, str]]:
    """Columns of figures."""
    return [(name, "right") for name in names]


def add_row(table: Any, *cells: str) -> None:
    """A row of plain text."""
    table.add_row(*(plain(cell) for cell in cells))


def console_of_stdout() -> Any:
    """Standard output; as wide as the terminal, or wide enough for every table when it goes to a file."""
    from rich.console import Console

    # Names come from files: "[x]" and ":x:" in them are no markup.
    return Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 160)


def plain(text: str) -> str:
    """Text without control characters, which a model file could send to the terminal in a name."""
    return "".join(char if char.isprintable() or char in "\n\t" else "?" for char in text)


def _short(name: str, limit: int) -> str:
    first = name.partition(";")[0]
    return first if len(first) <= limit else "..." + first[-limit + 3 :]


def folded(name: str, room: int) -> str:
    """A long name or path in lines of at most `room` characters, broken behind a "/" where there is one."""
    lines = []
    while len(name) > room:
        cut = name.rfind("/", 1, room) + 1 or room
        lines.append(name[:cut])
        name = name[cut:]
    return "\n".join([*lines, name])
