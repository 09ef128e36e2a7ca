"""What people see in the terminal: tables on standard output, progress and messages on standard error."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgewright.artifact import Artifact, TensorSpec
    from edgewright.converters.model_info import ModelInfo
    from edgewright.demo import DemoRow
    from edgewright.report import Metric, Report

__all__ = ["log_to_stderr", "print_demo", "print_info", "print_report", "progress_bar", "say", "show_artifact"]

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
        Console(stderr=True, soft_wrap=True).print(line.append(text, style="not bold default"))
    else:
        sys.stderr.write(f"{kind}: {text}\n")


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
    """Everything that `inspect` knows, as tables."""
    console = _console()
    macs = f"{info.macs:,}" if info.macs is not None else "not counted"
    facts = _table(None, [("", "left"), ("", "left")], header=False)
    for name, value in (
        ("file", str(path)),
        ("format", info.format),
        ("parameters", f"{info.parameters:,}"),
        ("multiply-adds", f"{macs} ({info.macs_note})" if info.macs_note else macs),
        ("size", f"{info.raw_bytes:,} bytes, {info.deflated_bytes:,} deflated"),
        ("ops", ", ".join(f"{op} x{count}" if count > 1 else op for op, count in info.ops.items())),
    ):
        facts.add_row(name, value)
    console.print(facts)
    console.print(_specs_table("inputs", info.inputs))
    console.print(_specs_table("outputs", info.outputs))
    shown = info.weights[:weights]
    title = (
        f"weights, the {len(shown)} largest of {len(info.weights)} (--all lists every one)"
        if len(shown) < len(info.weights)
        else "weights"
    )
    columns = [
        ("tensor", "left"),
        ("shape", "left"),
        ("dtype", "left"),
        ("bits", "right"),
        ("zeros", "right"),
        ("unique", "right"),
        ("per channel", "right"),
    ]
    table = _table(title, columns)
    for w in shown:
        per_channel = f"{w.unique_per_channel:,}" if w.channel_axis is not None else "-"
        table.add_row(
            _short(w.name), " x ".join(map(str, w.shape)), w.dtype, str(w.bits), f"{w.sparsity:.1%}", f"{w.unique:,}", per_channel
        )
    console.print(table)
    for note in info.notes:
        say("note", note)


def show_artifact(artifact: Artifact, model: Path) -> None:
    """The file that was written, beside what it was made of."""
    from edgewright.converters.model_info import deflated_bytes, raw_bytes

    console = _console()
    table = _table(None, [("file", "left"), ("format", "left"), ("bytes", "right"), ("deflated", "right"), ("sha256", "left")])
    table.add_row(str(model), "", f"{raw_bytes(model):,}", f"{deflated_bytes(model):,}", "")
    table.add_row(
        str(artifact.path),
        artifact.format,
        f"{raw_bytes(artifact.path):,}",
        f"{deflated_bytes(artifact.path):,}",
        artifact.sha256[:12],
    )
    console.print(table)
    console.print(_specs_table("inputs", artifact.inputs))
    console.print(_specs_table("outputs", artifact.outputs))


def print_report(report: Report) -> None:
    """A verification report: one row per output."""
    console = _console()
    sides = report.model
    for key in ("candidate", "reference"):
        by = sides[key]["computed_by"]
        execution = by.get("execution")
        how = f"{by['engine']}, {execution['precision']} ({execution['device']})" if execution else by["engine"]
        console.print(f"{key:<10} {sides[key]['path']}  [dim]{how}[/dim]")
    console.print(f"{'samples':<10} {report.settings['samples']}")
    names = list(dict.fromkeys(m.name for m in report.metrics))
    table = _table(None, [("output", "left"), *((name.replace("_", " "), "right") for name in names)])
    for subject in dict.fromkeys(m.subject for m in report.metrics):
        found = {m.name: m for m in report.metrics if m.subject == subject}
        table.add_row(subject, *(_figure(found[name]) for name in names))
    console.print(table)
    for why in dict.fromkeys(m.why_absent for m in report.metrics if m.why_absent):
        console.print(f"[dim]-: {why}[/dim]")
    for warning in report.warnings:
        say("warning", warning)
    if report.settings["passed"]:
        console.print("[green]all limits are kept[/green]")


def print_demo(rows: Sequence[DemoRow], out: Path, notes: Sequence[str]) -> None:
    """The demo's table: accuracy beside size."""
    console = _console()
    table = _table(
        f"{rows[0].samples:,} windows of subjects 8-10, who were never trained on",
        [
            ("file", "left"),
            ("computed in", "left"),
            ("bytes", "right"),
            ("deflated", "right"),
            ("x smaller", "right"),
            ("SQNR", "right"),
            ("same class", "right"),
            ("accuracy", "right"),
            ("95 % interval", "right"),
            ("change", "right"),
        ],
    )
    float_size = next(row.raw_bytes for row in rows if row.precision == "float32" and row.target != "keras")
    for row in rows:
        change = (row.accuracy - rows[0].accuracy) * 100
        table.add_row(
            row.name,
            row.computed_in,
            f"{row.raw_bytes:,}",
            f"{row.deflated_bytes:,}",
            f"{float_size / row.raw_bytes:.1f}" if row.target != "keras" else "-",
            "-" if row.sqnr_db is None else f"{row.sqnr_db:.1f} dB",
            "-" if row.agreement is None else f"{row.agreement:.1%}",
            f"{row.accuracy:.2%}",
            f"{row.low:.1%} - {row.high:.1%}",
            "-" if row is rows[0] else f"{change:+.2f} points",
        )
    console.print(table)
    console.print(
        "SQNR and same class: against the Keras model on the first 100 windows. x smaller: than the float32 .tflite.\n"
        "The interval takes windows as independent; three people are few, so expect more spread between persons."
    )
    for note in notes:
        say("note", note)
    console.print(f"The files are in {out}. Look into one: edgewright inspect {out / rows[3].name}")


def _figure(metric: Metric) -> str:
    if metric.value is None:
        return "-"
    if metric.name == "top1_agreement":
        return f"{metric.value:.2%}"
    return f"{metric.value:.1f} {metric.unit}" if metric.unit else f"{metric.value:.6g}"


def _specs_table(title: str, specs: Sequence[TensorSpec]) -> Any:
    table = _table(title, [("name", "left"), ("shape", "left"), ("dtype", "left"), ("scale", "right"), ("zero point", "right")])
    for spec in specs:
        dims = " x ".join("?" if size is None else str(size) for size in spec.shape)
        scale = "-" if spec.scale is None else f"{spec.scale:.8g}"
        table.add_row(spec.name, dims, spec.dtype, scale, "-" if spec.zero_point is None else str(spec.zero_point))
    return table


def _table(title: str | None, columns: Sequence[tuple[str, str]], *, header: bool = True) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_header=header, pad_edge=False)
    for name, side in columns:
        table.add_column(name, justify="right" if side == "right" else "left", overflow="fold")
    return table


def _console() -> Any:
    """Standard output; as wide as the terminal, or wide enough for every table when it goes to a file."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def _short(name: str, limit: int = 60) -> str:
    first = name.partition(";")[0]
    return first if len(first) <= limit else "..." + first[-limit + 3 :]
