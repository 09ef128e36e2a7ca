"""Benchmark reports in a folder: JSON for machines, HTML for people, CSV for spreadsheets, Markdown for pull requests."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgewright.artifact import atomic_folder
from edgewright.errors import UsageError
from edgewright.report import Report

__all__ = ["save_bench"]

log = logging.getLogger("edgewright")


def save_bench(reports: Sequence[Report | Mapping[str, Any]], out: Path) -> list[Path]:
    """Write benchmark reports side by side into a folder, all files or none.

    Args:
        reports: of kind "bench", at least one; as `Report` or as its JSON.
        out: the folder; it is made if it is not there, files of the same names are replaced.

    Returns:
        The files: bench.json (the report, or `{"reports": [...]}` for several).

    Raises:
        UsageError: there is no report.
        ArtifactError: the folder cannot be written.
    """
    plain = [report.to_json() if isinstance(report, Report) else dict(report) for report in reports]
    if not plain:
        raise UsageError("there is no benchmark report to write", hint="make one: edgewright bench MODEL --json > A.json")
    document = plain[0] if len(plain) == 1 else {"reports": plain}
    texts = {"bench.json": json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"}
    with atomic_folder(out) as folder:
        for name, text in texts.items():
            (folder / name).write_bytes(text.encode("utf-8", "backslashreplace"))
    return [out / name for name in texts]
