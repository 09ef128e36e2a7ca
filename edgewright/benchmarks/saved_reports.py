"""Benchmark reports read back from files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgewright.errors import UsageError

__all__ = ["read_reports"]


def read_reports(path: Path) -> list[Mapping[str, Any]]:
    """The benchmark reports of a file: one, or several as `bench` writes them for several boards.

    Raises:
        UsageError: the file cannot be read, is no JSON, or holds something else than benchmark reports.
    """
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
    reports = found.get("reports") if isinstance(found, dict) and "kind" not in found and "reports" in found else [found]
    if not isinstance(reports, list) or not reports:
        raise UsageError(f"{path} is no benchmark report: it holds no benchmark report under 'reports'", hint=how)
    for report in reports:
        kind = report.get("kind") if isinstance(report, dict) else None
        if kind != "bench":
            raise UsageError(f"{path} is no benchmark report: its kind is {kind!r}, not 'bench'", hint=how)
    return reports
