"""The verb `report`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from edgewright.errors import UsageError
from edgewright.options import Json, invocation_of

__all__ = ["report"]


def report(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(help="Reports: what 'edgewright bench MODEL --json' printed, or a bench.json.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for bench.html, bench.json, bench.csv and bench.md.")],
    as_json: Json = False,
) -> None:
    """Set benchmark reports side by side: one HTML page, JSON, CSV and Markdown, with charts of what one figure hides."""
    from edgewright.benchmarks.bench_save import check_form, save_bench
    from edgewright.benchmarks.saved_reports import read_reports

    reports = []
    for file in files:
        for found in read_reports(file):
            if why := check_form(found):
                raise UsageError(f"{file} is a benchmark report that cannot be shown: {why}", hint="measure it again")
            reports.append(found)
    written = save_bench(reports, out)
    if as_json:
        invocation_of(context).answer({"reports": len(reports), "files": [str(file) for file in written]})
    else:
        sys.stdout.write("".join(f"{file}\n" for file in written))
