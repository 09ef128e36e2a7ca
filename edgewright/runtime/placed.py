"""Where each op of a model runs, and how long it takes there: what `Session.placement` and `Session.profile` return."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgewright.artifact import TensorSpec

__all__ = ["NOT_TOLD", "OpTime", "PlacedOp", "Placement", "per_sample"]

NOT_TOLD = "the engine does not tell"
"""Reason of an op outside of the delegate, where neither the engine nor the op itself shows one."""


@dataclass(frozen=True, slots=True)
class PlacedOp:
    """One op of the file and where it runs.

    Args:
        index: position in the file, from 0.
        name: the file's own name of the op; .tflite files name no ops, there it is the name of the op's first output.
        op: what it computes, in the format's words: "CONV_2D", "Convolution", "Conv".
        device: where it runs and through what: "CPU, XNNPACK delegate", "CPU, built-in kernels", "NPU"; empty where the
            engine does not tell.
        delegate: whether a delegate or an accelerator took it, not the CPU kernels that run whatever is left over.
        macs: multiply-adds of one sample, 0 for ops that have none, None where they are not counted.
        reason: why no delegate took it; empty for those it took.
        kind: the kernel, where the engine tells, for example "brgconv_avx512_1x1_I8".
    """

    index: int
    name: str
    op: str
    device: str
    delegate: bool
    macs: int | None
    reason: str = ""
    kind: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain form for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Placement:
    """All ops of a model in the file's order.

    Args:
        ops: one entry per op; bodies of loops and branches count as part of the op that calls them.
        note: what the figures leave out or assume; empty if nothing.
    """

    ops: tuple[PlacedOp, ...]
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain form for JSON."""
        return {"ops": [op.to_json() for op in self.ops], "note": self.note}


@dataclass(frozen=True, slots=True)
class OpTime:
    """How long one op took.

    Args:
        name: as in `PlacedOp`; ops that the engine adds by itself (layout changes, copies) have the engine's name.
        op: as in `PlacedOp`, or the engine's word for an op of its own.
        device: as in `PlacedOp`.
        times_ns: one value per run; every op of a profile has equally many, and their n-th values are of the same run. Where
            the engine tells rounded means only (OpenVINO), a single value may be less than 0; their median is not off.
        kind: the kernel that ran, where the engine tells.
    """

    name: str
    op: str
    device: str
    times_ns: tuple[int, ...]
    kind: str = ""


def per_sample(
    macs: Sequence[int | None], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> tuple[list[int | None], str]:
    """Multiply-adds of one sample, from those of the batch that a file is fixed to.

    The batch is the leading size that all inputs and outputs share, if they share one; a model with an input of rank 0
    or 1 has none.

    Args:
        macs: of each op, over the whole batch; None where not counted.
        inputs: of the model.
        outputs: of the model.

    Returns:
        the figures in the same order, and a note, empty if there is nothing to say.
    """
    leading = {spec.shape[0] if len(spec.shape) > 1 else None for spec in inputs}
    leading |= {spec.shape[0] if spec.shape else None for spec in outputs}
    batch = (leading.pop() if len(leading) == 1 else None) or 1
    if batch == 1:
        return list(macs), ""
    if math.gcd(*(value for value in macs if value is not None), 0) % batch:
        return list(macs), f"the file is fixed to batch {batch}, multiply-adds are those of the whole batch"
    return [None if value is None else value // batch for value in macs], f"the file is fixed to batch {batch}"
