"""What every form of a compress report says in the same words: verdicts, limits, what is missing and why, settings as rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from edgewright.benchmarks.figures import change_of, human_bytes, lower_is_better, number_in, plain_number, title_of
from edgewright.report import CompressReport, FileReport, Metric

__all__ = [
    "absences",
    "all_warnings",
    "compared_with",
    "flat",
    "limit_of",
    "machine_text",
    "over_limit",
    "plain",
    "primary_subjects",
    "reaches_past_limit",
    "verdicts",
]


def verdicts(report: CompressReport) -> list[tuple[Literal["kept", "broken", "lost", "neutral"], str]]:
    """Whether the run kept its limits and promises and made all files: (kind, sentence) pairs, the limits first."""
    found: list[tuple[Literal["kept", "broken", "lost", "neutral"], str]] = []
    if report.passed is None:
        found.append(("neutral", "No limit was set."))
    elif report.passed:
        limit, title = limit_of(report), title_of(report.primary).lower()
        grows = f"the {title} of no file grows by more than {limit}"
        kept = grows if lower_is_better(report.primary) else f"no file loses more than {limit} of {title}"
        found.append(("kept", f"Limit kept: {kept}." if limit and title else "All limits are kept."))
    found += [("broken", f"Limit broken: {failure}.") for failure in report.failures]
    found += [("broken", f"Not made: {failure}.") for failure in report.failed]
    if report.passed is False and not report.failures:
        found.append(("broken", "A limit is broken."))
    if report.lost:
        count = len(report.lost)
        found.append(("lost", f"Something was lost on the way: {count} {'entry' if count == 1 else 'entries'} in the receipts."))
    return found


def limit_of(report: CompressReport) -> str:
    """The limit of the primary metric's loss: "1.00 points"; empty if none was set."""
    if report.max_drop is None:
        return ""
    changes = (change_of(file, report.primary) for file in report.results)
    unit = next((metric.unit for metric in changes if metric), "points")
    return f"{number_in(report.max_drop, '%')} {unit}"


def over_limit(report: CompressReport, change: Metric | None) -> bool:
    """Whether a change broke the limit; it is set on the first output that has the primary metric."""
    if report.passed is not False or report.max_drop is None or change is None or change.value is None:
        return False
    return change.subject == _limited(report) and -change.value > report.max_drop


def reaches_past_limit(report: CompressReport, change: Metric | None) -> bool:
    """Whether a change is within the limit while its interval is not: the data cannot exclude a broken limit."""
    if report.max_drop is None or change is None or change.value is None or change.low is None:
        return False
    return change.subject == _limited(report) and -change.value <= report.max_drop < -change.low


def _limited(report: CompressReport) -> str:
    return next(iter(primary_subjects(report)), "")


def primary_subjects(report: CompressReport) -> tuple[str, ...]:
    """The outputs that the primary metric was computed for, in the order of the files' metrics."""
    return tuple(dict.fromkeys(m.subject for file in report.files for m in file.metrics if m.name == report.primary))


def machine_text(environment: Mapping[str, Any]) -> str:
    """The machine that was measured on, in one line: processor, cores, memory; empty if it is not known."""
    machine = environment.get("machine", "")
    if not isinstance(machine, Mapping):
        return str(machine)
    cores, memory = machine.get("cores"), machine.get("memory_bytes")
    parts = [machine.get("cpu"), f"{cores} {'core' if cores == 1 else 'cores'}" if cores else ""]
    parts += [f"{human_bytes(memory)} memory" if isinstance(memory, (int, float)) else "", machine.get("system")]
    return ", ".join(str(part) for part in parts if part)


def compared_with(report: CompressReport) -> str:
    """The name of the file that "times smaller" compares with: found by dividing, so that no report can claim another."""
    for reference in sorted(report.files, key=lambda file: file.role != "baseline"):
        size = reference.metric("raw_bytes")
        if reference.role == "file" or size is None or size.value is None:
            continue
        pairs = [(file.metric("raw_bytes"), file.metric("smaller")) for file in report.results]
        known = [(b.value, s.value) for b, s in pairs if b and s and b.value and s.value]
        if known and all(abs(size.value / b / s - 1) < 0.005 for b, s in known):
            return reference.name
    return ""


def absences(files: Iterable[FileReport], names: Sequence[str] | None = None) -> list[tuple[str, str]]:
    """Why figures are missing: (reason, which figures of which files) pairs, each reason once.

    Args:
        files: whose metrics.
        names: only metrics of these names; None for all.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for file in files:
        for metric in file.metrics:
            if metric.why_absent and (names is None or metric.name in names):
                of_file = found.setdefault(metric.why_absent, {}).setdefault(file.name, [])
                if title_of(metric.name) not in of_file:
                    of_file.append(title_of(metric.name))
    result = []
    for why, by_file in found.items():
        merged: dict[str, list[str]] = {}
        for name, titles in by_file.items():
            merged.setdefault(", ".join(titles), []).append(name)
        result.append((why, "; ".join(f"{titles} of {', '.join(names)}" for titles, names in merged.items())))
    return result


def all_warnings(report: CompressReport) -> list[tuple[str, str]]:
    """Every warning once: (file's name or empty, text) pairs."""
    of_files = [(file.name, text) for file in report.files for text in file.warnings]
    return list(dict.fromkeys([("", text) for text in report.warnings] + of_files))


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str, str]]:
    """Nested settings as (name, value, where it came from) rows; names are joined by dots.

    A mapping with the keys "value" and "from" (and no others) is one setting; a list of recipe steps is told by their names.
    """
    rows = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, (list, tuple)) and value and all(isinstance(v, Mapping) and "step" in v for v in value):
            for step in value:
                rows += _step_rows(step)
            continue
        if isinstance(value, Mapping) and set(value) == {"value", "from"}:
            rows.append((name, plain(value["value"]), str(value["from"])))
        elif isinstance(value, Mapping) and value:
            rows += flat(value, f"{name}.")
        elif isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value):
            rows += flat({str(number): item for number, item in enumerate(value, 1)}, f"{name}.")
        else:
            size = isinstance(value, int) and not isinstance(value, bool) and value >= 1024 and key.endswith("_bytes")
            rows.append((name, f"{value:,} ({human_bytes(value)})" if size else plain(value), ""))
    return rows


def _step_rows(step: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The options of a recipe's step, each with where it came from; one row for a step without options."""
    options, origins = step.get("options", {}), step.get("origins", {})
    rows = [(name, value, str(origins.get(name, origin))) for name, value, origin in flat(options)]
    return [(f"{step['step']}.{name}", value, origin) for name, value, origin in rows] or [(str(step["step"]), "no options", "")]


def plain(value: Any) -> str:
    """A setting's value as text: yes and no, lists with commas, "not set" for None."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return plain_number(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={plain(item)}" for key, item in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(item) for item in value) or "none"
    return str(value)
