"""Samples as a user names them: what `samples` opens once the model's inputs are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgewright.artifact import ModelMeta, TensorSpec
from edgewright.errors import SamplesError
from edgewright.preprocess import Preprocess
from edgewright.samples import Samples, SamplesSpec, open_samples

__all__ = ["Data", "declare"]


@dataclass(frozen=True, slots=True)
class Data:
    """Samples as a user names them, before the model's inputs are known.

    Args:
        source: a path, `package.module:function`, or arrays by input name.
        window: rows per window of a recording.
        stride: rows from one window to the next.
        preprocess: declaration by input name; the key "" stands for the only input.
        limit: draw this many samples with `seed`; None takes all.
        seed: of that draw.
    """

    source: str | Path | Mapping[str, Any] | Samples
    window: int | None = None
    stride: int | None = None
    preprocess: Mapping[str, Preprocess] = field(default_factory=dict)
    limit: int | None = None
    seed: int = 0

    def completed(self, meta: ModelMeta) -> Data:
        """These samples with the preprocessing that a model was saved with, unless they come with their own."""
        if self.preprocess or isinstance(self.source, Samples):
            return self
        return replace(self, preprocess={name: Preprocess.from_json(value) for name, value in meta.preprocess.items()})

    def spec(self, inputs: tuple[TensorSpec, ...], work: Path) -> SamplesSpec:
        """What a child process needs to open these samples; arrays in memory are written to `work`."""
        if isinstance(self.source, Samples):
            spec = self.source.to_spec(work)
        else:
            declared = declare(self.preprocess, inputs)
            if isinstance(self.source, Mapping):
                opened = open_samples(self.source, inputs, window=self.window, stride=self.stride, preprocess=declared)
                spec = opened.to_spec(work)
            else:
                plain = {name: value.to_json() for name, value in declared.items()}
                spec = SamplesSpec(_absolute(str(self.source)), self.window, self.stride, preprocess=plain)
        return spec if self.limit is None else spec.pick(self.limit, self.seed)


def declare(preprocess: Mapping[str, Preprocess], inputs: tuple[TensorSpec, ...]) -> dict[str, Preprocess]:
    """Preprocessing by input name.

    Raises:
        SamplesError: a name is no input, or none is given and the model has several inputs.
    """
    names = [spec.name for spec in inputs]
    declared = {}
    for name, value in preprocess.items():
        if name == "" and len(names) > 1:
            raise SamplesError(
                f"the model has {len(names)} inputs: {', '.join(names)}", hint="declare --preprocess NAME:KEY=VALUE,..."
            )
        if name and name not in names:
            raise SamplesError(f"preprocessing is declared for '{name}', the model's inputs are {', '.join(names)}")
        declared[name or names[0]] = value
    return declared


def _absolute(source: str) -> str:
    """A path made absolute, so that a child started elsewhere finds it; function names stay."""
    return str(Path(source).absolute()) if Path(source).exists() else source
