"""OpenVINO IR: float32, float16 weights, int8 weights, int8."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from edgewright.artifact import Artifact
from edgewright.converters.writers import PRECISIONS, STRICT, WRITERS, Precision, check_mixed, export, precision_claims
from edgewright.errors import UnsupportedError, UsageError
from edgewright.step import Claim, StepContext


@dataclass(frozen=True, slots=True)
class OpenvinoOptions:
    """How an OpenVINO IR is written.

    Args:
        precision: float32, float16 (weights; the engine chooses how to compute), dynamic (int8 weights, float
            computation: OpenVINO has no dynamic range quantization) or int8.
        io: dtype of inputs and outputs: float32, int8 or uint8.
        batch: fixed batch size; None keeps a free one free.
        keep_float: patterns of the layers that compute in float in an int8 model.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT

    precision: Precision = "float32"
    io: Literal["float32", "int8", "uint8"] = "float32"
    batch: int | None = None
    keep_float: tuple[str, ...] = ()


@WRITERS.register("openvino")
class OpenvinoWriter:
    """Writes .xml and .bin from a float32 .tflite artifact or an .onnx one, without TensorFlow."""

    consumes: ClassVar[tuple[str, ...]] = ("tflite", "onnx")
    produces: ClassVar[str] = "openvino"
    suffix: ClassVar[str] = ".xml"
    warm_up: ClassVar[str] = "edgewright.converters.openvino_file:warm_up"
    Options: ClassVar[type[OpenvinoOptions]] = OpenvinoOptions

    def __init__(self, options: OpenvinoOptions) -> None:
        if options.precision == "int16x8":
            raise UnsupportedError("OpenVINO has no int16x8 precision", hint="use --precision int8 or float16, or --to tflite")
        if options.precision not in PRECISIONS:
            raise UsageError(f"unknown precision '{options.precision}'", hint=f"one of: {', '.join(PRECISIONS)}")
        if options.io not in {"float32", "int8", "uint8"} or (options.io != "float32" and options.precision != "int8"):
            raise UsageError(
                f"--io {options.io} does not go with --precision {options.precision} in an OpenVINO model",
                hint="use --io float32, or --precision int8 with --io float32, int8 or uint8",
            )
        check_mixed(options)
        self.options = options

    def needs_samples(self) -> bool:
        """Integer activations need calibration."""
        return self.options.precision == "int8"

    def claims(self) -> tuple[Claim, ...]:
        """Stored bits of the kernels, dtype of inputs and outputs; some ops stay float by design and are named."""
        return precision_claims(self.options)

    def apply(self, model: Artifact, ctx: StepContext) -> Artifact:
        """Write `ctx.out` and the .bin beside it; see `Step.apply`."""
        if self.options.precision == "dynamic":
            ctx.warnings.append("OpenVINO has no dynamic range quantization: weights are int8, computation stays float")
        return export(self, self.options, "edgewright.converters.openvino_file:write_ir", ("openvino", "nncf"), model, ctx)
