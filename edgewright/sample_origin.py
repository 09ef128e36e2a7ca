"""What every origin of samples gives, whatever it is: how many there are, their labels, and the samples at some indices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from edgewright.artifact import TensorSpec
from edgewright.errors import SamplesError

__all__ = ["KINDS", "Source", "only_input"]

Array = NDArray[Any]

KINDS = "an .npz, .npy or .csv file, a folder of images, a COCO .json, or package.module:function"
"""What samples can be, for messages."""


@dataclass(slots=True)
class Source:
    """Raw samples of one origin, read by ascending index; labels and slices are small and in memory."""

    name: str
    count: int
    labels: dict[str, Array] = field(default_factory=dict)
    slices: dict[str, Array] = field(default_factory=dict)
    classes: tuple[str, ...] = ()

    def read(self, indices: Array) -> Iterator[Mapping[str, Any]]:
        """Raw samples at ascending indices, one mapping from input name to array each."""
        raise NotImplementedError

    def digest(self) -> str | None:
        """Sha256 of the content, None if it cannot be known."""
        raise NotImplementedError

    def hint(self, spec: TensorSpec, shape: tuple[int, ...]) -> str:
        """What to do about samples of a wrong shape."""
        wanted = spec.shape[1:]
        rows = wanted[0] if len(wanted) == 2 and shape[-1:] == wanted[1:] else None
        if rows is not None and len(shape) == 1:
            return f"pass windows of {rows} samples, or add --window {rows} to cut them from a recording"
        if rows is not None and len(shape) == 2:
            return f"cut windows of {rows} rows, these have {shape[0]}"
        if [n for n in shape if n != 1] == [n for n in wanted if n != 1]:
            return "they differ in axes of size 1 only: reshape the array"
        return "reshape the arrays, or declare the preprocessing that leads from the raw samples to the input"


def only_input(inputs: tuple[TensorSpec, ...], what: str) -> str:
    """Name of a model's single input, for an origin that feeds one.

    Args:
        inputs: what the model takes.
        what: what the message calls the origin.

    Raises:
        SamplesError: the model has more inputs, or none.
    """
    if len(inputs) != 1:
        raise SamplesError(
            f"{what} feeds one input, the model has {', '.join(s.name for s in inputs)}", hint="use an .npz with a name each"
        )
    return inputs[0].name
