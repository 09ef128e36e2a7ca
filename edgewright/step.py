"""The one shape that every writer and optimizer has."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from edgewright.artifact import Artifact
from edgewright.errors import UsageError, needs
from edgewright.samples import SamplesSpec
from edgewright.worker import Worker

__all__ = ["Claim", "Step", "StepContext", "checked"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Claim:
    """What a step promises of the model that it gives; a receipt checks it against what is read back from the file.

    Args:
        quantity: "bits" (stored bits of every kernel, at most), "sparsity" (share of zeros in every tensor named, at
            least), "unique" (different values in every tensor named, at most: per output channel where the tensor is
            quantized per channel), "io" (dtype of inputs and outputs), "float_ops" (ops that compute in float, at most).
        value: the promise; a dtype's name for "io", a number else.
        tensors: pattern of the tensors' names in the model that the step gives, as in `fnmatch`.
    """

    quantity: Literal["bits", "sparsity", "unique", "io", "float_ops"]
    value: float | str
    tensors: str = "*"


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
        original: the model as the user gave it, whose outputs a pass may train on; None for the model itself.
        scratch: folder that outlives a kill, for what a long step needs to go on; None if there is none.
        trust: run code that the model file carries.
        custom: module that registers the model's custom objects.
        progress: called with a share between 0 and 1 and what is being done.
        warnings: what the step wants its user to know; the step appends.
    """

    out: Path
    samples: SamplesSpec | None = None
    worker: Worker | None = None
    seed: int = 0
    original: Path | None = None
    scratch: Path | None = None
    trust: bool = False
    custom: str | None = None
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

    options: Any
    """Those that it was made with."""

    def __init__(self, options: Any) -> None:
        """A step with its options.

        Raises:
            UsageError: the options contradict each other.
        """

    def needs_samples(self) -> bool:
        """Whether these options cannot do without data."""

    def claims(self) -> tuple[Claim, ...]:
        """What these options promise of the model that comes out; later steps must keep it."""

    def apply(self, model: Artifact, ctx: StepContext) -> Artifact:
        """Write the new model to `ctx.out`.

        Raises:
            EdgewrightError: whatever went wrong; nothing half-written is left.
        """


def checked(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Options of a step from plain values, each of its declared type.

    Args:
        cls: the step's Options, a dataclass with `__pydantic_config__` = {"extra": "forbid", "strict": True}.
        values: by option name; lists stand for tuples.
        where: what a message calls them, for example "recipe int8, step 'export'".

    Raises:
        UsageError: an option is unknown or has a value that it cannot have; both values are named.
        MissingPackageError: pydantic is not installed.
    """
    with needs("convert"):
        from pydantic import TypeAdapter, ValidationError
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    if unknown := [name for name in values if name not in names]:
        near = difflib.get_close_matches(unknown[0], names, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(f"{where} has no option '{unknown[0]}'", hint=f"{hint}known: {', '.join(names)}")
    try:
        return TypeAdapter(cls).validate_json(json.dumps(dict(values)))  # JSON knows lists only: tuples are made of them
    except ValidationError as error:
        first = error.errors()[0]
        option = ".".join(map(str, first["loc"])) or "options"
        raise UsageError(f"{where}: option '{option}' is {first['input']!r}: {first['msg'].lower()}") from error
