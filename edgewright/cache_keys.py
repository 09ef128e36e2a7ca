"""What the result of a step depends on: the digests that go into its key in the cache."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgewright.artifact import Artifact, file_sha256
from edgewright.cache import code_digest
from edgewright.converters.readers import find_reader
from edgewright.converters.writers import versions
from edgewright.errors import EdgewrightError
from edgewright.runtime.engines import ENGINES
from edgewright.samples import is_function

__all__ = ["digests_of", "engine_version", "key_parts", "module_digest", "sidecar_text"]

_CODE = (
    "artifact",
    "benchmarks/accuracy",
    "benchmarks/bench",
    "benchmarks/bench_figures",
    "benchmarks/bench_report",
    "benchmarks/bench_settings",
    "benchmarks/bench_warnings",
    "benchmarks/bootstrap",
    "benchmarks/conditions",
    "benchmarks/detection_accuracy",
    "benchmarks/detection_evaluation",
    "benchmarks/evaluation",
    "benchmarks/groups",
    "benchmarks/intervals",
    "benchmarks/latency",
    "benchmarks/memory",
    "benchmarks/outputs",
    "benchmarks/placement",
    "benchmarks/quiet",
    "benchmarks/student",
    "benchmarks/weighted",
    "boxes",
    "cache_keys",
    "chain",
    "coco",
    "conversion",
    "converters",
    "data",
    "declared",
    "detection",
    "detection_heads",
    "evaluation",
    "keras_layers",
    "labels",
    "optimizers",
    "pass_job",
    "pipeline",
    "preprocess",
    "runtime",
    "sample_arrays",
    "sample_functions",
    "sample_images",
    "sample_origin",
    "sample_sources",
    "sample_tables",
    "samples",
    "tables",
    "tasks",
    "verification",
)
"""The parts of Edgewright that results depend on; what only prints or plans is not among them."""


def key_parts(
    sha256: str | None, custom: str | None, packages: tuple[str, ...], more: Mapping[str, Any]
) -> dict[str, Any] | None:
    """What a step's result depends on, as plain JSON values; None if some of it has no digest.

    Args:
        sha256: digest of the model that goes in.
        custom: digest of the user's module of custom objects, "" if there is none.
        packages: those whose releases matter.
        more: everything else by name; of "samples", "data" and "files" the digests.
    """
    if sha256 is None or custom is None or any(more.get(name, "") is None for name in ("samples", "data", "files")):
        return None
    return {"input": sha256, "custom": custom, "code": code_digest(*_CODE), "versions": versions(*packages), **more}


def sidecar_text(model: Path) -> str:
    """What the sidecar adds to a model: it goes into the file's lineage and meta."""
    known = Artifact.load(model)
    return json.dumps(known.to_json(), sort_keys=True) if known else ""


def digests_of(options: Mapping[str, Any]) -> list[str] | None:
    """Digests of the files and functions that options name; None if one cannot be known."""
    found: list[str | None] = []
    for value in options.values():
        if isinstance(value, str) and Path(value).is_file():
            found.append(file_sha256(Path(value)))
        elif isinstance(value, str) and is_function(value):
            found.append(module_digest(value.partition(":")[0]))
    return None if None in found else [digest for digest in found if digest is not None]


def engine_version(path: Path, engine: str | None) -> str:
    """Name and release of the engine that runs a file; of TensorFlow's formats, nothing."""
    format = find_reader(path)
    for name in [engine] if engine else ENGINES.names():
        cls = ENGINES.get(name)
        if engine or cls.formats[0] == format:
            return f"{name} {cls.version()}"
    return ""


def module_digest(module: str | None) -> str | None:
    """Digest of a user's module, "" if there is none, None if it cannot be known."""
    if module is None:
        return ""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        spec = find_spec(module)
        return file_sha256(Path(spec.origin)) if spec and spec.origin else None
    except (ImportError, ValueError, OSError, EdgewrightError):
        return None
