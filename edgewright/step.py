"""The one shape that every writer and optimizer has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from edgewright.artifact import Artifact
from edgewright.errors import UsageError
from edgewright.samples import SamplesSpec
from edgewright.worker import Worker

__all__ = ["Step", "StepContext"]


def _no_progress(share: float, text: str) -> None:
    """Ignore progress."""


@dataclass(frozen=True, slots=True)
class StepContext:
    """What a step may use besides the model.

    Args:
        out: the file to write; its folder exists.
        samples: calibration or training data, None if the user gave none.
        worker: a child process for the step's jobs, started early so that its imports overlap with other work.
        seed: for everything random.
        progress: called with a share between 0 and 1 and what is being done.
        warnings: what the step wants its user to know; the step appends.
    """

    out: Path
    samples: SamplesSpec | None = None
    worker: Worker | None = None
    seed: int = 0
    progress: Callable[[float, str], None] = _no_progress
    warnings: list[str] = field(default_factory=list)

    def child(self) -> Worker:
        """The child process that runs the step's jobs.

        Raises:
            UsageError: the context was made without one.
        """
        if self.worker is None:
            raise UsageError("this step works in a child process, the context has none", hint="pass StepContext(worker=Worker())")
        return self.worker


class Step(Protocol):
    """A writer or an optimizer pass: takes a model file, gives another."""

    consumes: ClassVar[tuple[str, ...]]
    """Formats that `apply` takes."""
    produces: ClassVar[str]
    """The format that it gives."""
    Options: ClassVar[type[Any]]
    """A frozen dataclass with a default for each option."""

    def __init__(self, options: Any) -> None:
        """A step with its options.

        Raises:
            UsageError: the options contradict each other.
        """

    def needs_samples(self) -> bool:
        """Whether these options cannot do without data."""

    def apply(self, model: Artifact, ctx: StepContext) -> Artifact:
        """Write the new model to `ctx.out`.

        Raises:
            EdgewrightError: whatever went wrong; nothing half-written is left.
        """
