"""A compress report as one HTML file that needs nothing else: no network, no fonts, no server."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgewright.artifact import write_atomic
from edgewright.benchmarks import figures, report_words
from edgewright.benchmarks.report_charts import Chart, Style, styles_of, tradeoff_charts
from edgewright.benchmarks.report_spread import change_charts, latency_charts
from edgewright.errors import needs
from edgewright.report import CompressReport, FileReport, GroupChange, Metric

if TYPE_CHECKING:
    import jinja2
    import markupsafe

__all__ = [
    "content_policy",
    "for_data",
    "for_script",
    "javascript_bundle",
    "page_environment",
    "page_tools",
    "render_html",
    "resource_text",
]

_FLIPS = 200
_GROUPS = 200
_TENSORS = 300


def javascript_bundle(cache: Path | None = None) -> str:
    """Vega, Vega-Lite and vega-embed as one script, from the package vl-convert.

    Args:
        cache: a folder in which the script is kept, since making it takes seconds; None makes it anew.

    Raises:
        MissingPackageError: vl-convert is not installed.
        ArtifactError: the folder cannot be written.
    """
    with needs("report"):
        import vl_convert
    kept = cache / f"vega-{metadata.version('vl-convert-python')}.js" if cache else None
    if kept and kept.is_file():
        return kept.read_bytes().decode()
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    if kept:
        write_atomic(kept, bundle.encode())
    return bundle


def render_html(report: CompressReport, bundle: str | None = None) -> str:
    """The whole report as one HTML document; the same report and bundle give the same text.

    Args:
        report: what a run made and measured.
        bundle: what `javascript_bundle` gives; None makes it.

    Raises:
        MissingPackageError: jinja2, or vl-convert where no bundle was given, is not installed.
    """
    with needs("report"):
        import jinja2  # noqa: F401
        import markupsafe
    # Own scope: the bundle's top-level names are single letters.
    vega = for_script("(function(){" + (javascript_bundle() if bundle is None else bundle) + "\n})();")
    script = for_script(resource_text("report.js"))
    view = _view(report)
    charts = [{"id": chart.id, "spec": chart.spec, "labels": chart.labels} for chart in view.pop("all_charts")]
    return (
        page_environment()
        .get_template("report.html.j2")
        .render(
            **view,
            **page_tools(),
            css=markupsafe.Markup(resource_text("report.css")),
            vega=markupsafe.Markup(vega),
            script=markupsafe.Markup(script),
            policy=content_policy(vega, script),
            chart_data=markupsafe.Markup(for_data(charts)),
        )
    )


@functools.cache
def page_environment() -> jinja2.Environment:
    """The templates; they are compiled once, which takes longer than to fill them."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(resource_text),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters["figure"] = figures.typeset
    environment.filters["breakable"] = _breakable
    environment.finalize = lambda value: figures.printable(value) if type(value) is str else value
    return environment


# --- what stands in the page but is no text --------------------------------------------------------------------------


def resource_text(name: str) -> str:
    """A template, style sheet or script that is shipped."""
    return (resources.files("edgewright.benchmarks") / "report_files" / name).read_text(encoding="utf-8")


def for_script(code: str) -> str:
    """Code that cannot end the script element it stands in; in strings, where this occurs, the meaning stays."""
    return re.sub(r"<(/script|!--)", r"<\\\1", code, flags=re.IGNORECASE)


def for_data(value: Any) -> str:
    """JSON that holds no character which HTML could take for markup."""
    text = json.dumps(_printable(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _printable(value: Any) -> Any:
    """Plain values with every text made printable."""
    if isinstance(value, Mapping):
        return {figures.printable(key): _printable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_printable(item) for item in value]
    return figures.printable(value) if isinstance(value, str) else value


def content_policy(*scripts: str) -> str:
    """A content security policy: nothing is fetched, and only these scripts run, whatever a name in the report holds."""
    digests = (base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    )


def _breakable(name: str) -> markupsafe.Markup:
    """A file's name that a narrow column breaks where a person would: behind a dot, a dash, an underscore."""
    import markupsafe

    parts = re.split(r"(?<=[_./-])(?=.)", figures.printable(name))
    return markupsafe.Markup("<wbr>").join(parts)


def page_tools() -> dict[str, Any]:
    """The functions that the template uses: the same that make the other forms of the report."""
    names = (
        *("change_meaning", "human_bytes", "interval_in", "interval_text"),
        *("short_digest", "title_of", "value_in", "value_text"),
    )  # fmt: skip
    tools = {name: getattr(figures, name) for name in names}
    tools["about_left_out"] = _about_left_out
    return tools | {name: getattr(report_words, name) for name in ("flat", "plain", "over_limit", "reaches_past_limit")}


def _about_left_out(recipe: Any) -> Mapping[str, Any]:
    """A recipe without what already stands in its heading."""
    if not isinstance(recipe, Mapping):
        return {"value": recipe}
    return {key: value for key, value in recipe.items() if key not in {"name", "title", "about", "description"}}


# --- what the page shows ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Strip:
    """A change with its interval on a line, in per cent of its width, the same scale for all files of the report."""

    zero: float
    limit: float | None
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class _Shown:
    """A file as the page shows it: its number in the report, symbol, change of the primary metric, and that as a strip."""

    number: int
    file: FileReport
    style: Style
    change: Metric | None
    strip: _Strip | None


@dataclass(frozen=True, slots=True)
class _Harm:
    """The changes of all classes of one output, or of all slices; cells of a row are by the file's number."""

    title: str
    charts: tuple[Chart, ...]
    same: tuple[str, ...]
    files: tuple[_Shown, ...]
    rows: tuple[tuple[str, GroupChange, Mapping[int, GroupChange]], ...]
    total: int


def _view(report: CompressReport) -> dict[str, Any]:
    subjects = report_words.primary_subjects(report)
    shown = _shown(report, subjects)
    tradeoffs, latencies, harms = tradeoff_charts(report), latency_charts(report), _harms(report, shown)
    several = len({m.subject for file in report.files for m in file.metrics if m.subject}) > 1
    return {
        "report": report,
        "files": shown,
        "results": [item for item in shown if item.file.role == "file"],
        "verdicts": report_words.verdicts(report),
        "facts": _facts(report),
        "subjects": subjects,
        "several": several,
        "columns": [name for name in ("smaller", "latency_p50", "latency_p99", "speedup") if _has(report, name)],
        "reference": report_words.compared_with(report),
        "missing": report_words.absences(report.files, _shown_names(report)),
        "no_speed": report_words.absences(report.results, ("latency_p50",)),
        "measured_on": report_words.machine_text(report.environment),
        "measured_at": next((str(report.environment[key]) for key in ("measured_at", "date") if key in report.environment), ""),
        "tradeoffs": tradeoffs,
        "latencies": latencies,
        "harms": harms,
        "all_charts": [*tradeoffs, *latencies, *(chart for harm in harms for chart in harm.charts)],
        "flips": _flips(shown),
        "sheet": _sheet(report),
        "warnings": report_words.all_warnings(report),
        "tensor_cap": _TENSORS,
        "legend": _legend(shown),
    }


def _shown(report: CompressReport, subjects: Sequence[str]) -> tuple[_Shown, ...]:
    changes = [_worst_change(report, file, subjects) if file.role == "file" else None for file in report.files]
    strips = _strips(report, changes)
    styles = styles_of(report)
    return tuple(_Shown(number, *rest) for number, rest in enumerate(zip(report.files, styles, changes, strips, strict=True)))


def _worst_change(report: CompressReport, file: FileReport, subjects: Sequence[str]) -> Metric | None:
    """The change of the primary metric, of the output that lost most."""
    changes = [figures.change_of(file, report.primary, subject) for subject in subjects]
    known = [change for change in changes if change is not None and change.value is not None]
    return min(known, key=lambda change: change.value or 0.0) if known else next((c for c in changes if c), None)


def _strips(report: CompressReport, changes: Sequence[Metric | None]) -> list[_Strip | None]:
    """A strip for each change that is known."""
    known = [change for change in changes if change is not None and change.value is not None]
    ends = [end for change in known for end in (change.value, change.low, change.high) if end is not None and math.isfinite(end)]
    low, high = min([0.0, -(report.max_drop or 0.0), *ends]), max([0.0, *ends])
    span = (high - low) or 1.0
    low, high = low - 0.08 * span, high + 0.08 * span

    def at(value: float | None) -> float | None:
        return None if value is None or not math.isfinite(value) else round(100 * (value - low) / (high - low), 2)

    limit = at(None if report.max_drop is None else -report.max_drop)
    strips: list[_Strip | None] = []
    for change in changes:
        value = at(change.value) if change else None
        strips.append(
            None if change is None or value is None else _Strip(at(0.0) or 0.0, limit, value, at(change.low), at(change.high))
        )
    return strips


def _has(report: CompressReport, name: str) -> bool:
    found = (file.metric(name) for file in report.files)
    return any(metric is not None and metric.value is not None for metric in found)


def _shown_names(report: CompressReport) -> list[str]:
    """The metrics of the files table, with those that would be there had they been measured."""
    names = {m.name for file in report.files for m in file.metrics}
    accuracy = {n for n in names if figures.family_of(n) == "Accuracy"}
    primary = {report.primary, f"{report.primary}_change"} if report.primary else accuracy
    return sorted(primary | {"raw_bytes", "deflated_bytes", "smaller", "latency_p50", "latency_p99", "speedup"})


def _facts(report: CompressReport) -> list[tuple[str, str, str]]:
    """The key specifications: (what, figure, remark)."""
    original, facts = report.original, []
    primary = original.metric(report.primary) if report.primary else None
    if primary and primary.value is not None:
        interval = figures.interval_text(primary, method=False)
        facts.append((f"{figures.title_of(report.primary)} of the original", figures.value_text(primary), interval))
        if primary.samples:
            facts.append(("Evaluated on", f"{primary.samples:,}", "samples"))
    for name, remark in (("raw_bytes", ""), ("parameters", ""), ("macs", "one inference")):
        metric = original.metric(name)
        if metric and metric.value is not None:
            size = figures.human_bytes(metric.value) if name == "raw_bytes" and metric.value >= 1024 else remark
            estimated = "estimated" if metric.origin == "estimated" else ""
            title = "Size of the original" if name == "raw_bytes" else figures.title_of(name)
            facts.append((title, figures.value_text(metric), ", ".join(t for t in (size, estimated) if t)))
    if limit := report_words.limit_of(report):
        loss = "growth" if figures.lower_is_better(report.primary) else "loss"
        facts.append(("Limit", limit, f"{loss} of {figures.title_of(report.primary).lower()}" if report.primary else ""))
    recipes = len(report.recipes)
    facts.append(("Files made", str(len(report.results)), f"by {recipes} recipes" if recipes > 1 else ""))
    return facts


def _harms(report: CompressReport, shown: Sequence[_Shown]) -> list[_Harm]:
    """One part per output with classes, then one for all slices."""
    outputs = dict.fromkeys(g.group for file in report.results for g in file.groups if g.kind == "class")
    parts = [_harm(report, shown, f"Classes of {output}" if output else "Classes", "class", output) for output in outputs]
    if any(g.kind == "slice" for file in report.results for g in file.groups):
        parts.append(_harm(report, shown, "Slices of the evaluation data", "slice", ""))
    return parts


def _harm(report: CompressReport, shown: Sequence[_Shown], title: str, kind: Literal["class", "slice"], output: str) -> _Harm:
    rows: dict[tuple[str, str], dict[int, GroupChange]] = {}
    files = []
    for item in shown:
        found = [g for g in item.file.groups if g.kind == kind and (kind == "slice" or g.group == output)]
        if item.file.role != "file" or not found:
            continue
        files.append(item)
        for group in found:
            rows.setdefault((group.group, group.value), {})[item.number] = group

    def worst(key: tuple[str, str]) -> tuple[float, tuple[str, str]]:
        changes = [g.change for g in rows[key].values() if g.change is not None]
        return (min(changes) if changes else math.inf, key)

    ordered = sorted(rows, key=worst)
    cells = tuple(
        (f"{key[0]} {key[1]}" if kind == "slice" else key[1], next(iter(rows[key].values())), rows[key])
        for key in ordered[:_GROUPS]
    )
    charts, same = change_charts(report, kind, output)
    return _Harm(title, tuple(charts), tuple(same), tuple(files), cells, len(ordered))


def _flips(shown: Sequence[_Shown]) -> dict[str, Any] | None:
    """The flipped samples of all files, and how many there are of each kind; None if no decisions were compared."""
    files = [(item, item.file.flips) for item in shown if item.file.flips is not None and item.file.role == "file"]
    if not files:
        return None
    rows = [(item, flip) for item, flips in files for flip in flips.listed[:_FLIPS]]
    totals = [{"file": item.number, "broken": f.broken, "fixed": f.fixed, "neither": f.neither} for item, f in files]
    return {
        "files": files,
        "rows": rows,
        "totals": json.dumps(totals),
        "all": sum(f.broken + f.fixed + f.neither for _, f in files),
        "outputs": len({flip.output for _, flip in rows}) > 1,
        "slices": any(flip.slices for _, flip in rows),
    }


def _sheet(report: CompressReport) -> list[tuple[str, list[tuple[str, str, Mapping[int, Metric]]]]]:
    """Every metric of every file: (family, rows of (name, subject, metric by the file's number))."""
    families: dict[str, dict[tuple[str, str], dict[int, Metric]]] = {
        name: {} for name in ("Size", "Accuracy", "Fidelity", "Speed", "Memory", "Energy", "Other")
    }
    for number, file in enumerate(report.files):
        for metric in file.metrics:
            rows = families[figures.family_of(metric.name)]
            rows.setdefault((metric.name, metric.subject), {}).setdefault(number, metric)
    return [
        (family, [(name, subject, cells) for (name, subject), cells in sorted(rows.items(), key=_sheet_order(rows))])
        for family, rows in families.items()
        if rows
    ]


def _sheet_order(rows: Mapping[tuple[str, str], Any]) -> Callable[[tuple[tuple[str, str], Any]], tuple[str, int, bool]]:
    """Outputs stay together; metrics keep the order of the report, each change below what it is the change of."""
    first: dict[str, int] = {}
    for name, _ in rows:
        first.setdefault(figures.base_of(name), len(first))

    def order(row: tuple[tuple[str, str], Any]) -> tuple[str, int, bool]:
        name, subject = row[0]
        return subject, first[figures.base_of(name)], figures.is_change(name)

    return order


def _legend(shown: Sequence[_Shown]) -> tuple[list[tuple[str, Style]], list[tuple[str, Style]]]:
    """What colours and shapes stand for: (recipe, style) and (format, style) pairs."""
    recipes = {i.file.recipe: Style("", "circle", i.style.colour, True) for i in shown if i.file.role == "file" and i.file.recipe}
    formats = {i.file.format: Style("", i.style.shape, "var(--ink-2)", True) for i in shown}
    return list(recipes.items()), list(formats.items())
