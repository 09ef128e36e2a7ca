"""Reports on benchmarks in a folder: JSON for programs, HTML for people, CSV for spreadsheets, Markdown for pull requests."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgewright.artifact import atomic_folder
from edgewright.benchmarks.bench_lanes import document_of, lanes_of
from edgewright.benchmarks.bench_sheet import render_bench_csv, render_bench_markdown
from edgewright.cache import default_root
from edgewright.errors import ArtifactError, MissingPackageError, UsageError
from edgewright.report import Report

__all__ = ["check_form", "save_bench"]

_HOW = "write one with: edgewright bench MODEL --json > FILE"

log = logging.getLogger("edgewright")


def save_bench(reports: Sequence[Report | Mapping[str, Any]], out: Path) -> list[Path]:
    """Write reports of kind "bench" side by side into a folder.

    Args:
        reports: at least one; as `Report` or as its JSON.
        out: the folder; it is made if it is not there, files of the same names are replaced, none is ever half written.

    Returns:
        The files: bench.json (the report, or `{"reports": [...]}` of several), bench.csv, bench.md and bench.html; without
        the last where the packages that draw it are not installed, which is logged.

    Raises:
        UsageError: there is no report, or one has not the form that `bench` gives it.
        ArtifactError: the folder cannot be written.
    """
    if not reports:
        raise UsageError("there is no benchmark report to write", hint=_HOW)
    for report in reports:
        if why := check_form(report):
            raise UsageError(f"a benchmark report cannot be shown: {why}", hint=_HOW)
    texts = {
        "bench.json": json.dumps(document_of(reports), indent=1, allow_nan=False) + "\n",
        "bench.csv": render_bench_csv(reports),
        "bench.md": render_bench_markdown(reports),
    }
    try:
        texts["bench.html"] = _html(reports)
    except MissingPackageError as error:
        stale = "; the one that lies there is older" if (out / "bench.html").exists() else ""
        log.warning("bench.html is not written: %s%s", error, stale)
    with atomic_folder(out) as folder:
        for name, text in texts.items():
            (folder / name).write_bytes(text.encode())
    return [out / name for name in texts]


def _html(reports: Sequence[Report | Mapping[str, Any]]) -> str:
    """The page; what every page has in common is kept in the cache, since making it takes a second."""
    from edgewright.benchmarks.bench_page import render_bench_html
    from edgewright.benchmarks.report_html import javascript_bundle

    try:
        bundle = javascript_bundle(default_root() / "vega")
    except ArtifactError:  # a cache that cannot be written costs time only
        bundle = javascript_bundle()
    return render_bench_html(reports, bundle)


def check_form(report: Report | Mapping[str, Any]) -> str:
    """Why a report cannot be shown; empty if it can: what is read from a file may have been cut, or written by others."""
    from edgewright.benchmarks.bench_page import render_bench_html

    try:
        lanes = lanes_of([report])
        document_of([report])
        render_bench_csv([report])
        render_bench_markdown([report])
        with suppress(MissingPackageError):
            render_bench_html([report], "")
    except (AttributeError, LookupError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        return f"it lacks what 'edgewright bench' writes ({type(error).__name__}: {error})"
    return "" if lanes else "it has no thread count"
