"""Multiply-adds of single ops from their shapes: the same formulas for every model format."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from edgewright.artifact import TensorSpec

__all__ = ["MacCount", "conv_macs", "fixed_batch", "matmul_macs", "recurrent_macs", "transposed_conv_macs"]


def conv_macs(output: Sequence[int], weights_per_output: Iterable[int]) -> int:
    """A convolution: every output element sums over one filter.

    Args:
        output: the output's shape, in any layout.
        weights_per_output: the filter's sizes without its output channels: kernel sizes and input channels per group.
    """
    return math.prod(output) * math.prod(weights_per_output)


def transposed_conv_macs(source: Sequence[int], weights_per_input: Iterable[int]) -> int:
    """A transposed convolution: every input element is spread by one filter; cropping at the border is not deducted.

    Args:
        source: the input's shape, in any layout.
        weights_per_input: the filter's sizes without its input channels: kernel sizes and output channels per group.
    """
    return math.prod(source) * math.prod(weights_per_input)


def matmul_macs(output: Sequence[int], inner: int) -> int:
    """A dense layer or (batched) matrix product: every output element sums over `inner` products."""
    return math.prod(output) * inner


def recurrent_macs(steps: int, weights: Iterable[Sequence[int]]) -> int:
    """A recurrent layer: every step multiplies each of its matrices with one vector.

    Args:
        steps: time steps times batch.
        weights: shapes of the input, recurrent and projection matrices of all gates and directions.
    """
    return steps * sum(math.prod(shape) for shape in weights)


def fixed_batch(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> int:
    """The batch size that a model is fixed to: the leading size that all inputs and outputs share, 1 if there is none.

    Inputs of rank 0 and 1 have no batch axis, so a model with one has no batch size that could be told.
    """
    leading = {spec.shape[0] if len(spec.shape) > 1 else None for spec in inputs}
    leading |= {spec.shape[0] if spec.shape else None for spec in outputs}
    size = leading.pop() if len(leading) == 1 else None
    return size or 1


@dataclass(slots=True)
class MacCount:
    """A sum of multiply-adds in the making, and what it leaves out.

    Args:
        total: the sum so far, over the batch that the file is fixed to.
        left_out: what is not in the sum, each once, in order of appearance.
        unknown: why there can be no sum at all; empty if there is one.
        time_major: whether the leading size is one of time steps, not of samples.
    """

    total: int = 0
    left_out: dict[str, None] = field(default_factory=dict)
    unknown: str = ""
    time_major: bool = False

    def note(self, text: str) -> None:
        """Record that something is not in the sum, or is in it under an assumption."""
        self.left_out[text] = None

    def fail(self, text: str) -> None:
        """Record that no sum can be given; the first reason is kept."""
        self.unknown = self.unknown or text

    def result(self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> tuple[int | None, str]:
        """`macs` at batch 1 and `macs_note` of a `ModelInfo`, given the model's inputs and outputs."""
        if self.unknown:
            return None, self.unknown
        batch = 1 if self.time_major else fixed_batch(inputs, outputs)
        if batch > 1:
            if self.total % batch:
                self.note(f"the file is fixed to batch {batch}, the figure is for the whole batch")
            else:
                self.total //= batch
                self.note(f"the file is fixed to batch {batch}, the figure is for one sample")
        if any(size is None for spec in inputs for size in spec.shape[1:]):
            self.note("free sizes count as 1")
        return self.total, "; ".join(self.left_out)
