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
    "latency_p99.9": "latency p99.9",
    "latency_mean": "latency mean",
    "latency_iqr": "middle half (p75 - p25)",
    "latency_jitter": "jitter (p99 - p50)",
    "latency_after_idle": "latency after idle",
    "inferences_per_second": "inferences per second",
    "load": "load",
    "first_inference": "first inference",
    "import": "import of the engine",
    "peak_rss": "peak memory",
    "model_rss": "memory of engine and model",
    "arena_bytes": "arena",
    "energy_per_inference": "energy per inference",
    "energy_per_inference_gross": "the same with idle power",
    "power_idle": "power, idle",
    "power_active": "power, busy",
    "energy_per_inference_estimate": "energy",
    "raw_bytes": "file",
    "deflated_bytes": "file, deflated",
}
"""Metrics in the order of the table, with what it calls them; a row is there if the report has the metric."""

_OPS = 10
"""Ops in the table of a profile: those that take the longest."""

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
        if metric := find_metric(report.metrics, name):
            title += ", estimated" if metric.origin == "estimated" else ""
            table.add_row(title, *_cells([_metric(report, name, subject) for subject in subjects]))
    console.print(table)
    console.print()
    for subject, count in zip(subjects, counts, strict=True):
        found = report.details[subject] if subject else report.details
        line = spark_line(found["histogram"], _ASCII if "utf" not in console.encoding.lower() else _BLOCKS)
        console.print(f"{_threads(count)}: {line}" if subject else line)
        if "ops" in found["profile"]:
            _print_profile(console, found["profile"], _threads(count) if subject else "")
    for note in _notes(report):
        console.print(note, style="dim")
    log = logging.getLogger("edgewright")
    for warning in report.warnings:
        log.warning(warning)


def _facts(report: Report) -> dict[str, str]:
    """What was measured, by what, where."""
    model, settings, machine = report.model, report.settings, report.settings["machine"]
    execution, memory = model["execution"], machine["memory_bytes"]
    counts = settings["threads"]
    found = [report.details] if len(counts) == 1 else [report.details[f"threads={count}"] for count in counts]
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
    device = settings.get("device")
    place = [device[key] for key in ("name", "transport", "address") if device[key]] if device else []
    return {
        "file": model["path"],
        **({"device": f"{device['title']} ({', '.join(place)})"} if device else {}),
        "engine": f"{model['library'] or model['engine']}, computed in {precision} ({execution['device']})",
        "machine": ", ".join(parts),
        "measured": f"{runs:,} inferences{batch} in {children}, {settings['duration_s']:g} s {each}"
        f"after {settings['warmup_s']:g} s of warm-up",
        "placement": _placement(found[0]["placement"]),
        "clocks and heat": _clocks([one for details in found for one in details["conditions"]]),
    }


def _placement(placed: Mapping[str, Any]) -> str:
    """Where the ops run, by device, or why that is not known."""
    if "ops" not in placed:
        return f"not known: {placed['why_absent']}"
    parts = []
    for device in placed["devices"]:
        share = device["macs_share"]
        macs = "" if share is None else f" with {share:.1%} of the multiply-adds"
        parts.append(f"{device['ops']} of {placed['count']} ops{macs} on {device['device'] or 'a device that is not told'}")
    return "; ".join(parts)


def _clocks(found: Sequence[Mapping[str, Any]]) -> str:
    """Governors, frequencies, temperatures and throttling over all processes, and what is not told."""
    states = [one[when] for one in found for when in ("before", "after")]
    parts, silent = [], []
    governors = sorted({name for state in states for name in state["governor"].values()})
    clocks = [at["cur"] / 1e9 for state in states for at in state["frequency_hz"].values() if "cur" in at]
    heat = [degrees for state in states for degrees in state["temperature_c"].values()]
    told = [one["throttled"] for one in found]
    if governors:
        parts.append(f"governor {', '.join(governors)}")
    if clocks:
        parts.append(f"{_span(min(clocks), max(clocks), 2)} GHz")
    if heat:
        parts.append(f"{_span(min(heat), max(heat), 1)} degrees C")
    if True in told:
        parts.append("THROTTLED")
    elif False in told:
        parts.append("not throttled")
    for name, there in (
        ("governor", governors),
        ("frequency", clocks),
        ("temperature", heat),
        ("throttling", set(told) - {None}),
    ):
        silent += [] if there else [name]
    return ", ".join(parts + ([f"not told here: {', '.join(silent)}"] if silent else []))


def _span(low: float, high: float, places: int) -> str:
    """Two ends, or one number where they look alike."""
    first, last = f"{low:.{places}f}", f"{high:.{places}f}"
    return first if first == last else f"{first} to {last}"


def _short(name: str, most: int = 60) -> str:
    """The end of an op's name, where names differ; of several names, as .tflite files join them, the first."""
    first = name.partition(";")[0]
    return first if len(first) <= most else f"...{first[3 - most :]}"


def _print_profile(console: Any, profile: Mapping[str, Any], title: str) -> None:
    """The ops that take the longest, with what the others take and what no op explains."""
    from rich import box
    from rich.table import Table

    ops = sorted(profile["ops"], key=lambda op: -float(op["share"]))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column(f"op, {title}" if title else "op", no_wrap=True)
    for name in ("time", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("interval", justify="right", style="dim", no_wrap=True)
    table.add_column("device", no_wrap=True)
    table.add_column("name", overflow="fold")  # the one that gives way in a narrow terminal
    show = _form(Metric("op", "ms", ops[0]["ms"] if ops else 0.0))
    for op in ops[:_OPS]:
        span = f"{op['low']:.1%} - {op['high']:.1%}"
        table.add_row(
            *map(_plain, (op["op"], show(op["ms"], True), f"{op['share']:.1%}", span, op["device"], _short(op["name"])))
        )
    if rest := ops[_OPS:]:
        time, share = (sum(float(op[key]) for op in rest) for key in ("ms", "share"))
        table.add_row(f"the other {len(rest)}", show(time, True), f"{share:.1%}")
    console.print()
    console.print(table)
    left = f"; {profile['unattributed_share']:.1%} of an inference is in no op" if profile["unattributed_share"] else ""
    console.print(f"ops: {_plain(profile['source'])}, {profile['runs']} runs{left}", style="dim")


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
        absent = "not measured" if metric.name.startswith(("energy", "power")) else "-"
        cells.append(absent if metric.value is None else show(metric.value, True))
        ends = (metric.low, metric.high)
        cells.append(" - ".join(show(end, False) for end in ends if end is not None))
    return cells


def _form(metric: Metric) -> Callable[[float, bool], str]:
    """How a metric's values are written, with or without the unit."""
    value = metric.value or 0.0
    if metric.unit == "ms":
        factor, unit = (1000.0, "us") if value < 0.1 else (1.0, "ms") if value < 1000 else (0.001, "s")
        return lambda x, named: f"{_digits(x * factor)}{f' {unit}' if named else ''}"
    if metric.unit == "mJ":
        factor, unit = (1000.0, "uJ") if value < 0.1 else (1.0, "mJ") if value < 1000 else (0.001, "J")
        return lambda x, named: f"{_digits(x * factor)}{f' {unit}' if named else ''}"
    if metric.unit == "W":
        return lambda x, named: f"{_digits(x)}{' W' if named else ''}"
    if metric.name in ("peak_rss", "model_rss"):
        return lambda x, named: f"{x / 2**20:.1f}{' MiB' if named else ''}"
    if metric.unit == "bytes":
        return lambda x, named: f"{x:,.0f}{' bytes' if named else ''}"
    return lambda x, named: _digits(x)


def _digits(value: float) -> str:
    """Four digits that count, and no exponent."""
    if value == 0:
        return "0"
    size = abs(value)
    places = 3 if size < 10 else 2 if size < 100 else 1 if size < 1000 else 0
    return f"{value:,.{places}f}" if size >= 0.1 else f"{value:.4f}"


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
        rows = list(dict.fromkeys(rows))
        latencies = [row.removeprefix("latency ") for row in rows if row.startswith("latency ")]
        rows = [*([f"latency {', '.join(latencies)}"] if latencies else []), *(r for r in rows if not r.startswith("latency "))]
        found.append(f"interval of {', '.join(rows)}: {interval}")
    missing: dict[str, list[str]] = {}
    for metric in report.metrics:
        if metric.why_absent:
            missing.setdefault(metric.why_absent, []).append(_ROWS.get(metric.name, metric.name))
    return [*found, *(f"no {', '.join(dict.fromkeys(rows))}: {why}" for why, rows in missing.items())]


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
