"""Edgewright: trained models to the smallest, fastest files that still meet their accuracy target, and the proof."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgewright.version import __version__

if TYPE_CHECKING:
    from edgewright.artifact import Artifact, TensorSpec
    from edgewright.benchmarks.bench import bench
    from edgewright.benchmarks.bench_settings import BenchSettings
    from edgewright.compression import compress, require_success
    from edgewright.conversion import Trust, convert, inspect
    from edgewright.converters.model_info import ModelInfo
    from edgewright.data import Data
    from edgewright.errors import EdgewrightError
    from edgewright.evaluation import Judging, evaluate
    from edgewright.planning import Settings, Watch
    from edgewright.preprocess import Preprocess
    from edgewright.recipe import Recipe, find_recipe, parse_recipe
    from edgewright.report import CompressReport, FileReport, Metric, Report
    from edgewright.runtime import Session, open_session
    from edgewright.samples import Samples, open_samples
    from edgewright.summary import save_report
    from edgewright.verification import verify
    from edgewright.worker import Limits


_HOMES = {
    "Artifact": "artifact",
    "BenchSettings": "benchmarks.bench_settings",
    "CompressReport": "report",
    "Data": "data",
    "EdgewrightError": "errors",
    "FileReport": "report",
    "Judging": "evaluation",
    "Limits": "worker",
    "Metric": "report",
    "ModelInfo": "converters.model_info",
    "Preprocess": "preprocess",
    "Recipe": "recipe",
    "Report": "report",
    "Samples": "samples",
    "Session": "runtime",
    "Settings": "planning",
    "TensorSpec": "artifact",
    "Trust": "conversion",
    "Watch": "planning",
    "bench": "benchmarks.bench",
    "compress": "compression",
    "convert": "conversion",
    "evaluate": "evaluation",
    "find_recipe": "recipe",
    "inspect": "conversion",
    "open_samples": "samples",
    "open_session": "runtime",
    "parse_recipe": "recipe",
    "require_success": "compression",
    "save_report": "summary",
    "verify": "verification",
}

__all__ = [
    "Artifact",
    "BenchSettings",
    "CompressReport",
    "Data",
    "EdgewrightError",
    "FileReport",
    "Judging",
    "Limits",
    "Metric",
    "ModelInfo",
    "Preprocess",
    "Recipe",
    "Report",
    "Samples",
    "Session",
    "Settings",
    "TensorSpec",
    "Trust",
    "Watch",
    "__version__",
    "bench",
    "compress",
    "convert",
    "evaluate",
    "find_recipe",
    "inspect",
    "open_samples",
    "open_session",
    "parse_recipe",
    "require_success",
    "save_report",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import edgewright` costs nothing."""
    if name in _HOMES:
        return getattr(import_module(f"edgewright.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'edgewright' has no attribute '{name}'")
