"""Figures and where they come from: a metric is a value or the reason why there is none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Metric", "Report"]

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure.

    Args:
        name: in the field's words, with its subject: "sqnr".
        unit: "dB", "bytes", "ms", "" for plain numbers.
        value: the figure; None if there is none, and then `why_absent` says why.
        subject: what it was measured on, for example an output's name.
        samples: number of samples behind the figure.
        origin: "measured" or "estimated".
        why_absent: the reason for a missing value; empty if there is a value.

    Raises:
        ValueError: there are both a value and a reason, or neither.
    """

    name: str
    unit: str
    value: float | None
    subject: str = ""
    samples: int = 0
    origin: str = "measured"
    why_absent: str = ""

    def __post_init__(self) -> None:
        if (self.value is None) != bool(self.why_absent):
            raise ValueError(f"metric '{self.name}' needs a value or a reason for its absence, not both or neither")

    def to_json(self) -> dict[str, Any]:
        """Plain form for JSON; infinities become strings, which JSON can hold."""
        finite = self.value if self.value is None or math.isfinite(self.value) else str(self.value)
        return {
            "name": self.name,
            "subject": self.subject,
            "unit": self.unit,
            "value": finite,
            "samples": self.samples,
            "origin": self.origin,
            "why_absent": self.why_absent,
        }


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured on a model, with what settings.

    Args:
        kind: what was done: "verify".
        model: the file, its digest, format.
        settings: all that the figures depend on.
        metrics: the figures.
        warnings: what a reader must know.
    """

    kind: str
    model: Mapping[str, Any]
    settings: Mapping[str, Any]
    metrics: tuple[Metric, ...]
    warnings: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Plain form for JSON, with the version of the schema."""
        return {
            "schema": SCHEMA,
            "kind": self.kind,
            "model": dict(self.model),
            "settings": dict(self.settings),
            "metrics": [metric.to_json() for metric in self.metrics],
            "warnings": list(self.warnings),
        }

    def value(self, name: str, subject: str = "") -> float | None:
        """The value of a metric; of the first of that name if no subject is given.

        Raises:
            KeyError: there is no such metric.
        """
        for metric in self.metrics:
            if metric.name == name and subject in {"", metric.subject}:
                return metric.value
        raise KeyError(f"no metric '{name}' {subject}".strip())
