"""What `inspect` tells of a model, the same for every format, and the arithmetic behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.artifact import TensorSpec
from edgewright.errors import EdgewrightError, ModelError

__all__ = ["ModelInfo", "WeightInfo", "corrupt", "describe_weight", "reading", "unpack_bits"]


@dataclass(frozen=True, slots=True)
class WeightInfo:
    """A constant tensor of a model.

    Args:
        name: the tensor's name in the file.
        shape: sizes.
        dtype: NumPy name, or "int4" and the like for packed types.
        bits: bits per stored value.
        sparsity: share of values that stand for exactly 0.0, between 0 and 1.
        unique: number of different stored values in the whole tensor.
        unique_per_channel: largest number of different stored values within one output channel.
        channel_axis: the output channels' axis; None if the tensor has none.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    bits: int
    sparsity: float
    unique: int
    unique_per_channel: int
    channel_axis: int | None

    def to_json(self) -> dict[str, Any]:
        """Plain form for JSON."""
        return {field: getattr(self, field) for field in self.__slots__} | {"shape": list(self.shape)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> WeightInfo:
        """Inverse of `to_json`."""
        return cls(**{**data, "shape": tuple(data["shape"])})


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """All that `inspect` shows.

    Args:
        format: reader's name.
        inputs: in the model's order.
        outputs: in the model's order.
        ops: how often each op (of Keras models: each layer class) occurs.
        weights: constant tensors with more than one value, largest first; those of a size in the order of use.
        parameters: number of trained values; BatchNorm statistics and quantization constants are not counted.
        macs: multiply-adds of convolutions, dense layers and matrix products at batch 1; None if not countable.
        macs_note: why `macs` is None, or what it leaves out; empty if exact.
        raw_bytes: size of the file or files.
        deflated_bytes: the same after zlib level 9, each file whole.
        notes: what a reader of the figures must know.
    """

    format: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    ops: Mapping[str, int]
    weights: tuple[WeightInfo, ...]
    parameters: int
    macs: int | None
    macs_note: str
    raw_bytes: int
    deflated_bytes: int
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain form for JSON."""
        return {
            "format": self.format,
            "inputs": [spec.to_json() for spec in self.inputs],
            "outputs": [spec.to_json() for spec in self.outputs],
            "ops": dict(self.ops),
            "parameters": self.parameters,
            "macs": self.macs,
            "macs_note": self.macs_note,
            "raw_bytes": self.raw_bytes,
            "deflated_bytes": self.deflated_bytes,
            "weights": [weight.to_json() for weight in self.weights],
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelInfo:
        """Inverse of `to_json`."""
        return cls(
            format=data["format"],
            inputs=tuple(TensorSpec.from_json(spec) for spec in data["inputs"]),
            outputs=tuple(TensorSpec.from_json(spec) for spec in data["outputs"]),
            ops=dict(data["ops"]),
            weights=tuple(WeightInfo.from_json(weight) for weight in data["weights"]),
            parameters=data["parameters"],
            macs=data["macs"],
            macs_note=data["macs_note"],
            raw_bytes=data["raw_bytes"],
            deflated_bytes=data["deflated_bytes"],
            notes=tuple(data["notes"]),
        )


def describe_weight(
    name: str,
    values: np.ndarray[Any, Any],
    *,
    channel_axis: int | None,
    dtype: str | None = None,
    bits: int | None = None,
    zero_point: np.ndarray[Any, Any] | int = 0,
) -> WeightInfo:
    """Sparsity and unique values of one constant tensor.

    Args:
        name: the tensor's name.
        values: the stored values, any shape and numeric dtype (4-bit values unpacked to int8).
        channel_axis: the axis of the output channels, None if there is none.
        dtype: stored dtype's name if it is not that of `values`.
        bits: bits per stored value if they are not those of `values`.
        zero_point: stored value that stands for 0.0; an array has one per output channel.
    """
    zero = np.asarray(zero_point)
    if zero.ndim == 1 and zero.size > 1 and channel_axis is not None:
        zero = zero.reshape([-1 if axis == channel_axis else 1 for axis in range(values.ndim)])
    elif zero.size:
        zero = zero.reshape(-1)[0]
    else:
        zero = np.asarray(0)
    with np.errstate(invalid="ignore"):  # a signalling NaN among the values is no error of ours
        zeros = int(np.count_nonzero(values == zero))
    return WeightInfo(
        name=name,
        shape=tuple(int(size) for size in values.shape),
        dtype=dtype or values.dtype.name,
        bits=bits or values.dtype.itemsize * 8,
        sparsity=zeros / max(values.size, 1),
        unique=int(np.unique(values).size),
        unique_per_channel=_unique_per_channel(values, channel_axis),
        channel_axis=channel_axis,
    )


def _unique_per_channel(values: np.ndarray[Any, Any], axis: int | None) -> int:
    if axis is None or values.ndim < 2 or not values.size:
        return int(np.unique(values).size)
    rows = np.sort(np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1), axis=1)
    return int((rows[:, 1:] != rows[:, :-1]).sum(axis=1).max()) + 1


def unpack_bits(raw: np.ndarray[Any, Any], bits: int, *, signed: bool) -> np.ndarray[Any, Any]:
    """Values of 1, 2 or 4 bits as int8 or uint8, the first in the lowest bits of a byte, as TFLite and OpenVINO pack them.

    Args:
        raw: packed bytes, uint8, of one dimension.
        bits: bits per value.
        signed: whether values are in two's complement.
    """
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    fields: np.ndarray[Any, Any] = ((raw[:, None] >> shifts) & np.uint8((1 << bits) - 1)).reshape(-1)
    if signed:
        fields = (fields << np.uint8(8 - bits)).view(np.int8) >> np.int8(8 - bits)
    return fields


def corrupt(path: Path, why: str) -> ModelError:
    """The one error of a model file that does not hold what its format promises."""
    return ModelError(
        f"{path} is truncated or corrupt: {why}",
        hint="copy or export the model again and compare its size and checksum with the original",
    )


_PLACES = ("Exception from ", "Check '", "While validating ")
"""How lines begin with which OpenVINO says where in its source it failed, before it says why."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a parser raises on a damaged file into one `ModelError`; Edgewright's own errors pass.

    Raises:
        ModelError: the block raised any other exception.
    """
    try:
        yield
    except EdgewrightError:
        raise
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith(_PLACES)]
        detail = f": {lines[0][:300]}" if lines else ""
        raise corrupt(path, f"{type(error).__name__}{detail}") from error
