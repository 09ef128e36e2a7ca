"""What people see of compress, evaluate, recipes and cache in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgewright.benchmarks.figures import (
    change_meaning,
    change_of,
    interval_text,
    lower_is_better,
    title_of,
    value_in,
    value_text,
)
from edgewright.planning import PlannedStep, Watch
from edgewright.report import Flips, GroupChange, Metric
from edgewright.terminal import add_row, console_of_stdout, folded, new_table, plain, print_facts, print_table, rights, say

if TYPE_CHECKING:
    from edgewright.recipe import Recipe
    from edgewright.report import CompressReport, FileReport, Report

__all__ = ["print_cache", "print_compress", "print_evaluation", "print_plan", "print_recipe", "print_recipes", "step_bars"]


@contextmanager
def step_bars() -> Iterator[Watch]:
    """A progress bar per step on standard error while the block runs; silent when that is no terminal."""
    if not sys.stderr.isatty():
        yield Watch()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    with Progress(*columns, console=console, transient=True) as bars:
        watch = _Bars(bars)
        yield watch
    if watch.reused:
        console.print(f"{watch.reused} of {watch.reused + watch.done} steps were in the cache", style="dim")


class _Bars(Watch):
    """A bar for every step at work; a line for every step that is done."""

    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._tasks: dict[str, Any] = {}
        self.reused = self.done = 0

    def begin(self, step: PlannedStep) -> None:
        self._tasks[step.what] = self._bars.add_task(plain(step.what), total=1.0)

    def progress(self, step: PlannedStep, share: float, text: str) -> None:
        about = f"{step.what}: {text}" if text and text != step.what else step.what
        self._bars.update(self._tasks[step.what], completed=min(share, 1.0), description=plain(about)[:100])

    def end(self, step: PlannedStep, seconds: float) -> None:
        self._bars.remove_task(self._tasks.pop(step.what))
        if step.reused:
            self.reused += 1
            return
        self.done += 1
        self._bars.console.print(f"{_seconds(seconds):>8}  {plain(step.what)}", style="dim")


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 60 else f"{value // 60:.0f} min {value % 60:02.0f} s"


def print_plan(steps: Sequence[Mapping[str, Any]]) -> None:
    """The steps of a run and what they will cost."""
    console = console_of_stdout()
    table = new_table([("step", "left"), ("options", "left"), *rights("time", "memory"), ("estimated from", "left")])
    for step in steps:
        options = ", ".join(f"{key}={value}" for key, value in step["options"].items() if value is not None)
        memory = "-" if step["cached"] else f"{step['memory_bytes'] / 2**20:,.0f} MiB"
        add_row(table, step["what"], options or "-", "-" if step["cached"] else _seconds(step["seconds"]), memory, step["from"])
    print_table(console, None, table)
    todo = [step for step in steps if not step["cached"]]
    total = _seconds(sum(step["seconds"] for step in todo))
    peak = max((step["memory_bytes"] for step in todo), default=0) / 2**20
    console.print(
        f"{len(todo)} of {len(steps)} steps to do, {len(steps) - len(todo)} in the cache. "
        + (f"Estimated: {total}, {peak:,.0f} MiB at most in one process." if todo else "It will take a second.")
    )


def print_compress(report: CompressReport, written: Sequence[Path]) -> None:
    """A run's files, what they are worth and how fast they are; the worst class of each; where the report is."""
    console = console_of_stdout()
    primary = title_of(report.primary).lower() if report.primary else ""
    sizes = rights("bytes", "deflated", "x smaller")
    speed = rights("p50", "p99", "speed-up") if _measured(report) else []
    quality = rights(primary, "95 % interval", "change", "95 % interval") if primary else rights("SQNR", "same class")
    file_column, about = ("file", "left"), [("computed in", "left")]
    wide = console.width >= 150
    layouts = [[*about, *sizes, *quality, *speed]] if wide else [[*about, *sizes], [*quality, *speed]]
    tables = [new_table([file_column, *layout]) for layout in layouts]
    for file in report.files:
        label = folded(file.name if file.role != "baseline" else f"{file.name} in {file.engine}", 34)
        size = [file.computed_in, *(_plain_value(file, name) for name in ("raw_bytes", "deflated_bytes", "smaller"))]
        worth = [*(_quality(file, report.primary) if primary else _fidelity(file)), *(_speed(file) if speed else [])]
        for table, row in zip(tables, [[*size, *worth]] if wide else [size, worth], strict=True):
            table.add_row(plain(label), *map(plain, row), style="bold red" if _too_low(report, file) else None)
    for table in tables:
        print_table(console, None, table)
    _print_legend(console, report)
    for file in report.results:
        _print_harm(console, file)
    _print_receipts(console, report)
    for warning in dict.fromkeys([*report.warnings, *(f"{f.name}: {w}" for f in report.results for w in f.warnings)]):
        say("warning", warning)
    _print_verdict(console, report)
    shown = next((path for path in written if path.suffix == ".html"), written[0] if written else None)
    if shown is not None:
        console.print(plain(f"Report: {shown.resolve()}"), soft_wrap=True, style="bold")


def _too_low(report: CompressReport, file: FileReport) -> bool:
    """Whether a file breaks the budget."""
    change = change_of(file, report.primary) if report.primary and file.role == "file" else None
    return report.max_drop is not None and change is not None and not (change.value or 0.0) >= -report.max_drop


def _measured(report: CompressReport) -> bool:
    return any((metric := file.metric("latency_p50")) and metric.value is not None for file in report.files)


def _plain_value(file: FileReport, name: str) -> str:
    metric = file.metric(name)
    if metric is None or metric.value is None:
        return "-"
    return f"{metric.value:,.0f}" if metric.unit == "bytes" else f"{metric.value:.1f}"


def _quality(file: FileReport, primary: str) -> list[str]:
    metric, change = file.metric(primary), change_of(file, primary)
    cells = [value_text(metric), interval_text(metric, method=False)] if metric else ["-", "-"]
    if change is None or file.role == "original":
        return [*cells, "-", "-"]
    return [*cells, value_text(change), interval_text(change, method=False)]


def _fidelity(file: FileReport) -> list[str]:
    return [value_text(metric) if (metric := file.metric(name)) else "-" for name in ("sqnr", "top1_agreement")]


def _speed(file: FileReport) -> list[str]:
    cells = []
    for name in ("latency_p50", "latency_p99", "speedup"):
        metric = file.metric(name)
        cells.append(value_text(metric) if metric and metric.value is not None else "-")
    return cells


def _print_legend(console: Any, report: CompressReport) -> None:
    lines = []
    if _measured(report):
        cpu = report.environment["machine"]["cpu"]
        lines.append(f"Latency of one inference here ({cpu}); speed-up: against the uncompressed model in the same engine.")
    if report.primary:
        better = "lower is better" if lower_is_better(report.primary) else "higher is better"
        lines.append(f"{title_of(report.primary)}: {better}; a negative change is worse. x smaller: than the uncompressed file.")
    for line in lines:
        console.print(line, style="dim")
    if lines:
        console.print()


def _print_harm(console: Any, file: FileReport) -> None:
    """Whom a file harms most, and how many decisions flipped."""
    parts = []
    worst = [next((g for g in file.groups if g.kind == kind and g.change is not None), None) for kind in ("class", "slice")]
    for group in worst:
        if group is not None and group.change is not None and group.change < 0:
            what = f"class {group.value}" if group.kind == "class" else f"{group.group} {group.value}"
            parts.append(f"{what} {_change(group)}")
    flips = file.flips
    flipped = f"{_flipped(flips)}" if flips else ""
    text = "; ".join([*([f"worst hit: {', '.join(parts)}"] if parts else []), *([flipped] if flipped else [])])
    if text:
        console.print(plain(f"{file.name}: {text}"), soft_wrap=True)


def _change(group: GroupChange) -> str:
    unit = "points" if group.unit == "share" or group.metric in {"roc_auc", "average_precision", "r2"} else "%"
    interval = "" if group.low is None or group.high is None else f" ({group.low:+.1f} to {group.high:+.1f})"
    return f"{value_in(group.change or 0.0, unit, signed=True)}{interval}"


def _flipped(flips: Flips) -> str:
    count = flips.broken + flips.fixed + flips.neither
    if not count:
        return f"none of {flips.samples:,} decisions flipped"
    return f"{count} of {flips.samples:,} decisions flipped: {flips.broken} broken, {flips.fixed} fixed, {flips.neither} neither"


def _print_receipts(console: Any, report: CompressReport) -> None:
    console.print()
    promises = [promise for file in report.results for receipt in file.receipts[-1:] for promise in receipt.promises]
    kept = sum(promise.kept for promise in promises)
    tensors = sum(len(receipt.tensors) for file in report.results for receipt in file.receipts[-1:])
    if not report.lost:
        console.print(f"Receipts: {kept} of {len(promises)} promises kept, read back from {tensors} tensors.", style="green")
        return
    console.print(f"Receipts: {kept} of {len(promises)} promises kept; lost:", style="yellow")
    for text in report.lost:
        console.print(plain(f"  {text}"), soft_wrap=True, style="yellow")


def _print_verdict(console: Any, report: CompressReport) -> None:
    for failure in report.failed:
        console.print(plain(f"not made: {failure}"), soft_wrap=True, style="bold red")
    if report.passed:
        unit = "%" if lower_is_better(report.primary) else "points"
        told = f"Every file is within {report.max_drop:g} {unit} of the original."
        console.print(told, style="green")


def print_evaluation(report: Report) -> None:
    """A file's figures, beside the original's if there is one, and whom it harms."""
    console = console_of_stdout()
    execution = report.model.get("execution")
    how = f"{report.model['engine']}, {execution['precision']} ({execution['device']})" if execution else "tensorflow"
    facts = {"file": f"{report.model['path']}\n{how}"}
    if "against" in report.model:
        facts["against"] = report.model["against"]["path"]
    print_facts(console, {**facts, "task": report.settings["task"], "samples": report.settings["samples"]})
    metrics = [metric for metric in report.metrics if not metric.name.endswith("_change")]
    changes = {(m.name.removesuffix("_change"), m.subject): m for m in report.metrics if m.name.endswith("_change")}
    several = len({metric.subject for metric in metrics}) > 1
    columns = [*([("output", "left")] if several else []), ("metric", "left"), *rights("value", "95 % interval")]
    table = new_table([*columns, *(rights("change", "95 % interval") if changes else []), ("", "left")])
    for metric in metrics:
        row = [*([metric.subject] if several else []), title_of(metric.name), *_value_cells(metric)]
        change = changes.get((metric.name, metric.subject))
        if changes:
            row += _value_cells(change) if change else ["-", "-"]
        meaning = change_meaning(change.value, change.low, change.high) if change else metric.why_absent
        add_row(table, *row, meaning)
    print_table(console, None, table)
    _print_groups(console, [GroupChange(**group) for group in report.details["groups"]])
    flips = report.details["flips"]
    if flips:
        console.print(_flipped(Flips(**{**flips, "listed": ()})) + (" (--json lists them)" if flips["listed"] else ""))
    for note in report.details["notes"]:
        say("note", note)
    for warning in report.warnings:
        say("warning", warning)
    if report.settings["passed"]:
        console.print("the budget is kept", style="green")


def _value_cells(metric: Metric) -> list[str]:
    return ["-", "-"] if metric.value is None else [value_text(metric), interval_text(metric, method=False)]


def _print_groups(console: Any, groups: Sequence[GroupChange]) -> None:
    for kind in ("class", "slice"):
        chosen = [group for group in groups if group.kind == kind]
        if not chosen:
            continue
        compared = any(group.change is not None for group in chosen)
        columns = [(kind, "left"), *rights("samples", chosen[0].metric.replace("_", " "))]
        table = new_table([*columns, *(rights("original", "change", "95 % interval", "broken", "fixed") if compared else [])])
        for group in chosen:
            name = group.value if kind == "class" else f"{group.group} {group.value}"
            row = [folded(name, 40), f"{group.samples:,}", _group_value(group.file, group.unit)]
            if compared:
                interval = "-" if group.low is None or group.high is None else f"{group.low:+.2f} to {group.high:+.2f}"
                change = "-" if group.change is None else f"{group.change:+.2f}"
                row += [_group_value(group.original, group.unit), change, interval, str(group.broken), str(group.fixed)]
            add_row(table, *row)
        print_table(console, f"by {kind}, worst first", table)


def _group_value(value: float | None, unit: str) -> str:
    return "-" if value is None else value_in(value, unit)


def print_recipes(recipes: Sequence[Recipe]) -> None:
    """All shipped recipes, a line each."""
    console = console_of_stdout()
    table = new_table([("recipe", "left"), ("what it does", "left"), ("for", "left"), ("steps", "left")])
    for recipe in recipes:
        steps = " -> ".join(step.name for step in recipe.steps if step.name != "lower" or step.options)
        add_row(table, recipe.name, recipe.title, ", ".join(recipe.to) or "tflite, openvino", steps)
    print_table(console, None, table)
    console.print("edgewright recipes NAME shows one; save it as a .toml file of your own to change it.", style="dim")


def print_recipe(recipe: Recipe) -> None:
    """A recipe as it stands in its file."""
    sys.stdout.write(plain(recipe.text).strip() + "\n")


def print_cache(found: Mapping[str, Any]) -> None:
    """What is in the cache, or what was removed from it."""
    console = console_of_stdout()
    if "removed" in found:
        console.print(plain(f"{found['removed']} steps removed, {found['removed_bytes']:,} bytes freed in {found['cache']}"))
        return
    if "bytes" in found:
        console.print(plain(f"{found['entries']} steps, {found['bytes']:,} bytes in {found['cache']}"))
        return
    table = new_table([("step", "left"), ("kind", "left"), *rights("took", "bytes"), ("last used (UTC)", "left")])
    for entry in found["entries"]:
        row = (_seconds(entry["seconds"]), f"{entry['bytes']:,}", entry["used"].replace("T", " ")[:19])
        add_row(table, entry["what"], entry["kind"], *row)
    print_table(console, None, table)
    console.print(plain(f"{len(found['entries'])} steps in {found['cache']}"), style="dim")
