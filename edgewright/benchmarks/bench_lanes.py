"""What a report on benchmarks sets side by side: a lane for each report and thread count, with its figures by name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from edgewright.benchmarks.figures import human_bytes, interval_text, lower_is_better, short_digest, title_of, value_text
from edgewright.report import Metric, Report

__all__ = [
    "FAMILIES",
    "Lane",
    "all_warnings",
    "best_of",
    "device_of",
    "document_of",
    "estimates_of",
    "interval_of",
    "lanes_of",
    "plain_of",
    "reasons_of",
    "rows_of",
    "shown",
    "title",
    "which_of",
]

COLOURS = 6
"""Colours of the page for series; lanes beyond take them again, and are told apart by their labels."""

FAMILIES: dict[str, tuple[str, ...]] = {
    "Latency of one inference": (
        *("latency_p50", "latency_p90", "latency_p99", "latency_p99.9", "latency_mean", "latency_iqr", "latency_jitter"),
        *("latency_after_idle", "inferences_per_second"),
    ),
    "Energy": ("energy_per_inference", "energy_per_inference_gross", "power_idle", "power_active"),
    "Memory": ("peak_rss", "model_rss", "arena_bytes"),
    "Start": ("load", "first_inference", "import"),
    "File": ("raw_bytes", "deflated_bytes"),
}
"""Metrics in the order of the tables, by what they tell of; others follow as "Other"."""

_TITLES = {
    "arena_bytes": "Arena",
    "deflated_bytes": "Size, deflated",
    "energy_per_inference": "Energy per inference, above idle",
    "energy_per_inference_estimate": "Energy per inference",
    "energy_per_inference_gross": "Energy per inference, with idle power",
    "inferences_per_second": "Inferences per second",
    "latency_after_idle": "After idle, p50",
    "latency_iqr": "Middle half (p75 − p25)",
    "latency_jitter": "Jitter (p99 − p50)",
    "latency_mean": "Mean",
    "latency_p50": "p50",
    "latency_p90": "p90",
    "latency_p99": "p99",
    "latency_p99.9": "p99.9",
    "model_rss": "Memory of engine and model",
    "power_active": "Power, busy",
    "power_idle": "Power, idle",
    "raw_bytes": "Size of the file",
}

_HIGHER = {"inferences_per_second"}
_LOWER = {"energy_per_inference", "energy_per_inference_gross"}
_FIELDS = tuple(Metric.__slots__)


@dataclass(frozen=True, slots=True)
class Lane:
    """One column: a file on a device with a number of threads.

    Args:
        number: its place, from 0.
        at: the number of its report, from 0.
        label: what tells it from the others.
        lines: the label's parts, for narrow places.
        place: the label without the thread count, which says nothing about where ops run.
        colour: CSS colour.
        threads: of one inference.
        report: the report it is from, as JSON.
        metrics: its figures by name; the file's sizes among them.
        details: what its report tells of this thread count beyond figures.
    """

    number: int
    at: int
    label: str
    lines: tuple[str, ...]
    place: str
    colour: str
    threads: int
    report: Mapping[str, Any]
    metrics: Mapping[str, Metric]
    details: Mapping[str, Any]

    @property
    def file(self) -> str:
        """The model file's name."""
        return PurePath(str(self.report["model"].get("path", ""))).name

    @property
    def engine(self) -> str:
        """Library and release, or the engine's name."""
        return str(self.report["model"].get("library") or self.report["model"].get("engine") or "")

    def metric(self, name: str) -> Metric | None:
        """A figure; None if the report has none of that name."""
        return self.metrics.get(name)

    def part(self, name: str) -> Mapping[str, Any]:
        """What the details tell under a name; empty if nothing."""
        found = self.details.get(name)
        return found if isinstance(found, Mapping) else {}

    def entries(self, name: str) -> list[Mapping[str, Any]]:
        """What the details tell under a name, process by process."""
        found = self.details.get(name)
        return [entry for entry in found if isinstance(entry, Mapping)] if isinstance(found, (list, tuple)) else []


def plain_of(report: Report | Mapping[str, Any]) -> Mapping[str, Any]:
    """A report as JSON values."""
    return report.to_json() if isinstance(report, Report) else report


def document_of(reports: Sequence[Report | Mapping[str, Any]]) -> dict[str, Any]:
    """One JSON document of all reports: a single one as it is, several as `{"reports": [...]}`; infinities are texts."""
    plain = [_finite(plain_of(report)) for report in reports]
    return plain[0] if len(plain) == 1 else {"reports": plain}


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def lanes_of(reports: Sequence[Report | Mapping[str, Any]]) -> list[Lane]:
    """The lanes of reports of kind "bench", in order: every thread count of the first, of the second, ...

    Raises:
        KeyError: a report lacks a part that every report has.
        TypeError: a part is of another kind than it is in reports.
        ValueError: a figure has neither a value nor a reason.
    """
    found = []
    for at, report in enumerate(map(plain_of, reports)):
        metrics = [Metric.from_json({key: entry[key] for key in _FIELDS if key in entry}) for entry in report["metrics"]]
        counts = [int(count) for count in report["settings"]["threads"]]
        for count in counts:
            subject = f"threads={count}" if len(counts) > 1 else ""
            own = {metric.name: metric for metric in metrics if metric.subject in ("", subject)}
            details = report["details"][subject] if subject else report["details"]
            found.append((at, report, count, own, dict(details)))
    labels = _labels([(report, count) for _, report, count, *_ in found])
    return [
        Lane(
            number,
            at,
            ", ".join(lines),
            lines,
            ", ".join(line for line in lines if line != _threads(count)) or lines[0],
            f"var(--series-{number % COLOURS})",
            count,
            report,
            own,
            details,
        )
        for number, ((at, report, count, own, details), lines) in enumerate(zip(found, labels, strict=True))
    ]


def device_of(report: Mapping[str, Any]) -> dict[str, str]:
    """Where a report was measured: `name`, `title`, `transport`, `address`; empty texts where it does not say."""
    device, machine = report["settings"].get("device"), report["settings"].get("machine") or {}
    if isinstance(device, Mapping) and device.get("name") != "local":
        return {key: str(device.get(key) or "") for key in ("name", "title", "transport", "address")}
    # What was measured without a board's name and on the board "local" is the same machine.
    name = str(device) if isinstance(device, str) and device else "local"
    return {"name": name, "title": str(machine.get("hostname") or ""), "transport": "", "address": ""}


def _threads(count: int) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"


def _labels(pairs: Sequence[tuple[Mapping[str, Any], int]]) -> list[tuple[str, ...]]:
    """The device, file and threads if they differ, and as much more as it takes to tell all apart; in the end a number."""
    parts = [
        (
            PurePath(str(report["model"].get("path", ""))).name or "model",
            device_of(report)["name"],
            str((report["settings"].get("machine") or {}).get("hostname") or ""),
            str(report["model"].get("library") or report["model"].get("engine") or ""),
            str((report["model"].get("execution") or {}).get("precision", "")),
            short_digest(str(report["model"].get("sha256", ""))),
            _threads(count),
        )
        for report, count in pairs
    ]
    kept = [len({one[at] for one in parts}) > 1 or at == _DEVICE for at in range(len(_ALWAYS))]
    kept = [one and always for one, always in zip(kept, _ALWAYS, strict=True)]

    def labels() -> list[tuple[str, ...]]:
        return [tuple(part for part, wanted in zip(one, kept, strict=True) if wanted and part) for one in parts]

    for at in range(len(_ALWAYS)):
        before = len(set(labels()))
        if before < len(parts) and not kept[at]:
            kept[at] = True
            kept[at] = len(set(labels())) > before
    found = labels()
    return [
        label if found.count(label) == 1 else (*label, f"no. {found[: at + 1].count(label)}") for at, label in enumerate(found)
    ]


_DEVICE = 1
_ALWAYS = (True, True, False, False, False, False, True)
"""Which parts of a label are named whenever they differ: file, device, host, library, precision, digest, threads."""


def title(name: str) -> str:
    """A metric's name in words, below its family's heading."""
    return _TITLES.get(name) or title_of(name)


def shown(metric: Metric) -> str:
    """A figure as the tables show it; sizes in binary units."""
    if metric.unit == "bytes" and metric.value is not None and math.isfinite(metric.value):
        return human_bytes(metric.value)
    return value_text(metric)


def interval_of(metric: Metric) -> str:
    """The interval as the tables show it, without its method; empty if there is none."""
    ends = (metric.low, metric.high)
    if metric.unit == "bytes" and all(end is not None and math.isfinite(end) for end in ends):
        first, last = (human_bytes(end).rpartition(" ") for end in ends if end is not None)
        return f"{first[0]}{'' if first[2] == last[2] else f' {first[2]}'} to {' '.join(last[::2])}"
    return interval_text(metric, method=False)


def rows_of(lanes: Sequence[Lane]) -> list[tuple[str, list[str]]]:
    """Names of all metrics that are no estimates of their own, by family: those that any lane has."""
    names = list(dict.fromkeys(name for lane in lanes for name in lane.metrics))
    known = {name for family in FAMILIES.values() for name in family}
    estimates = {metric.name for lane in lanes for metric in estimates_of(lane)}
    groups = {family: [name for name in order if name in names] for family, order in FAMILIES.items()}
    groups["Other"] = [name for name in names if name not in known | estimates]
    return [(family, found) for family, found in groups.items() if found]


def estimates_of(lane: Lane) -> list[Metric]:
    """Figures that were computed and not measured, and have no place in a table of measured ones."""
    known = {name for family in FAMILIES.values() for name in family}
    return [metric for metric in lane.metrics.values() if metric.origin == "estimated" and metric.name not in known]


def best_of(lanes: Sequence[Lane], name: str) -> int | None:
    """The lane whose figure is better than every other by more than the intervals of both; None if there is none.

    A lane without the figure, or with one that is estimated or has no confidence interval, leaves the question open. So does a
    lane with a single process, whose interval does not know how processes differ, and energy of another meter or rail, which
    is another thing measured.
    """
    metrics = [metric for lane in lanes if (metric := lane.metric(name))]
    lower = name in _LOWER or (lower_is_better(name) and name not in _HIGHER)
    if len(metrics) < max(2, len(lanes)) or not (lower or name in _HIGHER):
        return None
    if any(len(lane.entries("processes")) < 2 for lane in lanes):
        return None
    # The range of a few processes is no confidence interval: it does not say where the next one will lie.
    sure = [m for m in metrics if m.value is not None and m.origin == "measured" and not m.interval.startswith("range")]
    ends = [(m.low, m.high) for m in sure if m.low is not None]
    if len(ends) < len(lanes) or (name in _LOWER and len({_scope(lane) for lane in lanes}) > 1):
        return None
    spans = [(low, high) if lower else (-high, -low) for low, high in ends if low is not None and high is not None]
    first = min(range(len(spans)), key=lambda at: spans[at][1])
    return first if all(spans[first][1] < low for at, (low, _) in enumerate(spans) if at != first) else None


def _scope(lane: Lane) -> tuple[str, str]:
    """Meter and rail of a lane's energy."""
    return next(((str(e.get("meter")), str(e.get("scope"))) for e in lane.entries("energy") if "mj_per_inference" in e), ("", ""))


def reasons_of(lanes: Sequence[Lane]) -> list[tuple[str, str]]:
    """Why figures are missing: (which, of which lanes; reason) pairs, each reason once."""
    found: dict[str, dict[str, list[str]]] = {}
    for lane in lanes:
        for metric in lane.metrics.values():
            if metric.value is None:
                found.setdefault(metric.why_absent, {}).setdefault(title(metric.name), []).append(lane.label)
    return [(which_of(by_title, len(lanes)), why) for why, by_title in found.items()]


def which_of(by_title: Mapping[str, Sequence[str]], every: int) -> str:
    """Figures with the labels of their lanes in words; the labels are left out where all lanes are meant.

    Args:
        by_title: labels by the figure's name in words.
        every: how many lanes there are.
    """
    merged: dict[tuple[str, ...], list[str]] = {}
    for name, labels in by_title.items():
        merged.setdefault(tuple(labels), []).append(name)
    return "; ".join(
        ", ".join(names) + ("" if len(labels) == every else f" ({'; '.join(labels)})") for labels, names in merged.items()
    )


def all_warnings(lanes: Sequence[Lane]) -> list[tuple[str, str]]:
    """Every warning of every report once: (which report, or empty for a single one; text) pairs."""
    reports = {lane.at: lane for lane in reversed(lanes)}
    found: dict[str, list[str]] = {}
    for _, lane in sorted(reports.items()):
        for text in lane.report.get("warnings") or ():
            found.setdefault(str(text), []).append(lane.place)
    return [
        ("" if len(set(labels)) == len(reports) else ", ".join(dict.fromkeys(labels)), text) for text, labels in found.items()
    ]
