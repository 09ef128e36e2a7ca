"""Edgewright: trained models to the smallest, fastest files that still meet their accuracy target, and the proof."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgewright.artifact import Artifact, TensorSpec
    from edgewright.conversion import Data, Trust, convert, inspect
    from edgewright.converters.model_info import ModelInfo
    from edgewright.errors import EdgewrightError
    from edgewright.preprocess import Preprocess
    from edgewright.report import Metric, Report
    from edgewright.runtime import Session, open_session
    from edgewright.samples import Samples, open_samples
    from edgewright.verification import verify
    from edgewright.worker import Limits

__version__ = "0.1.0"

_HOMES = {
    "Artifact": "artifact",
    "Data": "conversion",
    "EdgewrightError": "errors",
    "Limits": "worker",
    "Metric": "report",
    "ModelInfo": "converters.model_info",
    "Preprocess": "preprocess",
    "Report": "report",
    "Samples": "samples",
    "Session": "runtime",
    "TensorSpec": "artifact",
    "Trust": "conversion",
    "convert": "conversion",
    "inspect": "conversion",
    "open_samples": "samples",
    "open_session": "runtime",
    "verify": "verification",
}

__all__ = [
    "Artifact",
    "Data",
    "EdgewrightError",
    "Limits",
    "Metric",
    "ModelInfo",
    "Preprocess",
    "Report",
    "Samples",
    "Session",
    "TensorSpec",
    "Trust",
    "__version__",
    "convert",
    "inspect",
    "open_samples",
    "open_session",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import edgewright` costs nothing."""
    if name in _HOMES:
        return getattr(import_module(f"edgewright.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'edgewright' has no attribute '{name}'")
