"""One file of a run: the chain of steps that makes it, and the receipt of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgewright.artifact import Artifact, TensorSpec
from edgewright.conversion import Lowering
from edgewright.pipeline import Run, artifact_in
from edgewright.planning import Export, Opened
from edgewright.receipts import Claimed, receipt
from edgewright.recipe import LOWER
from edgewright.report import Receipt
from edgewright.step import Claim

__all__ = ["Made", "make_file"]


@dataclass(frozen=True, slots=True)
class Made:
    """A file that a run has made.

    Args:
        export: what was asked for.
        artifact: the file, in the cache.
        float32: the uncompressed model that it was written from.
        receipts: one per step.
        warnings: what its user should know.
    """

    export: Export
    artifact: Artifact
    float32: Artifact
    receipts: tuple[Receipt, ...]
    warnings: tuple[str, ...]


def make_file(run: Run, export: Export, samples: Callable[[tuple[TensorSpec, ...]], Opened | None]) -> Made:
    """One file of a run: the recipe's passes, lowering, export, and the receipt of each.

    Args:
        run: the run.
        export: what to make.
        samples: gives the samples for a model's inputs.

    Raises:
        EdgewrightError: what a step raises; what was finished before is kept.
    """
    path, sha256, warnings = run.model, run.sha256, list[str]()
    claims: list[Claimed] = []
    receipts: list[Receipt] = []
    heard = 0
    for name, step in export.passes:
        model = _artifact_at(run, path, sha256)
        entry = run.passed(step, name, model, samples(model.inputs) if step.needs_samples() else None)
        made = artifact_in(entry)
        told = made.meta.extra.get("claims", ())
        claims += [Claimed(name, claim) for claim in (*step.claims(), *(Claim(**claim) for claim in told[heard:]))]
        heard = len(told)
        before, after = run.inspected(path, sha256), run.inspected(made.path, made.sha256)
        receipts.append(receipt(name, before, after, made, claims))
        warnings += entry.value["notes"]
        path, sha256 = made.path, made.sha256
    source = _float32_of(run, export, path, sha256)
    before = run.inspected(path, sha256)
    if run.trains:
        receipts.append(receipt(LOWER, before, run.inspected(source.path, source.sha256), source, claims))
    entry = run.exported(export, source, samples(source.inputs))
    artifact = artifact_in(entry)
    step_name = f"export:{export.target}"
    claims += [Claimed(step_name, claim) for claim in export.writer.claims()]
    receipts.append(receipt(step_name, before, run.inspected(artifact.path, artifact.sha256), artifact, claims))
    warnings += entry.value["notes"]
    return Made(export, artifact, source, tuple(receipts), tuple(dict.fromkeys(warnings)))


def _float32_of(run: Run, export: Export, path: Path, sha256: str) -> Artifact:
    """What a writer takes: the model lowered to float32 TFLite, or itself if it is traced already."""
    if not run.trains:
        return run.source()
    batch = 1 if export.lowering.batch is None and export.target == "tflite" else export.lowering.batch
    return run.lowered(path, sha256, export.lowering, batch=batch, integer=export.writer.needs_samples())


def _artifact_at(run: Run, path: Path, sha256: str) -> Artifact:
    """The model that a pass takes: one that a pass made, or the user's, whose inputs its float32 form tells."""
    known = Artifact.load(path)
    if known:
        return known
    plain = run.lowered(path, sha256, Lowering(), batch=1, integer=False)
    return Artifact(path, run.format, plain.inputs, plain.outputs, sha256)
