"""The verb `report`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgewright.errors import UsageError
from edgewright.options import Json, invocation_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

__all__ = ["read_reports", "report"]


def report(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(help="Reports: what 'edgewright bench MODEL --json' printed, or a bench.json.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for bench.html, bench.json, bench.csv and bench.md.")],
    as_json: Json = False,
) -> None:
    """Set benchmark reports side by side: one HTML page, JSON, CSV and Markdown, with charts of what one figure hides."""
    from edgewright.benchmarks.bench_save import save_bench

    reports = [found for file in files for found in read_reports(file)]
    written = save_bench(reports, out)
    if as_json:
        invocation_of(context).answer({"reports": len(reports), "files": [str(file) for file in written]})
    else:
        sys.stdout.write("".join(f"{file}\n" for file in written))


def read_reports(path: Path) -> list[Mapping[str, Any]]:
    """The benchmark reports of a file: one, or several as `bench` writes them for several boards.

    Raises:
        UsageError: the file cannot be read, is no JSON, or holds something else than benchmark reports.
    """
    from edgewright.benchmarks.bench_save import check_form

    how = "write one with: edgewright bench MODEL --json > FILE"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint=how) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no JSON: {error}", hint=how) from error
    if isinstance(found, dict) and "error" in found:
        told = found["error"].get("message", "") if isinstance(found["error"], dict) else found["error"]
        raise UsageError(f"{path} holds an error and no report: {told}", hint=how)
    reports = found.get("reports") if isinstance(found, dict) and "kind" not in found else [found]
    if not isinstance(reports, list) or not reports:
        raise UsageError(f"{path} holds no benchmark report", hint=how)
    for report in reports:
        kind = report.get("kind") if isinstance(report, dict) else None
        if kind != "bench":
            raise UsageError(f"{path} is no benchmark report: its kind is {kind!r}, not 'bench'", hint=how)
        if why := check_form(report):
            raise UsageError(f"{path} is a benchmark report that cannot be shown: {why}", hint=how)
    return reports
