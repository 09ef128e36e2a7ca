"""Compression passes, one file each: a Keras model in, a Keras model out; and what all of them share."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from edgewright.artifact import Artifact, StepRecord, TensorSpec, atomic_folder
from edgewright.optimizers.training import FitOptions, Trainer, check_fit
from edgewright.registry import Kind
from edgewright.step import Claim, Step, StepContext

__all__ = ["PASSES", "STRICT", "KerasPass", "Outcome", "Task", "literal"]

STRICT: Mapping[str, Any] = {"extra": "forbid", "strict": True}
"""How the host checks options that come from a recipe or the command line."""

PASSES: Kind[Step] = Kind("pass", "edgewright.optimizers.passes")


@dataclass(frozen=True, slots=True)
class Task:
    """What a pass works on, in its child process.

    Args:
        model: the Keras model, which the pass may change.
        trainer: fits a model on the samples; None where the run has none.
        original: the model as the user gave it.
        seed: of everything random.
        notes: what the user should know; the pass appends.
    """

    model: Any
    trainer: Trainer | None
    original: Any
    seed: int
    notes: list[str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a pass gives.

    Args:
        model: the Keras model.
        claims: what it promises of that model, beyond what its options promise; later steps must keep it.
        mixed: layers that an integer file is to treat in another way, by option of the writer: "keep_float", "int16".
    """

    model: Any
    claims: tuple[Claim, ...] = ()
    mixed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def literal(path: str) -> str:
    """A pattern, as claims have it, that matches this name only."""
    return re.sub(r"([*?\[])", r"[\1]", path)


class KerasPass(ABC):
    """A pass that works on the Keras model itself; a plug-in subclasses it and writes `transform`.

    Args:
        options: a frozen dataclass that extends `FitOptions`.

    Raises:
        UsageError: an option is out of its range.
    """

    consumes: ClassVar[tuple[str, ...]] = ("keras",)
    produces: ClassVar[str] = "keras"
    Options: ClassVar[type[Any]]
    name: ClassVar[str]

    def __init__(self, options: Any) -> None:
        if isinstance(options, FitOptions):
            check_fit(options)
        self.options = options

    def needs_samples(self) -> bool:
        """Training needs data."""
        return bool(getattr(self.options, "epochs", 1))

    def claims(self) -> tuple[Claim, ...]:
        """What the options alone promise; what the model decides comes from `transform`."""
        return ()

    @abstractmethod
    def transform(self, task: Task) -> Outcome:
        """The compressed model. Runs in a child process; raises EdgewrightErrors."""

    def apply(self, model: Artifact, ctx: StepContext) -> Artifact:
        """Write the new model to `ctx.out`; see `Step.apply`."""
        with atomic_folder(ctx.out.parent) as folder:
            result = ctx.child().call(
                "edgewright.pass_job:run_pass",
                what=f"{self.name} of {model.path.name}",
                on_progress=ctx.progress,
                name=self.name,
                options=asdict(self.options),
                path=str(model.path),
                original=str(ctx.original or model.path),
                out=str(folder / ctx.out.name),
                samples=ctx.samples.to_json() if ctx.samples else None,
                seed=ctx.seed,
                resume=str(ctx.scratch) if ctx.scratch else None,
                trust=ctx.trust,
                custom=ctx.custom,
            )
        ctx.warnings.extend(result["warnings"])
        options = {**asdict(self.options), "seed": ctx.seed, "samples": result["samples"]}
        record = StepRecord(self.name, options, model.sha256, result["versions"])
        known = model.meta.extra
        extra = {**known, "claims": [*known.get("claims", ()), *result["claims"]]}
        extra |= {name: sorted({*known.get(name, ()), *layers}) for name, layers in result["mixed"].items() if layers}
        return Artifact.of(
            Path(ctx.out),
            "keras",
            tuple(TensorSpec.from_json(spec) for spec in result["inputs"]),
            tuple(TensorSpec.from_json(spec) for spec in result["outputs"]),
            (*model.lineage, record),
            replace(model.meta, extra=extra),
        )
